/*
 * The LMDB engine: receivers that have answered 410.  Store thread, inside
 * the open transaction; a kill leaves the rows of the last commit.
 *
 *      gone       digest of queue and URL -> struct store_gone, host
 *      gone_age   when, digest -> nothing: those of URLs that others choose
 *
 * A row is made with the outcome that says so, in one transaction.  It goes
 * when the operator says so, or has one sent again that is delivered.  Of the
 * operator's own URLs there are as many as were configured, and they stay;
 * the others are bounded in time and number, see STORE_GONE_MAX.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>


#define GONE_STEP             16                /* forgotten in one go */


static void
lmdb_gone_key(MDB_val *key, struct store_gone_key *k, const uint8_t *digest)
{
    memcpy(k->digest, digest, STORE_GONE_SIZE);
    key->mv_data = k;
    key->mv_size = sizeof(*k);
}


/* ENGINE_NOT_FOUND when there is none; host: behind the row. */

static int
lmdb_gone_row(const MDB_val *value, struct store_gone *row,
    const char **host, struct engine_error *e)
{
    if (value->mv_size < sizeof(*row)) {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_GONE);
    }

    memcpy(row, value->mv_data, sizeof(*row));

    if (row->layout != STORE_LAYOUT || row->host_len > 255
        || row->host_len != value->mv_size - sizeof(*row))
    {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_GONE);
    }

    *host = (const char *) value->mv_data + sizeof(*row);

    return 0;
}


static int
lmdb_gone_get(struct lmdb *m, const uint8_t *digest, struct store_gone *row,
    struct engine_error *e)
{
    int                    rc;
    MDB_val                key, value;
    const char            *host;
    struct store_gone_key  k;

    lmdb_gone_key(&key, &k, digest);
    rc = mdb_get(m->txn, m->db[LMDB_GONE], &key, &value);

    if (rc == MDB_NOTFOUND) {
        return ENGINE_NOT_FOUND;
    }

    return rc ? lmdb_fail(e, rc, STORE_DB_GONE)
              : lmdb_gone_row(&value, row, &host, e);
}


static int
lmdb_gone_over(const struct store_gone *row, uint64_t now_ms)
{
    return row->forgets && row->gone_ms + STORE_GONE_MS <= now_ms;
}


int
lmdb_gone(struct lmdb *m, const struct store_hook *hook, const char *url,
    uint64_t now_ms, struct engine_error *e)
{
    int                rc;
    uint8_t            digest[STORE_GONE_SIZE];
    struct store_gone  row;

    if (hook_receiver(digest, hook->queue, url, hook->hook.url_len) != 0) {
        return lmdb_fail(e, ENOMEM, STORE_DB_GONE);
    }

    rc = lmdb_gone_get(m, digest, &row, e);

    return rc == 0 ? !lmdb_gone_over(&row, now_ms)
                   : rc == ENGINE_NOT_FOUND ? 0 : -1;
}


static void
lmdb_gone_age(MDB_val *key, struct store_gone_age *k, const uint8_t *digest,
    uint64_t gone_ms)
{
    lmdb_put_big_endian(k->gone_ms, gone_ms);
    memcpy(k->digest, digest, STORE_GONE_SIZE);
    key->mv_data = k;
    key->mv_size = sizeof(*k);
}


int
lmdb_gone_forget(void *self, const uint8_t *digest, struct engine_error *e)
{
    int                    rc;
    MDB_val                key;
    struct lmdb           *m = self;
    struct store_gone      row;
    struct store_gone_age  age;
    struct store_gone_key  k;

    rc = lmdb_gone_get(m, digest, &row, e);
    if (rc != 0) {
        return rc;
    }

    if (row.forgets) {
        lmdb_gone_age(&key, &age, digest, row.gone_ms);

        if (lmdb_del(m, LMDB_GONE_AGE, &key, e) != 0) {
            return -1;
        }
    }

    lmdb_gone_key(&key, &k, digest);

    return lmdb_del(m, LMDB_GONE, &key, e);
}


/* The oldest, if they are too old, or as many as there may be. */

static int
lmdb_gone_trim(struct lmdb *m, uint64_t now_ms, struct engine_error *e)
{
    int                    i, rc;
    MDB_val                key, data;
    MDB_stat               st;
    MDB_cursor            *cursor;
    struct store_gone_age  age;

    for (i = 0; i < GONE_STEP; i++) {
        rc = mdb_stat(m->txn, m->db[LMDB_GONE_AGE], &st);

        if (rc == 0) {
            rc = mdb_cursor_open(m->txn, m->db[LMDB_GONE_AGE], &cursor);
        }

        if (rc) {
            return lmdb_fail(e, rc, STORE_DB_GONE_AGE);
        }

        rc = mdb_cursor_get(cursor, &key, &data, MDB_FIRST);

        if (rc == 0 && key.mv_size == sizeof(age)) {
            memcpy(&age, key.mv_data, sizeof(age));
        }

        mdb_cursor_close(cursor);

        if (rc == MDB_NOTFOUND) {
            return 0;
        }

        if (rc || key.mv_size != sizeof(age)) {
            return lmdb_fail(e, rc ? rc : MDB_CORRUPTED, STORE_DB_GONE_AGE);
        }

        if (st.ms_entries < STORE_GONE_MAX
            && lmdb_big_endian(age.gone_ms) + STORE_GONE_MS > now_ms)
        {
            return 0;
        }

        rc = lmdb_gone_forget(m, age.digest, e);

        if (rc != 0) {
            return rc == -1 ? -1 : lmdb_fail(e, MDB_NOTFOUND, STORE_DB_GONE);
        }
    }

    return 0;
}


