/*
 * The submission ring: nginx's worker writes records, offloadd reads them.
 *
 * Positions are counters of bytes that only grow; a position's place is
 * position & (sq_size - 1).  All of them are multiples of 64, which leaves
 * room for at least a record's header before the ring's end: a record that
 * does not fit there is preceded by a PAD that fills it up.
 *
 * A record becomes visible by the one store of sq_tail, its memory goes back
 * by the one store of sq_head.  A producer killed before its store has
 * written nothing that anybody will look at; a consumer killed before its
 * store will find the same records again.
 *
 * Each side checks what the other wrote before it goes by it.  The producer
 * takes a head that cannot be for a full ring: it writes nothing more, and
 * zone_check() names the lane.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "zone_internal.h"


#define zone_sq_at(sq, pos, sq_size)                                          \
    ((struct zone_record *) ((sq) + ((pos) & ((sq_size) - 1))))

#define zone_sq_ok(head, tail, sq_size)                                       \
    ((tail) - (head) <= (sq_size)                                             \
     && (((head) | (tail)) & (ZONE_SQ_ALIGN - 1)) == 0)


int
zone_sq_check(uint64_t head, uint64_t tail, uint64_t sq_size, uint32_t lane,
    struct zone_error *e)
{
    if (zone_sq_ok(head, tail, sq_size)) {
        return 0;
    }

    return zone_fail(e, EINVAL, "lane %u: sq_head %" PRIu64 " and sq_tail %"
                     PRIu64 " are not the positions of a ring of %" PRIu64
                     " bytes: both must be multiples of %u and at most that "
                     "far apart", lane, head, tail, sq_size, ZONE_SQ_ALIGN);
}


uint64_t
zone_record_size(uint64_t sq_size, uint64_t payload)
{
    uint64_t  size;

    if (payload > UINT32_MAX - sizeof(struct zone_record) - ZONE_SQ_ALIGN) {
        return 0;
    }

    size = zone_align(sizeof(struct zone_record) + payload, ZONE_SQ_ALIGN);

    return size <= ZONE_RECORD_MAX(sq_size) ? size : 0;
}


int
zone_producer_init(struct zone_producer *p, struct zone *z, uint32_t lane,
    struct zone_error *e)
{
    if (lane >= z->geo.lanes) {
        return zone_fail(e, EINVAL, "there is no lane %u: the zone has %u",
                         lane, z->geo.lanes);
    }

    memset(p, 0, sizeof(*p));

    p->zone = z;
    p->lane = zone_lane(z, lane);
    p->sq = zone_lane_sq(z, lane);
    p->sq_size = z->geo.sq_size;
    p->index = lane;
    p->tail = zone_load(&p->lane->sq_tail);
    p->next = p->tail;
    p->head = zone_load_acquire(&p->lane->sq_head);

    return zone_sq_check(p->head, p->tail, p->sq_size, lane, e);
}


/*
 * Bytes of padding before a record of that size, or -1 when it does not fit.
 * The consumer's line is read only when the head seen last is not enough.
 */

static inline int64_t
zone_sq_place(struct zone_producer *p, uint64_t size)
{
    uint64_t  end, pad, head;

    end = p->sq_size - (p->tail & (p->sq_size - 1));
    pad = size <= end ? 0 : end;

    if (pad + size <= p->sq_size - (p->tail - p->head)) {
        return (int64_t) pad;
    }

    head = zone_load_ordered(&p->lane->sq_head, ZONE_SQ_HEAD_LOAD);

    if (!zone_sq_ok(head, p->tail, p->sq_size)) {
        return -1;
    }

    p->head = head;

    return pad + size <= p->sq_size - (p->tail - head) ? (int64_t) pad : -1;
}


int
zone_sq_room(struct zone_producer *p, uint64_t payload)
{
    uint64_t  size;

    size = zone_record_size(p->sq_size, payload);

    return size != 0 && zone_sq_place(p, size) != -1;
}


