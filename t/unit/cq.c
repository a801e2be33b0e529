/*
 * The completion ring: what offloadd posts nginx pops, in order; a full ring
 * and a counter that cannot be are refused by both sides.
 */

#include <pthread.h>
#include <sched.h>

#include "unit.h"


#define ANSWERS  200000


static struct zone        z;
static struct zone_lane  *lane;


static struct zone_completion
completion(uint64_t n)
{
    struct zone_completion  c;

    memset(&c, 0, sizeof(c));
    c.token = n;
    c.type = n % 2 ? ZONE_RECORD_JOB : ZONE_RECORD_CANCEL;
    c.result = n % ZONE_RESULTS;
    unit_pattern(c.id, sizeof(c.id), n);
    unit_pattern(c.job, sizeof(c.job), n + 1);

    return c;
}


static int
post(uint64_t n)
{
    struct zone_completion  c;

    c = completion(n);

    return zone_cq_post(&z, 0, &c);
}


static int
pop(uint64_t n)
{
    struct zone_completion  c, want;

    want = completion(n);
    memset(&c, 0, sizeof(c));

    return zone_cq_pop(&z, 0, &c) == 1 && memcmp(&c, &want, sizeof(c)) == 0;
}


static void *
post_all(void *arg)
{
    uint64_t  n;

    for (n = 0; n < ANSWERS; n++) {
        while (post(n) == -1) {
            sched_yield();
        }
    }

    return arg;
}


/* An entry is written before it is seen, and read before it is reused. */

static void
test_threads(void)
{
    int                     rc;
    uint64_t                n, bad;
    pthread_t               thread;
    struct zone_completion  c, want;

    must(pthread_create(&thread, NULL, post_all, NULL) == 0);

    for (n = 0, bad = 0; n < ANSWERS; /* void */ ) {
        rc = zone_cq_pop(&z, 0, &c);

        if (rc == 0) {
            sched_yield();
            continue;
        }

        want = completion(n++);
        bad += rc != 1 || memcmp(&c, &want, sizeof(c)) != 0;
    }

    must(pthread_join(thread, NULL) == 0);
    is(bad, 0, "%d go from one thread to another, whole and in order",
       ANSWERS);
}


int
main(void)
{
    int                     bad;
    uint64_t                i, n;
    struct zone_completion  c;

    tap_begin();
    unit_zone(&z, "zone", 1);
    lane = zone_lane(&z, 0);

    is(zone_cq_pop(&z, 0, &c), 0, "empty");
    is(post(1), 0, "one is posted");
    ok(pop(1), "and popped as it was");
    is(zone_cq_pop(&z, 0, &c), 0, "once");

    for (n = 0; n <= ZONE_CQ_ENTRIES && post(n) == 0; n++) { /* void */ }

    is(n, ZONE_CQ_ENTRIES, "it takes 4096");
    is(post(n), -1, "and refuses one more");

    bad = 0;

    for (i = 0; i < 10000; i++) {
        bad += !pop(i) || post(n++) != 0;
    }

    is(bad, 0, "10000 go through the full ring in order");

    for (i = 10000; i < n; i++) {
        bad += !pop(i);
    }

    is(bad, 0, "and the rest comes out");
    is(zone_cq_pop(&z, 0, &c), 0, "until it is empty");

    lane->cq_head = UINT64_MAX - 1;
    lane->cq_tail = UINT64_MAX - 1;
    bad = 0;

    for (i = 0; i < 10; i++) {
        bad += post(i) != 0 || !pop(i);
    }

    is(bad, 0, "counters may pass 2^64");

    test_threads();

    lane->cq_tail = lane->cq_head - 1;
    is(zone_cq_pop(&z, 0, &c), -1, "a tail behind the head is refused");
    is(post(1), -1, "by both sides");
    lane->cq_tail = lane->cq_head + ZONE_CQ_ENTRIES + 1;
    is(zone_cq_pop(&z, 0, &c), -1, "so is one too far ahead");
    is(post(1), -1, "by both sides");

    lane->cq_head = lane->cq_tail = 0;
    must(post(1) == 0);
    ((struct zone_completion *) ((uint8_t *) lane + z.geo.cq_offset))->type = 7;
    is(zone_cq_pop(&z, 0, &c), -1, "a type that is none is refused");

    lane->cq_head = lane->cq_tail = 0;
    must(post(1) == 0);
    ((struct zone_completion *) ((uint8_t *) lane + z.geo.cq_offset))->result
        = ZONE_RESULTS;
    is(zone_cq_pop(&z, 0, &c), -1, "so is a result that is none");

    is(zone_cq_pop(&z, 1, &c), -1, "there is no lane 1 to pop from");
    is(zone_cq_post(&z, 1, &c), -1, "or to post to");

    return tap_end();
}
