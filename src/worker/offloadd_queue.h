/*
 * Jobs in memory and the queues they wait in.  Loop thread (main, before the
 * threads start).  All of it is memory and arithmetic: no clock is read here,
 * `now` is an argument, microseconds of the monotonic clock.  A kill loses it;
 * what has to survive (a job's queue, key, priority and time; a queue's rate
 * and flags) is in the store: see struct store_job, struct store_queue.
 *
 *      queues    round robin over those that have work and may begin it
 *      queue     its limits: running, rate, adaptive, circuit, flags
 *      levels    priority 9 first; none waits for ever: see fair_level()
 *      flows     round robin over the fair keys of a level
 *      jobs      by seq, the oldest first
 *
 * Each step is O(1), or O(log n) for what comes back out of its order, however
 * many jobs, keys or queues there are.
 */

#ifndef OFFLOADD_QUEUE_H
#define OFFLOADD_QUEUE_H


/* offloadd_jobs.c: the table of jobs, and heaps of them */

#define JOB_NONE              UINT32_MAX

enum job_place {
    JOB_FREE = 0,
    JOB_FIFO,                                   /* in a flow, in order */
    JOB_DUE,                                    /* in a flow, by seq */
    JOB_BACKOFF,                                /* by time */
    JOB_ATTEMPT,
    JOB_DEFERRED                                /* by its deadline */
};

/* One job in memory, by index: there may be millions, so it stays small. */
struct job {
    uint64_t         seq;
    uint8_t          id[ZONE_ID_SIZE];
    uint64_t         fair;                      /* its key; 0: none */
    union {
        struct attempt  *attempt;               /* ATTEMPT */
        struct {
            uint32_t     next;                  /* FIFO, FREE */
            uint32_t     prev;
        };
        struct {
            uint32_t     heap;                  /* DUE, BACKOFF, DEFERRED:
                                                   where */
            uint32_t     attempts;              /* DEFERRED */
        };
    };
    uint32_t         hash_next;
    uint32_t         queue;                     /* zone_queue_hash() */
    uint16_t         unreachable;               /* entrance gone, so often */
    uint16_t         retries;                   /* for the backoff */
    uint8_t          place;
    uint8_t          priority;
    uint8_t          size;                      /* job_size() of its body */
    uint8_t          has_slot : 1;
    uint8_t          behind : 1;                /* whoever waits already */
};

_Static_assert(sizeof(struct job) <= 56, "there may be millions");

struct job_heap_entry {
    uint64_t  key;
    uint32_t  job;
};

struct job_heap {
    struct job_heap_entry  *entries;
    uint32_t                n;
    uint32_t                cap;
};

struct job_table {
    struct job  **chunks;
    uint32_t      nchunks;
    uint32_t      chunks_cap;
    uint32_t      free;
    uint32_t      count;
    uint32_t     *hash;
    uint32_t      hash_size;                    /* power of two */
};

/* A size in a byte: the power of two that it does not exceed. */

static inline uint8_t
job_size(uint64_t bytes)
{
    return bytes <= 1 ? 0 : (uint8_t) (64 - __builtin_clzll(bytes - 1));
}

struct job *job_at(struct job_table *t, uint32_t i);
uint32_t job_add(struct job_table *t, uint64_t seq, const uint8_t *id);
uint32_t job_find(struct job_table *t, uint64_t seq);
void job_remove(struct job_table *t, uint32_t i);
uint32_t job_table_size(const struct job_table *t);     /* indices below it */
void job_table_free(struct job_table *t);

int job_heap_push(struct job_heap *h, struct job_table *t, uint64_t key,
    uint32_t job);
void job_heap_remove(struct job_heap *h, struct job_table *t, uint32_t at);


/* offloadd_fair.c: whose turn it is within one queue */

#define FAIR_LEVELS           10                /* priorities 0 to 9 */
#define FAIR_PASSED           16                /* see fair_level() */

/* The jobs of one fair key in one level of one queue, while there are any. */
struct flow {
    uint64_t         fair;
    struct job_heap  due;                       /* came back: by seq */
    uint32_t         head;                      /* the others: in order */
    uint32_t         tail;
    uint32_t         next;                      /* in the level; free */
    uint32_t         prev;
    uint32_t         hash_next;
    uint32_t         n;                         /* jobs */
    uint64_t         ripe_at;                   /* it lingers until then */
    uint16_t         queue;
    uint8_t          level;
    uint8_t          lingers;
};

struct flows {
    struct flow  *flows;
    uint32_t      n;                            /* used or on the free list */
    uint32_t      cap;
    uint32_t      free;
    uint32_t      count;
    uint32_t     *hash;
    uint32_t      hash_size;                    /* power of two */
    uint64_t      last;                         /* as if it were a seq: behind
                                                   all that are waiting */
};

struct level {
    uint32_t  head;                             /* flows: whose turn it is */
    uint32_t  tail;
    uint32_t  passed;                           /* turns of other levels */
};

