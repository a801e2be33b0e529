/*
 * The LMDB engine: deliveries of webhooks.  Store thread, inside the open
 * transaction; a kill leaves the rows of the last commit.
 *
 *      hooks      seq, n -> struct store_hook, URL, trace, what is sent
 *      hook_due   when, seq, n -> nothing: those that are PENDING
 *
 * A delivery becomes true with the settlement it tells of.  It lives as long
 * as its job's row or, while it is PENDING, longer: what is sent is in it.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>


static void
lmdb_hook_key(MDB_val *key, struct store_hook_key *k, uint64_t seq,
    uint64_t n)
{
    store_hook_key(k, seq, n);
    key->mv_data = k;
    key->mv_size = sizeof(*k);
}


static size_t
lmdb_hook_size(const struct store_hook *row)
{
    return sizeof(*row) + row->hook.url_len + row->trace_len + row->body_len;
}


/* ENGINE_NOT_FOUND when there is none; value: all of it. */

int
lmdb_hook_get(struct lmdb *m, MDB_txn *txn, uint64_t seq, uint64_t n,
    struct store_hook *row, MDB_val *value, struct engine_error *e)
{
    int                    rc;
    MDB_val                key;
    struct store_hook_key  k;

    lmdb_hook_key(&key, &k, seq, n);
    rc = mdb_get(txn, m->db[LMDB_HOOKS], &key, value);

    if (rc == MDB_NOTFOUND) {
        return ENGINE_NOT_FOUND;
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_HOOKS);
    }

    if (value->mv_size < sizeof(*row)) {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_HOOKS);
    }

    memcpy(row, value->mv_data, sizeof(*row));

    if (row->layout != STORE_LAYOUT || row->n != n
        || (size_t) row->host_at + row->host_len > row->hook.url_len
        || lmdb_hook_size(row) != value->mv_size
        || !trace_kept((const char *) value->mv_data + sizeof(*row)
                       + row->hook.url_len, row->trace_len))
    {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_HOOKS);
    }

    return 0;
}


static int
lmdb_hook_due(struct lmdb *m, uint64_t seq, const struct store_hook *row,
    int put, struct engine_error *e)
{
    MDB_val                key, data;
    struct store_hook_due  k;

    lmdb_put_big_endian(k.at_ms, row->next_ms);
    lmdb_put_big_endian(k.seq, seq);
    lmdb_put_big_endian(k.n, row->n);

    key.mv_data = &k;
    key.mv_size = sizeof(k);
    data.mv_data = NULL;
    data.mv_size = 0;

    return put ? lmdb_put(m, LMDB_HOOK_DUE, &key, &data, e)
               : lmdb_del(m, LMDB_HOOK_DUE, &key, e);
}


/* rest: URL, trace and body, as long as the row says. */

static int
lmdb_hook_put(struct lmdb *m, uint64_t seq, const struct store_hook *row,
    const void *rest, struct engine_error *e)
{
    int                    rc;
    uint8_t               *p;
    MDB_val                key, data;
    struct store_hook_key  k;

    lmdb_hook_key(&key, &k, seq, row->n);
    data.mv_data = NULL;
    data.mv_size = lmdb_hook_size(row);

    rc = mdb_put(m->txn, m->db[LMDB_HOOKS], &key, &data, MDB_RESERVE);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_HOOKS);
    }

    p = data.mv_data;
    memcpy(p, row, sizeof(*row));
    memcpy(p + sizeof(*row), rest, data.mv_size - sizeof(*row));

    return 0;
}


/* The row becomes this one; value: all of it as it was. */

int
lmdb_hook_change(struct lmdb *m, uint64_t seq, const struct store_hook *row,
    const MDB_val *value, struct engine_error *e)
{
    int                rc;
    char              *copy;
    struct store_hook  was;

    copy = malloc(value->mv_size);
    if (copy == NULL) {
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    memcpy(copy, value->mv_data, value->mv_size);
    memcpy(&was, copy, sizeof(was));
    rc = 0;

    if (was.status == STORE_HOOK_PENDING) {
        rc = lmdb_hook_due(m, seq, &was, 0, e);
    }

    if (rc == 0) {
        rc = lmdb_hook_put(m, seq, row, copy + sizeof(was), e);
    }

    if (rc == 0 && row->status == STORE_HOOK_PENDING) {
        rc = lmdb_hook_due(m, seq, row, 1, e);
    }

    free(copy);

    return rc;
}


/* Of the result there is, if it is as small as the receiver wants it. */

static int
lmdb_hook_result(struct lmdb *m, uint64_t seq, const struct store_job *row,
    uint32_t max, struct hook_facts *f, struct engine_error *e)
{
    int                  rc;
    MDB_val              key, data;
    struct store_result  r;

    f->result = NULL;
    f->result_len = 0;

    if (max == 0 || !(row->flags & STORE_HAS_RESULT)
        || row->result_size > max)
    {
        return 0;
    }

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(m->txn, m->db[LMDB_RESULTS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return 0;
    }

    if (rc || data.mv_size < sizeof(r)) {
        return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_RESULTS);
    }

    memcpy(&r, data.mv_data, sizeof(r));

    if (r.flags & STORE_RESULT_BLOB) {
        return 0;
    }

    if (r.headers_len > data.mv_size - sizeof(r)
        || data.mv_size - sizeof(r) - r.headers_len > max)
    {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_RESULTS);
    }

    f->result = (const uint8_t *) data.mv_data + sizeof(r) + r.headers_len;
    f->result_len = data.mv_size - sizeof(r) - r.headers_len;

    return 0;
}


