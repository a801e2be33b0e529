/*
 * Anyone's scribbling in a mapped zone: whatever stands in it, no function
 * reads or writes outside of the mapping, and none goes on for ever.
 *
 * The input is one byte that says how, then a list of changes, nine bytes
 * each: a place (one byte says which part of the zone, two bytes where in it),
 * a width and a value.  They are made to a good zone with jobs in it; then
 * both sides go to work.
 *
 * With -DFUZZ_MAIN a program by itself (fuzz_main.h), else for libFuzzer.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zone.h"
#include "zone_queue.h"


#define FUZZ_JOBS    8
#define FUZZ_CHANGE  9                          /* bytes of input */
#define FUZZ_SIZE    (ZONE_HEADER_SIZE + 4096 + 8192 + 196608 + 262144)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static int       fuzz_fd;
static char      fuzz_path[64];
static uint8_t  *fuzz_good;                     /* the zone before */
static uint8_t   fuzz_copy[FUZZ_SIZE];          /* and with the changes */


static void
fuzz_die(const char *why)
{
    fprintf(stderr, "%s\n", why);
    abort();
}


static void
fuzz_submit(struct zone_producer *p, uint64_t n)
{
    int64_t              slot;
    struct zone_job      job;
    struct zone_record  *rec;

    slot = zone_slot_find(p);

    if (slot == -1) {
        return;
    }

    memset(&job, 0, sizeof(job));
    job.id[2] = (uint8_t) (slot >> 8);
    job.id[3] = (uint8_t) slot;
    job.created_ms = n;

    rec = zone_sq_reserve(p, ZONE_RECORD_JOB, n * 97 % 1500);

    if (rec == NULL) {
        return;
    }

    zone_slot_fill(p, (uint32_t) slot, &job);
    rec->slot = (uint32_t) slot;
    memcpy(rec->id, job.id, sizeof(job.id));
    memset(zone_record_payload(rec), (int) n, rec->payload);
    zone_sq_publish(p);
}


static void
fuzz_clean(void)
{
    (void) unlink(fuzz_path);
}


/* A zone of one lane with jobs at the ring's end and its start. */

static void
fuzz_init(void)
{
    int                     i;
    struct zone             z;
    struct zone_error       e;
    struct zone_producer    p;
    struct zone_geometry    g;
    struct zone_completion  c;

    memset(&g, 0, sizeof(g));
    g.size = FUZZ_SIZE;
    g.lanes = 1;
    g.slots = 64;

    snprintf(fuzz_path, sizeof(fuzz_path), "/tmp/ofl-fuzz-%d", (int) getpid());

    if (zone_create(fuzz_path, &g, (uid_t) -1, (gid_t) -1, &e) == -1
        || zone_open(&z, fuzz_path, &e) == -1)
    {
        fuzz_die(e.text);
    }

    atexit(fuzz_clean);
    fuzz_fd = open(fuzz_path, O_RDWR);

    zone_lane(&z, 0)->sq_head = z.geo.sq_size - 2048;
    zone_lane(&z, 0)->sq_tail = z.geo.sq_size - 2048;

    if (zone_producer_init(&p, &z, 0, &e) == -1) {
        fuzz_die(e.text);
    }

    for (i = 0; i < FUZZ_JOBS; i++) {
        fuzz_submit(&p, (uint64_t) i + 1);
    }

    memset(&c, 0, sizeof(c));
    c.type = ZONE_RECORD_JOB;
    (void) zone_cq_post(&z, 0, &c);

    fuzz_good = malloc(FUZZ_SIZE);

    if (fuzz_good == NULL || fuzz_fd == -1) {
        fuzz_die("no memory or no file");
    }

    memcpy(fuzz_good, z.base, FUZZ_SIZE);
    zone_close(&z);
}


/* The parts, so that most changes hit something that matters. */

static const struct {
    uint32_t  offset;
    uint32_t  size;
} fuzz_parts[] = {
    { 0, 128 },                                 /* header */
    { ZONE_WORKER_OFFSET, 128 },
    { ZONE_HEADER_SIZE, 128 },                  /* lane header */
    { ZONE_SERVICE_OFFSET, 3 * 448 },
    { ZONE_QUEUE_OFFSET, 400 },                 /* one queue's figures */
    { ZONE_HEADER_SIZE + 4096, 64 * 128 },      /* slots */
    { ZONE_HEADER_SIZE + 12288, 4096 },         /* CQ */
    { ZONE_HEADER_SIZE + 12288 + 196608, 4096 },  /* SQ: its start */
    { FUZZ_SIZE - 2048, 2048 },                 /* and its end */
};


#define FUZZ_PARTS   (sizeof(fuzz_parts) / sizeof(fuzz_parts[0]))

static void
fuzz_scribble(uint8_t *base, const uint8_t *p)
{
    uint16_t  where;
    uint32_t  offset, width;

    memcpy(&where, p + 1, sizeof(where));

    width = 1u << (p[3] & 3);
    offset = where % fuzz_parts[p[0] % FUZZ_PARTS].size & ~(width - 1);
    memcpy(base + fuzz_parts[p[0] % FUZZ_PARTS].offset + offset, p + 4,
           width < 5 ? width : 5);
}


static void
fuzz_report(void *ctx, const char *text)
{
    *(size_t *) ctx += strlen(text);
}


