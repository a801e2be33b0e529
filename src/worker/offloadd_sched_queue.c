/*
 * Between attempts and queues: the policy's queues, what an attempt's course
 * means to its queue, what the store is told of it, and which queues the
 * drain may start jobs of by itself.  Loop thread.
 *
 * The drain starts a new job at once only if nothing but the zone's own
 * concurrency is to be asked: in a queue that is plain, see queue_plain().
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


/* At the start, and after each change of the policy: -1: no memory. */

int
sched_configure(struct offloadd *d)
{
    int              rc;
    uint32_t         i;
    struct queues   *qs = &d->sched.queues;
    struct attempt  *a;
    struct exec_run *r;

    rc = queues_configure(qs, &d->sched.table, d->policy.queues,
                          d->policy.nqueues, d->policy.concurrency);
    if (rc == -1) {
        return -1;
    }

    if (rc == 0) {
        return 0;
    }

    /* some queue came or went: whose are those that run? */

    for (i = 0; i < qs->n; i++) {
        if (qs->queue[i]) {
            qs->queue[i]->running = 0;
        }
    }

    for (a = d->attempts.active; a; a = a->next) {
        if (a->bulk == NULL) {
            queues_ran(qs, a->queue);
        }
    }

    for (r = d->execs.runs; r; r = r->next) {
        if (r->attempt == NULL) {
            queues_ran(qs, r->queue);
        }
    }

    for (i = 0; i < d->sched.deferred.n; i++) {
        queues_ran(qs, job_at(&d->sched.table,
                              d->sched.deferred.entries[i].job)->queue);
    }

    return 0;
}


/* Which queues the drain may start jobs of.  Nothing is lent at the moment. */

void
sched_rules(struct offloadd *d)
{
    uint32_t            i, n;
    struct queues      *qs = &d->sched.queues;
    struct store_rule  *rules, *old;

    if (d->sched.rules == qs->changed) {
        return;
    }

    rules = malloc(qs->n * sizeof(*rules));
    if (rules == NULL) {
        return;                                 /* the old ones, until the
                                                   next round; nothing lent */
    }

    d->sched.plain = 0;

    for (i = 0, n = 0; i < qs->n; i++) {
        if (qs->queue[i]) {
            rules[n].hash = qs->queue[i]->hash;
            rules[n].plain = queue_plain(qs, qs->queue[i]) != 0;
            d->sched.plain += rules[n++].plain;
        }
    }

    pthread_mutex_lock(&d->store.mutex);
    old = d->store.rules;
    d->store.rules = rules;
    d->store.nrules = n;
    pthread_mutex_unlock(&d->store.mutex);

    free(old);
    d->sched.rules = qs->changed;
}


/*
 * What goes into the store with a job's transition: when the queue's next is
 * due.  In unix time, rounded up.
 */

void
sched_put_queue(struct offloadd *d, struct attempt *a)
{
    uint64_t       now, plan;
    struct queue  *q;

    q = queues_find(&d->sched.queues, a->queue);
    a->op.has_queue = q->rate.interval != 0;

    if (!a->op.has_queue) {
        return;
    }

    now = mono_us();
    plan = rate_plan(&q->rate, now);

    a->op.queue.hash = q->hash;
    a->op.queue.tat_us = (clock_ms() + 1) * 1000 + (plan - now);
}


/* The same by itself: -1: no memory. */

int
sched_store_queue(struct offloadd *d, uint32_t hash)
{
    uint64_t          now;
    struct queue     *q;
    struct store_op  *op;

    op = calloc(1, sizeof(*op));
    if (op == NULL) {
        return -1;
    }

    q = queues_find(&d->sched.queues, hash);
    now = mono_us();

    op->type = STORE_OP_QUEUE;
    op->has_queue = 1;
    op->queue.hash = q->hash;
    op->queue.tat_us = (clock_ms() + 1) * 1000 + rate_plan(&q->rate, now)
                       - now;

    loop_submit(d, op);

    return 0;
}


/* Its request is sent now. */