struct zone_record *
zone_sq_reserve(struct zone_producer *p, uint16_t type, uint64_t payload)
{
    int64_t              pad;
    uint64_t             size;
    struct zone_record  *rec;

    size = zone_record_size(p->sq_size, payload);

    if (size == 0) {
        return NULL;
    }

    pad = zone_sq_place(p, size);

    if (pad == -1) {
        return NULL;
    }

    if (pad > 0) {
        rec = zone_sq_at(p->sq, p->tail, p->sq_size);

        memset(rec, 0, sizeof(*rec));
        rec->size = (uint32_t) pad;
        rec->type = ZONE_RECORD_PAD;

        ZONE_FAILPOINT("sq.reserve.pad");
    }

    rec = zone_sq_at(p->sq, p->tail + (uint64_t) pad, p->sq_size);

    memset(rec, 0, sizeof(*rec));
    rec->size = (uint32_t) size;
    rec->type = type;
    rec->payload = (uint32_t) payload;

    p->next = p->tail + (uint64_t) pad + size;

    ZONE_FAILPOINT("sq.reserve.done");

    return rec;
}


/*
 * `accepted` cannot change in the same instant as the tail.  So what it will
 * be is noted first, together with the tail that makes it true; a repair that
 * finds this very tail takes the note, any other tail means that the record
 * was never published.  The tail must be noted before the number, or a kill
 * between them would pair the new number with the old tail.
 */

void
zone_sq_publish(struct zone_producer *p)
{
    uint64_t             accepted, size;
    struct zone_lane    *lane;
    struct zone_record  *rec;

    if (p->next == p->tail) {
        return;                                 /* nothing is reserved */
    }

    lane = p->lane;
    rec = zone_sq_at(p->sq, p->tail, p->sq_size);
    size = rec->size;

    if (rec->type == ZONE_RECORD_PAD) {
        rec = zone_sq_at(p->sq, p->tail + size, p->sq_size);
    }

    accepted = zone_load(&lane->accepted) + (rec->type == ZONE_RECORD_JOB);

    zone_store(&lane->publish_tail, p->next);
    ZONE_FAILPOINT("sq.publish.noted");

    if (!ZONE_MUTANT("publish.note")) {
        zone_store_release(&lane->publish_accepted, accepted);
    }

    ZONE_FAILPOINT("sq.publish.before");

    zone_store_ordered(&lane->sq_tail, p->next, ZONE_SQ_TAIL_STORE);
    p->tail = p->next;

    ZONE_FAILPOINT("sq.publish.after");

    zone_store(&lane->accepted, accepted);

    ZONE_FAILPOINT("sq.publish.done");
}


/*
 * Acquire and release on each step: whoever finds COMMITTED sees what was
 * written before the commit, whoever finds WITHDRAWN acts after the other's
 * decision.
 */

static int
zone_claim(struct zone_record *rec, uint32_t from, uint32_t or, uint32_t to)
{
    uint32_t  claim;

    claim = atomic_load_explicit(&rec->claim, memory_order_acquire);

    while (claim == from || claim == or || ZONE_MUTANT("claim.final")) {
        if (atomic_compare_exchange_weak_explicit(&rec->claim, &claim, to,
                                                  memory_order_acq_rel,
                                                  memory_order_acquire))
        {
            return 1;
        }
    }

    return claim == to;
}


int
zone_claim_take(struct zone_record *rec)
{
    /* one taken by an offloadd that was killed, or that had committed it */

    return zone_claim(rec, ZONE_CLAIM_NONE, ZONE_CLAIM_NONE, ZONE_CLAIM_TAKEN)
           || atomic_load_explicit(&rec->claim, memory_order_acquire)
              != ZONE_CLAIM_WITHDRAWN;
}


int
zone_claim_commit(struct zone_record *rec)
{
    ZONE_FAILPOINT("claim.commit.before");

    return zone_claim(rec, ZONE_CLAIM_NONE, ZONE_CLAIM_TAKEN,
                      ZONE_CLAIM_COMMITTED);
}


int
zone_claim_withdraw(struct zone_record *rec)
{
    return zone_claim(rec, ZONE_CLAIM_NONE, ZONE_CLAIM_TAKEN,
                      ZONE_CLAIM_WITHDRAWN);
}


/*
 * While the head has not passed it, the record is where it was written, and
 * nobody but this producer will ever write over it.
 */

