/*
 * What the store keeps: the keys and values of its LMDB databases.  offloadd
 * writes them, nginx's workers read them in short read-only transactions.
 * Plain data, libc only; the engines are elsewhere.
 *
 *      meta       "layout" -> uint32_t; "next_seq" -> uint64_t;
 *                 "owner" -> struct store_owner;
 *                 "counters" -> struct store_counters;
 *                 "rings" -> struct store_rings + a store_ring for each lane;
 *                 "queue/" + hash -> struct store_queue;
 *                 "hold" -> uint32_t, the zone's STORE_QUEUE_* flags
 *      ids        job id, 16 bytes -> seq
 *      jobs       seq -> struct store_job + its strings: Content-Type, the
 *                 error's message, the progress's
 *      requests   seq -> struct zone_request + its strings; gone once the
 *                 job is settled, unless it is a dead letter
 *      results    seq -> struct store_result + headers + inline body
 *      expiry     store_expiry_key -> nothing
 *      keys       digest of an idempotency key -> struct store_key
 *      key_expiry store_key_expiry -> nothing; once the key's job is settled
 *      dead       store_dead_key -> nothing: each dead letter
 *      hooks      store_hook_key -> struct store_hook + its URL + its trace,
 *                 header lines with a NUL each + what is sent: each delivery
 *                 of a webhook, from its job's end on
 *      hook_due   store_hook_due -> nothing: each that is to be sent
 *      gone       store_gone_key -> struct store_gone + the host: each
 *                 receiver that is sent nothing more
 *      gone_age   store_gone_age -> nothing: those that will be forgotten
 *
 * seq is a uint64_t in native byte order (MDB_INTEGERKEY), given out in order
 * of acceptance, from 1.  Settled jobs keep their row in `jobs` until they
 * expire, then an EXPIRED row (a tombstone, for the 410) for a while.
 *
 * Beside LMDB's files, in the store's directory:
 *      spool/<job id>    a body too large for the ring
 *      spool/tmp/        bodies that nginx receives, and such as were put
 *      blobs/<job id>.<attempt>
 *                        a result body too large to be inline; see
 *                        store_blob()
 *      store.lock        byte n is locked while the owner of epoch n lives
 */

#ifndef OFFLOAD_ZONE_STORE_H
#define OFFLOAD_ZONE_STORE_H

#include <stddef.h>
#include <stdint.h>
#include "zone.h"
#include "zone_hook.h"
#include "zone_report.h"
#include "zone_request.h"

#define STORE_LAYOUT          1
#define STORE_FILE            "store.mdb"       /* MDB_NOSUBDIR */
#define STORE_LOCK            "store.lock"
#define STORE_MAP_SIZE        (1ull << 40)      /* address space only */
#define STORE_READERS         1024
#define STORE_INLINE_MAX      (64u * 1024)      /* larger results: a blob */

#define STORE_DB_META         "meta"
#define STORE_DB_IDS          "ids"
#define STORE_DB_JOBS         "jobs"
#define STORE_DB_REQUESTS     "requests"
#define STORE_DB_RESULTS      "results"
#define STORE_DB_EXPIRY       "expiry"
#define STORE_DB_KEYS         "keys"
#define STORE_DB_KEY_EXPIRY   "key_expiry"
#define STORE_DB_DEAD         "dead"
#define STORE_DB_HOOKS        "hooks"
#define STORE_DB_HOOK_DUE     "hook_due"
#define STORE_DB_GONE         "gone"
#define STORE_DB_GONE_AGE     "gone_age"
#define STORE_DBS             16

enum store_state {
    STORE_QUEUED = 1,
    STORE_RUNNING,
    STORE_COMPLETED,
    STORE_FAILED,
    STORE_CANCELED,
    STORE_EXPIRED,
    STORE_STATES
};

/* Why a job has no good answer; shown as error.code. */
enum store_error {
    STORE_ERROR_NONE = 0,
    STORE_ERROR_BACKEND,                        /* "backend_status" */
    STORE_ERROR_TIMEOUT,                        /* "timeout" */
    STORE_ERROR_CUT_OFF,                        /* "cut_off" */
    STORE_ERROR_UNREACHABLE,                    /* "unreachable" */
    STORE_ERROR_LOST,                           /* "lost": at most once */
    STORE_ERROR_RESULT,                         /* "result_not_stored" */
    STORE_ERROR_REQUEST,                        /* "request_lost" */
    STORE_ERROR_TOO_LARGE,                      /* "result_too_large" */
    STORE_ERROR_EXHAUSTED,                      /* "exhausted" */
    STORE_ERROR_EXPIRED,                        /* "expired" */
    STORE_ERROR_EXEC,                           /* "exec_failed" */
    STORE_ERROR_ITEM,                           /* "invalid_item" */
    STORE_ERROR_BATCH,                          /* "invalid_batch_answer" */
    STORE_ERRORS
};

