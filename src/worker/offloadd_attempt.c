/*
 * The life of one attempt: START is committed, the request is replayed, and
 * what comes of it is committed as SETTLE or REQUEUE.  Loop thread.
 *
 *      starting --committed--> replaying --ended--> ending --committed--> gone
 *
 * An answer may also say that the result is to come: see offloadd_defer.c.
 *
 * A backend may have worked as soon as something was sent.  So "could not be
 * reached" and "nginx refused" are tried again without end but for an
 * entrance that is gone; "cut off" counts as a strike, of which a job has
 * five; one that is too large is final; for a timeout and a bad answer see
 * offloadd_failed.c.  A job with at-most-once delivery is lost as soon as
 * something was sent and there is no answer.
 *
 * Killed in between, the row is RUNNING and recovery queues the job again, or
 * says that it is lost.
 */

#include "offloadd.h"

#include <errno.h>
#include <string.h>


#define ATTEMPT_DISK_MS       2000ull


static int attempt_outcome(struct attempt *a, int code);
static void attempt_not_stored(struct offloadd *d, struct attempt *a);
static void attempt_unreached(struct offloadd *d, struct attempt *a);
static void attempt_cut_off(struct offloadd *d, struct attempt *a);
static int attempt_lost(struct offloadd *d, struct attempt *a,
    const char *reason);
static void attempt_answered(struct offloadd *d, struct attempt *a);


/* The job has left its queue, which knows of it. */

void
attempt_begin(struct offloadd *d, struct attempt *a, uint32_t i, int probe)
{
    struct job  *job;

    job = job_at(&d->sched.table, i);
    job->place = JOB_ATTEMPT;
    job->attempt = a;

    a->job = i;
    a->stage = ATTEMPT_STARTING;
    a->op.type = STORE_OP_START;
    a->op.seq = job->seq;
    a->queue = job->queue;
    a->reserved = a->bulk == NULL;
    a->probe = probe != 0;
    attempt_link(d, a);
    sched_put_queue(d, a);

    loop_submit(d, &a->op);
}


const struct executor *
attempt_executor(struct offloadd *d, const struct attempt *a)
{
    const struct queue_policy  *conf;

    conf = &queues_find(&d->sched.queues, a->queue)->conf;

    return conf->exec ? &executor_exec
           : conf->pass ? &executor_pass : &executor_replay;
}


void
attempt_started(struct offloadd *d, struct attempt *a)
{
    a->stage = ATTEMPT_REPLAYING;
    a->started_us = mono_us();
    a->service_us = 0;
    a->result.attempt = a->op.row.attempts;
    a->message[0] = '\0';
    sched_sent(d, a);

    sched_write_slot(d, a->job, ZONE_SLOT_RUNNING, &a->op.row);

    if (attempt_overdue(d, a)) {
        return;
    }

    if (a->op.result == STORE_OP_LOST) {
        (void) snprintf(a->message, sizeof(a->message),
                        "the request is not in the store");
        attempt_settle(d, a, STORE_ERROR_REQUEST);
        return;
    }

    if (d->loop.stop == LOOP_HAND_BACK) {
        attempt_requeue(d, a, NULL, 0);
        return;
    }

    a->executor = a->bulk ? &executor_bulk : attempt_executor(d, a);

    if (a->executor->start(d, a) != 0) {
        attempt_ended(d, a, EXECUTOR_UNBEGUN);
    }
}


void
attempt_ended(struct offloadd *d, struct attempt *a, int code)
{
    int  outcome;

    a->service_us = mono_us() - a->started_us;
    outcome = attempt_outcome(a, code);

    (void) snprintf(a->message, sizeof(a->message), "%s",
                    a->executor->reason(a, code));

    a->executor->stop(d, a);
    sched_attempt_ended(d, a, outcome);

    if (a->carries) {
        bulk_ended(d, a->carries, outcome);

    } else {
        attempt_concluded(d, a, outcome);
    }
}


static int
attempt_outcome(struct attempt *a, int code)
{
    int  outcome;

    outcome = a->executor->outcome(a, code);

    if (outcome != REPLAY_ANSWERED) {
        return outcome;
    }

    return result_finish(&a->result, a->op.row.http_status) != 0
           ? REPLAY_NOT_STORED
           : a->result.refused ? REPLAY_REFUSED : REPLAY_ANSWERED;
}


