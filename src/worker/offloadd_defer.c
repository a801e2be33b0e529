/*
 * Jobs that their backends settle later, and what backends tell of any job
 * that runs.  Loop thread (main, in recovery).
 *
 * An attempt that was answered "202, Offload-Defer: 1" is over, but its job
 * runs on: it counts as running, has no connection and no attempt, and waits
 * in a heap for its deadline, which is the attempt's.  The store has settled
 * it when the loop hears of the result that was put.
 *
 * All here is memory.  After a kill the row says DEFERRED and until when.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


/* The attempt's answer says that the result is to come. */

void
attempt_defer(struct offloadd *d, struct attempt *a)
{
    a->result.finished = 0;                     /* its body is no result */
    a->stage = ATTEMPT_ENDING;
    a->op.type = STORE_OP_DEFER;
    a->op.row.not_before_ms = clock_ms() - a->service_us / 1000
                              + a->op.row.timeout_s * 1000ull;

    loop_submit(d, &a->op);
}


/* DEFER is committed; the attempt itself goes. */

void
attempt_deferred(struct offloadd *d, struct attempt *a)
{
    struct log_line  l;

    if (log_begin(&l, LOG_INFO, "deferred")) {
        log_id(&l, "job", a->op.row.id);
        log_uint(&l, "attempt", a->op.row.attempts);
        log_uint(&l, "service_ms", a->service_us / 1000);
        log_end(&l);
    }

    (void) defer_add(d, a->job, a->op.row.attempts,
                     a->started_us / 1000 + a->op.row.timeout_s * 1000ull);
}


int
defer_add(struct offloadd *d, uint32_t i, uint32_t attempts, uint64_t at)
{
    struct job    *job;
    struct sched  *s = &d->sched;

    job = job_at(&s->table, i);
    job->place = JOB_FREE;

    if (job_heap_push(&s->deferred, &s->table, at, i) != 0) {
        log_text(LOG_ERROR, "no memory for another deferred job: the worker "
                 "leaves, to be started again");
        loop_fatal(d);
        return -1;
    }

    job->place = JOB_DEFERRED;
    job->attempts = attempts;
    queues_ran(&s->queues, job->queue);

    return 0;
}


void
defer_take(struct offloadd *d, uint32_t i)
{
    struct job  *job = job_at(&d->sched.table, i);

    if (job->place == JOB_DEFERRED) {
        job_heap_remove(&d->sched.deferred, &d->sched.table, job->heap);
        job->place = JOB_FREE;
        queues_ended(&d->sched.queues, job->queue);
    }
}


/* An attempt of its own settles it: whoever commits first has decided. */

int
defer_overdue(struct offloadd *d, uint32_t i)
{
    uint32_t         attempts;
    struct job      *job;
    struct attempt  *a;

    a = attempt_get(d);
    if (a == NULL) {
        return -1;
    }

    job = job_at(&d->sched.table, i);
    attempts = job->attempts;

    defer_take(d, i);

    job->place = JOB_ATTEMPT;
    job->attempt = a;

    memset(&a->op.row, 0, sizeof(a->op.row));
    memcpy(a->op.row.id, job->id, ZONE_ID_SIZE);
    a->op.row.attempts = attempts;
    a->op.seq = job->seq;
    a->job = i;
    a->queue = job->queue;
    a->service_us = 0;
    queues_ran(&d->sched.queues, a->queue);
    a->started_us = 0;                          /* long ago: attempt_stored() */
    attempt_link(d, a);

    (void) snprintf(a->message, sizeof(a->message), "attempt %u was deferred, "
                    "and no result was put in time", attempts);
    attempt_settle(d, a, STORE_ERROR_TIMEOUT);

    return 0;
}


void
defer_due(struct offloadd *d)
{
    uint64_t          now;
    struct job_heap  *h = &d->sched.deferred;

    now = mono_ms();

    while (h->n > 0 && h->entries[0].key <= now
           && defer_overdue(d, h->entries[0].job) == 0)
    {
        /* void */
    }
}


uint64_t
defer_next(const struct offloadd *d)
{
    const struct job_heap  *h = &d->sched.deferred;

    return h->n ? h->entries[0].key : UINT64_MAX;
}


/* After the slot: who reported may look at once. */

static void
report_answer(struct offloadd *d, const struct store_event *ev, uint32_t type)
{
    struct zone_completion  c;

    if (ev->token == 0) {
        return;
    }

    memset(&c, 0, sizeof(c));
    c.token = ev->token;
    c.type = type;
    c.result = ev->result;
    memcpy(c.id, ev->id, ZONE_ID_SIZE);

    loop_answer(d, ev->lane, &c);
}


/*
 * Progress is in the store alone.  The slot of a job that has some is given
 * up, so that there it is looked for.
 */

void
report_progress(struct offloadd *d, const struct store_event *ev)
{
    uint32_t     i;
    struct job  *job;

    i = ev->seq ? job_find(&d->sched.table, ev->seq) : JOB_NONE;

    if (i != JOB_NONE) {
        job = job_at(&d->sched.table, i);

        if (ev->active || job->has_slot) {
            sched_free_slot(d, i);
            watch_changed(d, ev->seq, 0);
        }
    }

    report_answer(d, ev, ZONE_RECORD_PROGRESS);
}


/* What a command said; it may say more. */

void
report_progressed(struct offloadd *d, struct store_op *op)
{
    uint32_t     i;
    struct job  *job;

    i = job_find(&d->sched.table, op->seq);

    if (i != JOB_NONE) {
        job = job_at(&d->sched.table, i);

        if (job->place == JOB_ATTEMPT && job->attempt->exec) {
            job->attempt->exec->telling = 0;
        }

        if (op->result == STORE_OP_DONE) {
            sched_free_slot(d, i);
            watch_changed(d, op->seq, 0);
        }
    }

    free(op);
}


/* The store has the result; an attempt that is under way is of no use. */

void
report_put(struct offloadd *d, const struct store_event *ev)
{
    uint32_t          i;
    struct job       *job;
    struct log_line   l;

    i = ev->seq ? job_find(&d->sched.table, ev->seq) : JOB_NONE;

    if (i != JOB_NONE) {
        job = job_at(&d->sched.table, i);

        if (log_begin(&l, LOG_INFO, "settled")) {
            log_id(&l, "job", ev->id);
            log_str(&l, "state", ev->failed ? "failed" : "completed");
            log_str(&l, "by", "put");
            log_end(&l);
        }

        if (ev->service_ms) {
            sched_service(d, ev->location, job->queue, ev->service_ms * 1000,
                          ev->service_ms * 1000);
        }

        if (job->place == JOB_ATTEMPT) {
            attempt_cancel(d, job->attempt);
        }

        sched_forget(d, i);
        d->sched.settled++;
    }

    report_answer(d, ev, ZONE_RECORD_PUT);
}
