/*
 * What a dead worker left, put right before the threads start (main thread):
 * jobs that are not settled are scheduled again, in order; those that were
 * running count as waiting, their attempts stay counted, unless they may be
 * attempted only once: these are lost.  Deferred ones run on.  Slots are given
 * back to the jobs they hold, or freed; files nobody wants go.  SUBMITTED
 * slots and the rings are the drain's, as always.
 *
 * Killed in here, it starts anew the next time: each step can be repeated.
 */

#include "offloadd.h"

#include <errno.h>
#include <string.h>


#define RECOVER_WAIT_MAX_MS   (3600ull * 1000)


static const struct {
    const char  *counted;
    const char  *written;
} recover_names[STORE_STATES] = {
    { NULL, NULL },
    { "queued", "queued_before" },
    { "running", "running_before" },
    { "completed", "completed_before" },
    { "failed", "failed_before" },
    { "canceled", "canceled_before" },
    { "expired", "expired_before" },
};


struct recover_ctx {
    struct offloadd  *daemon;
    uint64_t          now_ms;
    uint64_t          jobs;
    uint64_t          attempted;
    uint64_t          deferred;
    uint64_t          lost;
};


/*
 * A backoff is not longer than an hour, a delay not than it was when the job
 * came, however the clock was set meanwhile.
 */

static uint64_t
recover_wait(const struct recover_ctx *ctx, const struct store_job *row)
{
    uint64_t  wait, most;

    wait = row->not_before_ms - ctx->now_ms;
    most = row->attempts || row->not_before_ms < row->created_ms
           ? RECOVER_WAIT_MAX_MS : row->not_before_ms - row->created_ms;

    return wait < most ? wait : most;
}


static int
recover_job(void *data, uint64_t seq, const struct store_job *row)
{
    uint32_t             i;
    uint64_t             wait;
    struct job          *job;
    struct sched        *s;
    struct log_line      l;
    struct recover_ctx  *ctx = data;

    s = &ctx->daemon->sched;

    /* it was running, or handed back: to its rate it is as if it began now */

    if (row->attempts && row->not_before_ms == 0) {
        queues_find(&s->queues, row->queue)->restarted++;
    }

    if (row->state == STORE_FAILED) {
        ctx->lost++;

        if (log_begin(&l, LOG_WARN, "settled")) {
            log_id(&l, "job", row->id);
            log_uint(&l, "attempt", row->attempts);
            log_str(&l, "state", "failed");
            log_str(&l, "error", "lost");
            log_end(&l);
        }

        return 0;
    }

    i = job_add(&s->table, seq, row->id);
    if (i == JOB_NONE) {
        return -1;
    }

    job = job_at(&s->table, i);
    job->retries = row->strikes;
    job->fair = row->fair;
    job->queue = row->queue;
    job->size = job_size(row->body_size);
    job->priority = row->priority < FAIR_LEVELS ? row->priority
                                                : FAIR_LEVELS - 1;

    if (deadline_add(ctx->daemon, seq, row->deadline_ms) != 0) {
        return -1;
    }

    ctx->jobs++;
    ctx->attempted += row->attempts > 0;

    if (row->state == STORE_RUNNING) {          /* and not by us */
        wait = row->not_before_ms > ctx->now_ms
               ? row->not_before_ms - ctx->now_ms : 0;

        if (wait > row->timeout_s * 1000ull) {
            wait = row->timeout_s * 1000ull;
        }

        ctx->deferred++;

        return defer_add(ctx->daemon, i, row->attempts, mono_ms() + wait);
    }

    if (row->not_before_ms > ctx->now_ms) {
        return queues_push_at(&s->queues, &s->table, i,
                              mono_us() + recover_wait(ctx, row) * 1000);
    }

    return queues_push(&s->queues, &s->table, i);
}


static int
recover_queue(void *data, const struct store_queue *row)
{
    uint64_t             now, unix_us;
    struct recover_ctx  *ctx = data;

    now = mono_us();
    unix_us = ctx->now_ms * 1000;

    return queues_restore(&ctx->daemon->sched.queues, row->hash, row->flags,
                          row->tat_us > unix_us ? now + row->tat_us - unix_us
                                                : now, now);
}


/* As it counts now, should the next kill come before anything begins. */

static int
recover_rates(struct offloadd *d, struct engine_error *e)
{
    uint32_t            i;
    uint64_t            now;
    struct queue       *q;
    struct queues      *qs = &d->sched.queues;
    struct store_queue  row;

    now = mono_us();
    queues_restarted(qs, now);

    if (d->store.engine->begin(d->store.self, e) != 0) {
        return -1;
    }

    for (i = 0; i < qs->n; i++) {
        q = qs->queue[i];

        if (q == NULL || q->restarted == 0 || q->rate.interval == 0) {
            continue;
        }

        row.hash = q->hash;
        row.flags = 0;                          /* these are there */
        row.tat_us = (clock_ms() + 1) * 1000 + rate_plan(&q->rate, now) - now;

        if (d->store.engine->put_queue(d->store.self, &row, e) != 0) {
            d->store.engine->abort(d->store.self);
            return -1;
        }
    }

    return d->store.engine->commit(d->store.self, e);
}


