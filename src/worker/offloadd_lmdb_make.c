/*
 * The LMDB engine: a store that is not there yet.  Made under another name,
 * and renamed when it is whole and on the disk: half a store, which is what a
 * power cut leaves, LMDB takes for a damaged one.  A lock keeps out others
 * that make the same.  Main before there are threads, or the store thread; a
 * kill leaves a file that the next one removes.
 */

#include "offloadd_lmdb.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>


#define LMDB_MADE             STORE_FILE ".new"
#define LMDB_MAKE_BYTE        0                 /* no epoch's */


/* As little as makes it one: a database in it, and a commit. */

static int
lmdb_make_file(const char *file)
{
    int       rc;
    MDB_env  *env;
    MDB_txn  *txn;
    MDB_dbi   dbi;

    rc = mdb_env_create(&env);
    if (rc) {
        return rc;
    }

    (void) mdb_env_set_maxdbs(env, STORE_DBS);

    rc = mdb_env_open(env, file, MDB_NOSUBDIR|MDB_NOTLS, 0600);

    if (rc == 0) {
        rc = mdb_txn_begin(env, NULL, 0, &txn);
    }

    if (rc == 0) {
        rc = mdb_dbi_open(txn, STORE_DB_META, MDB_CREATE, &dbi);

        if (rc == 0) {
            rc = mdb_txn_commit(txn);

        } else {
            mdb_txn_abort(txn);
        }
    }

    mdb_env_close(env);

    return rc;
}


int
lmdb_make(const char *store, const char *file, struct engine_error *e)
{
    int                rc, fd;
    char               made[PATH_MAX], lock[PATH_MAX], owner[PATH_MAX];
    struct zone_error  ze;

    if (access(file, F_OK) == 0) {
        return 0;
    }

    if (zone_path(made, sizeof(made), store, LMDB_MADE) != 0
        || zone_path(lock, sizeof(lock), store, LMDB_MADE "-lock") != 0
        || zone_path(owner, sizeof(owner), store, STORE_LOCK) != 0)
    {
        return lmdb_fail(e, ENAMETOOLONG, store);
    }

    fd = zone_lock_open(owner, &ze);
    if (fd == -1) {
        return lmdb_fail(e, ze.err, owner);
    }

    rc = zone_lock_take(fd, LMDB_MAKE_BYTE) == 0 ? 0 : errno;

    if (rc == 0 && access(file, F_OK) == -1) {
        (void) unlink(made);
        (void) unlink(lock);

        rc = lmdb_make_file(made);

        (void) unlink(lock);

        if (rc == 0 && rename(made, file) == -1) {
            rc = errno;
        }
    }

    (void) close(fd);

    return rc ? lmdb_fail(e, rc, made) : 0;
}
