/*
 * Bells: datagram sockets by path.  A bell carries no data, it only ends a
 * poll(); what there is to do stands in the rings.  So a bell may be lost or
 * ring twice, and every error of ringing one is fine.
 *
 * The receiver binds; whoever rings needs one unbound socket for all bells.
 * A receiver killed leaves its socket file behind: ringing it says
 * ECONNREFUSED, and the next one to bind removes it.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "zone_internal.h"


/* More than the kernel queues by default; what is left ends the next poll. */
#define ZONE_WAKE_DRAIN  64


int
zone_bell_init(struct zone_bell *b, const char *path)
{
    size_t  n;

    n = strlen(path);

    if (n == 0 || n >= sizeof(b->addr.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }

    memset(&b->addr, 0, sizeof(b->addr));

    b->addr.sun_family = AF_UNIX;
    memcpy(b->addr.sun_path, path, n + 1);
    b->len = offsetof(struct sockaddr_un, sun_path) + n + 1;

    return 0;
}


int
zone_bell_socket(void)
{
    return socket(AF_UNIX, SOCK_DGRAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
}


/* A stale socket goes; anything else at the path is somebody's file. */

static int
zone_wake_clear(const char *path, struct zone_error *e)
{
    int          err;
    struct stat  st;

    if (lstat(path, &st) == -1) {
        if (errno == ENOENT) {
            return 0;
        }

    } else if (!S_ISSOCK(st.st_mode)) {
        return zone_fail(e, EEXIST, "\"%s\" exists and is not a socket", path);

    } else if (unlink(path) == 0 || errno == ENOENT) {
        return 0;
    }

    err = errno;

    return zone_fail(e, err, "cannot remove the stale socket \"%s\": %s", path,
                     strerror(err));
}


int
zone_wake_bind(const char *path, struct zone_error *e)
{
    return zone_socket_bind(path, SOCK_DGRAM, e);
}


/* Any type: a stale socket is replaced, the new one has mode 0600. */

int
zone_socket_bind(const char *path, int type, struct zone_error *e)
{
    int               fd, err;
    struct zone_bell  b;

    if (zone_bell_init(&b, path) == -1) {
        return zone_fail(e, ENAMETOOLONG, "the socket path \"%s\" is %zu bytes "
                         "long: 1 to %zu are possible", path, strlen(path),
                         sizeof(b.addr.sun_path) - 1);
    }

    if (zone_wake_clear(path, e) == -1) {
        return -1;
    }

    fd = socket(AF_UNIX, type|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);

    if (fd == -1) {
        err = errno;
        return zone_fail(e, err, "socket() for \"%s\" failed: %s", path,
                         strerror(err));
    }

    /* bind() gives the file the mode that its socket has, less the umask. */

    if (fchmod(fd, 0600) == -1
        || bind(fd, (struct sockaddr *) &b.addr, b.len) == -1)
    {
        err = errno;
        close(fd);
        return zone_fail(e, err, "cannot bind \"%s\": %s", path, strerror(err));
    }

    return fd;
}


void
zone_wake_drain(int fd)
{
    int      i;
    char     c;
    ssize_t  n;

    for (i = 0; i < ZONE_WAKE_DRAIN; i++) {
        n = recv(fd, &c, 1, MSG_DONTWAIT|MSG_TRUNC);

        if (n == -1 && errno != EINTR) {
            return;
        }
    }
}


void
zone_bell_ring(int fd, const struct zone_bell *b)
{
    (void) sendto(fd, "", 1, MSG_DONTWAIT|MSG_NOSIGNAL,
                  (const struct sockaddr *) &b->addr, b->len);
}
