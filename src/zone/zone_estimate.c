/*
 * Service times, and estimates made of them.  The first half is offloadd's
 * (loop thread; it writes the zone's header pages), the second is arithmetic
 * for nginx's workers and touches nothing.  See zone_estimate.h for what a
 * kill leaves.
 */

#include <string.h>

#include "zone_estimate.h"
#include "zone_internal.h"


#define ZONE_SERVICE_SHIFT   10                 /* the first four are linear */
#define ZONE_ESTIMATE_CAP    (300 * 1000)       /* ms, see zone_retry() */
#define ZONE_ESTIMATE_HELD   30                 /* s */


/* ---- measuring */

static uint32_t
zone_bucket_of(uint64_t us)
{
    uint32_t  power, i;

    if (us < 1u << ZONE_SERVICE_SHIFT) {
        return (uint32_t) (us >> (ZONE_SERVICE_SHIFT - 2));
    }

    power = 63 - (uint32_t) __builtin_clzll(us);
    i = (power - ZONE_SERVICE_SHIFT + 1) * 4 + (us >> (power - 2) & 3);

    return i < ZONE_SERVICE_BUCKETS ? i : ZONE_SERVICE_BUCKETS - 1;
}


static uint64_t
zone_bucket_from(uint32_t i, uint64_t *width)
{
    if (i < 4) {
        *width = 1u << (ZONE_SERVICE_SHIFT - 2);
        return i * *width;
    }

    *width = 1ull << (ZONE_SERVICE_SHIFT - 2 + i / 4 - 1);

    return (4 + i % 4) * *width;
}


/*
 * Entries are given out by open addressing and never given back, only taken
 * over: so a search ends at the first that is nobody's.  A location that is
 * quiet for an hour loses its entry to one that has none; where more are busy
 * than there are entries, the late ones are estimated by the zone's.
 */

static struct zone_service *
zone_service_find(const struct zone_service *services, uint32_t location,
    int *found)
{
    uint32_t                    i, k, whose;
    const struct zone_service  *s;

    location = location ? location : 1;
    *found = 0;

    for (i = 0; i < ZONE_SERVICES - 1; i++) {
        k = 1 + (location + i) % (ZONE_SERVICES - 1);
        s = &services[k];
        whose = zone_load(&s->location);

        if (whose == location || whose == 0) {
            *found = whose != 0;
            return (struct zone_service *) s;
        }
    }

    return NULL;
}


struct zone_service *
zone_service_take(struct zone_service *services, uint32_t location,
    uint32_t now_s)
{
    int                   found;
    uint32_t              i, idle, longest;
    struct zone_service  *s;

    s = zone_service_find(services, location, &found);

    if (found) {
        return s;
    }

    for (i = 1, longest = 0; s == NULL && i < ZONE_SERVICES; i++) {
        idle = now_s - zone_load(&services[i].used_s);

        if (idle < UINT32_MAX / 2 && idle > longest) {
            longest = idle;
            found = (int) i;
        }
    }

    if (s == NULL) {
        if (longest < ZONE_SERVICE_IDLE) {
            return NULL;
        }

        s = &services[found];
    }

    /* nothing of the one before is found under the new name */

    zone_store(&s->weight, 0);

    for (i = 0; i < ZONE_SERVICE_BUCKETS; i++) {
        zone_store(&s->bucket[i], 0);
    }

    zone_store(&s->used_s, now_s);
    zone_store_release(&s->location, location ? location : 1);

    return s;
}


/*
 * When the weights have reached their limit all are halved: the last 256 to
 * 512 jobs count.  What a single job left is forgotten after six such turns.
 */

static void
zone_service_halve(struct zone_service *s)
{
    uint32_t  i, word, weight;

    for (i = 0, weight = 0; i < ZONE_SERVICE_BUCKETS; i++) {
        word = zone_load(&s->bucket[i]);
        word = (word >> 17) << 16 | (word & 0xffff);

        zone_store(&s->bucket[i], word);
        weight += word >> 16;
    }

    zone_store(&s->weight, weight);
}


void
zone_service_add(struct zone_service *s, uint64_t us, uint32_t now_s)
{
    int64_t   mean, where;
    uint32_t  i, word, weight;
    uint64_t  from, width;

    i = zone_bucket_of(us);
    from = zone_bucket_from(i, &width);

    where = us - from < width ? (int64_t) (((us - from) << 16) / width)
                              : UINT16_MAX;

    word = zone_load(&s->bucket[i]);
    weight = word >> 16;
    mean = word & 0xffff;

    mean += (where - mean) * ZONE_SERVICE_UNIT
            / (int64_t) (weight + ZONE_SERVICE_UNIT);

    weight += ZONE_SERVICE_UNIT;

    if (weight > UINT16_MAX) {
        weight = UINT16_MAX;                    /* who wrote that? */
    }

    zone_store(&s->bucket[i], weight << 16 | (uint32_t) mean);
    zone_store(&s->used_s, now_s);

    weight = zone_load(&s->weight) + ZONE_SERVICE_UNIT;
    zone_store(&s->weight, weight);

    if (weight >= ZONE_SERVICE_WEIGHT) {
        zone_service_halve(s);
    }
}


