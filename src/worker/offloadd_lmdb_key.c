/*
 * The LMDB engine: idempotency keys.  Store thread, inside the open
 * transaction: that of the job's rows, so that a key and its job become true
 * together, and of all that have one key the first makes the job.
 *
 *      keys        digest of the key -> whose it is
 *      key_expiry  when it is free again
 *
 * A key is filed for expiry when its job is settled, not before: it lives as
 * long as its job does, or longer.  A job that is canceled keeps its key, one
 * that is withdrawn was never there and gives it back.
 */

#include "offloadd_lmdb.h"

#include <string.h>


static void
lmdb_digest(MDB_val *key, const uint8_t *digest)
{
    key->mv_data = (void *) (uintptr_t) digest;
    key->mv_size = ZONE_DIGEST_SIZE;
}


/* ENGINE_NOT_FOUND when it is nobody's. */

static int
lmdb_key_get(struct lmdb *m, const uint8_t *digest, struct store_key *row,
    struct engine_error *e)
{
    int      rc;
    MDB_val  key, data;

    lmdb_digest(&key, digest);
    rc = mdb_get(m->txn, m->db[LMDB_KEYS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return ENGINE_NOT_FOUND;
    }

    if (rc != 0 || data.mv_size != sizeof(*row)) {
        return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_KEYS);
    }

    memcpy(row, data.mv_data, sizeof(*row));

    return 0;
}


/*
 * May a job with this key be inserted?  Its own record, read again after a
 * kill, finds the key taken by itself: that is for lmdb_insert_id().
 */

int
lmdb_key_check(struct lmdb *m, struct engine_insert *in,
    struct engine_error *e)
{
    int               rc;
    uint64_t          seq;
    struct store_key  row;

    if (!(in->view->fixed.flags & ZONE_REQUEST_KEYED)) {
        return 0;
    }

    rc = lmdb_key_get(m, in->view->key.key, &row, e);

    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? 0 : -1;
    }

    rc = lmdb_knows(m, in->record->id, &seq, e);

    if (rc != 0) {
        return rc == 1 ? 0 : -1;
    }

    memcpy(in->first, row.id, ZONE_ID_SIZE);

    return memcmp(row.print, in->view->key.print, ZONE_DIGEST_SIZE) == 0
           ? ENGINE_DUPLICATE : ENGINE_CONFLICT;
}


int
lmdb_key_take(struct lmdb *m, struct engine_insert *in,
    struct engine_error *e)
{
    MDB_val           key, data;
    struct store_key  row;

    if (!(in->view->fixed.flags & ZONE_REQUEST_KEYED)) {
        return 0;
    }

    memset(&row, 0, sizeof(row));
    memcpy(row.id, in->record->id, ZONE_ID_SIZE);
    memcpy(row.print, in->view->key.print, ZONE_DIGEST_SIZE);

    lmdb_digest(&key, in->view->key.key);
    data.mv_data = &row;
    data.mv_size = sizeof(row);

    return lmdb_put(m, LMDB_KEYS, &key, &data, e);
}


/* The key of a stored request: 1, or 0 if it has none. */

static int
lmdb_key_of(const MDB_val *request, struct zone_request_key *key)
{
    struct zone_request  r;

    if (request->mv_size < sizeof(r) + sizeof(*key)) {
        return 0;
    }

    memcpy(&r, request->mv_data, sizeof(r));
    memcpy(key, (const uint8_t *) request->mv_data + sizeof(r), sizeof(*key));

    return (r.flags & ZONE_REQUEST_KEYED) != 0;
}


/* The job of this request is withdrawn. */

int
lmdb_key_give_back(struct lmdb *m, const MDB_val *request, const uint8_t *id,
    struct engine_error *e)
{
    int                      rc;
    MDB_val                  key;
    struct store_key         row;
    struct zone_request_key  k;

    if (!lmdb_key_of(request, &k)) {
        return 0;
    }

