/*
 * Files beside the store: request bodies too large for a ring (spool/), the
 * same while nginx receives them (spool/tmp/), and answers too large to be
 * inline (blobs/).  A file is named by its job's id, a blob by its attempt's
 * number as well; the store's rows say which are wanted.  No two processes
 * ever make a file of one name: an attempt's number is committed before.
 *
 * A file is made before the row that names it and removed after the row is
 * gone, so a kill leaves files too many, never one too few.  files_sweep()
 * removes those: at the start, and of the spool once an hour, because nginx
 * may die between a file and its record.  Store thread, or main before it.
 */

#include "offloadd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>


#define FILES_TMP_AGE         86400             /* s: an upload may be slow */
#define FILES_SPOOL_AGE       60                /* s: its record is on its
                                                   way */


static int
files_mkdir(const char *path, struct engine_error *e)
{
    struct stat  st;

    if (mkdir(path, 0700) == -1 && errno != EEXIST) {
        e->err = errno;
        (void) snprintf(e->text, sizeof(e->text), "%.256s: %s", path,
                        strerror(errno));
        return -1;
    }

    if (stat(path, &st) == -1 || !S_ISDIR(st.st_mode)) {
        e->err = ENOTDIR;
        (void) snprintf(e->text, sizeof(e->text), "%.256s: not a directory",
                        path);
        return -1;
    }

    if (st.st_uid != geteuid() || (st.st_mode & 077)) {
        e->err = EACCES;
        (void) snprintf(e->text, sizeof(e->text), "%.200s belongs to user %u "
                        "with mode %03o, must belong to user %u with mode 700",
                        path, (unsigned) st.st_uid,
                        (unsigned) st.st_mode & 0777, (unsigned) geteuid());
        return -1;
    }

    if (access(path, W_OK|X_OK) == -1) {
        e->err = errno;
        (void) snprintf(e->text, sizeof(e->text), "%.256s: not writable: %s",
                        path, strerror(errno));
        return -1;
    }

    return 0;
}


int
files_init(const struct policy *p, struct engine_error *e)
{
    int                       i;
    char                      path[PATH_MAX];
    static const char *const  dirs[] = {
        ZONE_DIR_SPOOL, ZONE_DIR_SPOOL_TMP, ZONE_DIR_BLOBS
    };

    if (files_mkdir(p->store, e) != 0) {
        return -1;
    }

    for (i = 0; i < (int) ARRAY_LENGTH(dirs); i++) {
        if (zone_path(path, sizeof(path), p->store, dirs[i]) != 0) {
            e->err = ENAMETOOLONG;
            (void) snprintf(e->text, sizeof(e->text), "\"store\" is too long "
                            "a path");
            return -1;
        }

        if (files_mkdir(path, e) != 0) {
            return -1;
        }
    }

    return 0;
}


int
files_path(char *buf, size_t size, const char *store, const char *dir,
    const uint8_t *id, uint32_t attempt)
{
    int   n;
    char  text[ZONE_ID_TEXT], suffix[16];

    suffix[0] = '\0';

    if (attempt) {
        (void) snprintf(suffix, sizeof(suffix), ".%u", attempt);
    }

    zone_id_format(text, id);
    n = snprintf(buf, size, "%s/%s/%.*s%s", store, dir, ZONE_ID_TEXT, text,
                 suffix);

    return n > 0 && (size_t) n < size ? 0 : -1;
}


void
files_unlink(const char *store, const char *dir, const uint8_t *id,
    uint32_t attempt)
{
    char  path[PATH_MAX];

    if (files_path(path, sizeof(path), store, dir, id, attempt) != 0) {
        return;
    }

    if (unlink(path) == -1 && errno != ENOENT) {
        log_text(LOG_WARN, "unlink %.300s: %s", path, strerror(errno));
    }
}


static int
files_error(struct engine_error *e, const char *what, const char *path)
{
    e->err = errno;
    (void) snprintf(e->text, sizeof(e->text), "%s %.256s: %s", what, path,
                    strerror(errno));
    return -1;
}


