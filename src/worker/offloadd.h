/*
 * offloadd: the worker.  It takes jobs from the zone's lanes, keeps them in
 * the store, replays each through nginx's own entrance and stores the answer.
 *
 * Two threads, and nothing is shared between them but what is said here:
 *
 *      nginx --SQ--> drain \                     / sched -> attempt -> replay
 *                           store thread <==> loop thread      |        |
 *      nginx <--CQ-- answer/   | engine          \ slots    result   libcurl
 *                             LMDB
 *
 *      store thread    the only one to touch the engine, the SQs and the CQs;
 *                      writes a slot until its job was handed to the loop
 *      loop thread     (main) jobs in memory, timers, replays, signals, slots
 *                      after the hand-over, the figures in zone_worker
 *
 * The store's row decides what a job is.  The loop asks for transitions by
 * operations (struct store_op: START, SETTLE, REQUEUE), which the store
 * thread applies only if the row still allows them, and gets them back in the
 * batch of the commit that made them true.  Nothing is sent to a backend, and
 * nothing is told to nginx, before that commit.  So a kill at any line leaves
 * the store as it was after some commit, the rings with everything younger,
 * and recovery (offloadd_recover.c) has only to count running jobs as waiting
 * again.
 *
 *      offloadd.c           main, arguments, locks
 *      offloadd_util.c      memory, clocks
 *      offloadd_policy.c    policy.json
 *      offloadd_policy_queue.c  its queues
 *      offloadd_policy_exec.c  its commands
 *      offloadd_log.c       logfmt lines
 *      offloadd_batch.c     operations and batches: between the two threads
 *      offloadd_store.c     the store thread
 *      offloadd_drain.c     SQs into the engine
 *      offloadd_lend.c      capacity the loop has lent to the drain
 *      offloadd_drained.c   after the commit: slots, heads, answers
 *      offloadd_claim.c     who waits for the commit, and who gave up
 *      offloadd_report.c    what backends tell of their jobs
 *      offloadd_answer.c    answers into CQs
 *      offloadd_lmdb*.c     the engine: see offloadd_lmdb.h
 *      offloadd_files.c     spool and blob files
 *      offloadd_recover.c   what a dead worker left
 *      offloadd_jobs.c      jobs in memory: table, heaps
 *      offloadd_fair.c      whose turn it is within a queue
 *      offloadd_rate.c      a queue's rate
 *      offloadd_adapt.c     a queue's backend: what it bears, whether it is up
 *      offloadd_queue.c     all queues
 *      offloadd_queues.c    which queues there are
 *      offloadd_sched.c     whose turn it is
 *      offloadd_sched_queue.c  what attempts mean to their queues
 *      offloadd_watch.c     requests in nginx that wait for a job to change
 *      offloadd_attempt.c   the life of one attempt, what its end means
 *      offloadd_attempts.c  all of them: memory, lists
 *      offloadd_defer.c     jobs that their backends settle later
 *      offloadd_failed.c    its end without a good answer
 *      offloadd_retry.c     whether there is another one
 *      offloadd_dead.c      dead letters that are done again
 *      offloadd_deadline.c  jobs whose time is over
 *      offloadd_hook*.c     webhooks: see offloadd_hook.h
 *      offloadd_replay.c    one request by libcurl: its course
 *      offloadd_request.c   one request by libcurl: what is sent
 *      offloadd_trace.c     an attempt's place in a trace
 *      offloadd_exec.c      one command: its course
 *      offloadd_exec_spawn.c  one command: how it is started
 *      offloadd_exec_output.c  one command: what it prints
 *      offloadd_exec_line.c  one command: its standard error, its progress
 *      offloadd_cgi*.c      one command: what it is told, the header it prints
 *      offloadd_bulk*.c     several jobs in one request: see offloadd_bulk.h
 *      offloadd_result.c    one answer, kept in memory or in a blob
 *      offloadd_multi.c     libcurl's multi handles and sockets
 *      offloadd_loop.c      epoll, timers, signals
 *      offloadd_control*.c  the control interface: see offloadd_control.h
 */