void
attempt_concluded(struct offloadd *d, struct attempt *a, int outcome)
{
    switch (outcome) {

    case REPLAY_ANSWERED:
        attempt_answered(d, a);
        break;

    case REPLAY_REFUSED:
        attempt_requeue(d, a, "nginx has no connection to spare",
                        UINT64_MAX);
        break;

    case REPLAY_UNREACHED:
        attempt_unreached(d, a);
        break;

    case REPLAY_CUT_OFF:
        attempt_cut_off(d, a);
        break;

    case REPLAY_TIMEOUT:
        attempt_failed(d, a, RETRY_END_TIMEOUT);
        break;

    case REPLAY_NOT_STORED:
        attempt_not_stored(d, a);
        break;

    case REPLAY_BUSY:
        attempt_requeue(d, a, a->message, UINT64_MAX);
        break;

    case REPLAY_CONNECT:
        attempt_failed(d, a, RETRY_END_CONNECT);
        break;

    case REPLAY_EXEC_AGAIN:
        attempt_failed(d, a, RETRY_END_EXEC);
        break;

    case REPLAY_EXEC_FAILED:
        attempt_settle(d, a, STORE_ERROR_EXEC);
        break;

    case REPLAY_NO_ITEM:
        attempt_settle(d, a, STORE_ERROR_ITEM);
        break;

    case REPLAY_BAD_BATCH:
        attempt_settle(d, a, STORE_ERROR_BATCH);
        break;

    case REPLAY_TOO_LARGE:
        (void) snprintf(a->message, sizeof(a->message), "the answer is larger "
                        "than %llu bytes", (unsigned long long) a->result.max);
        attempt_settle(d, a, STORE_ERROR_TOO_LARGE);
        break;

    default:
        (void) snprintf(a->message, sizeof(a->message), "the request's body "
                        "is lost: its file is gone or of another size");
        attempt_settle(d, a, STORE_ERROR_REQUEST);
        break;
    }
}


static void
attempt_answered(struct offloadd *d, struct attempt *a)
{
    if (a->op.row.http_status == 202 && a->result.deferred) {
        attempt_defer(d, a);
        return;
    }

    if (a->op.row.http_status < 400) {
        a->message[0] = '\0';
        attempt_settle(d, a, STORE_ERROR_NONE);
        return;
    }

    attempt_failed(d, a, a->result.upstream);
}


/*
 * A disk that is full has room again some day, and the job is worth another
 * attempt then; but each is work for the backend: 2 s, 8 s, 32 s, 2 minutes.
 */

static void
attempt_not_stored(struct offloadd *d, struct attempt *a)
{
    char  text[CURL_ERROR_SIZE];

    (void) snprintf(text, sizeof(text), "the answer could not be kept: %s",
                    a->result.too_large ? "its header is over 64 KB"
                                        : strerror(a->result.err));

    if (a->result.too_large || (a->op.row.flags & STORE_AT_MOST_ONCE)
        || ++a->op.row.strikes >= ATTEMPT_STRIKES)
    {
        (void) snprintf(a->message, sizeof(a->message), "%s", text);
        attempt_settle(d, a, STORE_ERROR_RESULT);
        return;
    }

    attempt_requeue(d, a, text, ATTEMPT_DISK_MS << 2 * (a->op.row.strikes - 1));
}


/* Nothing was sent.  While nginx is down, that is no wonder. */

static void
attempt_unreached(struct offloadd *d, struct attempt *a)
{
    int          err;
    char         text[CURL_ERROR_SIZE];
    struct job  *job;

    job = job_at(&d->sched.table, a->job);
    err = a->replay.connect_errno;

    (void) snprintf(text, sizeof(text), "connect to nginx: %.200s",
                    a->message);

    if ((err == ENOENT || err == ECONNREFUSED) && loop_held(d)
        && ++job->unreachable >= ATTEMPT_UNREACHABLE)
    {
        (void) snprintf(a->message, sizeof(a->message), "nginx's replay "
                        "entrance was unreachable %d times: %s",
                        ATTEMPT_UNREACHABLE, text);
        attempt_settle(d, a, STORE_ERROR_UNREACHABLE);
        return;
    }

    attempt_requeue(d, a, text, UINT64_MAX);
}


