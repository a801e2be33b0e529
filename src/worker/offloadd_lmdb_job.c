/*
 * The LMDB engine: what happens to a job's rows.  Each function works inside
 * the open transaction; the state in the row decides whether a step is
 * allowed, so an attempt that was overtaken by a cancel changes nothing.
 * Store thread.  A kill leaves the rows of the last commit.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


int
lmdb_put_row(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e)
{
    int      rc;
    MDB_val  key, data;

    lmdb_seq_key(&key, &seq);
    data.mv_data = (void *) (uintptr_t) row;
    data.mv_size = sizeof(*row) + row->type_len + row->message_len;

    rc = mdb_put(m->txn, m->db[LMDB_JOBS], &key, &data, 0);

    return rc ? lmdb_fail(e, rc, STORE_DB_JOBS) : 0;
}


int
lmdb_del(struct lmdb *m, enum lmdb_db db, MDB_val *key,
    struct engine_error *e)
{
    int  rc;

    rc = mdb_del(m->txn, m->db[db], key, NULL);

    if (rc != 0 && rc != MDB_NOTFOUND) {
        return lmdb_fail(e, rc, "the store's delete");
    }

    return 0;
}


/* An id the store knows came from the ring before: the row is handed out. */

static int
lmdb_insert_id(struct lmdb *m, struct engine_insert *in,
    struct engine_error *e)
{
    int      rc;
    MDB_val  key, data;

    key.mv_data = (void *) (uintptr_t) in->record->id;
    key.mv_size = ZONE_ID_SIZE;
    data.mv_data = &in->seq;
    data.mv_size = sizeof(in->seq);

    in->seq = m->txn_next_seq;

    rc = mdb_put(m->txn, m->db[LMDB_IDS], &key, &data,
                 ZONE_MUTANT("drain.known") ? 0 : MDB_NOOVERWRITE);

    if (rc == 0) {
        m->txn_next_seq++;
        return 0;
    }

    if (rc != MDB_KEYEXIST || data.mv_size != sizeof(in->seq)) {
        return lmdb_fail(e, rc == MDB_KEYEXIST ? MDB_CORRUPTED : rc,
                         STORE_DB_IDS);
    }

    memcpy(&in->seq, data.mv_data, sizeof(in->seq));

    rc = lmdb_get_row(m, m->txn, in->seq, &in->row, e);

    return rc == 0 ? ENGINE_KNOWN
                   : rc == -1 ? -1 : lmdb_fail(e, MDB_CORRUPTED,
                                               STORE_DB_IDS);
}


int
lmdb_insert(void *self, struct engine_insert *in, struct engine_error *e)
{
    int           rc;
    MDB_val       key, data;
    struct lmdb  *m = self;

    rc = lmdb_key_check(m, in, e);
    if (rc != 0) {
        return rc;
    }

    rc = lmdb_limit_check(m, in, e);
    if (rc != 0) {
        return rc;
    }

    rc = lmdb_insert_id(m, in, e);
    if (rc != 0) {
        return rc;
    }

    if (lmdb_key_take(m, in, e) != 0) {
        return -1;
    }

    memset(&in->row, 0, sizeof(in->row));
    in->row.layout = STORE_LAYOUT;
    in->row.state = STORE_QUEUED;
    memcpy(in->row.id, in->record->id, ZONE_ID_SIZE);
    in->row.created_ms = in->record->created_ms;
    in->row.body_size = in->view->fixed.body_size;
    in->row.timeout_s = in->view->fixed.timeout_s;
    in->row.location = in->view->fixed.location;
    memcpy(in->row.owner, in->view->fixed.owner, ZONE_DIGEST_SIZE);
    in->row.result_ttl_s = in->view->fixed.result_ttl_s;
    lmdb_queue_row(&in->row, in->view);

    if (in->view->fixed.deadline_s) {
        in->row.deadline_ms = in->row.created_ms
                              + in->view->fixed.deadline_s * 1000ull;
    }

    if (in->view->fixed.flags & ZONE_REQUEST_AT_MOST_ONCE) {
        in->row.flags = STORE_AT_MOST_ONCE;
    }

    if (in->view->fixed.hooks_len) {
        in->row.flags |= STORE_HOOKED;
    }

    if (in->start) {
        in->row.state = STORE_RUNNING;
        in->row.attempts = 1;
        in->row.started_ms = in->now_ms;

        if (lmdb_new_token(m, &in->row, e) != 0) {
            return -1;
        }
    }

    lmdb_seq_key(&key, &in->seq);
    data.mv_data = &in->row;
    data.mv_size = sizeof(in->row);

    if (lmdb_put(m, LMDB_JOBS, &key, &data, e) != 0) {
        return -1;
    }

    lmdb_count_new(m, &in->row);

    lmdb_seq_key(&key, &in->seq);
    data.mv_data = (void *) (uintptr_t) in->payload;
    data.mv_size = in->size;

    return lmdb_put(m, LMDB_REQUESTS, &key, &data, e);
}