#ifndef OFFLOADD_H
#define OFFLOADD_H

#include <curl/curl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "../zone/zone.h"
#include "../zone/zone_queue.h"
#include "../zone/zone_request.h"
#include "../zone/zone_store.h"


#define OFFLOADD_VERSION      "0.1.0"

#define OFFLOADD_OVERTAKEN    3                 /* exit code: another worker
                                                   has the store, or zone */

#define ARRAY_LENGTH(a)       (sizeof(a) / sizeof((a)[0]))

struct offloadd;
struct attempt;
struct bulk;
struct hook_list;
struct hook_outcome;
struct hook_page;
struct gone_page;
struct exec_policy;
struct pass_policy;
struct exec_run;


/* offloadd_util.c, offloadd_log.c */
#include "offloadd_util.h"


/* offloadd_hook_policy.c */
#include "offloadd_hook_policy.h"


/* offloadd_policy.c */

enum durability {
    DURABILITY_MEMORY = 0,
    DURABILITY_DISK
};

#define RETRY_STATUSES        200               /* 400 to 599 */
#define RETRY_CONNECT         200               /* bits behind them */
#define RETRY_TIMEOUT         201

struct retry_policy {
    uint32_t  max;                              /* attempts; 0, 1: an answer
                                                   is final */
    uint32_t  jitter;                           /* 1: full, 0: none */
    uint64_t  backoff_ms;
    uint64_t  backoff_max_ms;
    uint64_t  on[4];                            /* a bit for each */
    char      methods[160];                     /* "GET PUT": those that can
                                                   be repeated; "": by RFC */
};

#define BATCH_SIZE_MAX        10000

/* Several jobs in one request; size 0, 1: each has its own. */
struct batch_policy {
    uint32_t  size;
    uint8_t   array;                            /* of JSON; else lines */
    uint8_t   envelope;                         /* items say whose they are */
    uint64_t  linger_ms;
    uint64_t  max;                              /* bytes of bodies */
};

struct queue_policy {
    char      name[65];
    uint8_t   adaptive;
    uint8_t   circuit;                          /* it has one backend */
    uint8_t   has_retry;                        /* its retries were */
    uint32_t  concurrency;                      /* 0: the zone's */
    uint32_t  rate_count;                       /* 0: no rate */
    uint32_t  rate_burst;                       /* beyond the first */
    uint64_t  rate_period_ms;
    uint64_t  deadline_s;                       /* 0: none */
    uint64_t  dead_ttl_s;
    uint32_t  limit_queued;                     /* 0: none */
    uint32_t  limit_per_key;
    struct retry_policy  retry;
    struct batch_policy  batch;
    struct exec_policy  *exec;                  /* neither: replays */
    struct pass_policy  *pass;
};

struct policy {
    char      zone[64];
    char      path[ZONE_PATH_MAX + 1];
    char      store[PATH_MAX];
    int       durability;                       /* these four are fixed */
    uint64_t  max_bytes;                        /* of the store's file; 0: as
                                                   the disk has room */
    uint32_t  concurrency;
    uint64_t  ttl_ms;
    uint64_t  tombstone_ms;
    uint64_t  leave_ms;
    char      log[PATH_MAX];
    int       log_level;
    uint32_t  nqueues;                          /* 1 or more */
    struct queue_policy  *queues;               /* the default queue first */
    struct hook_policy    hooks;
};

#define POLICY_CONCURRENCY_MAX  100000
#define POLICY_MS_MAX           (400ull * 366 * 86400 * 1000)

struct policy_error {
    char  text[512];
};

int policy_load(struct policy *p, const char *file, struct policy_error *e);
int policy_parse(struct policy *p, const char *text, size_t len,
    const char *name, struct policy_error *e);
void policy_free(struct policy *p);
/* The name of a fixed value that differs, or NULL. */
const char *policy_fixed_differs(const struct policy *a,
    const struct policy *b);


