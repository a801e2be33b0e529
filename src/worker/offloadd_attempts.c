/*
 * Attempts as such: their memory, which is used again and again, and the list
 * of those that count as running.  Loop thread.
 */

#include "offloadd.h"

#include <stdlib.h>


#define ATTEMPT_KEEP          (16u * 1024)      /* of a spare's memory */


struct attempt *
attempt_get(struct offloadd *d)
{
    struct attempt  *a;

    a = d->attempts.spare;

    if (a) {
        d->attempts.spare = a->next;
        d->attempts.nspare--;

    } else {
        a = calloc(1, sizeof(*a));
        if (a == NULL) {
            return NULL;
        }

        a->daemon = d;
        a->replay.body_fd = -1;
        a->executor = &executor_replay;
        result_init(&a->result);
    }

    a->job = JOB_NONE;
    a->reserved = 0;
    a->probe = 0;
    a->op.has_queue = 0;
    a->next = NULL;
    a->prev = NULL;

    return a;
}


static void
attempt_free(struct attempt *a)
{
    replay_free(&a->replay);
    result_free(&a->result);
    buf_free(&a->op.request);
    free(a);
}


void
attempt_put(struct offloadd *d, struct attempt *a)
{
    a->stage = ATTEMPT_SPARE;
    a->executor = &executor_replay;             /* which has nothing to stop */
    a->bulk = NULL;
    a->carries = NULL;
    result_reset(&a->result, d->policy.store, a->op.row.id);

    if (d->attempts.nspare >= ATTEMPT_SPARES) {
        attempt_free(a);
        return;
    }

    buf_trim(&a->op.request, ATTEMPT_KEEP);
    buf_trim(&a->replay.head, ATTEMPT_KEEP);
    buf_trim(&a->replay.text, ATTEMPT_KEEP);

    a->next = d->attempts.spare;
    d->attempts.spare = a;
    d->attempts.nspare++;
}


/* Into the list of those that count as running. */

void
attempt_link(struct offloadd *d, struct attempt *a)
{
    a->prev = NULL;
    a->next = d->attempts.active;

    if (a->next) {
        a->next->prev = a;
    }

    d->attempts.active = a;
    a->begun_us = mono_us();

    if (a->bulk) {
        return;                                 /* what carries it counts */
    }

    a->epoch = d->sched.epoch;
    d->sched.running++;
    d->sched.young++;
}


void
attempt_unlink(struct offloadd *d, struct attempt *a)
{
    if (a->prev) {
        a->prev->next = a->next;
    } else {
        d->attempts.active = a->next;
    }

    if (a->next) {
        a->next->prev = a->prev;
    }

    if (a->bulk) {
        bulk_left(d, a);
        return;
    }

    d->sched.running--;
    sched_ended(d, a);

    if (a->epoch == d->sched.epoch) {
        d->sched.young--;
    }
}


void
attempt_free_all(struct offloadd *d)
{
    struct attempt  *a, *next;
    struct attempt  *lists[] = {
        d->attempts.spare, d->attempts.active, d->store.lent
    };
    size_t           i;

    for (i = 0; i < ARRAY_LENGTH(lists); i++) {
        for (a = lists[i]; a; a = next) {
            next = a->next;

            if (a->bulk == NULL) {
                a->executor->stop(d, a);
                free(a->carries);
            }

            attempt_free(a);
        }
    }
}
