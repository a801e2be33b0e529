/*
 * An fsck of a zone: every invariant of FORMAT.md.  Writes nothing; any
 * process, any thread; a kill leaves nothing behind.
 *
 * The zone may be in use, so a lane is looked at several times, a moment
 * apart, and a violation is reported if each look finds it, in the very same
 * words: the texts name positions, versions and ids, which move on whenever
 * the thing itself does.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "zone_internal.h"


#define ZONE_CHECK_TEXTS  32                    /* kept; others are counted */
#define ZONE_CHECK_TEXT   320
#define ZONE_CHECK_LOOKS  7                     /* 1, 2, 4 .. 32 ms apart */


struct zone_findings {
    uint32_t  n;
    uint32_t  more;                             /* not kept */
    char      text[ZONE_CHECK_TEXTS][ZONE_CHECK_TEXT];
};

struct zone_look {
    const struct zone     *zone;
    struct zone_lane      *lane;
    uint32_t               index;
    uint8_t               *claimed;             /* slots with a record */
    struct zone_findings  *found;
};


static void zone_find(struct zone_findings *f, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));


static void
zone_find(struct zone_findings *f, const char *fmt, ...)
{
    va_list  args;

    if (f->n == ZONE_CHECK_TEXTS) {
        f->more++;
        return;
    }

    va_start(args, fmt);
    vsnprintf(f->text[f->n++], ZONE_CHECK_TEXT, fmt, args);
    va_end(args);
}


/* What both looks found; the first one's copy is overwritten. */

static void
zone_findings_keep(struct zone_findings *a, const struct zone_findings *b)
{
    uint32_t  i, k, n;

    n = 0;

    for (i = 0; i < a->n; i++) {
        for (k = 0; k < b->n; k++) {
            if (strcmp(a->text[i], b->text[k]) == 0) {
                memmove(a->text[n++], a->text[i], ZONE_CHECK_TEXT);
                break;
            }
        }
    }

    a->n = n;

    if (b->more < a->more) {
        a->more = b->more;
    }
}


static void
zone_check_header(const struct zone *z, struct zone_findings *f)
{
    const struct zone_header  *h;
    const struct zone_header  *w;

    h = (const struct zone_header *) z->base;
    w = &z->geo;

    if (zone_broken(z)) {
        zone_find(f, "header: the ready word is 0x%08x instead of 0x%08x: the "
                  "file was cut short or written over",
                  zone_load(&((struct zone_header *) z->base)->ready),
                  ZONE_READY);
        return;
    }

    if (memcmp(h->magic, w->magic, sizeof(h->magic)) != 0
        || memcmp(h->boot_id, w->boot_id, sizeof(h->boot_id)) != 0)
    {
        zone_find(f, "header: the magic or the boot id changed since the file "
                  "was opened");
    }

#define zone_same(field)                                                      \
    if (h->field != w->field) {                                               \
        zone_find(f, "header: " #field " is %ju instead of %ju",              \
                  (uintmax_t) h->field, (uintmax_t) w->field);                \
    }

    zone_same(layout);
    zone_same(header_size);
    zone_same(size);
    zone_same(created_ms);
    zone_same(lanes);
    zone_same(slots);
    zone_same(slot_size);
    zone_same(cq_entries);
    zone_same(sq_size);
    zone_same(lane_offset);
    zone_same(lane_stride);
    zone_same(slots_offset);
    zone_same(cq_offset);
    zone_same(sq_offset);

#undef zone_same

    if (zone_load(&z->worker->sleeping) > 1) {
        zone_find(f, "worker: sleeping is %u, 0 or 1 is possible",
                  zone_load(&z->worker->sleeping));
    }
}


/*
 * The records between head and tail; 0 if they were read to the end.  What
 * lies behind a head that moved on meanwhile may be overwritten already, and
 * proves nothing.
 */

