/*
 * The LMDB engine: environment, transactions, recovery's scan.  The databases
 * are those of zone_store.h; nginx's workers read them meanwhile.
 *
 * Without MDB_WRITEMAP pages are written by pwrite(), so a full disk is an
 * error of the commit and not a SIGBUS.  Memory durability leaves out the
 * syncs; a killed process loses nothing by that, only a dead machine does.
 * LMDB needs no repair after a kill: the last commit counts.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>


#define LMDB_MAP_LEAST        (1ull << 30)


static const struct {
    const char    *name;
    unsigned int   flags;
} lmdb_dbs[LMDB_DBS] = {
    { STORE_DB_META, 0 },
    { STORE_DB_IDS, 0 },
    { STORE_DB_JOBS, MDB_INTEGERKEY },
    { STORE_DB_REQUESTS, MDB_INTEGERKEY },
    { STORE_DB_RESULTS, MDB_INTEGERKEY },
    { STORE_DB_EXPIRY, 0 },
    { STORE_DB_KEYS, 0 },
    { STORE_DB_KEY_EXPIRY, 0 },
    { STORE_DB_DEAD, 0 },
    { STORE_DB_HOOKS, 0 },
    { STORE_DB_HOOK_DUE, 0 },
    { STORE_DB_GONE, 0 },
    { STORE_DB_GONE_AGE, 0 },
};


static int lmdb_open_env(struct lmdb *m, struct engine_error *e);
static int lmdb_open_dbs(struct lmdb *m, MDB_txn *txn,
    struct engine_error *e);
static int lmdb_check_meta(struct lmdb *m, MDB_txn *txn,
    struct engine_error *e);
static int lmdb_read_next_seq(struct lmdb *m, MDB_txn *txn,
    struct engine_error *e);


int
lmdb_fail(struct engine_error *e, int rc, const char *what)
{
    e->err = rc;
    e->uncertain = 0;
    (void) snprintf(e->text, sizeof(e->text), "%.256s: %s", what,
                    mdb_strerror(rc));
    return -1;
}


static int
lmdb_open(void **self, const struct policy *p, struct engine_error *e)
{
    struct lmdb  *m;

    m = calloc(1, sizeof(*m));
    if (m == NULL) {
        return lmdb_fail(e, ENOMEM, "the store");
    }

    m->policy = p;
    m->lock = -1;

    if (lmdb_open_env(m, e) != 0) {
        if (m->lock != -1) {
            close(m->lock);
        }

        free(m);
        return -1;
    }

    *self = m;

    return 0;
}


/* The map is address space only; where that is short, take less of it. */

static int
lmdb_map(struct lmdb *m, const char *file, struct engine_error *e)
{
    int           rc;
    size_t        size;
    unsigned int  flags;

    flags = MDB_NOSUBDIR|MDB_NOTLS;             /* see lmdb_free_pages() */

    if (m->policy->durability == DURABILITY_MEMORY
        || ZONE_MUTANT("store.sync"))
    {
        flags |= MDB_NOSYNC|MDB_NOMETASYNC;
    }

    for (size = STORE_MAP_SIZE; ; size /= 4) {
        rc = mdb_env_create(&m->env);
        if (rc) {
            return lmdb_fail(e, rc, "mdb_env_create");
        }

        (void) mdb_env_set_mapsize(m->env, size);
        (void) mdb_env_set_maxdbs(m->env, STORE_DBS);
        (void) mdb_env_set_maxreaders(m->env, STORE_READERS);

        rc = mdb_env_open(m->env, file, flags, 0600);
        if (rc == 0) {
            return 0;
        }

        mdb_env_close(m->env);
        m->env = NULL;

        if ((rc != ENOMEM && rc != EINVAL) || size <= LMDB_MAP_LEAST) {
            return lmdb_fail(e, rc, file);
        }
    }
}


