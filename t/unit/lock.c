/*
 * Who owns a lane is what the kernel says.  Taken by one, it is refused to
 * all others, in the same process too, and given back by death of any kind.
 */

#include <errno.h>
#include <fcntl.h>

#include "unit.h"


static struct zone_error  e;


/* A child that takes byte 3, says so, and waits to be killed. */

static pid_t
holder(const char *path, int fd)
{
    int    p[2];
    char   c;
    pid_t  pid;

    must(pipe(p) == 0);
    pid = tap_fork();

    if (pid == 0) {
        if (path != NULL) {
            fd = zone_lock_open(path, &e);
            c = zone_lock_take(fd, 3) == 0 ? 'y' : 'n';

        } else {
            c = 'y';
        }

        (void) !write(p[1], &c, 1);

        for ( ;; ) {
            pause();
        }
    }

    must(read(p[0], &c, 1) == 1 && c == 'y');
    close(p[0]);
    close(p[1]);

    return pid;
}


int
main(void)
{
    int          a, b, c;
    pid_t        pid;
    struct stat  st;
    char         path[PATH_MAX];

    tap_begin();
    zone_path(path, sizeof(path), tap_dir, "lock");

    a = zone_lock_open(path, &e);
    b = zone_lock_open(path, &e);
    ok(a != -1 && b != -1, "the lock file is opened twice");
    must(stat(path, &st) == 0);
    is(st.st_mode & 07777, 0600, "it was made 0600");
    ok(fcntl(a, F_GETFD) & FD_CLOEXEC, "it is not inherited by programs");

    is(zone_lock_held(b, 0, 256), 0, "nothing is held");
    is(zone_lock_take(a, 3), 0, "lane 3 is taken");
    is(zone_lock_take(a, 3), 0, "again by the same: fine");
    errno = 0;
    is(zone_lock_take(b, 3), -1, "by another, in the same process: no");
    is(errno, EAGAIN, "EAGAIN");
    is(zone_lock_take(b, 2), 0, "its neighbours are free: 2");
    is(zone_lock_take(b, 4), 0, "its neighbours are free: 4");

    is(zone_lock_held(b, 3, 1), 1, "held, says another");
    is(zone_lock_held(a, 3, 1), 0, "not by another, says the holder");
    is(zone_lock_held(b, 0, 256), 1, "held within a range");
    is(zone_lock_held(a, 0, 2), 0, "not held outside of it");
    is(zone_lock_held(a, 5, 250), 0, "on either side");
    is(zone_lock_held(b, 3, 0), 0, "no bytes, no holder");

    is(zone_lock_take(a, ZONE_LOCK_WORKER), 0, "the worker's byte");
    is(zone_lock_take(b, ZONE_LOCK_WORKER), -1, "is one for all");
    is(zone_lock_held(b, ZONE_LOCK_WORKER, 1), 1, "and seen");

    is(zone_lock_drop(a, 3), 0, "dropped");
    is(zone_lock_take(b, 3), 0, "another has it");
    is(zone_lock_take(a, 3), -1, "the first has not");

    /* A classic POSIX lock would go with any descriptor of the file. */

    c = zone_lock_open(path, &e);
    close(c);
    is(zone_lock_take(a, 3), -1, "closing a third changes nothing");
    close(b);
    is(zone_lock_take(a, 3), 0, "closing the holder's gives it back");
    is(zone_lock_drop(a, 3), 0, "and dropped");

    pid = holder(path, -1);
    is(zone_lock_take(a, 3), -1, "a child has it");
    is(zone_lock_held(a, 3, 1), 1, "held");
    must(kill(pid, SIGKILL) == 0);
    tap_wait(pid);
    is(zone_lock_held(a, 3, 1), 0, "killed it has not");
    is(zone_lock_take(a, 3), 0, "and it can be taken");

    /* the trap that zone_lock.c speaks of */

    pid = holder(NULL, a);
    close(a);
    a = zone_lock_open(path, &e);
    is(zone_lock_take(a, 3), -1, "a forked copy keeps it");
    must(kill(pid, SIGKILL) == 0);
    tap_wait(pid);
    is(zone_lock_take(a, 3), 0, "until it is gone");

    is(zone_lock_take(-1, 3), -1, "no descriptor, no lock");
    is(zone_lock_held(-1, 0, 1), -1, "and no answer");

    must(symlink(path, tap_file("link")) == 0);
    is(zone_lock_open(tap_file("link"), &e), -1, "a symbolic link is refused");
    is(zone_lock_open(tap_file("none/lock"), &e), -1, "as is no directory");
    like(e.text, "none/lock", "which the text names");
    is(zone_lock_open(tap_dir, &e), -1, "and a directory");

    return tap_end();
}
