/*
 * Named places to die at, named steps to leave out.  Tests only: without
 * -DOFFLOAD_FAILPOINTS this file is empty and the places cost nothing.
 *
 *      OFFLOAD_FAILPOINT=name      the first time it is passed
 *      OFFLOAD_FAILPOINT=name:N    the Nth time
 *      OFFLOAD_FAILPOINT=name:Ns   be stopped there (SIGSTOP), not killed
 *
 *      OFFLOAD_MUTANT=name[,name]  leave out the steps of these names
 *
 * SIGKILL, so that nothing of the process runs after it: no handler, no
 * atexit(), no flush.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zone.h"


#ifdef OFFLOAD_FAILPOINTS

void
zone_failpoint(const char *name)
{
    int                           signo;
    char                         *end;
    size_t                        n;
    const char                   *want;
    unsigned long                 at;
    static _Atomic unsigned long  passed;

    want = getenv("OFFLOAD_FAILPOINT");
    n = strlen(name);

    if (want == NULL || strncmp(want, name, n) != 0) {
        return;
    }

    signo = SIGKILL;

    if (want[n] == ':') {
        at = strtoul(want + n + 1, &end, 10);
        signo = *end == 's' ? SIGSTOP : SIGKILL;

    } else if (want[n] == '\0') {
        at = 1;

    } else {
        return;                                 /* a longer name */
    }

    if (atomic_fetch_add(&passed, 1) + 1 == at) {
        raise(signo);                           /* this very thread */
    }
}


int
zone_mutant(const char *name)
{
    size_t       n;
    const char  *want;

    want = getenv("OFFLOAD_MUTANT");
    n = strlen(name);

    for ( /* void */ ; want != NULL; want = strchr(want, ',')) {
        want += *want == ',';

        if (strncmp(want, name, n) == 0 && strchr(",", want[n]) != NULL) {
            return 1;
        }
    }

    return 0;
}

#else

typedef int  zone_failpoint_none;               /* C wants a declaration */

#endif
