/*
 * What was taken from the rings, lane by lane, so that it can be held against
 * what nginx says it put in.  Written in the transaction that takes it.  A
 * record that is met again after a kill ends before the position written
 * then, and is not counted twice.  Store thread, or main before there is one.
 */

#include "offloadd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>


static struct store_ring *
rings_of(struct store_rings *row)
{
    return (struct store_ring *) (row + 1);
}


static size_t
rings_size(const struct store *s)
{
    return sizeof(struct store_rings)
           + s->daemon->zone.geo.lanes * sizeof(struct store_ring);
}


/*
 * A lane of a zone file this store knows nothing of: normally new and empty.
 * Else what has left the ring is elsewhere, and what is in it counts yet.
 */

static void
rings_start(struct store *s, uint32_t lane, struct store_ring *ring)
{
    uint64_t              waiting;
    struct zone_error     e;
    struct zone_counts    counts;
    struct zone_record   *rec;
    struct zone_consumer  c;

    while (!zone_count(&s->daemon->zone, lane, &counts)) { /* it goes on */ }

    c = s->lanes[lane].consumer;                /* a copy: it reads ahead */
    waiting = 0;

    if (!atomic_load(&s->lanes[lane].corrupt)) {
        while (c.pos < counts.tail && zone_sq_peek(&c, &rec, &e) == 1) {
            waiting += rec->type == ZONE_RECORD_JOB;
        }
    }

    ring->position = counts.head;
    ring->drained = counts.accepted - waiting;
}


static int
rings_known(struct store *s, struct engine_error *e)
{
    int  rc;

    rc = s->engine->get_rings(s->self, s->rings, rings_size(s), e);

    if (rc == 0
        && (s->rings->lanes != s->daemon->zone.geo.lanes
            || memcmp(s->rings->boot_id, s->daemon->zone.geo.boot_id,
                      sizeof(s->rings->boot_id)) != 0))
    {
        rc = ENGINE_NOT_FOUND;
    }

    return rc;
}


int
rings_init(struct store *s, struct engine_error *e)
{
    int                   rc;
    uint32_t              i;
    struct engine_turned  none = { 0, 0, 0, 0 };

    s->rings = calloc(1, rings_size(s));

    if (s->rings == NULL) {
        e->err = ENOMEM;
        (void) snprintf(e->text, sizeof(e->text), "no memory for %u lanes",
                        s->daemon->zone.geo.lanes);
        return -1;
    }

    if (s->engine->begin(s->self, e) != 0) {
        return -1;
    }

    rc = rings_known(s, e);

    if (rc == ENGINE_NOT_FOUND) {
        memset(s->rings, 0, rings_size(s));
        memcpy(s->rings->boot_id, s->daemon->zone.geo.boot_id,
               sizeof(s->rings->boot_id));
        s->rings->lanes = s->daemon->zone.geo.lanes;

        for (i = 0; i < s->rings->lanes; i++) {
            rings_start(s, i, &rings_of(s->rings)[i]);
        }

        rc = s->engine->put_rings(s->self, s->rings, rings_size(s), &none, e);
    }

    if (rc != 0) {
        s->engine->abort(s->self);
        return -1;
    }

    return s->engine->commit(s->self, e);
}


/* Where the record ends: it is in the ring, at most its size after the head. */

static uint64_t
rings_end(struct store *s, const struct drain_item *item)
{
    uint64_t               at, head;
    struct zone_consumer  *c = &s->lanes[item->lane].consumer;

    head = atomic_load_explicit(&c->lane->sq_head, memory_order_relaxed);
    at = (uint64_t) ((const uint8_t *) item->at - c->sq);

    return head + ((at - head) & (c->sq_size - 1)) + item->record.size;
}


/* Into the open transaction: the items it takes. */

int
rings_drained(struct store *s, struct engine_error *e)
{
    int                   rc;
    uint32_t              i, fresh;
    uint64_t              end;
    struct drain_item    *item;
    struct store_ring    *ring;
    struct engine_turned  turned = { 0, 0, 0, 0 };

    rc = s->nitems ? rings_known(s, e) : ENGINE_NOT_FOUND;

    if (rc != 0) {
        return rc == ENGINE_NOT_FOUND ? 0 : -1;
    }

    for (i = 0, fresh = 0; i < s->nitems; i++) {
        item = &s->items[i];
        ring = &rings_of(s->rings)[item->lane];

        if (item->record.type != ZONE_RECORD_JOB) {
            continue;
        }

        end = rings_end(s, item);

        if (end <= ring->position) {
            continue;
        }

        ring->position = end;
        ring->drained++;
        fresh++;

        turned.withdrawn += item->kind == DRAIN_WITHDRAWN;
        turned.rejected += item->kind == DRAIN_REJECT;
        turned.duplicates += item->kind == DRAIN_DUPLICATE;
        turned.limited += item->kind == DRAIN_LIMITED;
    }

    return fresh ? s->engine->put_rings(s->self, s->rings, rings_size(s),
                                        &turned, e)
                 : 0;
}
