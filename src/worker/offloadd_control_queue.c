/*
 * The control interface: queues, one or all.  Loop thread;
 * control_queue_put() is the store thread's.
 *
 * What is shown is the policy in force and what the scheduler knows of the
 * moment.  A queue that is paused or draining begins nothing and is otherwise
 * what it was; the state is in its row of the store, also when the queue is
 * out of the policy for a while.  A kill leaves it as it was answered.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


struct control_queue {
    struct control_op  base;
    uint32_t           hash;
    uint32_t           flags;
};


static const char *const  control_circuits[] = {
    "closed", "open", "probing"
};


static int
control_queue_integer(json_t *o, const char *key, uint64_t n)
{
    return json_object_set_new(o, key, json_integer((json_int_t) n));
}


/* Left out where there is no such limit. */

static void
control_queue_some(json_t *o, const char *key, uint64_t n)
{
    if (n) {
        (void) control_queue_integer(o, key, n);
    }
}


static uint64_t
control_queue_ms(uint64_t at, uint64_t now)
{
    return at > now ? (at - now + 999) / 1000 : 0;
}


static void
control_queue_policy(json_t *o, const struct queue_policy *p)
{
    control_queue_some(o, "concurrency", p->concurrency);
    control_queue_some(o, "batch", p->batch.size);
    control_queue_some(o, "deadline_s", p->deadline_s);
    control_queue_some(o, "dead_ttl_s", p->dead_ttl_s);

    json_object_set_new(o, "retry",
                        json_pack("{s:i, s:I, s:I, s:s, s:b}",
                                  "max", (int) p->retry.max,
                                  "backoff_ms",
                                  (json_int_t) p->retry.backoff_ms,
                                  "backoff_max_ms",
                                  (json_int_t) p->retry.backoff_max_ms,
                                  "jitter", p->retry.jitter ? "full" : "none",
                                  "configured", p->has_retry));
}


static void
control_queue_limits(json_t *o, const struct queue *q)
{
    json_t    *part;
    uint64_t   now = mono_us();

    if (q->rate.interval) {
        part = json_pack("{s:i, s:I, s:i}", "count", (int) q->conf.rate_count,
                         "period_ms", (json_int_t) q->conf.rate_period_ms,
                         "burst", (int) q->conf.rate_burst);
        (void) control_queue_integer(part, "next_in_ms",
                           control_queue_ms(rate_due(&q->rate, now), now));
        json_object_set_new(o, "rate", part);
    }

    if (q->conf.adaptive) {
        part = json_pack("{s:i, s:i}", "limit", (int) q->adapt.limit, "most",
                         (int) q->adapt.most);
        (void) control_queue_integer(part, "latency_us", q->adapt.recent_us);
        (void) control_queue_integer(part, "usual_us", q->adapt.floor_us);
        json_object_set_new(o, "adaptive", part);
    }

    if (q->conf.circuit && q->circuit.state < ARRAY_LENGTH(control_circuits)) {
        part = json_pack("{s:s, s:i}", "state",
                         control_circuits[q->circuit.state], "failures",
                         (int) q->circuit.failures);

        if (q->circuit.state == CIRCUIT_OPEN) {
            (void) control_queue_integer(part, "probe_in_ms",
                           control_queue_ms(q->circuit.until, now));
        }

        json_object_set_new(o, "circuit", part);
    }
}


static json_t *
control_queue_state(const struct queue *q)
{
    json_t  *o;

    o = json_pack("{s:s, s:s}", "queue", q->conf.name, "state",
                  control_state(q->flags));

    if (o && (q->flags & STORE_QUEUE_DRAINING)) {
        json_object_set_new(o, "drained", json_boolean(q->running == 0));
    }

    (void) control_queue_integer(o, "running", q->running);
    (void) control_queue_integer(o, "waiting",
                                 (uint64_t) q->ready + q->delayed);

    return o;
}