#define STORE_HAS_RESULT      0x01              /* a row in results */
#define STORE_DISCARDED       0x02              /* deleted by the client */
#define STORE_AT_MOST_ONCE    0x04              /* see zone_request.h */
#define STORE_DEFERRED        0x08              /* RUNNING: its result is to be
                                                   put; settled: it was */
#define STORE_TRUNCATED       0x10              /* the result has the first
                                                   bytes of the answer */
#define STORE_DEAD            0x20              /* FAILED, and its request is
                                                   kept: a dead letter */

#define STORE_HOOKED          0x40              /* has webhooks */

struct store_job {
    uint16_t  layout;
    uint8_t   state;                            /* enum store_state */
    uint8_t   flags;
    uint16_t  error;                            /* enum store_error */
    uint16_t  strikes;                          /* attempts cut off */
    uint8_t   id[ZONE_ID_SIZE];
    uint64_t  created_ms;                       /* unix times */
    uint64_t  started_ms;                       /* first attempt; 0: none */
    uint64_t  finished_ms;                      /* 0: not settled */
    uint64_t  not_before_ms;                    /* a retry waits for it, or a
                                                   job with a delay; DEFERRED:
                                                   until then */
    uint64_t  expires_ms;                       /* 0: not settled */
    uint64_t  result_size;                      /* of the body */
    uint64_t  body_size;                        /* of the request */
    uint32_t  attempts;
    uint32_t  timeout_s;
    uint32_t  location;
    uint16_t  http_status;                      /* of the backend; 0: none */
    uint16_t  type_len;                         /* Content-Type follows */
    uint16_t  message_len;                      /* then the error's message */
    uint8_t   progress;                         /* percent + 1; 0: unknown */
    uint8_t   progress_len;                     /* then what it is at */
    uint16_t  reports;                          /* of progress, to tell them
                                                   apart; of this attempt, as
                                                   the two before */
    uint16_t  failures;                         /* attempts that failed */
    uint8_t   owner[ZONE_DIGEST_SIZE];          /* see zone_request.h */
    uint32_t  result_ttl_s;                     /* 0: the zone's ttl */
    uint8_t   token[ZONE_TOKEN_SIZE];           /* of this attempt */
    uint64_t  fair;                             /* as in its request */
    uint32_t  queue;                            /* zone_queue_hash() */
    uint8_t   priority;
    uint8_t   pad[3];
    uint64_t  limit_key;                        /* as in its request */
    uint64_t  deadline_ms;                      /* unix time; 0: none */
};

_Static_assert(sizeof(struct store_job) == 176, "store_job");
_Static_assert(offsetof(struct store_job, fair) == 144, "fair");
_Static_assert(offsetof(struct store_job, created_ms) == 24, "created_ms");
_Static_assert(offsetof(struct store_job, attempts) == 80, "attempts");
_Static_assert(offsetof(struct store_job, owner) == 104, "owner");

/* For the slot of one that waits: seconds after acceptance, rounded up. */

static inline uint32_t
store_delay_s(const struct store_job *row)
{
    uint64_t  s;

    if (row->not_before_ms <= row->created_ms) {
        return 0;
    }

    s = (row->not_before_ms - row->created_ms + 999) / 1000;

    return s < UINT32_MAX ? (uint32_t) s : UINT32_MAX;
}


/* How long the job is kept once it is settled. */

static inline uint64_t
store_ttl_ms(const struct store_job *row, uint64_t zone_ttl_ms)
{
    return row->result_ttl_s ? row->result_ttl_s * 1000ull : zone_ttl_ms;
}

#define STORE_TYPE_MAX        256               /* longer ones are cut */
#define STORE_MESSAGE_MAX     512
#define STORE_STRINGS_MAX     (STORE_TYPE_MAX + STORE_MESSAGE_MAX             \
                               + ZONE_PROGRESS_MAX)

