/*
 * The zone: the shared memory between nginx's workers and offloadd.
 *
 * This header is the whole interface of src/zone and the map of the file; the
 * byte-for-byte format and the rules of ownership are in FORMAT.md.  The code
 * below it knows libc only: it is linked into the nginx module and into
 * offloadd, and tested without either.
 *
 *      zone header   geometry, worker's figures, service times,
 *                    queues' figures
 *      lane 0        lane header | slots | CQ | SQ
 *      lane 1        ...
 *
 * A lane belongs to one nginx worker process at a time (an OFD lock says to
 * which).  It is two single-producer, single-consumer rings and a table:
 *
 *      SQ     submission ring, bytes: nginx writes records, offloadd reads
 *      CQ     completion ring, entries: offloadd writes, nginx reads
 *      slots  the state of active jobs: nginx fills a FREE slot before it
 *             publishes the record, from then on offloadd writes it
 *
 * Every byte has one writer at any moment.  Nothing in the file is a pointer,
 * and nothing read from it is used before it was checked.  A process killed
 * at any line leaves a lane that zone_lane_repair() puts right.
 *
 * Functions return 0 (or a count) when done and -1 when not, with the reason
 * in struct zone_error where one is taken.  Nothing here allocates except
 * zone_open(), logs, or keeps global state (zone_guard_* apart).
 */

#ifndef OFFLOAD_ZONE_H
#define OFFLOAD_ZONE_H

#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "zone_order.h"
#include "zone_request.h"


#define ZONE_MAGIC            "OFLDZONE"
#define ZONE_LAYOUT           1
#define ZONE_READY            0x79646572        /* "redy" */

#define ZONE_HEADER_SIZE      40960
#define ZONE_LANE_HEADER_SIZE 4096
#define ZONE_LINE             64

#define ZONE_LANES_MAX        255               /* the id has 8 bits for it */
#define ZONE_SLOTS_MAX        (1u << 23)        /* per lane; the id has 24 */
#define ZONE_SQ_MIN           (256u * 1024)
#define ZONE_SQ_MAX           (1ull << 40)
#define ZONE_CQ_ENTRIES       4096

#define ZONE_ID_SIZE          16                /* binary */
#define ZONE_ID_TEXT          26                /* Crockford base32 */

#define ZONE_PATH_MAX         80                /* of a zone's directory: what
                                                   is left of sun_path[108] */


struct zone_error {
    int   err;                                  /* errno, or 0 */
    char  text[384];
};


/* The file's header: written once by zone_create(), `ready` last. */

struct zone_header {
    char              magic[8];
    uint32_t          layout;
    uint32_t          header_size;
    uint64_t          size;                     /* of the file, bytes */
    uint8_t           boot_id[16];              /* of this file, random */
    uint64_t          created_ms;               /* unix time */
    uint32_t          lanes;
    uint32_t          slots;                    /* per lane */
    uint32_t          slot_size;
    uint32_t          cq_entries;               /* per lane, power of two */
    uint64_t          sq_size;                  /* per lane, power of two */
    uint64_t          lane_offset;              /* of lane 0, in the file */
    uint64_t          lane_stride;
    uint64_t          slots_offset;             /* these three in a lane */
    uint64_t          cq_offset;
    uint64_t          sq_offset;
    _Atomic uint32_t  ready;
};


/*
 * What offloadd publishes about the whole zone, at ZONE_WORKER_OFFSET of the
 * header page.  offloadd writes; `sleeping` alone is also cleared by whoever
 * takes on to wake it (atomic exchange).
 */

#define ZONE_WORKER_OFFSET    2048

struct zone_worker {
    _Atomic uint32_t  sleeping;                 /* 1: ring before you leave */
    _Atomic uint32_t  pid;
    _Atomic uint64_t  beat_ms;                  /* last sign of life */
    uint8_t           pad0[48];
    _Atomic uint64_t  next_seq;                 /* the next job gets it */
    _Atomic uint64_t  head_seq;                 /* none ready is below */
    _Atomic uint64_t  waiting;                  /* queued in the store */
    _Atomic uint64_t  running;
    _Atomic uint64_t  concurrency;              /* running at most */
    _Atomic uint64_t  service_us;               /* a job in its place, mean;
                                                   0: nothing measured */
    _Atomic uint64_t  settled;
    _Atomic uint32_t  refusing;                 /* new jobs: ZONE_REFUSING_* */
    _Atomic uint32_t  commit_us;                /* one group, smoothed, or 0 */
};

