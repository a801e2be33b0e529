/*
 * The control interface: dead letters, a page of them, and all of a queue
 * driven again or purged.  Loop thread; control_dead_get() and
 * control_dead_put() are the store thread's.
 *
 * All of them are some at a time: each step is an operation of its own behind
 * those that wait, so nothing is held up for long, and who asked is told how
 * far it went when that takes more than a few seconds.  A kill leaves the
 * steps that were committed.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define DEAD_PAGE             100               /* unless limit= says else */
#define DEAD_STEP             100
#define DEAD_STEPS_MS         5000


struct control_dead {
    struct control_op   base;
    struct dead_list    list;
    struct store_op    *jobs;                   /* redriven: as many as
                                                   there are entries */
    uint64_t            queue;                  /* begin behind this, */
    uint64_t            seq;                    /* and that */
    uint64_t            done;
    uint64_t            begun_ms;
    uint8_t             after[ZONE_ID_SIZE];
    uint8_t             has_after;
    uint8_t             purge;
};


static void control_dead_next(struct control_request *r,
    struct control_dead *before);


static void
control_dead_release(struct control_op *op)
{
    struct control_dead  *c = (struct control_dead *) op;

    free(c->list.entries);
    free(c->jobs);
}


static struct control_dead *
control_dead_op(struct control_request *r, uint32_t max)
{
    struct control_dead  *c;

    c = control_op_new(r, sizeof(*c));
    if (c == NULL) {
        return NULL;
    }

    c->base.release = control_dead_release;
    c->list.max = max;
    c->list.entries = calloc(max, sizeof(*c->list.entries));
    c->jobs = calloc(max, sizeof(*c->jobs));

    if (c->list.entries == NULL || c->jobs == NULL) {
        control_op_no_memory(r, &c->base);
        return NULL;
    }

    if (r->queue[0]) {
        c->list.one_queue = 1;
        c->queue = zone_queue_hash(r->queue, strlen(r->queue));
    }

    return c;
}


static void
control_dead_from(struct control_dead *c)
{
    c->list.queue = c->queue;
    c->list.seq = c->seq;
}


static int
control_dead_get(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    int                   rc;
    struct control_dead  *c = (struct control_dead *) op;
    struct engine_look    v;

    if (c->has_after) {
        memset(&v, 0, sizeof(v));
        memcpy(v.id, c->after, ZONE_ID_SIZE);

        rc = s->engine->look(s->self, &v, e);
        if (rc != 0) {
            return rc;
        }

        c->queue = v.row.queue;
        c->seq = v.seq;
    }

    control_dead_from(c);

    return s->engine->list(s->self, &c->list, e);
}


static void
control_dead_got(struct offloadd *d, struct control_op *op)
{
    json_t               *list;
    uint32_t              i;
    struct control_dead  *c = (struct control_dead *) op;
    struct dead_entry    *entry;

    if (op->request == NULL) {
        return;
    }

    if (op->rc != 0) {
        control_page_gone(op->request);
        return;
    }

    list = json_array();

    for (i = 0; i < c->list.n; i++) {
        entry = &c->list.entries[i];
        json_array_append_new(list, control_job_document(d, &entry->row,
                                                         entry->type,
                                                         entry->message));
    }

    control_page(op->request, "dead", list,
                 c->list.n == c->list.max ? "job_id" : NULL);
}


void
control_dead(struct control_request *r)
{
    struct control_dead  *c;

    c = control_dead_op(r, r->limit ? r->limit : DEAD_PAGE);

    if (c) {
        c->has_after = r->has_after;
        memcpy(c->after, r->after, ZONE_ID_SIZE);
        c->base.apply = control_dead_get;
        c->base.done = control_dead_got;
        control_read(&c->base);
    }
}


/* One step.  What can not be driven again is passed by. */

static int
control_dead_put(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    int                   rc;
    uint32_t              i;
    uint64_t              now = clock_ms();
    struct store_op      *job;
    struct control_dead  *c = (struct control_dead *) op;

    control_dead_from(c);

    rc = s->engine->list(s->self, &c->list, e);

    for (i = 0; rc == 0 && i < c->list.n; i++) {
        job = &c->jobs[i];
        memset(job, 0, sizeof(*job));
        memcpy(job->row.id, c->list.entries[i].row.id, ZONE_ID_SIZE);

        rc = c->purge ? s->engine->purge(s->self, job, e)
                      : s->engine->redrive(s->self, job, now, e);

        job->result = rc == 0 ? STORE_OP_DONE : STORE_OP_STALE;
        rc = rc == -1 ? -1 : 0;
    }

    return rc;
}


static void
control_dead_end(struct control_dead *c, int more)
{
    struct control_request  *r = c->base.request;

    control_answer(r, 200, json_pack("{s:s, s:I, s:b}", "zone",
                                     r->daemon->policy.zone,
                                     c->purge ? "purged" : "redriven",
                                     (json_int_t) c->done, "more", more));
}


static void
control_dead_done(struct offloadd *d, struct control_op *op)
{
    char                  text[32];
    uint32_t              i;
    uint64_t              n;
    struct control_dead  *c = (struct control_dead *) op;

    for (i = 0, n = 0; i < c->list.n; i++) {
        if (!c->purge && c->jobs[i].result == STORE_OP_DONE) {
            dead_redriven(d, &c->jobs[i]);
        }

        n += c->jobs[i].result == STORE_OP_DONE;
    }

    c->done += n;

    if (n) {
        (void) snprintf(text, sizeof(text), "%llu", (unsigned long long) n);
        control_log(op, c->purge ? "control: dead letters were purged"
                                 : "control: dead letters were driven again",
                    "jobs", text);
    }

    if (op->request == NULL) {
        return;                                 /* who asked has gone */
    }

    if (c->list.n < c->list.max) {
        control_dead_end(c, 0);

    } else if (mono_ms() - c->begun_ms >= DEAD_STEPS_MS) {
        control_dead_end(c, 1);

    } else {
        control_dead_next(op->request, c);
    }
}


static void
control_dead_next(struct control_request *r, struct control_dead *before)
{
    struct control_dead  *c;
    struct dead_entry    *last;

    c = control_dead_op(r, DEAD_STEP);
    if (c == NULL) {
        return;
    }

    last = &before->list.entries[before->list.n - 1];

    c->queue = last->row.queue;
    c->seq = last->seq;
    c->done = before->done;
    c->begun_ms = before->begun_ms;
    c->purge = before->purge;
    c->base.apply = control_dead_put;
    c->base.done = control_dead_done;

    control_write(&c->base);
}


static void
control_dead_all(struct control_request *r, int purge)
{
    struct control_dead  *c;

    c = control_dead_op(r, DEAD_STEP);

    if (c) {
        c->begun_ms = mono_ms();
        c->purge = purge != 0;
        c->base.apply = control_dead_put;
        c->base.done = control_dead_done;
        control_write(&c->base);
    }
}


void
control_dead_redrive(struct control_request *r)
{
    control_dead_all(r, 0);
}


void
control_dead_purge(struct control_request *r)
{
    if (r->queue[0] == '\0') {
        control_problem(r, 400, "bad-argument", "An argument is missing",
                        "Say whose: \"queue\" has to be there.");
        return;
    }

    control_dead_all(r, 1);
}
