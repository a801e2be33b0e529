/*
 * Prints what a zone says of itself, one "name value" a line, for the
 * benchmark.  Maps the file read-only and changes nothing; a file that is not
 * a zone of this layout is refused.
 */

#include <stdio.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "zone.h"


static int
figures_map(struct zone *z, const char *path)
{
    int          fd;
    void        *p;
    struct stat  st;

    fd = open(path, O_RDONLY|O_CLOEXEC);
    if (fd == -1 || fstat(fd, &st) == -1) {
        perror(path);
        return -1;
    }

    if (st.st_size < ZONE_HEADER_SIZE) {
        fprintf(stderr, "%s: %lld bytes, a zone has %d at least\n", path,
                (long long) st.st_size, ZONE_HEADER_SIZE);
        return -1;
    }

    p = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        perror(path);
        return -1;
    }

    z->base = p;
    z->size = st.st_size;
    z->worker = (struct zone_worker *) (z->base + ZONE_WORKER_OFFSET);
    memcpy(&z->geo, p, sizeof(z->geo));

    if (memcmp(z->geo.magic, ZONE_MAGIC, sizeof(z->geo.magic)) != 0
        || z->geo.layout != ZONE_LAYOUT
        || z->geo.lanes > ZONE_LANES_MAX
        || z->geo.lane_offset + z->geo.lanes * z->geo.lane_stride > z->size)
    {
        fprintf(stderr, "%s: not a zone of layout %d\n", path, ZONE_LAYOUT);
        return -1;
    }

    return 0;
}


int
main(int argc, char **argv)
{
    uint32_t           i;
    uint64_t           accepted, refused, ring, active;
    struct zone        z;
    struct zone_lane  *lane;

    if (argc != 2) {
        fprintf(stderr, "usage: figures <zone file>\n");
        return 2;
    }

    if (figures_map(&z, argv[1]) != 0) {
        return 1;
    }

    accepted = refused = ring = active = 0;

    for (i = 0; i < z.geo.lanes; i++) {
        lane = zone_lane(&z, i);

        accepted += lane->accepted;
        refused += lane->refused;
        ring += lane->sq_tail - lane->sq_head;
        active += lane->slots_taken - lane->slots_freed;
    }

    printf("lanes %u\n", z.geo.lanes);
    printf("slots %u\n", z.geo.slots);
    printf("sq_size %llu\n", (unsigned long long) z.geo.sq_size);
    printf("accepted %llu\n", (unsigned long long) accepted);
    printf("refused %llu\n", (unsigned long long) refused);
    printf("ring %llu\n", (unsigned long long) ring);
    printf("active %llu\n", (unsigned long long) active);
    printf("waiting %llu\n", (unsigned long long) z.worker->waiting);
    printf("running %llu\n", (unsigned long long) z.worker->running);
    printf("settled %llu\n", (unsigned long long) z.worker->settled);
    printf("commit_us %u\n", z.worker->commit_us);
    printf("worker %u\n", z.worker->pid);

    return 0;
}