/* offloadd_batch.c, offloadd_store.c, offloadd_lmdb*.c, offloadd_drain.c,
 * offloadd_claim.c, offloadd_answer.c */
#include "offloadd_store.h"


/* offloadd_hook.c, offloadd_hook_doc.c, offloadd_hook_send.c */
#include "offloadd_hook.h"


/* offloadd_control*.c: the control interface */
#include "offloadd_control.h"


/* offloadd_retry.c, offloadd_failed.c, offloadd_deadline.c, offloadd_dead.c */
#include "offloadd_retry.h"


/* offloadd_files.c */

int files_init(const struct policy *p, struct engine_error *e);
/* attempt: of a blob; 0: in the spool. */
int files_path(char *buf, size_t size, const char *store, const char *dir,
    const uint8_t *id, uint32_t attempt);
void files_unlink(const char *store, const char *dir, const uint8_t *id,
    uint32_t attempt);

enum files_dir {
    FILES_SPOOL = 0x01,
    FILES_BLOBS = 0x02
};

#define FILES_ABSENT          1
#define FILES_LOST            2                 /* the disk failed, and what
                                                   a second sync says is
                                                   worth nothing */

/* A file's content reaches the disk, and its name with the next _names():
 * both before the commit of the row that tells of it.  _sync: 0, FILES_*
 * or -1. */
int files_sync(struct store *s, enum files_dir dir, const uint8_t *id,
    uint32_t attempt, struct engine_error *e);
int files_sync_result(struct store *s, struct store_op *op,
    struct engine_error *e);
int files_sync_names(struct store *s, struct engine_error *e);
/* The names of what the store is made of, when it is opened. */
int files_sync_made(const struct policy *p, struct engine_error *e);
/* Removes what no job wants any more; blobs only when nobody makes any. */
void files_sweep(struct store *s, int blobs);


/* offloadd_jobs.c, offloadd_fair.c, offloadd_rate.c, offloadd_adapt.c,
 * offloadd_queue.c (loop thread) */
#include "offloadd_queue.h"


/* offloadd_sched.c, offloadd_publish.c (loop thread) */

struct sched {
    struct job_table  table;
    struct queues     queues;
    uint32_t          rules;                    /* queues.changed, as the
                                                   store was told; */
    uint32_t          plain;                    /* so many are plain */
    struct job_heap   deferred;                 /* running, but not by us */
    uint32_t          running;                  /* attempts in all stages */
    uint32_t          epoch;                    /* see sched_pace() */
    uint32_t          young;                    /* attempts of this epoch */
    uint64_t          epoch_ms;                 /* mono: its start */
    uint64_t          paced_until;              /* UINT64_MAX: not held up */
    uint32_t          lent;                     /* to the drain, or back in a
                                                   batch not yet seen */
    uint64_t          settled;
    uint64_t          random;
    int               measured;                 /* since it was published */
    uint64_t          busy;                     /* which queues, a bit each */
};

int sched_init(struct sched *s);
void sched_free(struct sched *s);
void sched_batch(struct offloadd *d, struct store_batch *b);
void sched_dispatch(struct offloadd *d);
void sched_publish(struct offloadd *d);
void sched_service(struct offloadd *d, uint32_t location, uint32_t queue,
    uint64_t held_us, uint64_t service_us);
/* 0.5 s, 1 s, ... 30 s with full jitter: anything up to it. */
uint64_t sched_backoff(struct sched *s, uint32_t retries);
void sched_requeue(struct offloadd *d, uint32_t job, uint64_t delay_ms);
void sched_forget(struct offloadd *d, uint32_t job);
uint64_t sched_random(struct sched *s);
void sched_cancel(struct offloadd *d, uint64_t seq, const uint8_t *id);
void sched_free_slot(struct offloadd *d, uint32_t job);
void sched_write_slot(struct offloadd *d, uint32_t job, uint32_t state,
    const struct store_job *row);


