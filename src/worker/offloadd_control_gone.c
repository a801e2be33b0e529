/*
 * The control interface: receivers of webhooks that have answered 410 and are
 * sent nothing more, a page of them, and one that is sent to again.  Loop
 * thread; control_gone_get() and control_gone_put() are the store thread's.
 *
 * A receiver is named by its digest, in the form of a job's id.  A kill after
 * the commit leaves it enabled, before it as it was.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define GONE_PAGE             100               /* unless limit= says else */


struct control_gone {
    struct control_op  base;
    struct gone_page   page;
};


static void
control_gone_release(struct control_op *op)
{
    free(((struct control_gone *) op)->page.entries);
}


static int
control_gone_get(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    struct control_gone  *c = (struct control_gone *) op;

    return s->engine->gone_list(s->self, &c->page, e);
}


static void
control_gone_id(char id[ZONE_ID_TEXT + 1], const uint8_t *digest)
{
    zone_id_format(id, digest);
    id[ZONE_ID_TEXT] = '\0';
}


static json_t *
control_gone_json(struct offloadd *d, const struct gone_entry *e)
{
    char                 id[ZONE_ID_TEXT + 1], message[HOOK_ID_MAX];
    json_t              *o;
    struct queue        *q;
    struct store_hook    row;

    control_gone_id(id, e->key.digest);

    memset(&row, 0, sizeof(row));
    memcpy(row.id, e->row.id, ZONE_ID_SIZE);
    row.settled_ms = e->row.settled_ms;
    row.n = e->row.n;
    hook_id(message, &row);

    o = json_pack("{s:s, s:o, s:s}", "receiver_id", id, "url_host",
                  control_text(e->host, strlen(e->host)), "webhook_id",
                  message);

    q = queues_find(&d->sched.queues, e->row.queue);

    if (o && q->hash == e->row.queue) {         /* else it is configured no
                                                   more */
        json_object_set_new(o, "queue", json_string(q->conf.name));
    }

    if (o) {
        (void) control_time(o, "disabled_at", e->row.gone_ms);
    }

    if (o && e->row.forgets) {
        (void) control_time(o, "until", e->row.gone_ms + STORE_GONE_MS);
    }

    return o;
}


static void
control_gone_got(struct offloadd *d, struct control_op *op)
{
    json_t               *list;
    uint32_t              i;
    struct control_gone  *c = (struct control_gone *) op;

    if (op->request == NULL) {
        return;
    }

    list = json_array();

    for (i = 0; i < c->page.n; i++) {
        json_array_append_new(list, control_gone_json(d,
                                                      &c->page.entries[i]));
    }

    control_page(op->request, "receivers", list,
                 c->page.more ? "receiver_id" : NULL);
}


void
control_receivers(struct control_request *r)
{
    struct control_gone  *c;

    c = control_op_new(r, sizeof(*c));
    if (c == NULL) {
        return;
    }

    c->base.apply = control_gone_get;
    c->base.done = control_gone_got;
    c->base.release = control_gone_release;
    c->page.now_ms = clock_ms();
    c->page.max = r->limit ? r->limit : GONE_PAGE;
    c->page.entries = calloc(c->page.max, sizeof(*c->page.entries));
    memcpy(c->page.after, r->after, STORE_GONE_SIZE);
    c->page.has_after = r->has_after;

    if (c->page.entries == NULL) {
        control_op_no_memory(r, &c->base);
        return;
    }

    control_read(&c->base);
}


static int
control_gone_put(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    return s->engine->gone_forget(s->self, op->id, e);
}


static void
control_gone_unknown(struct control_request *r)
{
    control_problem(r, 404, "receiver-not-found", "No such receiver",
                    "No receiver with this id is disabled.");
}


static void
control_gone_done(struct offloadd *d, struct control_op *op)
{
    char  id[ZONE_ID_TEXT + 1];

    (void) d;

    control_gone_id(id, op->id);

    if (op->rc == 0) {
        control_log(op, "control: a receiver is enabled", "receiver", id);
    }

    if (op->request == NULL) {
        return;
    }

    if (op->rc != 0) {
        control_gone_unknown(op->request);
        return;
    }

    control_answer(op->request, 200, json_pack("{s:s, s:s}", "receiver_id",
                                               id, "status", "enabled"));
}


void
control_receiver_enable(struct control_request *r)
{
    struct control_op  *op;

    op = control_op_new(r, sizeof(*op));
    if (op == NULL) {
        return;
    }

    op->apply = control_gone_put;
    op->done = control_gone_done;

    if (zone_id_parse(op->id, r->name, strlen(r->name)) != 0) {
        control_gone_unknown(r);
        control_op_free(r->daemon, op);
        return;
    }

    control_write(op);
}