#define STORE_RESULT_BLOB     0x01              /* body in blobs/, by the
                                                   row's attempts */

/*
 * The number of a job's blob.  A result that was put has one of its own:
 * while it comes in the answer of the attempt may be on its way, too.
 */
#define STORE_BLOB_PUT        0x80000000u

static inline uint32_t
store_blob(uint32_t flags, uint32_t attempts)
{
    return flags & STORE_DEFERRED ? attempts | STORE_BLOB_PUT : attempts;
}

struct store_result {
    uint16_t  layout;
    uint16_t  http_status;
    uint32_t  flags;
    uint64_t  body_size;
    uint32_t  headers_len;                      /* "Name: value\0..." */
    uint32_t  spare;
};

_Static_assert(sizeof(struct store_result) == 24, "store_result");

/* The worker that may write: each one that opens the store raises the epoch. */
struct store_owner {
    uint32_t  layout;
    uint32_t  pid;                              /* for messages only */
    uint64_t  epoch;                            /* from 1 */
    uint64_t  opened_ms;
    uint64_t  dev;                              /* of the zone's directory */
    char      path[ZONE_PATH_MAX + 8];          /* that directory */
};

_Static_assert(sizeof(struct store_owner) == 120, "store_owner");

/* Big endian, so that the oldest comes first. */
struct store_expiry_key {
    uint8_t   expires_ms[8];
    uint8_t   seq[8];
};

_Static_assert(sizeof(struct store_expiry_key) == 16, "store_expiry_key");

/* Big endian: all of one queue stand together, the oldest first. */
struct store_dead_key {
    uint8_t   queue[8];
    uint8_t   seq[8];
};

_Static_assert(sizeof(struct store_dead_key) == 16, "store_dead_key");


/*
 * A delivery: news of one settlement to one receiver.  What is sent is made
 * once, so that all attempts are the same but for their time.  `settled_ms`
 * is part of its id: a job that is driven again settles another time.
 */

enum store_hook_status {
    STORE_HOOK_PENDING = 1,
    STORE_HOOK_DELIVERED,
    STORE_HOOK_FAILED,                          /* all attempts did */
    STORE_HOOK_DISABLED,                        /* its receiver is gone */
    STORE_HOOK_STATUSES
};

struct store_hook_key {                         /* big endian */
    uint8_t   seq[8];
    uint8_t   n[8];                             /* of the job's webhooks */
};

struct store_hook_due {
    uint8_t   at_ms[8];
    uint8_t   seq[8];
    uint8_t   n[8];
};

struct store_hook {
    uint16_t          layout;
    uint8_t           status;
    uint8_t           state;                    /* the job's */
    uint32_t          queue;                    /* likewise */
    uint8_t           id[ZONE_ID_SIZE];
    uint64_t          settled_ms;
    uint64_t          next_ms;                  /* 0: not to be sent */
    uint32_t          attempts;
    uint16_t          http_status;              /* of the last; 0: none */
    uint16_t          n;
    struct zone_hook  hook;
    uint16_t          host_at;                  /* in the URL */
    uint16_t          host_len;
    uint32_t          body_len;
    uint16_t          trace_len;
    uint16_t          flags;
    uint32_t          spare;
};

#define STORE_HOOK_FORCED     0x01              /* the operator's wish: also to
                                                   one that is gone */


/*
 * A receiver, that is: a URL as the target of a queue, which has answered 410.
 * Of URLs that others choose there may be any number, so they are forgotten
 * after a while, the oldest when there are too many: these say it once more.
 */

#define STORE_GONE_SIZE       16                /* as an id, to look like one */
#define STORE_GONE_MS         (30ull * 24 * 3600 * 1000)
#define STORE_GONE_MAX        4096

struct store_gone_key {
    uint8_t   digest[STORE_GONE_SIZE];          /* see hook_receiver() */
};

struct store_gone_age {
    uint8_t   gone_ms[8];                       /* big endian */
    uint8_t   digest[STORE_GONE_SIZE];
};

struct store_gone {
    uint16_t  layout;
    uint16_t  forgets;                          /* it is in gone_age */
    uint32_t  queue;
    uint64_t  gone_ms;                          /* unix time */
    uint8_t   id[ZONE_ID_SIZE];                 /* of the delivery that it */
    uint64_t  settled_ms;                       /* refused */
    uint16_t  n;
    uint16_t  host_len;
    uint32_t  spare;
};

