/*
 * All queues of a zone.  Loop thread, memory only, time by argument.
 *
 * Queues that have jobs ready are in a ring and take turns.  One whose turn
 * it is and that may not begin another (paused, as many running as it may
 * have, its rate, its circuit) leaves the ring; what can change that puts it
 * back: an end, a time (`wake`), a flag, a new policy.
 *
 * Queue 0 is the default queue: it is there always, and has the jobs of all
 * queues that the policy has not.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


uint16_t
queues_index(const struct queues *qs, uint32_t hash)
{
    uint32_t  i;

    for (i = hash; ; i++) {
        i &= qs->map_size - 1;

        if (qs->map[i] == QUEUE_NONE) {
            return QUEUE_DEFAULT;
        }

        if (qs->queue[qs->map[i]]->hash == hash) {
            return qs->map[i];
        }
    }
}


struct queue *
queues_find(const struct queues *qs, uint32_t hash)
{
    return qs->queue[queues_index(qs, hash)];
}


uint32_t
queue_limit(const struct queues *qs, const struct queue *q)
{
    uint32_t  most;

    most = q->conf.concurrency && q->conf.concurrency < qs->concurrency
           ? q->conf.concurrency : qs->concurrency;

    return q->conf.adaptive && q->adapt.limit < most ? q->adapt.limit : most;
}


int
queue_plain(const struct queues *qs, const struct queue *q)
{
    return q->flags == 0 && !q->conf.adaptive && q->rate.interval == 0
           && q->circuit.state == CIRCUIT_CLOSED && q->fair.size <= 1
           && (q->conf.concurrency == 0
               || q->conf.concurrency >= qs->concurrency);
}


/* When may it begin another?  UINT64_MAX: not by time alone. */

static uint64_t
queue_may(struct queues *qs, struct queue *q, uint64_t now)
{
    uint64_t  circuit, rate, ripe;

    /* in any case: so that they linger from now on */

    ripe = fair_ripen(&qs->flows, &q->fair, now);

    if (q->flags & QUEUE_FLAGS || q->running >= queue_limit(qs, q)) {
        return UINT64_MAX;
    }

    circuit = circuit_due(&q->circuit, now);
    rate = rate_due(&q->rate, now);

    if (circuit > rate) {
        rate = circuit;
    }

    return ripe != UINT64_MAX && ripe > rate ? ripe : rate;
}


/* The ring: `first` has the next turn. */

static void
ring_append(struct queues *qs, uint16_t i)
{
    struct queue  *first, *q = qs->queue[i];

    if (qs->first == QUEUE_NONE) {
        qs->first = i;
        q->next = i;
        q->prev = i;

    } else {
        first = qs->queue[qs->first];
        q->next = qs->first;
        q->prev = first->prev;
        qs->queue[q->prev]->next = i;
        first->prev = i;
    }

    q->in_ring = 1;
}


static void
ring_remove(struct queues *qs, uint16_t i)
{
    struct queue  *q = qs->queue[i];

    if (!q->in_ring) {
        return;
    }

    if (q->next == i) {
        qs->first = QUEUE_NONE;

    } else {
        qs->queue[q->prev]->next = q->next;
        qs->queue[q->next]->prev = q->prev;

        if (qs->first == i) {
            qs->first = q->next;
        }
    }

    q->in_ring = 0;
}


void
queues_touch(struct queues *qs, uint16_t i)
{
    struct queue  *q = qs->queue[i];

    qs->wake[i] = UINT64_MAX;
    qs->moved |= QUEUE_BIT(i);

    if (q->ready && !q->in_ring) {
        ring_append(qs, i);
    }
}


static void
queues_wake_due(struct queues *qs, uint64_t now)
{
    uint16_t  i;

    qs->wake_min = UINT64_MAX;

    for (i = 0; i < qs->n; i++) {
        if (qs->wake[i] <= now) {
            queues_touch(qs, i);

        } else if (qs->wake[i] < qs->wake_min) {
            qs->wake_min = qs->wake[i];
        }
    }
}


uint64_t
queues_wake(const struct queues *qs)
{
    uint64_t  at;

    at = qs->backoff.n ? qs->backoff.entries[0].key : UINT64_MAX;

    return at < qs->wake_min ? at : qs->wake_min;
}


static void queue_take(struct queues *qs, struct job_table *t, uint16_t i,
    uint32_t job);


static int
queue_push(struct queues *qs, struct job_table *t, uint16_t i, uint32_t job)
{
    int            rc;
    struct queue  *q = qs->queue[i];

    rc = fair_push(&qs->flows, &q->fair, i, t, job);
    if (rc == -1) {
        return -1;
    }

    head_push(&q->head, job_at(t, job)->seq, q->ready);
    head_push(&qs->head, job_at(t, job)->seq, qs->ready);

    q->ready++;
    qs->ready++;
    qs->moved |= QUEUE_BIT(i);

    if (rc == 1) {
        queues_touch(qs, i);

    } else if (!q->in_ring && qs->wake[i] == UINT64_MAX) {
        ring_append(qs, i);
    }

    return 0;
}


/* One that was ready. */