static int
zone_check_records(struct zone_look *k, uint64_t head, uint64_t tail)
{
    int                 bad;
    uint8_t            *sq;
    uint32_t            claim;
    uint64_t            pos;
    struct zone_slot   *s;
    struct zone_error   e;
    struct zone_record  rec;

    sq = zone_lane_sq(k->zone, k->index);

    for (pos = head; pos != tail; pos += rec.size) {
        memcpy(&rec, sq + (pos & (k->zone->geo.sq_size - 1)), sizeof(rec));

        claim = zone_load(&rec.claim);
        bad = zone_record_check(k->zone, &rec, pos, tail - pos, k->index, &e);

        if (bad == 0 && claim > ZONE_CLAIM_COMMITTED) {
            bad = zone_fail(&e, 0, "lane %u: record at %" PRIu64 ": claim is "
                            "%u, at most %d", k->index, pos, claim,
                            ZONE_CLAIM_COMMITTED);
        }

        if (bad) {
            if (zone_load_acquire(&k->lane->sq_head) <= pos) {
                zone_find(k->found, "%s", e.text);
            }

            return -1;
        }

        if (rec.type != ZONE_RECORD_JOB) {
            continue;
        }

        s = zone_slot(k->zone, k->index, rec.slot);

        if (memcmp(s->job.id, rec.id, ZONE_ID_SIZE) == 0) {
            k->claimed[rec.slot / 8] |= (uint8_t) (1u << rec.slot % 8);
        }
    }

    return 0;
}


/* Slots without a record are a finding only if all records were seen. */

static void
zone_check_sq(struct zone_look *k)
{
    int                rc;
    uint64_t           head, tail;
    struct zone_error  e;

    head = zone_load_acquire(&k->lane->sq_head);
    tail = zone_load_acquire(&k->lane->sq_tail);

    rc = zone_sq_check(head, tail, k->zone->geo.sq_size, k->index, &e);

    if (rc == 0) {
        rc = zone_check_records(k, head, tail);

    } else if (head == zone_load(&k->lane->sq_head)) {
        /* else the tail has passed a head that was read before it moved */
        zone_find(k->found, "%s", e.text);
    }

    if (rc == -1) {
        memset(k->claimed, 0xff, k->zone->geo.slots / 8 + 1);
    }
}


static void
zone_check_cq(struct zone_look *k)
{
    uint64_t                 head, tail;
    struct zone_completion  *c;

    head = zone_load_acquire(&k->lane->cq_head);
    tail = zone_load_acquire(&k->lane->cq_tail);

    if (tail - head > ZONE_CQ_ENTRIES) {
        if (head == zone_load(&k->lane->cq_head)) {
            zone_find(k->found, "lane %u: cq_head %" PRIu64 " and cq_tail %"
                      PRIu64 " are not the positions of a ring of %u entries",
                      k->index, head, tail, ZONE_CQ_ENTRIES);
        }

        return;
    }

    for ( /* void */ ; head != tail; head++) {
        c = zone_lane_cq(k->zone, k->index) + (head & (ZONE_CQ_ENTRIES - 1));

        if (c->type < ZONE_RECORD_JOB || c->type >= ZONE_RECORDS
            || c->result >= ZONE_RESULTS)
        {
            zone_find(k->found, "lane %u: completion %" PRIu64 ": type is %u "
                      "and result %u, possible are %d to %d and at most %d",
                      k->index, head, c->type, c->result, ZONE_RECORD_JOB,
                      ZONE_RECORDS - 1, ZONE_RESULTS - 1);
        }
    }
}


static void
zone_check_slot(struct zone_look *k, uint32_t slot, uint32_t state)
{
    char               id[ZONE_ID_TEXT];
    uint32_t           version, lane, hint;
    struct zone_job    job;
    struct zone_slot  *s;

    s = zone_slot(k->zone, k->index, slot);
    version = zone_load(&s->version);

    if (version & 1) {
        zone_find(k->found, "lane %u: slot %u: version is %u: a writer is "
                  "inside, or was killed there", k->index, slot, version);
    }

    if (state >= ZONE_SLOT_STATES) {
        zone_find(k->found, "lane %u: slot %u: state is %u, at most %d",
                  k->index, slot, state, ZONE_SLOT_STATES - 1);
        return;
    }

    if (state == ZONE_SLOT_FREE) {
        return;
    }

    memcpy(&job, &s->job, sizeof(job));
    zone_id_hint(job.id, &lane, &hint);
    zone_id_format(id, job.id);

    if (lane != k->index || hint != slot) {
        zone_find(k->found, "lane %u: slot %u: its job %.*s belongs into lane "
                  "%u, slot %u", k->index, slot, ZONE_ID_TEXT, id, lane, hint);
        return;
    }

    if (state == ZONE_SLOT_SUBMITTED) {
        if (!(k->claimed[slot / 8] & (1u << slot % 8))) {
            zone_find(k->found, "lane %u: slot %u: job %.*s is submitted, but "
                      "no record in the ring has it", k->index, slot,
                      ZONE_ID_TEXT, id);
        }

    } else if (job.seq == 0 && state != ZONE_SLOT_SETTLED) {
        zone_find(k->found, "lane %u: slot %u: job %.*s: state is %u, but seq "
                  "is 0", k->index, slot, ZONE_ID_TEXT, id, state);
    }
}


