/*
 * Estimates that are wrong are worse than none, and one can not see by looking
 * at the arithmetic whether they are.  So a queue is played through with a
 * clock of its own: thousands of jobs, several locations at once, clients that
 * poll as they are told.  What they were told is compared with what happened,
 * and with what estimators would say that leave something out.
 */

#include "tap.h"
#include "zone_estimate.h"


#define JOBS      6000
#define WARM      500                           /* not judged */
#define TICK_MS   20
#define PLACES    4
#define SAMPLES   400000

enum load { CONSTANT = 0, EXPONENTIAL, BIMODAL, MIXED, LOADS };

static const char *const  names[] = {
    "constant", "exponential", "bimodal", "four locations"
};

struct job {
    uint32_t  location;
    uint64_t  accepted;                         /* ms */
    uint64_t  service;
    uint64_t  started;
    uint64_t  finished;
    uint64_t  poll;                             /* next, as told */
    int       told;                             /* how often */
};

struct sample {
    uint32_t  job;
    uint64_t  at;
    uint64_t  left;                             /* our estimate */
    uint64_t  alone;                            /* ignoring those ahead */
    uint64_t  average;                          /* the zone's mean for all */
};

static struct zone_service  services[ZONE_SERVICES];
static struct job           jobs[JOBS];
static struct sample        samples[SAMPLES];
static uint32_t             nsamples;
static uint64_t             seed;


static double
uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;

    return (double) (seed >> 11) / (double) (1ull << 53);
}


/* Mean 1, without a logarithm of libm. */

static double
exponential(void)
{
    int     k, n;
    double  x, a, b;

    /* von Neumann: the first of a falling run of odd length */

    for (k = 0; ; k++) {
        x = a = uniform();

        for (n = 1; (b = uniform()) < a; n++) {
            a = b;
        }

        if (n % 2) {
            return k + x;
        }
    }
}


static uint64_t
service_of(enum load load, uint32_t location)
{
    switch (load == MIXED ? location % 4 : (uint32_t) load) {

    case CONSTANT:
        return 5000;

    case EXPONENTIAL:
        return 100 + (uint64_t) (5000 * exponential());

    case BIMODAL:
        return (uniform() < 0.8 ? 2000 : 20000)
               + (uint64_t) (200 * uniform());

    default:
        return 500 + (uint64_t) (50 * uniform());
    }
}


static uint64_t
mean_of(enum load load)
{
    static const uint64_t  means[] = { 5000, 5100, 5700, 4080 };

    return means[load];
}


/* Bursts and pauses: at times nobody waits, at times a hundred do. */

static void
arrivals(enum load load)
{
    double    at, pause;
    uint32_t  i;

    seed = 20260425 + load;

    for (i = 0, at = 0; i < JOBS; i++) {
        memset(&jobs[i], 0, sizeof(jobs[i]));

        jobs[i].location = load == MIXED
                           ? 1000 + (uint32_t) (uniform() * 4) : 7;
        jobs[i].service = service_of(load, jobs[i].location);

        pause = (double) mean_of(load) / PLACES;
        pause *= i / 150 % 2 ? 1.6 : 0.5;

        at += pause * exponential();
        jobs[i].accepted = (uint64_t) at;
    }
}


static void
look(struct zone_estimate *e, const struct job *job, uint64_t now,
    uint64_t ahead, uint64_t busy)
{
    struct zone_times    all, own;
    struct zone_outlook  o;

    memset(&o, 0, sizeof(o));

    o.waited_ms = now - job->accepted;
    o.running = job->started != 0;
    o.running_ms = o.running ? now - job->started : 0;
    o.ahead = ahead;
    o.busy = busy;
    o.concurrency = PLACES;
    o.timeout_ms = 3600 * 1000;

    zone_times_read(&all, &services[0]);
    zone_times_of(&own, services, job->location);

    zone_estimate(e, &o, &all, &own);
}


