/*
 * Turns: what a job that waits may expect of its queue, by the figures that
 * offloadd publishes.  Arithmetic for nginx's workers; only reads the zone,
 * and takes no value for more than a hint.
 */

#include <string.h>

#include "zone_queue.h"
#include "zone_internal.h"


/* Places for the queue, by the zone's and those of all other queues. */

static void
zone_turns_places(struct zone_turns *t, uint64_t own, uint64_t running,
    uint64_t concurrency, uint64_t contenders)
{
    uint64_t  others, room;

    /*
     * What others do not have, and in any case the share that taking turns
     * gives each of those that have jobs to start.
     */

    others = running > t->busy ? running - t->busy : 0;
    room = concurrency > others ? concurrency - others : 0;

    if (contenders > 1 && room < concurrency / contenders) {
        room = concurrency / contenders;
    }

    t->concurrency = own < room ? own : room;

    if (t->concurrency == 0 && own && concurrency) {
        t->concurrency = 1;
    }

    /* where all places are taken its own are too, whoever has them */

    if (running >= concurrency && t->busy < t->concurrency) {
        t->busy = t->concurrency;
    }
}


static const struct zone_queue *
zone_queue_find(const struct zone_queues *qs, uint32_t hash)
{
    uint32_t  i, n;

    n = zone_load(&qs->n);

    for (i = 0; i < n && i < ZONE_QUEUES; i++) {
        if (zone_load(&qs->hash[i]) == hash
            && zone_load(&qs->queue[i].flags) & ZONE_QUEUE_USED)
        {
            return &qs->queue[i];
        }
    }

    return n && n <= ZONE_QUEUES ? &qs->queue[0] : NULL;
}


void
zone_turns_read(struct zone_turns *t, const struct zone *z, uint32_t queue)
{
    uint64_t                   own, contenders;
    const struct zone_queue   *q;
    const struct zone_queues  *qs;
    const struct zone_worker  *w = z->worker;

    memset(t, 0, sizeof(*t));
    t->batch = 1;

    qs = zone_queues(z);
    q = zone_queue_find(qs, queue);
    t->flags = zone_load(&qs->flags);

    if (q == NULL) {
        t->queue = queue;
        t->waiting = zone_load(&w->waiting);
        t->head_seq = zone_load(&w->head_seq);
        t->last_seq = zone_load(&w->next_seq);
        t->busy = zone_load(&w->running);
        t->concurrency = zone_load(&w->concurrency);
        return;
    }

    t->flags |= zone_load(&q->flags);
    t->queue = zone_load(&qs->hash[q - qs->queue]);
    t->waiting = zone_load(&q->waiting);
    t->head_seq = zone_load(&q->head_seq);
    t->last_seq = zone_load(&q->last_seq);
    t->busy = zone_load(&q->running);
    t->batch = zone_load(&q->batch);
    t->batch += t->batch == 0;
    t->interval_us = zone_load(&q->interval_us);
    t->burst_us = zone_load(&q->burst_us);
    t->due_ms = zone_load(&q->due_ms);

    own = zone_load(&q->concurrency);
    contenders = (uint64_t) zone_load(&qs->busy) + (t->head_seq == 0);

    zone_turns_places(t, own, zone_load(&w->running),
                      zone_load(&w->concurrency), contenders);
}


/*
 * Numbers are the zone's: between two of a queue's there are those of others,
 * and of jobs that were canceled.  But no more than wait are in front.
 */

uint64_t
zone_turns_position(const struct zone_turns *t, uint64_t seq)
{
    uint64_t  at;

    if (t->head_seq == 0 || seq <= t->head_seq) {
        return 1;
    }

    at = seq - t->head_seq;
    at = at < t->waiting ? at + 1 : t->waiting;

    return at ? at : 1;
}


/*
 * If those that wait are spread evenly between the first and the last, and
 * each start takes as many of them as it may.
 */

uint64_t
zone_turns_ahead(const struct zone_turns *t, uint64_t seq)
{
    double    likely;
    uint64_t  ahead, range;

    ahead = zone_turns_position(t, seq) - 1;

    if (ahead == 0 || t->last_seq <= t->head_seq) {
        return ahead / t->batch;
    }

    range = t->last_seq - t->head_seq;
    seq = seq < t->last_seq ? seq - t->head_seq : range;

    likely = (double) seq / (double) range * (double) (t->waiting - 1);

    return (likely < (double) ahead ? (uint64_t) likely : ahead) / t->batch;
}


uint64_t
zone_turns_rate(const struct zone_turns *t, uint64_t ahead, uint64_t now_ms)
{
    double  us;

    if (t->interval_us == 0) {
        return 0;
    }

    us = (double) ahead * (double) t->interval_us - (double) t->burst_us;

    if (t->due_ms > now_ms) {
        us += (double) (t->due_ms - now_ms) * 1000;
    }

    if (us < 0) {
        return 0;
    }

    us = us < ZONE_ESTIMATE_MAX * 1000.0 ? us : ZONE_ESTIMATE_MAX * 1000.0;

    return (uint64_t) us / 1000;
}
