/*
 * Inside the LMDB engine: what its files share.  Used by the store thread
 * (and by main before there is one).
 *
 *      offloadd_lmdb.c      environment, transactions
 *      offloadd_lmdb_room.c  room for new jobs
 *      offloadd_lmdb_job.c  a job's rows
 *      offloadd_lmdb_make.c  a store that is not there yet
 *      offloadd_lmdb_key.c  idempotency keys
 *      offloadd_lmdb_report.c  tokens, progress, jobs deferred
 *      offloadd_lmdb_queue.c  rates and flags of queues
 *      offloadd_lmdb_dead.c  jobs that failed with their requests
 *      offloadd_lmdb_scan.c  recovery, expiry, look-ups
 *      offloadd_lmdb_owner.c  whose store it is
 *      offloadd_lmdb_control.c  what the control looks at
 *      offloadd_lmdb_hook.c  deliveries of webhooks
 *      offloadd_lmdb_hooks.c  those that are due, or looked at
 *      offloadd_lmdb_gone.c  receivers that are sent nothing more
 */

#ifndef OFFLOADD_LMDB_H
#define OFFLOADD_LMDB_H

#include <lmdb.h>

#include "offloadd.h"
#include "offloadd_limit.h"


enum lmdb_db {
    LMDB_META = 0,
    LMDB_IDS,
    LMDB_JOBS,
    LMDB_REQUESTS,
    LMDB_RESULTS,
    LMDB_EXPIRY,
    LMDB_KEYS,
    LMDB_KEY_EXPIRY,
    LMDB_DEAD,
    LMDB_HOOKS,
    LMDB_HOOK_DUE,
    LMDB_GONE,
    LMDB_GONE_AGE,
    LMDB_DBS
};

/* A file to unlink once the transaction is committed. */
struct lmdb_doomed {
    const char  *dir;
    uint32_t     attempt;
    uint8_t      id[ZONE_ID_SIZE];
};

struct lmdb {
    const struct policy  *policy;
    MDB_env              *env;
    MDB_txn              *txn;
    MDB_dbi               db[LMDB_DBS];
    uint64_t              epoch;                /* ours; 0: none yet */
    int                   lock;                 /* of STORE_LOCK; -1 */
    uint32_t              page;
    int                   fd;                   /* of the data file */
    uint64_t              allocated;            /* known to be on the disk */
    int                   unsure;               /* what the last commit left:
                                                   the next one must write */
    uint64_t              next_seq;             /* as of the last commit */
    uint64_t              txn_next_seq;
    uint64_t              first_expiry;         /* a lower bound */
    uint64_t              txn_first_expiry;
    struct store_counters  counters;            /* when the txn began */
    struct store_counters  txn_counters;
    int                   counted;              /* they were in the store */
    struct limits         limits;
    uint32_t              hooks_filed;          /* so often */
    struct lmdb_doomed   *doomed;
    uint32_t              ndoomed;
    uint32_t              doomed_cap;
    struct zone_random    random;               /* for tokens */
    uint8_t               row[sizeof(struct store_job) + STORE_STRINGS_MAX];
};

static inline void
lmdb_seq_key(MDB_val *key, uint64_t *seq)
{
    key->mv_data = seq;
    key->mv_size = sizeof(*seq);
}

/* What a row says of one attempt, and of its end, is over. */

static inline void
lmdb_bare_row(struct store_job *row)
{
    row->flags &= (uint8_t) ~STORE_DEFERRED;
    row->not_before_ms = 0;
    row->type_len = 0;
    row->message_len = 0;
    row->progress = 0;
    row->progress_len = 0;
    row->reports = 0;
}

/* Numbers in keys: the smallest comes first. */

static inline uint64_t
lmdb_big_endian(const uint8_t *p)
{
    int       i;
    uint64_t  n;

    for (i = 0, n = 0; i < 8; i++) {
        n = n << 8 | p[i];
    }

    return n;
}

static inline void
lmdb_put_big_endian(uint8_t *p, uint64_t n)
{
    int  i;

    for (i = 0; i < 8; i++) {
        p[i] = (uint8_t) (n >> (56 - 8 * i));
    }
}

int lmdb_fail(struct engine_error *e, int rc, const char *what);
int lmdb_doom(struct lmdb *m, const char *dir, const uint8_t *id,
    uint32_t attempt, struct engine_error *e);