#define ZONE_REFUSING_FULL    0x01              /* no room in the store */
#define ZONE_REFUSING_FAILED  0x02              /* the store can't be written */


/* One writer to a cache line. */

struct zone_lane {
    _Atomic uint64_t  sq_tail;                  /* nginx */
    _Atomic uint64_t  slots_taken;
    _Atomic uint64_t  accepted;                 /* by zone_sq_publish() */
    _Atomic uint64_t  refused;                  /* for want of room, by the
                                                   caller that refused */
    _Atomic uint32_t  owner_pid;                /* for messages only */
    _Atomic uint32_t  cq_sleeping;              /* 1: ring; cleared by
                                                   exchange, like above */
    _Atomic uint64_t  cq_head;
    _Atomic uint64_t  publish_tail;             /* what a publish underway */
    _Atomic uint64_t  publish_accepted;         /* leads to: for a repair */

    _Atomic uint64_t  sq_head;                  /* offloadd */
    _Atomic uint64_t  slots_freed;
    _Atomic uint64_t  cq_tail;
    _Atomic uint64_t  free_count;               /* slots_freed after a free
                                                   underway: for a repair */
    _Atomic uint32_t  free_slot;
    _Atomic uint32_t  free_version;
    uint8_t           pad[24];
};


/*
 * A slot's state says whose it is and what the job does.  FREE is nginx's;
 * SUBMITTED is nginx's until the record is published and offloadd's from then
 * on; all others are offloadd's.
 */

enum zone_slot_state {
    ZONE_SLOT_FREE = 0,
    ZONE_SLOT_SUBMITTED,
    ZONE_SLOT_QUEUED,                           /* committed to the store */
    ZONE_SLOT_RUNNING,
    ZONE_SLOT_SETTLED,                          /* look into the store */
    ZONE_SLOT_STATES
};

/* What a slot says of a job: plain data, copied in and out as words. */

struct zone_job {
    uint8_t           id[ZONE_ID_SIZE];
    uint64_t          seq;                      /* 0: not in the store yet */
    uint64_t          created_ms;
    uint64_t          started_ms;               /* of the first attempt, 0 */
    uint64_t          body_size;
    uint32_t          attempts;                 /* begun so far */
    uint32_t          timeout_s;                /* of one attempt */
    uint32_t          location;                 /* hash of its location */
    uint32_t          queue;                    /* zone_queue_hash() */
    uint8_t           owner[ZONE_DIGEST_SIZE];  /* zero: nobody's */
    uint32_t          delay_s;                  /* QUEUED: not before so long
                                                   after created_ms */
};

struct zone_slot {
    _Atomic uint32_t  version;                  /* seqlock: odd = writing */
    _Atomic uint32_t  state;                    /* enum zone_slot_state */
    uint64_t          pad;
    struct zone_job   job;
    uint64_t          pad2[3];
};


/* Records of the SQ.  Each starts at a multiple of 64 and never wraps. */

enum zone_record_type {
    ZONE_RECORD_PAD = 1,                        /* skip to the ring's start */
    ZONE_RECORD_JOB,                            /* payload: zone_request */
    ZONE_RECORD_CANCEL,                         /* no payload */
    ZONE_RECORD_WATCH,                          /* no payload; slot: seconds */
    ZONE_RECORD_PROGRESS,                       /* payload: zone_progress */
    ZONE_RECORD_PUT,                            /* payload: zone_put */
    ZONE_RECORDS
};

/*
 * A WATCH is answered twice: ZONE_ARMED, then ZONE_DONE when the job has
 * changed; or by ZONE_NOT_FOUND at once, if it is not active.  Who watches
 * looks at the job after ZONE_ARMED, and misses nothing.
 */
#define ZONE_WATCH_SETTLED    0x01              /* only its end */
#define ZONE_WATCH_POSITION   0x02              /* also in the queue */
#define ZONE_WATCH_MAX        600               /* seconds */


/*
 * Of a record with a token.  NONE -> TAKEN -> COMMITTED is offloadd's way,
 * the second step after the commit.  Until then nginx, which has waited long
 * enough, may set WITHDRAWN: then the job is undone before it is scheduled.
 * All steps are compare-and-swap; COMMITTED and WITHDRAWN are final.
 */
