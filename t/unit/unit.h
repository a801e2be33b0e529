/* Zones, jobs and records for the tests of src/zone. */

#ifndef OFFLOAD_UNIT_H
#define OFFLOAD_UNIT_H

#include "tap.h"
#include "zone.h"


#define UNIT_SLOTS  64
#define UNIT_LANE   (4096 + 8192 + 196608 + 262144)
#define UNIT_SIZE   (ZONE_HEADER_SIZE + UNIT_LANE)            /* one lane */


/* A zone of `lanes` lanes with 64 slots and a ring of 256 KB each. */

static inline void
unit_zone(struct zone *z, const char *name, uint32_t lanes)
{
    struct zone_error     e;
    struct zone_geometry  g;

    memset(&g, 0, sizeof(g));

    g.size = ZONE_HEADER_SIZE + (uint64_t) lanes * UNIT_LANE;
    g.lanes = lanes;
    g.slots = UNIT_SLOTS;

    if (zone_create(tap_file(name), &g, (uid_t) -1, (gid_t) -1, &e) == -1
        || zone_open(z, tap_file(name), &e) == -1)
    {
        tap_bail(e.text, __FILE__, __LINE__);
    }
}


static inline void
unit_job(struct zone_job *job, uint32_t lane, uint32_t slot, uint64_t n)
{
    memset(job, 0, sizeof(*job));

    job->id[0] = (uint8_t) lane;
    job->id[1] = (uint8_t) (slot >> 16);
    job->id[2] = (uint8_t) (slot >> 8);
    job->id[3] = (uint8_t) slot;
    memcpy(job->id + 8, &n, sizeof(n));

    job->created_ms = n;
    job->timeout_s = 1;
}


/* Bytes that depend on n and their place. */

static inline void
unit_pattern(uint8_t *p, size_t len, uint64_t n)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        p[i] = (uint8_t) (n * 31 + i * 7 + (i >> 8));
    }
}


static inline int
unit_pattern_ok(const uint8_t *p, size_t len, uint64_t n)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (p[i] != (uint8_t) (n * 31 + i * 7 + (i >> 8))) {
            return 0;
        }
    }

    return 1;
}


/*
 * What nginx does for a job: take a slot, fill it, write the record, publish.
 * Returns the slot, or -1 when there is no room.
 */

static inline int64_t
unit_submit(struct zone_producer *p, uint64_t n, size_t payload)
{
    int64_t              slot;
    struct zone_job      job;
    struct zone_record  *rec;

    slot = zone_slot_find(p);

    if (slot == -1 || !zone_sq_room(p, payload)) {
        return -1;
    }

    unit_job(&job, p->index, (uint32_t) slot, n);
    zone_slot_fill(p, (uint32_t) slot, &job);

    rec = zone_sq_reserve(p, ZONE_RECORD_JOB, payload);

    if (rec == NULL) {
        zone_slot_undo(p, (uint32_t) slot);
        return -1;
    }

    rec->slot = (uint32_t) slot;
    rec->token = n;
    rec->created_ms = n;
    memcpy(rec->id, job.id, ZONE_ID_SIZE);
    unit_pattern(zone_record_payload(rec), payload, n);

    zone_sq_publish(p);

    return slot;
}


/* zone_check() with what it finds shown, and the texts kept. */

static char  unit_found[16384];

static inline void
unit_report(void *ctx, const char *text)
{
    size_t  n;

    n = strlen(unit_found);
    snprintf(unit_found + n, sizeof(unit_found) - n, "%s; ", text);

    if (ctx != NULL) {
        tap_say("%s", text);
    }
}


static inline int
unit_check(struct zone *z, int show)
{
    unit_found[0] = '\0';

    return zone_check(z, unit_report, show ? z : NULL);
}

#endif /* OFFLOAD_UNIT_H */
