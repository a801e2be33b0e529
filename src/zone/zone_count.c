/*
 * What a lane has counted, for those who add it up: nginx's workers and
 * offloadd, while its owner is at work or after it was killed.  Reads only.
 */

#include <string.h>

#include "zone_internal.h"


#define ZONE_COUNT_TRIES  64


/*
 * `accepted` follows the tail by one store, and a killed owner may have left
 * that out.  Its note says what the number is then; it is read the other way
 * round than zone_sq_publish() writes it, so that a note that leads to this
 * very tail is the one of this tail.
 */

int
zone_count(const struct zone *z, uint32_t lane, struct zone_counts *c)
{
    int                      i;
    uint64_t                 noted;
    const struct zone_lane  *l;

    memset(c, 0, sizeof(*c));

    if (lane >= z->geo.lanes) {
        return 0;
    }

    l = zone_lane(z, lane);

    for (i = 0; i < ZONE_COUNT_TRIES; i++) {
        c->head = zone_load_acquire(&l->sq_head);
        c->tail = zone_load_acquire(&l->sq_tail);

        noted = zone_load_acquire(&l->publish_accepted);
        c->accepted = zone_load_acquire(&l->publish_tail) == c->tail
                      ? noted : zone_load_acquire(&l->accepted);
        c->refused = zone_load(&l->refused);

        if (c->head == zone_load_acquire(&l->sq_head)
            && c->tail == zone_load_acquire(&l->sq_tail))
        {
            return 1;
        }
    }

    return 0;
}
