/*
 * The oldest job that is ready, of a queue and of all: what positions are
 * counted from.  Loop thread, memory only.
 *
 * Where one key and priority is all there is, as mostly, the job whose turn it
 * is is the oldest.  Elsewhere a number follows: it starts at the first that
 * came and moves up, past those that are gone, a bounded way at a time and
 * never back: jobs below it that become ready again are counted.  So it may
 * lag behind, but what it says is true.
 */

#include "offloadd.h"


#define HEAD_STEPS            512               /* at a time */


void
head_push(struct head *h, uint64_t seq, uint64_t others)
{
    if (others == 0) {
        h->low = seq > h->low ? seq : h->low;
        h->last = seq;
        h->back = 0;
    }

    h->last = seq > h->last ? seq : h->last;

    if (seq < h->low) {
        h->back_low = h->back && h->back_low < seq ? h->back_low : seq;
        h->back++;
    }
}


void
head_take(struct head *h, uint64_t seq)
{
    h->back -= seq < h->low && h->back;
}


/* index: QUEUE_NONE: of any queue. */

static int
head_is(const struct queues *qs, struct job_table *t, uint64_t seq,
    uint16_t index)
{
    uint32_t     i;
    struct job  *job;

    i = job_find(t, seq);
    if (i == JOB_NONE) {
        return 0;
    }

    job = job_at(t, i);

    return (job->place == JOB_FIFO || job->place == JOB_DUE)
           && (index == QUEUE_NONE || queues_index(qs, job->queue) == index);
}


/* 1: that is it. */

static int
head_follow(const struct queues *qs, struct job_table *t, struct head *h,
    uint16_t index)
{
    int  n;

    if (h->back) {
        return 1;
    }

    for (n = 0; n < HEAD_STEPS && h->low < h->last; n++) {

        if (head_is(qs, t, h->low, index)) {
            return 1;
        }

        h->low++;
    }

    return h->low == h->last;
}


uint64_t
queue_head(struct queues *qs, struct job_table *t, uint16_t index, int *lags)
{
    uint32_t       i;
    struct queue  *q = qs->queue[index];

    *lags = 0;

    if (q->ready == 0) {
        return 0;
    }

    i = fair_oldest(&qs->flows, &q->fair, t);

    if (i == JOB_NONE) {
        *lags = !head_follow(qs, t, &q->head, index);

        return q->head.back ? q->head.back_low : q->head.low;
    }

    if (job_at(t, i)->seq > q->head.low) {
        q->head.low = job_at(t, i)->seq;
    }

    return job_at(t, i)->seq;
}


uint64_t
queues_head(struct queues *qs, struct job_table *t, int *lags)
{
    *lags = 0;

    if (qs->ready == 0) {
        return 0;
    }

    if (qs->n == 1) {
        return queue_head(qs, t, QUEUE_DEFAULT, lags);
    }

    *lags = !head_follow(qs, t, &qs->head, QUEUE_NONE);

    return qs->head.back ? qs->head.back_low : qs->head.low;
}