enum zone_record_claim {
    ZONE_CLAIM_NONE = 0,
    ZONE_CLAIM_TAKEN,
    ZONE_CLAIM_WITHDRAWN,
    ZONE_CLAIM_COMMITTED
};

struct zone_record {
    uint32_t          size;                     /* with header and padding */
    uint16_t          type;
    uint16_t          flags;                    /* 0 */
    _Atomic uint32_t  claim;
    uint32_t          slot;                     /* JOB: the slot it filled */
    uint64_t          token;                    /* echoed in the CQ; 0: none */
    uint8_t           id[ZONE_ID_SIZE];
    uint64_t          created_ms;
    uint32_t          payload;                  /* bytes, unpadded */
    uint32_t          watch;                    /* WATCH: ZONE_WATCH_* */
};

/* The largest record a ring takes: it always fits once the ring is empty. */
#define ZONE_RECORD_MAX(sq_size)  ((sq_size) / 4)


enum zone_completion_result {
    ZONE_DONE = 0,                              /* done as asked */
    ZONE_NOT_FOUND,                             /* no such job any more */
    ZONE_FAILED,                                /* the store failed */
    ZONE_NO_ROOM,                               /* the store is full */
    ZONE_ARMED,                                 /* WATCH: from now on */
    ZONE_DUPLICATE,                             /* JOB: it is `job` again */
    ZONE_CONFLICT,                              /* JOB: a key used otherwise */
    ZONE_DENIED,                                /* PROGRESS, PUT: not by that
                                                   token, */
    ZONE_NOT_RUNNING,                           /* not now, or not any more */
    ZONE_LIMITED, ZONE_LIMITED_KEY,             /* JOB: its queue is full */
    ZONE_RESULTS
};

struct zone_completion {
    uint64_t          token;                    /* as in the record */
    uint32_t          type;                     /* enum zone_record_type */
    uint32_t          result;                   /* enum ..._result */
    uint8_t           id[ZONE_ID_SIZE];         /* as in the record */
    uint8_t           job[ZONE_ID_SIZE];        /* DUPLICATE: the job */
};

#define ZONE_ASSERT(e)        _Static_assert(e, #e)

ZONE_ASSERT(sizeof(struct zone_header) == 120);
ZONE_ASSERT(offsetof(struct zone_header, lanes) == 48);
ZONE_ASSERT(offsetof(struct zone_header, sq_size) == 64);
ZONE_ASSERT(offsetof(struct zone_header, ready) == 112);
ZONE_ASSERT(sizeof(struct zone_worker) == 128);
ZONE_ASSERT(offsetof(struct zone_worker, next_seq) == 64);
ZONE_ASSERT(sizeof(struct zone_lane) == 128);
ZONE_ASSERT(offsetof(struct zone_lane, sq_head) == 64);
ZONE_ASSERT(sizeof(struct zone_job) == 88);
ZONE_ASSERT(offsetof(struct zone_job, queue) == 60);
ZONE_ASSERT(sizeof(struct zone_slot) == 128);
ZONE_ASSERT(offsetof(struct zone_slot, job) == 16);
ZONE_ASSERT(sizeof(struct zone_record) == 56);
ZONE_ASSERT(sizeof(struct zone_completion) == 48);


/* zone_file.c: geometry, validate, map; zone_create.c: create */

struct zone_geometry {
    uint64_t          size;
    uint32_t          lanes;
    uint32_t          slots;                    /* per lane */
    uint64_t          sq_size;                  /* per lane */
};

/*
 * Divides `size` bytes among `lanes`: fills in g->slots when it is 0 and
 * g->sq_size always (the largest power of two that fits, SQ_MAX at most).
 * -1 when the size is too small or a value out of range; the text names the
 * value and what would be right.
 */
int zone_geometry(struct zone_geometry *g, struct zone_error *e);

/*
 * Creates the file whole: a temporary file beside it, posix_fallocate()d,
 * mode 0600, owned by uid:gid ((uid_t) -1: left alone), renamed to `path`.
 */
int zone_create(const char *path, const struct zone_geometry *g, uid_t uid,
    gid_t gid, struct zone_error *e);

/* Reads and validates the header alone; maps nothing, changes nothing.
 * e->err is ENOENT when there is no file. */
int zone_probe(const char *path, struct zone_geometry *g,
    struct zone_error *e);

