/*
 * Who is next: the oldest job that may run, whatever happened to it before.
 * Each job waits in exactly one place, and is found by its number wherever
 * that is.  A long random run against a plain array that can not be wrong.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


#define JOBS  5000

enum { OUT = 0, READY, WAITING, TAKEN };

static struct {
    int       place;
    uint64_t  at;
} model[JOBS + 1];


static uint64_t
model_first(void)
{
    uint64_t  i;

    for (i = 1; i <= JOBS; i++) {
        if (model[i].place == READY) {
            return i;
        }
    }

    return 0;
}


static void
test_random(void)
{
    int                wrong, lost, bad_wait;
    uint32_t           i, n;
    uint64_t           now, seq, last, pick, count;
    uint8_t            id[ZONE_ID_SIZE];
    struct job_table   t;
    struct job_queue   q;

    memset(&t, 0, sizeof(t));
    memset(id, 0, sizeof(id));
    queue_init(&q);
    srandom(7);

    now = 0;
    last = 0;
    wrong = lost = bad_wait = 0;

    for (n = 0; n < 200000; n++) {

        switch (random() % 6) {

        case 0:                                 /* a new one */
        case 1:
            if (last == JOBS) {
                break;
            }

            i = job_add(&t, ++last, id);
            must(i != JOB_NONE && queue_push(&q, &t, i) == 0);
            model[last].place = READY;
            break;

        case 2:                                 /* the next one's turn */
            i = queue_first(&q, &t);
            pick = model_first();

            if ((i == JOB_NONE) != (pick == 0)
                || (pick && job_at(&t, i)->seq != pick))
            {
                wrong++;
            }

            if (i != JOB_NONE) {
                model[job_at(&t, i)->seq].place = TAKEN;
                queue_take(&q, &t, i);
                job_at(&t, i)->place = JOB_ATTEMPT;
            }
            break;

        case 3:                                 /* any ends, or is canceled */
            seq = 1 + (uint64_t) random() % JOBS;
            i = job_find(&t, seq);
            lost += (i == JOB_NONE) != (model[seq].place == OUT);

            if (i != JOB_NONE) {
                queue_take(&q, &t, i);
                job_remove(&t, i);
                model[seq].place = OUT;
            }
            break;

        case 4:                                 /* a taken one comes back */
            seq = 1 + (uint64_t) random() % JOBS;

            if (model[seq].place != TAKEN) {
                break;
            }

            i = job_find(&t, seq);
            must(i != JOB_NONE);
            job_at(&t, i)->place = JOB_FREE;

            if (random() % 3 == 0) {
                must(queue_push_due(&q, &t, i) == 0);
                model[seq].place = READY;

            } else {
                model[seq].place = WAITING;
                model[seq].at = now + (uint64_t) random() % 500;
                must(queue_push_backoff(&q, &t, i, model[seq].at) == 0);
            }
            break;

        default:                                /* time goes by */
            now += (uint64_t) random() % 20;
            queue_due(&q, &t, now);

            for (seq = 1; seq <= last; seq++) {
                if (model[seq].place == WAITING && model[seq].at <= now) {
                    model[seq].place = READY;
                }
            }

            bad_wait += queue_next_due(&q) <= now;
            break;
        }

        if (n % 1000 == 0) {
            for (seq = 1, count = 0; seq <= last; seq++) {
                count += model[seq].place == READY
                         || model[seq].place == WAITING;
            }

            lost += q.waiting != count;
        }
    }

    is(last, JOBS, "all jobs were in it");
    is(wrong, 0, "the oldest that may run is always next");
    is(lost, 0, "every job is found, the waiting are counted");
    is(bad_wait, 0, "none waits longer than it has to");

    queue_free(&q);
    job_table_free(&t);
}


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


int
main(void)
{
    tap_begin();

    test_random();
    test_many();
    test_backoff();

    return tap_end();
}