static void
fuzz_consume(struct zone *z)
{
    size_t                i, n;
    uint8_t              *payload;
    volatile uint8_t      byte;
    struct zone_job       job;
    struct zone_error     e;
    struct zone_record   *rec;
    struct zone_consumer  c;

    if (zone_consumer_init(&c, z, 0, &e) == -1) {
        return;
    }

    for (n = 0; zone_sq_peek(&c, &rec, &e) == 1; n++) {
        payload = zone_record_payload(rec);

        for (i = 0; i < rec->payload; i++) {
            byte = payload[i];
            (void) byte;
        }

        memset(&job, 0, sizeof(job));
        memcpy(job.id, rec->id, sizeof(job.id));
        zone_slot_write(z, 0, rec->slot, &job, ZONE_SLOT_QUEUED);
        (void) zone_slot_read(z, rec->id, &job);
        zone_slot_free(z, 0, rec->slot);

        if (n > FUZZ_SIZE / 64) {
            fuzz_die("a ring without an end");
        }

        zone_sq_release(&c);
    }
}


/* Whatever was measured, estimates are numbers one can send. */

static void
fuzz_estimate(struct zone *z)
{
    uint32_t              i;
    struct zone_times     all, own;
    struct zone_turns     t;
    struct zone_outlook   o;
    struct zone_estimate  e;
    struct zone_service  *s;

    for (i = 0; i < 40; i++) {
        s = zone_service_take(zone_services(z), i, i);

        if (s) {
            zone_service_add(s, 1ull << i, i);
        }

        zone_times_read(&all, zone_services(z));
        zone_times_of(&own, zone_services(z), i);

        memset(&o, 0, sizeof(o));
        o.running = i % 2;
        o.waited_ms = 1ull << i;
        o.running_ms = o.waited_ms / 2;
        zone_turns_read(&t, z, zone_queues(z)->hash[0]);
        o.ahead = i % 3 ? zone_turns_ahead(&t, 1ull << i) : UINT64_MAX / 2;
        o.busy = t.busy;
        o.concurrency = i % 5 ? t.concurrency
                              : zone_services(z)[1].bucket[0];
        o.delay_ms = zone_turns_rate(&t, o.ahead, 1ull << i);
        o.held = (t.flags & ZONE_QUEUE_HELD) != 0;
        o.timeout_ms = 300000;

        zone_estimate(&e, &o, &all, &own);

        if (e.retry_s == 0 || e.least_ms > e.left_ms
            || e.left_ms > 400ull * 86400 * 1000)
        {
            fuzz_die("an estimate out of range");
        }
    }
}


static void
fuzz_work(struct zone *z, int check)
{
    size_t                  sum, i;
    struct zone_error       e;
    struct zone_repair      r;
    struct zone_producer    p;
    struct zone_completion  c;

    sum = 0;

    if (check) {
        (void) zone_check(z, fuzz_report, &sum);
    }

    fuzz_estimate(z);
    fuzz_consume(z);
    (void) zone_lane_repair(z, 0, &r, &e);

    if (zone_producer_init(&p, z, 0, &e) == 0) {
        for (i = 0; i < 300; i++) {
            fuzz_submit(&p, i);
        }
    }

    memset(&c, 0, sizeof(c));
    c.type = ZONE_RECORD_CANCEL;

    for (i = 0; i < 5000 && zone_cq_post(z, 0, &c) == 0; i++) { /* void */ }
    for (i = 0; i < 5000 && zone_cq_pop(z, 0, &c) == 1; i++) { /* void */ }

    if (zone_slots_used(z, 0) > 64) {
        fuzz_die("more slots than there are");
    }

    fuzz_consume(z);
}


/*
 * The first byte: bit 0: the changes are in the file before it is opened, or
 * they come while it is mapped; the six highest all 0: zone_check() as well,
 * which takes its time over what it finds.
 */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                how;
    size_t             i;
    uint8_t           *p;
    struct zone        z;
    struct zone_error  e;

    if (fuzz_good == NULL) {
        fuzz_init();
    }

    how = size ? data[0] : 1;

    memcpy(fuzz_copy, fuzz_good, FUZZ_SIZE);

    for (i = 1; i + FUZZ_CHANGE <= size; i += FUZZ_CHANGE) {
        fuzz_scribble(fuzz_copy, data + i);
    }

    p = how & 1 ? fuzz_good : fuzz_copy;

    if (pwrite(fuzz_fd, p, FUZZ_SIZE, 0) != FUZZ_SIZE) {
        fuzz_die("pwrite");
    }

    if (zone_open(&z, fuzz_path, &e) == -1) {
        return 0;
    }

    if (how & 1) {
        memcpy(z.base, fuzz_copy, FUZZ_SIZE);
    }

    fuzz_work(&z, how >> 2 == 0);
    zone_close(&z);

    return 1;
}


#ifdef FUZZ_MAIN

#include "fuzz_main.h"


size_t
fuzz_make(uint8_t *to, size_t max, uint64_t *random)
{
    size_t    n, i;
    uint64_t  x;

    n = 1 + FUZZ_CHANGE * (fuzz_random(random) % 4);

    if (n > max) {
        abort();
    }

    for (i = 0; i < n; i++) {
        x = fuzz_random(random) >> 24;
        to[i] = i % 9 > 3 && x & 0x300 ? (x & 0x100 ? 0 : 0xff) : (uint8_t) x;
    }

    return n;
}


int
main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 4000);
}

#endif
