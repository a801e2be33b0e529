/*
 * Whose turn it is within one queue: a priority's level, in it a fair key's
 * flow, in that the oldest job.  Loop thread, memory only.
 *
 * A flow exists while it has jobs.  What arrives in order is a list; what
 * comes back (from an attempt, a backoff, another queue) older than the list's
 * last goes into a heap beside it.  Flows are found by queue, level and key,
 * so that a job need not know where its flow is.
 *
 * Where several jobs make one attempt a flow takes turns only while it is
 * ripe: it has as many as an attempt takes, or has lingered for them.  Until
 * then it is in a list of its own, in the order in which they ripen.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define FLOW_NONE             UINT32_MAX
#define FLOW_UNTIMED          UINT64_MAX        /* when it began to linger
                                                   nobody has looked yet */
#define FLOW_HASH_MIN         64


static int fair_level(const struct fair *fair);


static uint32_t
flow_bucket(const struct flows *f, uint64_t fair, uint16_t queue,
    uint8_t level)
{
    uint64_t  h;

    h = (fair ^ ((uint64_t) queue << 8 | level)) * 0x9e3779b97f4a7c15ull;

    return (uint32_t) (h >> 32) & (f->hash_size - 1);
}


static uint32_t
flow_find(const struct flows *f, uint64_t fair, uint16_t queue, uint8_t level)
{
    uint32_t      i;
    struct flow  *flow;

    if (f->hash_size == 0) {
        return FLOW_NONE;
    }

    for (i = f->hash[flow_bucket(f, fair, queue, level)]; i != FLOW_NONE;
         i = flow->hash_next)
    {
        flow = &f->flows[i];

        if (flow->fair == fair && flow->queue == queue
            && flow->level == level)
        {
            return i;
        }
    }

    return FLOW_NONE;
}


static void
flow_link(struct flows *f, uint32_t i)
{
    uint32_t     *head;
    struct flow  *flow = &f->flows[i];

    head = &f->hash[flow_bucket(f, flow->fair, flow->queue, flow->level)];
    flow->hash_next = *head;
    *head = i;
}


static int
flow_grow(struct flows *f)
{
    uint32_t      i, size, cap, *hash, *old;
    uint32_t      n, next, old_size;
    struct flow  *p;

    if (f->n == f->cap) {
        cap = f->cap ? f->cap * 2 : 16;

        p = realloc(f->flows, cap * sizeof(*p));
        if (p == NULL) {
            return -1;
        }

        f->flows = p;
        f->cap = cap;
    }

    if (f->count < f->hash_size) {
        return 0;
    }

    size = f->hash_size ? f->hash_size * 2 : FLOW_HASH_MIN;

    hash = malloc(size * sizeof(*hash));
    if (hash == NULL) {
        return -1;
    }

    memset(hash, 0xff, size * sizeof(*hash));   /* FLOW_NONE */

    old = f->hash;
    old_size = f->hash_size;
    f->hash = hash;
    f->hash_size = size;

    for (i = 0; i < old_size; i++) {
        for (n = old[i]; n != FLOW_NONE; n = next) {
            next = f->flows[n].hash_next;
            flow_link(f, n);
        }
    }

    free(old);

    return 0;
}


/* At the end of its level: it waits for its turn. */

static void
flow_append(struct flows *f, struct level *l, uint32_t i)
{
    struct flow  *flow = &f->flows[i];

    flow->next = FLOW_NONE;
    flow->prev = l->tail;

    if (l->tail == FLOW_NONE) {
        l->head = i;
    } else {
        f->flows[l->tail].next = i;
    }

    l->tail = i;
}


static void
flow_unlink(struct flows *f, struct level *l, uint32_t i)
{
    struct flow  *flow = &f->flows[i];

    if (flow->prev == FLOW_NONE) {
        l->head = flow->next;
    } else {
        f->flows[flow->prev].next = flow->next;
    }

    if (flow->next == FLOW_NONE) {
        l->tail = flow->prev;
    } else {
        f->flows[flow->next].prev = flow->prev;
    }
}


/* The list it is in. */

static struct level *
flow_list(struct fair *fair, const struct flow *flow)
{
    return flow->lingers ? &fair->lingering : &fair->levels[flow->level];
}


static void
flow_move(struct flows *f, struct fair *fair, uint32_t i, int lingers)
{
    struct flow  *flow = &f->flows[i];

    flow_unlink(f, flow_list(fair, flow), i);
    flow->lingers = lingers != 0;
    flow->ripe_at = lingers ? FLOW_UNTIMED : flow->ripe_at;
    flow_append(f, flow_list(fair, flow), i);
}


