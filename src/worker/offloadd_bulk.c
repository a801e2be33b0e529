/*
 * The course of a bulk: several jobs that are done by one request.  Loop
 * thread, memory only; what has to outlive it is in the rows of the jobs, each
 * of which is RUNNING until its own end is committed.  See offloadd_bulk.h.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>


static void bulk_send(struct offloadd *d, struct bulk *b);
static int bulk_join(struct offloadd *d, struct bulk *b, struct buf *body);
static void bulk_stop(struct offloadd *d, struct attempt *a);


struct bulk *
bulk_make(struct offloadd *d, const struct queue *q)
{
    struct bulk  *b;

    b = calloc(1, sizeof(*b) + q->fair.size * sizeof(b->items[0]));
    if (b == NULL) {
        return NULL;
    }

    b->policy = q->conf.batch;
    b->policy.size = q->fair.size;
    b->carrier = attempt_get(d);

    if (b->carrier == NULL) {
        free(b);
        return NULL;
    }

    return b;
}


static void
bulk_add(struct offloadd *d, struct bulk *b, struct attempt *a, uint32_t job,
    int probe)
{
    a->bulk = b;
    a->item = UINT32_MAX;
    b->refs++;
    b->starting++;

    attempt_begin(d, a, job, probe);
}


/*
 * A probe is one job alone: it is to find out whether there is a backend, and
 * the others are better off waiting.  Without memory for a second one there is
 * one as well; without any the worker leaves, and the next one has them all.
 */

uint32_t
bulk_begin(struct offloadd *d, struct bulk *b, uint32_t job, int probe)
{
    uint32_t           next;
    uint64_t           room, size;
    struct attempt    *a, *c = b->carrier;
    struct job_table  *t = &d->sched.table;

    c->queue = job_at(t, job)->queue;
    c->stage = ATTEMPT_STARTING;
    c->carries = b;
    c->reserved = 1;
    c->probe = probe != 0;
    attempt_link(d, c);

    room = b->policy.max;

    for (next = job; next != JOB_NONE; /* void */ ) {
        a = attempt_get(d);

        if (a == NULL) {
            sched_requeue(d, next, 0);
            break;
        }

        bulk_add(d, b, a, next, probe);

        size = 1ull << job_at(t, next)->size;
        room = room > size ? room - size : 0;

        next = probe || b->refs == b->policy.size
               ? JOB_NONE : queues_more(&d->sched.queues, t, job, room);
    }

    if (b->refs == 0) {
        attempt_unlink(d, c);
        attempt_put(d, c);
        free(b);
        return 0;
    }

    return b->refs;
}


void
bulk_started(struct offloadd *d, struct bulk *b)
{
    if (--b->starting == 0) {
        bulk_send(d, b);
    }
}


/* Its request is at hand, it waits for the others. */

static int
bulk_start(struct offloadd *d, struct attempt *a)
{
    struct bulk  *b = a->bulk;

    if (replay_open(d, a) != 0) {
        return -1;
    }

    a->item = b->n++;
    b->items[a->item] = a;
    b->live++;

    return 0;
}


/* What is sent for all of them: 0, or -1: no memory. */

static int
bulk_carry(struct bulk *b, struct buf *body)
{
    uint32_t         i;
    struct attempt  *a, *c = b->carrier;

    /* the first one's in the log, at nginx and in a command's environment */

    c->op.row = b->items[0]->op.row;
    memset(c->op.row.token, 0, sizeof(c->op.row.token));
    c->op.row.http_status = 0;
    c->started_us = mono_us();
    c->message[0] = '\0';
    c->result.attempt = c->op.row.attempts;

    for (i = 0; i < b->n; i++) {
        a = b->items[i];
        c->op.row.flags |= a->op.row.flags & STORE_AT_MOST_ONCE;

        if (c->op.row.failures < a->op.row.failures) {
            c->op.row.failures = a->op.row.failures;
        }
    }

    return bulk_request(&c->op.request, &b->items[0]->replay.view, body, b->n,
                        &b->policy);
}


static void
bulk_send(struct offloadd *d, struct bulk *b)
{
    int              rc;
    struct buf       body;
    struct attempt  *c = b->carrier;

    memset(&body, 0, sizeof(body));
    rc = bulk_join(d, b, &body);

    /* without memory their places are not in order yet */

    if (rc == 0 && b->live) {
        rc = bulk_carry(b, &body);
    }

    buf_free(&body);

    if (b->live == 0) {
        return;
    }

    if (rc != 0) {
        (void) snprintf(c->message, sizeof(c->message),
                        "there was no memory for a batch");
        bulk_ended(d, b, REPLAY_BUSY);
        return;
    }

    c->result.in_memory = 1;
    c->executor = attempt_executor(d, c);
    c->stage = ATTEMPT_REPLAYING;
    b->under_way = 1;
    sched_sent(d, c);

    ZONE_FAILPOINT("bulk.joined");

    if (c->executor->start(d, c) != 0) {
        attempt_ended(d, c, EXECUTOR_UNBEGUN);
    }
}