    rc = lmdb_key_get(m, k.key, &row, e);

    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? 0 : -1;
    }

    if (memcmp(row.id, id, ZONE_ID_SIZE) != 0) {
        return 0;
    }

    lmdb_digest(&key, k.key);

    return lmdb_del(m, LMDB_KEYS, &key, e);
}


/* Where the key of a settled job stands among those that expire; 0: none. */

static int
lmdb_key_place(const MDB_val *request, const struct store_job *row,
    struct store_key_expiry *expiry, uint64_t *at)
{
    struct zone_request_key  k;

    if (!lmdb_key_of(request, &k)) {
        return 0;
    }

    *at = row->created_ms + (uint64_t) k.ttl_s * 1000;
    *at = *at > row->expires_ms ? *at : row->expires_ms;

    lmdb_put_big_endian(expiry->expires_ms, *at);
    memcpy(expiry->key, k.key, ZONE_DIGEST_SIZE);

    return 1;
}


/* The job of this request is settled, and its row written. */

int
lmdb_key_file(struct lmdb *m, const MDB_val *request,
    const struct store_job *row, struct engine_error *e)
{
    int                      rc;
    uint64_t                 at;
    MDB_val                  key, data;
    struct store_key         owner;
    struct store_key_expiry  expiry;

    rc = lmdb_key_place(request, row, &expiry, &at);

    if (rc == 0) {
        return 0;
    }

    /* that of a dead letter done again may have gone, and be another's */

    rc = lmdb_key_get(m, expiry.key, &owner, e);

    if (rc == -1) {
        return -1;
    }

    if (rc != 0 || memcmp(owner.id, row->id, ZONE_ID_SIZE) != 0) {
        return 0;
    }

    key.mv_data = &expiry;
    key.mv_size = sizeof(expiry);
    data.mv_data = NULL;
    data.mv_size = 0;

    if (at < m->txn_first_expiry) {
        m->txn_first_expiry = at;
    }

    return lmdb_put(m, LMDB_KEY_EXPIRY, &key, &data, e);
}


/* The job is to be done again: its key lives on with it. */

int
lmdb_key_unfile(struct lmdb *m, const MDB_val *request,
    const struct store_job *row, struct engine_error *e)
{
    uint64_t                 at;
    MDB_val                  key;
    struct store_key_expiry  expiry;

    if (!lmdb_key_place(request, row, &expiry, &at)) {
        return 0;
    }

    key.mv_data = &expiry;
    key.mv_size = sizeof(expiry);

    return lmdb_del(m, LMDB_KEY_EXPIRY, &key, e);
}


/* At most max of those that are due; the next one's time counts as well. */

int
lmdb_keys_expire(struct lmdb *m, uint64_t now_ms, int max,
    struct engine_error *e)
{
    int                      n, rc;
    MDB_val                  key, data;
    uint64_t                 at;
    MDB_cursor              *cursor;
    struct store_key_expiry  expiry;

    rc = mdb_cursor_open(m->txn, m->db[LMDB_KEY_EXPIRY], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_KEY_EXPIRY);
    }

    for (n = 0; ; n++) {
        rc = mdb_cursor_get(cursor, &key, &data, MDB_FIRST);
        if (rc || key.mv_size != sizeof(expiry)) {
            break;
        }

        memcpy(&expiry, key.mv_data, sizeof(expiry));
        at = lmdb_big_endian(expiry.expires_ms);

        if (at > now_ms || n == max) {
            if (at < m->txn_first_expiry) {
                m->txn_first_expiry = at;
            }

            break;
        }

        rc = mdb_cursor_del(cursor, 0);
        if (rc) {
            break;
        }

        lmdb_digest(&key, expiry.key);

        if (lmdb_del(m, LMDB_KEYS, &key, e) != 0) {
            mdb_cursor_close(cursor);
            return -1;
        }
    }

    mdb_cursor_close(cursor);

    return rc == 0 || rc == MDB_NOTFOUND ? 0 : lmdb_fail(e, rc,
                                                         STORE_DB_KEY_EXPIRY);
}