/*
 * The store thread waits for the disk here; what nginx and libcurl wrote may
 * long be there.
 */

int
files_sync(struct store *s, enum files_dir dir, const uint8_t *id,
    uint32_t attempt, struct engine_error *e)
{
    int   fd, rc;
    char  path[PATH_MAX];

    if (files_path(path, sizeof(path), s->daemon->policy.store,
                   dir == FILES_SPOOL ? ZONE_DIR_SPOOL : ZONE_DIR_BLOBS, id,
                   attempt)
        != 0)
    {
        errno = ENAMETOOLONG;
        return files_error(e, "path", s->daemon->policy.store);
    }

    if (ZONE_MUTANT("files.sync")) {
        return 0;
    }

    fd = open(path, O_RDONLY|O_CLOEXEC|O_NOFOLLOW);

    if (fd == -1) {
        return errno == ENOENT ? FILES_ABSENT : files_error(e, "open", path);
    }

    rc = fdatasync(fd) == 0 ? 0 : files_error(e, "fdatasync", path);
    rc = rc == 0 ? 0 : FILES_LOST;

    (void) close(fd);

    s->unsynced |= (uint32_t) dir;

    ZONE_FAILPOINT("files.synced");

    return rc;
}


static int
files_sync_dir(const char *path, struct engine_error *e)
{
    int  fd, rc;

    fd = open(path, O_RDONLY|O_CLOEXEC|O_DIRECTORY);

    if (fd == -1) {
        return files_error(e, "open", path);
    }

    rc = fsync(fd) == 0 ? 0 : files_error(e, "fsync", path);

    (void) close(fd);

    return rc;
}


int
files_sync_names(struct store *s, struct engine_error *e)
{
    int                i;
    char               path[PATH_MAX];
    const char        *store;

    static const struct {
        enum files_dir   dir;
        const char      *name;
    } dirs[] = {
        { FILES_SPOOL, ZONE_DIR_SPOOL },
        { FILES_BLOBS, ZONE_DIR_BLOBS }
    };

    store = s->daemon->policy.store;

    for (i = 0; i < (int) ARRAY_LENGTH(dirs); i++) {

        if (!(s->unsynced & (uint32_t) dirs[i].dir)
            || ZONE_MUTANT("files.sync-names"))
        {
            continue;
        }

        if (zone_path(path, sizeof(path), store, dirs[i].name) != 0
            || files_sync_dir(path, e) != 0)
        {
            return -1;
        }
    }

    s->unsynced = 0;

    return 0;
}


int
files_sync_made(const struct policy *p, struct engine_error *e)
{
    char  path[PATH_MAX], *slash;

    if (zone_path(path, sizeof(path), p->store, ZONE_DIR_SPOOL) != 0
        || files_sync_dir(path, e) != 0
        || files_sync_dir(p->store, e) != 0)
    {
        return -1;
    }

    (void) snprintf(path, sizeof(path), "%s", p->store);
    slash = strrchr(path, '/');

    if (slash == NULL || slash == path) {
        return 0;
    }

    *slash = '\0';

    /* one that may not be read was made by somebody else, long ago */

    return files_sync_dir(path, e) == 0 || e->err == EACCES ? 0 : -1;
}


/* Is the job in a ring still?  Nothing is taken from it. */

static int
files_in_ring(struct store *s, const uint8_t *id)
{
    uint32_t              lane, slot;
    struct zone_error     e;
    struct zone_record   *rec;
    struct zone_consumer  c;

    zone_id_hint(id, &lane, &slot);

    if (lane >= s->daemon->zone.geo.lanes
        || atomic_load(&s->lanes[lane].corrupt))
    {
        return 0;
    }

    c = s->lanes[lane].consumer;                /* a copy: it reads ahead */

    while (zone_sq_peek(&c, &rec, &e) == 1) {
        if (memcmp(rec->id, id, ZONE_ID_SIZE) == 0) {
            return 1;
        }
    }

    return 0;
}


