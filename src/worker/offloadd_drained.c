/*
 * After the commit of what was drained: slots, events, heads, answers, in an
 * order in which a kill between any two is made good when the records are
 * read again.  Store thread only.
 */

#include "offloadd.h"

#include <string.h>


static void drain_item_done(struct store *s, struct store_batch *b,
    struct drain_item *item);


/*
 * Every slot named by a record leaves SUBMITTED before the head moves: from
 * then on a lane's repair takes a SUBMITTED slot for one that was never
 * published.  What is no active job becomes SETTLED, and free by the loop.
 */

static void
drain_slot(struct store *s, struct drain_item *item)
{
    uint32_t         state;
    struct zone_job  job;

    memset(&job, 0, sizeof(job));
    memcpy(job.id, item->record.id, ZONE_ID_SIZE);
    job.created_ms = item->record.created_ms;

    state = ZONE_SLOT_SETTLED;

    if (item->kind == DRAIN_JOB || item->kind == DRAIN_KNOWN) {
        job.seq = item->seq;
        job.created_ms = item->row.created_ms;
        job.started_ms = item->row.started_ms;
        job.body_size = item->row.body_size;
        job.attempts = item->row.attempts;
        job.timeout_s = item->row.timeout_s;
        job.location = item->row.location;
        job.queue = item->row.queue;
        memcpy(job.owner, item->row.owner, ZONE_DIGEST_SIZE);

        if (item->row.state == STORE_RUNNING) {
            state = ZONE_SLOT_RUNNING;

        } else if (item->row.state == STORE_QUEUED) {
            state = ZONE_SLOT_QUEUED;
            job.delay_s = store_delay_s(&item->row);
        }
    }

    zone_slot_write(&s->daemon->zone, item->lane, item->record.slot, &job,
                    state);
}


/*
 * The slot is this thread's to write while it is SUBMITTED.  That of a job
 * that was known may long be the loop's.
 */

static int
drain_owns_slot(struct store *s, const struct drain_item *item)
{
    struct zone_slot  *slot;

    if (item->record.type != ZONE_RECORD_JOB) {
        return 0;
    }

    slot = zone_slot(&s->daemon->zone, item->lane, item->record.slot);

    return atomic_load_explicit(&slot->state, memory_order_relaxed)
           == ZONE_SLOT_SUBMITTED;
}


#ifdef OFFLOAD_FAILPOINTS

static void
drain_failpoints(struct store *s)
{
    uint32_t  i;

    for (i = 0; i < s->nitems; i++) {
        if (s->items[i].kind == DRAIN_PROGRESS) {
            ZONE_FAILPOINT("progress.after-commit");

        } else if (s->items[i].kind == DRAIN_PUT) {
            ZONE_FAILPOINT("put.after-commit");
        }
    }
}

#else

#define drain_failpoints(s)

#endif


void
drain_finish(struct store *s, struct store_batch *b)
{
    uint32_t  i;

    if (s->nitems == 0) {
        return;
    }

    ZONE_FAILPOINT("drain.after-commit");
    drain_failpoints(s);

    for (i = 0; i < s->nitems; i++) {
        if (drain_owns_slot(s, &s->items[i]) && !ZONE_MUTANT("drain.slots"))
        {
            drain_slot(s, &s->items[i]);
        }
    }

    atomic_store_explicit(&s->daemon->zone.worker->next_seq,
                          s->engine->next_seq(s->self), memory_order_relaxed);

    ZONE_FAILPOINT("drain.after-slots");

    /*
     * What the loop has to know is written down before the heads move: the
     * records are gone then.  All but jobs come last: one from this lane may
     * be read before its job is from another.
     */

    for (i = 0; i < s->nitems; i++) {
        if (s->items[i].record.type == ZONE_RECORD_JOB) {
            drain_item_done(s, b, &s->items[i]);
        }
    }

    for (i = 0; i < s->nitems; i++) {
        if (s->items[i].record.type != ZONE_RECORD_JOB) {
            drain_item_done(s, b, &s->items[i]);
        }
    }

    for (i = 0; i < s->daemon->zone.geo.lanes; i++) {
        if (s->lanes[i].taken) {
            zone_sq_release(&s->lanes[i].consumer);
            s->lanes[i].taken = 0;
        }
    }

    ZONE_FAILPOINT("drain.after-head");

    s->nitems = 0;
}


static void
drain_item_done(struct store *s, struct store_batch *b,
    struct drain_item *item)
{
    struct store_event      *ev;
    struct zone_completion   c;

    ev = store_event_add(b);
    ev->lane = item->lane;
    ev->slot = item->record.slot;
    ev->seq = item->seq;
    ev->token = item->record.token;
    ev->result = item->result;
    memcpy(ev->id, item->record.id, ZONE_ID_SIZE);
    ev->fair = item->row.fair;
    ev->not_before_ms = item->row.not_before_ms;
    ev->queue = item->row.queue;
    ev->priority = item->row.priority;
    ev->body_size = item->row.body_size;

    switch (item->kind) {

    case DRAIN_CANCEL:
        ev->type = STORE_EVENT_CANCEL;
        return;                                 /* answered by the loop */

    case DRAIN_WATCH:
        ev->type = STORE_EVENT_WATCH;
        ev->watch = item->record.watch;
        return;                                 /* likewise */

    case DRAIN_PROGRESS:
        ev->type = STORE_EVENT_PROGRESS;
        ev->active = item->changed;
        return;

    case DRAIN_PUT:
        ev->type = STORE_EVENT_PUT;
        ev->failed = item->row.state == STORE_FAILED;
        ev->location = item->row.location;

        if (item->row.attempts == 1 && item->row.started_ms
            && item->row.finished_ms > item->row.started_ms)
        {
            ev->service_ms = item->row.finished_ms - item->row.started_ms;
        }

        return;

    case DRAIN_JOB:
        ev->type = STORE_EVENT_JOB;
        ev->deadline_ms = item->row.deadline_ms;
        ev->attempt = item->attempt;
        ev->has_slot = (uint32_t) zone_slot_holds(&s->daemon->zone,
                                                  item->lane,
                                                  item->record.slot,
                                                  item->record.id);
        break;

    case DRAIN_KNOWN:
        ev->type = STORE_EVENT_SLOT;
        ev->deadline_ms = item->row.deadline_ms;
        ev->active = item->row.state == STORE_QUEUED
                     || item->row.state == STORE_RUNNING;
        break;

    case DRAIN_DUPLICATE:
    case DRAIN_LIMITED:
        claim_unlink_body(s, item->at);
        ev->type = STORE_EVENT_REJECT;
        break;

    default:
        ev->type = STORE_EVENT_REJECT;
        break;
    }

    if (item->record.token != 0) {
        memset(&c, 0, sizeof(c));
        c.token = item->record.token;
        c.type = item->record.type;
        c.result = item->kind == DRAIN_REJECT ? ZONE_FAILED
                   : item->kind == DRAIN_WITHDRAWN ? ZONE_NOT_FOUND
                   : item->kind == DRAIN_DUPLICATE
                     || item->kind == DRAIN_LIMITED ? item->result
                                                    : ZONE_DONE;
        memcpy(c.id, item->record.id, ZONE_ID_SIZE);

        if (c.result == ZONE_DUPLICATE) {
            memcpy(c.job, item->first, ZONE_ID_SIZE);
        }

        answer_post(s, item->lane, &c);
    }
}