struct zone {
    uint8_t            *base;
    uint64_t            size;
    struct zone_header  geo;                    /* a checked private copy:
                                                   use this, not the file's */
    struct zone_worker *worker;
    dev_t               dev;
    ino_t               ino;
};

/* Maps the file after validating all of it; the zone is guarded (below). */
int zone_open(struct zone *z, const char *path, struct zone_error *e);
void zone_close(struct zone *z);

/* 1 if the file at `path` is the one mapped and has not been cut short. */
int zone_is_current(const struct zone *z, const char *path);

static inline struct zone_lane *
zone_lane(const struct zone *z, uint32_t lane)
{
    return (struct zone_lane *) (z->base + z->geo.lane_offset
                                 + lane * z->geo.lane_stride);
}

static inline struct zone_slot *
zone_slot(const struct zone *z, uint32_t lane, uint32_t slot)
{
    return (struct zone_slot *) ((uint8_t *) zone_lane(z, lane)
                                 + z->geo.slots_offset)
           + slot;
}


/*
 * zone_guard.c: a file that is cut short while mapped would kill its reader
 * with SIGBUS.  The guard's handler puts anonymous zero pages under the whole
 * mapping and marks it broken instead; every other SIGBUS goes on to whoever
 * had the signal before.  zone_open() registers, zone_close() forgets.
 */
int zone_guard_install(void);                   /* once per process */
int zone_broken(const struct zone *z);          /* cheap: one load */


/* zone_path.c: names inside a zone's directory */

#define ZONE_FILE_ZONE        "zone.v1"
#define ZONE_FILE_LOCK        "lock"
#define ZONE_FILE_POLICY      "policy.json"
#define ZONE_FILE_WORKER      "worker.wake"
#define ZONE_DIR_STORE        "store"           /* unless store= says else */
#define ZONE_DIR_SPOOL        "spool"           /* in the store: bodies */
#define ZONE_DIR_SPOOL_TMP    "spool/tmp"       /* bodies being received */
#define ZONE_DIR_BLOBS        "blobs"           /* in the store: results */
#define ZONE_ENTRANCE_FORMAT  "r.%s.sock"       /* replay listeners */
#define ZONE_LANE_FORMAT      "lane.%u.wake"

/* dir + "/" + name, NUL-terminated; -1 if it does not fit */
int zone_path(char *buf, size_t size, const char *dir, const char *name);
int zone_lane_path(char *buf, size_t size, const char *dir, uint32_t lane);


/* zone_lock.c: OFD locks on the lock file; byte i is lane i's */

#define ZONE_LOCK_WORKER      (1u << 20)        /* offloadd's byte */

/* O_CLOEXEC; creates it, 0600.  Each opener has locks of its own. */
int zone_lock_open(const char *path, struct zone_error *e);
int zone_lock_take(int fd, uint32_t byte);      /* 0, or -1 with errno EAGAIN */
int zone_lock_drop(int fd, uint32_t byte);
int zone_lock_held(int fd, uint32_t first, uint32_t n);  /* by another: 1, 0 */


/* zone_wake.c: datagram sockets by path */

struct zone_bell {
    struct sockaddr_un  addr;
    socklen_t           len;
};

int zone_wake_bind(const char *path, struct zone_error *e); /* fd, O_NONBLOCK */
int zone_socket_bind(const char *path, int type, struct zone_error *e);
void zone_wake_drain(int fd);
int zone_bell_init(struct zone_bell *b, const char *path);
int zone_bell_socket(void);                     /* unbound fd to ring with */
void zone_bell_ring(int fd, const struct zone_bell *b);

/*
 * Before sleeping: arm, then look at the rings once more, then sleep.
 * After publishing: if (zone_wake_due(flag)) ring.  Full fences on both
 * sides make sure one of the two sees the other.
 */
static inline void
zone_sleep_arm(_Atomic uint32_t *flag)
{
    atomic_store_explicit(flag, 1, memory_order_relaxed);
    atomic_thread_fence(zone_order(ZONE_SLEEP_FENCE, memory_order_seq_cst));
}

static inline void
zone_sleep_disarm(_Atomic uint32_t *flag)
{
    atomic_store_explicit(flag, 0, memory_order_relaxed);
}

