/*
 * The store thread: it alone calls the engine, reads the SQs and posts to the
 * CQs.  One round is one transaction: new records of all lanes and the
 * operations the loop asked for, committed together (group commit).
 *
 * Order is everything here.  Commit first; then slots, then the rings' heads,
 * then answers, then the batch to the loop.  A kill before the commit leaves
 * the records in the rings; after it, records whose ids the store knows.  An
 * engine that fails leaves everything where it was, to be tried again.
 */

#include "offloadd.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>


#define STORE_TICK_MS         1000
#define STORE_UPKEEP_MS       10000
#define STORE_SWEEP_MS        3600000
#define STORE_ERROR_LOG_MS    10000
#define STORE_RETRY_MAX_MS    2000
#define STORE_OPS_MAX         4096              /* in a transaction */
#define STORE_EXPIRE_MAX      512               /* jobs in a transaction */


static void store_read(struct store *s);
static int store_round(struct store *s);
static int store_fill(struct store *s, struct store_batch *b,
    struct engine_error *e);
static int store_expire(struct store *s, struct engine_error *e);
static int store_apply(struct store *s, struct store_op *op,
    struct engine_error *e);
static void store_committed(struct store *s, struct store_batch *b);
static void store_took(struct store *s, uint64_t us);
static void store_rotate(struct store *s);
static void store_upkeep(struct store *s);
static void store_wait(struct store *s);


void *
store_main(void *arg)
{
    int            stop, worked;
    struct store  *s = arg;

    s->last_sweep = mono_ms();

    for ( ;; ) {
        stop = store_take_ops(s);
        store_read(s);
        worked = mono_ms() >= s->retry_at && store_round(s);

        if (stop && (s->todo == NULL || s->failures)) {
            return NULL;                        /* whatever the rings hold */
        }

        store_upkeep(s);

        if (!worked) {
            store_wait(s);
        }
    }
}


/* What the control interface wants to know. */

static void
store_read(struct store *s)
{
    struct store_op      *op;
    struct store_batch   *b;
    struct engine_error   e;

    if (s->reading == NULL) {
        return;
    }

    b = calloc(1, sizeof(*b));
    if (b == NULL) {
        return;                                 /* its client has a timeout */
    }

    for (op = s->reading; op; op = op->next) {
        if (control_op_apply(s, op, &e) != 0) {
            log_text(LOG_WARN, "control: %.300s", e.text);
        }
    }

    b->ops = s->reading;
    s->reading = NULL;
    store_give(s, b);
}


/* One transaction, if there is anything to do: 1 if there was. */

static int
store_round(struct store *s)
{
    int                  rc;
    uint64_t             now, started;
    struct store_batch  *b;
    struct engine_error  e;

    now = clock_ms();

    if (s->todo == NULL && s->engine->first_expiry(s->self) > now
        && s->failures == 0                     /* else: does it work again? */
        && (mono_ms() < s->full_until || !drain_pending(s)))
    {
        return 0;
    }

    b = calloc(1, sizeof(*b));
    if (b == NULL) {
        memset(&e, 0, sizeof(e));
        e.err = ENOMEM;
        (void) snprintf(e.text, sizeof(e.text), "no memory for a batch");
        store_failed(s, &e);
        return 0;
    }

    memset(&e, 0, sizeof(e));

    started = mono_us();
    rc = s->engine->begin(s->self, &e);

    if (rc == 0) {
        rc = store_fill(s, b, &e);

        if (rc == 0) {
            rc = files_sync_names(s, &e);
        }

        if (rc == 0) {
            ZONE_FAILPOINT("store.before-commit");
            rc = s->engine->commit(s->self, &e);

        } else {
            s->engine->abort(s->self);
        }
    }

    if (rc != 0) {
        drain_undo(s);
        store_batch_free(b);
        store_failed(s, &e);
        store_rotate(s);
        return 0;
    }

    store_took(s, mono_us() - started);

    if (claims_committed(s) != 0) {
        drain_undo(s);                          /* stopping: as if killed */
        store_batch_free(b);
        return 0;
    }

    store_committed(s, b);

    return 1;
}


