/*
 * Whose turn it is.  Loop thread.  Capacity is the policy's concurrency; it
 * goes to the jobs whose turn it is in their queues (offloadd_queue.h) or, when
 * none may begin, is lent to the drain, which then starts the next new job of
 * a queue without limits in the very transaction that stores it.
 *
 * After the hand-over (a batch's event) the loop alone writes a job's slot.
 * All here is memory and slots: a kill leaves what the store knows.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>


#define SCHED_BACKOFF_MS      500
#define SCHED_BACKOFF_MAX_MS  30000
#define SCHED_EPOCH_MS        5
#define SCHED_YOUNG           64


static void sched_event(struct offloadd *d, struct store_event *ev);
static void sched_op(struct offloadd *d, struct store_op *op);


int
sched_init(struct sched *s)
{
    if (getrandom(&s->random, sizeof(s->random), 0) != sizeof(s->random)) {
        s->random = mono_us();
    }

    s->random |= 1;

    return 0;
}


void
sched_free(struct sched *s)
{
    queues_free(&s->queues);
    free(s->deferred.entries);
    job_table_free(&s->table);
}


uint64_t
sched_random(struct sched *s)
{
    s->random ^= s->random << 13;               /* xorshift64 */
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;

    return s->random;
}


uint64_t
sched_backoff(struct sched *s, uint32_t retries)
{
    uint64_t  most;

    most = retries < 6 ? (uint64_t) SCHED_BACKOFF_MS << retries
                       : SCHED_BACKOFF_MAX_MS;

    if (most > SCHED_BACKOFF_MAX_MS) {
        most = SCHED_BACKOFF_MAX_MS;
    }

    return sched_random(s) % (most + 1);
}


/*
 * An attempt has settled its job, by an answer or because its time was over:
 * how long it had a place, and how long the job ran.  Commits count, as they
 * do for who waits.  Measured in the zone itself, so that it outlives this
 * process.
 */

void
sched_service(struct offloadd *d, uint32_t location, uint32_t queue,
    uint64_t held_us, uint64_t service_us)
{
    uint32_t              now_s;
    struct zone_service  *s, *services;

    now_s = (uint32_t) (clock_ms() / 1000);
    services = zone_services(&d->zone);

    zone_service_add(services, held_us, now_s);

    if (d->sched.queues.n > 1) {
        queue = queues_find(&d->sched.queues, queue)->hash;
        s = zone_service_take(services, queue, now_s);

        if (s) {
            zone_service_add(s, held_us, now_s);
        }
    }

    s = zone_service_take(services, location, now_s);

    if (s) {
        zone_service_add(s, service_us, now_s);
    }

    d->sched.measured = 1;
}


void
sched_batch(struct offloadd *d, struct store_batch *b)
{
    uint32_t          i;
    struct store_op  *op, *next;

    for (i = 0; i < b->n; i++) {
        sched_event(d, &b->events[i]);
    }

    for (op = b->ops; op; op = next) {
        next = op->next;
        op->next = NULL;
        sched_op(d, op);
    }
}


static void
sched_free_event_slot(struct offloadd *d, const struct store_event *ev)
{
    if (zone_slot_holds(&d->zone, ev->lane, ev->slot, ev->id)) {
        zone_slot_free(&d->zone, ev->lane, ev->slot);
    }
}


/*
 * Slots are for acceptance: a lane that runs short gets back those of jobs
 * the store has by now, whose state is then read there.
 */

static int
sched_short_of_slots(struct offloadd *d, uint32_t lane)
{
    return zone_slots_used(&d->zone, lane) > d->zone.geo.slots / 4 * 3;
}


/* What is in memory is in the store: the next worker goes on. */

static void
sched_no_memory(struct offloadd *d)
{
    log_text(LOG_ERROR, "no memory for another job: the worker leaves, to be "
             "started again");
    loop_fatal(d);
}


