/*
 * The store's side of the worker: operations and batches between the two
 * threads, the engine behind them, the drain.  Included by offloadd.h, which
 * has the rules; the struct store at the end says what belongs to whom.
 */

#ifndef OFFLOADD_STORE_H
#define OFFLOADD_STORE_H


/* offloadd_batch.c, offloadd_store.c: operations in, batches out */

enum store_op_type {
    STORE_OP_START = 1,                         /* queued -> running */
    STORE_OP_SETTLE,                            /* running -> an end */
    STORE_OP_REQUEUE,                           /* running -> queued */
    STORE_OP_DEFER,                             /* running, not by us */
    STORE_OP_QUEUE,                             /* a queue's time */
    STORE_OP_ANSWER,                            /* a CQ entry to post */
    STORE_OP_CONTROL,                           /* see offloadd_control.h, */
    STORE_OP_READ,                              /* beside transactions */
    STORE_OP_HOOK,                              /* a delivery's outcome */
    STORE_OP_HOOKS,                             /* those that are due */
    STORE_OP_PROGRESS,                          /* of row.id by row.token:
                                                   row.progress */
    STORE_OP_OVERDUE                            /* queued -> failed */
};

enum store_op_result {
    STORE_OP_DONE = 0,
    STORE_OP_STALE,                             /* the row says otherwise:
                                                   canceled meanwhile */
    STORE_OP_LOST                               /* done, but its request is
                                                   not in the store */
};

struct store_op {
    struct store_op         *next;
    uint32_t                 type;
    uint32_t                 result;
    uint64_t                 seq;

    /*
     * The job's row.  START fills it in as it is from then on; SETTLE takes
     * state, error, strikes, http_status, finished_ms, result_size and the
     * flags DEFERRED and TRUNCATED from it, REQUEUE strikes and not_before_ms,
     * DEFER not_before_ms; attempts is the lease of all three.
     * A redrive and a purge find the job by row.id, and fill in seq and row.
     */
    struct store_job         row;
    struct buf               request;           /* START: its copy */

    const char              *type_text;         /* SETTLE: row.type_len */
    const char              *message;           /* SETTLE: message_len */
    const struct buf        *headers;           /* SETTLE: NULL: no result */
    const struct buf        *body;              /* SETTLE: inline, or NULL */
    uint64_t                 dead_ttl_ms;       /* SETTLE: a dead letter's */
    struct hook_list        *hooks;             /* HOOKS */
    struct hook_outcome     *hook;              /* HOOK */

    int                      has_queue;         /* with it: the row of its
                                                   queue */
    struct store_queue       queue;

    uint32_t                 lane;              /* ANSWER */
    struct zone_completion   answer;
};

/* Dead letters, a page of them: those behind `queue`, `seq`, which become the
 * last one's.  Queue by queue, in each the oldest first. */

struct dead_entry {
    uint64_t          seq;
    struct store_job  row;
    char              type[STORE_TYPE_MAX + 1];
    char              message[STORE_MESSAGE_MAX + 1];
};

struct dead_list {
    uint32_t           one_queue;               /* no other than `queue` */
    uint64_t           queue;                   /* its hash */
    uint64_t           seq;                     /* 0: from the first on */
    uint32_t           max;
    uint32_t           n;                       /* out */
    struct dead_entry *entries;                 /* room for max */
};

enum store_event_type {
    STORE_EVENT_JOB = 1,                        /* a new job */
    STORE_EVENT_SLOT,                           /* a known job's slot */
    STORE_EVENT_REJECT,                         /* its slot is to be freed */
    STORE_EVENT_CANCEL,                         /* canceled or discarded */
    STORE_EVENT_WATCH,
    STORE_EVENT_PROGRESS,
    STORE_EVENT_PUT
};

