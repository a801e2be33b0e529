/*
 * Deadlines: when a job's time is over, running or not, whatever its queue
 * does.  Loop thread (main, in recovery).  The rows have the deadlines, this
 * is a copy: nothing is lost by a kill.
 *
 * A heap of times.  A job that is settled stays in it until its time comes,
 * or until there are more of those than of jobs: they are taken out together
 * then, which costs each job no more than a look.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define DEADLINE_PENDING      1024              /* beside what runs */
#define DEADLINE_FEW          64


static void
deadline_down(struct deadlines *h, uint32_t at, struct deadline e)
{
    uint32_t  child;

    while ((child = at * 2 + 1) < h->n) {

        if (child + 1 < h->n
            && h->heap[child + 1].at_ms < h->heap[child].at_ms)
        {
            child++;
        }

        if (e.at_ms <= h->heap[child].at_ms) {
            break;
        }

        h->heap[at] = h->heap[child];
        at = child;
    }

    h->heap[at] = e;
}


static void
deadline_sweep(struct offloadd *d)
{
    uint32_t           i, n;
    struct deadlines  *h = &d->deadlines;

    for (i = 0, n = 0; i < h->n; i++) {
        if (job_find(&d->sched.table, h->heap[i].seq) != JOB_NONE) {
            h->heap[n++] = h->heap[i];
        }
    }

    h->n = n;

    for (i = n / 2; i-- > 0; ) {
        deadline_down(h, i, h->heap[i]);
    }
}


/* at_ms 0: it has none.  -1: no memory. */

int
deadline_add(struct offloadd *d, uint64_t seq, uint64_t at_ms)
{
    uint32_t           at, cap;
    struct deadline   *p;
    struct deadlines  *h = &d->deadlines;

    if (at_ms == 0) {
        return 0;
    }

    if (h->n == h->cap && h->n / 2 > d->sched.table.count + DEADLINE_FEW) {
        deadline_sweep(d);
    }

    if (h->n == h->cap) {
        cap = h->cap ? h->cap * 2 : DEADLINE_FEW;

        p = realloc(h->heap, cap * sizeof(*p));
        if (p == NULL) {
            return -1;
        }

        h->heap = p;
        h->cap = cap;
    }

    for (at = h->n++; at > 0; at = (at - 1) / 2) {
        if (h->heap[(at - 1) / 2].at_ms <= at_ms) {
            break;
        }

        h->heap[at] = h->heap[(at - 1) / 2];
    }

    h->heap[at].at_ms = at_ms;
    h->heap[at].seq = seq;

    return 0;
}


void
deadline_look_again(struct offloadd *d, const struct store_op *op)
{
    if (op->row.deadline_ms && op->row.deadline_ms <= clock_ms()) {
        (void) deadline_add(d, op->seq, op->row.deadline_ms);
    }
}


/* Not while all is handed back, nor while the store has enough of them. */

static int
deadline_held(const struct offloadd *d)
{
    return d->loop.stop == LOOP_HAND_BACK || d->deadlines.n == 0
           || d->sched.running >= d->policy.concurrency + DEADLINE_PENDING;
}


void
deadline_run(struct offloadd *d)
{
    uint32_t           i;
    uint64_t           now;
    struct deadline    first;
    struct deadlines  *h = &d->deadlines;

    now = clock_ms();

    while (!deadline_held(d) && h->heap[0].at_ms <= now) {
        first = h->heap[0];
        h->n--;
        deadline_down(h, 0, h->heap[h->n]);

        i = job_find(&d->sched.table, first.seq);

        if (i != JOB_NONE) {
            attempt_deadline(d, i);
        }
    }
}


uint64_t
deadline_next(struct offloadd *d)
{
    uint64_t  now, at;

    if (deadline_held(d)) {
        return UINT64_MAX;
    }

    now = clock_ms();
    at = d->deadlines.heap[0].at_ms;

    return mono_ms() + (at > now ? at - now : 0);
}


void
deadline_free(struct offloadd *d)
{
    free(d->deadlines.heap);
}
