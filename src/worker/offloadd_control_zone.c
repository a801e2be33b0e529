/*
 * The control interface: the zone as a whole.  Loop thread; control_zone_get()
 * and control_zone_put() are the store thread's.
 *
 * Paused or draining, no attempt is begun; what is running goes on, and jobs
 * are accepted as ever: a 202 is a promise to do it, not when.  The state is
 * a row of the store, so a kill leaves it as it was answered.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>


struct control_zone {
    struct control_op      base;
    struct store_counters  counters;
    uint32_t               hold;
};


const char *
control_state(uint32_t hold)
{
    return hold & STORE_QUEUE_DRAINING ? "draining"
           : hold & STORE_QUEUE_PAUSED ? "paused" : "active";
}


/* Held, what was lent to the drain and is not back may be running. */

static int
control_zone_state(struct offloadd *d, json_t *o)
{
    uint32_t  running = d->sched.running + d->sched.deferred.n;

    running += d->control.hold ? d->sched.lent : 0;

    json_object_set_new(o, "state",
                        json_string(control_state(d->control.hold)));
    json_object_set_new(o, "running", json_integer(running));

    if (d->control.hold & STORE_QUEUE_DRAINING) {
        json_object_set_new(o, "drained", json_boolean(running == 0));
    }

    return json_object_set_new(o, "waiting",
                               json_integer((json_int_t)
                                            (d->sched.queues.ready
                                             + d->sched.queues.delayed)));
}


static json_t *
control_zone_refusing(struct offloadd *d)
{
    json_t    *list;
    uint32_t   refusing;

    list = json_array();
    refusing = atomic_load(&d->zone.worker->refusing);

    if (refusing & ZONE_REFUSING_FULL) {
        json_array_append_new(list, json_string("store-full"));
    }

    if (refusing & ZONE_REFUSING_FAILED) {
        json_array_append_new(list, json_string("store-failed"));
    }

    return list;
}


static json_t *
control_zone_document(struct offloadd *d)
{
    json_t  *o;

    o = json_pack("{s:s, s:s, s:i, s:I, s:s, s:b}",
                  "zone", d->policy.zone,
                  "version", OFFLOADD_VERSION,
                  "pid", (int) getpid(),
                  "uptime_s",
                  (json_int_t) ((mono_ms() - d->control.mono_ms) / 1000),
                  "durability", d->store.durable ? "disk" : "memory",
                  "nginx", d->loop.held);

    if (o == NULL || control_time(o, "started_at", d->control.started_ms) != 0
        || control_zone_state(d, o) != 0)
    {
        json_decref(o);
        return NULL;
    }

    json_object_set_new(o, "concurrency",
                        json_integer(d->policy.concurrency));
    json_object_set_new(o, "settled",
                        json_integer((json_int_t) d->sched.settled));
    json_object_set_new(o, "refusing", control_zone_refusing(d));

    return o;
}


static json_t *
control_zone_counters(const struct store_counters *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I,"
                     " s:I}",
                     "accepted", (json_int_t) c->accepted,
                     "queued", (json_int_t) c->jobs[STORE_QUEUED],
                     "running", (json_int_t) c->jobs[STORE_RUNNING],
                     "completed", (json_int_t) c->jobs[STORE_COMPLETED],
                     "failed", (json_int_t) c->jobs[STORE_FAILED],
                     "canceled", (json_int_t) c->jobs[STORE_CANCELED],
                     "expired", (json_int_t) c->jobs[STORE_EXPIRED],
                     "purged", (json_int_t) c->purged,
                     "withdrawn", (json_int_t) c->withdrawn,
                     "rejected", (json_int_t) c->rejected,
                     "duplicates", (json_int_t) c->duplicates,
                     "drift", (json_int_t) store_drift(c));
}


static int
control_zone_get(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    struct control_zone  *z = (struct control_zone *) op;

    return s->engine->counters(s->self, &z->counters, e);
}


static void
control_zone_got(struct offloadd *d, struct control_op *op)
{
    json_t               *o;
    struct control_zone  *z = (struct control_zone *) op;

    if (op->request == NULL) {
        return;
    }

    o = control_zone_document(d);
    json_object_set_new(o, "jobs", control_zone_counters(&z->counters));
    control_answer(op->request, 200, o);
}


/* Just when the store does not answer the rest is of interest. */

static void
control_zone_late(struct control_request *r)
{
    control_answer(r, 200, control_zone_document(r->daemon));
}


void
control_zone(struct control_request *r)
{
    struct control_zone  *z;

    z = control_op_new(r, sizeof(*z));
    if (z == NULL) {
        return;
    }

    z->base.apply = control_zone_get;
    z->base.done = control_zone_got;
    r->late = control_zone_late;

    control_read(&z->base);
}


static int
control_zone_put(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    struct control_zone  *z = (struct control_zone *) op;

    return s->engine->put_hold(s->self, z->hold, e);
}


/* Nothing is begun from here on; resumed is what was committed so. */

static void
control_zone_hold(struct offloadd *d, struct control_op *op)
{
    d->control.hold |= ((struct control_zone *) op)->hold;
}


static void
control_zone_held(struct offloadd *d, struct control_op *op)
{
    json_t               *o;
    struct control_zone  *z = (struct control_zone *) op;

    d->control.hold = z->hold;

    control_log(op, z->hold ? "control: nothing is begun in the zone"
                            : "control: the zone goes on", "state",
                control_state(z->hold));

    if (op->request) {
        o = json_pack("{s:s}", "zone", d->policy.zone);

        if (o) {
            (void) control_zone_state(d, o);
        }

        control_answer(op->request, 200, o);
    }
}


static void
control_zone_set(struct control_request *r, uint32_t hold)
{
    struct control_zone  *z;

    z = control_op_new(r, sizeof(*z));
    if (z == NULL) {
        return;
    }

    z->base.apply = control_zone_put;
    z->base.begin = control_zone_hold;
    z->base.done = control_zone_held;
    z->hold = hold;

    control_write(&z->base);
}


void
control_zone_pause(struct control_request *r)
{
    control_zone_set(r, STORE_QUEUE_PAUSED);
}


void
control_zone_resume(struct control_request *r)
{
    control_zone_set(r, 0);
}


void
control_zone_drain(struct control_request *r)
{
    control_zone_set(r, STORE_QUEUE_DRAINING);
}
