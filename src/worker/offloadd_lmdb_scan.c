/*
 * The LMDB engine: what goes through many jobs (recovery, expiry), and the
 * look-ups of the sweep.  Store thread, or main before there is one.  Each
 * part is a transaction of its own or one of several; a kill leaves the rest
 * for the next time.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>


#define LMDB_RECOVER_BATCH    1000              /* jobs in a transaction */


static int lmdb_expire_one(struct lmdb *m, MDB_cursor *cursor,
    uint64_t seq, uint64_t tombstone_ms, uint64_t now_ms,
    struct engine_error *e);


/*
 * A job that was running is queued again; one that is to be attempted at most
 * once has failed: its request may have been sent.  One whose result is to be
 * put runs on, elsewhere.
 */

static int
lmdb_recover_running(struct lmdb *m, uint64_t seq, struct store_job *row,
    struct engine_error *e)
{
    int      n;
    char    *message;
    MDB_val  key, data;

    lmdb_bare_row(row);

    if (!(row->flags & STORE_AT_MOST_ONCE) || ZONE_MUTANT("once.recover")) {
        lmdb_count(m, row, STORE_QUEUED);
        row->state = STORE_QUEUED;

        lmdb_seq_key(&key, &seq);
        data.mv_data = row;
        data.mv_size = sizeof(*row);

        return lmdb_put(m, LMDB_JOBS, &key, &data, e);
    }

    message = (char *) m->row + sizeof(*row);
    n = snprintf(message, STORE_MESSAGE_MAX, "the worker ended during attempt "
                 "%u, which may have been sent and is not repeated",
                 row->attempts);

    lmdb_count(m, row, STORE_FAILED);
    row->state = STORE_FAILED;

    row->error = STORE_ERROR_LOST;
    row->finished_ms = clock_ms();
    row->expires_ms = row->finished_ms
                      + store_ttl_ms(row, m->policy->ttl_ms);
    row->message_len = (uint16_t) n;

    return lmdb_finish(m, seq, row, sizeof(*row) + row->message_len, e);
}


/*
 * The jobs that have a request are those that are not settled, and the dead
 * letters; a thousand in a transaction.  Those that are lost lose their
 * request, so the cursor looks for its place each time.
 */

static int
lmdb_recover_some(struct lmdb *m, uint64_t *from, engine_scan scan, void *ctx,
    struct engine_error *e)
{
    int               rc, n, dead;
    MDB_val           key, data;
    uint64_t          seq;
    MDB_cursor       *cursor;
    struct store_job  row;

    rc = mdb_cursor_open(m->txn, m->db[LMDB_REQUESTS], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    for (n = 0; n < LMDB_RECOVER_BATCH; n++) {
        lmdb_seq_key(&key, from);

        rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);
        if (rc) {
            break;
        }

        memcpy(&seq, key.mv_data, sizeof(seq));

        rc = lmdb_get_row(m, m->txn, seq, &row, e);
        dead = rc == 0 && row.state == STORE_FAILED;

        if (rc == 0 && row.state == STORE_RUNNING
            && !(row.flags & STORE_DEFERRED)
            && !ZONE_MUTANT("recover.running"))
        {
            rc = lmdb_recover_running(m, seq, &row, e);
        }

        if (rc == 0 && (row.state == STORE_QUEUED
                        || (row.state == STORE_FAILED && !dead)
                        || (row.state == STORE_RUNNING
                            && (row.flags & STORE_DEFERRED))))
        {
            rc = scan(ctx, seq, &row);
        }

        if (rc == -1) {
            mdb_cursor_close(cursor);
            return -1;
        }

        *from = seq + 1;
        rc = 0;
    }

    mdb_cursor_close(cursor);