static void
sample_add(uint32_t i, uint64_t now, uint64_t left, uint64_t ahead)
{
    uint64_t           mean;
    struct sample     *s;
    struct zone_times  all;

    if (nsamples == SAMPLES) {
        return;
    }

    zone_times_read(&all, &services[0]);
    mean = zone_times_mean(&all) / 1000;

    s = &samples[nsamples++];
    s->job = i;
    s->at = now;
    s->left = left;
    s->alone = mean;
    s->average = mean * (ahead / PLACES + 1);

    if (jobs[i].started) {
        s->average = jobs[i].started + mean > now
                     ? jobs[i].started + mean - now : 0;
        s->alone = s->average;
    }
}


/* How far a client slept past the end, and how often it asked. */

static uint64_t  late, asked, worst;


static void
slept(const struct job *job, uint64_t now)
{
    uint64_t  most, total;

    total = job->finished - job->accepted;
    most = total / 5 > 1000 ? total / 5 : 1000;

    if (now - job->finished > most) {
        late++;

        if (now - job->finished - most > worst) {
            worst = now - job->finished - most;
        }
    }
}


static void
play(enum load load)
{
    uint32_t              i, done, next, arrived, busy;
    uint64_t              now;
    struct job           *job;
    struct zone_estimate  e;

    memset(services, 0, sizeof(services));
    arrivals(load);

    nsamples = 0;
    late = asked = worst = 0;
    done = next = arrived = busy = 0;

    for (now = 0; done < JOBS; now += TICK_MS) {

        while (arrived < JOBS && jobs[arrived].accepted <= now) {
            jobs[arrived].accepted = now;
            jobs[arrived++].poll = now;
        }

        for (i = done; i < next; i++) {
            job = &jobs[i];

            if (job->finished == 0 && job->started + job->service <= now) {
                job->finished = now;
                busy--;

                zone_service_add(&services[0], job->service * 1000, 1);
                zone_service_add(zone_service_take(services, job->location,
                                                   1),
                                 job->service * 1000, 1);
            }
        }

        while (next < arrived && busy < PLACES) {
            jobs[next++].started = now;
            busy++;
        }

        for (i = done; i < arrived; i++) {
            job = &jobs[i];

            if (job->poll > now) {
                continue;
            }

            job->poll = UINT64_MAX;

            if (job->finished) {
                if (i >= WARM) {
                    slept(job, now);
                }
                continue;
            }

            look(&e, job, now, i > next ? i - next : 0, busy);
            job->poll = now + 1000ull * e.retry_s;
            job->told++;

            if (i >= WARM) {
                asked++;
            }
        }

        /* somebody else asks now and then, at any time */

        if (arrived > done && now % 60 == 0) {
            i = done + (uint32_t) (uniform() * (arrived - done));

            if (i >= WARM && !jobs[i].finished) {
                look(&e, &jobs[i], now, i > next ? i - next : 0, busy);
                sample_add(i, now, e.left_ms, i > next ? i - next : 0);
            }
        }

        while (done < next && jobs[done].finished
               && jobs[done].poll == UINT64_MAX)
        {
            done++;
        }
    }
}


static int
by_value(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return x < y ? -1 : x > y;
}


static double  errors[SAMPLES];

/* Relative to the whole time of the job; which: of struct sample. */

static void
judge(size_t which, double *median, double *p90)
{
    double             total, error;
    uint32_t           i;
    uint64_t           left;
    const struct job  *job;

    for (i = 0; i < nsamples; i++) {
        job = &jobs[samples[i].job];
        memcpy(&left, (uint8_t *) &samples[i] + which, sizeof(left));

        total = (double) (job->finished - job->accepted);
        error = (double) (samples[i].at + left) - (double) job->finished;
        errors[i] = (error < 0 ? -error : error) / total;
    }

    qsort(errors, nsamples, sizeof(errors[0]), by_value);

    *median = errors[nsamples / 2];
    *p90 = errors[(uint64_t) nsamples * 9 / 10];
}


/*
 * The bounds are about twice what comes out, and the same at each run.  Half
 * of the answers of an estimator that forgets those ahead, or the locations,
 * would be beyond them.
 */

static const struct {
    double  median;
    double  p90;
    double  polls;                              /* a job */
} bounds[LOADS] = {
    { 0.02, 0.06, 2.5 },
    { 0.14, 0.45, 8 },
    { 0.12, 0.40, 8 },
    { 0.12, 0.40, 8 }
};