/* URL, trace and body of a new one, and how long they are. */

static int
lmdb_hook_rest(struct lmdb *m, uint64_t seq, struct store_hook *row,
    struct buf *rest, struct hook_facts *f, const struct zone_str *url,
    struct engine_error *e)
{
    size_t  len;

    if (lmdb_hook_result(m, seq, f->row, row->hook.inline_max, f, e) != 0) {
        return -1;
    }

    if (buf_append(rest, url->data, url->len) != 0
        || trace_keep(rest, f->headers) != 0)
    {
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    len = rest->len;

    if (hook_document(rest, f) != 0) {
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    row->trace_len = (uint16_t) (len - url->len);
    row->body_len = (uint32_t) (rest->len - len);

    return 0;
}


/*
 * One that tells of an earlier end of a job driven again is replaced.  For a
 * receiver that is gone it is there to be seen, and for the operator to send.
 */

static int
lmdb_hook_file(struct lmdb *m, uint64_t seq, struct hook_facts *f, uint32_t n,
    const struct zone_hook *hook, const struct zone_str *url,
    struct engine_error *e)
{
    int                rc;
    MDB_val            value;
    struct buf         rest;
    struct zone_str    host;
    struct store_hook  row;

    rc = lmdb_hook_get(m, m->txn, seq, n, &row, &value, e);

    if (rc == -1 || (rc == 0 && row.status == STORE_HOOK_PENDING
                     && lmdb_hook_due(m, seq, &row, 0, e) != 0))
    {
        return -1;
    }

    if (zone_hook_url(url->data, url->len, &host) != 0) {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_REQUESTS);
    }

    memset(&row, 0, sizeof(row));
    row.layout = STORE_LAYOUT;
    row.state = f->row->state;
    row.queue = f->row->queue;
    memcpy(row.id, f->row->id, ZONE_ID_SIZE);
    row.settled_ms = f->row->finished_ms;
    row.n = (uint16_t) n;
    row.hook = *hook;
    row.host_at = (uint16_t) (host.data - url->data);
    row.host_len = (uint16_t) host.len;

    rc = lmdb_gone(m, &row, url->data, f->row->finished_ms, e);
    if (rc == -1) {
        return -1;
    }

    row.status = rc ? STORE_HOOK_DISABLED : STORE_HOOK_PENDING;
    row.next_ms = rc ? 0 : f->row->finished_ms;

    memset(&rest, 0, sizeof(rest));
    rc = lmdb_hook_rest(m, seq, &row, &rest, f, url, e);

    if (rc == 0) {
        rc = lmdb_hook_put(m, seq, &row, rest.data, e);
    }

    buf_free(&rest);

    if (rc == 0 && row.status == STORE_HOOK_PENDING) {
        rc = lmdb_hook_due(m, seq, &row, 1, e);
    }

    return rc;
}


/* The job is being settled: m->row has its strings, its request is there. */

int
lmdb_hooks_file(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e)
{
    int                        rc;
    uint32_t                   i, event;
    MDB_val                    key, data;
    struct hook_facts          f;
    struct zone_hooks_view     hooks;
    struct zone_request_view   view;

    event = row->state == STORE_COMPLETED ? ZONE_HOOK_COMPLETED
            : row->state == STORE_FAILED ? ZONE_HOOK_FAILED
            : row->state == STORE_CANCELED ? ZONE_HOOK_CANCELED : 0;

    if (!(row->flags & STORE_HOOKED) || event == 0) {
        return 0;
    }

    lmdb_seq_key(&key, &seq);
    rc = mdb_get(m->txn, m->db[LMDB_REQUESTS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return 0;
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_REQUESTS);
    }

    /* a request that is damaged must not keep its job from its end */

    if (zone_request_parse(&view, data.mv_data, data.mv_size) != NULL
        || zone_hooks_parse(&hooks, &view.hooks) != NULL)
    {
        log_text(LOG_ERROR, "the webhooks of a job can not be read: nobody "
                 "is told of its end");
        return 0;
    }

    memset(&f, 0, sizeof(f));
    f.row = row;
    f.type = (const char *) m->row + sizeof(*row);
    f.message = f.type + row->type_len;
    f.job = hooks.job;
    f.headers = &view.headers;

    for (i = 0; i < hooks.count; i++) {
        if ((hooks.hook[i].flags & event)
            && lmdb_hook_file(m, seq, &f, i, &hooks.hook[i], &hooks.url[i], e)
               != 0)
        {
            return -1;
        }
    }

    m->hooks_filed++;

    return 0;
}


/* The job's row goes, or becomes a tombstone: what was to be sent stays. */

int
lmdb_hooks_expire(struct lmdb *m, uint64_t seq, const struct store_job *row,
    struct engine_error *e)
{
    int                    rc;
    uint32_t               n;
    MDB_val                key, value;
    struct store_hook      hook;
    struct store_hook_key  k;

