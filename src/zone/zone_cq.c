/*
 * The completion ring: offloadd writes, the lane's nginx worker reads.
 * Entries of one size, counters that only grow, each published by one store.
 *
 * A poster killed before its store has posted nothing; a reader killed before
 * its store leaves the entry to the next owner of the lane, whose repair
 * drops it together with all others: nobody waits for them any more.
 */

#include <string.h>

#include "zone_internal.h"


int
zone_cq_post(struct zone *z, uint32_t lane, const struct zone_completion *c)
{
    uint64_t           head, tail;
    struct zone_lane  *l;

    if (lane >= z->geo.lanes) {
        return -1;
    }

    l = zone_lane(z, lane);
    tail = zone_load(&l->cq_tail);
    head = zone_load_ordered(&l->cq_head, ZONE_CQ_HEAD_LOAD);

    if (tail - head >= ZONE_CQ_ENTRIES && !ZONE_MUTANT("answers.full")) {
        return -1;
    }

    memcpy(&zone_lane_cq(z, lane)[tail & (ZONE_CQ_ENTRIES - 1)], c,
           sizeof(*c));

    ZONE_FAILPOINT("cq.post.mid");

    zone_store_ordered(&l->cq_tail, tail + 1, ZONE_CQ_TAIL_STORE);

    ZONE_FAILPOINT("cq.post.done");

    return 0;
}


int
zone_cq_pop(struct zone *z, uint32_t lane, struct zone_completion *c)
{
    uint64_t           head, tail;
    struct zone_lane  *l;

    if (lane >= z->geo.lanes) {
        return -1;
    }

    l = zone_lane(z, lane);
    head = zone_load(&l->cq_head);
    tail = zone_load_ordered(&l->cq_tail, ZONE_CQ_TAIL_LOAD);

    if (tail == head) {
        return 0;
    }

    if (tail - head > ZONE_CQ_ENTRIES) {
        return -1;
    }

    memcpy(c, &zone_lane_cq(z, lane)[head & (ZONE_CQ_ENTRIES - 1)],
           sizeof(*c));

    if (c->type < ZONE_RECORD_JOB || c->type >= ZONE_RECORDS
        || c->result >= ZONE_RESULTS)
    {
        return -1;
    }

    ZONE_FAILPOINT("cq.pop.mid");

    zone_store_ordered(&l->cq_head, head + 1, ZONE_CQ_HEAD_STORE);

    return 1;
}