    if (rc != 0 && rc != MDB_NOTFOUND) {
        return lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    return n == LMDB_RECOVER_BATCH;
}


int
lmdb_recover(void *self, engine_scan scan, void *ctx, struct engine_error *e)
{
    int           more;
    uint64_t      from;
    struct lmdb  *m = self;

    from = 0;

    do {
        if (engine_lmdb.begin(m, e) != 0) {
            return -1;
        }

        more = lmdb_recover_some(m, &from, scan, ctx, e);

        if (more == -1) {
            engine_lmdb.abort(m);
            return -1;
        }

        ZONE_FAILPOINT("recover.before-commit");

        if (engine_lmdb.commit(m, e) != 0) {
            return -1;
        }

    } while (more);

    return 0;
}


/* ENGINE_NOT_FOUND when there is no job of that id. */

int
lmdb_find(struct lmdb *m, const uint8_t *id, uint64_t *seq,
    struct engine_error *e)
{
    int      rc;
    MDB_val  key, data;

    key.mv_data = (void *) (uintptr_t) id;
    key.mv_size = ZONE_ID_SIZE;

    rc = mdb_get(m->txn, m->db[LMDB_IDS], &key, &data);

    if (rc == MDB_NOTFOUND || (rc == 0 && data.mv_size != sizeof(*seq))) {
        return ENGINE_NOT_FOUND;
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_IDS);
    }

    memcpy(seq, data.mv_data, sizeof(*seq));

    return 0;
}


int
lmdb_knows(void *self, const uint8_t *id, uint64_t *seq,
    struct engine_error *e)
{
    int  rc;

    rc = lmdb_find(self, id, seq, e);

    return rc == -1 ? -1 : rc == 0;
}


/* Read only: the row of an id, or -1 when there is none. */

static int
lmdb_lookup(struct lmdb *m, const uint8_t *id, uint64_t *seq,
    struct store_job *row)
{
    int                  rc;
    MDB_txn             *txn;
    MDB_val              key, data;
    struct engine_error  e;

    if (m->env == NULL
        || mdb_txn_begin(m->env, NULL, MDB_RDONLY, &txn) != 0)
    {
        return 0;                               /* not known: keep it */
    }

    key.mv_data = (void *) (uintptr_t) id;
    key.mv_size = ZONE_ID_SIZE;

    rc = mdb_get(txn, m->db[LMDB_IDS], &key, &data);

    if (rc == 0 && data.mv_size == sizeof(*seq)) {
        memcpy(seq, data.mv_data, sizeof(*seq));
        rc = lmdb_get_row(m, txn, *seq, row, &e);
        rc = rc == 0 ? 1 : rc == ENGINE_NOT_FOUND ? -1 : 0;

    } else {
        rc = rc == MDB_NOTFOUND ? -1 : 0;
    }

    mdb_txn_abort(txn);

    return rc;
}


int
lmdb_wants_body(void *self, const uint8_t *id)
{
    int               rc;
    uint64_t          seq;
    struct store_job  row;

    rc = lmdb_lookup(self, id, &seq, &row);

    return rc == 0 || (rc == 1 && (row.state == STORE_QUEUED
                                   || row.state == STORE_RUNNING
                                   || (row.flags & STORE_DEAD)));
}


int
lmdb_wants_blob(void *self, const uint8_t *id, uint32_t attempt)
{
    int               rc;
    uint64_t          seq;
    struct store_job  row;

    rc = lmdb_lookup(self, id, &seq, &row);

    /* one that was put, and whose record is still in its ring */

    if (rc == 1 && row.state == STORE_RUNNING) {
        return attempt == store_blob(STORE_DEFERRED, row.attempts);
    }

    return rc == 0 || (rc == 1 && (row.state == STORE_COMPLETED
                                   || row.state == STORE_FAILED)
                       && (row.flags & STORE_HAS_RESULT)
                       && store_blob(row.flags, row.attempts) == attempt);
}


int
lmdb_expire(void *self, uint64_t now_ms, uint64_t tombstone_ms, int max,
    struct engine_error *e)
{
    int                      n, rc;
    MDB_val                  key, data;
    uint64_t                 at;
    MDB_cursor              *cursor;
    struct lmdb             *m = self;
    struct store_expiry_key  expiry;