static void
attempt_cut_off(struct offloadd *d, struct attempt *a)
{
    char  text[CURL_ERROR_SIZE];

    (void) snprintf(text, sizeof(text), "%.255s",
                    a->replay.resend ? "the connection was closed"
                                     : a->message);

    job_at(&d->sched.table, a->job)->unreachable = 0;

    if (attempt_lost(d, a, text)) {
        return;
    }

    if (++a->op.row.strikes >= ATTEMPT_STRIKES) {
        (void) snprintf(a->message, sizeof(a->message),
                        "cut off %u times: %s", a->op.row.strikes, text);
        attempt_settle(d, a, STORE_ERROR_CUT_OFF);
        return;
    }

    attempt_requeue(d, a, text, UINT64_MAX);
}


/* 1: what was begun without an answer is not to be repeated. */

static int
attempt_lost(struct offloadd *d, struct attempt *a, const char *reason)
{
    if (!(a->op.row.flags & STORE_AT_MOST_ONCE) || !a->replay.begun
        || ZONE_MUTANT("once.cut-off"))
    {
        return 0;
    }

    (void) snprintf(a->message, sizeof(a->message), "attempt %u was sent, has "
                    "no answer and is not repeated: %s", a->op.row.attempts,
                    reason);
    attempt_settle(d, a, STORE_ERROR_LOST);

    return 1;
}


/* UINT64_MAX: as long as the backoff says. */

void
attempt_requeue(struct offloadd *d, struct attempt *a, const char *reason,
    uint64_t delay_ms)
{
    struct job       *job;
    struct log_line   l;

    job = job_at(&d->sched.table, a->job);

    if (delay_ms == UINT64_MAX) {
        delay_ms = sched_backoff(&d->sched, job->retries);

        if (job->retries < UINT16_MAX) {
            job->retries++;
        }
    }

    if (reason && log_begin(&l, LOG_WARN, "attempt failed")) {
        log_id(&l, "job", job->id);
        log_uint(&l, "attempt", a->op.row.attempts);
        log_str(&l, "reason", reason);
        log_uint(&l, "strikes", a->op.row.strikes);
        log_uint(&l, "failures", a->op.row.failures);
        log_uint(&l, "again_in_ms", delay_ms);
        log_end(&l);
    }

    a->delay_ms = delay_ms;
    a->stage = ATTEMPT_ENDING;
    a->op.type = STORE_OP_REQUEUE;
    a->op.row.not_before_ms = delay_ms ? clock_ms() + delay_ms : 0;
    sched_put_queue(d, a);

    loop_submit(d, &a->op);
}


void
attempt_settle(struct offloadd *d, struct attempt *a, int error)
{
    struct store_op  *op = &a->op;

    a->stage = ATTEMPT_ENDING;

    op->type = STORE_OP_SETTLE;
    op->row.state = error ? STORE_FAILED : STORE_COMPLETED;
    op->row.error = (uint16_t) error;
    op->row.finished_ms = clock_ms();
    op->row.message_len = (uint16_t) strlen(a->message);
    op->message = a->message;

    if (error == STORE_ERROR_NONE || error == STORE_ERROR_BACKEND) {
        op->row.result_size = a->result.size;
        op->row.flags |= a->result.over ? STORE_TRUNCATED : 0;
        op->row.type_len = (uint16_t) a->result.type_len;
        op->type_text = a->result.type_len
                        ? (const char *) a->result.headers.data
                          + a->result.type_at
                        : "";
        op->headers = &a->result.headers;
        op->body = a->result.fd == -1 ? &a->result.body : NULL;

    } else {
        op->row.http_status = 0;
        op->row.result_size = 0;
        op->row.type_len = 0;
        op->headers = NULL;
        op->body = NULL;
    }

    sched_put_queue(d, a);
    loop_submit(d, op);
}


const char *const  attempt_errors[STORE_ERRORS] = {
    "", "backend_status", "timeout", "cut_off", "unreachable", "lost",
    "result_not_stored", "request_lost", "result_too_large", "exhausted",
    "expired", "exec_failed", "invalid_item", "invalid_batch_answer"
};