static void
sched_new_job(struct offloadd *d, struct store_event *ev)
{
    uint32_t         i;
    uint64_t         now;
    struct job      *job;
    struct attempt  *a = ev->attempt;

    if (a) {
        d->sched.lent--;
    }

    i = job_add(&d->sched.table, ev->seq, ev->id);

    if (i == JOB_NONE) {
        sched_no_memory(d);

        if (a) {
            attempt_put(d, a);
        }

        return;
    }

    job = job_at(&d->sched.table, i);
    job->has_slot = ev->has_slot != 0;
    job->fair = ev->fair;
    job->queue = ev->queue;
    job->priority = (uint8_t) ev->priority;
    job->size = job_size(ev->body_size);
    (void) deadline_add(d, ev->seq, ev->deadline_ms);

    if (job->has_slot && sched_short_of_slots(d, ev->lane)) {
        sched_free_slot(d, i);
    }

    if (a == NULL) {
        now = clock_ms();
        sched_requeue(d, i, ev->not_before_ms > now ? ev->not_before_ms - now
                                                    : 0);
        return;
    }

    a->job = i;
    a->queue = job->queue;
    queues_ran(&d->sched.queues, a->queue);
    job->place = JOB_ATTEMPT;
    job->attempt = a;
    attempt_link(d, a);
    attempt_started(d, a);
}


static void
sched_known_job(struct offloadd *d, struct store_event *ev)
{
    uint32_t  i;

    i = job_find(&d->sched.table, ev->seq);

    if (i == JOB_NONE && ev->active) {

        /* stored by a commit that failed and has arrived: news here */

        ev->has_slot = (uint32_t) zone_slot_holds(&d->zone, ev->lane,
                                                  ev->slot, ev->id);
        sched_new_job(d, ev);
        return;
    }

    if (i == JOB_NONE) {
        sched_free_event_slot(d, ev);
        return;
    }

    job_at(&d->sched.table, i)->has_slot =
                 zone_slot_holds(&d->zone, ev->lane, ev->slot, ev->id) != 0;
}


/* The store has it as canceled; seq: 0 if it was not active. */

void
sched_cancel(struct offloadd *d, uint64_t seq, const uint8_t *id)
{
    uint32_t         i;
    struct job      *job;
    struct log_line  l;

    i = seq ? job_find(&d->sched.table, seq) : JOB_NONE;

    if (i == JOB_NONE) {
        return;
    }

    job = job_at(&d->sched.table, i);

    if (log_begin(&l, LOG_INFO, "canceled")) {
        log_id(&l, "job", id);
        log_str(&l, "was", job->place == JOB_ATTEMPT ? "running"
                : job->place == JOB_DEFERRED ? "deferred" : "queued");
        log_end(&l);
    }

    if (job->place == JOB_ATTEMPT) {
        attempt_cancel(d, job->attempt);

        /* no SETTLE will tell the store what it used of its rate */

        if (queues_find(&d->sched.queues, job->queue)->rate.interval) {
            (void) sched_store_queue(d, job->queue);
        }
    }

    sched_forget(d, i);
    d->sched.settled++;
}


static void
sched_canceled(struct offloadd *d, struct store_event *ev)
{
    struct zone_completion  c;

    sched_cancel(d, ev->seq, ev->id);

    if (ev->token == 0) {
        return;
    }

    /* after the slot: who asked may look at once */

    memset(&c, 0, sizeof(c));
    c.token = ev->token;
    c.type = ZONE_RECORD_CANCEL;
    c.result = ev->result;
    memcpy(c.id, ev->id, ZONE_ID_SIZE);

    loop_answer(d, ev->lane, &c);
}


static void
sched_event(struct offloadd *d, struct store_event *ev)
{
    switch (ev->type) {

    case STORE_EVENT_JOB:
        sched_new_job(d, ev);
        break;

    case STORE_EVENT_SLOT:
        sched_known_job(d, ev);
        break;

    case STORE_EVENT_REJECT:
        sched_free_event_slot(d, ev);
        break;

    case STORE_EVENT_WATCH:
        watch_add(d, ev);
        break;

    case STORE_EVENT_PROGRESS:
        report_progress(d, ev);
        break;

    case STORE_EVENT_PUT:
        report_put(d, ev);
        break;

    default:
        sched_canceled(d, ev);
        break;
    }
}