/* What the drain learned and the loop has to know. */
struct store_event {
    uint32_t         type;
    uint32_t         lane;
    uint32_t         slot;                      /* WATCH: seconds */
    uint32_t         watch;                     /* WATCH: ZONE_WATCH_* */
    uint32_t         has_slot;                  /* JOB */
    uint32_t         active;                    /* SLOT: not settled;
                                                   PROGRESS: it is new */
    uint64_t         seq;                       /* CANCEL, PROGRESS, PUT: 0:
                                                   nothing has changed */
    uint8_t          id[ZONE_ID_SIZE];
    uint64_t         token;                     /* of the record */
    uint32_t         result;                    /* for ..._completion */
    uint32_t         failed;                    /* PUT: by its status */
    uint32_t         location;                  /* PUT */
    uint64_t         service_ms;                /* PUT: 0: not known */
    struct attempt  *attempt;                   /* JOB: started at once */
    uint64_t         fair;                      /* JOB, SLOT: as in its row */
    uint64_t         not_before_ms;
    uint32_t         queue;
    uint32_t         priority;
    uint64_t         body_size;
    uint64_t         deadline_ms;               /* JOB, SLOT; 0: none */
};

/* All that one commit made true: events first, then operations. */
struct store_batch {
    struct store_batch  *next;
    struct store_op     *ops;
    uint32_t             n;
    uint32_t             cap;
    struct store_event  *events;
};

/*
 * The engine: what a store has to be able to do, called by the store thread
 * only (by main before there is one).  Everything between begin and commit
 * becomes true together or, after abort, not at all.  Functions return 0 or
 * -1 with a text in error; those that can find a job otherwise than expected
 * say so by a positive value.
 */

#define ENGINE_KNOWN          1                 /* insert: id is there */
#define ENGINE_STALE          2                 /* the row's state forbids */
#define ENGINE_NOT_FOUND      3
#define ENGINE_DUPLICATE      4                 /* insert: its key is another
                                                   job's, */
#define ENGINE_CONFLICT       5                 /* of other content */
#define ENGINE_DENIED         6                 /* not by that token */
#define ENGINE_SAME           7                 /* progress: nothing new */
#define ENGINE_LIMITED        8                 /* insert: its queue is full, */
#define ENGINE_LIMITED_KEY    9                 /* or holds enough of its key */

struct engine_error {
    int   err;                                  /* errno or the engine's */
    int   uncertain;                            /* commit: it may have been
                                                   written all the same */
    char  text[384];
};

/* A job to insert, and what it became. */
struct engine_insert {
    const struct zone_record       *record;
    const struct zone_request_view *view;
    const void                     *payload;
    size_t                          size;
    uint64_t                        now_ms;
    int                             start;      /* insert as RUNNING */
    uint64_t                        seq;        /* out */
    struct store_job                row;        /* out; KNOWN: as stored */
    uint8_t                         first[ZONE_ID_SIZE];  /* out: DUPLICATE:
                                                   whose key it is */
};

struct engine_cancel {
    const uint8_t  *id;
    uint64_t        now_ms;
    uint64_t        ttl_ms;
    uint64_t        seq;                        /* out; 0: was not active */
};

/* A job as it stands in the store; `whole`: with its request, but for the
 * body, and its result, the body of which is cut. */
struct engine_look {
    uint8_t              id[ZONE_ID_SIZE];
    int                  whole;
    uint64_t             seq;                   /* out, all of these */
    struct store_job     row;
    char                 type[STORE_TYPE_MAX + 1];
    char                 message[STORE_MESSAGE_MAX + 1];
    struct buf           request;               /* as a payload */
    struct buf           headers;
    struct buf           body;                  /* empty: in a blob, or so */
    struct store_result  result;
};

#define ENGINE_LOOK_BODY      (16u * 1024)

/* Records that ended in their ring. */
struct engine_turned {
    uint64_t  rejected;
    uint64_t  withdrawn;
    uint64_t  duplicates;                       /* and conflicts */
    uint64_t  limited;
};

typedef int (*engine_queue)(void *ctx, const struct store_queue *row);
typedef int (*engine_scan)(void *ctx, uint64_t seq,
    const struct store_job *row);

