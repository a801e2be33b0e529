/*
 * What a queue learns of its backend: how many attempts at a time it bears
 * (adaptive on), and whether it is up at all (the circuit).  Loop thread; no
 * clock but the argument.  A kill forgets it: the next worker begins low, and
 * with the circuit closed.
 */

#include "offloadd.h"


#define ADAPT_SAMPLES         16                /* before latency counts */
#define ADAPT_CLIMB           3                 /* times the floor, */
#define ADAPT_SLACK_US        20000             /* and so much more */
#define ADAPT_FLOOR_US        600000000ull      /* it rises as much again */


/*
 * Additive increase, multiplicative decrease.  From ADAPT_START on each good
 * answer adds one, as long as nobody complained; then one for each `limit` of
 * them.  A complaint halves, and those of attempts that were under way then
 * are the same complaint.
 */

void
adapt_init(struct adapt *a, uint32_t most)
{
    a->most = most;
    a->limit = most < ADAPT_START ? most : ADAPT_START;
    a->slow_above = most;
    a->good = 0;
    a->samples = 0;
    a->cut_at = 0;
    a->floor_us = 0;
    a->floor_at = 0;
    a->recent_us = 0;
}


void
adapt_most(struct adapt *a, uint32_t most)
{
    if (a->slow_above == a->most || a->slow_above > most) {
        a->slow_above = most;
    }

    a->most = most;
    a->limit = a->limit < most ? a->limit : most;
}


/*
 * The floor follows what is faster at once and what is slower within minutes,
 * so that jobs which take their time by nature become the usual.  1: latency
 * climbs.
 */

static int
adapt_latency(struct adapt *a, uint64_t now, uint64_t us)
{
    uint64_t  rise;

    us = us ? us : 1;

    if (a->samples < ADAPT_SAMPLES) {
        a->samples++;
    }

    if (a->recent_us == 0) {
        a->recent_us = us;
        a->floor_us = us;
        a->floor_at = now;
        return 0;
    }

    a->recent_us = (a->recent_us * 7 + us + 7) / 8;

    if (us < a->floor_us) {
        a->floor_us = (a->floor_us * 7 + us) / 8;

    } else {
        rise = now - a->floor_at;
        rise = rise < ADAPT_FLOOR_US ? rise : ADAPT_FLOOR_US;
        rise = (a->floor_us / 1024 + 1) * rise / (ADAPT_FLOOR_US / 1024);

        if (rise) {
            a->floor_us = a->floor_us + rise < us ? a->floor_us + rise : us;
            a->floor_at = now;
        }
    }

    return a->samples == ADAPT_SAMPLES
           && a->recent_us > a->floor_us * ADAPT_CLIMB + ADAPT_SLACK_US;
}


void
adapt_answer(struct adapt *a, uint64_t now, uint64_t started,
    uint32_t running, int complaint)
{
    int  climbs;

    /* a refusal comes quickly: no latency to learn from */

    climbs = complaint ? 0 : adapt_latency(a, now, now - started);

    /* alone since the last cut, and slow: so the backend is by nature now */

    if (climbs && a->limit == 1 && started >= a->cut_at) {
        a->floor_us = a->recent_us;
        climbs = 0;
    }

    if (complaint || climbs) {
        a->good = 0;

        if (started < a->cut_at) {
            return;
        }

        a->cut_at = now;
        a->limit = a->limit > 1 ? a->limit / 2 : 1;
        a->slow_above = a->limit;
        return;
    }

    if (running < a->limit || a->limit >= a->most) {
        return;                                 /* it was not tried out */
    }

    if (a->limit < a->slow_above || ++a->good >= a->limit) {
        a->limit++;
        a->good = 0;
    }
}


/* The circuit. */

uint64_t
circuit_due(const struct circuit *c, uint64_t now)
{
    switch (c->state) {

    case CIRCUIT_CLOSED:
        return now;

    case CIRCUIT_OPEN:
        return c->until > now ? c->until : now;

    default:
        return UINT64_MAX;                      /* when the probe is back */
    }
}


int
circuit_begin(struct circuit *c)
{
    if (c->state != CIRCUIT_OPEN) {
        return 0;
    }

    c->state = CIRCUIT_PROBING;

    return 1;
}


int
circuit_good(struct circuit *c)
{
    int  changed = c->state != CIRCUIT_CLOSED;

    c->state = CIRCUIT_CLOSED;
    c->failures = 0;
    c->opened = 0;

    return changed;
}


/*
 * After `enough` in a row it opens.  Half of the backoff is certain, half
 * chance: queues don't march in step.
 */

int
circuit_bad(struct circuit *c, uint64_t now, uint64_t started,
    uint32_t enough, uint64_t random)
{
    uint64_t  wait;

    if (c->base_us == 0) {
        return 0;
    }

    if (c->state != CIRCUIT_CLOSED && started < c->opened_at) {
        return 0;                               /* begun before: no news */
    }

    if (c->failures < UINT32_MAX) {
        c->failures++;
    }

    if (c->state == CIRCUIT_CLOSED && c->failures < enough) {
        return 0;
    }

    wait = c->opened < 20 ? c->base_us << c->opened : c->max_us;
    wait = wait < c->max_us ? wait : c->max_us;

    c->opened++;
    c->opened_at = now;
    c->until = now + wait / 2 + random % (wait / 2 + 1);
    c->state = CIRCUIT_OPEN;

    return 1;
}


/* It says nothing about the backend; a probe is to be sent again. */

int
circuit_neither(struct circuit *c, uint64_t now, int probe)
{
    if (!probe || c->state != CIRCUIT_PROBING) {
        return 0;
    }

    c->state = CIRCUIT_OPEN;
    c->until = now + c->base_us / 2;

    return 1;
}
