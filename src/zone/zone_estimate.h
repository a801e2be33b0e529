/*
 * When a job will be done: what offloadd measures of each location, kept in
 * the zone's header pages, and what nginx makes of it.  libc only.
 *
 * A struct zone_service is a histogram of the time jobs took, four buckets to
 * a power of two, in which older jobs weigh less.  offloadd's loop thread
 * writes it in place, anyone reads.  Each bucket is one word and means
 * something by itself, so there is no lock and no version: a reader between
 * two stores sees a histogram that is off by one job or, while the weights
 * are being halved, has too much on one side for some 50 ns.  So has the next
 * offloadd when one was killed there, until new jobs have come.  They are
 * figures to estimate with; whatever is in them, what comes out is in range.
 */

#ifndef OFFLOAD_ZONE_ESTIMATE_H
#define OFFLOAD_ZONE_ESTIMATE_H

#include "zone.h"


#define ZONE_SERVICE_OFFSET   4096
#define ZONE_SERVICES         64                /* [0]: the whole zone */
#define ZONE_SERVICE_BUCKETS  108               /* up to 19 hours */
#define ZONE_SERVICE_UNIT     64                /* one job's weight, new */
#define ZONE_SERVICE_WEIGHT   (512 * ZONE_SERVICE_UNIT)  /* then: halved */
#define ZONE_SERVICE_ENOUGH   (3 * ZONE_SERVICE_UNIT)
#define ZONE_SERVICE_IDLE     3600              /* s: then it makes room */

#define ZONE_ESTIMATE_MAX     (400ull * 86400 * 1000)   /* ms */

struct zone_service {
    _Atomic uint32_t  location;                 /* or queue: hash; 0:
                                                   nobody's */
    _Atomic uint32_t  weight;                   /* of all buckets */
    _Atomic uint32_t  used_s;                   /* unix time of the last job */
    uint32_t          spare;
    _Atomic uint32_t  bucket[ZONE_SERVICE_BUCKETS];  /* weight << 16 | where
                                                   the mean is in it */
};

ZONE_ASSERT(sizeof(struct zone_service) == 448);
ZONE_ASSERT(offsetof(struct zone_service, bucket) == 16);
ZONE_ASSERT(ZONE_SERVICE_WEIGHT <= UINT16_MAX);
ZONE_ASSERT(ZONE_SERVICE_OFFSET
            >= ZONE_WORKER_OFFSET + sizeof(struct zone_worker));
ZONE_ASSERT(ZONE_SERVICE_OFFSET + ZONE_SERVICES * sizeof(struct zone_service)
            <= ZONE_HEADER_SIZE);

static inline struct zone_service *
zone_services(const struct zone *z)
{
    return (struct zone_service *) (z->base + ZONE_SERVICE_OFFSET);
}

/*
 * offloadd.  [0] has for how long jobs held one of the places that
 * `concurrency` counts.  So have those of queues, if there are several; others
 * have how long a location's jobs took from the start of the attempt until
 * they were settled.  NULL: all entries are others', and in use.
 */
struct zone_service *zone_service_take(struct zone_service *services,
    uint32_t location, uint32_t now_s);
void zone_service_add(struct zone_service *s, uint64_t us, uint32_t now_s);


/* A private copy of one, without the empty buckets. */

struct zone_time {
    uint32_t  weight;
    uint64_t  us;                               /* mean of the bucket's */
    uint64_t  from_us;                          /* the bucket */
    uint64_t  to_us;
};

struct zone_times {
    uint32_t          n;                        /* 0: nothing measured */
    uint64_t          weight;
    struct zone_time  at[ZONE_SERVICE_BUCKETS];  /* ascending */
};

/* Anyone.  The location's, or a queue's, or the zone's if it has none worth
 * using. */
void zone_times_read(struct zone_times *t, const struct zone_service *s);
void zone_times_of(struct zone_times *t, const struct zone_service *services,
    uint32_t location);

/* Without what fewer than three jobs have had: see zone_estimate.c. */
uint64_t zone_times_mean(const struct zone_times *t);


/* What is known of a job that is not settled, and of its zone. */

struct zone_outlook {
    uint64_t  waited_ms;                        /* since it was accepted */
    uint64_t  running_ms;                       /* this attempt */
    uint64_t  ahead;                            /* jobs to start before it */
    uint64_t  busy;                             /* places taken */
    uint64_t  concurrency;
    uint64_t  timeout_ms;                       /* of an attempt */
    uint64_t  delay_ms;                         /* it starts no earlier */
    int       held;                             /* nothing is begun, until
                                                   somebody says so */
    int       down;                             /* the backend seems to be */
    int       running;                          /* or queued */
};

struct zone_estimate {
    uint64_t  left_ms;                          /* as likely more as less */
    uint64_t  least_ms;                         /* hardly ever less */
    uint32_t  retry_s;                          /* ask again then, 1 or more */
    int       known;                            /* or the first two are 0 */
};

/* `all` is the queue's or the zone's, for jobs that wait; either may be
 * empty. */
void zone_estimate(struct zone_estimate *e, const struct zone_outlook *o,
    const struct zone_times *all, const struct zone_times *own);

#endif /* OFFLOAD_ZONE_ESTIMATE_H */