void
sched_sent(struct offloadd *d, struct attempt *a)
{
    uint16_t        i;
    struct queues  *qs = &d->sched.queues;

    if (a->reserved) {
        a->reserved = 0;
        i = queues_index(qs, a->queue);
        rate_sent(&qs->queue[i]->rate, mono_us());
        queues_touch(qs, i);
    }
}


/* It counts as running no more. */

void
sched_ended(struct offloadd *d, struct attempt *a)
{
    struct queue   *q;
    struct queues  *qs = &d->sched.queues;

    q = queues_find(qs, a->queue);

    if (a->reserved) {
        a->reserved = 0;
        rate_undo(&q->rate);
    }

    if (circuit_neither(&q->circuit, mono_us(), a->probe == 1)) {
        qs->changed++;
    }

    a->probe = 0;
    queues_ended(qs, a->queue);
}


/*
 * A few jobs, or one, must not use up their attempts before there were enough
 * of them to tell.  So the last one of a job that found nobody is enough, if
 * no other was answered since its first: then it has been a probe.
 */

static uint32_t
sched_enough(const struct attempt *a, const struct queue *q, int nobody)
{
    uint32_t  failures = a->op.row.failures + 1u, max = q->conf.retry.max;

    return nobody && max > 1 && failures >= max && max < CIRCUIT_FAILURES
           ? max : CIRCUIT_FAILURES;
}


/* nobody: there was no connection. */

static void
sched_circuit(struct offloadd *d, struct attempt *a, struct queue *q,
    int bad, int nobody)
{
    int       changed;
    uint32_t  enough;
    uint64_t  now = mono_us();

    enough = sched_enough(a, q, nobody);
    changed = bad ? circuit_bad(&q->circuit, now, a->started_us, enough,
                                sched_random(&d->sched))
                  : circuit_good(&q->circuit);

    a->probe = bad && (a->probe || (changed && enough < CIRCUIT_FAILURES))
               ? 2 : 0;

    if (!changed) {
        return;
    }

    d->sched.queues.changed++;
    queues_touch(&d->sched.queues, queues_index(&d->sched.queues, a->queue));

    if (bad) {
        log_text(LOG_WARN, "queue \"%s\": its backend has failed %u times in "
                 "a row; one attempt in %llu ms", q->conf.name,
                 q->circuit.failures,
                 (unsigned long long) (q->circuit.until - now) / 1000);

    } else {
        log_text(LOG_NOTICE, "queue \"%s\": its backend works again",
                 q->conf.name);
    }
}


/*
 * What an attempt's end says of the backend.  It is down when nginx has no
 * answer of it, whatever nginx answers then, and says so itself by 502, 503
 * and 504, unless it says that this is its last word on the job.  Whatever
 * fails between here and nginx says nothing of it; without nginx in between
 * it does.
 */

void
sched_attempt_ended(struct offloadd *d, struct attempt *a, int outcome)
{
    int            status, timed_out, answer, down;
    struct queue  *q;

    q = queues_find(&d->sched.queues, a->queue);

    if (outcome == REPLAY_CONNECT
        || (outcome == REPLAY_CUT_OFF && a->executor == &executor_pass))
    {
        sched_circuit(d, a, q, 1, outcome == REPLAY_CONNECT);
        return;
    }

    if (outcome != REPLAY_ANSWERED && outcome != REPLAY_TIMEOUT
        && outcome != REPLAY_EXEC_AGAIN)
    {
        return;
    }

    status = outcome == REPLAY_EXEC_AGAIN ? 503
             : outcome == REPLAY_ANSWERED ? a->op.row.http_status : 0;

    timed_out = status == 0 || a->result.upstream == RETRY_END_TIMEOUT;
    answer = status != 0 && a->result.upstream == RETRY_END_ANSWER;
    down = !answer
           || (status >= 502 && status <= 504 && !a->result.no_retry);

    /* other errors come quickly: they are no measure of what it bears */

    if (q->conf.adaptive
        && (timed_out || (answer && (status < 500 || status == 503))))
    {
        adapt_answer(&q->adapt, mono_us(), a->started_us, q->running,
                     timed_out || status == 429 || status == 503);
    }

    sched_circuit(d, a, q, down, a->result.upstream == RETRY_END_CONNECT);
}