static uint32_t
flow_make(struct flows *f, struct fair *fair, uint64_t key, uint16_t queue,
    uint8_t level)
{
    uint32_t      i;
    struct flow  *flow;

    if (f->cap == 0) {
        f->free = FLOW_NONE;
    }

    if ((f->free == FLOW_NONE || f->count >= f->hash_size)
        && flow_grow(f) != 0)
    {
        return FLOW_NONE;
    }

    if (f->free != FLOW_NONE) {
        i = f->free;
        f->free = f->flows[i].next;

    } else {
        i = f->n++;
    }

    flow = &f->flows[i];
    memset(flow, 0, sizeof(*flow));
    flow->fair = key;
    flow->queue = queue;
    flow->level = level;
    flow->head = JOB_NONE;
    flow->tail = JOB_NONE;
    flow->lingers = fair->size > 1;
    flow->ripe_at = FLOW_UNTIMED;

    flow_link(f, i);
    flow_append(f, flow_list(fair, flow), i);
    f->count++;

    return i;
}


static void
flow_remove(struct flows *f, struct fair *fair, uint32_t i)
{
    uint32_t     *link;
    struct flow  *flow = &f->flows[i];

    flow_unlink(f, flow_list(fair, flow), i);

    link = &f->hash[flow_bucket(f, flow->fair, flow->queue, flow->level)];

    while (*link != i) {
        link = &f->flows[*link].hash_next;
    }

    *link = flow->hash_next;

    free(flow->due.entries);
    memset(&flow->due, 0, sizeof(flow->due));
    flow->next = f->free;
    f->free = i;
    f->count--;
}


void
flows_free(struct flows *f)
{
    uint32_t  i;

    for (i = 0; i < f->n; i++) {
        free(f->flows[i].due.entries);
    }

    free(f->flows);
    free(f->hash);
    memset(f, 0, sizeof(*f));
}


void
fair_init(struct fair *fair)
{
    int  i;

    for (i = 0; i < FAIR_LEVELS; i++) {
        fair->levels[i].head = FLOW_NONE;
        fair->levels[i].tail = FLOW_NONE;
        fair->levels[i].passed = 0;
    }

    fair->lingering.head = FLOW_NONE;
    fair->lingering.tail = FLOW_NONE;
    fair->size = 1;
    fair->linger_us = 0;
}


static void
fair_link(struct job_table *t, struct flow *flow, uint32_t i)
{
    struct job  *job = job_at(t, i);

    job->place = JOB_FIFO;
    job->next = JOB_NONE;
    job->prev = flow->tail;

    if (flow->tail == JOB_NONE) {
        flow->head = i;
    } else {
        job_at(t, flow->tail)->next = i;
    }

    flow->tail = i;
}


int
fair_push(struct flows *f, struct fair *fair, uint16_t queue,
    struct job_table *t, uint32_t i)
{
    int           made;
    uint32_t      n;
    struct job   *job = job_at(t, i);
    struct flow  *flow;

    n = flow_find(f, job->fair, queue, job->priority);
    made = n == FLOW_NONE;

    if (made) {
        n = flow_make(f, fair, job->fair, queue, job->priority);
        if (n == FLOW_NONE) {
            return -1;
        }
    }

    flow = &f->flows[n];

    f->last = f->last > job->seq ? f->last : job->seq;

    if (job->behind
        || (flow->tail != JOB_NONE && job_at(t, flow->tail)->seq > job->seq))
    {
        if (job_heap_push(&flow->due, t, job->behind ? ++f->last : job->seq,
                          i) != 0)
        {
            return -1;
        }

        job->place = JOB_DUE;

    } else {
        fair_link(t, flow, i);
    }

    flow->n++;

    if (!flow->lingers) {
        return 0;
    }

    if (flow->n >= fair->size) {
        flow_move(f, fair, n, 0);
        return 1;
    }

    return made;
}


void
fair_take(struct flows *f, struct fair *fair, uint16_t queue,
    struct job_table *t, uint32_t i)
{
    uint32_t      n;
    struct job   *job = job_at(t, i);
    struct flow  *flow;

    n = flow_find(f, job->fair, queue, job->priority);

    if (n == FLOW_NONE) {                       /* memory was short once */
        job->place = JOB_FREE;
        return;
    }

    flow = &f->flows[n];

    if (job->place == JOB_DUE) {
        job_heap_remove(&flow->due, t, job->heap);

    } else {
        if (job->prev == JOB_NONE) {
            flow->head = job->next;
        } else {
            job_at(t, job->prev)->next = job->next;
        }

        if (job->next == JOB_NONE) {
            flow->tail = job->prev;
        } else {
            job_at(t, job->next)->prev = job->prev;
        }
    }

    job->place = JOB_FREE;

    if (--flow->n == 0) {
        flow_remove(f, fair, n);
    }
}


/*
 * Those that have lingered long enough take turns, and one whose turn has come
 * with too few, others having gone ahead, lingers anew.  When is the next one
 * ripe?  UINT64_MAX: there is none, or some are already.
 */