struct engine {
    /* From here on the store is this process's.  When another opens it, the
     * next begin() ends this process: see OFFLOADD_OVERTAKEN. */
    int       (*open)(void **self, const struct policy *p,
                   struct engine_error *e);
    void      (*close)(void *self);
    int       (*begin)(void *self, struct engine_error *e);
    int       (*commit)(void *self, struct engine_error *e);
    void      (*abort)(void *self);
    /* How many bytes of new jobs may be taken, of those wanted, such that
     * room is left to finish them and the store stays below max (0: none)? */
    int       (*room)(void *self, uint64_t max, uint64_t *bytes,
                   struct engine_error *e);
    int       (*insert)(void *self, struct engine_insert *i,
                   struct engine_error *e);
    int       (*start)(void *self, struct store_op *op, uint64_t now_ms,
                   struct engine_error *e);
    int       (*settle)(void *self, struct store_op *op,
                   struct engine_error *e);
    int       (*requeue)(void *self, struct store_op *op,
                   struct engine_error *e);
    /* A job that waited until its deadline: as SETTLE.  STALE when it has
     * none, or more time; then the row is as it is. */
    int       (*overdue)(void *self, struct store_op *op, uint64_t ttl_ms,
                   uint64_t now_ms, struct engine_error *e);
    /* Dead letters: STALE when it is none, NOT_FOUND when there is no such
     * job.  One that is queued already has been driven again. */
    int       (*redrive)(void *self, struct store_op *op, uint64_t now_ms,
                   struct engine_error *e);
    int       (*purge)(void *self, struct store_op *op,
                   struct engine_error *e);
    int       (*list)(void *self, struct dead_list *list,
                   struct engine_error *e);
    int       (*cancel)(void *self, struct engine_cancel *c,
                   struct engine_error *e);
    /* Removes a job that was never scheduled, as if it had never been
     * inserted; nothing if it is not there. */
    int       (*withdraw)(void *self, const uint8_t *id,
                   struct engine_error *e);
    /* 1 if there is a job of that id, in the open transaction. */
    int       (*knows)(void *self, const uint8_t *id, uint64_t *seq,
                   struct engine_error *e);
    /* The job whose attempt has that token: 0 while it runs, else STALE with
     * its row, DENIED, NOT_FOUND. */
    int       (*holder)(void *self, const uint8_t *id, const uint8_t *token,
                   uint64_t *seq, struct store_job *row,
                   struct engine_error *e);
    int       (*progress)(void *self, uint64_t seq, struct store_job *row,
                   const struct zone_progress_view *view,
                   struct engine_error *e);
    /* How large the job's result may be, 0: any; is a larger one cut? */
    int       (*bound)(void *self, uint64_t seq, uint64_t *max, int *cut,
                   struct engine_error *e);
    int       (*defer)(void *self, struct store_op *op,
                   struct engine_error *e);
    /* At most max; how many. */
    int       (*expire)(void *self, uint64_t now_ms, uint64_t tombstone_ms,
                   int max, struct engine_error *e);
    uint64_t  (*first_expiry)(void *self);      /* unix ms, UINT64_MAX: none */
    uint64_t  (*next_seq)(void *self);
    /* Recovery: every job that is not settled, in order; RUNNING ones are
     * made QUEUED, or FAILED when they may be attempted only once.  Own
     * transactions. */
    int       (*recover)(void *self, engine_scan scan, void *ctx,
                   struct engine_error *e);
    /* Counts the jobs anew.  Its own transaction. */
    int       (*recount)(void *self, struct store_counters *was,
                   struct store_counters *now, struct engine_error *e);
    /* See zone_store.h.  Get: ENGINE_NOT_FOUND if none has that size. */
    int       (*get_rings)(void *self, struct store_rings *row, size_t size,
                   struct engine_error *e);
    int       (*put_rings)(void *self, const struct store_rings *row,
                   size_t size, const struct engine_turned *t,
                   struct engine_error *e);
    /* Its time, and its flags: each leaves the other as it is. */
    int       (*put_queue)(void *self, const struct store_queue *row,
                   struct engine_error *e);
    int       (*put_flags)(void *self, uint32_t hash, uint32_t flags,
                   struct engine_error *e);
    /* All rows of queues.  Its own transaction. */
    int       (*queues)(void *self, engine_queue each, void *ctx,
                   struct engine_error *e);
    /* Does this job still want its spooled body (its blob)?  Read only. */
    int       (*wants_body)(void *self, const uint8_t *id);
    int       (*wants_blob)(void *self, const uint8_t *id, uint32_t attempt);
    /* Deliveries of webhooks: see offloadd_lmdb_hook.c.  list: its own
     * transaction; filed: a number that grows when there is a new one. */
    int       (*hooks_due)(void *self, struct hook_list *list,
                   struct engine_error *e);
    int       (*hook_done)(void *self, uint64_t seq,
                   const struct hook_outcome *o, struct engine_error *e);
    int       (*hook_retry)(void *self, const uint8_t *id, uint16_t n,
                   uint64_t settled_ms, uint64_t now_ms,
                   struct engine_error *e);
    int       (*hooks_list)(void *self, struct hook_page *page,
                   struct engine_error *e);
    uint32_t  (*hooks_filed)(void *self);
    /* Receivers that are sent nothing; forget: NOT_FOUND if it is not one. */
    int       (*gone_list)(void *self, struct gone_page *page,
                   struct engine_error *e);
    int       (*gone_forget)(void *self, const uint8_t *digest,
                   struct engine_error *e);
    void      (*upkeep)(void *self);            /* each 10 s or so */
    /* As of the last commit, without a transaction. */
    int       (*counters)(void *self, struct store_counters *c,
                   struct engine_error *e);
    int       (*look)(void *self, struct engine_look *v,
                   struct engine_error *e);
    /* The zone's STORE_QUEUE_* flags; put: in the transaction. */
    int       (*get_hold)(void *self, uint32_t *hold,
                   struct engine_error *e);
    int       (*put_hold)(void *self, uint32_t hold, struct engine_error *e);
};