static int
files_blob_wanted(struct store *s, const char *name, size_t len)
{
    char           *end;
    uint8_t         id[ZONE_ID_SIZE];
    unsigned long   attempt;

    if (len < ZONE_ID_TEXT + 2 || name[ZONE_ID_TEXT] != '.'
        || zone_id_parse(id, name, ZONE_ID_TEXT) != 0)
    {
        return 1;                               /* nothing of ours */
    }

    attempt = strtoul(name + ZONE_ID_TEXT + 1, &end, 10);

    return *end != '\0' || attempt > UINT32_MAX
           || s->engine->wants_blob(s->self, id, (uint32_t) attempt);
}


static int
files_wanted(struct store *s, const char *dir, const char *name,
    const struct stat *st, time_t now)
{
    size_t   len;
    uint8_t  id[ZONE_ID_SIZE];

    len = strlen(name);

    if (strcmp(dir, ZONE_DIR_SPOOL_TMP) == 0) {
        return now - st->st_mtime < FILES_TMP_AGE;
    }

    if (strcmp(dir, ZONE_DIR_BLOBS) == 0) {
        return files_blob_wanted(s, name, len);
    }

    if (zone_id_parse(id, name, len) != 0) {
        return 1;                               /* nothing of ours */
    }

    /* the ring first: what leaves it between the looks is in the store */

    return (!ZONE_MUTANT("sweep.waiting")
            && (now - st->st_ctime < FILES_SPOOL_AGE || files_in_ring(s, id)))
           || s->engine->wants_body(s->self, id);
}


static void
files_sweep_dir(struct store *s, const char *dir)
{
    DIR            *d;
    char            path[PATH_MAX];
    time_t          now;
    unsigned        n;
    struct stat     st;
    struct dirent  *entry;

    if (zone_path(path, sizeof(path), s->daemon->policy.store, dir) != 0) {
        return;
    }

    d = opendir(path);
    if (d == NULL) {
        log_text(LOG_WARN, "opendir %.300s: %s", path, strerror(errno));
        return;
    }

    now = time(NULL);
    n = 0;

    while ((entry = readdir(d)) != NULL) {

        if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == -1
            || !S_ISREG(st.st_mode)
            || files_wanted(s, dir, entry->d_name, &st, now))
        {
            continue;
        }

        if (unlinkat(dirfd(d), entry->d_name, 0) == 0) {
            n++;
        }
    }

    closedir(d);

    if (n) {
        log_text(LOG_NOTICE, "%u files that no job wants removed from %.300s",
                 n, path);
    }
}


/*
 * Inside a transaction, if an empty one: what is removed here is nobody's as
 * long as nobody else can commit, and an overtaken worker does not get here.
 */

void
files_sweep(struct store *s, int blobs)
{
    struct engine_error  e;

    if (s->engine->begin(s->self, &e) != 0) {
        log_text(LOG_WARN, "files that no job wants stay for now: %s", e.text);
        return;
    }

    files_sweep_dir(s, ZONE_DIR_SPOOL_TMP);
    files_sweep_dir(s, ZONE_DIR_SPOOL);

    if (blobs) {
        files_sweep_dir(s, ZONE_DIR_BLOBS);
    }

    s->engine->abort(s->self);
}


/* A result whose bytes the disk has refused is one the job has not got. */

int
files_sync_result(struct store *s, struct store_op *op,
    struct engine_error *e)
{
    int                rc;
    static const char  lost[] = "the answer could not be kept: the disk "
                                "failed";

    rc = files_sync(s, FILES_BLOBS, op->row.id, op->row.attempts, e);

    if (rc != FILES_LOST) {
        return rc == -1 ? -1 : 0;
    }

    log_text(LOG_ERROR, "%.300s: a result is lost", e->text);

    files_unlink(s->daemon->policy.store, ZONE_DIR_BLOBS, op->row.id,
                 op->row.attempts);

    op->row.state = STORE_FAILED;
    op->row.error = STORE_ERROR_RESULT;
    op->row.result_size = 0;
    op->row.type_len = 0;
    op->row.message_len = sizeof(lost) - 1;
    op->message = lost;
    op->headers = NULL;

    return 0;
}