/* Which job does a slot hold?  By id: the slot's own seq may be of before. */

static uint32_t
recover_find(struct offloadd *d, const uint8_t *id, uint64_t seq)
{
    uint32_t  i;

    i = job_find(&d->sched.table, seq);

    if (i == JOB_NONE
        || memcmp(job_at(&d->sched.table, i)->id, id, ZONE_ID_SIZE) != 0)
    {
        return JOB_NONE;
    }

    return i;
}


static void
recover_slot(struct offloadd *d, uint32_t lane, uint32_t n, uint64_t *freed)
{
    uint32_t           i, state, l, slot;
    struct zone_job    job;
    struct zone_slot  *s;

    s = zone_slot(&d->zone, lane, n);
    state = atomic_load_explicit(&s->state, memory_order_acquire);

    if (state == ZONE_SLOT_FREE || state == ZONE_SLOT_SUBMITTED) {
        return;
    }

    memcpy(&job, &s->job, sizeof(job));         /* we are its only writer */
    zone_id_hint(job.id, &l, &slot);

    i = l == lane && slot == n ? recover_find(d, job.id, job.seq) : JOB_NONE;

    /* one that is deferred may have progress, see report_progress() */

    if (i == JOB_NONE
        || job_at(&d->sched.table, i)->place == JOB_DEFERRED)
    {
        zone_slot_free(&d->zone, lane, n);
        ++*freed;
        return;
    }

    job_at(&d->sched.table, i)->has_slot = 1;

    if (state != ZONE_SLOT_QUEUED) {
        zone_slot_write(&d->zone, lane, n, &job, ZONE_SLOT_QUEUED);
    }
}


/*
 * The counters are held against the rows.  Afterwards they say what the rows
 * say; what was accepted and is in no row is said here, and stays visible.
 */

static int
recover_counters(struct offloadd *d, struct engine_error *e)
{
    int                    i;
    char                   text[32];
    struct log_line        l;
    struct store_counters  was, now;

    if (d->store.engine->recount(d->store.self, &was, &now, e) != 0) {
        return -1;
    }

    if (store_drift(&now) == 0 && memcmp(&was, &now, sizeof(was)) == 0) {
        return 0;
    }

    if (!log_begin(&l, LOG_ERROR, "the store has not the jobs it should")) {
        return 0;
    }

    (void) snprintf(text, sizeof(text), "%lld",
                    (long long) store_drift(&now));
    log_str(&l, "drift", text);
    log_uint(&l, "accepted", now.accepted);

    for (i = STORE_QUEUED; i < STORE_STATES; i++) {
        log_uint(&l, recover_names[i].counted, now.jobs[i]);

        if (was.jobs[i] != now.jobs[i]) {
            log_uint(&l, recover_names[i].written, was.jobs[i]);
        }
    }

    log_end(&l);

    return 0;
}


int
recover(struct offloadd *d, struct engine_error *e)
{
    uint32_t            lane, i;
    uint64_t            freed;
    struct log_line     l;
    struct recover_ctx  ctx;

    memset(&ctx, 0, sizeof(ctx));
    ctx.daemon = d;
    ctx.now_ms = clock_ms();

    if (recover_counters(d, e) != 0 || rings_init(&d->store, e) != 0
        || d->store.engine->get_hold(d->store.self, &d->control.hold, e) != 0)
    {
        return -1;
    }

    e->err = ENOMEM;
    (void) snprintf(e->text, sizeof(e->text), "no memory for the jobs in the "
                    "store");

    if (!ZONE_MUTANT("claim.recover")
        && claims_recover(&d->store, e) != 0)
    {
        return -1;
    }

    ZONE_FAILPOINT("recover.claims");

    if (d->store.engine->queues(d->store.self, recover_queue, &ctx, e) != 0
        || d->store.engine->recover(d->store.self, recover_job, &ctx, e) != 0)
    {
        return -1;
    }

    if (recover_rates(d, e) != 0) {
        return -1;
    }

    ZONE_FAILPOINT("recover.jobs");

    freed = 0;

    for (lane = 0; lane < d->zone.geo.lanes; lane++) {

        if (ZONE_MUTANT("recover.slots")) {
            break;
        }

        for (i = 0; i < d->zone.geo.slots; i++) {
            recover_slot(d, lane, i, &freed);
        }
    }

    ZONE_FAILPOINT("recover.slots");

    files_sweep(&d->store, 1);

    atomic_store_explicit(&d->zone.worker->next_seq,
                          d->store.engine->next_seq(d->store.self),
                          memory_order_relaxed);

    if (log_begin(&l, ctx.jobs || ctx.lost ? LOG_NOTICE : LOG_INFO,
                  "recovered"))
    {
        log_uint(&l, "jobs", ctx.jobs);
        log_uint(&l, "attempted_before", ctx.attempted);
        log_uint(&l, "deferred", ctx.deferred);
        log_uint(&l, "lost", ctx.lost);
        log_uint(&l, "slots_freed", freed);
        log_end(&l);
    }

    return 0;
}