int
zone_sq_withdraw(struct zone_producer *p, struct zone_record *rec,
    uint64_t end)
{
    uint32_t  none;

    if ((int64_t) (zone_load_acquire(&p->lane->sq_head) - end) >= 0
        && !ZONE_MUTANT("withdraw.head"))
    {
        return ZONE_WITHDRAW_CONSUMED;
    }

    ZONE_FAILPOINT("sq.withdraw.before");

    if (ZONE_MUTANT("withdraw.claim")) {
        return ZONE_WITHDRAWN;
    }

    /* one that nobody has taken is in no store, whatever dies now */

    none = ZONE_CLAIM_NONE;

    if (atomic_compare_exchange_strong(&rec->claim, &none,
                                       ZONE_CLAIM_WITHDRAWN))
    {
        ZONE_FAILPOINT("sq.withdraw.done");
        return ZONE_WITHDRAWN;
    }

    if (!zone_claim_withdraw(rec)) {
        return ZONE_WITHDRAW_COMMITTED;
    }

    ZONE_FAILPOINT("sq.withdraw.pending");

    return ZONE_WITHDRAW_PENDING;
}


static int
zone_record_bad(struct zone_error *e, uint32_t lane, uint64_t pos,
    const char *field, uint64_t found, const char *rule, uint64_t limit)
{
    return zone_fail(e, EINVAL, "lane %u: record at %" PRIu64 ": %s is %"
                     PRIu64 ", %s %" PRIu64, lane, pos, field, found, rule,
                     limit);
}


int
zone_record_check(const struct zone *z, const struct zone_record *rec,
    uint64_t pos, uint64_t left, uint32_t lane, struct zone_error *e)
{
    uint64_t  end, size;

    end = z->geo.sq_size - (pos & (z->geo.sq_size - 1));

    if (rec->type < ZONE_RECORD_PAD || rec->type >= ZONE_RECORDS) {
        return zone_record_bad(e, lane, pos, "type", rec->type, "1 to",
                               ZONE_RECORDS - 1);
    }

    if (rec->size > left || rec->size > end) {
        return zone_record_bad(e, lane, pos, "size", rec->size, "at most",
                               left < end ? left : end);
    }

    if (rec->type == ZONE_RECORD_PAD) {
        size = end;

    } else {
        size = zone_record_size(z->geo.sq_size, rec->payload);

        if (size == 0) {
            return zone_record_bad(e, lane, pos, "payload", rec->payload,
                                   "at most", ZONE_RECORD_MAX(z->geo.sq_size)
                                              - sizeof(struct zone_record));
        }
    }

    if (rec->size != size) {
        return zone_record_bad(e, lane, pos, "size", rec->size, "must be",
                               size);
    }

    if (rec->flags != 0) {
        return zone_record_bad(e, lane, pos, "flags", rec->flags, "must be",
                               0);
    }

    if (rec->type == ZONE_RECORD_JOB && rec->slot >= z->geo.slots) {
        return zone_record_bad(e, lane, pos, "slot", rec->slot, "less than",
                               z->geo.slots);
    }

    if ((rec->type == ZONE_RECORD_CANCEL || rec->type == ZONE_RECORD_WATCH)
        && rec->payload != 0)
    {
        return zone_record_bad(e, lane, pos, "payload", rec->payload,
                               "must be", 0);
    }

    if (rec->type == ZONE_RECORD_WATCH && rec->slot > ZONE_WATCH_MAX) {
        return zone_record_bad(e, lane, pos, "slot", rec->slot, "at most",
                               ZONE_WATCH_MAX);
    }

    return 0;
}


/*
 * The consumer.  Slots are put right here and not in zone_lane_repair(),
 * because they are offloadd's: nginx must not write them while it runs.
 */

/*
 * A free that a killed offloadd began: the note says for which slot and what
 * slots_freed becomes.  Was the slot given away before the kill?  Yes if it
 * is FREE, and yes if its version moved on: then nginx has filled it again.
 */

