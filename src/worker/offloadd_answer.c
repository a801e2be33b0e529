/*
 * Answers into the CQs, and the lanes' bells.  Store thread only, after the
 * commit that made the answer true.  A kill loses answers that were not
 * posted: who waits for one has a timeout, and the store has the truth.
 */

#include "offloadd.h"

#include <stdlib.h>


#define ANSWER_PENDING_MAX    65536
#define ANSWER_TRIES          300               /* some 30 s: nobody reads */


void
answer_post(struct store *s, uint32_t lane, const struct zone_completion *c)
{
    uint32_t              cap;
    struct answer  *p;

    if (lane >= s->daemon->zone.geo.lanes) {
        return;
    }

    if (zone_cq_post(&s->daemon->zone, lane, c) == 0) {
        s->lanes[lane].ring = 1;
        return;
    }

    if (s->npending == s->pending_cap) {
        cap = s->pending_cap ? s->pending_cap * 2 : 64;

        if (cap > ANSWER_PENDING_MAX) {
            return;                             /* who waits has a timeout */
        }

        p = realloc(s->pending, cap * sizeof(*p));
        if (p == NULL) {
            return;
        }

        s->pending = p;
        s->pending_cap = cap;
    }

    p = &s->pending[s->npending++];
    p->lane = lane;
    p->tries = 0;
    p->c = *c;
}


void
answer_retry(struct store *s)
{
    uint32_t              i, n;
    struct answer  *p;

    for (i = 0, n = 0; i < s->npending; i++) {
        p = &s->pending[i];

        if (zone_cq_post(&s->daemon->zone, p->lane, &p->c) == 0) {
            s->lanes[p->lane].ring = 1;

        } else if (++p->tries < ANSWER_TRIES) {
            s->pending[n++] = *p;
        }
    }

    s->npending = n;
    answer_bells(s);
}


void
answer_bells(struct store *s)
{
    uint32_t            i;
    struct drain_lane  *l;

    for (i = 0; i < s->daemon->zone.geo.lanes; i++) {
        l = &s->lanes[i];

        if (l->ring) {
            l->ring = 0;

            if (zone_wake_due(&l->consumer.lane->cq_sleeping)) {
                zone_bell_ring(s->bell, &l->bell);
            }
        }
    }
}
