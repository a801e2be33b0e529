/*
 * zone_check() is what the other tests and the operators believe.  So each
 * invariant is broken once, on a zone that is otherwise good, and it must be
 * named; and a zone in use must not be accused.
 */

#include <sched.h>

#include "unit.h"


static struct zone           z;
static struct zone_lane     *lane;
static struct zone_error     e;
static struct zone_producer  p;
static struct zone_consumer  c;


/* Two lanes; lane 0 with jobs in all states and records yet to be read. */

static void
fresh(void)
{
    int                     i;
    struct zone_job         job;
    struct zone_record     *rec;
    struct zone_completion  done;

    zone_close(&z);
    unit_zone(&z, "zone", 2);
    lane = zone_lane(&z, 0);

    must(zone_producer_init(&p, &z, 0, &e) == 0);
    must(zone_consumer_init(&c, &z, 0, &e) == 0);

    for (i = 0; i < 6; i++) {
        must(unit_submit(&p, (uint64_t) i, 100) == i);
    }

    for (i = 0; i < 4; i++) {
        must(zone_sq_peek(&c, &rec, &e) == 1);
        unit_job(&job, 0, rec->slot, rec->token);
        job.seq = (uint64_t) i + 1;
        zone_slot_write(&z, 0, rec->slot, &job, ZONE_SLOT_QUEUED
                                                + (uint32_t) i % 3);
        zone_sq_release(&c);

        memset(&done, 0, sizeof(done));
        done.type = ZONE_RECORD_JOB;
        done.token = rec->token;
        must(zone_cq_post(&z, 0, &done) == 0);
    }

    zone_slot_free(&z, 0, 3);
}


static struct zone_slot *
slot(uint32_t n)
{
    return zone_slot(&z, 0, n);
}


static struct zone_record *
record(void)
{
    return (struct zone_record *) (c.sq + lane->sq_head);
}


static struct zone_completion *
posted(void)
{
    return (struct zone_completion *) ((uint8_t *) lane + z.geo.cq_offset);
}