static void
queue_left(struct queues *qs, struct queue *q, uint64_t seq)
{
    head_take(&q->head, seq);
    head_take(&qs->head, seq);
    q->ready--;
    qs->ready--;
}


int
queues_push(struct queues *qs, struct job_table *t, uint32_t job)
{
    return queue_push(qs, t, queues_index(qs, job_at(t, job)->queue), job);
}


int
queues_shift(struct queues *qs, struct job_table *t, uint32_t job,
    uint16_t from, uint16_t to)
{
    queue_take(qs, t, from, job);

    return queue_push(qs, t, to, job);
}


int
queues_push_at(struct queues *qs, struct job_table *t, uint32_t i,
    uint64_t at)
{
    uint16_t     n;
    struct job  *job = job_at(t, i);

    if (job_heap_push(&qs->backoff, t, at, i) != 0) {
        return -1;
    }

    n = queues_index(qs, job->queue);

    job->place = JOB_BACKOFF;
    qs->queue[n]->delayed++;
    qs->delayed++;
    qs->moved |= QUEUE_BIT(n);

    return 0;
}


static void
queue_take(struct queues *qs, struct job_table *t, uint16_t i, uint32_t n)
{
    struct job    *job = job_at(t, n);
    struct queue  *q = qs->queue[i];

    qs->moved |= QUEUE_BIT(i);

    switch (job->place) {

    case JOB_FIFO:
    case JOB_DUE:
        fair_take(&qs->flows, &q->fair, i, t, n);
        queue_left(qs, q, job->seq);

        if (q->ready == 0) {
            ring_remove(qs, i);
        }

        break;

    case JOB_BACKOFF:
        job_heap_remove(&qs->backoff, t, job->heap);
        job->place = JOB_FREE;
        q->delayed--;
        qs->delayed--;
        break;

    default:
        break;
    }
}


void
queues_take(struct queues *qs, struct job_table *t, uint32_t job)
{
    queue_take(qs, t, queues_index(qs, job_at(t, job)->queue), job);
}


int
queues_due(struct queues *qs, struct job_table *t, uint64_t now)
{
    uint32_t  i;

    while (qs->backoff.n > 0 && qs->backoff.entries[0].key <= now) {
        i = qs->backoff.entries[0].job;
        queues_take(qs, t, i);

        if (queues_push(qs, t, i) != 0) {
            return -1;
        }
    }

    return 0;
}


uint32_t
queues_next(struct queues *qs, struct job_table *t, uint64_t now)
{
    uint16_t       i;
    uint64_t       at;
    struct queue  *q;

    if (qs->wake_min <= now) {
        queues_wake_due(qs, now);
    }

    while ((i = qs->first) != QUEUE_NONE) {
        q = qs->queue[i];
        at = queue_may(qs, q, now);

        if (at <= now) {
            return fair_first(&qs->flows, &q->fair, t);
        }

        ring_remove(qs, i);
        qs->wake[i] = at;
        qs->wake_min = at < qs->wake_min ? at : qs->wake_min;
    }

    return JOB_NONE;
}


int
queues_begin(struct queues *qs, struct job_table *t, uint32_t job)
{
    int            probe;
    uint16_t       i;
    struct queue  *q;

    i = queues_index(qs, job_at(t, job)->queue);
    q = qs->queue[i];

    fair_turn(&qs->flows, &q->fair, i, t, job);
    queue_left(qs, q, job_at(t, job)->seq);
    q->running++;
    rate_reserve(&q->rate);
    probe = circuit_begin(&q->circuit);

    qs->first = q->next;
    qs->moved |= QUEUE_BIT(i);

    if (q->ready == 0) {
        ring_remove(qs, i);
    }

    return probe;
}


uint32_t
queues_more(struct queues *qs, struct job_table *t, uint32_t job,
    uint64_t room)
{
    uint16_t       i;
    uint32_t       more;
    struct job    *first = job_at(t, job);

    i = queues_index(qs, first->queue);
    more = fair_more(&qs->flows, i, first->fair, first->priority, t);

    if (more == JOB_NONE || 1ull << job_at(t, more)->size > room) {
        return JOB_NONE;
    }

    queues_take(qs, t, more);
    job_at(t, more)->behind = 0;

    return more;
}


void
queues_ran(struct queues *qs, uint32_t hash)
{
    uint16_t  i = queues_index(qs, hash);

    qs->queue[i]->running++;
    qs->moved |= QUEUE_BIT(i);
}


void
queues_ended(struct queues *qs, uint32_t hash)
{
    uint16_t  i = queues_index(qs, hash);

    if (qs->queue[i]->running) {
        qs->queue[i]->running--;
    }

    queues_touch(qs, i);
}


void
queues_flags(struct queues *qs, uint32_t hash, uint32_t flags)
{
    uint16_t  i = queues_index(qs, hash);

    qs->queue[i]->flags = flags & QUEUE_FLAGS;
    qs->changed++;
    queues_touch(qs, i);
}


void
queues_restarted(struct queues *qs, uint64_t now)
{
    uint32_t       i;
    struct queue  *q;

    for (i = 0; i < qs->n; i++) {
        q = qs->queue[i];

        if (q) {
            rate_restarted(&q->rate, now, q->restarted);
        }
    }
}
