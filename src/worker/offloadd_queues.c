/*
 * Which queues there are: the policy's, at the start and whenever there is a
 * new one.  Loop thread, memory only.
 *
 * A queue that stays keeps its jobs and all it has learned.  The jobs of one
 * that goes wait in the default queue, and go back should it come again; its
 * rate and its flags are remembered for that.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


/* A backend that is down is not asked more often than this in the end. */
#define QUEUE_CIRCUIT_US      1000000


static void
queue_conf(struct queue *q, const struct queue_policy *conf,
    uint32_t concurrency)
{
    uint32_t  most;

    q->conf = *conf;
    q->hash = zone_queue_hash(conf->name, strlen(conf->name));

    most = conf->concurrency && conf->concurrency < concurrency
           ? conf->concurrency : concurrency;

    if (conf->adaptive && q->adapt.most) {
        adapt_most(&q->adapt, most);

    } else {
        adapt_init(&q->adapt, conf->adaptive ? most : 0);
    }

    q->fair.size = conf->batch.size ? conf->batch.size : 1;
    q->fair.linger_us = conf->batch.linger_ms * 1000;

    rate_set(&q->rate, conf->rate_count, conf->rate_period_ms,
             conf->rate_burst);

    q->circuit.base_us = conf->circuit ? conf->retry.backoff_ms * 1000 : 0;
    q->circuit.max_us = conf->retry.backoff_max_ms * 1000;

    if (q->circuit.max_us < QUEUE_CIRCUIT_US) {
        q->circuit.max_us = QUEUE_CIRCUIT_US;
    }

    if (!conf->circuit) {
        (void) circuit_good(&q->circuit);
    }
}


static struct queue *
queue_make(const struct queue_policy *conf, uint32_t concurrency)
{
    struct queue  *q;

    q = calloc(1, sizeof(*q));

    if (q) {
        fair_init(&q->fair);
        queue_conf(q, conf, concurrency);
    }

    return q;
}


static int
queues_find_left(const struct queues *qs, uint32_t hash)
{
    uint32_t  i;

    for (i = 0; i < qs->nleft; i++) {
        if (qs->left[i].hash == hash) {
            return (int) i;
        }
    }

    return -1;
}


static int
queues_leave(struct queues *qs, uint32_t hash, uint32_t flags, uint64_t tat)
{
    int                 i;
    struct queue_left  *p;

    i = queues_find_left(qs, hash);

    if (i == -1) {
        p = realloc(qs->left, (qs->nleft + 1) * sizeof(*p));
        if (p == NULL) {
            return -1;
        }

        qs->left = p;
        i = (int) qs->nleft++;
    }

    qs->left[i].hash = hash;
    qs->left[i].flags = flags;
    qs->left[i].tat = tat;

    return 0;
}


/* A queue that was there before, as it was then. */

static void
queues_come_back(struct queues *qs, struct queue *q)
{
    int  i;

    i = queues_find_left(qs, q->hash);

    if (i != -1) {
        q->flags = qs->left[i].flags;
        q->rate.tat = qs->left[i].tat;
        qs->left[i] = qs->left[--qs->nleft];
    }
}


int
queues_restore(struct queues *qs, uint32_t hash, uint32_t flags,
    uint64_t tat, uint64_t now)
{
    struct queue  *q;

    q = queues_find(qs, hash);

    if (q->hash != hash) {
        return queues_leave(qs, hash, flags & QUEUE_FLAGS, tat);
    }

    queues_flags(qs, hash, flags);
    rate_restore(&q->rate, now, tat);

    return 0;
}


/* Room for all that may come, so that nothing fails half-way. */

static int
queues_reserve(struct queues *qs, uint32_t n, uint16_t **map,
    uint32_t *map_size)
{
    uint32_t        size;
    uint64_t       *wake;
    struct queue  **queue;

    size = qs->n + n;

    if (size > qs->size) {
        queue = realloc(qs->queue, size * sizeof(*queue));
        if (queue == NULL) {
            return -1;
        }

        qs->queue = queue;

        wake = realloc(qs->wake, size * sizeof(*wake));
        if (wake == NULL) {
            return -1;
        }

        qs->wake = wake;
        qs->size = size;
    }

    for (size = 4; size < n * 2; size *= 2) { /* void */ }

    *map = malloc(size * sizeof(**map));
    *map_size = size;

    if (*map == NULL) {
        return -1;
    }

    memset(*map, 0xff, size * sizeof(**map));   /* QUEUE_NONE */

    return 0;
}


static void
map_add(uint16_t *map, uint32_t size, uint32_t hash, uint16_t index)
{
    uint32_t  i;

    for (i = hash & (size - 1); map[i] != QUEUE_NONE;
         i = (i + 1) & (size - 1)) { /* void */ }

    map[i] = index;
}