static inline int
zone_wake_due(_Atomic uint32_t *flag)
{
    atomic_thread_fence(zone_order(ZONE_WAKE_FENCE, memory_order_seq_cst));

    return atomic_load_explicit(flag, memory_order_relaxed)
           && atomic_exchange_explicit(flag, 0, memory_order_relaxed);
}


/* zone_id.c: job ids */

/*
 * Of one process: a child that makes ids starts with a zeroed one of its own,
 * or both would make the same.
 */
struct zone_random {
    uint8_t   buf[4096];
    size_t    left;
};

/* lane (8 bits), slot (24 bits, big endian), 96 random bits; -1: no entropy */
int zone_id_make(uint8_t id[ZONE_ID_SIZE], uint32_t lane, uint32_t slot,
    struct zone_random *r);
void zone_id_hint(const uint8_t id[ZONE_ID_SIZE], uint32_t *lane,
    uint32_t *slot);
void zone_id_format(char text[ZONE_ID_TEXT], const uint8_t id[ZONE_ID_SIZE]);
/* Exactly 26 characters of the lower-case alphabet, canonical; else -1. */
int zone_id_parse(uint8_t id[ZONE_ID_SIZE], const char *text, size_t len);


/* The next n random bytes, 4096 at most; -1: no entropy. */
int zone_random_take(struct zone_random *r, uint8_t *p, size_t n);


/* zone_sq.c: the submission ring */

/* nginx's end of a lane; private memory. */
struct zone_producer {
    struct zone       *zone;
    struct zone_lane  *lane;
    uint8_t           *sq;
    uint64_t           sq_size;
    uint64_t           tail;                    /* what is published */
    uint64_t           next;                    /* tail after publishing */
    uint64_t           head;                    /* as last seen */
    uint32_t           index;                   /* which lane */
    uint32_t           cursor;                  /* next slot to try */
};

/* After the lane's lock is held and zone_lane_repair() has run. */
int zone_producer_init(struct zone_producer *p, struct zone *z,
    uint32_t lane, struct zone_error *e);

/* Bytes a record with that payload takes, or 0 if it is over RECORD_MAX. */
uint64_t zone_record_size(uint64_t sq_size, uint64_t payload);

/* 1 if a record with that payload would fit now. */
int zone_sq_room(struct zone_producer *p, uint64_t payload);

/*
 * Room for one record with `payload` bytes, its header zeroed except size,
 * type and payload; NULL when the ring is full.  Nothing is visible to the
 * other side before zone_sq_publish(), and reserving again forgets it.
 */
struct zone_record *zone_sq_reserve(struct zone_producer *p, uint16_t type,
    uint64_t payload);
void zone_sq_publish(struct zone_producer *p);

/*
 * The claim on a JOB record with a token, see enum zone_record_claim.  Each
 * returns 1 when the step is done (or was, before), 0 when the other side was
 * first: offloadd must undo what was withdrawn, nginx must keep the promise.
 */
int zone_claim_take(struct zone_record *rec);       /* offloadd: read it */
int zone_claim_commit(struct zone_record *rec);     /* offloadd: stored it */
int zone_claim_withdraw(struct zone_record *rec);   /* gives up on it */

enum zone_withdraw {
    ZONE_WITHDRAWN = 0,                         /* it will never run */
    ZONE_WITHDRAW_PENDING,                      /* nor this, once offloadd has
                                                   removed it: it may be in
                                                   the store this moment */
    ZONE_WITHDRAW_COMMITTED,                    /* too late: it is stored */
    ZONE_WITHDRAW_CONSUMED                      /* gone from the ring: the
                                                   store knows */
};

/*
 * nginx gives up waiting for the record that was published up to `end` (the
 * producer's tail after it).  Only the process that published it may ask.
 */
int zone_sq_withdraw(struct zone_producer *p, struct zone_record *rec,
    uint64_t end);

static inline uint8_t *
zone_record_payload(const struct zone_record *rec)
{
    return (uint8_t *) rec + sizeof(struct zone_record);
}

/* offloadd's end. */
struct zone_consumer {
    struct zone       *zone;
    struct zone_lane  *lane;
    uint8_t           *sq;
    uint64_t           sq_size;
    uint64_t           pos;                     /* read so far */
    uint32_t           index;
};

/*
 * Under the worker's lock.  Finishes what a killed offloadd left half done:
 * a free that was not counted, a slot whose writing stopped in the middle
 * (it is freed: the store knows the job).
 */
