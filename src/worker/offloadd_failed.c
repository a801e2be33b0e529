/*
 * An attempt's end without a good answer: what it was, what is to follow, and
 * in which words.  Loop thread; a kill leaves the row RUNNING, as before.
 *
 * What is to be tried again leaves no result.  The last of the attempts that a
 * job has leaves a dead letter: its request stays in the store, with the
 * answer if the backend gave one.
 */

#include "offloadd.h"

#include <string.h>


#define FAILED_TEXT           384


static void
failed_text(const struct attempt *a, uint32_t end, char text[FAILED_TEXT])
{
    const char              *what;
    const struct store_job  *row = &a->op.row;

    what = end == RETRY_END_CONNECT ? "the backend could not be reached"
           : end == RETRY_END_TIMEOUT ? "the backend did not answer in time"
                                      : "the backend did not answer";

    if (end == RETRY_END_EXEC) {
        (void) snprintf(text, FAILED_TEXT, "%.*s", FAILED_TEXT - 1,
                        a->message);

    } else if (end == RETRY_END_ANSWER) {
        (void) snprintf(text, FAILED_TEXT, "the backend answered %u",
                        row->http_status);

    } else if (end == RETRY_END_CONNECT && !row->http_status) {
        (void) snprintf(text, FAILED_TEXT, "%s: %.256s", what, a->message);

    } else if (row->http_status) {
        (void) snprintf(text, FAILED_TEXT, "%s: nginx answered %u", what,
                        row->http_status);

    } else {
        (void) snprintf(text, FAILED_TEXT, "no whole answer within %u s",
                        row->timeout_s);
    }
}


static uint64_t
failed_retry_after(const struct attempt *a)
{
    const struct result  *r = &a->result;

    return r->retry_after_at
           ? retry_after((const char *) r->raw.data + r->retry_after_at,
                         clock_ms())
           : 0;
}


static const struct queue_policy *
failed_policy(const struct offloadd *d, const struct attempt *a)
{
    return &queues_find(&d->sched.queues, a->queue)->conf;
}


/*
 * A probe that finds the backend gone has told its queue so; it is none of
 * the attempts that the job has.  Whatever the probe's job met, the next one
 * is made with another job: it may be this one that fails.
 */

static uint32_t
failed_counts(const struct attempt *a, uint32_t end)
{
    return a->probe != 2 || end != RETRY_END_CONNECT;
}


static void
failed_again(struct offloadd *d, struct attempt *a, const char *text,
    uint32_t failures, uint64_t delay_ms)
{
    job_at(&d->sched.table, a->job)->behind = a->probe == 2;
    a->op.row.failures = (uint16_t) failures;
    a->result.finished = 0;                     /* a blob goes with it */

    attempt_requeue(d, a, text, delay_ms);
}


/* An answer that nginx made in the end is no answer of the backend. */

static void
failed_for_good(struct offloadd *d, struct attempt *a, uint32_t end,
    const char *text)
{
    struct store_job  *row = &a->op.row;

    row->failures++;
    row->flags |= STORE_DEAD;
    a->op.dead_ttl_ms = failed_policy(d, a)->dead_ttl_s * 1000;

    (void) snprintf(a->message, sizeof(a->message),
                    "%s, and %u attempts are all there are", text,
                    row->failures);

    if (end != RETRY_END_ANSWER) {
        a->result.finished = 0;
    }

    attempt_settle(d, a, end == RETRY_END_ANSWER ? STORE_ERROR_BACKEND
                                                 : STORE_ERROR_EXHAUSTED);
}


