/*
 * The LMDB engine: jobs that failed and keep their requests (dead letters),
 * and those whose deadline came while they waited.  Store thread, inside the
 * open transaction; a kill leaves the rows of the last commit.
 *
 *      dead    queue, seq -> nothing
 *
 * A dead letter is a FAILED row with STORE_DEAD: then, and only then, it has
 * a row in `dead`, and its request and spooled body are kept.  All of it goes
 * at once: by a redrive, by a purge, when its client deletes the job, or when
 * it expires.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


static void
lmdb_dead_key(MDB_val *key, struct store_dead_key *k, uint64_t queue,
    uint64_t seq)
{
    lmdb_put_big_endian(k->queue, queue);
    lmdb_put_big_endian(k->seq, seq);

    key->mv_data = k;
    key->mv_size = sizeof(*k);
}


int
lmdb_dead_put(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e)
{
    MDB_val                key, data;
    struct store_dead_key  k;

    lmdb_dead_key(&key, &k, row->queue, seq);
    data.mv_data = NULL;
    data.mv_size = 0;

    return lmdb_put(m, LMDB_DEAD, &key, &data, e);
}


/* The request of a job that needs it no more, and its spooled body. */

int
lmdb_drop_request(struct lmdb *m, uint64_t seq, const struct store_job *row,
    const MDB_val *request, struct engine_error *e)
{
    MDB_val              key;
    struct zone_request  r;

    if (request->mv_size >= sizeof(r)) {
        memcpy(&r, request->mv_data, sizeof(r));

        if ((r.flags & ZONE_REQUEST_BODY_FILE)
            && lmdb_doom(m, ZONE_DIR_SPOOL, row->id, 0, e) != 0)
        {
            return -1;
        }
    }

    lmdb_seq_key(&key, &seq);

    return lmdb_del(m, LMDB_REQUESTS, &key, e);
}


static int
lmdb_dead_unlist(struct lmdb *m, uint64_t seq, struct store_job *row,
    struct engine_error *e)
{
    MDB_val                key;
    struct store_dead_key  k;

    row->flags = (uint8_t) (row->flags & ~STORE_DEAD);
    lmdb_dead_key(&key, &k, row->queue, seq);

    return lmdb_del(m, LMDB_DEAD, &key, e);
}


/* It is one no more, and can't be driven again; the caller writes the row. */

int
lmdb_dead_drop(struct lmdb *m, uint64_t seq, struct store_job *row,
    struct engine_error *e)
{
    int      rc;
    MDB_val  key, request;

    if (lmdb_dead_unlist(m, seq, row, e) != 0) {
        return -1;
    }

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &request);

    if (rc == MDB_NOTFOUND) {
        return 0;
    }

    return rc ? lmdb_fail(e, rc, STORE_DB_REQUESTS)
              : lmdb_drop_request(m, seq, row, &request, e);
}


/* The row anew, before the strings that are there. */

static int
lmdb_put_strings(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e)
{
    int      rc;
    size_t   size;
    MDB_val  key, data;

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(m->txn, m->db[LMDB_JOBS], &key, &data);

    if (rc || data.mv_size > sizeof(m->row)) {
        return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_JOBS);
    }

    size = data.mv_size;
    memcpy(m->row, data.mv_data, size);
    memcpy(m->row, row, sizeof(*row));

    data.mv_data = m->row;
    data.mv_size = size;

    rc = mdb_put(m->txn, m->db[LMDB_JOBS], &key, &data, 0);

    return rc ? lmdb_fail(e, rc, STORE_DB_JOBS) : 0;
}


/*
 * A settled job's result goes; what its row says of it, except that, stays.
 * A dead letter is not wanted any more, either.
 */

int
lmdb_discard(struct lmdb *m, uint64_t seq, struct store_job *row,
    struct engine_error *e)
{
    if ((row->flags & STORE_DEAD) && lmdb_dead_drop(m, seq, row, e) != 0) {
        return -1;
    }

    if (lmdb_drop_result(m, seq, row, e) != 0) {
        return -1;
    }

