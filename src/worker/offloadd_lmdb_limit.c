/*
 * The LMDB engine: may one more job wait in its queue?  Decided in the
 * transaction that would insert it, by counts that change with the rows (see
 * offloadd_limit.c): exact, whatever dies.  Store thread, or main before it.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


/*
 * Has its queue room for one more that waits?  A job is never lost for want
 * of it: without a token nobody could be told, and one that is known, from
 * before a kill, has its place.
 */

int
lmdb_limit_check(struct lmdb *m, struct engine_insert *in,
    struct engine_error *e)
{
    int                         rc, full;
    uint32_t                    queue;
    uint64_t                    seq;
    const struct zone_request  *r = &in->view->fixed;

    if (in->record->token == 0 || (r->limit_queued | r->limit_per_key) == 0) {
        return 0;
    }

    queue = zone_queue_hash(in->view->queue.data, in->view->queue.len);
    full = 0;

    if (r->limit_queued
        && limits_get(&m->limits, queue, 0) >= r->limit_queued)
    {
        full = ENGINE_LIMITED;

    } else if (r->limit_per_key && r->limit_key
               && limits_get(&m->limits, queue, r->limit_key)
                  >= r->limit_per_key)
    {
        full = ENGINE_LIMITED_KEY;
    }

    rc = full ? lmdb_knows(m, in->record->id, &seq, e) : 0;

    return rc == 0 ? full : rc == 1 ? 0 : -1;
}


/*
 * Those who wait, from the rows: after a start, and after a commit of which
 * nobody knows whether it was written.
 */

int
lmdb_count_limits(struct lmdb *m, struct engine_error *e)
{
    int               rc;
    MDB_val           key, data;
    uint64_t          seq;
    MDB_cursor       *cursor;
    struct store_job  row;

    limits_clear(&m->limits);
    m->limits.known = 1;

    rc = mdb_cursor_open(m->txn, m->db[LMDB_REQUESTS], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    while ((rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {

        memcpy(&seq, key.mv_data, sizeof(seq));

        rc = lmdb_get_row(m, m->txn, seq, &row, e);

        if (rc == -1) {
            break;
        }

        if (rc == 0 && row.state == STORE_QUEUED) {
            limits_add(&m->limits, row.queue, row.limit_key, 1);
            limits_commit(&m->limits);
        }
    }

    mdb_cursor_close(cursor);

    if (rc == MDB_NOTFOUND && m->limits.known) {
        return 0;
    }

    m->limits.known = 0;

    return rc == -1 ? -1 : lmdb_fail(e, rc == MDB_NOTFOUND ? ENOMEM : rc,
                                     STORE_DB_REQUESTS);
}