static void
sched_op(struct offloadd *d, struct store_op *op)
{
    struct bulk     *bulk;
    struct attempt  *a = (struct attempt *) op;

    if (op->type == STORE_OP_CONTROL || op->type == STORE_OP_READ) {
        control_op_done(d, op);
        return;
    }

    if (op->type == STORE_OP_HOOK || op->type == STORE_OP_HOOKS) {
        hooks_stored(d, op);
        return;
    }

    if (op->type == STORE_OP_QUEUE) {
        free(op);
        return;
    }

    if (op->type == STORE_OP_PROGRESS) {
        report_progressed(d, op);
        return;
    }

    bulk = op->type == STORE_OP_START ? a->bulk : NULL;

    if (op->type == STORE_OP_START && a->job != JOB_NONE
        && op->result != STORE_OP_STALE)
    {
        attempt_started(d, a);

        if (bulk) {
            bulk_started(d, bulk);
        }

        return;
    }

    if (bulk) {
        bulk_started(d, bulk);                  /* it lives as long as this */
    }

    attempt_stored(d, a);
}


/* Takes back what the drain has not used. */

static void
sched_unlend(struct offloadd *d)
{
    struct attempt  *a, *next;

    if (d->sched.lent == 0) {
        return;
    }

    pthread_mutex_lock(&d->store.mutex);
    a = d->store.lent;
    d->store.lent = NULL;
    pthread_mutex_unlock(&d->store.mutex);

    for ( /* void */ ; a; a = next) {
        next = a->next;
        d->sched.lent--;
        attempt_put(d, a);
    }
}


static void
sched_lend(struct offloadd *d, int64_t capacity)
{
    struct attempt  *a;

    if (capacity > LOOP_DISPATCH_MAX - (int64_t) d->sched.lent) {
        capacity = LOOP_DISPATCH_MAX - (int64_t) d->sched.lent;
    }

    while (capacity-- > 0) {
        a = attempt_get(d);
        if (a == NULL) {
            return;
        }

        a->stage = ATTEMPT_LENT;
        d->sched.lent++;

        pthread_mutex_lock(&d->store.mutex);
        a->next = d->store.lent;
        d->store.lent = a;
        pthread_mutex_unlock(&d->store.mutex);
    }
}


/*
 * How many attempts may begin.  A backend that answers at once is served by a
 * few connections, and a thousand of them only cost caches; one that takes
 * its time gets as many as the policy says.  So attempts are held back while
 * many are younger than an epoch: a slow backend's grow by SCHED_YOUNG in
 * each, a fast one's end before they count again.
 */

static int64_t
sched_pace(struct offloadd *d)
{
    int64_t        capacity, young;
    uint64_t       now;
    struct sched  *s = &d->sched;

    now = mono_ms();

    if (now - s->epoch_ms >= SCHED_EPOCH_MS) {
        s->epoch_ms = now;
        s->epoch++;
        s->young = 0;
    }

    capacity = (int64_t) d->policy.concurrency - s->running - s->deferred.n
               - s->lent - d->execs.leaving;
    young = SCHED_YOUNG - (int64_t) s->young - s->lent;

    if (young < capacity) {
        s->paced_until = s->epoch_ms + SCHED_EPOCH_MS;
        return young;
    }

    return capacity;
}


/* It takes its turn, with as many as may go with it: 0: no memory. */

static uint32_t
sched_begin(struct offloadd *d, uint32_t i)
{
    struct bulk     *b;
    struct sched    *s = &d->sched;
    struct queue    *q;
    struct attempt  *a;

    q = queues_find(&s->queues, job_at(&s->table, i)->queue);

    if (q->fair.size > 1) {
        b = bulk_make(d, q);

        return b ? bulk_begin(d, b, i, queues_begin(&s->queues, &s->table, i))
                 : 0;
    }

    a = attempt_get(d);
    if (a == NULL) {
        return 0;
    }

    attempt_begin(d, a, i, queues_begin(&s->queues, &s->table, i));

    return 1;
}


