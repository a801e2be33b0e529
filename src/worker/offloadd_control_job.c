/*
 * The control interface: one job, looked at or canceled.  Loop thread;
 * control_job_get() and control_job_put() are the store thread's.
 *
 * A cancellation is what a client's DELETE is: committed first, then the
 * attempt is ended, then it is answered.  A kill after the commit leaves it
 * canceled.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


struct control_job {
    struct control_op   base;
    struct engine_look  look;
    uint64_t            canceled;               /* its seq, if it was active */
};


static void control_job_read(struct control_request *r);


static const char *const  control_states[STORE_STATES] = {
    "", "queued", "running", "completed", "failed", "canceled", "expired"
};


/* Bytes from anywhere: what is no UTF-8 is shown by question marks. */

json_t *
control_text(const char *text, size_t n)
{
    char    *copy;
    size_t   i;
    json_t  *s;

    s = json_stringn(text, n);
    if (s) {
        return s;
    }

    copy = malloc(n + 1);
    if (copy == NULL) {
        return NULL;
    }

    for (i = 0; i < n; i++) {
        copy[i] = (unsigned char) text[i] < 0x80 ? text[i] : '?';
    }

    s = json_stringn(copy, n);
    free(copy);

    return s;
}


static void
control_job_settled(json_t *o, const struct store_job *row, const char *type,
    const char *message)
{
    json_t  *part;

    if (row->http_status) {
        part = json_pack("{s:i, s:I, s:b}", "status", (int) row->http_status,
                         "length", (json_int_t) row->result_size, "stored",
                         (row->flags & STORE_HAS_RESULT) != 0);

        if (type[0]) {
            json_object_set_new(part, "content_type",
                                control_text(type, strlen(type)));
        }

        json_object_set_new(o, "response", part);
    }

    if (row->error > 0 && row->error < STORE_ERRORS) {
        part = json_pack("{s:s}", "code", attempt_errors[row->error]);

        if (message[0]) {
            json_object_set_new(part, "message",
                                control_text(message, strlen(message)));
        }

        json_object_set_new(o, "error", part);
    }
}


/* The queue it is in now: the default one when its own is not there. */

json_t *
control_job_document(struct offloadd *d, const struct store_job *row,
    const char *type, const char *message)
{
    char           id[ZONE_ID_TEXT + 1];
    json_t        *o;
    struct queue  *q;

    zone_id_format(id, row->id);
    id[ZONE_ID_TEXT] = '\0';

    o = json_pack("{s:s, s:s, s:i, s:i, s:{s:I}}", "job_id", id, "status",
                  control_states[row->state], "attempts",
                  (int) row->attempts, "timeout_s", (int) row->timeout_s,
                  "request", "length", (json_int_t) row->body_size);
    if (o == NULL) {
        return NULL;
    }

    q = queues_find(&d->sched.queues, row->queue);
    json_object_set_new(o, "queue", json_string(q->conf.name));
    json_object_set_new(o, "priority", json_integer(row->priority));
    json_object_set_new(o, "delivery",
                        json_string(row->flags & STORE_AT_MOST_ONCE
                                    ? "at-most-once" : "at-least-once"));

    (void) control_time(o, "created_at", row->created_ms);
    (void) control_time(o, "started_at", row->started_ms);
    (void) control_time(o, "finished_at", row->finished_ms);
    (void) control_time(o, "expires_at", row->expires_ms);
    (void) control_time(o, "deadline_at", row->deadline_ms);

    if (row->flags & STORE_DEAD) {
        json_object_set_new(o, "dead", json_true());
    }

    if (row->state == STORE_QUEUED) {
        (void) control_time(o, "next_attempt_at", row->not_before_ms);
    }

    if (row->state > STORE_RUNNING) {
        control_job_settled(o, row, type, message);
    }

    return o;
}


static void
control_job_unknown(struct control_request *r)
{
    control_problem(r, 404, "job-not-found", "No such job",
                    "There is no job with this id.");
}


/* Not in the store: on its way there, perhaps, with its 202 sent. */

static void
control_job_submitted(struct control_request *r, const uint8_t *id)
{
    struct zone_job  job;

    if (zone_slot_read(&r->daemon->zone, id, &job) == 0) {
        control_job_unknown(r);
        return;
    }

    control_problem(r, 503, "job-not-stored", "The job is not stored yet",
                    "It was accepted this moment, or the store has no room "
                    "for it now.  Ask again.");
}


static int
control_job_get(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    struct control_job  *j = (struct control_job *) op;

    return s->engine->look(s->self, &j->look, e);
}


static void
control_job_got(struct offloadd *d, struct control_op *op)
{
    struct control_job  *j = (struct control_job *) op;

    if (op->request == NULL) {
        return;
    }

    if (op->rc == ENGINE_NOT_FOUND || j->look.row.state == 0
        || j->look.row.state >= STORE_STATES)
    {
        control_job_submitted(op->request, j->look.id);
        return;
    }

    if (j->look.row.state == STORE_EXPIRED) {
        control_problem(op->request, 410, "job-expired",
                        "The job has expired", "It was settled, and the time "
                        "its result is kept is over.");
        return;
    }

    control_answer(op->request, 200,
                   control_job_document(d, &j->look.row, j->look.type,
                                        j->look.message));
}


static struct control_job *
control_job_op(struct control_request *r)
{
    uint8_t              id[ZONE_ID_SIZE];
    struct control_job  *j;

    if (zone_id_parse(id, r->name, strlen(r->name)) != 0) {
        control_job_unknown(r);
        return NULL;
    }

    j = control_op_new(r, sizeof(*j));
    if (j) {
        memcpy(j->look.id, id, ZONE_ID_SIZE);
    }

    return j;
}


static void
control_job_read(struct control_request *r)
{
    struct control_job  *j;

    j = control_job_op(r);
    if (j == NULL) {
        return;
    }

    j->base.apply = control_job_get;
    j->base.done = control_job_got;

    control_read(&j->base);
}


void
control_job(struct control_request *r)
{
    control_job_read(r);
}


static int
control_job_put(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    int                    rc;
    struct control_job    *j = (struct control_job *) op;
    struct engine_cancel   c;

    memset(&c, 0, sizeof(c));
    c.id = j->look.id;
    c.now_ms = clock_ms();
    c.ttl_ms = atomic_load(&s->ttl_ms);

    rc = s->engine->cancel(s->self, &c, e);
    j->canceled = c.seq;

    return rc;
}


static void
control_job_canceled(struct offloadd *d, struct control_op *op)
{
    char                 id[ZONE_ID_TEXT + 1];
    struct control_job  *j = (struct control_job *) op;

    if (op->rc == 0) {
        sched_cancel(d, j->canceled, j->look.id);

        zone_id_format(id, j->look.id);
        id[ZONE_ID_TEXT] = '\0';
        control_log(op, "control: a job was canceled", "job", id);
    }

    if (op->request) {
        control_job_read(op->request);          /* the document as it is now */
    }
}


void
control_job_cancel(struct control_request *r)
{
    struct control_job  *j;

    j = control_job_op(r);
    if (j == NULL) {
        return;
    }

    j->base.apply = control_job_put;
    j->base.done = control_job_canceled;

    control_write(&j->base);
}
