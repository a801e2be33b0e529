/*
 * What the files of src/zone share among themselves.  Not an interface:
 * nothing outside this folder includes it.
 */

#ifndef OFFLOAD_ZONE_INTERNAL_H
#define OFFLOAD_ZONE_INTERNAL_H

#include "zone.h"


#define ZONE_PAGE             4096
#define ZONE_SLOTS_DEFAULT    65536             /* at most, when not told */
#define ZONE_SQ_ALIGN         64                /* of records and positions */

#define zone_align(n, a)      (((n) + (a) - 1) & ~((uint64_t) (a) - 1))

#define zone_load(p)          atomic_load_explicit(p, memory_order_relaxed)
#define zone_load_acquire(p)  atomic_load_explicit(p, memory_order_acquire)
#define zone_store(p, v)                                                      \
    atomic_store_explicit(p, v, memory_order_relaxed)
#define zone_store_release(p, v)                                              \
    atomic_store_explicit(p, v, memory_order_release)

/* Those that a test can weaken: see zone_order(). */

#define zone_load_ordered(p, name)                                            \
    atomic_load_explicit(p, zone_order(name, memory_order_acquire))
#define zone_store_ordered(p, v, name)                                        \
    atomic_store_explicit(p, v, zone_order(name, memory_order_release))

#define ZONE_JOB_WORDS        (sizeof(struct zone_job) / sizeof(uint64_t))

ZONE_ASSERT(sizeof(struct zone_job) % sizeof(uint64_t) == 0);
ZONE_ASSERT(sizeof(struct zone_record) <= ZONE_SQ_ALIGN);
ZONE_ASSERT(offsetof(struct zone_lane, publish_tail) == 48);
ZONE_ASSERT(offsetof(struct zone_lane, free_count) == 88);


/* Fills in *e (which may be NULL); always -1, to be returned. */
int zone_fail(struct zone_error *e, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* zone_file.c: all of a header that follows from a geometry */
int zone_header_init(struct zone_header *h, const struct zone_geometry *g,
    struct zone_error *e);

/* Where the rings of a lane are. */

static inline uint8_t *
zone_lane_sq(const struct zone *z, uint32_t lane)
{
    return (uint8_t *) zone_lane(z, lane) + z->geo.sq_offset;
}

static inline struct zone_completion *
zone_lane_cq(const struct zone *z, uint32_t lane)
{
    return (struct zone_completion *) ((uint8_t *) zone_lane(z, lane)
                                       + z->geo.cq_offset);
}


/* zone_sq.c: 0, or -1 and why these two cannot be a ring's positions */
int zone_sq_check(uint64_t head, uint64_t tail, uint64_t sq_size,
    uint32_t lane, struct zone_error *e);

/* zone_sq.c: the same for the record at `pos`, of which the ring holds
 * `left` more bytes; *rec is a private copy of its header. */
int zone_record_check(const struct zone *z, const struct zone_record *rec,
    uint64_t pos, uint64_t left, uint32_t lane, struct zone_error *e);

/* zone_guard.c: for zone_open() and zone_close() */
int zone_guard_add(void *base, size_t size);
void zone_guard_remove(void *base);

#endif /* OFFLOAD_ZONE_INTERNAL_H */
