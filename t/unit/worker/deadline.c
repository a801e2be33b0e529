/*
 * The heap of deadlines must have the earliest on top, whatever came and went,
 * and must not grow with jobs that were settled long before their time: at a
 * thousand jobs a second with a deadline of a day it would be all memory.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


#define JOBS        1000
#define LIVE        10                          /* each tenth job stays */


static int
is_heap(const struct deadlines *h)
{
    uint32_t  i;

    for (i = 1; i < h->n; i++) {
        if (h->heap[(i - 1) / 2].at_ms > h->heap[i].at_ms) {
            return 0;
        }
    }

    return 1;
}


static int
has(const struct deadlines *h, uint64_t seq)
{
    uint32_t  i, n;

    for (i = 0, n = 0; i < h->n; i++) {
        n += h->heap[i].seq == seq;
    }

    return n == 1;
}


int
main(void)
{
    int                wrong;
    uint8_t            id[ZONE_ID_SIZE] = { 0 };
    uint32_t           i;
    uint64_t           seq, day, first;
    struct offloadd   *d;
    struct deadlines  *h;

    tap_begin();
    d = calloc(1, sizeof(*d));
    must(d != NULL);
    h = &d->deadlines;
    day = clock_ms() + 86400000;

    is(deadline_next(d), UINT64_MAX, "none");
    is(deadline_add(d, 1, 0), 0, "a job without one");
    is(h->n, 0, "is not there");

    for (seq = 1; seq <= JOBS; seq++) {
        i = job_add(&d->sched.table, seq, id);
        must(i != JOB_NONE);
        must(deadline_add(d, seq, day + seq * 7919 % 1000) == 0);

        if (seq % LIVE) {
            job_remove(&d->sched.table, i);
        }
    }

    ok(is_heap(h), "the earliest is on top");
    ok(h->n < JOBS / 2, "few are kept of those that are settled: %u", h->n);

    for (wrong = 0, seq = LIVE; seq <= JOBS; seq += LIVE) {
        wrong += !has(h, seq);
    }

    is(wrong, 0, "and all of those that are not");

    first = h->heap[0].at_ms - clock_ms();
    ok(deadline_next(d) - mono_ms() <= first + 10, "when the first is due");

    h->heap[0].at_ms = 1;
    h->heap[0].seq = JOBS + 1;                  /* settled long ago */
    ok(deadline_next(d) <= mono_ms(), "it is due");
    deadline_run(d);
    ok(h->n > 0 && h->heap[0].at_ms > 1 && is_heap(h), "and then gone");

    d->loop.stop = LOOP_HAND_BACK;
    is(deadline_next(d), UINT64_MAX, "none while all is handed back");

    deadline_free(d);
    job_table_free(&d->sched.table);
    free(d);

    return tap_end();
}
