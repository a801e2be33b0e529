/*
 * The zone's file: how its size is divided, what makes it acceptable, how it
 * is mapped.  Any process; it changes nothing of the file, so a kill leaves
 * nothing behind.
 *
 * The header is read with pread() and compared with what zone_geometry() says
 * must be in it.  From then on only the private copy in struct zone is used,
 * so nobody who scribbles over the header can lead a reader out of the
 * mapping.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "zone_internal.h"


#define ZONE_SIZE_MAX    (1ull << 46)
#define ZONE_CQ_SIZE     (ZONE_CQ_ENTRIES * sizeof(struct zone_completion))

ZONE_ASSERT(ZONE_CQ_SIZE % ZONE_PAGE == 0);
ZONE_ASSERT((ZONE_CQ_ENTRIES & (ZONE_CQ_ENTRIES - 1)) == 0);
ZONE_ASSERT(ZONE_WORKER_OFFSET >= sizeof(struct zone_header));
ZONE_ASSERT(ZONE_WORKER_OFFSET + sizeof(struct zone_worker)
            <= ZONE_HEADER_SIZE);


int
zone_fail(struct zone_error *e, int err, const char *fmt, ...)
{
    va_list  args;

    if (e != NULL) {
        e->err = err;

        va_start(args, fmt);
        vsnprintf(e->text, sizeof(e->text), fmt, args);
        va_end(args);
    }

    return -1;
}


/* What `slots` leave to the SQ of a lane of `budget` bytes; 0: too little. */

static uint64_t
zone_sq_fits(uint64_t budget, uint64_t slots_size)
{
    uint64_t  sq, left, used;

    used = ZONE_LANE_HEADER_SIZE + zone_align(slots_size, ZONE_PAGE)
           + ZONE_CQ_SIZE;

    if (budget < used + ZONE_SQ_MIN) {
        return 0;
    }

    left = budget - used;
    sq = ZONE_SQ_MIN;

    while (sq * 2 <= left && sq < ZONE_SQ_MAX) {
        sq *= 2;
    }

    return sq;
}


/*
 * An eighth of the lane for the slots at least, then whatever the SQ cannot
 * use.  The result is an explicit number: with it zone_sq_fits() must come to
 * the same SQ again, or a file made so would be refused when it is opened.
 */

static uint32_t
zone_default_slots(uint64_t budget)
{
    uint64_t  sq, slots;

    sq = zone_sq_fits(budget, budget / 8);

    if (sq == 0) {
        return 0;
    }

    slots = (budget - ZONE_LANE_HEADER_SIZE - ZONE_CQ_SIZE - sq)
            / sizeof(struct zone_slot);

    return slots < ZONE_SLOTS_DEFAULT ? (uint32_t) slots : ZONE_SLOTS_DEFAULT;
}


/* The smallest budget of a lane; slots == 0: with the default's share. */

static uint64_t
zone_budget_min(uint32_t slots)
{
    uint64_t  budget;

    budget = ZONE_LANE_HEADER_SIZE + ZONE_CQ_SIZE + ZONE_SQ_MIN
             + zone_align((uint64_t) slots * sizeof(struct zone_slot),
                          ZONE_PAGE);

    while (slots == 0 && zone_default_slots(budget) == 0) {
        budget += ZONE_PAGE;
    }

    return budget;
}


int
zone_geometry(struct zone_geometry *g, struct zone_error *e)
{
    uint32_t  slots;
    uint64_t  budget;

    if (g->lanes < 1 || g->lanes > ZONE_LANES_MAX) {
        return zone_fail(e, 0, "%u lanes are not possible: 1 to %u are",
                         g->lanes, ZONE_LANES_MAX);
    }

    if (g->slots > ZONE_SLOTS_MAX) {
        return zone_fail(e, 0, "%u slots per lane are not possible: 1 to %u "
                         "are", g->slots, ZONE_SLOTS_MAX);
    }

    if (g->size > ZONE_SIZE_MAX) {
        return zone_fail(e, 0, "zone size %ju is too large: %ju at most",
                         (uintmax_t) g->size, (uintmax_t) ZONE_SIZE_MAX);
    }

    budget = g->size < ZONE_HEADER_SIZE
             ? 0
             : (g->size - ZONE_HEADER_SIZE) / g->lanes & ~(ZONE_PAGE - 1ull);

    slots = g->slots ? g->slots : zone_default_slots(budget);

    g->sq_size = slots == 0
                 ? 0
                 : zone_sq_fits(budget, (uint64_t) slots
                                        * sizeof(struct zone_slot));

    if (g->sq_size == 0) {
        budget = ZONE_HEADER_SIZE + g->lanes * zone_budget_min(g->slots);

        if (g->slots) {
            return zone_fail(e, 0, "zone size %ju is too small for %u lanes "
                             "of %u slots: at least %ju is needed",
                             (uintmax_t) g->size, g->lanes, g->slots,
                             (uintmax_t) budget);
        }

        return zone_fail(e, 0, "zone size %ju is too small for %u lanes: at "
                         "least %ju is needed", (uintmax_t) g->size, g->lanes,
                         (uintmax_t) budget);
    }

    g->slots = slots;

    return 0;
}


