/*
 * A zone's file cut short while it is mapped must not kill whoever looks at
 * it: that would be nginx.  And a SIGBUS that is none of the guard's business
 * must do what it did before.
 *
 * Each case is a child of its own, for some of them have to die.
 */

#include <fcntl.h>
#include <sys/mman.h>

#include "unit.h"


#ifndef __has_feature
#define __has_feature(x)  0
#endif

static struct zone_error  e;


static void
cut(const char *name, off_t size)
{
    must(truncate(tap_file(name), size) == 0);
}


/* A page of a file that has none. */

static volatile uint8_t *
hole(const char *name)
{
    int    fd;
    void  *p;

    fd = open(tap_file(name), O_RDWR|O_CREAT, 0600);
    must(fd != -1 && ftruncate(fd, 0) == 0);
    p = mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);
    must(p != MAP_FAILED);
    close(fd);

    return p;
}


static int
all_cut(void)
{
    struct zone  z;

    unit_zone(&z, "a", 1);

    if (zone_guard_install() != 0 || zone_broken(&z)) {
        return 1;
    }

    cut("a", 0);

    return !zone_broken(&z) || zone_lane(&z, 0)->sq_tail != 0
           || zone_is_current(&z, tap_file("a"));
}


static int
tail_cut(void)
{
    struct zone           z, other;
    struct zone_record   *rec;
    struct zone_producer  p;

    unit_zone(&z, "a", 1);
    unit_zone(&other, "b", 1);

    if (zone_guard_install() != 0 || zone_guard_install() != 0) {
        return 1;
    }

    must(zone_producer_init(&p, &z, 0, &e) == 0);
    cut("a", 4096 * 4);

    if (zone_broken(&z)) {
        return 2;                               /* not touched yet */
    }

    rec = zone_sq_reserve(&p, ZONE_RECORD_JOB, 1000);

    if (rec == NULL || !zone_broken(&z)) {
        return 3;
    }

    memset(zone_record_payload(rec), 1, 1000);
    zone_sq_publish(&p);
    zone_lane(&other, 0)->owner_pid = 1;

    return zone_broken(&other) || unit_check(&other, 1) != 0
           || unit_check(&z, 0) == 0;
}


/* Two zones, and each is guarded for as long as it is open. */

static int
reopened(void)
{
    int          i;
    struct zone  z;

    (void) zone_guard_install();

    for (i = 0; i < 200; i++) {
        unit_zone(&z, "a", 1);
        cut("a", 0);

        if (!zone_broken(&z)) {
            return 1;
        }

        zone_close(&z);
    }

    return 0;
}


static int
too_many(void)
{
    int          i;
    struct zone  z[65];

    unit_zone(&z[0], "a", 1);

    for (i = 1; i < 64; i++) {
        if (zone_open(&z[i], tap_file("a"), &e) == -1) {
            return 1;
        }
    }

    if (zone_open(&z[64], tap_file("a"), &e) != -1
        || strstr(e.text, "too many zones") == NULL)
    {
        return 2;
    }

    zone_close(&z[5]);

    return zone_open(&z[64], tap_file("a"), &e) == -1 ? 3 : 0;
}


static void
leave(int signo, siginfo_t *info, void *ctx)
{
    (void) ctx;

    _exit(signo == SIGBUS && info->si_addr != NULL ? 42 : 1);
}


static void
leave_plain(int signo)
{
    _exit(signo == SIGBUS ? 43 : 1);
}


static int
passed_on(void)
{
    struct zone       z;
    struct sigaction  sa;

    memset(&sa, 0, sizeof(sa));
    sa.sa_sigaction = leave;
    sa.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &sa, NULL);

    unit_zone(&z, "a", 1);
    (void) zone_guard_install();

    return hole("hole")[0];
}


static int
passed_on_plain(void)
{
    signal(SIGBUS, leave_plain);
    (void) zone_guard_install();

    return hole("hole")[0];
}


static int
closed(void)
{
    struct zone  z;
    uint8_t     *base;

    signal(SIGBUS, leave_plain);
    unit_zone(&z, "a", 1);
    (void) zone_guard_install();
    base = z.base;
    zone_close(&z);

    must(mmap(base, 4096, PROT_READ, MAP_SHARED|MAP_FIXED,
              open(tap_file("none"), O_RDWR|O_CREAT, 0600), 0)
         == (void *) base);

    return *(volatile uint8_t *) base;
}


static int
nobodys(void)
{
    signal(SIGBUS, SIG_DFL);
    (void) zone_guard_install();

    return hole("hole")[0];
}


static int
sent(void)
{
    signal(SIGBUS, SIG_DFL);
    (void) zone_guard_install();
    kill(getpid(), SIGBUS);

    return 0;
}


static int
sent_ignored(void)
{
    signal(SIGBUS, SIG_IGN);
    (void) zone_guard_install();
    kill(getpid(), SIGBUS);

    return 44;
}


static int
fault_ignored(void)
{
    signal(SIGBUS, SIG_IGN);
    (void) zone_guard_install();

    return hole("hole")[0];
}


static void
expect(int (*run)(void), int code, int signo, const char *name)
{
    int    status;
    pid_t  pid;

    pid = tap_fork();

    if (pid == 0) {
        _exit(run());
    }

    status = tap_wait(pid);

    ok(signo ? WIFSIGNALED(status) && WTERMSIG(status) == signo
             : WIFEXITED(status) && WEXITSTATUS(status) == code,
       "%s", name);

    if (WIFEXITED(status) ? signo || WEXITSTATUS(status) != code : !signo) {
        tap_say("status 0x%04x", status);
    }
}


int
main(void)
{
    tap_begin();

    expect(all_cut, 0, 0, "a file cut to nothing: broken, not dead");
    expect(tail_cut, 0, 0, "cut behind the header: broken once it is touched, "
           "and no other zone with it");
    expect(reopened, 0, 0, "200 zones one after the other");
    expect(too_many, 0, 0, "64 zones at a time, and no more");
    expect(passed_on, 42, 0, "another's fault goes to another's handler");
    expect(passed_on_plain, 43, 0, "also to one without siginfo");
    expect(closed, 43, 0, "so does one where a zone was until it was closed");
    expect(nobodys, 0, SIGBUS, "nobody's fault kills, as ever");
    expect(fault_ignored, 0, SIGBUS, "a fault cannot be ignored");
    expect(sent, 0, SIGBUS, "a SIGBUS that was sent kills");
    expect(sent_ignored, 44, 0, "unless it was ignored before");

    return tap_end();
}
