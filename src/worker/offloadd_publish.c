/*
 * The zone's figures, and its queues', for nginx to answer with.  Loop thread;
 * plain stores, nobody waits for them.  Of queues those are written that have
 * changed since, so that many which are quiet cost nothing.  A kill leaves
 * what was; the next worker writes all.
 */

#include "offloadd.h"


#define publish_load(p)       atomic_load_explicit(p, memory_order_relaxed)

/* A line that others read stays theirs while there is no news. */

#define publish_store(p, value)                                              \
    do {                                                                      \
        if (publish_load(p) != (value)) {                                     \
            atomic_store_explicit(p, value, memory_order_relaxed);            \
        }                                                                     \
    } while (0)

#define publish(field, value)                                                \
    atomic_store_explicit(&d->zone.worker->field, value, memory_order_relaxed)


static uint32_t
publish_flags(const struct queue *q)
{
    return ZONE_QUEUE_USED | (q->flags & QUEUE_FLAGS ? ZONE_QUEUE_HELD : 0)
           | (q->circuit.state != CIRCUIT_CLOSED ? ZONE_QUEUE_OPEN : 0);
}


/* In unix time, as other processes have their clocks. */

static void
publish_rate(struct zone_queue *to, const struct queue *q)
{
    uint64_t  now, plan, due;

    due = 0;

    if (q->rate.interval) {
        now = mono_us();
        plan = rate_plan(&q->rate, now);
        due = plan > now ? clock_ms() + (plan - now) / 1000 : 0;
    }

    publish_store(&to->interval_us, q->rate.interval);
    publish_store(&to->burst_us, q->rate.tolerance);
    publish_store(&to->due_ms, due);
}


static void
publish_queue(struct offloadd *d, uint16_t i)
{
    int                  lags;
    uint32_t             flags;
    uint64_t             head;
    struct queue        *q;
    struct queues       *qs = &d->sched.queues;
    struct zone_queue   *to;
    struct zone_queues  *all;

    all = zone_queues(&d->zone);
    to = &all->queue[i];
    q = i < qs->n ? qs->queue[i] : NULL;

    if (q == NULL) {
        publish_store(&to->flags, 0);
        d->sched.busy &= ~QUEUE_BIT(i);
        return;
    }

    head = queue_head(qs, &d->sched.table, i, &lags);
    flags = publish_flags(q);

    publish_store(&to->running, q->running);
    publish_store(&to->concurrency, queue_limit(qs, q));
    publish_store(&to->batch, q->fair.size);
    publish_store(&to->waiting, (uint64_t) q->ready + q->delayed);
    publish_store(&to->last_seq, q->head.last);
    publish_store(&to->head_seq, head);
    publish_rate(to, q);
    publish_store(&all->hash[i], q->hash);
    publish_store(&to->flags, flags);

    if (q->ready && !(flags & ZONE_QUEUE_HELD)) {
        d->sched.busy |= QUEUE_BIT(i);

    } else {
        d->sched.busy &= ~QUEUE_BIT(i);
    }

    if (lags) {
        qs->moved |= QUEUE_BIT(i);
    }
}


static void
publish_queues(struct offloadd *d)
{
    uint16_t             i;
    uint64_t             moved;
    struct queues       *qs = &d->sched.queues;
    struct zone_queues  *all;

    all = zone_queues(&d->zone);

    moved = qs->moved;
    qs->moved = 0;

    for ( /* void */ ; moved; moved &= moved - 1) {
        i = (uint16_t) __builtin_ctzll(moved);
        publish_queue(d, i);
    }

    publish_store(&all->busy,
                  (uint32_t) __builtin_popcountll(d->sched.busy));
    publish_store(&all->flags, d->control.hold ? ZONE_QUEUE_HELD : 0);
    publish_store(&all->n, qs->n);
}


void
sched_publish(struct offloadd *d)
{
    int                lags;
    uint64_t           head;
    struct sched      *s = &d->sched;
    struct zone_times  times;

    head = queues_head(&s->queues, &s->table, &lags);

    publish(head_seq, head ? head
            : atomic_load_explicit(&d->zone.worker->next_seq,
                                   memory_order_relaxed));
    publish(waiting, s->queues.ready + s->queues.delayed);
    publish(running, s->running + s->deferred.n);
    publish(concurrency, d->policy.concurrency);
    publish(settled, s->settled);

    publish_queues(d);

    if (s->measured) {
        s->measured = 0;
        zone_times_read(&times, zone_services(&d->zone));
        publish(service_us, zone_times_mean(&times));
    }
}
