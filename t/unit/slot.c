/*
 * The job table by itself: slots are found, filled, given back and found
 * again; a full table says so; a reader gets one job or none, never a
 * mixture, with a writing process or thread on the other side.
 */

#include <pthread.h>
#include <sys/mman.h>

#include "unit.h"


#define READS  200000


static struct zone           z;
static struct zone_error     e;
static struct zone_producer  p;


static void
fill(uint32_t slot, uint64_t n)
{
    struct zone_job  job;

    unit_job(&job, 0, slot, n);
    zone_slot_fill(&p, slot, &job);
}


static int
read_state(uint32_t slot, uint64_t n, struct zone_job *job)
{
    struct zone_job  want;

    unit_job(&want, 0, slot, n);

    return zone_slot_read(&z, want.id, job);
}


static void
test_life(void)
{
    int64_t          slot;
    struct zone_job  job, got;

    slot = zone_slot_find(&p);
    is(slot, 0, "the first slot is free");
    is(zone_slot_find(&p), 0, "and still is until it is filled");
    is(read_state(0, 1, &got), 0, "it says nothing");

    fill(0, 1);
    is(zone_slots_used(&z, 0), 1, "filled, one is used");
    is(read_state(0, 1, &got), ZONE_SLOT_SUBMITTED, "its job is submitted");
    is(got.created_ms, 1, "and is the one");
    is(read_state(0, 2, &got), 0, "another job of that slot is not there");
    is(read_state(UNIT_SLOTS, 1, &got), 0, "nor one of a slot beyond");
    unit_job(&job, 1, 0, 1);
    is(zone_slot_read(&z, job.id, &got), 0, "nor one of a lane beyond");

    zone_slot_undo(&p, 0);
    is(zone_slots_used(&z, 0), 0, "undone, none is used");
    is(read_state(0, 1, &got), 0, "and its job is gone");
    is(zone_slot_find(&p), 0, "the slot is free again");

    fill(0, 3);
    unit_job(&job, 0, 0, 3);
    job.seq = 77;
    job.attempts = 2;
    zone_slot_write(&z, 0, 0, &job, ZONE_SLOT_RUNNING);
    is(read_state(0, 3, &got), ZONE_SLOT_RUNNING, "offloadd writes it");
    ok(got.seq == 77 && got.attempts == 2, "whole");
    is(zone_slot_find(&p), 1, "the next is found after it");

    zone_slot_free(&z, 0, 0);
    is(read_state(0, 3, &got), 0, "and frees it");
    is(zone_slots_used(&z, 0), 0, "none is used");
    zone_slot_free(&z, 0, 0);
    is(zone_slots_used(&z, 0), 0, "to free it twice is to free it once");

    zone_slot_write(&z, 0, 0, &job, ZONE_SLOT_RUNNING);
    is(read_state(0, 3, &got), 0, "a slot given away is not written");
    fill(0, 4);
    zone_slot_write(&z, 0, 0, &job, ZONE_SLOT_RUNNING);
    is(read_state(0, 4, &got), ZONE_SLOT_SUBMITTED, "nor one of another job");
    is(zone_slot_holds(&z, 0, 0, got.id), 1, "holds: this one");
    is(zone_slot_holds(&z, 0, 0, job.id), 0, "not that one");
    is(zone_slot_holds(&z, 0, UNIT_SLOTS, got.id), 0, "no such slot");
    is(zone_slot_holds(&z, 1, 0, got.id), 0, "no such lane");
    zone_slot_free(&z, 0, 0);
    is(zone_slot_holds(&z, 0, 0, got.id), 0, "a free one holds none");

    fill(0, 5);
    zone_slot(&z, 0, 0)->version |= 1;
    is(read_state(0, 5, &got), -1, "a writer inside: ask the store");
    unit_job(&job, 0, 0, 5);
    job.seq = 5;
    zone_slot_write(&z, 0, 0, &job, ZONE_SLOT_QUEUED);
    is(read_state(0, 5, &got), ZONE_SLOT_QUEUED, "the next one mends it");
    zone_slot(&z, 0, 0)->state = 17;
    is(read_state(0, 5, &got), -1, "a state that is none: ask the store");
    zone_slot_free(&z, 0, 0);
}


static void
test_exhausted(void)
{
    int       bad, i, n;
    int64_t   slot;
    uint64_t  random;
    uint8_t   held[UNIT_SLOTS];

    memset(held, 0, sizeof(held));

    for (n = 0; (slot = zone_slot_find(&p)) != -1; n++) {
        must(slot < UNIT_SLOTS && !held[slot]);
        held[slot] = 1;
        fill((uint32_t) slot, 100 + (uint64_t) n);
    }

    is(n, UNIT_SLOTS, "all slots are given, each once");
    is(zone_slots_used(&z, 0), UNIT_SLOTS, "all are used");

    for (i = UNIT_SLOTS - 1; i >= 0; i -= 13) {
        zone_slot_free(&z, 0, (uint32_t) i);
        is(zone_slot_find(&p), i, "the one that is freed is found: %d", i);
        fill((uint32_t) i, 200 + (uint64_t) i);
        is(zone_slot_find(&p), -1, "and then it is full again");
    }

    random = 1;
    bad = 0;

    for (i = 0; i < 100000; i++) {
        if (tap_random(&random) % 2) {
            slot = zone_slot_find(&p);
            bad += (slot == -1) != (n == UNIT_SLOTS);

            if (slot != -1) {
                bad += held[slot];
                held[slot] = 1;
                fill((uint32_t) slot, (uint64_t) i);
                n++;
            }

        } else {
            slot = (int64_t) (tap_random(&random) % UNIT_SLOTS);

            if (held[slot]) {
                zone_slot_free(&z, 0, (uint32_t) slot);
                held[slot] = 0;
                n--;
            }
        }

        bad += zone_slots_used(&z, 0) != (uint64_t) n;
    }

    is(bad, 0, "100000 fills and frees, none wrong, all counted");

    for (i = 0; i < UNIT_SLOTS; i++) {
        zone_slot_free(&z, 0, (uint32_t) i);
    }

    /* a count that is off must not close the table */

    zone_lane(&z, 0)->slots_taken--;
    ok(zone_slot_find(&p) != -1, "one too few counted: slots are found");
    is(zone_slots_used(&z, 0), 0, "and none is used");
    zone_lane(&z, 0)->slots_taken++;
    is(unit_check(&z, 1), 0, "no faults");
}


