/*
 * What a queue learns of its backend, on a clock of its own: it settles near
 * what the backend bears, by refusals or by latency, finds back when there is
 * more, and never goes above what it was told.  A backend that is down sees
 * one probe at a time, ever more rarely.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


#define MOST      100
#define LATENCY   100000ull

struct running {
    uint64_t  started;
    uint64_t  ends;
    int       refused;
};

static struct adapt    a;
static struct running  attempts[MOST];
static uint32_t        nattempts;
static uint64_t        now;
static uint32_t        low, high;               /* limits seen */
static uint64_t        latency = LATENCY;


static void
finish(uint32_t i)
{
    struct running  r = attempts[i];

    adapt_answer(&a, now, r.started, nattempts, r.refused);
    attempts[i] = attempts[--nattempts];
    low = a.limit < low ? a.limit : low;
    high = a.limit > high ? a.limit : high;
}


/* A backend that refuses the (bears+1)-th, or becomes slower by it. */

static void
run(uint64_t us, uint32_t bears, int refuses, uint32_t offered)
{
    uint32_t         i;
    uint64_t         until = now + us, took;
    struct running  *r;

    low = UINT32_MAX;
    high = 0;

    for ( /* void */ ; now < until; now += 1000) {

        for (i = 0; i < nattempts; i++) {
            if (attempts[i].ends <= now) {
                finish(i--);
            }
        }

        while (nattempts < a.limit && nattempts < offered) {
            r = &attempts[nattempts];
            took = latency / 2 + (uint64_t) random() % latency;
            r->refused = refuses && nattempts >= bears;
            r->started = now;
            r->ends = now + (r->refused ? 2000
                             : !refuses && nattempts >= bears
                               ? took * (nattempts + 1) / bears : took);
            nattempts++;
        }
    }
}


static void
test_refused(void)
{
    srandom(3);
    adapt_init(&a, MOST);
    ok(a.limit < MOST / 2, "it begins low");

    run(60000000, MOST, 1, MOST);
    is(a.limit, MOST, "without a complaint it goes up to what it may");
    is(high, MOST, "and never above");

    run(20000000, 10, 1, MOST);
    run(60000000, 10, 1, MOST);
    tap_say("a backend that bears 10: %u to %u", low, high);
    ok(low >= 4 && high <= 12, "a backend that bears 10 gets about as many");

    run(300000000, MOST, 1, MOST);
    is(a.limit, MOST, "when it bears more it gets more");

    adapt_most(&a, 20);
    is(a.limit, 20, "a lower policy counts at once");
    adapt_most(&a, MOST);
    run(60000000, 0, 1, MOST);
    is(a.limit, 1, "one that refuses everything gets one at a time");
    run(1, MOST, 1, 0);
    nattempts = 0;
}


static void
test_latency(void)
{
    adapt_init(&a, MOST);
    nattempts = 0;
    run(60000000, 12, 0, 6);
    ok(a.limit < MOST, "what is not tried out is not raised");

    run(20000000, 12, 0, MOST);
    run(60000000, 12, 0, MOST);
    tap_say("a backend that is slower above 12: %u to %u", low, high);
    ok(high < 60, "latency that climbs counts as a complaint");
    ok(low > 3, "but not too much");
    nattempts = 0;
}


static void
test_slower(void)
{
    adapt_init(&a, MOST);
    nattempts = 0;
    run(60000000, MOST, 0, MOST);
    is(a.limit, MOST, "a backend that bears all");

    latency = LATENCY * 10;
    run(120000000, MOST, 0, MOST);
    run(60000000, MOST, 0, MOST);
    tap_say("ten times slower for good: %u to %u", low, high);
    ok(low > MOST / 4, "becomes slower by nature, and gets as many again");
    latency = LATENCY;
    nattempts = 0;
}


static void
test_once(void)
{
    uint32_t  i, before;

    adapt_init(&a, MOST);
    now += 1000000;

    for (i = 0; i < 2 * MOST; i++) {
        adapt_answer(&a, now, now - 1000, a.limit, 0);
    }

    before = a.limit;
    now += 1000000;

    for (i = 0; i < 30; i++) {
        adapt_answer(&a, now + i, now - 1000, a.limit, 1);
    }

    is(a.limit, before / 2, "30 complaints of one moment are one");
    adapt_answer(&a, now + 500000, now + 100000, a.limit, 1);
    is(a.limit, before / 4, "that of one begun later is another");
}


static void
test_circuit(void)
{
    int             i, bad;
    uint64_t        at, last;
    struct circuit  c;

    memset(&c, 0, sizeof(c));
    c.base_us = 1000000;
    c.max_us = 30000000;
    at = 100;

    for (i = 0, bad = 0; i < 50; i++) {
        bad += circuit_bad(&c, at, at - 1, 10, 0);
        (void) (i % (CIRCUIT_FAILURES - 1) == CIRCUIT_FAILURES - 2
                && circuit_good(&c));
    }

    is(bad, 0, "failures with a success between are just failures");
    (void) circuit_good(&c);

    for (i = 1; i < CIRCUIT_FAILURES; i++) {
        bad += circuit_bad(&c, at, at - 1, 10, 0);
    }

    is(bad, 0, "so are %d in a row", CIRCUIT_FAILURES - 1);
    is(circuit_bad(&c, at, at - 1, 10, 0), 1, "one more opens it");
    is(circuit_due(&c, at), at + 500000, "for half a backoff at least");
    is(circuit_bad(&c, at + 9, at - 1, 10, 0), 0,
       "those begun before are no news");

    last = 0;

    for (i = 0, bad = 0; i < 20; i++) {
        at = circuit_due(&c, at);
        bad += circuit_begin(&c) != 1;
        bad += circuit_due(&c, at + 60000000) != UINT64_MAX;
        bad += circuit_bad(&c, at + 10, at, 10, UINT64_MAX / 3) != 1;
        bad += c.until - c.opened_at < last / 4;
        last = c.until - c.opened_at;
        bad += last < c.base_us / 2 || last > c.max_us;
    }

    is(bad, 0, "one probe at a time, ever more rarely, up to the most");
    ok(last >= c.max_us / 2, "which is reached");

    at = circuit_due(&c, at);
    must(circuit_begin(&c) == 1);
    is(circuit_neither(&c, at, 1), 1, "a probe that says nothing");
    ok(circuit_due(&c, at) < at + c.base_us, "is sent again soon");
    is(circuit_neither(&c, at, 0), 0, "another attempt's end is nothing");

    is(circuit_good(&c), 1, "one that is answered closes it");
    is(circuit_due(&c, at), at, "and all go on");
    is(circuit_begin(&c), 0, "as usual");

    c.base_us = 0;

    for (i = 0, bad = 0; i < 100; i++) {
        bad += circuit_bad(&c, at, at, 10, 0);
    }

    is(bad, 0, "a queue that nobody configured has none");
}


int
main(void)
{
    tap_begin();
    now = 1000000;

    test_refused();
    test_latency();
    test_slower();
    test_once();
    test_circuit();

    return tap_end();
}
