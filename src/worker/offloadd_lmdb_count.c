/*
 * The LMDB engine: the counters, and what was taken from the rings.  Both are
 * rows of `meta`, read when a transaction begins and written when it commits:
 * they hold whatever the rows they count hold, after any kill and after a
 * commit that failed half-way.  Store thread, or main before there is one.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


static void
lmdb_meta_key(MDB_val *key, const char *name)
{
    key->mv_data = (void *) (uintptr_t) name;
    key->mv_size = strlen(name);
}


int
lmdb_read_counters(struct lmdb *m, struct engine_error *e)
{
    int      rc;
    MDB_val  key, data;

    memset(&m->counters, 0, sizeof(m->counters));
    m->counted = 0;

    lmdb_meta_key(&key, STORE_ROW_COUNTERS);
    rc = mdb_get(m->txn, m->db[LMDB_META], &key, &data);

    if (rc != 0 && rc != MDB_NOTFOUND) {
        return lmdb_fail(e, rc, "the store's counters");
    }

    if (rc == 0 && data.mv_size == sizeof(m->counters)) {
        memcpy(&m->counters, data.mv_data, sizeof(m->counters));
        m->counted = 1;
    }

    m->txn_counters = m->counters;

    return m->limits.known ? 0 : lmdb_count_limits(m, e);
}


int
lmdb_write_counters(struct lmdb *m, struct engine_error *e)
{
    MDB_val  key, data;

    if (memcmp(&m->txn_counters, &m->counters, sizeof(m->counters)) == 0) {
        return 0;
    }

    lmdb_meta_key(&key, STORE_ROW_COUNTERS);
    data.mv_data = &m->txn_counters;
    data.mv_size = sizeof(m->txn_counters);

    return lmdb_put(m, LMDB_META, &key, &data, e);
}


/* Who waits is counted by queue and key as well: for its limits. */

static void
lmdb_count_queued(struct lmdb *m, const struct store_job *row, int state,
    int by)
{
    if (state == STORE_QUEUED) {
        limits_add(&m->limits, row->queue, row->limit_key, by);
    }
}


void
lmdb_count_new(struct lmdb *m, const struct store_job *row)
{
    m->txn_counters.accepted++;
    m->txn_counters.jobs[row->state]++;
    lmdb_count_queued(m, row, row->state, 1);
}


/* Before its state is changed. */

void
lmdb_count(struct lmdb *m, const struct store_job *row, int to)
{
    m->txn_counters.jobs[row->state]--;
    m->txn_counters.jobs[to]++;
    lmdb_count_queued(m, row, row->state, -1);
    lmdb_count_queued(m, row, to, 1);
}


void
lmdb_count_purged(struct lmdb *m, const struct store_job *row)
{
    lmdb_count(m, row, STORE_EXPIRED);
    m->txn_counters.purged++;
}


/* As if it had never been accepted. */

void
lmdb_count_withdrawn(struct lmdb *m, const struct store_job *row)
{
    m->txn_counters.accepted--;
    m->txn_counters.jobs[row->state]--;
    m->txn_counters.withdrawn++;
    lmdb_count_queued(m, row, row->state, -1);
}


static int
lmdb_count_rows(struct lmdb *m, uint64_t *jobs, struct engine_error *e)
{
    int               rc;
    MDB_val           key, data;
    MDB_cursor       *cursor;
    struct store_job  row;

    rc = mdb_cursor_open(m->txn, m->db[LMDB_JOBS], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_JOBS);
    }

    while ((rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {

        if (data.mv_size < sizeof(row)) {
            continue;                           /* no job any more */
        }

        memcpy(&row, data.mv_data, offsetof(struct store_job, flags));

        if (row.state >= STORE_QUEUED && row.state < STORE_STATES) {
            jobs[row.state]++;
        }
    }

    mdb_cursor_close(cursor);

    return rc == MDB_NOTFOUND ? 0 : lmdb_fail(e, rc, STORE_DB_JOBS);
}


/*
 * What no row can tell stays as it was written down: how many were accepted,
 * and how many have gone for good.  A store that was never counted starts
 * from its rows.
 */

int
lmdb_recount(void *self, struct store_counters *was,
    struct store_counters *now, struct engine_error *e)
{
    int           i, counted;
    struct lmdb  *m = self;

    if (engine_lmdb.begin(m, e) != 0) {
        return -1;
    }

    counted = m->counted;
    *was = m->counters;

    memset(m->txn_counters.jobs, 0, sizeof(m->txn_counters.jobs));

    if (lmdb_count_rows(m, m->txn_counters.jobs, e) != 0) {
        engine_lmdb.abort(m);
        return -1;
    }

    m->txn_counters.jobs[STORE_EXPIRED] += m->txn_counters.purged;

    for (i = STORE_QUEUED; i < STORE_STATES && !counted; i++) {
        m->txn_counters.accepted += m->txn_counters.jobs[i];
    }

    *now = m->txn_counters;

    if (!counted) {
        *was = *now;
    }

    return engine_lmdb.commit(m, e);
}


int
lmdb_get_rings(void *self, struct store_rings *row, size_t size,
    struct engine_error *e)
{
    int           rc;
    MDB_val       key, data;
    struct lmdb  *m = self;

    lmdb_meta_key(&key, STORE_ROW_RINGS);
    rc = mdb_get(m->txn, m->db[LMDB_META], &key, &data);

    if (rc == MDB_NOTFOUND || (rc == 0 && data.mv_size != size)) {
        return ENGINE_NOT_FOUND;
    }

    if (rc) {
        return lmdb_fail(e, rc, "the store's count of the rings");
    }

    memcpy(row, data.mv_data, size);

    return 0;
}


int
lmdb_put_rings(void *self, const struct store_rings *row, size_t size,
    const struct engine_turned *t, struct engine_error *e)
{
    MDB_val       key, data;
    struct lmdb  *m = self;

    m->txn_counters.rejected += t->rejected;
    m->txn_counters.withdrawn += t->withdrawn;
    m->txn_counters.duplicates += t->duplicates;
    m->txn_counters.limited += t->limited;

    lmdb_meta_key(&key, STORE_ROW_RINGS);
    data.mv_data = (void *) (uintptr_t) row;
    data.mv_size = size;

    return lmdb_put(m, LMDB_META, &key, &data, e);
}