/* offloadd_sched_queue.c (loop thread) */

int sched_configure(struct offloadd *d);        /* from the policy */
void sched_rules(struct offloadd *d);
void sched_put_queue(struct offloadd *d, struct attempt *a);
int sched_store_queue(struct offloadd *d, uint32_t hash);
void sched_sent(struct offloadd *d, struct attempt *a);
void sched_ended(struct offloadd *d, struct attempt *a);
/* The outcome is known: enum replay_outcome. */
void sched_attempt_ended(struct offloadd *d, struct attempt *a, int outcome);


/* offloadd_watch.c (loop thread) */

struct watch {
    struct watch  *next;
    uint64_t       seq;
    uint64_t       token;
    uint64_t       until_ms;                    /* mono */
    uint64_t       head_seq;                    /* when it began */
    uint32_t       lane;
    uint32_t       flags;                       /* ZONE_WATCH_* */
    uint8_t        id[ZONE_ID_SIZE];
};

struct watches {
    struct watch  **hash;                       /* by seq */
    uint32_t        size;                       /* power of two */
    uint32_t        count;
};

void watch_add(struct offloadd *d, const struct store_event *ev);
void watch_changed(struct offloadd *d, uint64_t seq, int settled);
void watch_tick(struct offloadd *d);
void watch_free(struct watches *w);


/* offloadd_result.c: one answer */

#define RESULT_HEADERS_MAX    (64u * 1024)

struct result {
    struct buf   raw;                           /* header lines, with NUL */
    struct buf   headers;                       /* those kept */
    struct buf   body;                          /* unless in the blob */
    uint64_t     size;
    uint32_t     type_at;                       /* Content-Type's value in */
    uint32_t     type_len;                      /* headers */
    int          fd;                            /* of the blob; -1 */
    int          err;                           /* errno of what failed */
    uint8_t      complete;                      /* headers are */
    uint8_t      refused;                       /* by the module itself */
    uint8_t      deferred;                      /* the result is to be put */
    uint8_t      upstream;                      /* enum retry_end: what nginx
                                                   says there was */
    uint8_t      no_retry;                      /* Offload-No-Retry */
    uint32_t     retry_after_at;                /* Retry-After's value in raw;
                                                   0: there is none */
    uint8_t      too_large;                     /* its headers */
    uint8_t      added;                         /* these are nginx's own */
    uint8_t      direct;                        /* nginx has not seen it */
    uint8_t      in_memory;                     /* whatever its size */
    uint8_t      finished;                      /* the blob stays */
    uint8_t      bodiless;                      /* its length is of no body */
    uint8_t      truncate;                      /* keep max bytes, */
    uint8_t      over;                          /* of an answer with more */
    uint64_t     max;                           /* 0: any size */
    uint32_t     status;                        /* of these headers */
    uint32_t     attempt;                       /* whose answer it is */
};

void result_init(struct result *r);
/* What may be kept of the answer to this request. */
void result_limit(struct result *r, const struct zone_request_view *v);
void result_reset(struct result *r, const char *store, const uint8_t *id);
void result_free(struct result *r);
/* One line as received, with its CR LF: 0, or -1: give up. */
int result_header(struct result *r, const char *line, size_t len);
int result_body(struct result *r, const char *store, const uint8_t *id,
    const void *p, size_t n);
/* A header that tells of a whole body, and is wrong of its beginning? */
int result_is_of_whole(const char *name, size_t len);
/* The answer is complete: its blob stays. */
int result_finish(struct result *r, uint32_t status);


/* offloadd_replay.c, _exec*.c, _cgi*.c: how attempts are made */
#include "offloadd_executor.h"


/* offloadd_attempt.c */

#define ATTEMPT_STRIKES       5                 /* cut off: then it fails */
#define ATTEMPT_UNREACHABLE   10                /* entrance gone: likewise */
#define ATTEMPT_SPARES        256               /* kept when free */

