/*
 * What offloadd publishes of each queue, in the zone's header pages, and what
 * nginx makes of it: whose turn comes when.  libc only.
 *
 * offloadd's loop thread writes, each word by itself and only when it has
 * changed; anyone reads.  They are hints to answer with, no two of which need
 * to agree, and a kill leaves those of a moment ago: the next offloadd writes
 * all anew.  Whatever is in them, what comes out is in range.
 */

#ifndef OFFLOAD_ZONE_QUEUE_H
#define OFFLOAD_ZONE_QUEUE_H

#include "zone_estimate.h"


#define ZONE_QUEUE_OFFSET     32768
#define ZONE_QUEUES           64                /* [0]: the default queue */

#define ZONE_QUEUE_USED       0x01              /* the entry is a queue's */
#define ZONE_QUEUE_HELD       0x02              /* paused, or draining */
#define ZONE_QUEUE_OPEN       0x04              /* its circuit: the backend
                                                   is down */

struct zone_queue {
    _Atomic uint32_t  flags;                    /* ZONE_QUEUE_* */
    _Atomic uint32_t  running;
    _Atomic uint32_t  concurrency;              /* running at most, now */
    _Atomic uint32_t  batch;                    /* so many jobs begin as one;
                                                   0: one */
    _Atomic uint64_t  waiting;                  /* ready, or not yet */
    _Atomic uint64_t  head_seq;                 /* none that is ready is
                                                   below; 0: none is ready */
    _Atomic uint64_t  last_seq;                 /* nor above */
    _Atomic uint64_t  interval_us;              /* of its rate; 0: none */
    _Atomic uint64_t  burst_us;                 /* so much ahead of it */
    _Atomic uint64_t  due_ms;                   /* unix time of the next by
                                                   the rate alone; 0: past */
};

struct zone_queues {
    _Atomic uint32_t  n;                        /* may be over ZONE_QUEUES */
    _Atomic uint32_t  flags;                    /* HELD: the whole zone */
    _Atomic uint32_t  busy;                     /* queues that have jobs ready
                                                   and are not held */
    uint32_t          spare;
    _Atomic uint32_t  hash[ZONE_QUEUES];        /* zone_queue_hash() */
    struct zone_queue queue[ZONE_QUEUES];
};

ZONE_ASSERT(sizeof(struct zone_queue) == 64);
ZONE_ASSERT(offsetof(struct zone_queue, waiting) == 16);
ZONE_ASSERT(sizeof(struct zone_queues) == 4368);
ZONE_ASSERT(offsetof(struct zone_queues, hash) == 16);
ZONE_ASSERT(offsetof(struct zone_queues, queue) == 272);
ZONE_ASSERT(ZONE_QUEUE_OFFSET
            >= ZONE_SERVICE_OFFSET
               + ZONE_SERVICES * sizeof(struct zone_service));
ZONE_ASSERT(ZONE_QUEUE_OFFSET + sizeof(struct zone_queues)
            <= ZONE_HEADER_SIZE);

static inline struct zone_queues *
zone_queues(const struct zone *z)
{
    return (struct zone_queues *) (z->base + ZONE_QUEUE_OFFSET);
}


/* A private copy of what concerns the jobs of one queue. */

struct zone_turns {
    uint32_t  flags;                            /* the zone's as well */
    uint32_t  queue;                            /* its service times */
    uint64_t  waiting;
    uint64_t  head_seq;
    uint64_t  last_seq;
    uint64_t  busy;                             /* places taken, */
    uint64_t  concurrency;                      /* of so many it may have */
    uint64_t  batch;                            /* of so many jobs, 1 or more */
    uint64_t  interval_us;
    uint64_t  burst_us;
    uint64_t  due_ms;
};

/*
 * Anyone.  Of the default queue if there is no such one, and of the whole zone
 * if it is among those that have no entry.
 */
void zone_turns_read(struct zone_turns *t, const struct zone *z,
    uint32_t queue);

/* 1: the next.  No job of the queue that is older is left out. */
uint64_t zone_turns_position(const struct zone_turns *t, uint64_t seq);

/* How many starts come before its own, more likely: see zone_queue.c. */
uint64_t zone_turns_ahead(const struct zone_turns *t, uint64_t seq);

/* ms until the rate lets a job begin that has so many before it. */
uint64_t zone_turns_rate(const struct zone_turns *t, uint64_t ahead,
    uint64_t now_ms);

#endif /* OFFLOAD_ZONE_QUEUE_H */
