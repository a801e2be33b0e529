/*
 * What the control interface asks of the store.  An operation is made and
 * ended in the loop thread; in between it is the store thread's, which calls
 * apply().  Writes go one at a time, in order: what was asked for last is
 * what counts, also when transactions fail and operations change places.
 *
 * A kill leaves what was committed; nobody was told of anything else.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


/* The request, if there is one, waits for it. */

void *
control_op_new(struct control_request *r, size_t size)
{
    struct control_op  *op;

    if (r->daemon->control.stopping) {
        control_problem(r, 503, "worker-leaves", "The worker leaves",
                        "Ask again when the next one is there.");
        return NULL;
    }

    op = calloc(1, size);
    if (op == NULL) {
        control_op_no_memory(r, NULL);
        return NULL;
    }

    op->request = r;
    op->uid = r->peer->uid;
    op->pid = r->peer->pid;

    if (r->op) {
        r->op->request = NULL;                  /* its next step is this */
    }

    r->op = op;

    op->all_next = r->daemon->control.ops;
    if (op->all_next) {
        op->all_next->all_prev = op;
    }

    r->daemon->control.ops = op;

    return op;
}


static void
control_op_wait(struct control_op *op)
{
    struct control_request  *r = op->request;
    struct control          *k;

    if (r == NULL || r->suspended) {
        return;                                 /* its next step */
    }

    k = &r->daemon->control;

    r->suspended = 1;
    r->until_ms = mono_ms() + CONTROL_STORE_MS;
    r->prev = NULL;
    r->next = k->suspended;

    if (r->next) {
        r->next->prev = r;
    }

    k->suspended = r;
}


void
control_read(struct control_op *op)
{
    op->op.type = STORE_OP_READ;
    control_op_wait(op);

    store_submit_read(&op->request->daemon->store, &op->op);
}


static void
control_write_next(struct offloadd *d)
{
    struct control_op  *op = d->control.writes;

    if (op == NULL) {
        return;
    }

    if (op->begin) {
        op->begin(d, op);
    }

    loop_submit(d, &op->op);
}


void
control_write(struct control_op *op)
{
    int               first;
    struct offloadd  *d = op->request->daemon;

    op->op.type = STORE_OP_CONTROL;
    op->next = NULL;
    control_op_wait(op);

    first = d->control.writes == NULL;
    *d->control.writes_last = op;
    d->control.writes_last = &op->next;

    if (first) {
        control_write_next(d);
    }
}


/* Store thread. */

int
control_op_apply(struct store *s, struct store_op *op,
    struct engine_error *e)
{
    struct control_op  *c = (struct control_op *) op;

    if (op->type == STORE_OP_CONTROL) {
        ZONE_FAILPOINT("control.before-commit");
    }

    c->rc = c->apply(s, c, e);
    c->failed = c->rc == -1;

    return c->rc == -1 ? -1 : 0;
}


/* A write is the first of its list until all is done: done() may add one. */

void
control_op_done(struct offloadd *d, struct store_op *op)
{
    int                 wrote = op->type == STORE_OP_CONTROL;
    struct control_op  *c = (struct control_op *) op;

    if (c->failed && c->request) {
        control_request_late(c->request);

    } else {
        c->done(d, c);
    }

    if (wrote) {
        d->control.writes = c->next;

        if (c->next == NULL) {
            d->control.writes_last = &d->control.writes;
        }
    }

    control_op_free(d, c);

    if (wrote) {
        control_write_next(d);
    }
}


void
control_op_free(struct offloadd *d, struct control_op *op)
{
    if (op->request) {
        op->request->op = NULL;
    }

    if (op->all_prev) {
        op->all_prev->all_next = op->all_next;
    } else {
        d->control.ops = op->all_next;
    }

    if (op->all_next) {
        op->all_next->all_prev = op->all_prev;
    }

    if (op->release) {
        op->release(op);
    }

    free(op);
}


void
control_op_no_memory(struct control_request *r, struct control_op *op)
{
    control_problem(r, 503, "no-memory", "The worker has no memory",
                    "Ask again.");

    if (op) {
        control_op_free(r->daemon, op);
    }
}


/* Who did what: each change is one line. */

void
control_log(const struct control_op *op, const char *what, const char *key,
    const char *value)
{
    struct log_line  l;

    if (log_begin(&l, LOG_NOTICE, what)) {
        log_str(&l, key, value);
        log_uint(&l, "by_user", op->uid);
        log_uint(&l, "by_process", op->pid);
        log_end(&l);
    }
}
