/*
 * A queue's rate: GCRA, the arithmetic of a bucket that leaks evenly.  Loop
 * thread; no clock but the argument.
 *
 * Of attempts with interval T and burst B at most B + 1 begin at once, and at
 * most B + 1 + w / T in any time w.  An attempt begins when its START has been
 * committed, which may be late.  So what is promised counts as if it began at
 * the last moment, together with all else that is promised: `pending` must fit
 * into the tolerance by itself.
 *
 * `tat` goes into the store with each START, as it is if all begins at that
 * moment, and with each SETTLE and REQUEUE, as it is.  After a kill only what
 * was running can have begun later than the store says; each of those counts
 * as begun at the restart.
 */

#include "offloadd.h"


void
rate_set(struct rate *r, uint32_t count, uint64_t period_ms, uint32_t burst)
{
    if (count == 0) {
        r->interval = 0;
        r->tolerance = 0;
        return;
    }

    /* rounded up: never too many */

    r->interval = (period_ms * 1000 + count - 1) / count;
    r->tolerance = r->interval * burst;
}


uint64_t
rate_plan(const struct rate *r, uint64_t now)
{
    return (r->tat > now ? r->tat : now) + r->pending * r->interval;
}


uint64_t
rate_due(const struct rate *r, uint64_t now)
{
    uint64_t  plan;

    if (r->interval == 0) {
        return now;
    }

    plan = ZONE_MUTANT("rate.pending") ? r->tat : rate_plan(r, now);

    if (plan <= now + r->tolerance) {
        return now;
    }

    return r->pending ? UINT64_MAX : plan - r->tolerance;
}


void
rate_reserve(struct rate *r)
{
    if (r->interval) {
        r->pending++;
    }
}


/* What was promised under another policy may be unknown to this one. */

void
rate_undo(struct rate *r)
{
    if (r->pending) {
        r->pending--;
    }
}


void
rate_sent(struct rate *r, uint64_t now)
{
    rate_undo(r);

    if (r->interval) {
        r->tat = (r->tat > now ? r->tat : now) + r->interval;
    }
}


/* A clock that was set meanwhile must not stop the queue. */

void
rate_restore(struct rate *r, uint64_t now, uint64_t tat)
{
    uint64_t  most;

    most = now + r->tolerance + r->interval;
    r->tat = tat < most ? tat : most;
}


void
rate_restarted(struct rate *r, uint64_t now, uint32_t n)
{
    uint64_t  at;

    if (r->interval == 0 || ZONE_MUTANT("rate.restarted")) {
        return;
    }

    if (n > r->tolerance / r->interval + 1) {
        n = (uint32_t) (r->tolerance / r->interval + 1);
    }

    at = now + n * r->interval;
    r->tat = r->tat > at ? r->tat : at;
}
