/*
 * Prints how many transactions a store has seen: the number of its last one.
 *
 *     commits <store file>
 *
 * Read without the store's lock and without its reader table: this is one
 * field of the file's head, and nothing in the store changes by it.
 */

#include <stdio.h>
#include <lmdb.h>


int
main(int argc, char **argv)
{
    int          rc;
    MDB_env     *env;
    MDB_envinfo  info;

    if (argc != 2) {
        fprintf(stderr, "usage: commits <store file>\n");
        return 2;
    }

    rc = mdb_env_create(&env);

    if (rc == 0) {
        rc = mdb_env_open(env, argv[1], MDB_NOSUBDIR|MDB_RDONLY|MDB_NOLOCK,
                          0600);
    }

    if (rc == 0) {
        rc = mdb_env_info(env, &info);
    }

    if (rc) {
        fprintf(stderr, "%s: %s\n", argv[1], mdb_strerror(rc));
        return 1;
    }

    printf("%zu\n", info.me_last_txnid);

    mdb_env_close(env);

    return 0;
}