/*
 * Operations and expiry come first: they free room that new jobs take.  When
 * there is no room the new ones stay in their rings, and nginx refuses more.
 *
 * After a failure a transaction takes one operation or, if there is none, one
 * record: what is small may go through, and what can not go through holds up
 * nothing else.
 */

static int
store_fill(struct store *s, struct store_batch *b, struct engine_error *e)
{
    uint32_t  n, most;

    if (s->unsure && claims_review(s, e) != 0) {
        return -1;
    }

    most = s->failures ? 1 : STORE_OPS_MAX;
    s->applied = &s->todo;

    for (n = 0; *s->applied && n < most; n++) {
        if (store_apply(s, *s->applied, e) != 0) {
            return -1;
        }

        s->applied = &(*s->applied)->next;
    }

    if (store_expire(s, e) != 0) {
        return -1;
    }

    if (s->failures == 0) {
        most = UINT32_MAX;

    } else if (n > 0) {
        most = 0;
    }

    if (most > 0 && drain_read(s, most, e) == -1) {
        return -1;
    }

    if (rings_drained(s, e) == -1) {
        return -1;
    }

    if (store_batch_reserve(b, s->nitems) != 0) {
        e->err = ENOMEM;
        (void) snprintf(e->text, sizeof(e->text),
                        "no memory for a batch of %u", s->nitems);
        return -1;
    }

    return 0;
}


static int
store_expire(struct store *s, struct engine_error *e)
{
    int       n;
    uint64_t  now = clock_ms();

    if (s->engine->first_expiry(s->self) > now) {
        return 0;
    }

    ZONE_FAILPOINT("expire.before-commit");

    n = s->engine->expire(s->self, now, atomic_load(&s->tombstone_ms),
                          s->failures ? 1 : STORE_EXPIRE_MAX, e);

    if (n > 0) {
        log_text(LOG_DEBUG, "%d jobs expired", n);
    }

    return n == -1 ? -1 : 0;
}


static int
store_apply(struct store *s, struct store_op *op, struct engine_error *e)
{
    int       rc;
    uint64_t  ttl;

    switch (op->type) {

    case STORE_OP_START:
        ZONE_FAILPOINT("attempt.before-commit");
        rc = s->engine->start(s->self, op, clock_ms(), e);
        break;

    case STORE_OP_SETTLE:
        ZONE_FAILPOINT("settle.before-commit");

        if (s->durable && op->headers && op->body == NULL
            && files_sync_result(s, op, e) != 0)
        {
            return -1;
        }

        ttl = store_ttl_ms(&op->row, atomic_load(&s->ttl_ms));

        /* a dead letter is not kept for less than others */

        if ((op->row.flags & STORE_DEAD) && op->dead_ttl_ms > ttl) {
            ttl = op->dead_ttl_ms;
        }

        op->row.expires_ms = op->row.finished_ms + ttl;
        rc = s->engine->settle(s->self, op, e);
        break;

    case STORE_OP_REQUEUE:
        ZONE_FAILPOINT("requeue.before-commit");
        rc = s->engine->requeue(s->self, op, e);
        break;

    case STORE_OP_DEFER:
        ZONE_FAILPOINT("defer.before-commit");
        rc = s->engine->defer(s->self, op, e);
        break;
    case STORE_OP_HOOK:
        ZONE_FAILPOINT("hook.before-commit");
        rc = s->engine->hook_done(s->self, op->seq, op->hook, e);
        break;

    case STORE_OP_HOOKS:
        rc = s->engine->hooks_due(s->self, op->hooks, e);
        break;

    case STORE_OP_CONTROL:
        return control_op_apply(s, op, e);

    case STORE_OP_OVERDUE:
        ZONE_FAILPOINT("overdue.before-commit");
        rc = s->engine->overdue(s->self, op, atomic_load(&s->ttl_ms),
                                clock_ms(), e);
        break;

    case STORE_OP_PROGRESS:
        rc = report_apply(s, op, e);
        break;

    case STORE_OP_QUEUE:
        rc = 0;
        break;

    default:                                    /* STORE_OP_ANSWER */
        op->result = STORE_OP_DONE;
        return 0;
    }

    if (rc == -1 || (op->has_queue
                     && s->engine->put_queue(s->self, &op->queue, e) != 0))
    {
        return -1;
    }

    if (rc == ENGINE_STALE) {
        op->result = STORE_OP_STALE;

    } else if (rc == ENGINE_NOT_FOUND) {
        op->result = STORE_OP_LOST;

    } else {
        op->result = STORE_OP_DONE;
    }

    return 0;
}