void
sched_dispatch(struct offloadd *d)
{
    int            n;
    int64_t        capacity;
    uint32_t       i, begun;
    uint64_t       now;
    struct sched  *s = &d->sched;

    s->paced_until = UINT64_MAX;
    now = mono_us();

    if (queues_due(&s->queues, &s->table, now) != 0) {
        sched_no_memory(d);
    }

    i = queues_next(&s->queues, &s->table, now);

    if (d->loop.stop != LOOP_GO_ON || !d->loop.held || d->control.hold) {
        sched_unlend(d);
        return;
    }

    if (i != JOB_NONE || s->rules != s->queues.changed) {
        sched_unlend(d);
    }

    capacity = sched_pace(d);

    if (capacity < 0) {                         /* there is less of it now */
        sched_unlend(d);
        capacity = sched_pace(d);
    }

    for (n = 0; i != JOB_NONE && capacity > 0 && n < LOOP_DISPATCH_MAX; ) {

        begun = sched_begin(d, i);
        if (begun == 0) {
            return;
        }

        n += (int) begun;
        capacity--;
        i = queues_next(&s->queues, &s->table, now);
    }

    if (i == JOB_NONE) {
        s->paced_until = UINT64_MAX;
        sched_rules(d);

        if (s->plain && s->rules == s->queues.changed) {
            sched_lend(d, capacity);
        }
    }
}


void
sched_requeue(struct offloadd *d, uint32_t i, uint64_t delay_ms)
{
    int            rc;
    struct sched  *s = &d->sched;

    if (delay_ms == 0) {
        rc = queues_push(&s->queues, &s->table, i);

    } else {
        rc = queues_push_at(&s->queues, &s->table, i,
                            mono_us() + delay_ms * 1000);
    }

    if (rc != 0) {
        sched_no_memory(d);
    }
}


/* The job is settled: slot and memory go. */

void
sched_forget(struct offloadd *d, uint32_t i)
{
    sched_free_slot(d, i);
    watch_changed(d, job_at(&d->sched.table, i)->seq, 1);
    queues_take(&d->sched.queues, &d->sched.table, i);
    defer_take(d, i);
    job_remove(&d->sched.table, i);
}


void
sched_free_slot(struct offloadd *d, uint32_t i)
{
    uint32_t     lane, slot;
    struct job  *job;

    job = job_at(&d->sched.table, i);

    if (!job->has_slot) {
        return;
    }

    job->has_slot = 0;
    zone_id_hint(job->id, &lane, &slot);

    if (zone_slot_holds(&d->zone, lane, slot, job->id)) {
        zone_slot_free(&d->zone, lane, slot);
    }
}


void
sched_write_slot(struct offloadd *d, uint32_t i, uint32_t state,
    const struct store_job *row)
{
    uint32_t         lane, slot;
    struct job      *job;
    struct zone_job  copy;

    job = job_at(&d->sched.table, i);

    if (!job->has_slot) {
        watch_changed(d, job->seq, 0);
        return;
    }

    memset(&copy, 0, sizeof(copy));
    memcpy(copy.id, job->id, ZONE_ID_SIZE);
    copy.seq = job->seq;
    copy.created_ms = row->created_ms;
    copy.started_ms = row->started_ms;
    copy.body_size = row->body_size;
    copy.attempts = row->attempts;
    copy.timeout_s = row->timeout_s;
    copy.location = row->location;
    copy.queue = row->queue;
    copy.delay_s = state == ZONE_SLOT_QUEUED ? store_delay_s(row) : 0;
    memcpy(copy.owner, row->owner, ZONE_DIGEST_SIZE);

    zone_id_hint(job->id, &lane, &slot);
    zone_slot_write(&d->zone, lane, slot, &copy, state);

    watch_changed(d, job->seq, 0);
}