struct fair {
    struct level  levels[FAIR_LEVELS];
    struct level  lingering;                    /* flows with too few jobs */
    uint32_t      size;                         /* jobs of an attempt, 1: one;
                                                   with more a flow lingers */
    uint64_t      linger_us;                    /* so long at most */
};

void flows_free(struct flows *f);
void fair_init(struct fair *fair);
/* -1: no memory, the job is nowhere; 1: ask fair_ripen() anew. */
int fair_push(struct flows *f, struct fair *fair, uint16_t queue,
    struct job_table *t, uint32_t job);
void fair_take(struct flows *f, struct fair *fair, uint16_t queue,
    struct job_table *t, uint32_t job);
/* When is another flow ripe?  UINT64_MAX: one is, or there is none. */
uint64_t fair_ripen(struct flows *f, struct fair *fair, uint64_t now);
/* `size` or `linger_us` is another: all that linger do so anew. */
void fair_changed(struct flows *f, struct fair *fair);
/* Whose turn it is, or JOB_NONE; it stays where it is. */
uint32_t fair_first(const struct flows *f, const struct fair *fair,
    struct job_table *t);
/* Another of the same flow, likewise, ripe or not. */
uint32_t fair_more(const struct flows *f, uint16_t queue, uint64_t key,
    uint8_t priority, struct job_table *t);
/* fair_first() if there is but one key and priority: it is the oldest. */
uint32_t fair_oldest(const struct flows *f, const struct fair *fair,
    struct job_table *t);
/* It takes its turn. */
void fair_turn(struct flows *f, struct fair *fair, uint16_t queue,
    struct job_table *t, uint32_t job);


/* offloadd_rate.c: how many may begin in a time */

/*
 * GCRA: `tat` is when the next would be due if all came evenly.  What has
 * been promised but not begun (its START is with the store) is `pending`.
 */
struct rate {
    uint64_t  interval;                         /* us; 0: no rate */
    uint64_t  tolerance;                        /* burst * interval */
    uint64_t  tat;
    uint32_t  pending;
};

void rate_set(struct rate *r, uint32_t count, uint64_t period_ms,
    uint32_t burst);
/* When another may begin; UINT64_MAX: not before rate_sent(). */
uint64_t rate_due(const struct rate *r, uint64_t now);
void rate_reserve(struct rate *r);
void rate_undo(struct rate *r);
void rate_sent(struct rate *r, uint64_t now);
/* `tat` as it will be if all that is pending begins now. */
uint64_t rate_plan(const struct rate *r, uint64_t now);
/* After a kill: the stored tat, and n that may have begun since. */
void rate_restore(struct rate *r, uint64_t now, uint64_t tat);
void rate_restarted(struct rate *r, uint64_t now, uint32_t n);


/* offloadd_adapt.c: how many at a time the backend bears */

#define ADAPT_START           8

struct adapt {
    uint32_t  limit;
    uint32_t  most;
    uint32_t  slow_above;                       /* below: grows fast */
    uint32_t  good;                             /* answers, towards one more */
    uint32_t  samples;
    uint64_t  cut_at;
    uint64_t  floor_us;                         /* latency, long term */
    uint64_t  floor_at;
    uint64_t  recent_us;                        /* latency, of late */
};

void adapt_init(struct adapt *a, uint32_t most);
void adapt_most(struct adapt *a, uint32_t most);
/* An attempt begun at `started` has ended; `running` counts it. */
void adapt_answer(struct adapt *a, uint64_t now, uint64_t started,
    uint32_t running, int complaint);

#define CIRCUIT_FAILURES      10                /* in a row */

enum circuit_state {
    CIRCUIT_CLOSED = 0,
    CIRCUIT_OPEN,
    CIRCUIT_PROBING
};

/* A backend that is down gets one probe at a time, ever more rarely. */
struct circuit {
    uint32_t  state;                            /* enum circuit_state */
    uint32_t  failures;                         /* in a row */
    uint32_t  opened;                           /* in a row */
    uint64_t  opened_at;
    uint64_t  until;
    uint64_t  base_us;                          /* 0: never opens */
    uint64_t  max_us;
};

uint64_t circuit_due(const struct circuit *c, uint64_t now);
int circuit_begin(struct circuit *c);           /* 1: it is the probe */
/* Each returns 1 if the state changed. */
int circuit_good(struct circuit *c);
int circuit_bad(struct circuit *c, uint64_t now, uint64_t started,
    uint32_t enough, uint64_t random);
int circuit_neither(struct circuit *c, uint64_t now, int probe);


/* offloadd_head.c: the lowest seq of those that are ready */

/* None that is ready is above `last`, nor below `low` but those that came
 * back. */
struct head {
    uint64_t  low;
    uint64_t  last;
    uint64_t  back_low;                         /* of those: none is below */
    uint64_t  back;                             /* how many */
};

