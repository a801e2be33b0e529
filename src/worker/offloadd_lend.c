/*
 * Capacity that the loop has lent to the drain: with it a job is inserted as
 * running at once, which saves a transaction and the way there and back.
 * Store thread; the list and the rules are shared with the loop, under the
 * store's mutex.  All here is memory.
 */

#include "offloadd.h"


void
drain_give_back(struct store *s, struct attempt *a)
{
    pthread_mutex_lock(&s->mutex);
    a->next = s->lent;
    s->lent = a;
    pthread_mutex_unlock(&s->mutex);
}


/* With the mutex: a queue that the policy has not is the default queue. */

static int
drain_may_start(struct store *s, const struct zone_request_view *view)
{
    uint32_t  i, hash;

    if (view->fixed.delay_s) {
        return 0;
    }

    hash = zone_queue_hash(view->queue.data, view->queue.len);

    for (i = 0; i < s->nrules; i++) {
        if (s->rules[i].hash == hash) {
            return s->rules[i].plain;
        }
    }

    return s->nrules && s->rules[0].plain;
}


struct attempt *
drain_borrow(struct store *s, const struct zone_request_view *view,
    const void *request, size_t size)
{
    struct attempt  *a;

    pthread_mutex_lock(&s->mutex);

    a = s->lent;

    if (a && !drain_may_start(s, view)) {
        a = NULL;
    }

    if (a) {
        s->lent = a->next;
    }

    pthread_mutex_unlock(&s->mutex);

    if (a) {
        a->op.request.len = 0;

        if (buf_append(&a->op.request, request, size) != 0) {
            drain_give_back(s, a);
            return NULL;                        /* then it waits its turn */
        }
    }

    return a;
}
