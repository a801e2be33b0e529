/*
 * Names inside a zone's directory.  Touches its arguments only; any process,
 * any thread; nothing is left behind.
 */

#include <stdio.h>

#include "zone.h"


int
zone_path(char *buf, size_t size, const char *dir, const char *name)
{
    int  n;

    n = snprintf(buf, size, "%s/%s", dir, name);

    return (n < 0 || (size_t) n >= size) ? -1 : 0;
}


int
zone_lane_path(char *buf, size_t size, const char *dir, uint32_t lane)
{
    char  name[32];

    snprintf(name, sizeof(name), ZONE_LANE_FORMAT, lane);

    return zone_path(buf, size, dir, name);
}
