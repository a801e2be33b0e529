/*
 * A dead letter that is driven again.  Loop thread; the store thread has done
 * it, for the control interface, and it is committed.
 *
 * From then on it is a waiting job like others.  Killed before, it is still a
 * dead letter; after, recovery finds it QUEUED.
 */

#include "offloadd.h"


/*
 * In the store it is QUEUED.  One that was so before, and is here, was no dead
 * letter; one that is not here was made so by a commit that failed and has
 * arrived.
 */

void
dead_redriven(struct offloadd *d, struct store_op *op)
{
    uint32_t     i;
    struct job  *job;

    if (job_find(&d->sched.table, op->seq) != JOB_NONE) {
        op->result = STORE_OP_STALE;
        return;
    }

    i = job_add(&d->sched.table, op->seq, op->row.id);

    if (i == JOB_NONE || deadline_add(d, op->seq, op->row.deadline_ms) != 0) {
        log_text(LOG_ERROR, "no memory for another job: the worker leaves, "
                 "to be started again");
        loop_fatal(d);
        return;
    }

    job = job_at(&d->sched.table, i);
    job->fair = op->row.fair;
    job->size = job_size(op->row.body_size);
    job->queue = op->row.queue;
    job->priority = op->row.priority < FAIR_LEVELS ? op->row.priority
                                                   : FAIR_LEVELS - 1;

    sched_requeue(d, i, 0);
    watch_changed(d, op->seq, 0);
}
