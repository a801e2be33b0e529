/*
 * Bells: every way of not reaching the receiver is fine, and going to sleep
 * never loses a wake-up.  The latter is a race that is lost once in thousands
 * of times if a fence is missing, so it is run a hundred thousand times: bare,
 * where both sides meet at the very moment, and with all that belongs to it,
 * where a lost wake-up shows as a poll() that times out.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>

#include "unit.h"


#define TRIPS    100000
#define TIMEOUT  10000                          /* ms */


static struct zone_error  e;


static int
rung(int fd, int ms)
{
    struct pollfd  pfd;

    pfd.fd = fd;
    pfd.events = POLLIN;

    return poll(&pfd, 1, ms) == 1;
}


static void
test_bells(void)
{
    int               i, fd, ring, other;
    char              name[sizeof(((struct sockaddr_un *) 0)->sun_path) + 1];
    struct stat       st;
    char              path[PATH_MAX];
    struct zone_bell  b;

    zone_path(path, sizeof(path), tap_dir, "bell");
    ring = zone_bell_socket();
    ok(ring != -1, "a socket to ring with");
    ok(fcntl(ring, F_GETFD) & FD_CLOEXEC, "not inherited by programs");
    is(zone_bell_init(&b, path), 0, "a bell");

    zone_bell_ring(ring, &b);
    is(errno, ENOENT, "rung before there is a receiver: nothing");

    fd = zone_wake_bind(path, &e);
    ok(fd != -1, "the receiver binds");
    ok(fcntl(fd, F_GETFD) & FD_CLOEXEC, "not inherited by programs");
    ok(fcntl(fd, F_GETFL) & O_NONBLOCK, "not blocking");
    must(lstat(path, &st) == 0);
    is(st.st_mode & 0777, 0600, "mode 0600");
    ok(!rung(fd, 0), "not rung yet");

    zone_bell_ring(ring, &b);
    ok(rung(fd, TIMEOUT), "rung");
    zone_wake_drain(fd);
    ok(!rung(fd, 0), "and drained");

    for (i = 0; i < 1000; i++) {
        zone_bell_ring(ring, &b);
    }

    is(errno, EAGAIN, "1000 times: the queue is full, and nobody waits");
    ok(rung(fd, 0), "it is rung");
    zone_wake_drain(fd);
    ok(!rung(fd, 0), "once drained no more");

    close(fd);
    zone_bell_ring(ring, &b);
    is(errno, ECONNREFUSED, "a receiver that died: nothing");

    fd = zone_wake_bind(path, &e);
    ok(fd != -1, "the next one takes the stale socket's place");
    zone_bell_ring(ring, &b);
    ok(rung(fd, TIMEOUT), "and is rung by the same bell");

    other = zone_wake_bind(path, &e);
    ok(other != -1, "and one after it");
    zone_wake_drain(fd);
    zone_bell_ring(ring, &b);
    ok(rung(other, TIMEOUT) && !rung(fd, 0), "who is rung alone");

    must(unlink(path) == 0);
    zone_bell_ring(ring, &b);
    is(errno, ENOENT, "after the unlink: nothing");
    zone_bell_ring(-1, &b);
    is(errno, EBADF, "nor without a socket");

    i = open(path, O_RDWR|O_CREAT, 0600);
    must(i != -1);
    is(zone_wake_bind(path, &e), -1, "a file in the way is left alone");
    like(e.text, "not a socket", "with a text that says so");
    must(lstat(path, &st) == 0 && S_ISREG(st.st_mode));

    is(zone_wake_bind(tap_file("none/bell"), &e), -1, "no directory");
    like(e.text, "none/bell", "the text names the path");

    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    is(zone_bell_init(&b, name), -1, "a path of 108 characters");
    is(zone_wake_bind(name, &e), -1, "is too long");
    like(e.text, "1 to 107", "which is said");
    name[sizeof(name) - 2] = '\0';
    is(zone_bell_init(&b, name), 0, "one of 107 is not");
    is(zone_bell_init(&b, ""), -1, "an empty one is no path");

    close(ring);
    close(fd);
    close(other);
}


/*
 * One publishes and looks at the flag while the other sets the flag and looks
 * at the ring: one of them must see the other.  They start each round
 * together, a little apart, differently each time.
 */

struct meeting {
    _Alignas(64) _Atomic uint32_t  flag;
    _Alignas(64) _Atomic uint64_t  tail;
    _Alignas(64) _Atomic uint32_t  round;
    _Alignas(64) _Atomic uint32_t  done;
    _Atomic uint32_t               due;
};


static void
wait_for(_Atomic uint32_t *word, uint32_t value)
{
    int  i;

    for (i = 0; *word != value; i++) {
        if (i > 10000) {
            sched_yield();                      /* the only processor? */
        }
    }
}


static void
dally(uint32_t n)
{
    volatile uint32_t  i;

    for (i = 0; i < n; i++) { /* void */ }
}


static void
publisher(struct meeting *m)
{
    uint32_t  n;

    for (n = 1; n <= TRIPS; n++) {
        wait_for(&m->round, n);
        dally(n % 37);

        atomic_store_explicit(&m->tail, n, memory_order_release);
        m->due = (uint32_t) zone_wake_due(&m->flag);
        m->done = n;
    }
}