/* `others`: how many are ready besides it. */
void head_push(struct head *h, uint64_t seq, uint64_t others);
void head_take(struct head *h, uint64_t seq);

/* offloadd_queue.c: all queues of the zone */

#define QUEUE_DEFAULT         0                 /* its index */

/* Nothing begins in either. */
#define QUEUE_FLAGS           (STORE_QUEUE_PAUSED|STORE_QUEUE_DRAINING)

struct queue {
    struct queue_policy  conf;
    uint32_t             hash;
    uint32_t             flags;                 /* STORE_QUEUE_* */
    uint32_t             ready;
    uint32_t             delayed;
    uint32_t             running;
    uint32_t             restarted;             /* may have been running */
    uint16_t             next;                  /* in the ring */
    uint16_t             prev;
    uint8_t              in_ring;
    uint8_t              kept;                  /* while configuring */
    struct head          head;
    struct fair          fair;
    struct rate          rate;
    struct adapt         adapt;
    struct circuit       circuit;
};

/* A queue that is not in the policy, as it was when it was last. */
struct queue_left {
    uint32_t  hash;
    uint32_t  flags;
    uint64_t  tat;
};

struct queues {
    struct queue      **queue;                  /* by index; NULL: free */
    uint64_t           *wake;                   /* when to look again */
    uint32_t            n;
    uint32_t            size;                   /* of both */
    uint16_t           *map;                    /* by hash */
    uint32_t            map_size;               /* power of two */
    uint16_t            first;                  /* the ring: whose turn */
    uint64_t            wake_min;
    uint32_t            concurrency;            /* the zone's */
    uint32_t            changed;                /* what queue_plain() says */
    uint64_t            ready;
    uint64_t            delayed;
    uint64_t            moved;                  /* QUEUE_BIT()s of those that
                                                   have changed */
    struct head         head;                   /* of all */
    struct flows        flows;
    struct job_heap     backoff;                /* by time */
    struct queue_left  *left;
    uint32_t            nleft;
};

#define QUEUE_NONE            UINT16_MAX

/* One of the first 64, or 0. */
#define QUEUE_BIT(i)          ((i) < 64 ? 1ull << (i) : 0)

/* 1: queues came or went; -1: no memory, and the worker has to go. */
int queues_configure(struct queues *qs, struct job_table *t,
    const struct queue_policy *conf, uint32_t n, uint32_t concurrency);
void queues_free(struct queues *qs);
/* The default queue when there is none of that name. */
uint16_t queues_index(const struct queues *qs, uint32_t hash);
struct queue *queues_find(const struct queues *qs, uint32_t hash);

int queues_push(struct queues *qs, struct job_table *t, uint32_t job);
int queues_push_at(struct queues *qs, struct job_table *t, uint32_t job,
    uint64_t at);
void queues_take(struct queues *qs, struct job_table *t, uint32_t job);
/* What is due leaves the backoff.  -1: no memory. */
int queues_due(struct queues *qs, struct job_table *t, uint64_t now);
/* Whose turn it is, and may begin now; it stays where it is. */
uint32_t queues_next(struct queues *qs, struct job_table *t, uint64_t now);
/* It takes its turn: 1 if it is its queue's probe.  queues_ran() counts what
 * is begun without one. */
int queues_begin(struct queues *qs, struct job_table *t, uint32_t job);
/* Another that may go with it, whose body has `room`; it has left its queue.
 * JOB_NONE: there is none, or it is too large. */
uint32_t queues_more(struct queues *qs, struct job_table *t, uint32_t job,
    uint64_t room);
void queues_ran(struct queues *qs, uint32_t hash);
void queues_ended(struct queues *qs, uint32_t hash);
/* Something has changed for this queue: it is looked at again. */
void queues_touch(struct queues *qs, uint16_t index);
/* A job that waits in one goes to another: -1: no memory. */
int queues_shift(struct queues *qs, struct job_table *t, uint32_t job,
    uint16_t from, uint16_t to);
/*
 * No ready job of the queue, or of any, has a lower number; 0: none is ready.
 * Where keys and priorities mix the order it may lag behind: 1 in *lags.
 */
uint64_t queue_head(struct queues *qs, struct job_table *t, uint16_t index,
    int *lags);
uint64_t queues_head(struct queues *qs, struct job_table *t, int *lags);
uint64_t queues_wake(const struct queues *qs);
/* No limit but the zone's: its jobs may begin as soon as there are any. */
int queue_plain(const struct queues *qs, const struct queue *q);
uint32_t queue_limit(const struct queues *qs, const struct queue *q);
void queues_flags(struct queues *qs, uint32_t hash, uint32_t flags);
/* What the store has of a queue, at the start. */
int queues_restore(struct queues *qs, uint32_t hash, uint32_t flags,
    uint64_t tat, uint64_t now);
/* What was running counts anew in its rate. */
void queues_restarted(struct queues *qs, uint64_t now);

#endif /* OFFLOADD_QUEUE_H */
