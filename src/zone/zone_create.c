/*
 * Makes a zone's file.  nginx's master runs it; it touches the zone's
 * directory and nothing that is mapped anywhere.
 *
 * All is done to a temporary file beside it, which is renamed when whole, so
 * at `path` there is a good file or none.  The maker holds an OFD lock on its
 * temporary file; a killed maker's is unlocked, and the next zone_create() for
 * the same path removes it.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "zone_internal.h"


#define ZONE_TMP  ".tmp."                       /* then six characters */


static void
zone_dirname(char *dir, size_t size, const char *path)
{
    char  *slash;

    snprintf(dir, size, "%s", path);
    slash = strrchr(dir, '/');

    if (slash == NULL) {
        snprintf(dir, size, ".");

    } else {
        slash[slash == dir] = '\0';
    }
}


/* Removes what killed makers left; a living one's is locked. */

static void
zone_tmp_sweep(const char *path)
{
    int             dfd, fd;
    DIR            *d;
    char            dir[PATH_MAX], prefix[NAME_MAX + 1];
    const char     *slash;
    struct dirent  *ent;

    zone_dirname(dir, sizeof(dir), path);
    slash = strrchr(path, '/');

    if ((size_t) snprintf(prefix, sizeof(prefix), "%s" ZONE_TMP,
                          slash ? slash + 1 : path)
        >= sizeof(prefix))
    {
        return;
    }

    d = opendir(dir);

    if (d == NULL) {
        return;
    }

    dfd = dirfd(d);

    while ((ent = readdir(d)) != NULL) {
        if (strncmp(ent->d_name, prefix, strlen(prefix)) != 0
            || strlen(ent->d_name) != strlen(prefix) + 6)
        {
            continue;
        }

        fd = openat(dfd, ent->d_name, O_RDWR|O_CLOEXEC|O_NOFOLLOW|O_NONBLOCK);

        if (fd == -1) {
            continue;
        }

        if (zone_lock_take(fd, 0) == 0) {
            (void) unlinkat(dfd, ent->d_name, 0);
        }

        close(fd);
    }

    closedir(d);
}


static int
zone_write(int fd, const void *p, size_t n, off_t off)
{
    ssize_t  got;

    do {
        got = pwrite(fd, p, n, off);
    } while (got == -1 && errno == EINTR);

    if (got != -1 && (size_t) got != n) {
        errno = ENOSPC;
    }

    return (got != -1 && (size_t) got == n) ? 0 : -1;
}


/* Makes the file behind fd a whole zone: `what` is the step that failed. */

static int
zone_fill(int fd, struct zone_header *h, uid_t uid, gid_t gid,
    const char **what)
{
    int              err;
    uint32_t         ready;
    struct timespec  now;

    *what = "lock";

    if (zone_lock_take(fd, 0) == -1) {
        return errno;
    }

    ZONE_FAILPOINT("zone.create.locked");

    *what = "set the mode of";

    if (fchmod(fd, 0600) == -1) {
        return errno;
    }

    *what = "change the owner of";

    if ((uid != (uid_t) -1 || gid != (gid_t) -1)
        && fchown(fd, uid, gid) == -1)
    {
        return errno;
    }

    ZONE_FAILPOINT("zone.create.owned");

    /* Not sparse: a page that is not there when it is needed is a SIGBUS. */

    *what = "allocate";

    do {
        err = posix_fallocate(fd, 0, (off_t) h->size);
    } while (err == EINTR);

    if (err != 0) {
        return err;
    }

    ZONE_FAILPOINT("zone.create.allocated");

    *what = "write";

    if (getrandom(h->boot_id, sizeof(h->boot_id), 0)
        != (ssize_t) sizeof(h->boot_id))
    {
        return errno;
    }

    clock_gettime(CLOCK_REALTIME, &now);
    h->created_ms = (uint64_t) now.tv_sec * 1000
                    + (uint64_t) now.tv_nsec / 1000000;

    if (zone_write(fd, h, sizeof(*h), 0) == -1) {
        return errno;
    }

    ZONE_FAILPOINT("zone.create.written");

    ready = ZONE_READY;

    if (zone_write(fd, &ready, sizeof(ready),
                   offsetof(struct zone_header, ready))
        == -1)
    {
        return errno;
    }

    ZONE_FAILPOINT("zone.create.ready");

    return 0;
}


int
zone_create(const char *path, const struct zone_geometry *g, uid_t uid,
    gid_t gid, struct zone_error *e)
{
    int                 fd, err;
    char                tmp[PATH_MAX], dir[PATH_MAX];
    const char         *what;
    struct zone_header  h;

    if (zone_header_init(&h, g, e) == -1) {
        return -1;
    }

    if ((size_t) snprintf(tmp, sizeof(tmp), "%s" ZONE_TMP "XXXXXX", path)
        >= sizeof(tmp))
    {
        return zone_fail(e, ENAMETOOLONG, "the zone's path is too long: \"%s\"",
                         path);
    }

    zone_dirname(dir, sizeof(dir), path);
    zone_tmp_sweep(path);

    fd = mkostemp(tmp, O_CLOEXEC);

    if (fd == -1) {
        err = errno;
        return zone_fail(e, err, "cannot create a file in \"%s\": %s", dir,
                         strerror(err));
    }

    ZONE_FAILPOINT("zone.create.opened");

    err = zone_fill(fd, &h, uid, gid, &what);

    if (err == 0 && rename(tmp, path) == -1) {
        err = errno;
        what = "rename";
    }

    if (err == 0) {
        ZONE_FAILPOINT("zone.create.renamed");
        close(fd);
        return 0;
    }

    (void) unlink(tmp);
    close(fd);

    if (err == ENOSPC || err == EDQUOT || err == EFBIG) {
        return zone_fail(e, err, "cannot allocate %ju bytes in \"%s\": %s",
                         (uintmax_t) h.size, dir, strerror(err));
    }

    return zone_fail(e, err, "cannot %s \"%s\": %s", what, tmp, strerror(err));
}