static void
test_meeting(void)
{
    int              lost, slept, seen;
    pid_t            pid;
    uint32_t         n;
    struct meeting  *m;

    m = mmap(NULL, sizeof(*m), PROT_READ|PROT_WRITE,
             MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    must(m != MAP_FAILED);

    pid = tap_fork();

    if (pid == 0) {
        publisher(m);
        _exit(0);
    }

    lost = 0;
    slept = 0;

    for (n = 1; n <= TRIPS; n++) {
        m->flag = 0;
        m->round = n;
        dally(n % 211);

        zone_sleep_arm(&m->flag);
        seen = atomic_load_explicit(&m->tail, memory_order_acquire) == n;

        wait_for(&m->done, n);
        slept += !seen;
        lost += !seen && !m->due;
    }

    is(tap_wait(pid), 0, "%d meetings, %d times to sleep", TRIPS, slept);
    is(lost, 0, "and each time a bell was due");
}


/*
 * nginx and offloadd in small: each sleeps when it has nothing to do, and is
 * woken by the other's publishing.
 */

struct end {
    struct zone      *zone;
    int               fd;                       /* where it sleeps */
    int               ring;
    struct zone_bell  bell;                     /* the other's */
    uint64_t          sleeps;
};


/* The worker's part: a completion for each record.  0, or what went wrong. */

static int
answer(struct end *a)
{
    int                     rc;
    uint64_t                n;
    struct zone_error       why;
    struct zone_record     *rec;
    struct zone_consumer    c;
    struct zone_completion  done;

    if (zone_consumer_init(&c, a->zone, 0, &why) == -1) {
        return 1;
    }

    for (n = 0; n < TRIPS; /* void */ ) {
        rc = zone_sq_peek(&c, &rec, &why);

        if (rc == 0) {
            zone_sleep_arm(&a->zone->worker->sleeping);
            rc = zone_sq_peek(&c, &rec, &why);

            if (rc == 0) {
                if (!rung(a->fd, TIMEOUT)) {
                    return 2;
                }

                zone_wake_drain(a->fd);
                continue;
            }

            zone_sleep_disarm(&a->zone->worker->sleeping);
        }

        if (rc == -1 || rec->token != n) {
            return 3;
        }

        memset(&done, 0, sizeof(done));
        done.type = rec->type;
        done.token = n++;
        zone_sq_release(&c);

        if (zone_cq_post(a->zone, 0, &done) == -1) {
            return 4;
        }

        if (zone_wake_due(&zone_lane(a->zone, 0)->cq_sleeping)) {
            zone_bell_ring(a->ring, &a->bell);
        }
    }

    return 0;
}


/* nginx's: one record, then wait for its completion. */

static int
ask(struct end *a)
{
    int                     rc;
    uint64_t                n;
    struct zone_lane       *lane;
    struct zone_error       why;
    struct zone_record     *rec;
    struct zone_producer    p;
    struct zone_completion  done;

    lane = zone_lane(a->zone, 0);

    if (zone_producer_init(&p, a->zone, 0, &why) == -1) {
        return 1;
    }

    for (n = 0; n < TRIPS; n++) {
        rec = zone_sq_reserve(&p, ZONE_RECORD_CANCEL, 0);

        if (rec == NULL) {
            return 2;
        }

        rec->token = n;
        zone_sq_publish(&p);

        if (zone_wake_due(&a->zone->worker->sleeping)) {
            zone_bell_ring(a->ring, &a->bell);
        }

        while ((rc = zone_cq_pop(a->zone, 0, &done)) == 0) {
            zone_sleep_arm(&lane->cq_sleeping);
            rc = zone_cq_pop(a->zone, 0, &done);

            if (rc != 0) {
                zone_sleep_disarm(&lane->cq_sleeping);
                break;
            }

            a->sleeps++;

            if (!rung(a->fd, TIMEOUT)) {
                return 3;
            }

            zone_wake_drain(a->fd);
        }

        if (rc == -1 || done.token != n) {
            return 4;
        }
    }

    return 0;
}


static void
test_edge(void)
{
    int          status;
    pid_t        pid;
    struct end   nginx, worker;
    struct zone  z;

    unit_zone(&z, "zone", 1);
    memset(&nginx, 0, sizeof(nginx));

    nginx.zone = &z;
    nginx.ring = zone_bell_socket();
    worker = nginx;

    nginx.fd = zone_wake_bind(tap_file(ZONE_FILE_WORKER ".n"), &e);
    worker.fd = zone_wake_bind(tap_file(ZONE_FILE_WORKER), &e);
    must(nginx.fd != -1 && worker.fd != -1);
    must(zone_bell_init(&nginx.bell, tap_file(ZONE_FILE_WORKER)) == 0);
    must(zone_bell_init(&worker.bell, tap_file(ZONE_FILE_WORKER ".n")) == 0);

    pid = tap_fork();

    if (pid == 0) {
        _exit(answer(&worker));
    }

    is(ask(&nginx), 0, "%d round trips, no wake-up lost by nginx", TRIPS);
    status = tap_wait(pid);
    is(status, 0, "nor by offloadd");
    ok(nginx.sleeps > 0, "nginx slept %ju times", (uintmax_t) nginx.sleeps);
    is(unit_check(&z, 1), 0, "no faults");
}


int
main(void)
{
    tap_begin();

    test_bells();
    test_meeting();
    test_edge();

    return tap_end();
}