int
lmdb_start(void *self, struct store_op *op, uint64_t now_ms,
    struct engine_error *e)
{
    int           rc;
    MDB_val       key, data;
    struct lmdb  *m = self;

    rc = lmdb_get_row(m, m->txn, op->seq, &op->row, e);

    if (rc == -1) {
        return -1;
    }

    /* RUNNING: by a commit that failed and has arrived; nothing was sent */

    if (rc == ENGINE_NOT_FOUND || (op->row.state != STORE_QUEUED
                                   && op->row.state != STORE_RUNNING))
    {
        return ENGINE_STALE;
    }

    lmdb_count(m, &op->row, STORE_RUNNING);

    op->row.state = STORE_RUNNING;
    op->row.attempts++;
    op->row.started_ms = op->row.started_ms ? op->row.started_ms : now_ms;
    lmdb_bare_row(&op->row);

    if (lmdb_new_token(m, &op->row, e) != 0) {
        return -1;
    }

    if (!ZONE_MUTANT("attempt.start")
        && lmdb_put_row(m, op->seq, &op->row, e) != 0)
    {
        return -1;
    }

    lmdb_seq_key(&key, &op->seq);
    rc = mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return ENGINE_NOT_FOUND;
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    op->request.len = 0;

    return buf_append(&op->request, data.mv_data, data.mv_size) == 0
           ? 0 : lmdb_fail(e, ENOMEM, STORE_DB_REQUESTS);
}


/*
 * The row, if the attempt that asks is still the one the row knows.  `done`
 * is the state it asks for: a row that has it got it by the same operation,
 * in a commit that failed and has arrived.
 */

int
lmdb_lease(struct lmdb *m, const struct store_op *op, uint8_t done,
    struct store_job *row, struct engine_error *e)
{
    int  rc;

    rc = lmdb_get_row(m, m->txn, op->seq, row, e);

    if (rc == 0 && !ZONE_MUTANT("attempt.lease")
        && ((row->state != STORE_RUNNING && row->state != done)
            || row->attempts != op->row.attempts))
    {
        return ENGINE_STALE;
    }

    return rc == ENGINE_NOT_FOUND ? ENGINE_STALE : rc;
}


int
lmdb_requeue(void *self, struct store_op *op, struct engine_error *e)
{
    int               rc;
    struct lmdb      *m = self;
    struct store_job  row;

    rc = lmdb_lease(m, op, STORE_QUEUED, &row, e);
    if (rc != 0) {
        return rc;
    }

    lmdb_count(m, &row, STORE_QUEUED);

    row.state = STORE_QUEUED;
    row.strikes = op->row.strikes;
    lmdb_bare_row(&row);
    row.failures = op->row.failures;
    row.not_before_ms = op->row.not_before_ms;

    return lmdb_put_row(m, op->seq, &row, e);
}