#define broken(how, text)                                                     \
    do {                                                                      \
        fresh();                                                              \
        how;                                                                  \
        is(unit_check(&z, 0) > 0, 1, "seen: %s", #how);                       \
        like(unit_found, text, "and named");                                  \
    } while (0)


static void
test_seeded(void)
{
    uint32_t             i;
    struct zone_header  *h;

    fresh();
    is(unit_check(&z, 1), 0, "a zone in use is good");
    must(zone_slots_used(&z, 0) == 5 && lane->sq_tail > lane->sq_head);

    h = (struct zone_header *) z.base;
    broken(h->ready = 0, "ready word is 0x00000000");
    broken(h->magic[3] = 'x', "magic");
    broken(h->boot_id[15] ^= 1, "boot id");
    broken(h->layout = 2, "layout is 2 instead of 1");
    broken(h->size--, "header: size is");
    broken(h->lanes = 1, "lanes is 1 instead of 2");
    broken(h->slots = 0, "slots is 0 instead of 64");
    broken(h->slot_size = 1, "slot_size is 1");
    broken(h->cq_entries = 1, "cq_entries is 1");
    broken(h->sq_size *= 2, "sq_size is 524288");
    broken(h->lane_offset = 0, "lane_offset is 0");
    broken(h->lane_stride = 0, "lane_stride is 0");
    broken(h->slots_offset = 1, "slots_offset is 1");
    broken(h->cq_offset = 1, "cq_offset is 1");
    broken(h->sq_offset = 1, "sq_offset is 1");
    broken(h->header_size = 1, "header_size is 1");
    broken(h->created_ms = 1, "created_ms is 1");
    broken(z.worker->sleeping = 2, "sleeping is 2");

    broken(lane->sq_tail += 1, "are not the positions of a ring");
    broken(lane->sq_head -= 8, "are not the positions of a ring");
    broken(lane->sq_tail += z.geo.sq_size, "are not the positions of a ring");
    broken(lane->sq_head = lane->sq_tail + 64,
           "are not the positions of a ring");
    broken(record()->type = 0, "type is 0");
    broken(record()->size = 0, "size is 0");
    broken(record()->payload = 1, "size is 192, must be 64");
    broken(record()->flags = 3, "flags is 3");
    broken(record()->slot = 64, "slot is 64, less than 64");
    broken(record()->claim = 4, "claim is 4");
    broken(record()->type = ZONE_RECORD_PAD, "size is 192, must be");

    broken(lane->cq_tail = lane->cq_head + 4097, "ring of 4096 entries");
    broken(lane->cq_head = lane->cq_tail + 1, "ring of 4096 entries");
    broken(posted()->type = 1, "completion 0: type is 1");
    broken(posted()->result = ZONE_RESULTS, "and result ");
    broken(lane->cq_sleeping = 5, "cq_sleeping is 5");

    broken(lane->slots_taken++, "but 5 slots are not free");
    broken(lane->slots_taken--, "but 5 slots are not free");
    broken(lane->slots_freed++, "but 5 slots are not free");
    broken(lane->slots_freed = 0, "but 5 slots are not free");
    broken(lane->free_count++, "a free of slot 3 was begun");
    broken(slot(0)->version++, "version is 5: a writer is inside");
    broken(slot(9)->version = 1, "slot 9: version is 1");
    broken(slot(9)->state = 5, "state is 5, at most 4");
    broken(slot(9)->state = ZONE_SLOT_SUBMITTED,
           "its job 00000000000000000000000000 belongs into lane 0, slot 0");
    broken(slot(0)->state = ZONE_SLOT_FREE, "but 4 slots are not free");
    broken(slot(0)->job.seq = 0, "state is 2, but seq is 0");
    broken(slot(0)->job.id[3] = 7, "belongs into lane 0, slot 7");
    broken(slot(0)->job.id[0] = 1, "belongs into lane 1, slot 0");
    broken(slot(0)->state = ZONE_SLOT_SUBMITTED,
           "is submitted, but no record in the ring has it");
    broken(slot(4)->job.id[15] ^= 1, "no record in the ring has it");
    broken(record()->id[8] ^= 1, "no record in the ring has it");

    fresh();
    zone_lane(&z, 1)->sq_tail = 1;
    is(unit_check(&z, 0), 1, "the second lane is looked at, too");
    like(unit_found, "lane 1:", "by its number");

    fresh();

    for (i = 6; i < 64; i++) {
        slot(i)->version = 1;
    }

    is(unit_check(&z, 0), 58, "58 faults are 58");
    like(unit_found, "and 26 more", "though not all are told");
}


/*
 * Is a zone in use accused?  Who is in the middle of something may not get the
 * processor back before the last look, on a machine that is busy enough: when
 * both processes have gone on nothing of it may be left.
 */

static int
accused(void)
{
    uint64_t  accepted, freed;

    if (unit_check(&z, 1) == 0) {
        return 0;
    }

    accepted = lane->accepted;
    freed = lane->slots_freed;

    while (lane->accepted == accepted || lane->slots_freed == freed) {
        (void) sched_yield();
    }

    return unit_check(&z, 1) != 0;
}


/* A zone under way: one process submits, one does the jobs, a third looks. */

static void
test_in_use(void)
{
    int                   i, faults;
    pid_t                 nginx, worker;
    uint64_t              n;
    struct zone_job       job;
    struct zone_record   *rec;

    fresh();
    z.worker->commit_us = 0;

    nginx = tap_fork();

    if (nginx == 0) {
        for (n = 100; !z.worker->commit_us; /* void */ ) {
            n += unit_submit(&p, n, n % 3000) != -1;
        }

        _exit(0);
    }

    worker = tap_fork();

    if (worker == 0) {
        must(zone_consumer_init(&c, &z, 0, &e) == 0);

        while (!z.worker->commit_us) {
            if (zone_sq_peek(&c, &rec, &e) != 1) {
                continue;
            }

            unit_job(&job, 0, rec->slot, rec->token);
            job.seq = rec->token + 1;
            zone_slot_write(&z, 0, rec->slot, &job, ZONE_SLOT_QUEUED);
            zone_sq_release(&c);
            zone_slot_write(&z, 0, rec->slot, &job, ZONE_SLOT_RUNNING);
            zone_slot_free(&z, 0, rec->slot);
        }

        _exit(0);
    }

    faults = 0;

    for (i = 0; i < 50 || lane->accepted < 20000; i++) {
        faults += accused();
    }

    z.worker->commit_us = 1;
    is(tap_wait(nginx) | tap_wait(worker), 0, "both end");
    is(faults, 0, "%d looks at a zone in use, %ju jobs: no false alarm", i,
       (uintmax_t) lane->accepted);
    is(unit_check(&z, 1), 0, "nor afterwards");
}


int
main(void)
{
    tap_begin();

    test_seeded();
    test_in_use();

    return tap_end();
}
