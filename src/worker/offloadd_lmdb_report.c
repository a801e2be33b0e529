/*
 * The LMDB engine: what a backend says of a running job by its token, which is
 * made anew for each attempt and kept in the job's row.  Inside the open
 * transaction; store thread.  A kill leaves the rows of the last commit.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


int
lmdb_new_token(struct lmdb *m, struct store_job *row, struct engine_error *e)
{
    if (zone_random_take(&m->random, row->token, sizeof(row->token)) != 0) {
        return lmdb_fail(e, errno, "getrandom");
    }

    return 0;
}


int
lmdb_holder(void *self, const uint8_t *id, const uint8_t *token,
    uint64_t *seq, struct store_job *row, struct engine_error *e)
{
    int           rc;
    struct lmdb  *m = self;

    rc = lmdb_find(m, id, seq, e);

    if (rc == 0) {
        rc = lmdb_get_row(m, m->txn, *seq, row, e);
    }

    if (rc != 0) {
        return rc;
    }

    if (row->attempts == 0 || row->state == STORE_EXPIRED
        || (!zone_token_same(row->token, token)
            && !ZONE_MUTANT("report.token")))
    {
        return ENGINE_DENIED;
    }

    return row->state == STORE_RUNNING ? 0 : ENGINE_STALE;
}


/* Its request says so.  One that is damaged must not keep it from its end. */

int
lmdb_bound(void *self, uint64_t seq, uint64_t *max, int *cut,
    struct engine_error *e)
{
    int                        rc;
    MDB_val                    key, data;
    struct lmdb               *m = self;
    struct zone_request_view   view;

    *max = 0;
    *cut = 0;

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &data);

    if (rc == 0
        && zone_request_parse(&view, data.mv_data, data.mv_size) == NULL)
    {
        *max = view.fixed.result_max;
        *cut = (view.fixed.flags & ZONE_REQUEST_TRUNCATE) != 0;
    }

    return rc == 0 || rc == MDB_NOTFOUND ? 0
           : lmdb_fail(e, rc, STORE_DB_REQUESTS);
}


/* Writes the row with its progress, the only string it has while it runs. */

static int
lmdb_put_running(struct lmdb *m, uint64_t seq, const struct store_job *row,
    const void *message, struct engine_error *e)
{
    MDB_val  key, data;

    memmove(m->row + sizeof(*row), message, row->progress_len);
    memcpy(m->row, row, sizeof(*row));

    lmdb_seq_key(&key, &seq);
    data.mv_data = m->row;
    data.mv_size = sizeof(*row) + row->progress_len;

    return lmdb_put(m, LMDB_JOBS, &key, &data, e);
}


/* The message of the row that was just read. */

static int
lmdb_message(struct lmdb *m, uint64_t seq, const struct store_job *row,
    const uint8_t **message, struct engine_error *e)
{
    int      rc;
    MDB_val  key, data;

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(m->txn, m->db[LMDB_JOBS], &key, &data);

    if (rc != 0 || data.mv_size < sizeof(*row) + row->progress_len) {
        return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_JOBS);
    }

    /* a write may move the page */

    memcpy(m->row + sizeof(*row), (uint8_t *) data.mv_data + sizeof(*row),
           row->progress_len);
    *message = m->row + sizeof(*row);

    return 0;
}


int
lmdb_progress(void *self, uint64_t seq, struct store_job *row,
    const struct zone_progress_view *view, struct engine_error *e)
{
    uint8_t                     percent, len;
    struct lmdb                *m = self;
    const uint8_t              *message, *was;
    const struct zone_progress *f = &view->fixed;

    if (lmdb_message(m, seq, row, &was, e) != 0) {
        return -1;
    }

    percent = f->flags & ZONE_PROGRESS_PERCENT ? (uint8_t) (f->percent + 1)
                                               : row->progress;
    len = row->progress_len;
    message = was;

    if (f->flags & ZONE_PROGRESS_MESSAGE) {
        len = (uint8_t) view->message.len;
        message = (const uint8_t *) view->message.data;
    }

    if (percent == row->progress && len == row->progress_len
        && memcmp(message, was, len) == 0)
    {
        return ENGINE_SAME;
    }

    row->progress = percent;
    row->progress_len = len;
    row->reports++;

    return lmdb_put_running(m, seq, row, message, e);
}


/* The attempt is over, and its job goes on: what was reported stays. */

int
lmdb_defer(void *self, struct store_op *op, struct engine_error *e)
{
    int               rc;
    struct lmdb      *m = self;
    const uint8_t    *message;
    struct store_job  row;

    rc = lmdb_lease(m, op, STORE_RUNNING, &row, e);
    if (rc != 0) {
        return rc;
    }

    if (lmdb_message(m, op->seq, &row, &message, e) != 0) {
        return -1;
    }

    row.flags |= STORE_DEFERRED;
    row.not_before_ms = op->row.not_before_ms;
    op->row = row;

    return lmdb_put_running(m, op->seq, &row, message, e);
}