static inline void
store_big_endian(uint8_t *p, uint64_t n)
{
    int  i;

    for (i = 0; i < 8; i++) {
        p[i] = (uint8_t) (n >> (56 - 8 * i));
    }
}

static inline void
store_hook_key(struct store_hook_key *k, uint64_t seq, uint64_t n)
{
    store_big_endian(k->seq, seq);
    store_big_endian(k->n, n);
}

_Static_assert(sizeof(struct store_hook_key) == 16, "store_hook_key");
_Static_assert(sizeof(struct store_hook_due) == 24, "store_hook_due");
_Static_assert(sizeof(struct store_hook) == 88, "store_hook");
_Static_assert(offsetof(struct store_hook, trace_len) == 80, "trace_len");
_Static_assert(sizeof(struct store_gone_key) == 16, "store_gone_key");
_Static_assert(sizeof(struct store_gone_age) == 24, "store_gone_age");
_Static_assert(sizeof(struct store_gone) == 48, "store_gone");


/* Whose key it is; the job may have expired before it. */

struct store_key {
    uint8_t   id[ZONE_ID_SIZE];
    uint8_t   print[ZONE_DIGEST_SIZE];          /* see zone_request_key */
    uint32_t  spare;
};

struct store_key_expiry {
    uint8_t   expires_ms[8];                    /* big endian */
    uint8_t   key[ZONE_DIGEST_SIZE];
};

_Static_assert(sizeof(struct store_key) == 40, "store_key");
_Static_assert(sizeof(struct store_key_expiry) == 28, "store_key_expiry");


/*
 * What became of every job, written with each commit that changed it.  As
 * many were accepted as there are now in all states together: a job that
 * expired counts as expired for ever, also when its tombstone is purged.
 */

struct store_counters {
    uint64_t  accepted;                         /* inserted, not withdrawn */
    uint64_t  jobs[STORE_STATES];               /* by enum store_state */
    uint64_t  purged;                           /* of jobs[STORE_EXPIRED]:
                                                   their rows are gone */
    uint64_t  withdrawn;                        /* nginx had given them up */
    uint64_t  rejected;                         /* were no requests */
    uint64_t  duplicates;                       /* had a key that was taken:
                                                   no jobs of their own */
    uint64_t  limited;                          /* found their queue full */
};

_Static_assert(sizeof(struct store_counters) == 104, "store_counters");
_Static_assert(offsetof(struct store_counters, jobs) == 8, "jobs");

/* Accepted, and nowhere to be found: 0. */

static inline int64_t
store_drift(const struct store_counters *c)
{
    int       i;
    uint64_t  n;

    for (i = STORE_QUEUED, n = 0; i < STORE_STATES; i++) {
        n += c->jobs[i];
    }

    return (int64_t) (c->accepted - n);
}

/*
 * What was taken from the rings of one zone file.  A record that ends behind
 * `position` was not; one that ends before it is met again after a kill, and
 * has been counted.
 */

struct store_ring {
    uint64_t  position;                         /* of the SQ */
    uint64_t  drained;                          /* job records up to it */
};

struct store_rings {
    uint8_t   boot_id[16];                      /* of the zone file */
    uint32_t  lanes;
    uint32_t  spare;
};

_Static_assert(sizeof(struct store_ring) == 16, "store_ring");
_Static_assert(sizeof(struct store_rings) == 24, "store_rings");

/*
 * What of a queue outlives the worker.  The time is written in the transaction
 * of each START, SETTLE and REQUEUE of a job in a queue with a rate, the flags
 * when the operator changes them.  By either flag no attempt begins, and jobs
 * are accepted as ever.
 */

#define STORE_QUEUE_PAUSED    0x01
#define STORE_QUEUE_DRAINING  0x02              /* and the operator waits for
                                                   the end of those running */

struct store_queue {
    uint32_t  hash;                             /* zone_queue_hash() */
    uint32_t  flags;
    uint64_t  tat_us;                           /* unix time: when the next
                                                   is due; see
                                                   offloadd_rate.c */
};

_Static_assert(sizeof(struct store_queue) == 16, "store_queue");

#define STORE_ROW_QUEUE       "queue/"          /* and the hash, 4 bytes */

#define STORE_ROW_COUNTERS    "counters"
#define STORE_ROW_RINGS       "rings"
#define STORE_ROW_HOLD        "hold"

#endif /* OFFLOAD_ZONE_STORE_H */