#define of(field)  offsetof(struct sample, field)


static void
test_load(enum load load)
{
    double  median, p90, other, other_p90, polls;

    play(load);
    judge(of(left), &median, &p90);

    polls = (double) asked / (JOBS - WARM);

    tap_say("%s: %u estimates, error %.3f (p90: %.3f), %.1f polls a job",
            names[load], nsamples, median, p90, polls);

    ok(nsamples > 10000, "%s: enough estimates to judge", names[load]);
    ok(median < bounds[load].median, "%s: half of them are right within %.0f "
       "%% of the job's time", names[load], bounds[load].median * 100);
    ok(p90 < bounds[load].p90, "%s: nine of ten within %.0f %%", names[load],
       bounds[load].p90 * 100);

    ok(polls < bounds[load].polls, "%s: no more than %.1f polls a job",
       names[load], bounds[load].polls);
    is(late, 0, "%s: nobody slept past the end by a fifth, or a second",
       names[load]);

    judge(of(alone), &other, &other_p90);
    tap_say("without those ahead: %.3f (p90: %.3f)", other, other_p90);
    ok(other > bounds[load].median && other_p90 > bounds[load].p90,
       "%s: without those ahead it would be far off", names[load]);

    judge(of(average), &other, &other_p90);
    tap_say("the zone's mean for all: %.3f (p90: %.3f)", other, other_p90);
    ok(other > median && other_p90 > p90,
       "%s: with one mean for all it would be worse", names[load]);
}


static void
told(struct zone_estimate *e, const struct zone_service *all,
    const struct zone_service *own, int running, uint64_t running_ms,
    uint64_t ahead)
{
    struct zone_times    t[2];
    struct zone_outlook  o;

    memset(&o, 0, sizeof(o));

    o.running = running;
    o.waited_ms = o.running_ms = running_ms;
    o.ahead = ahead;
    o.busy = running ? 1 : 4;
    o.concurrency = 4;
    o.timeout_ms = 600 * 1000;

    zone_times_read(&t[0], all);
    zone_times_read(&t[1], own);
    zone_estimate(e, &o, &t[0], &t[1]);
}


/* A job that runs: what is left once the quick ones are over. */

static void
test_running(void)
{
    int                   i;
    struct zone_estimate  e;
    struct zone_service   s;

    memset(&s, 0, sizeof(s));
    memset(services, 0, sizeof(services));

    told(&e, &s, &s, 1, 0, 0);
    is(e.left_ms, 600 * 1000, "nothing measured: the attempt's time");
    is(e.retry_s, 1, "and one asks again soon,");
    told(&e, &s, &s, 1, 100 * 1000, 0);
    is(e.left_ms, 500 * 1000, "nothing measured: what is left of that");
    is(e.retry_s, 20, "and, after a while, after a fifth of it");
    told(&e, &s, &s, 1, 700 * 1000, 0);
    is(e.left_ms, 0, "overdue: any moment now");

    for (i = 0; i < 200; i++) {
        zone_service_add(&s, i % 10 ? 10 * 1000000 : 100 * 1000000, 1);
    }

    told(&e, &s, &s, 1, 0, 0);
    ok(e.left_ms > 9900 && e.left_ms < 10100, "at first it may be quick");
    ok(e.retry_s >= 9 && e.retry_s <= 12, "one asks when it may be done");
    told(&e, &s, &s, 1, 5000, 0);
    ok(e.left_ms > 4900 && e.left_ms < 5100, "then half of that is left");
    told(&e, &s, &s, 1, 15000, 0);
    ok(e.left_ms > 84000 && e.left_ms < 86000, "later it is one of the slow");
    ok(e.retry_s > 60 && e.retry_s <= 105, "and one may sleep long");
    told(&e, &s, &s, 1, 200000, 0);
    is(e.left_ms, 100 * 1000, "longer than ever: half as long again");
    is(e.retry_s, 40, "and one asks after a fifth");
    told(&e, &services[1], &s, 1, 200000, 0);
    is(e.left_ms, 100 * 1000, "whatever the zone's places are held for");
    told(&e, &s, &s, 1, 590000, 0);
    is(e.left_ms, 10 * 1000, "but not longer than the attempt may last");
}


