/*
 * Named places to die at, for tests: zone_failpoint.c.  Compiled in only
 * with -DOFFLOAD_FAILPOINTS; then the environment's OFFLOAD_FAILPOINT=name
 * (or name:N, the Nth time it is passed) makes the process SIGKILL itself;
 * name:Ns makes it SIGSTOP itself.
 *
 * ZONE_MUTANT(name) is 0, and 1 in that build under OFFLOAD_MUTANT=name:
 * what stands under !ZONE_MUTANT(name) is left out then, to show that the
 * tests notice.
 */

#ifndef OFFLOAD_ZONE_FAILPOINT_H
#define OFFLOAD_ZONE_FAILPOINT_H

#ifdef OFFLOAD_FAILPOINTS
void zone_failpoint(const char *name);
int zone_mutant(const char *name);
#define ZONE_FAILPOINT(name)  zone_failpoint(name)
#define ZONE_MUTANT(name)     zone_mutant(name)
#else
#define ZONE_FAILPOINT(name)  ((void) 0)
#define ZONE_MUTANT(name)     0
#endif

#endif /* OFFLOAD_ZONE_FAILPOINT_H */