static int
lmdb_open_env(struct lmdb *m, struct engine_error *e)
{
    int       rc, dead;
    char      file[PATH_MAX];
    MDB_txn  *txn;
    MDB_stat  st;

    if (zone_path(file, sizeof(file), m->policy->store, STORE_FILE) != 0) {
        return lmdb_fail(e, ENAMETOOLONG, m->policy->store);
    }

    if (lmdb_make(m->policy->store, file, e) != 0
        || lmdb_map(m, file, e) != 0)
    {
        return -1;
    }

    (void) mdb_reader_check(m->env, &dead);
    (void) mdb_env_stat(m->env, &st);
    (void) mdb_env_get_fd(m->env, &m->fd);
    m->page = st.ms_psize;
    m->allocated = 0;
    m->unsure = 1;                              /* who wrote it may have been
                                                   killed before its sync */

    if (lmdb_owner_init(m, e) != 0) {
        mdb_env_close(m->env);
        return -1;
    }

    rc = mdb_txn_begin(m->env, NULL, 0, &txn);
    if (rc) {
        (void) lmdb_fail(e, rc, file);
        mdb_env_close(m->env);
        return -1;
    }

    if (lmdb_open_dbs(m, txn, e) != 0 || lmdb_claim(m, txn, e) != 0) {
        mdb_txn_abort(txn);
        mdb_env_close(m->env);
        return -1;
    }

    rc = mdb_txn_commit(txn);
    if (rc) {
        (void) lmdb_fail(e, rc, file);
        mdb_env_close(m->env);
        return -1;
    }

    return 0;
}


static int
lmdb_open_dbs(struct lmdb *m, MDB_txn *txn, struct engine_error *e)
{
    int  i, rc;

    for (i = 0; i < LMDB_DBS; i++) {
        rc = mdb_dbi_open(txn, lmdb_dbs[i].name,
                          lmdb_dbs[i].flags|MDB_CREATE, &m->db[i]);
        if (rc) {
            return lmdb_fail(e, rc, lmdb_dbs[i].name);
        }
    }

    return lmdb_check_meta(m, txn, e);
}


static int
lmdb_check_meta(struct lmdb *m, MDB_txn *txn, struct engine_error *e)
{
    int       rc;
    uint32_t  layout;
    MDB_val   key, data;

    key.mv_data = "layout";
    key.mv_size = 6;
    layout = STORE_LAYOUT;

    rc = mdb_get(txn, m->db[LMDB_META], &key, &data);

    if (rc == MDB_NOTFOUND) {
        data.mv_data = &layout;
        data.mv_size = sizeof(layout);
        rc = mdb_put(txn, m->db[LMDB_META], &key, &data, 0);

    } else if (rc == 0) {
        layout = 0;

        if (data.mv_size == sizeof(layout)) {
            memcpy(&layout, data.mv_data, sizeof(layout));
        }

        if (layout != STORE_LAYOUT) {
            e->err = EINVAL;
            (void) snprintf(e->text, sizeof(e->text), "%.200s/" STORE_FILE
                            " has layout %u, this offloadd knows %d: finish "
                            "its jobs with the version that made it",
                            m->policy->store, layout, STORE_LAYOUT);
            return -1;
        }
    }

    if (rc) {
        return lmdb_fail(e, rc, "the store's layout");
    }

    return lmdb_read_next_seq(m, txn, e);
}


/* The number that is written down, but never below what is there. */

static int
lmdb_read_next_seq(struct lmdb *m, MDB_txn *txn, struct engine_error *e)
{
    int          rc;
    MDB_val      key, data;
    uint64_t     last;
    MDB_cursor  *cursor;

    m->next_seq = 1;
    m->first_expiry = 0;                        /* not known: look */

    key.mv_data = "next_seq";
    key.mv_size = 8;

    if (mdb_get(txn, m->db[LMDB_META], &key, &data) == 0
        && data.mv_size == sizeof(m->next_seq))
    {
        memcpy(&m->next_seq, data.mv_data, sizeof(m->next_seq));
    }

    rc = mdb_cursor_open(txn, m->db[LMDB_JOBS], &cursor);
    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_JOBS);
    }

    if (mdb_cursor_get(cursor, &key, &data, MDB_LAST) == 0) {
        memcpy(&last, key.mv_data, sizeof(last));
        m->next_seq = last >= m->next_seq ? last + 1 : m->next_seq;
    }

    mdb_cursor_close(cursor);

    return 0;
}