static void
test_queue(void)
{
    int                   i;
    struct zone_service   s;
    struct zone_estimate  e, f;

    memset(&s, 0, sizeof(s));

    for (i = 0; i < 100; i++) {
        zone_service_add(&s, 10 * 1000000, 1);
    }

    told(&e, &s, &s, 0, 0, 0);
    ok(e.left_ms > 11000 && e.left_ms < 11500,
       "the next: 4 places, the first of which is free in 1.25 s");
    is(e.retry_s, 10, "but it may be now");

    told(&e, &s, &s, 0, 0, 400);
    ok(e.left_ms > 1010000 && e.left_ms < 1012500, "with 400 ahead");
    is(e.retry_s, 300, "a long queue is looked at every five minutes,");

    told(&f, &s, &s, 0, 3000 * 1000, 400);
    is(f.retry_s, 600, "or when a fifth more of the time is over");
}


/* Jobs that may not start yet, or nobody knows when. */

static void
test_held(void)
{
    int                   i;
    struct zone_times     t, none;
    struct zone_outlook   o;
    struct zone_service   s;
    struct zone_estimate  e;

    memset(&s, 0, sizeof(s));
    memset(&o, 0, sizeof(o));

    for (i = 0; i < 100; i++) {
        zone_service_add(&s, 10 * 1000000, 1);
    }

    zone_times_read(&t, &s);
    none.n = 0;

    o.concurrency = 4;
    o.timeout_ms = 600 * 1000;

    zone_estimate(&e, &o, &t, &t);
    ok(e.known && e.left_ms > 9900 && e.left_ms < 10100, "it starts now");

    o.delay_ms = 60 * 1000;
    zone_estimate(&e, &o, &t, &t);
    ok(e.known && e.left_ms > 69900 && e.left_ms < 70100,
       "it starts in a minute");
    ok(e.retry_s >= 69 && e.retry_s <= 84, "and one asks when it may be done");
    zone_estimate(&e, &o, &none, &none);
    is(e.left_ms, 660 * 1000, "nothing measured: a minute later");
    is(e.least_ms, 60 * 1000, "and not before");

    o.ahead = 40;
    zone_estimate(&e, &o, &t, &t);
    ok(e.left_ms > 100000 && e.left_ms < 112500,
       "of the minute and those ahead: what takes longer");

    o.delay_ms = UINT64_MAX;
    zone_estimate(&e, &o, &t, &t);
    is(e.left_ms, ZONE_ESTIMATE_MAX, "a time that is none");
    zone_estimate(&e, &o, &none, &none);
    is(e.left_ms, ZONE_ESTIMATE_MAX, "nor with nothing measured");

    o.held = 1;
    o.delay_ms = 0;
    zone_estimate(&e, &o, &t, &t);
    is(e.known, 0, "held: nobody knows");
    is(e.retry_s, 30, "one asks in half a minute");
    o.waited_ms = 1000 * 1000;
    zone_estimate(&e, &o, &t, &t);
    is(e.retry_s, 200, "or after a fifth of its time");

    o.held = 0;
    o.down = 1;
    o.waited_ms = 0;
    zone_estimate(&e, &o, &t, &t);
    is(e.known, 0, "its backend is down: nobody knows");
    is(e.retry_s, 1, "and it may be back soon");

    o.held = 1;
    o.running = 1;
    zone_estimate(&e, &o, &t, &t);
    ok(e.known && e.left_ms > 9900 && e.left_ms < 10100,
       "what runs is finished");
}


/* One that hangs does not count, and a change is followed. */