    row->flags = (uint8_t) ((row->flags & ~STORE_HAS_RESULT)
                            | STORE_DISCARDED);

    return lmdb_put_strings(m, seq, row, e);
}


/* The op's job, with its row; 0, a positive reason, or -1. */

static int
lmdb_dead_find(struct lmdb *m, struct store_op *op, struct engine_error *e)
{
    int      rc;
    uint8_t  id[ZONE_ID_SIZE];

    memcpy(id, op->row.id, ZONE_ID_SIZE);

    rc = lmdb_find(m, id, &op->seq, e);

    return rc == 0 ? lmdb_get_row(m, m->txn, op->seq, &op->row, e) : rc;
}


static int
lmdb_unexpire(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e)
{
    MDB_val                  key;
    struct store_expiry_key  expiry;

    lmdb_put_big_endian(expiry.expires_ms, row->expires_ms);
    lmdb_put_big_endian(expiry.seq, seq);

    key.mv_data = &expiry;
    key.mv_size = sizeof(expiry);

    return lmdb_del(m, LMDB_EXPIRY, &key, e);
}


/*
 * As accepted, but for `attempts`: the numbers of attempts are never given
 * out twice, to a backend or as a lease.  The deadline starts anew.
 */

static void
lmdb_as_new(struct store_job *row, const MDB_val *request, uint64_t now_ms)
{
    struct zone_request  r;

    memset(&r, 0, sizeof(r));
    memcpy(&r, request->mv_data,
           request->mv_size < sizeof(r) ? request->mv_size : sizeof(r));

    row->state = STORE_QUEUED;
    row->flags = (uint8_t) (row->flags & ~(STORE_HAS_RESULT|STORE_DISCARDED
                                           |STORE_TRUNCATED));
    lmdb_bare_row(row);
    row->error = STORE_ERROR_NONE;
    row->strikes = 0;
    row->failures = 0;
    row->finished_ms = 0;
    row->expires_ms = 0;
    row->deadline_ms = r.deadline_s ? now_ms + r.deadline_s * 1000ull : 0;
    row->result_size = 0;
    row->http_status = 0;
}


int
lmdb_redrive(void *self, struct store_op *op, uint64_t now_ms,
    struct engine_error *e)
{
    int           rc;
    MDB_val       key, request;
    struct lmdb  *m = self;

    rc = lmdb_dead_find(m, op, e);

    if (rc != 0 || op->row.state == STORE_QUEUED) {
        return rc;
    }

    if (op->row.state != STORE_FAILED || !(op->row.flags & STORE_DEAD)) {
        return ENGINE_STALE;
    }

    lmdb_seq_key(&key, &op->seq);
    rc = mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &request);

    if (rc) {
        return rc == MDB_NOTFOUND ? ENGINE_STALE
                                  : lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    if (lmdb_key_unfile(m, &request, &op->row, e) != 0
        || lmdb_unexpire(m, op->seq, &op->row, e) != 0
        || lmdb_drop_result(m, op->seq, &op->row, e) != 0
        || lmdb_dead_unlist(m, op->seq, &op->row, e) != 0)
    {
        return -1;
    }

    lmdb_count(m, &op->row, STORE_QUEUED);

    lmdb_seq_key(&key, &op->seq);
    rc = mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &request);

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    lmdb_as_new(&op->row, &request, now_ms);

    return lmdb_put_row(m, op->seq, &op->row, e);
}


/* Request and last answer go; that it failed, and why, is shown as long as
 * it was to be. */

int
lmdb_purge(void *self, struct store_op *op, struct engine_error *e)
{
    int           rc;
    struct lmdb  *m = self;

    rc = lmdb_dead_find(m, op, e);
    if (rc != 0) {
        return rc;
    }

    if (op->row.state != STORE_FAILED
        || !(op->row.flags & (STORE_DEAD|STORE_DISCARDED)))
    {
        return ENGINE_STALE;
    }

    if (!(op->row.flags & STORE_DEAD)) {
        return 0;                               /* it has been purged */
    }

    return lmdb_discard(m, op->seq, &op->row, e);
}


