/*
 * The job table.  nginx fills a FREE slot of its own lane; from the moment the
 * record is published offloadd writes it, one thread at a time; anyone reads
 * it, without holding up either.  All frees of a lane are one thread's: they
 * share a note and a counter in the lane's header.
 *
 * A slot's content changes under its version (a seqlock): odd while it is
 * being written.  The job is copied as relaxed atomic words, so a reader that
 * comes too early reads nonsense and notices, but there is no data race.
 *
 *      writer                      reader
 *      version = odd               v = version (acquire), must be even
 *      fence (release)             state, job
 *      job, state                  fence (acquire)
 *      version = even (release)    version still v?
 *
 * A writer killed inside leaves the version odd, and readers are told to ask
 * the store.  The next writer starts from whatever it finds (version | 1).
 * FREE is stored last and outside of the version: it gives the slot away.
 */

#include <string.h>

#include "zone_internal.h"


/* A writer is inside for some 20 ns; who is still there then was stopped. */
#define ZONE_SLOT_TRIES  128

/* Slots looked at by one search: 10 us at worst, about what a request costs.
 * There are two at most. */
#define ZONE_SLOT_SEARCH 2048


#define zone_slot_words(s)  ((_Atomic uint64_t *) (void *) &(s)->job)


static void
zone_slot_put(struct zone_slot *s, const struct zone_job *job, uint32_t state)
{
    size_t             i;
    uint32_t           version;
    uint64_t           words[ZONE_JOB_WORDS];
    _Atomic uint64_t  *to;

    memcpy(words, job, sizeof(words));
    to = zone_slot_words(s);

    version = zone_load(&s->version) | 1;

    if (!ZONE_MUTANT("slot.version")) {
        zone_store(&s->version, version);
    }

    atomic_thread_fence(memory_order_release);

    for (i = 0; i < ZONE_JOB_WORDS; i++) {
        zone_store(&to[i], words[i]);

        if (i == ZONE_JOB_WORDS / 2) {
            ZONE_FAILPOINT("slot.put.mid");
        }
    }

    ZONE_FAILPOINT("slot.put.copied");

    zone_store_release(&s->state, state);

    ZONE_FAILPOINT("slot.put.state");

    zone_store_release(&s->version, version + 1);
}


/* Looks at `n` slots, `step` apart, from *slot on, which is left behind the
 * last. */

static int
zone_slot_search(struct zone_producer *p, uint32_t *slot, uint32_t n,
    uint32_t step)
{
    uint32_t  i, slots;

    slots = p->zone->geo.slots;

    for (i = 0; i < n; i++) {
        if (zone_load_acquire(&zone_slot(p->zone, p->index, *slot)->state)
            == ZONE_SLOT_FREE)
        {
            return 1;
        }

        *slot += step;

        if (*slot >= slots) {
            *slot -= slots;
        }
    }

    return 0;
}


/*
 * nginx.  With many jobs waiting the free slots lie together, behind more of
 * the others than one search looks at: a second one looks all over the table.
 */

int64_t
zone_slot_find(struct zone_producer *p)
{
    uint32_t  n, slots, slot, far;
    int64_t   used;

    slots = p->zone->geo.slots;

    used = (int64_t) (zone_load(&p->lane->slots_taken)
                      - zone_load(&p->lane->slots_freed));

    if (used >= (int64_t) slots) {
        return -1;
    }

    n = slots < ZONE_SLOT_SEARCH ? slots : ZONE_SLOT_SEARCH;
    slot = p->cursor < slots ? p->cursor : 0;

    if (!zone_slot_search(p, &slot, n, 1)) {
        far = slot;

        if (!zone_slot_search(p, &far, n, slots / n)) {
            p->cursor = slot;                   /* go on from here */
            return -1;
        }

        slot = far;
    }

    p->cursor = slot;

    return slot;
}


void
zone_slot_fill(struct zone_producer *p, uint32_t slot,
    const struct zone_job *job)
{
    ZONE_FAILPOINT("slot.fill.before");

    zone_slot_put(zone_slot(p->zone, p->index, slot), job,
                  ZONE_SLOT_SUBMITTED);

    ZONE_FAILPOINT("slot.fill.mid");

    zone_store(&p->lane->slots_taken, zone_load(&p->lane->slots_taken) + 1);
    p->cursor = slot + 1;

    ZONE_FAILPOINT("slot.fill.done");
}


void
zone_slot_undo(struct zone_producer *p, uint32_t slot)
{
    ZONE_FAILPOINT("slot.undo.before");

    zone_store_release(&zone_slot(p->zone, p->index, slot)->state,
                       ZONE_SLOT_FREE);

    ZONE_FAILPOINT("slot.undo.mid");

    zone_store(&p->lane->slots_taken, zone_load(&p->lane->slots_taken) - 1);
    p->cursor = slot;

    ZONE_FAILPOINT("slot.undo.done");
}