/*
 * The items' numbers are their places in the body from here on.  Those that
 * can't be in it leave: they have no JSON, which is final, or are of before
 * the queue had batches, and wait for another turn.
 */

static int
bulk_join(struct offloadd *d, struct bulk *b, struct buf *body)
{
    int              rc;
    uint32_t         i, n;
    struct attempt  *a;

    for (i = 0, n = 0; i < b->n; i++) {
        a = b->items[i];

        if (a == NULL) {
            continue;
        }

        if (n && !bulk_same(&b->items[0]->replay.view, &a->replay.view)) {
            bulk_stop(d, a);
            attempt_requeue(d, a, NULL, 0);
            continue;
        }

        rc = bulk_item(body, n, &b->policy, a, a->message,
                       sizeof(a->message));

        if (rc == -1) {
            return -1;
        }

        if (rc != 0) {
            bulk_stop(d, a);
            attempt_concluded(d, a, rc);
            continue;
        }

        b->items[i] = NULL;
        b->items[n] = a;
        a->item = n++;
    }

    b->n = n;

    return 0;
}


void
bulk_ended(struct offloadd *d, struct bulk *b, int outcome)
{
    int                 part;
    uint32_t            i;
    struct attempt     *a, *c = b->carrier;
    struct bulk_answer  answer;

    b->under_way = 0;
    c->stage = ATTEMPT_ENDING;

    memset(&answer, 0, sizeof(answer));

    if (outcome == REPLAY_ANSWERED) {
        bulk_parse(&answer, c, b->n);
    }

    ZONE_FAILPOINT("bulk.answered");

    for (i = 0; i < b->n; i++) {
        a = b->items[i];

        if (a == NULL) {
            continue;
        }

        bulk_stop(d, a);

        a->service_us = c->service_us;
        a->probe = c->probe;
        a->replay.begun = c->replay.begun;
        a->replay.resend = c->replay.resend;
        a->replay.connect_errno = c->replay.connect_errno;
        a->op.row.http_status = c->op.row.http_status;
        (void) snprintf(a->message, sizeof(a->message), "%s", c->message);

        part = outcome;

        if (outcome == REPLAY_ANSWERED) {
            part = bulk_part(d, &answer, c, a, i);

        } else if (outcome == REPLAY_TOO_LARGE) {
            a->result.max = c->result.max;
        }

        attempt_concluded(d, a, part);
    }

    bulk_answer_free(&answer);
}


/* One that is canceled, say: the request goes on for the others. */

static void
bulk_stop(struct offloadd *d, struct attempt *a)
{
    struct bulk     *b = a->bulk;
    struct attempt  *c = b->carrier;

    if (a->replay.body_fd != -1) {
        close(a->replay.body_fd);
        a->replay.body_fd = -1;
    }

    if (a->item >= b->n || b->items[a->item] != a) {
        return;
    }

    b->items[a->item] = NULL;
    b->live--;

    if (!b->under_way) {
        return;
    }

    a->replay.begun = c->replay.begun;

    if (b->live == 0) {
        b->under_way = 0;
        c->stage = ATTEMPT_ENDING;
        c->executor->stop(d, c);
    }
}


/* Its end is committed. */

void
bulk_left(struct offloadd *d, struct attempt *a)
{
    struct bulk     *b = a->bulk;
    struct attempt  *c = b->carrier;

    a->bulk = NULL;

    if (--b->refs == 0) {
        c->executor->stop(d, c);
        attempt_unlink(d, c);
        attempt_put(d, c);
        free(b);
    }
}


/* Of one that did not get as far as into the request. */

static int
bulk_outcome(struct attempt *a, int code)
{
    (void) code;

    return a->replay.body_lost ? REPLAY_LOST : REPLAY_BUSY;
}


static const char *
bulk_reason(const struct attempt *a, int code)
{
    (void) code;

    return a->replay.error[0] ? a->replay.error
                              : "its body could not be opened";
}


const struct executor  executor_bulk = {
    bulk_start, bulk_stop, bulk_outcome, bulk_reason
};