void
attempt_failed(struct offloadd *d, struct attempt *a, uint32_t end)
{
    int                   verdict;
    char                  text[FAILED_TEXT];
    uint64_t              now, delay;
    struct store_job     *row = &a->op.row;
    struct retry_failure  f;

    now = clock_ms();
    failed_text(a, end, text);

    memset(&f, 0, sizeof(f));
    f.end = end;
    f.status = row->http_status;
    f.method = a->replay.view.method;
    f.failures = row->failures + failed_counts(a, end);
    f.retry_after_ms = failed_retry_after(a);
    f.left_ms = row->deadline_ms == 0 ? UINT64_MAX
                : row->deadline_ms > now ? row->deadline_ms - now : 0;
    f.no_retry = a->result.no_retry;
    f.at_most_once = (row->flags & STORE_AT_MOST_ONCE) != 0;

    verdict = retry_decide(&failed_policy(d, a)->retry, &f,
                           sched_random(&d->sched), &delay);

    if (verdict == RETRY_AGAIN) {
        failed_again(d, a, text, f.failures, delay);
        return;
    }

    if (verdict == RETRY_EXHAUSTED) {
        failed_for_good(d, a, end, text);
        return;
    }

    (void) snprintf(a->message, sizeof(a->message), "%s%s", text,
                    verdict == RETRY_TOO_LATE
                    ? ", and another attempt would come after the deadline"
                    : f.no_retry ? ", and wants no other attempt" : "");

    attempt_settle(d, a, end == RETRY_END_EXEC ? STORE_ERROR_EXEC
                         : row->http_status ? STORE_ERROR_BACKEND
                         : end == RETRY_END_CONNECT ? STORE_ERROR_UNREACHABLE
                                                    : STORE_ERROR_TIMEOUT);
}


/* Its START is committed, but nothing was sent. */

int
attempt_overdue(struct offloadd *d, struct attempt *a)
{
    if (a->op.row.deadline_ms == 0 || a->op.row.deadline_ms > clock_ms()) {
        return 0;
    }

    (void) snprintf(a->message, sizeof(a->message),
                    "its deadline came before the attempt was sent");
    attempt_settle(d, a, STORE_ERROR_EXPIRED);

    return 1;
}


static void
failed_running(struct offloadd *d, struct attempt *a)
{
    a->service_us = mono_us() - a->started_us;
    a->executor->stop(d, a);

    (void) snprintf(a->message, sizeof(a->message),
                    "no whole answer before the deadline");
    attempt_settle(d, a, STORE_ERROR_TIMEOUT);
}


/*
 * One that waits.  It counts as an attempt until that is committed; the row
 * may still say otherwise: see attempt_stored().
 */

static void
failed_waiting(struct offloadd *d, uint32_t i)
{
    struct job      *job;
    struct attempt  *a;

    job = job_at(&d->sched.table, i);
    a = attempt_get(d);

    if (a == NULL) {
        (void) deadline_add(d, job->seq, clock_ms() + LOOP_TICK_MS);
        return;
    }

    queues_take(&d->sched.queues, &d->sched.table, i);
    queues_ran(&d->sched.queues, job->queue);

    job->place = JOB_ATTEMPT;
    job->attempt = a;

    a->job = i;
    a->queue = job->queue;
    a->stage = ATTEMPT_ENDING;
    a->service_us = 0;
    attempt_link(d, a);

    (void) snprintf(a->message, sizeof(a->message),
                    "its deadline came while it waited");

    memset(&a->op.row, 0, sizeof(a->op.row));
    a->op.type = STORE_OP_OVERDUE;
    a->op.seq = job->seq;
    a->op.row.finished_ms = clock_ms();
    a->op.row.message_len = (uint16_t) strlen(a->message);
    a->op.message = a->message;

    loop_submit(d, &a->op);
}


void
attempt_deadline(struct offloadd *d, uint32_t i)
{
    struct job  *job;

    job = job_at(&d->sched.table, i);

    if (job->place == JOB_DEFERRED) {
        (void) defer_overdue(d, i);

    } else if (job->place != JOB_ATTEMPT) {
        failed_waiting(d, i);

    } else if (job->attempt->stage == ATTEMPT_REPLAYING) {
        failed_running(d, job->attempt);
    }

    /* otherwise the store has it: attempt_overdue(), deadline_look_again() */
}