#ifdef OFFLOAD_FAILPOINTS

static void
store_failpoints(struct store *s)
{
    struct store_op  **link;

    for (link = &s->todo; link != s->applied; link = &(*link)->next) {
        switch ((*link)->type) {
        case STORE_OP_START:
            ZONE_FAILPOINT("attempt.after-commit");
            break;
        case STORE_OP_SETTLE:
            ZONE_FAILPOINT("settle.after-commit");
            break;
        case STORE_OP_REQUEUE:
            ZONE_FAILPOINT("requeue.after-commit");
            break;
        case STORE_OP_DEFER:
            ZONE_FAILPOINT("defer.after-commit");
            break;
        case STORE_OP_CONTROL:
            ZONE_FAILPOINT("control.after-commit");
            break;
        case STORE_OP_OVERDUE:
            ZONE_FAILPOINT("overdue.after-commit");
            break;
        case STORE_OP_HOOK:
            ZONE_FAILPOINT("hook.after-commit");
            break;
        default:
            break;
        }
    }
}

#else

#define store_failpoints(s)

#endif


static void
store_committed(struct store *s, struct store_batch *b)
{
    struct store_op  *op, **link;

    s->failures = 0;
    s->unsure = 0;
    s->retry_at = 0;
    atomic_fetch_and(&s->daemon->zone.worker->refusing,
                     ~(uint32_t) ZONE_REFUSING_FAILED);

    store_failpoints(s);
    atomic_store(&s->hooks_filed, s->engine->hooks_filed(s->self));

    drain_finish(s, b);

    /* what was applied leaves the list, to the loop or as an answer */

    link = &b->ops;

    while (s->applied != &s->todo) {
        op = s->todo;

        if (s->applied == &op->next) {
            s->applied = &s->todo;
        }

        s->todo = op->next;
        op->next = NULL;

        if (op->type == STORE_OP_ANSWER) {
            answer_post(s, op->lane, &op->answer);
            free(op);

        } else {
            *link = op;
            link = &op->next;
        }
    }

    if (s->todo == NULL) {
        s->todo_last = &s->todo;
    }

    answer_bells(s);

    if (b->ops == NULL && b->n == 0) {
        store_batch_free(b);
        return;
    }

    store_give(s, b);
}


/* From the first record read until all of them were on the disk. */

static void
store_took(struct store *s, uint64_t us)
{
    uint32_t             smoothed;
    struct zone_worker  *w = s->daemon->zone.worker;

    smoothed = atomic_load_explicit(&w->commit_us, memory_order_relaxed);
    us = us < UINT32_MAX / 16 ? us : UINT32_MAX / 16;

    smoothed = smoothed ? (uint32_t) ((smoothed * 15ull + us + 15) / 16)
                        : (uint32_t) us;

    atomic_store_explicit(&w->commit_us, smoothed, memory_order_relaxed);
}


/* The operation that failed goes behind the others. */