/* ---- reading */

void
zone_times_read(struct zone_times *t, const struct zone_service *s)
{
    uint32_t           i, word;
    uint64_t           width;
    struct zone_time  *at;

    t->n = 0;
    t->weight = 0;

    if (zone_load(&s->weight) == 0) {
        return;
    }

    for (i = 0; i < ZONE_SERVICE_BUCKETS; i++) {
        word = zone_load(&s->bucket[i]);

        if (word >> 16 == 0) {
            continue;
        }

        at = &t->at[t->n++];

        at->weight = word >> 16;
        at->from_us = zone_bucket_from(i, &width);
        at->us = at->from_us + ((word & 0xffff) * width >> 16);
        at->to_us = at->from_us + width;

        t->weight += at->weight;
    }
}


void
zone_times_of(struct zone_times *t, const struct zone_service *services,
    uint32_t location)
{
    int                         found;
    const struct zone_service  *s;

    s = zone_service_find(services, location, &found);

    if (found && zone_load(&s->weight) >= ZONE_SERVICE_ENOUGH) {
        zone_times_read(t, s);

        if (t->n) {
            return;
        }
    }

    zone_times_read(t, &services[0]);
}


/*
 * A job that hung for an hour says nothing of the next hundred, but of three
 * one has to take note.  So what lies above the third largest, or above the
 * 16th part of all while there are few, counts as at most twice as much.
 */

static uint64_t
zone_times_cap(const struct zone_times *t)
{
    uint32_t  i;
    uint64_t  most, above;

    most = t->weight / 16;

    if (most > ZONE_SERVICE_UNIT * 5 / 2) {
        most = ZONE_SERVICE_UNIT * 5 / 2;
    }

    for (i = t->n - 1, above = t->at[i].weight; i && above <= most; ) {
        above += t->at[--i].weight;
    }

    return t->at[i].us * 2;
}


/* Mean and mean square of the times; t is not empty. */

static double
zone_times_moments(const struct zone_times *t, double *square)
{
    double    us, sum;
    uint32_t  i;
    uint64_t  cap;

    cap = zone_times_cap(t);
    sum = 0;
    *square = 0;

    for (i = 0; i < t->n; i++) {
        us = (double) (t->at[i].us < cap ? t->at[i].us : cap);
        sum += t->at[i].weight * us;
        *square += t->at[i].weight * us * us;
    }

    *square /= (double) t->weight;

    return sum / (double) t->weight;
}


uint64_t
zone_times_mean(const struct zone_times *t)
{
    double  square;

    return t->n ? (uint64_t) zone_times_moments(t, &square) : 0;
}


/*
 * What is left of a time of this bucket once `gone` of it is over.  Within a
 * bucket times are thought to be spread up to its end.
 */

static uint64_t
zone_time_left(const struct zone_time *at, uint64_t gone, uint64_t *weight)
{
    *weight = at->weight;

    if (gone < at->us) {
        return at->us - gone;
    }

    if (gone >= at->to_us) {
        *weight = 0;
        return 0;
    }

    *weight = at->weight * (at->to_us - gone) / (at->to_us - at->from_us);

    return (at->to_us - gone) / 2;
}


/*
 * How much longer, of the jobs that came this far: the median, and what none
 * was quicker than.  Both 0 if there was no such job.
 */

static uint64_t
zone_times_left(const struct zone_times *t, uint64_t gone, uint64_t *least)
{
    uint32_t  i;
    uint64_t  left, weight, total, below;

    *least = 0;

    for (i = t->n, total = 0; i--; ) {
        (void) zone_time_left(&t->at[i], gone, &weight);
        total += weight;

        if (weight) {
            *least = t->at[i].from_us > gone ? t->at[i].from_us - gone : 0;
        }
    }

    for (i = 0, below = 0; i < t->n; i++) {
        left = zone_time_left(&t->at[i], gone, &weight);
        below += weight;

        if (weight && below * 2 >= total) {
            return left;
        }
    }

    return 0;
}


static uint64_t
zone_sqrt(uint64_t x)
{
    uint64_t  root, bit;

    for (root = 0, bit = 1ull << 31; bit; bit >>= 1) {
        if ((root | bit) * (root | bit) <= x) {
            root |= bit;
        }
    }

    return root;
}


/*
 * Until the job may start, in us: the places are taken and `n` jobs have to
 * leave before one is its own.  The first of them is in the middle of its
 * work: what it has left is, as for anyone who comes at any time, half the
 * mean square over the mean, an exponential one's whole mean.  The others
 * follow at the pace of all places together.  For *least all that run leave
 * at once, and three deviations of the sum are taken off the others, and a
 * tenth, by which the mix may be another one.
 *
 * The pace follows from the time a place is taken, commits included, rather
 * than from jobs settled a second: that would need a zone that was busy all
 * the time.  It counts jobs of all locations, as do those ahead.
 */

