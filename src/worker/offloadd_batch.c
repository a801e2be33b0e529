/*
 * Between the two threads: operations go to the store thread, batches come
 * back.  Both ways are lists under one mutex, taken whole, and an eventfd that
 * is written only when the other side sleeps.  A kill loses what is in them:
 * operations are asked for again, what batches tell is in the store.
 */

#include "offloadd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>


int
store_init(struct store *s, struct offloadd *d, struct engine_error *e)
{
    s->daemon = d;
    s->engine = &engine_lmdb;
    s->ops_last = &s->ops;
    s->batches_last = &s->batches;
    s->reads_last = &s->reads;
    s->todo_last = &s->todo;
    s->wake = -1;
    s->bell = -1;

    pthread_mutex_init(&s->mutex, NULL);
    atomic_init(&s->ttl_ms, d->policy.ttl_ms);
    atomic_init(&s->tombstone_ms, d->policy.tombstone_ms);
    atomic_init(&s->max_bytes, d->policy.max_bytes);

    s->store_event = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);
    s->loop_event = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);

    if (s->store_event == -1 || s->loop_event == -1) {
        e->err = errno;
        (void) snprintf(e->text, sizeof(e->text), "eventfd: %s",
                        strerror(errno));
        return -1;
    }

    s->durable = d->policy.durability == DURABILITY_DISK;

    if (files_init(&d->policy, e) != 0
        || s->engine->open(&s->self, &d->policy, e) != 0)
    {
        return -1;
    }

    return s->durable ? files_sync_made(&d->policy, e) : 0;
}


int
store_start(struct store *s)
{
    int  err;

    err = pthread_create(&s->thread, NULL, store_main, s);
    if (err) {
        log_text(LOG_ERROR, "pthread_create: %s", strerror(err));
        return -1;
    }

    s->running = 1;

    return 0;
}


/* Loop thread: a list of operations goes to the store, in order. */

static void
store_ring(int fd)
{
    uint64_t  one = 1;

    while (write(fd, &one, sizeof(one)) == -1 && errno == EINTR) { /* void */ }
}


void
store_submit(struct store *s, struct store_op *first, struct store_op **last)
{
    pthread_mutex_lock(&s->mutex);
    *s->ops_last = first;
    s->ops_last = last;
    pthread_mutex_unlock(&s->mutex);

    if (zone_wake_due(&s->store_sleeping)) {
        store_ring(s->store_event);
    }
}


/* What is only looked at waits for no transaction. */

void
store_submit_read(struct store *s, struct store_op *op)
{
    op->next = NULL;

    pthread_mutex_lock(&s->mutex);
    *s->reads_last = op;
    s->reads_last = &op->next;
    pthread_mutex_unlock(&s->mutex);

    if (zone_wake_due(&s->store_sleeping)) {
        store_ring(s->store_event);
    }
}


/* Loop thread: all that was committed since. */

struct store_batch *
store_take(struct store *s)
{
    struct store_batch  *b;

    pthread_mutex_lock(&s->mutex);
    b = s->batches;
    s->batches = NULL;
    s->batches_last = &s->batches;
    pthread_mutex_unlock(&s->mutex);

    return b;
}


/*
 * Room for n events is made before the commit that they will tell of: after
 * it there is no way back.
 */

int
store_batch_reserve(struct store_batch *b, uint32_t n)
{
    struct store_event  *p;

    if (n <= b->cap) {
        return 0;
    }

    p = realloc(b->events, n * sizeof(*p));
    if (p == NULL) {
        return -1;
    }

    b->events = p;
    b->cap = n;

    return 0;
}


struct store_event *
store_event_add(struct store_batch *b)
{
    struct store_event  *p;

    p = &b->events[b->n++];
    memset(p, 0, sizeof(*p));

    return p;
}


void
store_batch_free(struct store_batch *b)
{
    free(b->events);
    free(b);
}


/* Loop thread, at the end: what was submitted is committed, then it leaves. */

void
store_stop(struct store *s)
{
    if (s->running) {
        pthread_mutex_lock(&s->mutex);
        s->stop = 1;
        pthread_mutex_unlock(&s->mutex);

        store_ring(s->store_event);
        pthread_join(s->thread, NULL);
        s->running = 0;
    }

    if (s->self) {
        s->engine->close(s->self);
        s->self = NULL;
    }
}


/* Store thread. */

int
store_stopping(struct store *s)
{
    int  stop;

    pthread_mutex_lock(&s->mutex);
    stop = s->stop;
    pthread_mutex_unlock(&s->mutex);

    return stop;
}


int
store_drained(struct store *s)
{
    uint32_t           i;
    struct zone_lane  *l;

    for (i = 0; i < s->daemon->zone.geo.lanes; i++) {
        l = s->lanes[i].consumer.lane;

        if (!atomic_load(&s->lanes[i].corrupt)
            && atomic_load(&l->sq_head) != atomic_load(&l->sq_tail))
        {
            return 0;
        }
    }

    return 1;
}


/* From here on: the store thread. */

/* Store thread: takes what the loop asked for; 1: it shall leave. */

int
store_take_ops(struct store *s)
{
    int  stop;

    pthread_mutex_lock(&s->mutex);

    if (s->ops) {
        *s->todo_last = s->ops;
        s->todo_last = s->ops_last;
        s->ops = NULL;
        s->ops_last = &s->ops;
    }

    s->reading = s->reads;
    s->reads = NULL;
    s->reads_last = &s->reads;

    stop = s->stop;
    pthread_mutex_unlock(&s->mutex);

    return stop;
}


/* Store thread: what a commit made true goes to the loop. */

void
store_give(struct store *s, struct store_batch *b)
{
    pthread_mutex_lock(&s->mutex);
    *s->batches_last = b;
    s->batches_last = &b->next;
    pthread_mutex_unlock(&s->mutex);

    if (zone_wake_due(&s->loop_sleeping)) {
        store_ring(s->loop_event);
    }
}
