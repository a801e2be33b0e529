/*
 * The LMDB engine: whose store it is.  The lock of a zone makes one worker of
 * one zone, but a zone's directory can be lost and made anew while the store
 * stays, and a worker that was stopped meanwhile comes back.  So each worker
 * that opens the store raises an epoch in it, in the transaction that opens
 * it, and looks at it in each later one: who finds another's has been
 * overtaken, writes nothing and ends its process here, so that no caller can
 * forget to.  Store thread, or main before there is one.
 *
 * LMDB has one writer at a time, by a mutex in its lock file.  A worker that
 * is stopped inside a transaction holds it: the next one waits at the opening
 * until that transaction is over, one way or the other, so the two can never
 * write at once.  (Killed, it gives the mutex up: it is a robust one.)  One
 * stopped while it reads keeps its snapshot: pages freed meanwhile are not
 * used again before it goes on or dies.
 *
 * Whether the owner of an epoch lives is said by an OFD lock on one byte of
 * the file STORE_LOCK, the epoch's own: an overtaken worker may live beside
 * its successor, and a killed one leaves nothing behind.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>


#define lmdb_owner_byte(epoch)  ((uint32_t) (epoch) & INT32_MAX)


/* One that was never there is all zero: epoch 0 is nobody's. */

static int
lmdb_read_owner(MDB_txn *txn, MDB_dbi meta, struct store_owner *o)
{
    int      rc;
    MDB_val  key, data;

    key.mv_data = "owner";
    key.mv_size = 5;

    memset(o, 0, sizeof(*o));

    rc = mdb_get(txn, meta, &key, &data);

    if (rc == MDB_NOTFOUND) {
        return 0;
    }

    if (rc == 0 && data.mv_size != sizeof(*o)) {
        return MDB_CORRUPTED;
    }

    if (rc == 0) {
        memcpy(o, data.mv_data, sizeof(*o));
        o->path[sizeof(o->path) - 1] = '\0';
    }

    return rc;
}


static int
lmdb_owner_lives(const struct lmdb *m, const struct store_owner *o)
{
    return o->epoch != 0
           && zone_lock_held(m->lock, lmdb_owner_byte(o->epoch), 1) == 1;
}


/*
 * The same directory, if perhaps made anew, on the same tmpfs: two containers
 * that share a store may well have one path and be two zones.
 */

static int
lmdb_owner_is_zone(const struct store_owner *o, const struct policy *p,
    const struct stat *st)
{
    return strcmp(o->path, p->path) == 0 && o->dev == (uint64_t) st->st_dev;
}


/* What is said before the transaction, since that may have to wait. */

static void
lmdb_announce(struct lmdb *m)
{
    MDB_txn             *txn;
    MDB_dbi              meta;
    struct log_line      l;
    struct store_owner   o;

    if (mdb_txn_begin(m->env, NULL, MDB_RDONLY, &txn) != 0) {
        return;
    }

    if (mdb_dbi_open(txn, STORE_DB_META, 0, &meta) == 0
        && lmdb_read_owner(txn, meta, &o) == 0 && lmdb_owner_lives(m, &o)
        && log_begin(&l, LOG_NOTICE, "the worker that had the store lives; "
                                     "if it is inside a transaction, this "
                                     "one waits for that to end"))
    {
        log_uint(&l, "worker", o.pid);
        log_str(&l, "zone", o.path);
        log_end(&l);
    }

    mdb_txn_abort(txn);
}


int
lmdb_owner_init(struct lmdb *m, struct engine_error *e)
{
    char               path[PATH_MAX];
    struct zone_error  ze;

    if (m->epoch) {
        return 0;                               /* opened again */
    }

    if (zone_path(path, sizeof(path), m->policy->store, STORE_LOCK) != 0) {
        return lmdb_fail(e, ENAMETOOLONG, m->policy->store);
    }

    m->lock = zone_lock_open(path, &ze);

    if (m->lock == -1) {
        e->err = ze.err;
        (void) snprintf(e->text, sizeof(e->text), "%s", ze.text);
        return -1;
    }

    lmdb_announce(m);

    return 0;
}


/* In the transaction that opens the store. */

int
lmdb_claim(struct lmdb *m, MDB_txn *txn, struct engine_error *e)
{
    int                 rc;
    MDB_val             key, data;
    struct stat         st;
    struct store_owner  o;

    if (m->epoch) {
        m->txn = txn;
        rc = lmdb_check_owner(m, e);
        m->txn = NULL;
        return rc;
    }

    rc = lmdb_read_owner(txn, m->db[LMDB_META], &o);
    if (rc) {
        return lmdb_fail(e, rc, "the store's owner");
    }

    if (stat(m->policy->path, &st) == -1) {
        return lmdb_fail(e, errno, m->policy->path);
    }

    if (lmdb_owner_lives(m, &o) && !lmdb_owner_is_zone(&o, m->policy, &st)) {
        e->err = EBUSY;
        (void) snprintf(e->text, sizeof(e->text), "store %.180s is in use by "
                        "the zone at path %s (worker process %u): each zone "
                        "needs a store of its own", m->policy->store, o.path,
                        o.pid);
        return -1;
    }

    o.layout = STORE_LAYOUT;
    o.pid = (uint32_t) getpid();
    o.epoch++;
    o.opened_ms = clock_ms();
    o.dev = (uint64_t) st.st_dev;
    (void) snprintf(o.path, sizeof(o.path), "%s", m->policy->path);

    if (zone_lock_take(m->lock, lmdb_owner_byte(o.epoch)) != 0) {
        return lmdb_fail(e, errno, "lock on the store's " STORE_LOCK);
    }

    key.mv_data = "owner";
    key.mv_size = 5;
    data.mv_data = &o;
    data.mv_size = sizeof(o);

    rc = mdb_put(txn, m->db[LMDB_META], &key, &data, 0);
    if (rc) {
        return lmdb_fail(e, rc, "the store's owner");
    }

    m->epoch = o.epoch;

    return 0;
}


/* In each transaction, before anything else. */

int
lmdb_check_owner(struct lmdb *m, struct engine_error *e)
{
    int                 rc;
    struct log_line     l;
    struct store_owner  o;

    rc = lmdb_read_owner(m->txn, m->db[LMDB_META], &o);
    if (rc) {
        return lmdb_fail(e, rc, "the store's owner");
    }

    if (o.epoch == m->epoch || ZONE_MUTANT("store.owner")) {
        return 0;
    }

    mdb_txn_abort(m->txn);

    if (log_begin(&l, LOG_ERROR, "the store was taken over by another worker "
                                 "while this one did not run: it leaves, and "
                                 "changes nothing any more"))
    {
        log_uint(&l, "worker", o.pid);
        log_str(&l, "zone", o.path);
        log_uint(&l, "epoch", o.epoch);
        log_uint(&l, "own_epoch", m->epoch);
        log_end(&l);
    }

    _exit(OFFLOADD_OVERTAKEN);
}