int lmdb_put(struct lmdb *m, enum lmdb_db db, MDB_val *key, MDB_val *data,
    struct engine_error *e);
int lmdb_get_row(struct lmdb *m, MDB_txn *txn, uint64_t seq,
    struct store_job *row, struct engine_error *e);

/* offloadd_lmdb_owner.c */
int lmdb_owner_init(struct lmdb *m, struct engine_error *e);
int lmdb_claim(struct lmdb *m, MDB_txn *txn, struct engine_error *e);
int lmdb_check_owner(struct lmdb *m, struct engine_error *e);

/* offloadd_lmdb_job.c */
int lmdb_insert(void *self, struct engine_insert *in,
    struct engine_error *e);
int lmdb_start(void *self, struct store_op *op, uint64_t now_ms,
    struct engine_error *e);
int lmdb_settle(void *self, struct store_op *op, struct engine_error *e);
int lmdb_requeue(void *self, struct store_op *op, struct engine_error *e);
int lmdb_cancel(void *self, struct engine_cancel *c, struct engine_error *e);
int lmdb_withdraw(void *self, const uint8_t *id, struct engine_error *e);
int lmdb_lease(struct lmdb *m, const struct store_op *op, uint8_t done,
    struct store_job *row, struct engine_error *e);
int lmdb_del(struct lmdb *m, enum lmdb_db db, MDB_val *key,
    struct engine_error *e);
int lmdb_drop_result(struct lmdb *m, uint64_t seq,
    const struct store_job *row, struct engine_error *e);
int lmdb_finish(struct lmdb *m, uint64_t seq, struct store_job *row,
    size_t size, struct engine_error *e);
int lmdb_find(struct lmdb *m, const uint8_t *id, uint64_t *seq,
    struct engine_error *e);
int lmdb_put_row(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e);

/* offloadd_lmdb_dead.c */
int lmdb_overdue(void *self, struct store_op *op, uint64_t ttl_ms,
    uint64_t now_ms, struct engine_error *e);
int lmdb_redrive(void *self, struct store_op *op, uint64_t now_ms,
    struct engine_error *e);
int lmdb_purge(void *self, struct store_op *op, struct engine_error *e);
int lmdb_list(void *self, struct dead_list *list, struct engine_error *e);
int lmdb_dead_put(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e);
int lmdb_dead_drop(struct lmdb *m, uint64_t seq, struct store_job *row,
    struct engine_error *e);
int lmdb_discard(struct lmdb *m, uint64_t seq, struct store_job *row,
    struct engine_error *e);
int lmdb_drop_request(struct lmdb *m, uint64_t seq,
    const struct store_job *row, const MDB_val *request,
    struct engine_error *e);

/* offloadd_lmdb_report.c */
int lmdb_new_token(struct lmdb *m, struct store_job *row,
    struct engine_error *e);
int lmdb_holder(void *self, const uint8_t *id, const uint8_t *token,
    uint64_t *seq, struct store_job *row, struct engine_error *e);
int lmdb_bound(void *self, uint64_t seq, uint64_t *max, int *cut,
    struct engine_error *e);
int lmdb_progress(void *self, uint64_t seq, struct store_job *row,
    const struct zone_progress_view *view, struct engine_error *e);
int lmdb_defer(void *self, struct store_op *op, struct engine_error *e);

/* offloadd_lmdb_make.c: if it is not there */
int lmdb_make(const char *store, const char *file, struct engine_error *e);
/* offloadd_lmdb_key.c */
int lmdb_key_check(struct lmdb *m, struct engine_insert *in,
    struct engine_error *e);
int lmdb_key_take(struct lmdb *m, struct engine_insert *in,
    struct engine_error *e);
int lmdb_key_give_back(struct lmdb *m, const MDB_val *request,
    const uint8_t *id, struct engine_error *e);
int lmdb_key_file(struct lmdb *m, const MDB_val *request,
    const struct store_job *row, struct engine_error *e);
int lmdb_key_unfile(struct lmdb *m, const MDB_val *request,
    const struct store_job *row, struct engine_error *e);
int lmdb_keys_expire(struct lmdb *m, uint64_t now_ms, int max,
    struct engine_error *e);

/* offloadd_lmdb_limit.c */
int lmdb_room(void *self, uint64_t max, uint64_t *bytes,
    struct engine_error *e);
