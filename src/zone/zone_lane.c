/*
 * Putting a lane right: what a new owner does first, under the lane's lock,
 * while offloadd may be at work on it.  It writes nginx's half of the lane
 * and slots that are nginx's, nothing else, and may be killed itself at any
 * line: each step can be done again.
 *
 * What a killed owner can have left:
 *      - a slot it filled, for a record it did not publish: freed here;
 *      - a slot whose filling stopped in the middle (FREE, version odd);
 *      - slots_taken and accepted one short: counted anew;
 *      - completions nobody waits for: dropped.
 * The SQ needs no repair: what is not published does not exist.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zone_internal.h"


/* A count takes under a millisecond and is disturbed by each free. */
#define ZONE_LANE_TRIES  64


/*
 * Marks the slots that a record in the ring has a claim on.  The id decides:
 * a record that offloadd is done with stays in the ring until the head moves,
 * and its slot may long hold another job.
 */

static int
zone_lane_walk(struct zone *z, uint32_t lane, uint64_t head, uint64_t tail,
    uint8_t *claimed, struct zone_repair *r, struct zone_error *e)
{
    uint8_t            *sq;
    struct zone_slot   *s;
    struct zone_record  rec;

    sq = zone_lane_sq(z, lane);

    while (head != tail) {
        memcpy(&rec, sq + (head & (z->geo.sq_size - 1)), sizeof(rec));

        if (zone_record_check(z, &rec, head, tail - head, lane, e) == -1) {
            return -1;
        }

        head += rec.size;

        if (rec.type == ZONE_RECORD_PAD) {
            continue;
        }

        r->pending++;

        if (rec.type != ZONE_RECORD_JOB) {
            continue;
        }

        s = zone_slot(z, lane, rec.slot);

        if (ZONE_MUTANT("repair.by-id")
            || memcmp(s->job.id, rec.id, ZONE_ID_SIZE) == 0)
        {
            claimed[rec.slot / 8] |= (uint8_t) (1u << rec.slot % 8);
        }
    }

    return 0;
}


static void
zone_lane_free_slots(struct zone *z, uint32_t lane, const uint8_t *claimed,
    struct zone_repair *r)
{
    uint32_t           i, state, version;
    struct zone_slot  *s;

    for (i = 0; i < z->geo.slots; i++) {
        s = zone_slot(z, lane, i);
        state = zone_load_acquire(&s->state);

        if (state == ZONE_SLOT_SUBMITTED
            && !(claimed[i / 8] & (1u << i % 8))
            && !ZONE_MUTANT("repair.undo"))
        {
            zone_store_release(&s->state, ZONE_SLOT_FREE);
            state = ZONE_SLOT_FREE;
            r->undone++;

            ZONE_FAILPOINT("lane.repair.undone");
        }

        if (state == ZONE_SLOT_FREE) {
            version = zone_load(&s->version);

            if ((version & 1) && !ZONE_MUTANT("repair.version")) {
                zone_store(&s->version, version + 1);
            }
        }
    }
}


/*
 * slots_taken such that slots_taken - slots_freed is the number of slots not
 * FREE.  offloadd may free some meanwhile, in three steps (zone_slot_free()):
 * note, FREE, count.  A count is good if no step fell into it; a free that
 * stands between FREE and its count, of a living offloadd or a killed one,
 * will be counted yet and is taken for a used slot.
 *
 * Nothing fills slots here, so there is an end to the disturbance.  Should it
 * not come soon, a number that is too high is settled for: as many slots as
 * were freed in the time of one count then lie idle until the next repair.
 */

static void
zone_lane_count(struct zone *z, uint32_t lane)
{
    int                i;
    uint32_t           n, slot, version, state;
    uint64_t           used, freed, note;
    struct zone_lane  *l;

    l = zone_lane(z, lane);

    for (i = 0; i < ZONE_LANE_TRIES; i++) {
        freed = zone_load_acquire(&l->slots_freed);
        note = zone_load_acquire(&l->free_count);
        slot = zone_load(&l->free_slot);
        version = zone_load(&l->free_version);
        used = 0;

        for (n = 0; n < z->geo.slots; n++) {
            state = zone_load_acquire(&zone_slot(z, lane, n)->state);
            used += state != ZONE_SLOT_FREE;

            if (note == freed + 1 && n == slot
                && (state == ZONE_SLOT_FREE
                    || version != zone_load(&zone_slot(z, lane, n)->version)))
            {
                used++;
            }
        }

        zone_store(&l->slots_taken, freed + used);

        if (freed == zone_load_acquire(&l->slots_freed)
            && note == zone_load(&l->free_count))
        {
            return;
        }
    }
}


int
zone_lane_repair(struct zone *z, uint32_t lane, struct zone_repair *r,
    struct zone_error *e)
{
    int                rc;
    uint8_t           *claimed;
    uint64_t           head, tail, n;
    struct zone_lane  *l;

    memset(r, 0, sizeof(*r));

    if (lane >= z->geo.lanes) {
        return zone_fail(e, EINVAL, "there is no lane %u: the zone has %u",
                         lane, z->geo.lanes);
    }

    l = zone_lane(z, lane);

    /*
     * The head comes first: offloadd takes a record's slot out of SUBMITTED
     * before it moves the head over the record, so all slots that are
     * SUBMITTED after this load belong to records after this head.
     */

    head = zone_load_acquire(&l->sq_head);
    tail = zone_load(&l->sq_tail);

    if (zone_sq_check(head, tail, z->geo.sq_size, lane, e) == -1) {
        return -1;
    }

    claimed = calloc(1, z->geo.slots / 8 + 1);

    if (claimed == NULL) {
        return zone_fail(e, ENOMEM, "lane %u: no memory for its repair", lane);
    }

    rc = zone_lane_walk(z, lane, head, tail, claimed, r, e);

    if (rc == 0) {
        ZONE_FAILPOINT("lane.repair.walked");
        zone_lane_free_slots(z, lane, claimed, r);
    }

    free(claimed);

    if (rc == -1) {
        return -1;
    }

    ZONE_FAILPOINT("lane.repair.freed");

    if (!ZONE_MUTANT("repair.count")) {
        zone_lane_count(z, lane);
    }

    ZONE_FAILPOINT("lane.repair.counted");

    if (zone_load(&l->publish_tail) == tail
        && !ZONE_MUTANT("repair.accepted"))
    {
        zone_store(&l->accepted, zone_load(&l->publish_accepted));
    }

    zone_store(&l->cq_sleeping, 0);

    n = zone_load_acquire(&l->cq_tail);
    r->completions = n - zone_load(&l->cq_head);

    if (!ZONE_MUTANT("repair.answers")) {
        zone_store_release(&l->cq_head, n);
    }

    ZONE_FAILPOINT("lane.repair.dropped");

    zone_store(&l->owner_pid, (uint32_t) getpid());

    ZONE_FAILPOINT("lane.repair.done");

    return 0;
}
