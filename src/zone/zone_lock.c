/*
 * Who owns a lane, and who is the worker: OFD locks on single bytes of the
 * lock file.  The kernel drops them with the last copy of the descriptor,
 * however its process dies, so nothing here can be left behind.
 *
 * Two traps.  A forked child shares its parent's locks for as long as it has
 * the descriptor open: O_CLOEXEC, and close it in children that do not exec.
 * And F_OFD_GETLK is silent about locks of the same open file: a process that
 * asks about its own lane needs a second zone_lock_open().
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "zone_internal.h"


static int
zone_lock_set(int fd, short type, uint32_t byte)
{
    int           n;
    struct flock  fl;

    memset(&fl, 0, sizeof(fl));

    fl.l_type = type;
    fl.l_whence = SEEK_SET;
    fl.l_start = byte;
    fl.l_len = 1;

    do {
        n = fcntl(fd, F_OFD_SETLK, &fl);
    } while (n == -1 && errno == EINTR);

    if (n == -1 && errno == EACCES) {
        errno = EAGAIN;                         /* POSIX allows either */
    }

    return n;
}


int
zone_lock_open(const char *path, struct zone_error *e)
{
    int          fd, err;
    struct stat  st;

    fd = open(path, O_RDWR|O_CREAT|O_CLOEXEC|O_NOFOLLOW|O_NONBLOCK, 0600);

    if (fd == -1) {
        err = errno;
        return zone_fail(e, err, "cannot open the lock file \"%s\": %s", path,
                         strerror(err));
    }

    if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)) {
        close(fd);
        return zone_fail(e, EINVAL, "the lock file \"%s\" is not a regular "
                         "file", path);
    }

    return fd;
}


int
zone_lock_take(int fd, uint32_t byte)
{
    return zone_lock_set(fd, F_WRLCK, byte);
}


int
zone_lock_drop(int fd, uint32_t byte)
{
    return zone_lock_set(fd, F_UNLCK, byte);
}


int
zone_lock_held(int fd, uint32_t first, uint32_t n)
{
    struct flock  fl;

    if (n == 0) {
        return 0;                               /* to fcntl() 0 means all */
    }

    memset(&fl, 0, sizeof(fl));

    fl.l_type = F_WRLCK;
    fl.l_whence = SEEK_SET;
    fl.l_start = first;
    fl.l_len = n;

    if (fcntl(fd, F_OFD_GETLK, &fl) == -1) {
        return -1;
    }

    return fl.l_type != F_UNLCK;
}