static double
zone_wait(const struct zone_times *all, uint64_t n, uint64_t concurrency,
    double *least)
{
    double  mean, square, wait, spread;

    *least = 0;

    if (n == 0) {
        return 0;
    }

    mean = zone_times_moments(all, &square);

    if (mean < 1) {
        return 0;
    }

    wait = ((double) (n - 1) * mean + square / mean / 2) / (double) concurrency;

    /* of the relative variance; a bucket's own spread is under 2^-6 of it */

    n = n < 10000000 ? n : 10000000;
    spread = square / (mean * mean) - 1;
    spread = spread < 1.0 / 64 ? 1.0 / 64 : spread;
    spread = (double) zone_sqrt((uint64_t) (spread * (double) n * 65536)) / 256;

    *least = (((double) n - (double) concurrency) * 0.9 - 3 * spread) * mean
             / (double) concurrency;
    *least = *least < 0 ? 0 : *least;

    return wait;
}


/*
 * Seconds until the client should ask again.  A job can hardly be done before
 * `least_ms`, so that until then there is no news; and whoever sleeps as long
 * and then a fifth of the time the job will have taken by then has slept past
 * its end by no more than a fifth, or by a second.  Where nothing is known the
 * pauses grow with the time since acceptance.
 *
 * What a job that runs has left is its own affair, and however long it is
 * nobody has to ask before.  A queue becomes shorter than it seemed when jobs
 * are canceled or capacity is added: one looks every five minutes at least.
 */

static uint32_t
zone_retry(const struct zone_outlook *o, uint64_t least_ms)
{
    uint64_t  past, ms;

    past = (o->waited_ms + least_ms) / 5;
    ms = least_ms + (past > 1000 ? past : 1000);

    if (!o->running && ms > ZONE_ESTIMATE_CAP) {
        past = o->waited_ms / 5;
        ms = past > ZONE_ESTIMATE_CAP ? past : ZONE_ESTIMATE_CAP;
    }

    return (uint32_t) (ms / 1000);
}


/* `gone` us of the attempt are over, 0 for one that is to come. */

static uint64_t
zone_work(const struct zone_outlook *o, const struct zone_times *own,
    uint64_t gone, uint64_t *least)
{
    uint64_t  left, timeout;

    /*
     * The median: of two modes it is the one more likely, and half of the
     * errors are as small as they can be.  A mean of both is always wrong.
     */

    left = zone_times_left(own, gone, least);

    timeout = o->timeout_ms * 1000;
    timeout = timeout > gone ? timeout - gone : 0;

    if (left == 0) {

        /* longer than any before: as one knows, it takes half as long again */

        left = gone / 2;
    }

    return left < timeout ? left : timeout;
}


void
zone_estimate(struct zone_estimate *e, const struct zone_outlook *o,
    const struct zone_times *all, const struct zone_times *own)
{
    double    wait, wait_least;
    uint64_t  gone, left, least, before, delay;

    e->known = o->running || !(o->held || o->down);

    if (!e->known) {
        e->left_ms = 0;
        e->least_ms = 0;
        e->retry_s = zone_retry(o, 0);

        if (o->held && e->retry_s < ZONE_ESTIMATE_HELD) {
            e->retry_s = ZONE_ESTIMATE_HELD;
        }

        return;
    }

    gone = o->running ? o->running_ms : 0;
    gone = gone < ZONE_ESTIMATE_MAX ? gone * 1000 : ZONE_ESTIMATE_MAX * 1000;
    delay = o->running ? 0 : o->delay_ms;
    delay = delay < ZONE_ESTIMATE_MAX ? delay : ZONE_ESTIMATE_MAX;

    if (own->n == 0
        || (!o->running && (all->n == 0 || o->concurrency == 0)))
    {

        /* nothing is known but when the attempt is over at the latest */

        left = o->timeout_ms > gone / 1000 ? o->timeout_ms - gone / 1000 : 0;
        left = left < ZONE_ESTIMATE_MAX - delay ? left + delay
                                                : ZONE_ESTIMATE_MAX;
        e->left_ms = left;
        e->least_ms = delay;
        e->retry_s = zone_retry(o, delay);
        return;
    }

    left = zone_work(o, own, gone, &least);
    wait = wait_least = 0;

    if (!o->running) {
        before = o->busy + o->ahead + 1;
        before = before > o->concurrency ? before - o->concurrency : 0;

        wait = zone_wait(all, before, o->concurrency, &wait_least);
        wait = wait > delay * 1000.0 ? wait : delay * 1000.0;
        wait_least = wait_least > delay * 1000.0 ? wait_least
                                                 : delay * 1000.0;
    }

    wait += (double) left;
    wait_least += (double) least;

    if (wait > ZONE_ESTIMATE_MAX * 1000.0) {
        wait = ZONE_ESTIMATE_MAX * 1000.0;
    }

    wait_least = wait_least < wait ? wait_least : wait;

    e->left_ms = (uint64_t) wait / 1000;
    e->least_ms = (uint64_t) wait_least / 1000;
    e->retry_s = zone_retry(o, e->least_ms);
}