int zone_consumer_init(struct zone_consumer *c, struct zone *z,
    uint32_t lane, struct zone_error *e);

/*
 * The next record after those peeked so far: 1 and *rec (valid until the
 * release), 0 when there is none, -1 when the ring is corrupt (e says how).
 * Pads are skipped.  size, type, payload and slot are checked; the payload's
 * inside is not (zone_request_parse() does that).
 */
int zone_sq_peek(struct zone_consumer *c, struct zone_record **rec,
    struct zone_error *e);
/* Gives everything peeked so far back to the producer. */
void zone_sq_release(struct zone_consumer *c);
/* Forget the peeks since the last release. */
void zone_sq_rewind(struct zone_consumer *c);

/*
 * Bytes of records in the lane that may not be thrown away: jobs whose 202
 * was sent with the publishing, and those withdrawn from what the store may
 * have.  Others are nobody's when their nginx is gone.
 */
uint64_t zone_lane_owed(struct zone *z, uint32_t lane);


/* zone_count.c: what a lane has counted */

struct zone_counts {
    uint64_t  head;
    uint64_t  tail;
    uint64_t  accepted;                         /* job records up to tail */
    uint64_t  refused;
};

/*
 * Anyone: 1 if these belong together, also when a process was killed between
 * two of them; 0 if too much was going on to say.
 */
int zone_count(const struct zone *z, uint32_t lane, struct zone_counts *c);


/* zone_cq.c: the completion ring */

int zone_cq_post(struct zone *z, uint32_t lane,
    const struct zone_completion *c);           /* -1: full (or corrupt) */
int zone_cq_pop(struct zone *z, uint32_t lane,
    struct zone_completion *c);                 /* 1, 0: empty, -1: corrupt */


/* zone_slot.c: the job table */

/*
 * A FREE slot of the lane, or -1.  It stays FREE until it is filled.  The
 * search is bounded: a large table with a last few free may be called full.
 */
int64_t zone_slot_find(struct zone_producer *p);
/* nginx: FREE -> SUBMITTED with this content. */
void zone_slot_fill(struct zone_producer *p, uint32_t slot,
    const struct zone_job *job);
/* nginx: SUBMITTED -> FREE, for a record that was not published. */
void zone_slot_undo(struct zone_producer *p, uint32_t slot);
/*
 * offloadd: 1 if the slot holds that job and so may be written and freed.
 * After a restart a record may name a slot that was given away since.
 */
int zone_slot_holds(const struct zone *z, uint32_t lane, uint32_t slot,
    const uint8_t id[ZONE_ID_SIZE]);
/*
 * offloadd: new content and state under the seqlock (not FREE); nothing if
 * the slot does not hold this job.  A slot has one writing thread at a time,
 * and all frees of a lane are one thread's.
 */
void zone_slot_write(struct zone *z, uint32_t lane, uint32_t slot,
    const struct zone_job *job, uint32_t state);
/* offloadd: -> FREE; nothing if it is.  Only a slot that holds your job. */
void zone_slot_free(struct zone *z, uint32_t lane, uint32_t slot);
/*
 * Anyone: what the slot hinted at by the id says, if it holds that very job.
 * Returns its state, 0 when the slot holds another or none, and -1 when no
 * steady copy could be had (a writer died inside; ask the store).
 */
int zone_slot_read(const struct zone *z, const uint8_t id[ZONE_ID_SIZE],
    struct zone_job *job);
/* Slots not FREE in a lane. */
uint64_t zone_slots_used(const struct zone *z, uint32_t lane);


/* zone_lane.c */

struct zone_repair {
    uint64_t  undone;                           /* slots never published */
    uint64_t  pending;                          /* records for offloadd */
    uint64_t  completions;                      /* dropped: nobody waits */
};

/* What a new owner does first, under the lane's lock, offloadd running. */
int zone_lane_repair(struct zone *z, uint32_t lane, struct zone_repair *r,
    struct zone_error *e);


/*
 * zone_check.c: every invariant of FORMAT.md, on a zone that may be in use:
 * what moving parts may explain is not reported.  `report` is called once a
 * violation with a text that names lane, field and value.  Returns how many.
 */
typedef void (*zone_report)(void *ctx, const char *text);

int zone_check(const struct zone *z, zone_report report, void *ctx);


#include "zone_failpoint.h"

#endif /* OFFLOAD_ZONE_H */
