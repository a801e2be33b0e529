/*
 * The LMDB engine: what the control interface looks at and changes beside
 * jobs.  Store thread, or main before there is one.  What is read is read in
 * a transaction of its own, which no other one holds up.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


int
lmdb_read_begin(struct lmdb *m, MDB_txn **txn, struct engine_error *e)
{
    int  rc;

    if (m->env == NULL) {
        return lmdb_fail(e, MDB_PANIC, "the store");
    }

    rc = mdb_txn_begin(m->env, NULL, MDB_RDONLY, txn);

    return rc ? lmdb_fail(e, rc, "the store") : 0;
}


/* A row of `meta` of just that size: 0, ENGINE_NOT_FOUND or -1. */

static int
lmdb_read_meta(struct lmdb *m, const char *name, void *row, size_t size,
    struct engine_error *e)
{
    int       rc;
    MDB_txn  *txn;
    MDB_val   key, data;

    if (lmdb_read_begin(m, &txn, e) != 0) {
        return -1;
    }

    key.mv_data = (void *) (uintptr_t) name;
    key.mv_size = strlen(name);

    rc = mdb_get(txn, m->db[LMDB_META], &key, &data);

    if (rc == 0 && data.mv_size == size) {
        memcpy(row, data.mv_data, size);

    } else if (rc == 0 || rc == MDB_NOTFOUND) {
        rc = ENGINE_NOT_FOUND;

    } else {
        rc = lmdb_fail(e, rc, name);
    }

    mdb_txn_abort(txn);

    return rc;
}


int
lmdb_counters(void *self, struct store_counters *c, struct engine_error *e)
{
    int  rc;

    rc = lmdb_read_meta(self, STORE_ROW_COUNTERS, c, sizeof(*c), e);

    if (rc == ENGINE_NOT_FOUND) {
        memset(c, 0, sizeof(*c));
        rc = 0;
    }

    return rc;
}


int
lmdb_get_hold(void *self, uint32_t *hold, struct engine_error *e)
{
    int  rc;

    rc = lmdb_read_meta(self, STORE_ROW_HOLD, hold, sizeof(*hold), e);

    if (rc == ENGINE_NOT_FOUND) {
        *hold = 0;
        rc = 0;
    }

    *hold &= STORE_QUEUE_PAUSED|STORE_QUEUE_DRAINING;

    return rc;
}


int
lmdb_put_hold(void *self, uint32_t hold, struct engine_error *e)
{
    MDB_val  key, data;

    key.mv_data = (void *) (uintptr_t) STORE_ROW_HOLD;
    key.mv_size = sizeof(STORE_ROW_HOLD) - 1;
    data.mv_data = &hold;
    data.mv_size = sizeof(hold);

    return lmdb_put(self, LMDB_META, &key, &data, e);
}


/* The row and its strings, or ENGINE_NOT_FOUND. */

static int
lmdb_look_row(struct lmdb *m, MDB_txn *txn, struct engine_look *v,
    struct engine_error *e)
{
    int          rc;
    size_t       left, type, message;
    MDB_val      key, data;
    const char  *p;

    key.mv_data = v->id;
    key.mv_size = ZONE_ID_SIZE;

    rc = mdb_get(txn, m->db[LMDB_IDS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return ENGINE_NOT_FOUND;
    }

    if (rc || data.mv_size != sizeof(v->seq)) {
        return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_IDS);
    }

    memcpy(&v->seq, data.mv_data, sizeof(v->seq));

    rc = lmdb_get_row(m, txn, v->seq, &v->row, e);
    if (rc != 0) {
        return rc;
    }

    lmdb_seq_key(&key, &v->seq);

    rc = mdb_get(txn, m->db[LMDB_JOBS], &key, &data);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_JOBS);
    }

    left = data.mv_size - sizeof(v->row);
    p = (const char *) data.mv_data + sizeof(v->row);
    type = v->row.type_len;
    message = v->row.message_len;

    if (type > STORE_TYPE_MAX || message > STORE_MESSAGE_MAX
        || type + message > left)
    {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_JOBS);
    }

    memcpy(v->type, p, type);
    v->type[type] = '\0';
    memcpy(v->message, p + type, message);
    v->message[message] = '\0';

    return 0;
}


/*
 * Copied without its inline body, and with that said to be in a file: so it
 * is a payload that zone_request_parse() understands.
 */

static int
lmdb_look_request(struct lmdb *m, MDB_txn *txn, struct engine_look *v,
    struct engine_error *e)
{
    int                       rc;
    size_t                    n;
    MDB_val                   key, data;
    struct zone_request       fixed;
    struct zone_request_view  view;

    lmdb_seq_key(&key, &v->seq);
    rc = mdb_get(txn, m->db[LMDB_REQUESTS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return 0;
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    if (zone_request_parse(&view, data.mv_data, data.mv_size) != NULL) {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_REQUESTS);
    }

    n = data.mv_size - view.body.len;
    fixed = view.fixed;
    fixed.flags |= ZONE_REQUEST_BODY_FILE;

    if (buf_append(&v->request, data.mv_data, n) != 0) {
        return lmdb_fail(e, ENOMEM, STORE_DB_REQUESTS);
    }

    memcpy(v->request.data, &fixed, sizeof(fixed));

    return 0;
}


static int
lmdb_look_result(struct lmdb *m, MDB_txn *txn, struct engine_look *v,
    struct engine_error *e)
{
    int             rc;
    size_t          n;
    MDB_val         key, data;
    const uint8_t  *p;

    lmdb_seq_key(&key, &v->seq);
    rc = mdb_get(txn, m->db[LMDB_RESULTS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return 0;
    }

    if (rc || data.mv_size < sizeof(v->result)) {
        return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_RESULTS);
    }

    memcpy(&v->result, data.mv_data, sizeof(v->result));
    p = (const uint8_t *) data.mv_data + sizeof(v->result);
    n = data.mv_size - sizeof(v->result);

    if (v->result.headers_len > n) {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_RESULTS);
    }

    rc = buf_append(&v->headers, p, v->result.headers_len);
    n -= v->result.headers_len;
    p += v->result.headers_len;

    if (rc == 0) {
        rc = buf_append(&v->body, p, n < ENGINE_LOOK_BODY ? n
                                                   : ENGINE_LOOK_BODY);
    }

    return rc == 0 ? 0 : lmdb_fail(e, ENOMEM, STORE_DB_RESULTS);
}


int
lmdb_look(void *self, struct engine_look *v, struct engine_error *e)
{
    int           rc;
    MDB_txn      *txn;
    struct lmdb  *m = self;

    if (lmdb_read_begin(m, &txn, e) != 0) {
        return -1;
    }

    rc = lmdb_look_row(m, txn, v, e);

    if (rc == 0 && v->whole) {
        rc = lmdb_look_request(m, txn, v, e);
    }

    if (rc == 0 && v->whole) {
        rc = lmdb_look_result(m, txn, v, e);
    }

    mdb_txn_abort(txn);

    return rc;
}
