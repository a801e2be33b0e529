/*
 * Dead letters, as the loop sees them: asked for, driven again, purged.  Loop
 * thread; the store thread does it, and the answer comes back in a batch.
 *
 * A job that is driven again is a waiting job like others once that is
 * committed.  Killed before, it is still a dead letter; after, recovery finds
 * it QUEUED.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


static struct dead_op *
dead_new(uint32_t type, dead_done done, void *ctx)
{
    struct dead_op  *op;

    op = calloc(1, sizeof(*op));

    if (op) {
        op->op.type = type;
        op->done = done;
        op->ctx = ctx;
    }

    return op;
}


int
dead_submit(struct offloadd *d, uint32_t type, const uint8_t *id,
    dead_done done, void *ctx)
{
    struct dead_op  *op;

    op = dead_new(type, done, ctx);
    if (op == NULL) {
        return -1;
    }

    memcpy(op->op.row.id, id, ZONE_ID_SIZE);
    loop_submit(d, &op->op);

    return 0;
}


int
dead_submit_list(struct offloadd *d, struct dead_list *list, dead_done done,
    void *ctx)
{
    struct dead_op  *op;

    op = dead_new(STORE_OP_LIST, done, ctx);
    if (op == NULL) {
        return -1;
    }

    op->op.list = list;
    loop_submit(d, &op->op);

    return 0;
}


static void
dead_log(const struct store_op *op)
{
    struct log_line  l;

    if (op->result != STORE_OP_DONE || op->type == STORE_OP_SHOW
        || op->type == STORE_OP_LIST)
    {
        return;
    }

    if (log_begin(&l, LOG_NOTICE, op->type == STORE_OP_REDRIVE
                                  ? "driven again" : "purged"))
    {
        log_id(&l, "job", op->row.id);
        log_uint(&l, "attempts", op->row.attempts);
        log_end(&l);
    }
}


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
    job->queue = op->row.queue;
    job->priority = op->row.priority < FAIR_LEVELS ? op->row.priority
                                                   : FAIR_LEVELS - 1;

    sched_requeue(d, i, 0);
    watch_changed(d, op->seq, 0);
}


void
dead_stored(struct offloadd *d, struct store_op *op)
{
    struct dead_op  *dead = (struct dead_op *) op;

    if (op->type == STORE_OP_REDRIVE && op->result == STORE_OP_DONE) {
        dead_redriven(d, op);
    }

    dead_log(op);

    if (dead->done) {
        dead->done(d, dead);
    }

    buf_free(&op->request);
    free(dead);
}