/* It has answered 410 to this one. */

int
lmdb_gone_put(struct lmdb *m, const struct store_hook *hook,
    const char *url, uint64_t now_ms, struct engine_error *e)
{
    int                    rc;
    char                   value[sizeof(struct store_gone) + 255];
    uint8_t                digest[STORE_GONE_SIZE];
    MDB_val                key, data;
    struct store_gone      row;
    struct store_gone_age  age;
    struct store_gone_key  k;

    if (hook->host_len > 255
        || hook_receiver(digest, hook->queue, url, hook->hook.url_len) != 0)
    {
        return lmdb_fail(e, ENOMEM, STORE_DB_GONE);
    }

    rc = lmdb_gone_forget(m, digest, e);

    if (rc == -1 || lmdb_gone_trim(m, now_ms, e) != 0) {
        return -1;
    }

    memset(&row, 0, sizeof(row));
    row.layout = STORE_LAYOUT;
    row.forgets = (hook->hook.flags & ZONE_HOOK_GUARDED) != 0;
    row.queue = hook->queue;
    row.gone_ms = now_ms;
    memcpy(row.id, hook->id, ZONE_ID_SIZE);
    row.settled_ms = hook->settled_ms;
    row.n = hook->n;
    row.host_len = hook->host_len;

    memcpy(value, &row, sizeof(row));
    memcpy(value + sizeof(row), url + hook->host_at, hook->host_len);

    lmdb_gone_key(&key, &k, digest);
    data.mv_data = value;
    data.mv_size = sizeof(row) + hook->host_len;

    if (lmdb_put(m, LMDB_GONE, &key, &data, e) != 0) {
        return -1;
    }

    if (!row.forgets) {
        return 0;
    }

    lmdb_gone_age(&key, &age, digest, now_ms);
    data.mv_data = NULL;
    data.mv_size = 0;

    return lmdb_put(m, LMDB_GONE_AGE, &key, &data, e);
}


static int
lmdb_gone_entry(struct gone_entry *to, const MDB_val *key,
    const MDB_val *value, struct engine_error *e)
{
    const char  *host = "";

    if (key->mv_size != sizeof(to->key)) {
        return lmdb_fail(e, MDB_CORRUPTED, STORE_DB_GONE);
    }

    if (lmdb_gone_row(value, &to->row, &host, e) != 0) {
        return -1;
    }

    memcpy(&to->key, key->mv_data, sizeof(to->key));
    memcpy(to->host, host, to->row.host_len);
    to->host[to->row.host_len] = '\0';

    return 0;
}


static int
lmdb_gone_some(MDB_cursor *cursor, struct gone_page *page,
    struct engine_error *e)
{
    int                    rc;
    MDB_val                key, data;
    struct gone_entry      entry;
    struct store_gone_key  k;

    lmdb_gone_key(&key, &k, page->after);

    for (rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);
         rc == 0;
         rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT))
    {
        if (lmdb_gone_entry(&entry, &key, &data, e) != 0) {
            return -1;
        }

        if (lmdb_gone_over(&entry.row, page->now_ms)
            || (page->has_after && memcmp(entry.key.digest, page->after,
                                          sizeof(page->after)) == 0))
        {
            continue;
        }

        if (page->n == page->max) {
            page->more = 1;
            return 0;
        }

        page->entries[page->n++] = entry;
    }

    return rc == MDB_NOTFOUND ? 0 : lmdb_fail(e, rc, STORE_DB_GONE);
}


/* Read only, as of the last commit. */

int
lmdb_gone_list(void *self, struct gone_page *page, struct engine_error *e)
{
    int           rc;
    MDB_txn      *txn;
    MDB_cursor   *cursor;
    struct lmdb  *m = self;

    if (lmdb_read_begin(m, &txn, e) != 0) {
        return -1;
    }

    rc = mdb_cursor_open(txn, m->db[LMDB_GONE], &cursor);
    if (rc) {
        mdb_txn_abort(txn);
        return lmdb_fail(e, rc, STORE_DB_GONE);
    }

    rc = lmdb_gone_some(cursor, page, e);

    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);

    return rc;
}