    for (n = 0; (row->flags & STORE_HOOKED) && n < ZONE_HOOKS_MAX; n++) {
        rc = lmdb_hook_get(m, m->txn, seq, n, &hook, &value, e);

        if (rc == -1) {
            return -1;
        }

        if (rc == 0 && hook.status != STORE_HOOK_PENDING) {
            lmdb_hook_key(&key, &k, seq, n);

            if (lmdb_del(m, LMDB_HOOKS, &key, e) != 0) {
                return -1;
            }
        }
    }

    return 0;
}


/* Of a receiver: it is gone, or back, since the operator had it asked. */

static int
lmdb_hook_learned(struct lmdb *m, const struct store_hook *row,
    const MDB_val *value, const struct hook_outcome *o,
    struct engine_error *e)
{
    int          rc;
    uint8_t      digest[STORE_GONE_SIZE];
    const char  *url = (const char *) value->mv_data + sizeof(*row);

    if (o->gone) {
        return lmdb_gone_put(m, row, url, o->now_ms, e);
    }

    if (o->status != STORE_HOOK_DELIVERED
        || !(row->flags & STORE_HOOK_FORCED))
    {
        return 0;
    }

    if (hook_receiver(digest, row->queue, url, row->hook.url_len) != 0) {
        return lmdb_fail(e, ENOMEM, STORE_DB_GONE);
    }

    rc = lmdb_gone_forget(m, digest, e);

    return rc == ENGINE_NOT_FOUND ? 0 : rc;
}


/* Has its job expired? */

static int
lmdb_hook_left(struct lmdb *m, uint64_t seq, struct engine_error *e)
{
    int               rc;
    struct store_job  job;

    rc = lmdb_get_row(m, m->txn, seq, &job, e);

    return rc == 0 ? job.state == STORE_EXPIRED
                   : rc == ENGINE_NOT_FOUND ? 1 : -1;
}


/*
 * What came of an attempt.  STALE when the row is another one's by now.  One
 * that was delivered needs its text no more, one whose job has expired
 * nothing.
 */

int
lmdb_hook_done(void *self, uint64_t seq, const struct hook_outcome *o,
    struct engine_error *e)
{
    int                     rc;
    MDB_val                 key, value;
    struct lmdb            *m = self;
    struct store_hook       row;
    struct store_hook_key   k;

    rc = lmdb_hook_get(m, m->txn, seq, o->n, &row, &value, e);

    if (rc != 0 || row.settled_ms != o->settled_ms
        || row.status != STORE_HOOK_PENDING)
    {
        return rc == -1 ? -1 : ENGINE_STALE;
    }

    if (!ZONE_MUTANT("hook.gone")
        && lmdb_hook_learned(m, &row, &value, o, e) != 0)
    {
        return -1;
    }

    rc = o->status == STORE_HOOK_PENDING ? 0 : lmdb_hook_left(m, seq, e);

    if (rc == 1) {
        lmdb_hook_key(&key, &k, seq, o->n);

        return lmdb_hook_due(m, seq, &row, 0, e) == 0
               ? lmdb_del(m, LMDB_HOOKS, &key, e) : -1;
    }

    if (rc == -1) {
        return -1;
    }

    row.status = o->status;
    row.attempts = o->attempts;
    row.http_status = o->http_status;
    row.next_ms = o->next_ms;

    if (row.status == STORE_HOOK_DELIVERED) {
        row.body_len = 0;
    }

    return lmdb_hook_change(m, seq, &row, &value, e);
}


uint32_t
lmdb_hooks_filed(void *self)
{
    return ((struct lmdb *) self)->hooks_filed;
}