int lmdb_limit_check(struct lmdb *m, struct engine_insert *in,
    struct engine_error *e);
int lmdb_count_limits(struct lmdb *m, struct engine_error *e);

/* offloadd_lmdb_count.c */
int lmdb_read_counters(struct lmdb *m, struct engine_error *e);
int lmdb_write_counters(struct lmdb *m, struct engine_error *e);
void lmdb_count_new(struct lmdb *m, const struct store_job *row);
void lmdb_count(struct lmdb *m, const struct store_job *row, int to);
void lmdb_count_purged(struct lmdb *m, const struct store_job *row);
void lmdb_count_withdrawn(struct lmdb *m, const struct store_job *row);
int lmdb_recount(void *self, struct store_counters *was,
    struct store_counters *now, struct engine_error *e);
int lmdb_get_rings(void *self, struct store_rings *row, size_t size,
    struct engine_error *e);
int lmdb_put_rings(void *self, const struct store_rings *row, size_t size,
    const struct engine_turned *t, struct engine_error *e);

/* offloadd_lmdb_queue.c */
void lmdb_queue_row(struct store_job *row,
    const struct zone_request_view *view);
int lmdb_put_queue(void *self, const struct store_queue *row,
    struct engine_error *e);
int lmdb_put_flags(void *self, uint32_t hash, uint32_t flags,
    struct engine_error *e);
int lmdb_queues(void *self, engine_queue each, void *ctx,
    struct engine_error *e);

/* offloadd_lmdb_scan.c */
int lmdb_find(struct lmdb *m, const uint8_t *id, uint64_t *seq,
    struct engine_error *e);
int lmdb_knows(void *self, const uint8_t *id, uint64_t *seq,
    struct engine_error *e);
int lmdb_recover(void *self, engine_scan scan, void *ctx,
    struct engine_error *e);
int lmdb_expire(void *self, uint64_t now_ms, uint64_t tombstone_ms, int max,
    struct engine_error *e);
int lmdb_wants_body(void *self, const uint8_t *id);
int lmdb_wants_blob(void *self, const uint8_t *id, uint32_t attempt);

/* offloadd_lmdb_hook.c */
int lmdb_hooks_file(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e);
int lmdb_hooks_expire(struct lmdb *m, uint64_t seq,
    const struct store_job *row, struct engine_error *e);
int lmdb_hook_done(void *self, uint64_t seq, const struct hook_outcome *o,
    struct engine_error *e);
uint32_t lmdb_hooks_filed(void *self);
int lmdb_hook_get(struct lmdb *m, MDB_txn *txn, uint64_t seq, uint64_t n,
    struct store_hook *row, MDB_val *value, struct engine_error *e);
int lmdb_hook_change(struct lmdb *m, uint64_t seq,
    const struct store_hook *row, const MDB_val *value,
    struct engine_error *e);

/* offloadd_lmdb_hooks.c */
int lmdb_hooks_due(void *self, struct hook_list *list,
    struct engine_error *e);
int lmdb_hook_retry(void *self, const uint8_t *id, uint16_t n,
    uint64_t settled_ms, uint64_t now_ms, struct engine_error *e);
int lmdb_hooks_list(void *self, struct hook_page *page,
    struct engine_error *e);

/* offloadd_lmdb_gone.c: 1 if it is; url: of the row's length */
int lmdb_gone(struct lmdb *m, const struct store_hook *row, const char *url,
    uint64_t now_ms, struct engine_error *e);
int lmdb_gone_put(struct lmdb *m, const struct store_hook *row,
    const char *url, uint64_t now_ms, struct engine_error *e);
int lmdb_gone_forget(void *self, const uint8_t *digest,
    struct engine_error *e);
int lmdb_gone_list(void *self, struct gone_page *page,
    struct engine_error *e);

/* offloadd_lmdb_control.c */
int lmdb_read_begin(struct lmdb *m, MDB_txn **txn, struct engine_error *e);
int lmdb_counters(void *self, struct store_counters *c,
    struct engine_error *e);
int lmdb_look(void *self, struct engine_look *v, struct engine_error *e);
int lmdb_get_hold(void *self, uint32_t *hold, struct engine_error *e);
int lmdb_put_hold(void *self, uint32_t hold, struct engine_error *e);

#endif /* OFFLOADD_LMDB_H */