/*
 * offloadd.  A slot that is not FREE is filled by nobody else, and all writes
 * of one job write the same id, so this answer stays true for its owner.
 */

int
zone_slot_holds(const struct zone *z, uint32_t lane, uint32_t slot,
    const uint8_t id[ZONE_ID_SIZE])
{
    size_t             i;
    uint64_t           words[ZONE_ID_SIZE / sizeof(uint64_t)];
    struct zone_slot  *s;

    if (lane >= z->geo.lanes || slot >= z->geo.slots) {
        return 0;
    }

    s = zone_slot(z, lane, slot);

    if (zone_load_acquire(&s->state) == ZONE_SLOT_FREE) {
        return 0;
    }

    for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        words[i] = zone_load(&zone_slot_words(s)[i]);
    }

    return memcmp(words, id, ZONE_ID_SIZE) == 0;
}


void
zone_slot_write(struct zone *z, uint32_t lane, uint32_t slot,
    const struct zone_job *job, uint32_t state)
{
    if (!ZONE_MUTANT("slot.owner")
        && !zone_slot_holds(z, lane, slot, job->id))
    {
        return;
    }

    ZONE_FAILPOINT("slot.write.before");

    zone_slot_put(zone_slot(z, lane, slot), job, state);

    ZONE_FAILPOINT("slot.write.done");
}


/*
 * nginx may fill the slot the moment it is FREE, while slots_freed is still
 * to be counted.  So the free is noted first: for which slot, at which
 * version, and what slots_freed will be.  free_count is stored last of the
 * three; it is what makes the note valid, and counting makes it void.
 */

void
zone_slot_free(struct zone *z, uint32_t lane, uint32_t slot)
{
    uint32_t           version;
    uint64_t           freed;
    struct zone_lane  *l;
    struct zone_slot  *s;

    if (lane >= z->geo.lanes || slot >= z->geo.slots) {
        return;
    }

    l = zone_lane(z, lane);
    s = zone_slot(z, lane, slot);

    if (zone_load(&s->state) == ZONE_SLOT_FREE) {
        return;
    }

    ZONE_FAILPOINT("slot.free.before");

    version = zone_load(&s->version);

    if (version & 1) {                          /* its writer was killed */
        zone_store_release(&s->version, ++version);
    }

    freed = zone_load(&l->slots_freed) + 1;

    zone_store(&l->free_slot, slot);
    zone_store(&l->free_version, version);

    if (!ZONE_MUTANT("slot.free-note")) {
        zone_store_release(&l->free_count, freed);
    }

    ZONE_FAILPOINT("slot.free.noted");

    zone_store_release(&s->state, ZONE_SLOT_FREE);

    ZONE_FAILPOINT("slot.free.mid");

    zone_store_release(&l->slots_freed, freed);

    ZONE_FAILPOINT("slot.free.done");
}


/* anyone */

int
zone_slot_read(const struct zone *z, const uint8_t id[ZONE_ID_SIZE],
    struct zone_job *job)
{
    int                i;
    size_t             k;
    uint32_t           lane, slot, version, state;
    uint64_t           words[ZONE_JOB_WORDS];
    struct zone_slot  *s;
    _Atomic uint64_t  *from;

    zone_id_hint(id, &lane, &slot);

    if (lane >= z->geo.lanes || slot >= z->geo.slots) {
        return 0;
    }

    s = zone_slot(z, lane, slot);
    from = zone_slot_words(s);

    for (i = 0; i < ZONE_SLOT_TRIES; i++) {
        version = zone_load_acquire(&s->version);
        state = zone_load_acquire(&s->state);

        if (state == ZONE_SLOT_FREE) {
            return 0;                           /* whatever is being written */
        }

        if (version & 1) {
            continue;
        }

        for (k = 0; k < ZONE_JOB_WORDS; k++) {
            words[k] = zone_load(&from[k]);
        }

        atomic_thread_fence(memory_order_acquire);

        if (zone_load(&s->version) != version) {
            continue;
        }

        memcpy(job, words, sizeof(words));

        if (memcmp(job->id, id, ZONE_ID_SIZE) != 0) {
            return 0;
        }

        return state < ZONE_SLOT_STATES ? (int) state : -1;
    }

    return -1;
}


uint64_t
zone_slots_used(const struct zone *z, uint32_t lane)
{
    int64_t            used;
    struct zone_lane  *l;

    if (lane >= z->geo.lanes) {
        return 0;
    }

    l = zone_lane(z, lane);
    used = (int64_t) (zone_load(&l->slots_taken)
                      - zone_load(&l->slots_freed));

    if (used < 0) {
        return 0;
    }

    return used < (int64_t) z->geo.slots ? (uint64_t) used : z->geo.slots;
}