/*
 * A long queue: three quarters of a large table stay with jobs that wait, and
 * what is given out of the rest comes back behind the cursor.  No search may
 * end in the part that is held.
 */

static void
test_backlog(void)
{
    int                   i, n, refused;
    int64_t               slot;
    struct zone           large;
    struct zone_job       job;
    struct zone_geometry  g;
    struct zone_producer  q;

    memset(&g, 0, sizeof(g));
    g.size = 8 * 1024 * 1024;
    g.lanes = 1;

    must(zone_create(tap_file("large"), &g, (uid_t) -1, (gid_t) -1, &e) == 0);
    must(zone_open(&large, tap_file("large"), &e) == 0);
    must(zone_producer_init(&q, &large, 0, &e) == 0);

    n = (int) large.geo.slots;
    refused = 0;

    for (i = 0; i < 4 * n; i++) {
        slot = zone_slot_find(&q);

        if (slot == -1) {
            refused++;
            continue;
        }

        unit_job(&job, 0, (uint32_t) slot, (uint64_t) i + 1);
        zone_slot_fill(&q, (uint32_t) slot, &job);

        if (zone_slots_used(&large, 0) > (uint64_t) n / 4 * 3) {
            zone_slot_free(&large, 0, (uint32_t) slot);
        }
    }

    is(refused, 0, "a table of %d with %d held: always one free", n,
       n / 4 * 3);
}


/*
 * The writer changes all of a job at once, again and again, until it is told
 * to stop.  Every word but the id follows from seq.
 */

struct race {
    _Atomic uint32_t  stop;
    _Atomic uint64_t  written;
};

static struct race  *race;


static void
numbered(struct zone_job *job, uint64_t n)
{
    unit_job(job, 0, 9, 4711);

    job->seq = n;
    job->created_ms = n * 3;
    job->started_ms = n * 5;
    job->body_size = ~n;
    job->attempts = (uint32_t) n;
    job->timeout_s = (uint32_t) n + 1;
    job->location = (uint32_t) n ^ 0x5555;
    memset(job->owner, (int) (n * 7), ZONE_DIGEST_SIZE);
    job->queue = (uint32_t) n * 7;
    job->delay_s = (uint32_t) n * 11;
}


static void *
writer(void *arg)
{
    uint64_t         n;
    struct zone_job  job;

    for (n = 1; !race->stop; n++) {
        numbered(&job, n);
        zone_slot_write(&z, 0, 9, &job, n % 2 ? ZONE_SLOT_QUEUED
                                              : ZONE_SLOT_RUNNING);
        race->written = n;
    }

    return arg;
}


static void
read_race(const char *who)
{
    int              i, state, torn, back, unsteady;
    uint64_t         last, seen;
    struct zone_job  got, want;

    numbered(&want, 0);
    torn = back = unsteady = 0;
    last = seen = 0;

    while (race->written == 0) { /* it has begun */ }

    /* A writer that is not running now cannot be raced: wait for it. */

    for (i = 0; i < READS || seen < 1000; i++) {
        state = zone_slot_read(&z, want.id, &got);

        if (state == -1) {
            unsteady++;
            continue;
        }

        numbered(&want, got.seq);
        torn += memcmp(&want, &got, sizeof(got)) != 0;
        torn += state != (got.seq % 2 ? ZONE_SLOT_QUEUED : ZONE_SLOT_RUNNING);
        back += got.seq < last;
        seen += got.seq != last;
        last = got.seq;
    }

    race->stop = 1;

    is(torn, 0, "no read is torn, against a %s", who);
    is(back, 0, "none goes back in time");
    ok(unsteady < i, "%d reads saw %ju jobs, %d were left to the store", i,
       (uintmax_t) seen, unsteady);
}


static void
test_race(void)
{
    pid_t            pid;
    pthread_t        thread;
    struct zone_job  job;

    race = mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                -1, 0);
    must(race != MAP_FAILED);

    unit_job(&job, 0, 9, 4711);
    zone_slot_fill(&p, 9, &job);

    pid = tap_fork();

    if (pid == 0) {
        (void) writer(NULL);
        _exit(0);
    }

    read_race("process");
    is(tap_wait(pid), 0, "the process ends");

    race->stop = 0;
    race->written = 0;

    must(pthread_create(&thread, NULL, writer, NULL) == 0);
    read_race("thread");
    must(pthread_join(thread, NULL) == 0);
}


int
main(void)
{
    tap_begin();
    unit_zone(&z, "zone", 1);
    must(zone_producer_init(&p, &z, 0, &e) == 0);

    test_life();
    test_exhausted();
    test_backlog();
    test_race();

    return tap_end();
}