extern const struct engine  engine_lmdb;

struct drain_lane {
    struct zone_consumer  consumer;
    struct zone_bell      bell;
    _Atomic uint32_t      corrupt;              /* set aside */
    uint32_t              ring;                 /* answers were posted */
    uint32_t              taken;                /* records in this batch */
};

struct drain_item {
    struct zone_record    record;               /* private copy */
    struct zone_record   *at;                   /* in the ring; until the head
                                                   moves */
    uint32_t              lane;
    uint32_t              kind;                 /* enum drain_kind */
    uint64_t              seq;
    struct store_job      row;
    struct attempt       *attempt;
    uint32_t              changed;              /* PROGRESS */
    uint32_t              result;               /* for ..._completion */
    uint8_t               first[ZONE_ID_SIZE];  /* DUPLICATE: that job */
};

/* May the drain start jobs of this queue?  The default queue comes first. */
struct store_rule {
    uint32_t  hash;
    uint32_t  plain;
};

struct answer {
    uint32_t                lane;
    uint32_t                tries;
    struct zone_completion  c;
};

struct store {
    struct offloadd      *daemon;
    const struct engine  *engine;
    void                 *self;                 /* the engine's */
    pthread_t             thread;
    int                   running;

    /* Shared by the two threads, under the mutex. */
    pthread_mutex_t       mutex;
    struct store_op      *ops;                  /* loop -> store */
    struct store_op     **ops_last;
    struct store_op      *reads;                /* likewise, STORE_OP_READ */
    struct store_op     **reads_last;
    struct store_batch   *batches;              /* store -> loop */
    struct store_batch  **batches_last;
    struct attempt       *lent;                 /* capacity: see sched_lend */
    struct store_rule    *rules;                /* see sched_rules() */
    uint32_t              nrules;
    int                   stop;

    _Atomic uint32_t      store_sleeping;
    _Atomic uint32_t      loop_sleeping;
    int                   store_event;          /* eventfds */
    int                   loop_event;
    _Atomic uint64_t      ttl_ms;               /* live policy */
    _Atomic uint64_t      tombstone_ms;
    _Atomic uint64_t      max_bytes;
    _Atomic uint32_t      hooks_filed;          /* the engine's, committed */