static int
lmdb_put_result(struct lmdb *m, struct store_op *op, struct engine_error *e)
{
    int                  rc;
    size_t               body;
    uint8_t             *to;
    MDB_val              key, data;
    struct store_result  r;

    body = op->body ? op->body->len : 0;

    memset(&r, 0, sizeof(r));
    r.layout = STORE_LAYOUT;
    r.http_status = op->row.http_status;
    r.flags = op->body ? 0 : STORE_RESULT_BLOB;
    r.body_size = op->row.result_size;
    r.headers_len = (uint32_t) op->headers->len;

    lmdb_seq_key(&key, &op->seq);
    data.mv_data = NULL;
    data.mv_size = sizeof(r) + op->headers->len + body;

    /* room in the page itself: written once, without a copy between */

    rc = mdb_put(m->txn, m->db[LMDB_RESULTS], &key, &data,
                 MDB_RESERVE|MDB_APPEND);

    if (rc == MDB_KEYEXIST) {
        data.mv_size = sizeof(r) + op->headers->len + body;
        rc = mdb_put(m->txn, m->db[LMDB_RESULTS], &key, &data, MDB_RESERVE);
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_RESULTS);
    }

    to = data.mv_data;
    memcpy(to, &r, sizeof(r));
    to += sizeof(r);

    if (op->headers->len) {
        memcpy(to, op->headers->data, op->headers->len);
        to += op->headers->len;
    }

    if (body) {
        memcpy(to, op->body->data, body);
    }

    return 0;
}


int
lmdb_settle(void *self, struct store_op *op, struct engine_error *e)
{
    int               rc;
    size_t            size;
    struct lmdb      *m = self;
    struct store_job  row;

    rc = lmdb_lease(m, op, op->row.state, &row, e);

    if (rc == 0 && row.state == op->row.state
        && ((row.flags ^ op->row.flags) & STORE_DEFERRED))
    {
        rc = ENGINE_STALE;                      /* another result was first */
    }

    if (rc == ENGINE_STALE && op->headers && op->body == NULL) {

        /* settled meanwhile: its blob is nobody's */

        return lmdb_doom(m, ZONE_DIR_BLOBS, op->row.id, op->row.attempts, e)
               == 0 ? ENGINE_STALE : -1;
    }

    if (rc != 0) {
        return rc;
    }

    if (row.state == op->row.state) {
        op->row = row;
        return 0;
    }

    lmdb_count(m, &row, op->row.state);

    lmdb_bare_row(&row);
    row.state = op->row.state;
    row.error = op->row.error;
    row.strikes = op->row.strikes;
    row.failures = op->row.failures;
    row.finished_ms = op->row.finished_ms;
    row.expires_ms = op->row.expires_ms;
    row.result_size = op->row.result_size;
    row.http_status = op->row.http_status;
    row.type_len = op->row.type_len;
    row.message_len = op->row.message_len;
    row.flags |= (uint8_t) ((op->row.flags & (STORE_DEFERRED|STORE_TRUNCATED
                                              |STORE_DEAD))
                            | (op->headers ? STORE_HAS_RESULT : 0));

    size = sizeof(row);

    if (row.type_len) {
        memcpy(m->row + size, op->type_text, row.type_len);
        size += row.type_len;
    }

    if (row.message_len) {
        memcpy(m->row + size, op->message, row.message_len);
        size += row.message_len;
    }

    if (op->headers && lmdb_put_result(m, op, e) != 0) {
        return -1;
    }

    op->row = row;

    return lmdb_finish(m, op->seq, &row, size, e);
}


/* Settled, one way or another: m->row has the strings behind the row. */

int
lmdb_finish(struct lmdb *m, uint64_t seq, struct store_job *row, size_t size,
    struct engine_error *e)
{
    int                      rc;
    MDB_val                  key, data;
    struct store_expiry_key  expiry;

    memcpy(m->row, row, sizeof(*row));

    if (!ZONE_MUTANT("hook.file") && lmdb_hooks_file(m, seq, row, e) != 0) {
        return -1;
    }

    lmdb_seq_key(&key, &seq);
    data.mv_data = m->row;
    data.mv_size = size;

