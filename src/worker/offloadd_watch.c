/*
 * Who watches a job: requests parked in nginx until it changes.  Loop thread.
 *
 * A watch is answered once and is gone, or gone without an answer when its
 * time is over: nginx asks again long before.  All of it is memory; after a
 * kill nginx asks the next offloadd.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define WATCH_HASH_MIN        1024


static uint32_t
watch_bucket(const struct watches *w, uint64_t seq)
{
    return (uint32_t) (seq * 0x9e3779b97f4a7c15ull >> 32) & (w->size - 1);
}


static int
watch_grow(struct watches *w)
{
    uint32_t        i, n, size;
    struct watch  **hash, **old, *p, *next;

    if (w->count < w->size) {
        return 0;
    }

    size = w->size ? w->size * 2 : WATCH_HASH_MIN;
    hash = calloc(size, sizeof(*hash));

    if (hash == NULL) {
        return w->size ? 0 : -1;                /* longer chains will do */
    }

    old = w->hash;
    n = w->size;
    w->hash = hash;
    w->size = size;

    for (i = 0; i < n; i++) {
        for (p = old[i]; p; p = next) {
            next = p->next;
            p->next = hash[watch_bucket(w, p->seq)];
            hash[watch_bucket(w, p->seq)] = p;
        }
    }

    free(old);

    return 0;
}


static void
watch_answer(struct offloadd *d, uint32_t lane, uint64_t token,
    const uint8_t *id, uint32_t result)
{
    struct zone_completion  c;

    memset(&c, 0, sizeof(c));
    c.token = token;
    c.type = ZONE_RECORD_WATCH;
    c.result = result;
    memcpy(c.id, id, ZONE_ID_SIZE);

    loop_answer(d, lane, &c);
}


/* Where the job's queue begins. */

static uint64_t
watch_head(struct offloadd *d, uint64_t seq)
{
    int             lags;
    uint32_t        i;
    struct queues  *qs = &d->sched.queues;

    i = job_find(&d->sched.table, seq);

    return i == JOB_NONE ? 0
           : queue_head(qs, &d->sched.table,
                        queues_index(qs, job_at(&d->sched.table, i)->queue),
                        &lags);
}


/* Watches hang on jobs that are active: what is settled has no more news. */

void
watch_add(struct offloadd *d, const struct store_event *ev)
{
    uint32_t         i;
    struct watch    *p;
    struct watches  *w = &d->watches;

    i = ev->seq ? job_find(&d->sched.table, ev->seq) : JOB_NONE;

    if (i == JOB_NONE || watch_grow(w) != 0) {
        watch_answer(d, ev->lane, ev->token, ev->id, ZONE_NOT_FOUND);
        return;
    }

    p = malloc(sizeof(*p));
    if (p == NULL) {
        watch_answer(d, ev->lane, ev->token, ev->id, ZONE_NOT_FOUND);
        return;
    }

    p->seq = ev->seq;
    p->token = ev->token;
    p->until_ms = mono_ms() + (uint64_t) ev->slot * 1000;
    p->head_seq = watch_head(d, ev->seq);
    p->lane = ev->lane;
    p->flags = ev->watch;
    memcpy(p->id, ev->id, ZONE_ID_SIZE);

    p->next = w->hash[watch_bucket(w, p->seq)];
    w->hash[watch_bucket(w, p->seq)] = p;
    w->count++;

    watch_answer(d, ev->lane, ev->token, ev->id, ZONE_ARMED);
}


/* Call it after the slot was written, or the store has the end. */

void
watch_changed(struct offloadd *d, uint64_t seq, int settled)
{
    struct watch    **link, *p;
    struct watches   *w = &d->watches;

    if (w->count == 0) {
        return;
    }

    link = &w->hash[watch_bucket(w, seq)];

    while ((p = *link) != NULL) {

        if (p->seq != seq || (!settled && (p->flags & ZONE_WATCH_SETTLED))) {
            link = &p->next;
            continue;
        }

        watch_answer(d, p->lane, p->token, p->id, ZONE_DONE);

        *link = p->next;
        w->count--;
        free(p);
    }
}


/*
 * Once a second: watches whose time is over, and places in the queue.  All
 * who wait in one move up together, so that one number says whether anybody
 * did.
 */

void
watch_tick(struct offloadd *d)
{
    int               moved;
    uint32_t          i;
    uint64_t          now;
    struct watch    **link, *p;
    struct watches   *w = &d->watches;

    if (w->count == 0) {
        return;
    }

    now = mono_ms();

    for (i = 0; i < w->size; i++) {

        link = &w->hash[i];

        while ((p = *link) != NULL) {
            moved = (p->flags & ZONE_WATCH_POSITION)
                    && p->seq >= p->head_seq
                    && p->head_seq != watch_head(d, p->seq);

            if (!moved && now < p->until_ms) {
                link = &p->next;
                continue;
            }

            if (moved) {
                watch_answer(d, p->lane, p->token, p->id, ZONE_DONE);
            }

            *link = p->next;
            w->count--;
            free(p);
        }
    }
}


void
watch_free(struct watches *w)
{
    uint32_t       i;
    struct watch  *p, *next;

    for (i = 0; i < w->size; i++) {
        for (p = w->hash[i]; p; p = next) {
            next = p->next;
            free(p);
        }
    }

    free(w->hash);
    memset(w, 0, sizeof(*w));
}
