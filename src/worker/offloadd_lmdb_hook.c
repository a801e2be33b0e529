/*
 * The LMDB engine: deliveries of webhooks.  Store thread, inside the open
 * transaction; a kill leaves the rows of the last commit.
 *
 *      hooks      seq, n -> struct store_hook, URL, what is sent
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


/* ENGINE_NOT_FOUND when there is none; value: all of it. */

static int
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
        || row->hook.url_len > value->mv_size - sizeof(*row)
        || (size_t) row->host_at + row->host_len > row->hook.url_len
        || row->body_len != value->mv_size - sizeof(*row) - row->hook.url_len)
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


static int
lmdb_hook_put(struct lmdb *m, uint64_t seq, const struct store_hook *row,
    const void *url, const void *body, struct engine_error *e)
{
    int                    rc;
    MDB_val                key, data;
    struct buf             b;
    struct store_hook_key  k;

    memset(&b, 0, sizeof(b));

    if (buf_append(&b, row, sizeof(*row)) != 0
        || buf_append(&b, url, row->hook.url_len) != 0
        || buf_append(&b, body, row->body_len) != 0)
    {
        buf_free(&b);
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    lmdb_hook_key(&key, &k, seq, row->n);
    data.mv_data = b.data;
    data.mv_size = b.len;

    rc = mdb_put(m->txn, m->db[LMDB_HOOKS], &key, &data, 0);
    buf_free(&b);

    return rc ? lmdb_fail(e, rc, STORE_DB_HOOKS) : 0;
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


/* One that tells of an earlier end of a job driven again is replaced. */

static int
lmdb_hook_file(struct lmdb *m, uint64_t seq, struct hook_facts *f, uint32_t n,
    const struct zone_hook *hook, const struct zone_str *url,
    struct engine_error *e)
{
    int                rc;
    MDB_val            value;
    struct buf         body;
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

    if (lmdb_hook_result(m, seq, f->row, hook->inline_max, f, e) != 0) {
        return -1;
    }

    memset(&body, 0, sizeof(body));

    if (hook_document(&body, f) != 0) {
        buf_free(&body);
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    memset(&row, 0, sizeof(row));
    row.layout = STORE_LAYOUT;
    row.status = STORE_HOOK_PENDING;
    row.state = f->row->state;
    row.queue = f->row->queue;
    memcpy(row.id, f->row->id, ZONE_ID_SIZE);
    row.settled_ms = f->row->finished_ms;
    row.next_ms = f->row->finished_ms;
    row.n = (uint16_t) n;
    row.hook = *hook;
    row.host_at = (uint16_t) (host.data - url->data);
    row.host_len = (uint16_t) host.len;
    row.body_len = (uint32_t) body.len;

    rc = lmdb_hook_put(m, seq, &row, url->data, body.data, e);
    buf_free(&body);

    if (rc == 0) {
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


static int
lmdb_hook_entry(struct hook_entry *to, uint64_t seq,
    const struct store_hook *row, const MDB_val *value,
    struct engine_error *e)
{
    const char  *p = (const char *) value->mv_data + sizeof(*row);

    to->seq = seq;
    to->row = *row;
    to->url = strndup(p, row->hook.url_len);
    to->body.len = 0;

    if (to->url == NULL
        || buf_append(&to->body, p + row->hook.url_len, row->body_len) != 0)
    {
        hook_entry_free(to);
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    return 0;
}


static int
lmdb_hook_skipped(const struct hook_list *list, uint64_t seq, uint64_t n)
{
    uint32_t  i;

    for (i = 0; i < list->nskip; i++) {
        if (list->skip[i].seq == seq && list->skip[i].n == n) {
            return 1;
        }
    }

    return 0;
}


/* Those that are due and not under way, and when the next one is. */

static int
lmdb_hooks_some(struct lmdb *m, MDB_cursor *cursor, struct hook_list *list,
    struct engine_error *e)
{
    int                    rc;
    MDB_val                key, data;
    uint64_t               seq, n;
    struct store_hook      row;
    struct store_hook_due  k;

    for (rc = mdb_cursor_get(cursor, &key, &data, MDB_FIRST);
         rc == 0;
         rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT))
    {
        if (key.mv_size != sizeof(k)) {
            return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_HOOK_DUE);
        }

        memcpy(&k, key.mv_data, sizeof(k));
        seq = lmdb_big_endian(k.seq);
        n = lmdb_big_endian(k.n);

        if (lmdb_hook_skipped(list, seq, n)) {
            continue;
        }

        if (lmdb_big_endian(k.at_ms) > list->now_ms || list->n == list->max) {
            list->next_ms = lmdb_big_endian(k.at_ms);
            return 0;
        }

        rc = lmdb_hook_get(m, m->txn, seq, n, &row, &data, e);

        if (rc == -1 || (rc == 0
                         && lmdb_hook_entry(&list->entries[list->n], seq,
                                            &row, &data, e) != 0))
        {
            return -1;
        }

        list->n += rc == 0;
    }

    return rc == MDB_NOTFOUND ? 0 : lmdb_fail(e, rc, STORE_DB_HOOK_DUE);
}


/* A second time, after a transaction that failed, it begins anew. */

int
lmdb_hooks_due(void *self, struct hook_list *list, struct engine_error *e)
{
    int           rc;
    uint32_t      i;
    MDB_cursor   *cursor;
    struct lmdb  *m = self;

    for (i = 0; i < list->n; i++) {
        hook_entry_free(&list->entries[i]);
    }

    list->n = 0;
    list->next_ms = UINT64_MAX;

    rc = mdb_cursor_open(m->txn, m->db[LMDB_HOOK_DUE], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_HOOK_DUE);
    }

    rc = lmdb_hooks_some(m, cursor, list, e);
    mdb_cursor_close(cursor);

    return rc;
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
    char                   *copy;
    MDB_val                 key, value;
    struct lmdb            *m = self;
    struct store_job        job;
    struct store_hook       row;
    struct store_hook_key   k;

    rc = lmdb_hook_get(m, m->txn, seq, o->n, &row, &value, e);

    if (rc != 0 || row.settled_ms != o->settled_ms
        || row.status != STORE_HOOK_PENDING)
    {
        return rc == -1 ? -1 : ENGINE_STALE;
    }

    copy = malloc(value.mv_size);
    if (copy == NULL) {
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    memcpy(copy, value.mv_data, value.mv_size);
    rc = lmdb_hook_due(m, seq, &row, 0, e);

    row.status = o->status;
    row.attempts = o->attempts;
    row.http_status = o->http_status;
    row.next_ms = o->next_ms;

    if (rc == 0 && row.status != STORE_HOOK_PENDING) {
        rc = lmdb_get_row(m, m->txn, seq, &job, e);

        if (rc == ENGINE_NOT_FOUND
            || (rc == 0 && job.state == STORE_EXPIRED))
        {
            free(copy);
            lmdb_hook_key(&key, &k, seq, o->n);
            return lmdb_del(m, LMDB_HOOKS, &key, e);
        }
    }

    if (rc == 0 && row.status == STORE_HOOK_DELIVERED) {
        row.body_len = 0;
    }

    if (rc == 0) {
        rc = lmdb_hook_put(m, seq, &row, copy + sizeof(row),
                           copy + sizeof(row) + row.hook.url_len, e);
    }

    if (rc == 0 && row.status == STORE_HOOK_PENDING) {
        rc = lmdb_hook_due(m, seq, &row, 1, e);
    }

    free(copy);

    return rc;
}


/* To be sent now, by the operator's wish; STALE: it was delivered. */

int
lmdb_hook_retry(void *self, const uint8_t *id, uint16_t n,
    uint64_t settled_ms, uint64_t now_ms, struct engine_error *e)
{
    int                 rc;
    char               *copy;
    MDB_val             value;
    uint64_t            seq;
    struct lmdb        *m = self;
    struct store_hook   row;

    rc = lmdb_find(m, id, &seq, e);

    if (rc == 0) {
        rc = lmdb_hook_get(m, m->txn, seq, n, &row, &value, e);
    }

    if (rc != 0 || row.settled_ms != settled_ms) {
        return rc == -1 ? -1 : ENGINE_NOT_FOUND;
    }

    if (row.status == STORE_HOOK_DELIVERED) {
        return ENGINE_STALE;
    }

    copy = malloc(value.mv_size);
    if (copy == NULL) {
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    memcpy(copy, value.mv_data, value.mv_size);

    if (row.status == STORE_HOOK_PENDING) {
        rc = lmdb_hook_due(m, seq, &row, 0, e);
    }

    row.status = STORE_HOOK_PENDING;
    row.next_ms = now_ms;

    if (rc == 0) {
        rc = lmdb_hook_put(m, seq, &row, copy + sizeof(row),
                           copy + sizeof(row) + row.hook.url_len, e);
    }

    if (rc == 0) {
        rc = lmdb_hook_due(m, seq, &row, 1, e);
    }

    free(copy);
    m->hooks_filed++;

    return rc;
}


/* A page of them, without what is sent: whole jobs.  Read only. */

int
lmdb_hooks_list(void *self, struct hook_page *page, struct engine_error *e)
{
    int                    rc;
    MDB_txn               *txn;
    MDB_val                key, data;
    uint64_t               seq, last;
    MDB_cursor            *cursor;
    struct lmdb           *m = self;
    struct store_hook      row;
    struct store_hook_key  k;

    if (lmdb_read_begin(m, &txn, e) != 0) {
        return -1;
    }

    rc = mdb_cursor_open(txn, m->db[LMDB_HOOKS], &cursor);
    if (rc) {
        mdb_txn_abort(txn);
        return lmdb_fail(e, rc, STORE_DB_HOOKS);
    }

    last = page->after;
    lmdb_hook_key(&key, &k, page->after + 1, 0);
    rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);

    while (rc == 0 && key.mv_size == sizeof(k)) {
        memcpy(&k, key.mv_data, sizeof(k));
        seq = lmdb_big_endian(k.seq);

        if (page->n >= page->max && seq != last) {
            page->more = 1;
            break;
        }

        rc = lmdb_hook_get(m, txn, seq, lmdb_big_endian(k.n), &row, &data, e);

        if (rc == 0 && page->n < page->cap) {
            rc = lmdb_hook_entry(&page->entries[page->n++], seq, &row, &data,
                                 e);
        }

        if (rc != 0) {
            break;
        }

        last = seq;
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    }

    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);

    return rc == 0 || rc == MDB_NOTFOUND ? 0 : -1;
}


uint32_t
lmdb_hooks_filed(void *self)
{
    return ((struct lmdb *) self)->hooks_filed;
}