    rc = mdb_put(m->txn, m->db[LMDB_JOBS], &key, &data, 0);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_JOBS);
    }

    rc = mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &data);

    if (rc == 0) {
        if (lmdb_key_file(m, &data, row, e) != 0) {
            return -1;
        }

        rc = row->flags & STORE_DEAD
             ? lmdb_dead_put(m, seq, row, e)
             : lmdb_drop_request(m, seq, row, &data, e);

        if (rc != 0) {
            return -1;
        }
    }

    lmdb_put_big_endian(expiry.expires_ms, row->expires_ms);
    lmdb_put_big_endian(expiry.seq, seq);

    key.mv_data = &expiry;
    key.mv_size = sizeof(expiry);
    data.mv_data = NULL;
    data.mv_size = 0;

    if (row->expires_ms < m->txn_first_expiry) {
        m->txn_first_expiry = row->expires_ms;
    }

    return lmdb_put(m, LMDB_EXPIRY, &key, &data, e);
}


int
lmdb_drop_result(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e)
{
    int                  rc;
    MDB_val              key, data;
    struct store_result  r;

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(m->txn, m->db[LMDB_RESULTS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return 0;
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_RESULTS);
    }

    if (data.mv_size >= sizeof(r)) {
        memcpy(&r, data.mv_data, sizeof(r));

        if ((r.flags & STORE_RESULT_BLOB)
            && lmdb_doom(m, ZONE_DIR_BLOBS, row->id,
                         store_blob(row->flags, row->attempts), e)
               != 0)
        {
            return -1;
        }
    }

    return lmdb_del(m, LMDB_RESULTS, &key, e);
}


int
lmdb_cancel(void *self, struct engine_cancel *c, struct engine_error *e)
{
    int               rc;
    uint64_t          seq;
    struct lmdb      *m = self;
    struct store_job  row;

    c->seq = 0;

    rc = lmdb_find(m, c->id, &seq, e);
    if (rc != 0) {
        return rc;
    }

    rc = lmdb_get_row(m, m->txn, seq, &row, e);
    if (rc != 0) {
        return rc;
    }

    switch (row.state) {

    case STORE_QUEUED:
    case STORE_RUNNING:

        lmdb_count(m, &row, STORE_CANCELED);

        c->seq = seq;
        row.state = STORE_CANCELED;
        row.finished_ms = c->now_ms;
        row.expires_ms = c->now_ms + store_ttl_ms(&row, c->ttl_ms);
        lmdb_bare_row(&row);

        return lmdb_finish(m, seq, &row, sizeof(row), e);

    case STORE_COMPLETED:
    case STORE_FAILED:

        return lmdb_discard(m, seq, &row, e);

    case STORE_CANCELED:

        return 0;

    default:

        return ENGINE_NOT_FOUND;
    }
}


/* Its number is not given out again, its key is free. */

int
lmdb_withdraw(void *self, const uint8_t *id, struct engine_error *e)
{
    int               rc;
    MDB_val           key, data;
    uint64_t          seq;
    struct lmdb      *m = self;
    struct store_job  row;

    rc = lmdb_find(m, id, &seq, e);

    if (rc == 0) {
        rc = lmdb_get_row(m, m->txn, seq, &row, e);
    }

    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? 0 : -1;
    }

    if (row.state != STORE_QUEUED && row.state != STORE_RUNNING) {
        return 0;
    }

    lmdb_count_withdrawn(m, &row);

    lmdb_seq_key(&key, &seq);

    if (mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &data) == 0
        && lmdb_key_give_back(m, &data, id, e) != 0)
    {
        return -1;
    }

    key.mv_data = (void *) (uintptr_t) id;
    key.mv_size = ZONE_ID_SIZE;

    if (lmdb_del(m, LMDB_IDS, &key, e) != 0) {
        return -1;
    }

    lmdb_seq_key(&key, &seq);

    if (lmdb_del(m, LMDB_JOBS, &key, e) != 0) {
        return -1;
    }

    lmdb_seq_key(&key, &seq);

    return lmdb_del(m, LMDB_REQUESTS, &key, e);
}