static int
lmdb_list_one(struct lmdb *m, MDB_txn *txn, struct dead_list *list,
    uint64_t seq, struct engine_error *e)
{
    int                rc;
    MDB_val            key, data;
    const char        *text;
    struct dead_entry *to = &list->entries[list->n];

    rc = lmdb_get_row(m, txn, seq, &to->row, e);
    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? 0 : -1;
    }

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(txn, m->db[LMDB_JOBS], &key, &data);

    if (rc || to->row.type_len > STORE_TYPE_MAX
        || to->row.message_len > STORE_MESSAGE_MAX
        || data.mv_size < sizeof(to->row) + to->row.type_len
                          + to->row.message_len)
    {
        return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_JOBS);
    }

    text = (const char *) data.mv_data + sizeof(to->row);
    memcpy(to->type, text, to->row.type_len);
    to->type[to->row.type_len] = '\0';
    memcpy(to->message, text + to->row.type_len, to->row.message_len);
    to->message[to->row.message_len] = '\0';

    to->seq = seq;
    list->n++;

    return 0;
}


static int
lmdb_list_some(struct lmdb *m, MDB_txn *txn, struct dead_list *list,
    struct engine_error *e)
{
    int                    rc;
    MDB_val                key, data;
    uint64_t               seq;
    MDB_cursor            *cursor;
    struct store_dead_key  k;

    list->n = 0;

    rc = mdb_cursor_open(txn, m->db[LMDB_DEAD], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_DEAD);
    }

    lmdb_dead_key(&key, &k, list->queue, list->seq + 1);
    rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);

    while (rc == 0 && list->n < list->max && key.mv_size == sizeof(k)) {
        memcpy(&k, key.mv_data, sizeof(k));
        seq = lmdb_big_endian(k.seq);

        if (list->one_queue && lmdb_big_endian(k.queue) != list->queue) {
            break;
        }

        if (lmdb_list_one(m, txn, list, seq, e) != 0) {
            mdb_cursor_close(cursor);
            return -1;
        }

        list->queue = lmdb_big_endian(k.queue);
        list->seq = seq;

        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    }

    mdb_cursor_close(cursor);

    return rc == 0 || rc == MDB_NOTFOUND ? 0 : lmdb_fail(e, rc,
                                                         STORE_DB_DEAD);
}


/* In the open transaction, or as of the last commit when there is none. */

int
lmdb_list(void *self, struct dead_list *list, struct engine_error *e)
{
    int           rc;
    MDB_txn      *txn;
    struct lmdb  *m = self;

    if (m->txn) {
        return lmdb_list_some(m, m->txn, list, e);
    }

    if (lmdb_read_begin(m, &txn, e) != 0) {
        return -1;
    }

    rc = lmdb_list_some(m, txn, list, e);
    mdb_txn_abort(txn);

    return rc;
}


/* Waiting when its deadline came.  A second time, after a commit that failed
 * and has arrived, it is done. */

int
lmdb_overdue(void *self, struct store_op *op, uint64_t ttl_ms,
    uint64_t now_ms, struct engine_error *e)
{
    int               rc;
    struct lmdb      *m = self;
    struct store_job  row;

    rc = lmdb_get_row(m, m->txn, op->seq, &row, e);

    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? ENGINE_STALE : -1;
    }

    if (row.state == STORE_FAILED && row.error == STORE_ERROR_EXPIRED) {
        op->row = row;
        return 0;
    }

    if (row.state != STORE_QUEUED || row.deadline_ms == 0
        || row.deadline_ms > now_ms)
    {
        op->row = row;
        return ENGINE_STALE;
    }

    lmdb_count(m, &row, STORE_FAILED);

    lmdb_bare_row(&row);
    row.state = STORE_FAILED;
    row.error = STORE_ERROR_EXPIRED;
    row.finished_ms = op->row.finished_ms;
    row.expires_ms = row.finished_ms + store_ttl_ms(&row, ttl_ms);
    row.message_len = op->row.message_len;

    memcpy(m->row + sizeof(row), op->message, row.message_len);
    op->row = row;

    return lmdb_finish(m, op->seq, &row, sizeof(row) + row.message_len, e);
}
