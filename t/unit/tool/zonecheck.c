/*
 * zone_check() for tests in other languages: zonecheck <zone's file>.  A line
 * for each violation; exits 0 when there is none, 1 otherwise.  Writes
 * nothing to the file.
 */

#include <stdio.h>

#include "../../../src/zone/zone.h"


static void
report(void *ctx, const char *text)
{
    (void) ctx;

    puts(text);
}


int
main(int argc, char **argv)
{
    int                n;
    struct zone        z;
    struct zone_error  e;

    if (argc != 2) {
        fputs("usage: zonecheck file\n", stderr);
        return 1;
    }

    if (zone_open(&z, argv[1], &e) != 0) {
        puts(e.text);
        return 1;
    }

    n = zone_check(&z, report, NULL);
    zone_close(&z);

    return n != 0;
}
