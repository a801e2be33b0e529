/*
 * Named places to die at, named steps to leave out.  Tests only: without
 * -DOFFLOAD_FAILPOINTS this file is empty and the places cost nothing.
 *
 *      OFFLOAD_FAILPOINT=name      the first time it is passed
 *      OFFLOAD_FAILPOINT=name:N    the Nth time
 *      OFFLOAD_FAILPOINT=name:Ns   be stopped there (SIGSTOP), not killed
 *
 * Several are separated by commas, each of which counts for itself.
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

#define ZONE_FAILPOINTS_MAX  8


/* One item of the list: 0, or the signal that is due. */

static int
zone_failpoint_due(const char *want, const char *name,
    _Atomic unsigned long *passed)
{
    char           *end;
    size_t          n;
    unsigned long   at;

    n = strlen(name);

    if (strncmp(want, name, n) != 0) {
        return 0;
    }

    at = 1;
    end = (char *) want + n;

    if (*end == ':') {
        at = strtoul(end + 1, &end, 10);

    } else if (*end != '\0' && *end != ',') {
        return 0;                               /* a longer name */
    }

    if (atomic_fetch_add(passed, 1) + 1 != at) {
        return 0;
    }

    return *end == 's' ? SIGSTOP : SIGKILL;
}


void
zone_failpoint(const char *name)
{
    int                           i, signo;
    const char                   *want;
    static _Atomic unsigned long  passed[ZONE_FAILPOINTS_MAX];

    want = getenv("OFFLOAD_FAILPOINT");

    for (i = 0; want != NULL && i < ZONE_FAILPOINTS_MAX; i++) {
        signo = zone_failpoint_due(want, name, &passed[i]);

        if (signo != 0) {
            raise(signo);                       /* this very thread */
        }

        want = strchr(want, ',');
        want = want != NULL ? want + 1 : NULL;
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
