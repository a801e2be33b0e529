/*
 * The LMDB engine: is there room for new jobs?  Store thread, or main before
 * it.  A copy-on-write tree needs free pages even to delete.  So some room is
 * allocated ahead, and new jobs are taken only while it is there: what is in
 * the store can always be finished.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>


#define LMDB_RESERVE          (2u * 1024 * 1024)
#define LMDB_STEP             (1u * 1024 * 1024)


/*
 * Pages that deletions left inside the file.  LMDB shows its list of them to
 * readers only, hence a second transaction beside the one that writes.
 */

static uint64_t
lmdb_free_pages(struct lmdb *m)
{
    size_t       n;
    MDB_txn     *txn;
    MDB_val      key, data;
    uint64_t     pages;
    MDB_cursor  *cursor;

    if (mdb_txn_begin(m->env, NULL, MDB_RDONLY, &txn) != 0) {
        return 0;
    }

    pages = 0;

    if (mdb_cursor_open(txn, 0, &cursor) == 0) {

        while (mdb_cursor_get(cursor, &key, &data, MDB_NEXT) == 0) {
            memcpy(&n, data.mv_data, sizeof(n));    /* the list's length */
            pages += n;
        }

        mdb_cursor_close(cursor);
    }

    mdb_txn_abort(txn);

    return pages;
}


/*
 * A record takes up to half as much again in pages.  When the file can not
 * grow, the free pages inside it have to do.
 */

int
lmdb_room(void *self, uint64_t max, uint64_t *bytes, struct engine_error *e)
{
    int           err;
    uint64_t      used, need, inside;
    MDB_envinfo   info;
    struct lmdb  *m = self;

    if (m->env == NULL) {
        return lmdb_fail(e, MDB_PANIC, "the store");
    }

    (void) mdb_env_info(m->env, &info);

    used = ((uint64_t) info.me_last_pgno + 1) * m->page;
    need = used + *bytes + *bytes / 2 + LMDB_RESERVE;

    if (m->allocated >= need) {
        return 0;
    }

    if (max && need > max) {
        err = EFBIG;

    } else {
        err = posix_fallocate(m->fd, (off_t) used,
                              (off_t) (need - used + LMDB_STEP));
    }

    if (err == 0) {
        m->allocated = need + LMDB_STEP;
        return 0;
    }

    inside = lmdb_free_pages(m) * m->page
             + (m->allocated > used ? m->allocated - used : 0);

    if (inside < 2 * LMDB_RESERVE) {
        e->err = err;
        (void) snprintf(e->text, sizeof(e->text), "%.200s/" STORE_FILE
                        " has %llu bytes and can not grow: %s",
                        m->policy->store, (unsigned long long) used,
                        err == EFBIG ? "it has reached its max"
                                     : strerror(err));
        return -1;
    }

    inside = (inside - LMDB_RESERVE) / 2;
    *bytes = inside < *bytes ? inside : *bytes;

    return 0;
}