static void
lmdb_close(void *self)
{
    struct lmdb  *m = self;

    if (m->env) {
        mdb_env_close(m->env);
    }

    if (m->lock != -1) {
        close(m->lock);
    }

    limits_clear(&m->limits);
    free(m->doomed);
    free(m);
}


/* LMDB gives an environment up after some failures: then it is opened anew. */

static int
lmdb_begin(void *self, struct engine_error *e)
{
    int           rc;
    struct lmdb  *m = self;

    if (m->env == NULL && lmdb_open_env(m, e) != 0) {
        m->env = NULL;
        return -1;
    }

    rc = mdb_txn_begin(m->env, NULL, 0, &m->txn);

    if (rc) {
        m->txn = NULL;
        m->unsure = 1;

        if (rc == MDB_PANIC) {
            mdb_env_close(m->env);
            m->env = NULL;
        }

        return lmdb_fail(e, rc, "the store");
    }

    if (lmdb_check_owner(m, e) != 0) {
        mdb_txn_abort(m->txn);
        m->txn = NULL;
        return -1;
    }

    m->txn_next_seq = m->next_seq;
    m->txn_first_expiry = m->first_expiry;
    m->ndoomed = 0;

    if (lmdb_read_counters(m, e) != 0) {
        engine_lmdb.abort(m);
        return -1;
    }

    return 0;
}


/*
 * A transaction that wrote nothing commits nothing, and syncs nothing.  So
 * after a failure, and after the opening, one row is always written: what a
 * commit reports as stored must not hang on an older, unfinished sync.
 */


static void
lmdb_abort(void *self)
{
    struct lmdb  *m = self;

    mdb_txn_abort(m->txn);
    m->txn = NULL;

    limits_undo(&m->limits);
}


/* LMDB gives the environment up when it could not write its root for sure. */

static int
lmdb_panics(struct lmdb *m)
{
    int       rc;
    MDB_txn  *txn;

    rc = mdb_txn_begin(m->env, NULL, MDB_RDONLY, &txn);

    if (rc == 0) {
        mdb_txn_abort(txn);
    }

    return rc == MDB_PANIC;
}


static int
lmdb_commit(void *self, struct engine_error *e)
{
    int           rc;
    uint32_t      i;
    MDB_val       key, data;
    struct lmdb  *m = self;

    if (m->txn_next_seq != m->next_seq || m->unsure) {
        key.mv_data = "next_seq";
        key.mv_size = 8;
        data.mv_data = &m->txn_next_seq;
        data.mv_size = sizeof(m->txn_next_seq);

        if (lmdb_put(m, LMDB_META, &key, &data, e) != 0) {
            lmdb_abort(m);
            return -1;
        }
    }

    if (lmdb_write_counters(m, e) != 0) {
        lmdb_abort(m);
        return -1;
    }

    rc = mdb_txn_commit(m->txn);                /* frees it either way */
    m->txn = NULL;
    m->unsure = rc != 0;

    if (rc) {
        (void) lmdb_fail(e, rc, "the store's commit");
        e->uncertain = lmdb_panics(m);
        m->limits.known = 0;
        return -1;
    }

    limits_commit(&m->limits);

    m->next_seq = m->txn_next_seq;
    m->first_expiry = m->txn_first_expiry;

    for (i = 0; i < m->ndoomed; i++) {
        files_unlink(m->policy->store, m->doomed[i].dir, m->doomed[i].id,
                     m->doomed[i].attempt);
    }

    m->ndoomed = 0;

    return 0;
}


/* Keys mostly grow: a page filled by appending is full, a split one half. */

int
lmdb_put(struct lmdb *m, enum lmdb_db db, MDB_val *key, MDB_val *data,
    struct engine_error *e)
{
    int  rc;

