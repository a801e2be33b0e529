/*
 * A rate is a promise to somebody else's limit, so it is held exactly: in
 * whatever pattern jobs arrive, however late commits are, and over a worker
 * that is killed at any moment and started again at once.  Thousands of
 * random runs on a clock of their own; each send is measured against all
 * before it.  And it is used up: a rate that is never reached is no rate.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


#define SENDS  400
#define OPS    64

struct op {
    int       start;
    uint64_t  tat;
    uint64_t  commit_at;
    uint64_t  settle_at;                        /* START: ends then */
};

static struct rate  rate;
static uint64_t     sends[SENDS];
static int          nsends;

/* What is on its way to the store, in order; who runs, by its end. */
static struct op    ops[OPS];
static int          nops;
static uint64_t     running[SENDS];
static int          nrunning;
static uint64_t     stored;
static uint32_t     rows;                       /* RUNNING in the store */


static uint64_t
upto(uint64_t n)
{
    return n ? (uint64_t) random() % n : 0;
}


static void
submit(int start, uint64_t now, uint64_t commit, uint64_t run)
{
    struct op  *op = &ops[nops++];

    must(nops < OPS);
    op->start = start;
    op->tat = rate_plan(&rate, now);
    op->commit_at = now + commit;
    op->settle_at = run;

    if (nops > 1 && op->commit_at < op[-1].commit_at) {
        op->commit_at = op[-1].commit_at;
    }
}


/* Transactions: the oldest first. */

static void
commits(uint64_t now)
{
    struct op  op;

    while (nops && ops[0].commit_at <= now) {
        op = ops[0];
        memmove(ops, ops + 1, (size_t) --nops * sizeof(op));
        stored = op.tat;

        if (!op.start) {
            rows--;
            continue;
        }

        rows++;
        rate_sent(&rate, now);
        sends[nsends++] = now;
        running[nrunning++] = now + op.settle_at;
    }
}


static void
settles(uint64_t now, uint64_t commit)
{
    int  i;

    for (i = 0; i < nrunning; i++) {
        if (running[i] <= now && nops < OPS / 2) {
            running[i--] = running[--nrunning];
            submit(0, now, upto(commit), 0);
        }
    }
}


static void
killed(uint32_t count, uint64_t period_ms, uint32_t burst, uint64_t now)
{
    memset(&rate, 0, sizeof(rate));
    rate_set(&rate, count, period_ms, burst);
    rate_restore(&rate, now, stored);
    rate_restarted(&rate, now, rows);
    stored = rate.tat;                          /* as recovery stores it */

    rows = 0;                                   /* queued again */
    nops = 0;
    nrunning = 0;
}


/* Any n sends beyond the burst take the time of n - 1 intervals. */

static int
exceeded(uint64_t interval, uint32_t burst)
{
    int  i, k, bad;

    for (i = 0, bad = 0; i < nsends; i++) {
        for (k = 1; i + (int) burst + k < nsends; k++) {
            bad += sends[i + (int) burst + k] - sends[i]
                   < (uint64_t) k * interval;
        }
    }

    return bad;
}


static int
run(int kills, uint64_t commit_max)
{
    uint32_t  count, burst;
    uint64_t  now, idle, period_ms, interval, commit, ends;

    count = 1 + (uint32_t) upto(20);
    period_ms = 10 + upto(1000);
    burst = (uint32_t) upto(6);
    commit = upto(commit_max ? commit_max * period_ms * 1000 / count : 0);

    memset(&rate, 0, sizeof(rate));
    rate_set(&rate, count, period_ms, burst);
    interval = rate.interval;
    now = 1000000;
    idle = now;
    nsends = nops = nrunning = 0;
    stored = 0;
    rows = 0;

    while (nsends < SENDS - OPS) {
        now += 1 + upto(interval / 4);

        commits(now);
        settles(now, commit);

        if (kills && random() % 60 == 0) {
            killed(count, period_ms, burst, now);
        }

        if (random() % 200 == 0) {
            idle = now + upto(interval * 30);   /* nothing arrives */
        }

        while (now >= idle && nops < OPS / 2 && rate_due(&rate, now) <= now) {
            ends = upto(interval * 8);
            rate_reserve(&rate);
            submit(1, now, upto(commit), ends);
            commits(now);
        }
    }

    return exceeded(interval, burst);
}


static void
test_random(void)
{
    int  i, bad;

    srandom(11);

    for (i = 0, bad = 0; i < 200; i++) {
        bad += run(0, 0);
    }

    is(bad, 0, "never exceeded by random arrivals");

    for (i = 0, bad = 0; i < 200; i++) {
        bad += run(0, 4);
    }

    is(bad, 0, "nor with commits that take their time");

    for (i = 0, bad = 0; i < 600; i++) {
        bad += run(1, 4);
    }

    is(bad, 0, "nor over a worker that is killed at any moment");
}


/* Always something to send, at once: exactly at the rate. */

static void
test_used(void)
{
    int       n;
    uint64_t  now, due;

    memset(&rate, 0, sizeof(rate));
    rate_set(&rate, 10, 1000, 5);

    for (n = 0, now = 1000000; n < 106; n++) {
        due = rate_due(&rate, now);
        now = due > now ? due : now;
        rate_reserve(&rate);
        rate_sent(&rate, now);
    }

    is(now, 1000000 + 10000000, "a burst of 6, then 100 in exactly 10 s");

    now += 3600000000ull;

    for (n = 0; rate_due(&rate, now) <= now; n++) {
        rate_reserve(&rate);
        rate_sent(&rate, now);
    }

    is(n, 6, "an idle hour gives the burst, no more");
    is(rate_due(&rate, now), now + 100000, "and the next when it is due");
}


static void
test_pending(void)
{
    memset(&rate, 0, sizeof(rate));
    rate_set(&rate, 1, 1000, 0);

    rate_reserve(&rate);
    is(rate_due(&rate, 5), UINT64_MAX, "one that is promised holds the next");
    is(rate_due(&rate, 5000000), UINT64_MAX, "however long it takes");
    rate_sent(&rate, 5000000);
    is(rate_due(&rate, 5000000), 6000000, "which counts from when it began");

    rate_reserve(&rate);
    rate_undo(&rate);
    is(rate_due(&rate, 6000000), 6000000, "one that never began is free");

    rate_restore(&rate, 10, UINT64_MAX / 2);
    is(rate_due(&rate, 10), 1000010, "a clock set back does not stop it");

    rate_set(&rate, 3, 1000, 0);
    is(rate.interval, 333334, "fractions are rounded to the safe side");

    rate_set(&rate, 0, 0, 0);
    is(rate_due(&rate, 1), 1, "no rate is no limit");
}


int
main(void)
{
    tap_begin();

    test_random();
    test_used();
    test_pending();

    return tap_end();
}