int
zone_header_init(struct zone_header *h, const struct zone_geometry *wanted,
    struct zone_error *e)
{
    struct zone_geometry  g;

    g = *wanted;

    if (zone_geometry(&g, e) == -1) {
        return -1;
    }

    memset(h, 0, sizeof(*h));
    memcpy(h->magic, ZONE_MAGIC, sizeof(h->magic));

    h->layout = ZONE_LAYOUT;
    h->header_size = ZONE_HEADER_SIZE;
    h->size = g.size;
    h->lanes = g.lanes;
    h->slots = g.slots;
    h->slot_size = sizeof(struct zone_slot);
    h->cq_entries = ZONE_CQ_ENTRIES;
    h->sq_size = g.sq_size;
    h->lane_offset = ZONE_HEADER_SIZE;
    h->slots_offset = ZONE_LANE_HEADER_SIZE;
    h->cq_offset = h->slots_offset
                   + zone_align((uint64_t) g.slots * sizeof(struct zone_slot),
                                ZONE_PAGE);
    h->sq_offset = h->cq_offset + ZONE_CQ_SIZE;
    h->lane_stride = h->sq_offset + h->sq_size;

    return 0;
}


/* Opening */

static int
zone_wrong(struct zone_error *e, const char *path, const char *field,
    uint64_t found, uint64_t expected)
{
    return zone_fail(e, EINVAL, "zone file \"%s\" is refused: %s is %ju "
                     "instead of %ju", path, field, (uintmax_t) found,
                     (uintmax_t) expected);
}


/* Is this a header of a whole file of this layout, whatever its geometry? */

static int
zone_header_kind(const char *path, const struct zone_header *h,
    struct zone_error *e)
{
    uint32_t  ready;
    uint64_t  magic;

    if (memcmp(h->magic, ZONE_MAGIC, sizeof(h->magic)) != 0) {
        memcpy(&magic, h->magic, sizeof(magic));
        return zone_fail(e, EINVAL, "zone file \"%s\" is refused: its magic is "
                         "0x%016jx instead of \"" ZONE_MAGIC "\"", path,
                         (uintmax_t) magic);
    }

    if (h->layout != ZONE_LAYOUT) {
        return zone_wrong(e, path, "layout", h->layout, ZONE_LAYOUT);
    }

    ready = zone_load(&h->ready);

    if (ready != ZONE_READY) {
        return zone_fail(e, EINVAL, "zone file \"%s\" is refused: it is not "
                         "ready (0x%08x instead of 0x%08x): its making was "
                         "not finished", path, ready, ZONE_READY);
    }

    return 0;
}


