/*
 * The LMDB engine: which deliveries of webhooks there are, those that are due
 * and what the operator sees and has sent again.  Store thread; the operator's
 * list is read beside the open transaction, all else is part of it.  A kill
 * leaves what was due due.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


static int
lmdb_hook_entry(struct hook_entry *to, uint64_t seq,
    const struct store_hook *row, const MDB_val *value,
    struct engine_error *e)
{
    const char  *url, *trace;

    url = (const char *) value->mv_data + sizeof(*row);
    trace = url + row->hook.url_len;

    memset(to, 0, sizeof(*to));
    to->seq = seq;
    to->row = *row;
    to->url = strndup(url, row->hook.url_len);

    if (to->url == NULL
        || buf_append(&to->trace, trace, row->trace_len) != 0
        || buf_append(&to->body, trace + row->trace_len, row->body_len) != 0)
    {
        hook_entry_free(to);
        return lmdb_fail(e, ENOMEM, STORE_DB_HOOKS);
    }

    return 0;
}


/* One that is due; is its receiver gone meanwhile? */

static int
lmdb_hook_take(struct lmdb *m, struct hook_list *list, uint64_t seq,
    uint64_t n, struct engine_error *e)
{
    int                 rc;
    MDB_val             value;
    struct hook_entry  *to = &list->entries[list->n];
    struct store_hook   row;

    rc = lmdb_hook_get(m, m->txn, seq, n, &row, &value, e);

    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? 0 : -1;
    }

    if (lmdb_hook_entry(to, seq, &row, &value, e) != 0) {
        return -1;
    }

    rc = row.flags & STORE_HOOK_FORCED || ZONE_MUTANT("hook.gone-due")
         ? 0 : lmdb_gone(m, &row, to->url, list->now_ms, e);

    if (rc == -1) {
        hook_entry_free(to);
        return -1;
    }

    to->gone = rc;
    list->n++;

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

        if (lmdb_hook_take(m, list, seq, n, e) != 0) {
            return -1;
        }
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
 * To be sent now, by the operator's wish, also to a receiver that is gone.
 * STALE: it was delivered.
 */

int
lmdb_hook_retry(void *self, const uint8_t *id, uint16_t n,
    uint64_t settled_ms, uint64_t now_ms, struct engine_error *e)
{
    int                 rc;
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

    row.status = STORE_HOOK_PENDING;
    row.flags |= STORE_HOOK_FORCED;
    row.next_ms = now_ms;
    m->hooks_filed++;

    return lmdb_hook_change(m, seq, &row, &value, e);
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
    store_hook_key(&k, page->after + 1, 0);
    key.mv_data = &k;
    key.mv_size = sizeof(k);
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
            row.body_len = 0;
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