/*
 * The table and its counters.  With frees and fills going on meanwhile, the
 * number of used slots must lie between what was left of the first ones and
 * all that were added; one of each may be half done.
 */

static void
zone_check_slots(struct zone_look *k)
{
    uint32_t  i, state;
    uint64_t  used, taken[2], freed[2];
    int64_t   low, high;

    taken[0] = zone_load_acquire(&k->lane->slots_taken);
    freed[0] = zone_load_acquire(&k->lane->slots_freed);
    used = 0;

    for (i = 0; i < k->zone->geo.slots; i++) {
        state = zone_load_acquire(&zone_slot(k->zone, k->index, i)->state);
        used += state != ZONE_SLOT_FREE;
        zone_check_slot(k, i, state);
    }

    taken[1] = zone_load_acquire(&k->lane->slots_taken);
    freed[1] = zone_load_acquire(&k->lane->slots_freed);

    low = (int64_t) (taken[0] - freed[1]);
    high = (int64_t) (taken[1] - freed[0]);

    if (taken[0] != taken[1] || freed[0] != freed[1]) {
        low--;
        high++;
    }

    if ((int64_t) used < low || (int64_t) used > high) {
        zone_find(k->found, "lane %u: slots_taken %" PRIu64 " - slots_freed %"
                  PRIu64 " is %" PRId64 ", but %" PRIu64 " slots are not free",
                  k->index, taken[1], freed[1],
                  (int64_t) (taken[1] - freed[1]), used);
    }
}


static void
zone_check_lane(struct zone_look *k)
{
    uint32_t  sleeping;
    uint64_t  noted, freed;

    memset(k->claimed, 0, k->zone->geo.slots / 8 + 1);
    k->found->n = 0;
    k->found->more = 0;

    zone_check_sq(k);
    zone_check_slots(k);
    zone_check_cq(k);

    sleeping = zone_load(&k->lane->cq_sleeping);

    if (sleeping > 1) {
        zone_find(k->found, "lane %u: cq_sleeping is %u, 0 or 1 is possible",
                  k->index, sleeping);
    }

    noted = zone_load_acquire(&k->lane->free_count);
    freed = zone_load_acquire(&k->lane->slots_freed);

    if (noted > freed) {
        zone_find(k->found, "lane %u: a free of slot %u was begun (%" PRIu64
                  ") and not finished (%" PRIu64 ")", k->index,
                  zone_load(&k->lane->free_slot), noted, freed);
    }
}


/*
 * Who was in the middle of something and lost the processor must have had it
 * again before the last look: hence the growing pauses.
 */

static void
zone_pause(int ms)
{
    struct timespec  ts;

    ts.tv_sec = 0;
    ts.tv_nsec = ms * 1000000l;

    (void) nanosleep(&ts, NULL);
}


static uint32_t
zone_findings_report(const struct zone_findings *f, zone_report report,
    void *ctx)
{
    char      text[64];
    uint32_t  i;

    for (i = 0; i < f->n; i++) {
        report(ctx, f->text[i]);
    }

    if (f->more) {
        snprintf(text, sizeof(text), "and %u more", f->more);
        report(ctx, text);
    }

    return f->n + f->more;
}


int
zone_check(const struct zone *z, zone_report report, void *ctx)
{
    int                    look;
    uint32_t               i, total;
    struct zone_look       k;
    struct zone_findings  *f;

    f = malloc(2 * sizeof(*f));
    k.zone = z;
    k.claimed = malloc(z->geo.slots / 8 + 1);

    if (f == NULL || k.claimed == NULL) {
        free(f);
        free(k.claimed);
        report(ctx, "no memory to check the zone");
        return 1;
    }

    f[0].n = 0;
    f[0].more = 0;

    zone_check_header(z, &f[0]);
    total = zone_findings_report(&f[0], report, ctx);

    for (i = 0; i < z->geo.lanes; i++) {
        k.lane = zone_lane(z, i);
        k.index = i;
        k.found = &f[0];

        zone_check_lane(&k);

        for (look = 1; look < ZONE_CHECK_LOOKS && f[0].n > 0; look++) {
            zone_pause(1 << (look - 1));

            k.found = &f[1];
            zone_check_lane(&k);
            zone_findings_keep(&f[0], &f[1]);
        }

        /* If none was kept, the others were of the same moving kind. */

        if (f[0].n > 0) {
            total += zone_findings_report(&f[0], report, ctx);
        }
    }

    free(f);
    free(k.claimed);

    return (int) total;
}