static int
zone_header_check(const char *path, const struct zone_header *h,
    uint64_t file_size, struct zone_error *e)
{
    struct zone_error     why;
    struct zone_header    w;
    struct zone_geometry  g;

    if (zone_header_kind(path, h, e) == -1) {
        return -1;
    }

    if (h->size != file_size) {
        return zone_fail(e, EINVAL, "zone file \"%s\" is refused: its size is "
                         "%ju bytes, its header says %ju", path,
                         (uintmax_t) file_size, (uintmax_t) h->size);
    }

    if (h->slots == 0) {
        return zone_fail(e, EINVAL, "zone file \"%s\" is refused: slots is 0 "
                         "instead of 1 or more", path);
    }

    g.size = h->size;
    g.lanes = h->lanes;
    g.slots = h->slots;

    if (zone_header_init(&w, &g, &why) == -1) {
        return zone_fail(e, EINVAL, "zone file \"%s\" is refused: %.200s", path,
                         why.text);
    }

#define zone_expect(field)                                                    \
    if (h->field != w.field) {                                                \
        return zone_wrong(e, path, #field, h->field, w.field);                \
    }

    zone_expect(header_size);
    zone_expect(slot_size);
    zone_expect(cq_entries);
    zone_expect(sq_size);
    zone_expect(lane_offset);
    zone_expect(lane_stride);
    zone_expect(slots_offset);
    zone_expect(cq_offset);
    zone_expect(sq_offset);

#undef zone_expect

    return 0;
}


/* Opens, reads and checks; the descriptor, or -1. */

static int
zone_file_open(const char *path, int flags, struct zone_header *h,
    struct stat *st, struct zone_error *e)
{
    int      fd, err;
    ssize_t  n;

    memset(h, 0, sizeof(*h));

    fd = open(path, flags|O_CLOEXEC|O_NOFOLLOW|O_NONBLOCK|O_NOCTTY);

    if (fd == -1) {
        err = errno;

        if (err == ELOOP) {
            return zone_fail(e, err, "zone file \"%s\" is refused: it is a "
                             "symbolic link instead of a regular file", path);
        }

        if (err == EISDIR || err == ENXIO) {
            return zone_fail(e, err, "zone file \"%s\" is refused: it is not "
                             "a regular file", path);
        }

        return zone_fail(e, err, "cannot open zone file \"%s\": %s", path,
                         strerror(err));
    }

    if (fstat(fd, st) == -1) {
        err = errno;
        zone_fail(e, err, "fstat(\"%s\") failed: %s", path, strerror(err));
        goto failed;
    }

    if (!S_ISREG(st->st_mode)) {
        zone_fail(e, EINVAL, "zone file \"%s\" is refused: it is not a "
                  "regular file", path);
        goto failed;
    }

    do {
        n = pread(fd, h, sizeof(*h), 0);
    } while (n == -1 && errno == EINTR);

    if (n != (ssize_t) sizeof(*h)) {
        err = n == -1 ? errno : EINVAL;
        zone_fail(e, err, "zone file \"%s\" is refused: its header could not "
                  "be read: %s", path,
                  n == -1 ? strerror(err) : "the file is too short");
        goto failed;
    }

    if (zone_header_check(path, h, (uint64_t) st->st_size, e) == 0) {
        return fd;
    }

failed:

    close(fd);

    return -1;
}


int
zone_probe(const char *path, struct zone_geometry *g, struct zone_error *e)
{
    int                 fd;
    struct stat         st;
    struct zone_header  h;

    fd = zone_file_open(path, O_RDONLY, &h, &st, e);

    if (fd == -1) {
        return -1;
    }

    close(fd);

    g->size = h.size;
    g->lanes = h.lanes;
    g->slots = h.slots;
    g->sq_size = h.sq_size;

    return 0;
}


int
zone_open(struct zone *z, const char *path, struct zone_error *e)
{
    int          fd, err;
    void        *base;
    struct stat  st;

    memset(z, 0, sizeof(*z));

    fd = zone_file_open(path, O_RDWR, &z->geo, &st, e);

    if (fd == -1) {
        return -1;
    }

    base = mmap(NULL, z->geo.size, PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);

    err = errno;
    close(fd);

    if (base == MAP_FAILED) {
        return zone_fail(e, err, "cannot map %ju bytes of zone file \"%s\": %s",
                         (uintmax_t) z->geo.size, path, strerror(err));
    }

    if (zone_guard_add(base, z->geo.size) == -1) {
        munmap(base, z->geo.size);
        return zone_fail(e, ENFILE, "cannot map zone file \"%s\": too many "
                         "zones are mapped by this process", path);
    }

    z->base = base;
    z->size = z->geo.size;
    z->worker = (struct zone_worker *) (z->base + ZONE_WORKER_OFFSET);
    z->dev = st.st_dev;
    z->ino = st.st_ino;

    return 0;
}


void
zone_close(struct zone *z)
{
    if (z->base == NULL) {
        return;
    }

    zone_guard_remove(z->base);
    munmap(z->base, z->size);

    z->base = NULL;
    z->worker = NULL;
    z->size = 0;
}


int
zone_is_current(const struct zone *z, const char *path)
{
    struct stat  st;

    return lstat(path, &st) == 0
           && st.st_dev == z->dev
           && st.st_ino == z->ino
           && (uint64_t) st.st_size == z->size
           && !zone_broken(z);
}