    /* The store thread's own. */
    struct store_op      *todo;                 /* taken, not committed */
    struct store_op     **todo_last;
    struct store_op     **applied;              /* up to here, in this txn */
    struct store_op      *reading;
    struct drain_lane    *lanes;
    uint32_t              first_lane;           /* rotates: fairness */
    struct drain_item    *items;
    uint32_t              nitems;
    struct store_rings   *rings;                /* as rings_drained() has it */
    uint32_t              items_cap;
    struct answer        *pending;              /* CQ was full */
    uint32_t              npending;
    uint32_t              pending_cap;
    int                   bell;                 /* socket to ring with */
    int                   wake;                 /* worker.wake */
    uint32_t              failures;             /* in a row */
    uint32_t              failed;               /* since it last was fine */
    int                   unsure;               /* what the last commit left */
    uint64_t              failed_at;            /* mono ms */
    uint64_t              retry_at;             /* mono ms */
    uint64_t              error_logged;         /* mono ms */
    uint64_t              last_upkeep;
    uint64_t              last_sweep;
    uint64_t              last_pending;
    int                   full;                 /* no room for new jobs */
    uint64_t              full_until;           /* mono ms: look again */
    int                   durable;              /* durability=disk */
    uint32_t              unsynced;             /* FILES_*: directories with
                                                   new names in them */
};

int store_init(struct store *s, struct offloadd *d, struct engine_error *e);
int store_start(struct store *s);
void *store_main(void *arg);                    /* the store thread */
int store_take_ops(struct store *s);
void store_give(struct store *s, struct store_batch *b);
void store_submit(struct store *s, struct store_op *first,
    struct store_op **last);
void store_submit_read(struct store *s, struct store_op *op);
struct store_batch *store_take(struct store *s);
void store_batch_free(struct store_batch *b);
void store_stop(struct store *s);               /* finishes what is there */
int store_stopping(struct store *s);            /* store thread asks */
void store_failed(struct store *s, const struct engine_error *e);
int store_drained(struct store *s);             /* all rings are empty */
int store_batch_reserve(struct store_batch *b, uint32_t n);
struct store_event *store_event_add(struct store_batch *b);


/* offloadd_drain.c, offloadd_drained.c (store thread) */

enum drain_kind {
    DRAIN_JOB = 1,
    DRAIN_KNOWN,                                /* drained before a kill */
    DRAIN_CANCEL,
    DRAIN_REJECT,                               /* not a request */
    DRAIN_WITHDRAWN,                            /* nobody waits any more */
    DRAIN_DUPLICATE,                            /* its key is another job's */
    DRAIN_LIMITED,                              /* its queue is full */
    DRAIN_WATCH,
    DRAIN_PROGRESS,
    DRAIN_PUT
};

int drain_init(struct store *s, struct zone_error *e);
uint64_t drain_pending(struct store *s);        /* bytes in the rings */
/* Into the open transaction: how many records, -1 on an engine's error. */
int drain_read(struct store *s, uint32_t max, struct engine_error *e);
/* After the commit (into the batch), after an abort. */
void drain_finish(struct store *s, struct store_batch *b);
void drain_undo(struct store *s);
/* offloadd_lend.c: what is lent is used, or given back */
struct attempt *drain_borrow(struct store *s,
    const struct zone_request_view *view, const void *request, size_t size);
void drain_give_back(struct store *s, struct attempt *a);
/* Room in the store again?  Until then new jobs are refused, or wait. */
void drain_look(struct store *s);


/* offloadd_report.c (store thread), into the open transaction */

int drain_progress(struct store *s, struct drain_item *item,
    struct engine_error *e);
int report_apply(struct store *s, struct store_op *op, struct engine_error *e);
int drain_put(struct store *s, struct drain_item *item,
    struct engine_error *e);


/* offloadd_claim.c (store thread) */

int claim_withdrawn(struct store *s, const struct zone_record *rec,
    struct engine_error *e);
void claim_unlink_body(struct store *s, const struct zone_record *rec);
int claims_committed(struct store *s);
void claims_refuse(struct store *s, uint32_t result, int uncertain);
int claims_review(struct store *s, struct engine_error *e);
/* Main thread, before jobs are scheduled. */
int claims_recover(struct store *s, struct engine_error *e);


/* offloadd_rings.c (store thread) */

int rings_init(struct store *s, struct engine_error *e);    /* main */
int rings_drained(struct store *s, struct engine_error *e);


/* offloadd_answer.c (store thread) */

void answer_post(struct store *s, uint32_t lane,
    const struct zone_completion *c);
void answer_retry(struct store *s);             /* those that found it full */
void answer_bells(struct store *s);

#endif /* OFFLOADD_STORE_H */
