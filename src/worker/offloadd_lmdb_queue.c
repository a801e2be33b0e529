/*
 * The LMDB engine: what of queues is in the rows of jobs, and what of a queue
 * outlives the worker, a row of `meta` each.
 * Store thread; read by main before there is one.  Written in the transaction
 * of what it is about, so a kill parts nothing.
 */

#include "offloadd_lmdb.h"

#include <string.h>


#define LMDB_QUEUE_PREFIX     (sizeof(STORE_ROW_QUEUE) - 1)
#define LMDB_QUEUE_KEY        (LMDB_QUEUE_PREFIX + sizeof(uint32_t))


/* Where a new job is to wait, so that recovery needs no request. */

void
lmdb_queue_row(struct store_job *row, const struct zone_request_view *view)
{
    row->fair = view->fixed.flags & ZONE_REQUEST_BATCH ? bulk_key(view)
                                                       : view->fixed.fair;
    row->queue = zone_queue_hash(view->queue.data, view->queue.len);
    row->priority = view->fixed.priority;
    row->limit_key = view->fixed.limit_key;

    if (view->fixed.delay_s) {
        row->not_before_ms = row->created_ms + view->fixed.delay_s * 1000ull;
    }
}


static void
lmdb_queue_key(MDB_val *key, char name[LMDB_QUEUE_KEY], uint32_t hash)
{
    memcpy(name, STORE_ROW_QUEUE, LMDB_QUEUE_PREFIX);
    memcpy(name + LMDB_QUEUE_PREFIX, &hash, sizeof(hash));

    key->mv_data = name;
    key->mv_size = LMDB_QUEUE_KEY;
}


/* The row as it stands in the open transaction, or an empty one. */

static int
lmdb_get_queue(struct lmdb *m, uint32_t hash, struct store_queue *row,
    struct engine_error *e)
{
    int      rc;
    char     name[LMDB_QUEUE_KEY];
    MDB_val  key, data;

    memset(row, 0, sizeof(*row));
    row->hash = hash;

    lmdb_queue_key(&key, name, hash);
    rc = mdb_get(m->txn, m->db[LMDB_META], &key, &data);

    if (rc == 0 && data.mv_size == sizeof(*row)) {
        memcpy(row, data.mv_data, sizeof(*row));
    }

    return rc == 0 || rc == MDB_NOTFOUND ? 0 : lmdb_fail(e, rc, STORE_DB_META);
}


static int
lmdb_put_queue_row(struct lmdb *m, struct store_queue *row,
    struct engine_error *e)
{
    char     name[LMDB_QUEUE_KEY];
    MDB_val  key, data;

    lmdb_queue_key(&key, name, row->hash);
    data.mv_data = row;
    data.mv_size = sizeof(*row);

    return lmdb_put(m, LMDB_META, &key, &data, e);
}


/*
 * The loop asks for both in order, but operations change places when a
 * transaction fails: an older time must not bring back older flags.
 */

int
lmdb_put_queue(void *self, const struct store_queue *row,
    struct engine_error *e)
{
    struct store_queue  now;

    if (lmdb_get_queue(self, row->hash, &now, e) != 0) {
        return -1;
    }

    now.tat_us = row->tat_us;

    return lmdb_put_queue_row(self, &now, e);
}


int
lmdb_put_flags(void *self, uint32_t hash, uint32_t flags,
    struct engine_error *e)
{
    struct store_queue  now;

    if (lmdb_get_queue(self, hash, &now, e) != 0) {
        return -1;
    }

    now.flags = flags;

    return lmdb_put_queue_row(self, &now, e);
}


static int
lmdb_each_queue(MDB_cursor *cursor, engine_queue each, void *ctx,
    struct engine_error *e)
{
    int                 rc;
    MDB_val             key, data;
    struct store_queue  row;

    key.mv_data = STORE_ROW_QUEUE;
    key.mv_size = LMDB_QUEUE_PREFIX;

    rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);

    while (rc == 0 && key.mv_size == LMDB_QUEUE_KEY
           && memcmp(key.mv_data, STORE_ROW_QUEUE, LMDB_QUEUE_PREFIX) == 0)
    {
        if (data.mv_size == sizeof(row)) {
            memcpy(&row, data.mv_data, sizeof(row));

            if (each(ctx, &row) != 0) {
                return -1;
            }
        }

        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    }

    return rc == 0 || rc == MDB_NOTFOUND ? 0 : lmdb_fail(e, rc, STORE_DB_META);
}


int
lmdb_queues(void *self, engine_queue each, void *ctx, struct engine_error *e)
{
    int           rc;
    MDB_cursor   *cursor;
    struct lmdb  *m = self;

    if (engine_lmdb.begin(m, e) != 0) {
        return -1;
    }

    rc = mdb_cursor_open(m->txn, m->db[LMDB_META], &cursor);

    if (rc) {
        rc = lmdb_fail(e, rc, STORE_DB_META);

    } else {
        rc = lmdb_each_queue(cursor, each, ctx, e);
        mdb_cursor_close(cursor);
    }

    engine_lmdb.abort(m);

    return rc;
}