    rc = mdb_cursor_open(m->txn, m->db[LMDB_EXPIRY], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_EXPIRY);
    }

    m->txn_first_expiry = UINT64_MAX;

    for (n = 0; ; n++) {
        rc = mdb_cursor_get(cursor, &key, &data, MDB_FIRST);
        if (rc || key.mv_size != sizeof(expiry)) {
            break;
        }

        memcpy(&expiry, key.mv_data, sizeof(expiry));
        at = lmdb_big_endian(expiry.expires_ms);

        if (at > now_ms || n == max) {
            m->txn_first_expiry = at;
            break;
        }

        if (lmdb_expire_one(m, cursor, lmdb_big_endian(expiry.seq),
                            tombstone_ms, now_ms, e) != 0)
        {
            rc = -1;
            break;
        }
    }

    mdb_cursor_close(cursor);

    if (rc == -1) {
        return -1;
    }

    if (rc != 0 && rc != MDB_NOTFOUND) {
        return lmdb_fail(e, rc, STORE_DB_EXPIRY);
    }

    return lmdb_keys_expire(m, now_ms, max, e) == 0 ? n : -1;
}


/* A settled job becomes a tombstone, a tombstone goes. */

static int
lmdb_expire_one(struct lmdb *m, MDB_cursor *cursor, uint64_t seq,
    uint64_t tombstone_ms, uint64_t now_ms, struct engine_error *e)
{
    int               rc;
    MDB_val           key;
    struct store_job  row;

    rc = mdb_cursor_del(cursor, 0);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_EXPIRY);
    }

    rc = lmdb_get_row(m, m->txn, seq, &row, e);
    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? 0 : -1;
    }

    if (lmdb_drop_result(m, seq, &row, e) != 0) {
        return -1;
    }

    if ((row.flags & STORE_DEAD) && lmdb_dead_drop(m, seq, &row, e) != 0) {
        return -1;
    }

    if (lmdb_hooks_expire(m, seq, &row, e) != 0) {
        return -1;
    }

    if (row.state != STORE_EXPIRED && tombstone_ms > 0) {
        lmdb_count(m, &row, STORE_EXPIRED);

        row.state = STORE_EXPIRED;
        row.flags = 0;
        lmdb_bare_row(&row);
        memset(row.token, 0, sizeof(row.token));
        row.result_size = 0;
        row.expires_ms = now_ms + tombstone_ms;

        return lmdb_finish(m, seq, &row, sizeof(row), e);
    }

    lmdb_count_purged(m, &row);

    key.mv_data = row.id;
    key.mv_size = ZONE_ID_SIZE;

    if (lmdb_del(m, LMDB_IDS, &key, e) != 0) {
        return -1;
    }

    lmdb_seq_key(&key, &seq);

    return lmdb_del(m, LMDB_JOBS, &key, e);
}


/* A file that goes when the transaction is committed. */

int
lmdb_doom(struct lmdb *m, const char *dir, const uint8_t *id,
    uint32_t attempt, struct engine_error *e)
{
    uint32_t             cap;
    struct lmdb_doomed  *p;

    if (m->ndoomed == m->doomed_cap) {
        cap = m->doomed_cap ? m->doomed_cap * 2 : 64;

        p = realloc(m->doomed, cap * sizeof(*p));
        if (p == NULL) {
            return lmdb_fail(e, ENOMEM, "the store");
        }

        m->doomed = p;
        m->doomed_cap = cap;
    }

    m->doomed[m->ndoomed].dir = dir;
    m->doomed[m->ndoomed].attempt = attempt;
    memcpy(m->doomed[m->ndoomed++].id, id, ZONE_ID_SIZE);

    if (ZONE_MUTANT("store.unlink-last")) {
        files_unlink(m->policy->store, dir, id, attempt);
    }

    return 0;
}