enum attempt_stage {
    ATTEMPT_SPARE = 0,
    ATTEMPT_LENT,
    ATTEMPT_STARTING,                           /* START is with the store */
    ATTEMPT_REPLAYING,
    ATTEMPT_ENDING                              /* SETTLE, REQUEUE is */
};

struct attempt {
    struct store_op   op;                       /* first: op <-> attempt */
    struct attempt   *next;
    struct attempt   *prev;
    struct offloadd  *daemon;
    uint32_t          job;                      /* JOB_NONE: canceled */
    uint32_t          stage;
    uint32_t          epoch;
    uint32_t          queue;                    /* the job's */
    uint8_t           reserved;                 /* counts in its rate */
    uint8_t           probe;                    /* of its circuit; 2: which
                                                   stays open */
    uint64_t          begun_us;                 /* mono: counts as running */
    uint64_t          started_us;               /* START was committed */
    uint64_t          service_us;
    uint64_t          delay_ms;                 /* REQUEUE: in memory */
    const struct executor  *executor;
    struct bulk      *bulk;                     /* it goes with others; */
    struct bulk      *carries;                  /* or is their request */
    uint32_t          item;                     /* where it is among them */
    struct replay     replay;
    struct exec_run  *exec;                     /* NULL: no command of it */
    struct result     result;
    char              message[STORE_MESSAGE_MAX];
};

struct attempts {
    struct attempt  *spare;
    uint32_t         nspare;
    struct attempt  *active;                    /* linked both ways */

    struct replay_handle  *handles;             /* those that are free */
    uint32_t               nhandles;
    uint32_t               made;
};

extern const char *const  attempt_errors[STORE_ERRORS];

struct attempt *attempt_get(struct offloadd *d);
void attempt_put(struct offloadd *d, struct attempt *a);
void attempt_begin(struct offloadd *d, struct attempt *a, uint32_t job,
    int probe);
const struct executor *attempt_executor(struct offloadd *d,
    const struct attempt *a);                   /* its queue's */
/* START is committed. */
void attempt_started(struct offloadd *d, struct attempt *a);
/* Its executor is done; code: its own. */
void attempt_ended(struct offloadd *d, struct attempt *a, int code);
/* What that comes to: enum replay_outcome. */
void attempt_concluded(struct offloadd *d, struct attempt *a, int outcome);
/* SETTLE or REQUEUE is committed, or START is no use any more. */
void attempt_stored(struct offloadd *d, struct attempt *a);
void attempt_cancel(struct offloadd *d, struct attempt *a);
void attempt_hand_back(struct offloadd *d);     /* all: a clean stop */
void attempt_free_all(struct offloadd *d);
void attempt_link(struct offloadd *d, struct attempt *a);
void attempt_unlink(struct offloadd *d, struct attempt *a);
/* Its end: these submit it.  delay UINT64_MAX: as the backoff says. */
void attempt_settle(struct offloadd *d, struct attempt *a, int error);
void attempt_requeue(struct offloadd *d, struct attempt *a,
    const char *reason, uint64_t delay_ms);


/* offloadd_bulk*.c: several jobs, one request */
#include "offloadd_bulk.h"


/* offloadd_defer.c (loop thread) */

void attempt_defer(struct offloadd *d, struct attempt *a);
void attempt_deferred(struct offloadd *d, struct attempt *a);
/* attempts: the lease; at: mono ms.  -1: no memory, the worker leaves. */
int defer_add(struct offloadd *d, uint32_t job, uint32_t attempts,
    uint64_t at);
void defer_take(struct offloadd *d, uint32_t job);      /* if it is there */
int defer_overdue(struct offloadd *d, uint32_t job);    /* -1: no memory */
void defer_due(struct offloadd *d);
uint64_t defer_next(const struct offloadd *d);
void report_progress(struct offloadd *d, const struct store_event *ev);
void report_progressed(struct offloadd *d, struct store_op *op);
void report_put(struct offloadd *d, const struct store_event *ev);