/* A free index for a queue that is new; the default's is 0. */

static uint16_t
queues_slot(struct queues *qs)
{
    uint32_t  i;

    for (i = 0; i < qs->n; i++) {
        if (qs->queue[i] == NULL) {
            return (uint16_t) i;
        }
    }

    qs->wake[qs->n] = UINT64_MAX;

    return (uint16_t) qs->n++;
}


/* The jobs whose queue is another one by now. */

static int
queues_move(struct queues *qs, struct queues *was, struct job_table *t)
{
    uint32_t     i, size;
    uint16_t     from, to;
    struct job  *job;

    size = job_table_size(t);

    for (i = 0; i < size; i++) {
        job = job_at(t, i);

        if (job->place != JOB_FIFO && job->place != JOB_DUE
            && job->place != JOB_BACKOFF)
        {
            continue;
        }

        from = queues_index(was, job->queue);
        to = queues_index(qs, job->queue);

        if (from == to) {
            continue;
        }

        if (job->place == JOB_BACKOFF) {
            qs->queue[from]->delayed--;
            qs->queue[to]->delayed++;
            continue;
        }

        if (queues_shift(qs, t, i, from, to) != 0) {
            return -1;
        }
    }

    return 0;
}


/* Existing queues get their new policy, new ones are made. */

static int
queues_update(struct queues *qs, const struct queue_policy *conf, uint32_t n,
    uint16_t *map, uint32_t map_size, int *moved)
{
    uint32_t       i, hash;
    uint16_t       at;
    struct queue  *q;

    for (i = 0; i < n; i++) {
        hash = zone_queue_hash(conf[i].name, strlen(conf[i].name));
        at = qs->map ? queues_index(qs, hash) : QUEUE_NONE;

        if (at != QUEUE_NONE && qs->queue[at]->hash == hash) {
            queue_conf(qs->queue[at], &conf[i], qs->concurrency);

        } else {
            q = queue_make(&conf[i], qs->concurrency);
            if (q == NULL) {
                return -1;
            }

            at = queues_slot(qs);
            qs->queue[at] = q;
            qs->wake[at] = UINT64_MAX;
            queues_come_back(qs, q);
            *moved = 1;
        }

        qs->queue[at]->kept = 1;
        map_add(map, map_size, hash, at);
    }

    return 0;
}


static int
queues_sweep(struct queues *qs)
{
    uint32_t       i;
    struct queue  *q;

    for (i = 0; i < qs->n; i++) {
        q = qs->queue[i];

        if (q == NULL) {
            continue;
        }

        if (q->kept) {
            q->kept = 0;
            fair_changed(&qs->flows, &q->fair);
            queues_touch(qs, (uint16_t) i);
            continue;
        }

        if (queues_leave(qs, q->hash, q->flags, q->rate.tat) != 0) {
            return -1;
        }

        free(q);
        qs->queue[i] = NULL;
        qs->wake[i] = UINT64_MAX;
    }

    return 0;
}


/*
 * `conf` begins with the default queue.  Who runs is counted anew by the
 * caller when queues came or went: that is what 1 means.
 */

int
queues_configure(struct queues *qs, struct job_table *t,
    const struct queue_policy *conf, uint32_t n, uint32_t concurrency)
{
    int            rc, moved;
    uint32_t       i, map_size;
    uint16_t      *map;
    struct queues  was;

    if (qs->map == NULL) {
        qs->first = QUEUE_NONE;
        qs->wake_min = UINT64_MAX;
    }

    if (queues_reserve(qs, n, &map, &map_size) != 0) {
        return -1;
    }

    qs->concurrency = concurrency;
    qs->changed++;
    qs->moved = UINT64_MAX;
    moved = 0;

    rc = queues_update(qs, conf, n, map, map_size, &moved);

    if (rc != 0) {
        free(map);                              /* what was made is not used */
        return -1;
    }

    for (i = 0; i < qs->n; i++) {
        moved |= qs->queue[i] && !qs->queue[i]->kept;
    }

    was = *qs;
    qs->map = map;
    qs->map_size = map_size;

    if (moved && was.map) {
        rc = queues_move(qs, &was, t);
    }

    if (rc == 0) {
        rc = queues_sweep(qs);
    }

    free(was.map);

    return rc == 0 ? moved : -1;
}


void
queues_free(struct queues *qs)
{
    uint32_t  i;

    for (i = 0; i < qs->n; i++) {
        free(qs->queue[i]);
    }

    free(qs->queue);
    free(qs->wake);
    free(qs->map);
    free(qs->left);
    free(qs->backoff.entries);
    flows_free(&qs->flows);
    memset(qs, 0, sizeof(*qs));
}