static void
attempt_log_settled(struct attempt *a)
{
    struct log_line    l;
    struct store_job  *row = &a->op.row;

    if (!log_begin(&l, row->error == STORE_ERROR_LOST ? LOG_WARN : LOG_INFO,
                   "settled"))
    {
        return;
    }

    log_id(&l, "job", row->id);
    log_uint(&l, "attempt", row->attempts);
    log_str(&l, "state", row->state == STORE_COMPLETED ? "completed"
                                                       : "failed");

    if (row->error > 0 && row->error < STORE_ERRORS) {
        log_str(&l, "error", attempt_errors[row->error]);
        log_str(&l, "reason", a->message);
    }

    if (row->flags & STORE_DEAD) {
        log_uint(&l, "dead", 1);
    }

    if (row->http_status) {
        log_uint(&l, "status", row->http_status);
    }

    log_uint(&l, "queue_ms", row->started_ms > row->created_ms
                             ? row->started_ms - row->created_ms : 0);
    log_uint(&l, "service_ms", a->service_us / 1000);
    log_uint(&l, "bytes", row->result_size);
    log_end(&l);
}


void
attempt_stored(struct offloadd *d, struct attempt *a)
{
    uint32_t  job = a->job;
    uint64_t  now;

    attempt_unlink(d, a);

    if (job == JOB_NONE) {
        attempt_put(d, a);                      /* canceled meanwhile */
        return;
    }

    if (a->op.result == STORE_OP_STALE && a->op.type == STORE_OP_OVERDUE
        && a->op.row.state == STORE_QUEUED)
    {
        /* driven again meanwhile, with more time than it had */

        job_at(&d->sched.table, job)->place = JOB_FREE;
        sched_requeue(d, job, 0);

    } else if (a->op.result == STORE_OP_STALE) {

        /* the store knows better, and its word counts */

        log_text(LOG_WARN, "job %llu is not in the state it was thought to "
                 "be in; left as it is in the store",
                 (unsigned long long) a->op.seq);
        sched_forget(d, job);

    } else if (a->op.type == STORE_OP_DEFER) {
        attempt_deferred(d, a);

    } else if (a->op.type == STORE_OP_REQUEUE) {
        job_at(&d->sched.table, job)->place = JOB_FREE;
        sched_write_slot(d, job, ZONE_SLOT_QUEUED, &a->op.row);
        sched_requeue(d, job, a->delay_ms);
        deadline_look_again(d, &a->op);

    } else {
        attempt_log_settled(a);
        now = mono_us();

        if (a->started_us == 0) {               /* see defer_overdue() */
            a->started_us = now - a->op.row.timeout_s * 1000000ull;
            a->begun_us = a->started_us;
        }

        if (a->op.row.state == STORE_COMPLETED
            || a->op.row.error == STORE_ERROR_BACKEND
            || a->op.row.error == STORE_ERROR_TIMEOUT)
        {
            sched_service(d, a->op.row.location, a->queue,
                          now - a->begun_us, now - a->started_us);
        }

        sched_forget(d, job);
        d->sched.settled++;
    }

    attempt_put(d, a);
}


/* The store has the job as canceled. */

void
attempt_cancel(struct offloadd *d, struct attempt *a)
{
    job_at(&d->sched.table, a->job)->place = JOB_FREE;
    a->job = JOB_NONE;

    if (a->stage == ATTEMPT_REPLAYING) {
        a->executor->stop(d, a);
        attempt_unlink(d, a);
        attempt_put(d, a);
    }

    /* otherwise its operation is with the store: put when it comes back */
}


/* A clean stop: what runs is queued again, if it may be; its attempts stay
 * counted. */

void
attempt_hand_back(struct offloadd *d)
{
    struct attempt  *a;

    for (a = d->attempts.active; a; a = a->next) {
        if (a->stage == ATTEMPT_REPLAYING && a->carries == NULL) {
            a->executor->stop(d, a);

            if (!attempt_lost(d, a, "the worker was told to stop")) {
                attempt_requeue(d, a, NULL, 0);
            }
        }
    }
}