/* offloadd_request.c, offloadd_replay.c */

int request_set(struct attempt *a, CURL *easy);
int request_split(struct attempt *a);

/* The stored request, its body opened if it is a file: 0, or -1 as start(). */
int replay_open(struct offloadd *d, struct attempt *a);
void replay_free(struct replay *r);
void replay_free_handles(struct offloadd *d);


/* offloadd_loop.c */

#define LOOP_TICK_MS          1000
#define LOOP_DISPATCH_MAX     128               /* in one round: nginx has to
                                                   accept them */

enum loop_stop {
    LOOP_GO_ON = 0,
    LOOP_FINISH,                                /* SIGQUIT */
    LOOP_HAND_BACK                              /* SIGTERM */
};

#define LOOP_MULTIS           32                /* see offloadd_multi.c */
#define LOOP_HOOKS            LOOP_MULTIS       /* one more, for webhooks */

struct multi {
    struct offloadd  *daemon;
    CURLM            *curl;
    uint64_t          at;                       /* mono ms; UINT64_MAX: no */
    int               ready;                    /* something may have ended */
};

struct loop_fd {
    uint8_t           state;                    /* enum multi_fd */
    uint8_t           multi;                    /* whose it is */
    struct exec_run  *exec;                     /* a command's */
};

struct loop {
    int               epoll;
    int               signals;
    int               timer;                    /* when a queue is due */
    uint64_t          timer_at;                 /* mono us; UINT64_MAX: not */
    struct multi      multis[LOOP_MULTIS + 1];
    struct loop_fd   *fds;                      /* of libcurl's, by fd */
    uint32_t          nfds;
    uint64_t          files;                    /* our limit, as inherited */
    uint64_t          tick_at;
    uint64_t          stop_at;                  /* hand back: give up then */
    uint64_t          no_lane_since;            /* 0: some lane is held */
    uint64_t          lost_at;                  /* the zone's file; 0: not */
    int               held;
    int               stop;                     /* enum loop_stop */
    int               fatal;
    struct store_op  *ops;                      /* to submit */
    struct store_op **ops_last;
};

int loop_init(struct offloadd *d);
int loop_run(struct offloadd *d);               /* the exit code */
void loop_free(struct offloadd *d);
int loop_epoll_add(struct loop *l, int fd);     /* to read; -1: errno */
void loop_submit(struct offloadd *d, struct store_op *op);
/* By way of the store thread: after what was submitted before. */
void loop_answer(struct offloadd *d, uint32_t lane,
    const struct zone_completion *c);
int loop_held(struct offloadd *d);              /* looks now */
void loop_fatal(struct offloadd *d);            /* hand back, exit 1 */


/* offloadd_multi.c */

int multi_init(struct offloadd *d, uint32_t nfds);
void multi_free(struct offloadd *d);
void multi_limits(struct offloadd *d);
CURLM *multi_of(struct offloadd *d, const struct replay_handle *h);
int multi_add_socket(struct offloadd *d, int fd);
int multi_close_socket(void *ctx, curl_socket_t fd);
void multi_ready(struct offloadd *d, int fd, uint32_t events);
void multi_run(struct offloadd *d);
uint64_t multi_next(const struct offloadd *d);


/* offloadd_recover.c */

int recover(struct offloadd *d, struct engine_error *e);


struct offloadd {
    struct policy    policy;
    const char      *policy_file;
    struct timespec  policy_mtime;
    ino_t            policy_ino;
    char             zone_file[PATH_MAX];
    struct zone      zone;
    int              lock;
    int              store_lock;
    struct store     store;
    struct sched     sched;
    struct watches   watches;
    struct deadlines deadlines;
    struct attempts  attempts;
    struct loop      loop;
    struct execs     execs;
    struct control   control;
    struct hooks     hooks;
};

/* offloadd_policy.c */
void policy_note(struct offloadd *d);           /* this is the one we read */
void policy_reload(struct offloadd *d, int forced);

#endif /* OFFLOADD_H */