static void
store_rotate(struct store *s)
{
    struct store_op  *op = s->todo;

    if (op == NULL || op->next == NULL) {
        return;
    }

    s->todo = op->next;
    op->next = NULL;
    *s->todo_last = op;
    s->todo_last = &op->next;
}


/* 20 ms, 40 ms, ... 2 s; said at once and then each 10 s. */

void
store_failed(struct store *s, const struct engine_error *e)
{
    uint64_t         now, pause;
    struct log_line  l;

    now = mono_ms();
    pause = s->failures < 7 ? 20ull << s->failures : STORE_RETRY_MAX_MS;

    s->failures++;
    s->failed++;
    s->unsure = 1;
    s->failed_at = now;
    s->retry_at = now + pause;

    if ((s->failed == 1 || now - s->error_logged >= STORE_ERROR_LOG_MS)
        && log_begin(&l, LOG_ERROR, "the store failed; everything is kept "
                                    "and tried again"))
    {
        log_str(&l, "error", e->text);
        log_uint(&l, "failures", s->failed);
        log_end(&l);
        s->error_logged = now;
    }

    atomic_fetch_or(&s->daemon->zone.worker->refusing, ZONE_REFUSING_FAILED);

    claims_refuse(s, ZONE_FAILED, e->uncertain);
}


static void
store_upkeep(struct store *s)
{
    uint64_t  now = mono_ms();

    if (s->failed && s->failures == 0
        && now - s->failed_at >= STORE_RETRY_MAX_MS)
    {
        log_text(LOG_NOTICE, "the store works again, after %u failures",
                 s->failed);
        s->failed = 0;
    }

    if (s->full && s->failures == 0 && now >= s->full_until) {
        drain_look(s);
    }

    if (s->npending && now - s->last_pending >= STORE_TICK_MS / 10) {
        s->last_pending = now;
        answer_retry(s);
    }

    if (now - s->last_upkeep >= STORE_UPKEEP_MS) {
        s->last_upkeep = now;
        s->engine->upkeep(s->self);
    }

    if (now - s->last_sweep >= STORE_SWEEP_MS) {
        s->last_sweep = now;
        files_sweep(s, 0);
    }
}


/*
 * The flags first, then a last look, then sleep: whoever publishes after the
 * look finds a flag and rings.
 */

static void
store_wait(struct store *s)
{
    int            timeout, idle;
    uint64_t       now, at, count;
    struct pollfd  fds[2];

    zone_sleep_arm(&s->daemon->zone.worker->sleeping);
    zone_sleep_arm(&s->store_sleeping);

    pthread_mutex_lock(&s->mutex);
    idle = s->ops == NULL && s->reads == NULL && !s->stop;
    pthread_mutex_unlock(&s->mutex);

    now = mono_ms();
    timeout = STORE_TICK_MS;

    if (s->retry_at > now) {
        timeout = (int) (s->retry_at - now);
        idle = 1;

    } else if (s->full_until > now) {
        timeout = (int) (s->full_until - now);

    } else if (s->todo || drain_pending(s)) {
        idle = 0;
    }

    if (s->npending && timeout > STORE_TICK_MS / 10) {
        timeout = STORE_TICK_MS / 10;
    }

    if (idle) {
        at = s->engine->first_expiry(s->self);
        now = clock_ms();

        if (s->failures == 0 && at < now + (uint64_t) timeout) {
            timeout = at > now ? (int) (at - now) : 0;
        }

        fds[0].fd = s->wake;
        fds[0].events = POLLIN;
        fds[1].fd = s->store_event;
        fds[1].events = POLLIN;

        if (poll(fds, 2, timeout) > 0) {
            if (fds[0].revents) {
                zone_wake_drain(s->wake);
            }

            if (fds[1].revents) {
                (void) !read(s->store_event, &count, sizeof(count));
            }
        }
    }

    zone_sleep_disarm(&s->daemon->zone.worker->sleeping);
    zone_sleep_disarm(&s->store_sleeping);
}