uint64_t
fair_ripen(struct flows *f, struct fair *fair, uint64_t now)
{
    int           i;
    uint32_t      n;
    struct flow  *flow;

    if (fair->size <= 1 && fair->lingering.head == FLOW_NONE) {
        return UINT64_MAX;
    }

    for (n = fair->lingering.tail; n != FLOW_NONE; n = flow->prev) {
        flow = &f->flows[n];

        if (flow->ripe_at != FLOW_UNTIMED) {
            break;
        }

        flow->ripe_at = now + fair->linger_us;
    }

    while ((n = fair->lingering.head) != FLOW_NONE
           && (f->flows[n].ripe_at <= now || fair->size <= 1))
    {
        flow_move(f, fair, n, 0);
    }

    for (i = 0; i < FAIR_LEVELS; i++) {
        while ((n = fair->levels[i].head) != FLOW_NONE
               && f->flows[n].n < fair->size && f->flows[n].ripe_at > now)
        {
            flow_move(f, fair, n, 1);
            f->flows[n].ripe_at = now + fair->linger_us;
        }
    }

    if (fair_level(fair) != -1 || fair->lingering.head == FLOW_NONE) {
        return UINT64_MAX;
    }

    return f->flows[fair->lingering.head].ripe_at;
}


void
fair_changed(struct flows *f, struct fair *fair)
{
    uint32_t      n, next;
    struct flow  *flow;

    for (n = fair->lingering.head; n != FLOW_NONE; n = next) {
        flow = &f->flows[n];
        next = flow->next;
        flow->ripe_at = FLOW_UNTIMED;

        if (flow->n >= fair->size) {
            flow_move(f, fair, n, 0);
        }
    }
}


/*
 * The highest level that has jobs, except that one which was passed over
 * FAIR_PASSED times goes first, of several the one that was so most often.
 * At most nine others can be in front of it then: no level is passed over
 * more than FAIR_PASSED + FAIR_LEVELS - 2 times.
 */

static int
fair_level(const struct fair *fair)
{
    int       i, top;
    uint32_t  most;

    top = -1;
    most = FAIR_PASSED - 1;

    for (i = FAIR_LEVELS - 1; i >= 0; i--) {

        if (fair->levels[i].head == FLOW_NONE) {
            continue;
        }

        if (top == -1) {
            top = i;
        }

        if (fair->levels[i].passed > most && !ZONE_MUTANT("fair.passed")) {
            most = fair->levels[i].passed;
            top = i;
        }
    }

    return top;
}


static uint32_t
flow_first(const struct flow *flow, struct job_table *t)
{
    if (flow->due.n > 0
        && (flow->head == JOB_NONE
            || flow->due.entries[0].key < job_at(t, flow->head)->seq))
    {
        return flow->due.entries[0].job;
    }

    return flow->head;
}


uint32_t
fair_first(const struct flows *f, const struct fair *fair,
    struct job_table *t)
{
    int  i;

    i = fair_level(fair);

    return i == -1 ? JOB_NONE : flow_first(&f->flows[fair->levels[i].head], t);
}


uint32_t
fair_more(const struct flows *f, uint16_t queue, uint64_t key,
    uint8_t priority, struct job_table *t)
{
    uint32_t  n;

    n = flow_find(f, key, queue, priority);

    return n == FLOW_NONE ? JOB_NONE : flow_first(&f->flows[n], t);
}


uint32_t
fair_oldest(const struct flows *f, const struct fair *fair,
    struct job_table *t)
{
    int  i, n;

    if (fair->lingering.head != FLOW_NONE) {
        return JOB_NONE;
    }

    for (i = 0, n = 0; i < FAIR_LEVELS; i++) {
        n += fair->levels[i].head != FLOW_NONE;

        if (n > 1 || fair->levels[i].head != fair->levels[i].tail) {
            return JOB_NONE;
        }
    }

    return n ? fair_first(f, fair, t) : JOB_NONE;
}


void
fair_turn(struct flows *f, struct fair *fair, uint16_t queue,
    struct job_table *t, uint32_t i)
{
    int            level;
    uint32_t       n;
    struct job    *job = job_at(t, i);
    struct level  *l = &fair->levels[job->priority];

    n = flow_find(f, job->fair, queue, job->priority);

    if (l->head == n && l->tail != n) {
        flow_unlink(f, l, n);
        flow_append(f, l, n);
    }

    fair_take(f, fair, queue, t, i);
    job->behind = 0;

    for (level = 0; level < FAIR_LEVELS; level++) {

        if (level == job->priority || fair->levels[level].head == FLOW_NONE) {
            fair->levels[level].passed = 0;

        } else {
            fair->levels[level].passed++;
        }
    }
}