static void
zone_consumer_finish_free(struct zone_consumer *c)
{
    uint32_t           slot;
    uint64_t           freed;
    struct zone_lane  *lane;
    struct zone_slot  *s;

    lane = c->lane;
    freed = zone_load(&lane->slots_freed);
    slot = zone_load(&lane->free_slot);

    if (zone_load(&lane->free_count) != freed + 1
        || slot >= c->zone->geo.slots)
    {
        return;
    }

    s = zone_slot(c->zone, c->index, slot);

    if (zone_load_acquire(&s->state) == ZONE_SLOT_FREE
        || zone_load(&s->version) != zone_load(&lane->free_version))
    {
        zone_store(&lane->slots_freed, freed + 1);

    } else {
        zone_store(&lane->free_count, freed);   /* it never happened */
    }
}


int
zone_consumer_init(struct zone_consumer *c, struct zone *z, uint32_t lane,
    struct zone_error *e)
{
    uint32_t           i, state;
    struct zone_slot  *s;

    if (lane >= z->geo.lanes) {
        return zone_fail(e, EINVAL, "there is no lane %u: the zone has %u",
                         lane, z->geo.lanes);
    }

    memset(c, 0, sizeof(*c));

    c->zone = z;
    c->lane = zone_lane(z, lane);
    c->sq = zone_lane_sq(z, lane);
    c->sq_size = z->geo.sq_size;
    c->index = lane;
    c->pos = zone_load(&c->lane->sq_head);

    if (zone_sq_check(c->pos, zone_load_acquire(&c->lane->sq_tail),
                      c->sq_size, lane, e)
        == -1)
    {
        return -1;
    }

    if (!ZONE_MUTANT("worker.finish-free")) {
        zone_consumer_finish_free(c);
    }

    for (i = 0; i < z->geo.slots; i++) {
        s = zone_slot(z, lane, i);
        state = zone_load_acquire(&s->state);

        if (state != ZONE_SLOT_FREE && state != ZONE_SLOT_SUBMITTED
            && (zone_load(&s->version) & 1)
            && !ZONE_MUTANT("worker.torn-slots"))
        {
            zone_slot_free(z, lane, i);
        }
    }

    return 0;
}


int
zone_sq_peek(struct zone_consumer *c, struct zone_record **rec,
    struct zone_error *e)
{
    uint64_t             tail;
    struct zone_record  *r, copy;

    tail = zone_load_ordered(&c->lane->sq_tail, ZONE_SQ_TAIL_LOAD);

    if (!zone_sq_ok(c->pos, tail, c->sq_size)) {
        return zone_sq_check(c->pos, tail, c->sq_size, c->index, e);
    }

    while (c->pos != tail) {
        r = zone_sq_at(c->sq, c->pos, c->sq_size);
        memcpy(&copy, r, sizeof(copy));

        if (zone_record_check(c->zone, &copy, c->pos, tail - c->pos, c->index,
                              e)
            == -1)
        {
            return -1;
        }

        c->pos += copy.size;

        if (copy.type != ZONE_RECORD_PAD) {
            *rec = r;
            return 1;
        }
    }

    return 0;
}


void
zone_sq_release(struct zone_consumer *c)
{
    ZONE_FAILPOINT("sq.release.before");

    zone_store_ordered(&c->lane->sq_head, c->pos, ZONE_SQ_HEAD_STORE);

    ZONE_FAILPOINT("sq.release.after");
}


void
zone_sq_rewind(struct zone_consumer *c)
{
    c->pos = zone_load(&c->lane->sq_head);
}


uint64_t
zone_lane_owed(struct zone *z, uint32_t lane)
{
    int                   rc;
    uint64_t              owed;
    struct zone_error     e;
    struct zone_record   *rec;
    struct zone_consumer  c;

    memset(&c, 0, sizeof(c));

    c.zone = z;
    c.lane = zone_lane(z, lane);
    c.sq = zone_lane_sq(z, lane);
    c.sq_size = z->geo.sq_size;
    c.pos = zone_load_acquire(&c.lane->sq_head);
    c.index = lane;

    owed = 0;

    while ((rc = zone_sq_peek(&c, &rec, &e)) == 1) {
        if (rec->type == ZONE_RECORD_JOB
            && (rec->token == 0
                || zone_load(&rec->claim) == ZONE_CLAIM_WITHDRAWN))
        {
            owed += rec->size;
        }
    }

    /* what can not be read may be anything */

    return rc == 0 ? owed : owed + zone_load(&c.lane->sq_tail) - c.pos;
}