    if (db == LMDB_META || db == LMDB_IDS || db == LMDB_KEYS) {
        rc = mdb_put(m->txn, m->db[db], key, data, 0);

    } else {
        rc = mdb_put(m->txn, m->db[db], key, data, MDB_APPEND);
        if (rc == MDB_KEYEXIST) {
            rc = mdb_put(m->txn, m->db[db], key, data, 0);
        }
    }

    return rc ? lmdb_fail(e, rc, lmdb_dbs[db].name) : 0;
}


/* ENGINE_NOT_FOUND when there is none. */

int
lmdb_get_row(struct lmdb *m, MDB_txn *txn, uint64_t seq,
    struct store_job *row, struct engine_error *e)
{
    int      rc;
    MDB_val  key, data;

    key.mv_data = &seq;
    key.mv_size = sizeof(seq);

    rc = mdb_get(txn, m->db[LMDB_JOBS], &key, &data);

    if (rc == MDB_NOTFOUND) {
        return ENGINE_NOT_FOUND;
    }

    if (rc) {
        return lmdb_fail(e, rc, STORE_DB_JOBS);
    }

    if (data.mv_size < sizeof(*row)) {
        e->err = EINVAL;
        (void) snprintf(e->text, sizeof(e->text), "the row of job %llu has "
                        "%zu bytes instead of %zu", (unsigned long long) seq,
                        data.mv_size, sizeof(*row));
        return -1;
    }

    memcpy(row, data.mv_data, sizeof(*row));

    return 0;
}


/* A reader that was killed would keep its snapshot's pages for ever. */

static void
lmdb_upkeep(void *self)
{
    int           dead;
    struct lmdb  *m = self;

    if (m->env) {
        (void) mdb_reader_check(m->env, &dead);
    }
}


static uint64_t
lmdb_first_expiry(void *self)
{
    struct lmdb  *m = self;

    return m->txn ? m->txn_first_expiry : m->first_expiry;
}


static uint64_t
lmdb_next_seq(void *self)
{
    return ((struct lmdb *) self)->next_seq;
}


const struct engine  engine_lmdb = {
    .open = lmdb_open,
    .close = lmdb_close,
    .begin = lmdb_begin,
    .commit = lmdb_commit,
    .abort = lmdb_abort,
    .room = lmdb_room,
    .insert = lmdb_insert,
    .start = lmdb_start,
    .settle = lmdb_settle,
    .requeue = lmdb_requeue,
    .overdue = lmdb_overdue,
    .redrive = lmdb_redrive,
    .purge = lmdb_purge,
    .list = lmdb_list,
    .cancel = lmdb_cancel,
    .withdraw = lmdb_withdraw,
    .knows = lmdb_knows,
    .holder = lmdb_holder,
    .bound = lmdb_bound,
    .progress = lmdb_progress,
    .defer = lmdb_defer,
    .expire = lmdb_expire,
    .first_expiry = lmdb_first_expiry,
    .next_seq = lmdb_next_seq,
    .recover = lmdb_recover,
    .recount = lmdb_recount,
    .get_rings = lmdb_get_rings,
    .put_rings = lmdb_put_rings,
    .put_queue = lmdb_put_queue,
    .put_flags = lmdb_put_flags,
    .queues = lmdb_queues,
    .wants_body = lmdb_wants_body,
    .wants_blob = lmdb_wants_blob,
    .hooks_due = lmdb_hooks_due,
    .hook_done = lmdb_hook_done,
    .hook_retry = lmdb_hook_retry,
    .hooks_list = lmdb_hooks_list,
    .gone_list = lmdb_gone_list,
    .gone_forget = lmdb_gone_forget,
    .hooks_filed = lmdb_hooks_filed,
    .upkeep = lmdb_upkeep,
    .counters = lmdb_counters,
    .look = lmdb_look,
    .get_hold = lmdb_get_hold,
    .put_hold = lmdb_put_hold,
};
