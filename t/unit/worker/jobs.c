/*
 * Jobs in memory: each is found by its number, however many there are, and
 * takes little room.  And the figures that the scheduler makes of them: how
 * long one waits that is tried again, how long one usually takes.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


static void
test_many(void)
{
    uint32_t          i, bad;
    uint64_t          seq;
    uint8_t           id[ZONE_ID_SIZE];
    struct job_table  t;

    memset(&t, 0, sizeof(t));
    memset(id, 0, sizeof(id));

    for (seq = 1; seq <= 100000; seq++) {
        must(job_add(&t, seq * 3, id) != JOB_NONE);
    }

    for (seq = 1, bad = 0; seq <= 300000; seq++) {
        i = job_find(&t, seq);
        bad += (i != JOB_NONE) != (seq % 3 == 0);
        bad += i != JOB_NONE && job_at(&t, i)->seq != seq;
    }

    is(bad, 0, "100000 jobs are found, and nothing else");
    ok(sizeof(struct job) + 2 * sizeof(uint32_t) <= 100,
       "a waiting job takes no more than 100 bytes");

    job_table_free(&t);
}


static void
test_backoff(void)
{
    int           i, n;
    uint64_t      ms, most, seen;
    struct sched  s;

    memset(&s, 0, sizeof(s));
    must(sched_init(&s) == 0);

    for (n = 0; n < 12; n++) {
        most = n < 6 ? 500ull << n : 30000;
        seen = 0;

        for (i = 0, ms = 0; i < 2000 && ms <= most; i++) {
            ms = sched_backoff(&s, (uint32_t) n);
            seen = ms > seen ? ms : seen;
        }

        ok(ms <= most && seen > most * 9 / 10,
           "retry %d waits anything up to %d ms", n, (int) most);
    }

    sched_free(&s);
}


static void
test_service(void)
{
    int           i;
    struct sched  s;

    memset(&s, 0, sizeof(s));

    sched_service(&s, 1000);
    is(s.service_us, 1000, "the first sample is the estimate");

    for (i = 0; i < 100; i++) {
        sched_service(&s, 1000);
    }

    sched_service(&s, 3600000000ull);
    ok(s.service_us < 2000, "one hung job does not spoil it");

    for (i = 0; i < 200; i++) {
        sched_service(&s, 50000);
    }

    ok(s.service_us > 45000 && s.service_us <= 50001, "a change is followed");
}


int
main(void)
{
    tap_begin();

    test_many();
    test_backoff();
    test_service();

    return tap_end();
}
