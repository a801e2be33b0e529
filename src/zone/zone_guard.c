/*
 * The guard against SIGBUS: what a process gets that touches a mapped page of
 * a file that somebody has cut short.  It is the only global state of the
 * zone's code: one handler and a small table of mappings per process.
 *
 * The handler runs in whichever thread touched the page.  It puts zero pages
 * under the whole mapping, so that the access is made again and succeeds.
 * Among what is zero then is the header's ready word, and that is how
 * zone_broken() knows: no flag, and no way to forget to look at one.
 *
 * What a process writes after that goes nowhere.  It is private memory: other
 * processes have their own guard and find out by themselves.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "zone_internal.h"


#define ZONE_GUARD_MAX  64


/* base: 0 is unused, 1 is being filled in */
struct zone_guard {
    _Atomic uintptr_t  base;
    _Atomic size_t     size;
};


static struct zone_guard  zone_guards[ZONE_GUARD_MAX];
static struct sigaction   zone_guard_next;
static _Atomic int        zone_guard_installed;


/* As if the guard were not there. */

static void
zone_guard_pass_on(int signo, siginfo_t *info, void *ctx)
{
    if (zone_guard_next.sa_flags & SA_SIGINFO) {
        zone_guard_next.sa_sigaction(signo, info, ctx);
        return;
    }

    if (zone_guard_next.sa_handler == SIG_IGN && info->si_code <= 0) {
        return;                                 /* somebody's kill() */
    }

    if (zone_guard_next.sa_handler != SIG_IGN
        && zone_guard_next.sa_handler != SIG_DFL)
    {
        zone_guard_next.sa_handler(signo);
        return;
    }

    /* A fault comes again at once on return; a signal sent does not. */

    signal(signo, SIG_DFL);

    if (info->si_code <= 0) {
        raise(signo);
    }
}


static void
zone_guard_handler(int signo, siginfo_t *info, void *ctx)
{
    int        i, err;
    void      *p;
    size_t     size;
    uintptr_t  base, addr;

    err = errno;
    addr = (uintptr_t) info->si_addr;

    for (i = 0; info->si_code > 0 && i < ZONE_GUARD_MAX; i++) {
        base = zone_load_acquire(&zone_guards[i].base);
        size = zone_load(&zone_guards[i].size);

        if (base <= 1 || addr < base || addr - base >= size) {
            continue;
        }

        p = mmap((void *) base, size, PROT_READ|PROT_WRITE,
                 MAP_FIXED|MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

        if (p != MAP_FAILED) {
            errno = err;
            return;
        }
    }

    zone_guard_pass_on(signo, info, ctx);
    errno = err;
}


int
zone_guard_install(void)
{
    struct sigaction  sa;

    if (atomic_exchange(&zone_guard_installed, 1)) {
        return 0;
    }

    memset(&sa, 0, sizeof(sa));

    sa.sa_sigaction = zone_guard_handler;
    sa.sa_flags = SA_SIGINFO|SA_ONSTACK|SA_RESTART;
    sigemptyset(&sa.sa_mask);

    /* The next handler must be known before ours can be called. */

    if (sigaction(SIGBUS, NULL, &zone_guard_next) == -1
        || sigaction(SIGBUS, &sa, NULL) == -1)
    {
        atomic_store(&zone_guard_installed, 0);
        return -1;
    }

    return 0;
}


int
zone_broken(const struct zone *z)
{
    return zone_load(&((struct zone_header *) z->base)->ready) != ZONE_READY;
}


int
zone_guard_add(void *base, size_t size)
{
    int        i;
    uintptr_t  unused;

    for (i = 0; i < ZONE_GUARD_MAX; i++) {
        unused = 0;

        if (atomic_compare_exchange_strong(&zone_guards[i].base, &unused, 1)) {
            zone_store(&zone_guards[i].size, size);
            zone_store_release(&zone_guards[i].base, (uintptr_t) base);
            return 0;
        }
    }

    return -1;
}


void
zone_guard_remove(void *base)
{
    int  i;

    for (i = 0; i < ZONE_GUARD_MAX; i++) {
        if (zone_load(&zone_guards[i].base) == (uintptr_t) base) {
            zone_store_release(&zone_guards[i].base, 0);
            return;
        }
    }
}