static json_t *
control_queue_document(struct offloadd *d, const struct queue *q)
{
    json_t  *o;

    o = control_queue_state(q);

    if (o) {
        (void) control_queue_integer(o, "delayed", q->delayed);
        (void) control_queue_integer(o, "limit",
                                     queue_limit(&d->sched.queues, q));
        json_object_set_new(o, "default",
                            json_boolean(q == d->sched.queues.queue
                                              [QUEUE_DEFAULT]));
        control_queue_policy(o, &q->conf);
        control_queue_limits(o, q);
    }

    return o;
}


void
control_queues(struct control_request *r)
{
    json_t         *o, *list;
    uint32_t        i;
    struct queues  *qs = &r->daemon->sched.queues;

    list = json_array();

    for (i = 0; i < qs->n; i++) {
        if (qs->queue[i]) {
            json_array_append_new(list, control_queue_document(r->daemon,
                                                               qs->queue[i]));
        }
    }

    o = json_pack("{s:s, s:s, s:o}", "zone", r->daemon->policy.zone, "state",
                  control_state(r->daemon->control.hold), "queues", list);

    control_answer(r, 200, o);
}


/* Not the default queue in place of one that is not there. */

static struct queue *
control_queue_find(struct offloadd *d, const char *name)
{
    uint32_t       hash;
    struct queue  *q;

    hash = zone_queue_hash(name, strlen(name));
    q = queues_find(&d->sched.queues, hash);

    return q->hash == hash && strcmp(q->conf.name, name) == 0 ? q : NULL;
}


static void
control_queue_unknown(struct control_request *r)
{
    control_problem(r, 404, "queue-not-found", "No such queue",
                    "There is no queue of this name in the zone.");
}


void
control_queue(struct control_request *r)
{
    struct queue  *q;

    q = control_queue_find(r->daemon, r->name);

    if (q == NULL) {
        control_queue_unknown(r);
        return;
    }

    control_answer(r, 200, control_queue_document(r->daemon, q));
}


static int
control_queue_put(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    struct control_queue  *c = (struct control_queue *) op;

    return s->engine->put_flags(s->self, c->hash, c->flags, e);
}


/* As for the zone: nothing is begun from here on. */

static void
control_queue_hold(struct offloadd *d, struct control_op *op)
{
    struct queue          *q;
    struct control_queue  *c = (struct control_queue *) op;

    q = queues_find(&d->sched.queues, c->hash);

    if (q->hash == c->hash) {
        queues_flags(&d->sched.queues, c->hash, q->flags | c->flags);
    }
}


static void
control_queue_held(struct offloadd *d, struct control_op *op)
{
    struct queue          *q;
    struct control_queue  *c = (struct control_queue *) op;

    q = queues_find(&d->sched.queues, c->hash);

    if (q->hash != c->hash) {                   /* went with a new policy */
        if (op->request) {
            control_queue_unknown(op->request);
        }

        return;
    }

    queues_flags(&d->sched.queues, c->hash, c->flags);

    control_log(op, c->flags ? "control: nothing is begun in a queue"
                             : "control: a queue goes on", "queue",
                q->conf.name);

    if (op->request) {
        control_answer(op->request, 200, control_queue_state(q));
    }
}


static void
control_queue_set(struct control_request *r, uint32_t flags)
{
    struct queue          *q;
    struct control_queue  *c;

    q = control_queue_find(r->daemon, r->name);

    if (q == NULL) {
        control_queue_unknown(r);
        return;
    }

    c = control_op_new(r, sizeof(*c));
    if (c == NULL) {
        return;
    }

    c->base.apply = control_queue_put;
    c->base.begin = control_queue_hold;
    c->base.done = control_queue_held;
    c->hash = q->hash;
    c->flags = flags;

    control_write(&c->base);
}


void
control_queue_pause(struct control_request *r)
{
    control_queue_set(r, STORE_QUEUE_PAUSED);
}


void
control_queue_resume(struct control_request *r)
{
    control_queue_set(r, 0);
}


void
control_queue_drain(struct control_request *r)
{
    control_queue_set(r, STORE_QUEUE_DRAINING);
}