static void
test_robust(void)
{
    int                  i;
    uint64_t             mean;
    struct zone_times    t;
    struct zone_service  s;

    memset(&s, 0, sizeof(s));

    zone_times_read(&t, &s);
    is(zone_times_mean(&t), 0, "nothing measured");

    zone_service_add(&s, 1000, 1);
    zone_times_read(&t, &s);
    mean = zone_times_mean(&t);
    ok(mean >= 999 && mean <= 1000, "the first is the mean");

    for (i = 0; i < 100; i++) {
        zone_service_add(&s, 1000, 1);
    }

    zone_service_add(&s, 3600000000ull, 1);
    zone_service_add(&s, UINT64_MAX, 1);
    zone_times_read(&t, &s);
    ok(zone_times_mean(&t) < 1050, "two that hang do not spoil it");

    for (i = 0; i < 100; i++) {
        zone_service_add(&s, i % 5 ? 1000 : 9000, 1);
    }

    zone_times_read(&t, &s);
    mean = zone_times_mean(&t);
    ok(mean > 1700 && mean < 2000, "one in ten that is slow counts in full");

    for (i = 0; i < 2000; i++) {
        zone_service_add(&s, 50000, 1);
    }

    zone_times_read(&t, &s);
    mean = zone_times_mean(&t);
    ok(mean > 45000 && mean <= 50000, "a change is followed");
    ok(s.weight <= ZONE_SERVICE_WEIGHT, "and weights stay in bounds");
}


/* Each bucket has the means it was given, whatever its size. */

static void
test_buckets(void)
{
    uint64_t             us, mean, wrong;
    struct zone_times    t;
    struct zone_service  s;

    for (us = 1, wrong = 0; us < 60000000000ull; us += us / 50 + 1) {
        memset(&s, 0, sizeof(s));
        zone_service_add(&s, us, 1);
        zone_service_add(&s, us, 1);
        zone_times_read(&t, &s);
        mean = zone_times_mean(&t);
        wrong += mean + mean / 1000 + 1 < us || mean > us
                 || t.n != 1 || t.at[0].from_us > us || t.at[0].to_us <= us;
    }

    is(wrong, 0, "from a microsecond to 16 hours");
}


/* More locations than entries. */

static void
test_locations(void)
{
    int                   i, n;
    struct zone_times     t;
    struct zone_service  *s;

    memset(services, 0, sizeof(services));

    for (i = 0; i < 200; i++) {
        zone_service_add(&services[0], 7000, 1000);
    }

    for (i = 0, n = 0; i < 80; i++) {
        s = zone_service_take(services, 31 * (uint32_t) i, 1000);
        n += s != NULL;

        if (s) {
            zone_service_add(s, 1000 * (uint64_t) i + 500, 1000);
            zone_service_add(s, 1000 * (uint64_t) i + 500, 1000);
        }
    }

    is(n, ZONE_SERVICES - 1, "as many locations as there are entries");

    zone_times_of(&t, services, 31);
    ok(zone_times_mean(&t) > 6900, "two jobs are too few to go by");

    for (i = 0, n = 0; i < ZONE_SERVICES - 1; i++) {
        s = zone_service_take(services, 31 * (uint32_t) i, 1001);
        must(s != NULL);
        zone_service_add(s, 1000 * (uint64_t) i + 500, 1001);
        zone_times_of(&t, services, 31 * (uint32_t) i);
        n += zone_times_mean(&t) / 1000 == (uint64_t) i;
    }

    is(n, ZONE_SERVICES - 1, "each has its own times");

    zone_times_of(&t, services, 31 * 79);
    ok(zone_times_mean(&t) > 6900, "one without an entry has the zone's");

    for (i = 1; i < ZONE_SERVICES - 1; i++) {
        zone_service_add(zone_service_take(services, 31 * (uint32_t) i, 5000),
                         500, 5000);
    }

    s = zone_service_take(services, 31 * 79, 5000);
    ok(s != NULL, "what was quiet for an hour makes room");
    must(s != NULL);
    is(s->weight, 0, "and leaves nothing");
    ok(zone_service_take(services, 31 * 78, 5000) == NULL, "but one only");
    ok(zone_service_take(services, 31 * 79, 5000) == s, "it is found again");
    zone_times_of(&t, services, 0);
    ok(zone_times_mean(&t) > 6000, "the one before is not");
}


int
main(void)
{
    int  load;

    tap_begin();

    test_buckets();
    test_robust();
    test_locations();
    test_running();
    test_queue();
    test_held();

    for (load = 0; load < LOADS; load++) {
        test_load((enum load) load);
    }

    return tap_end();
}
