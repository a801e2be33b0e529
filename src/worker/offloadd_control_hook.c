/*
 * The control interface: deliveries of webhooks, a page of them, and one sent
 * again.  Loop thread; control_hooks_get(), control_hook_get() and
 * control_hook_put() are the store thread's.
 *
 * A delivery is named by its webhook-id.  A kill after the commit leaves it
 * due, so that the next worker sends it.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define HOOKS_PAGE            100               /* unless limit= says else */


struct control_hooks {
    struct control_op  base;
    struct hook_page   page;
    uint8_t            after[ZONE_ID_SIZE];
    uint8_t            has_after;
};

struct control_hook {
    struct control_op  base;
    uint8_t            id[ZONE_ID_SIZE];
    uint64_t           settled_ms;
    uint16_t           n;
};


static void
control_hooks_release(struct control_op *op)
{
    uint32_t               i;
    struct control_hooks  *c = (struct control_hooks *) op;

    for (i = 0; i < c->page.n; i++) {
        hook_entry_free(&c->page.entries[i]);
    }

    free(c->page.entries);
}


static int
control_hooks_get(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    int                    rc;
    struct control_hooks  *c = (struct control_hooks *) op;
    struct engine_look     v;

    if (c->has_after) {
        memset(&v, 0, sizeof(v));
        memcpy(v.id, c->after, ZONE_ID_SIZE);

        rc = s->engine->look(s->self, &v, e);
        if (rc != 0) {
            return rc;
        }

        c->page.after = v.seq;
    }

    return s->engine->hooks_list(s->self, &c->page, e);
}


static json_t *
control_hook_json(const struct hook_entry *e)
{
    char                      id[HOOK_ID_MAX], job[ZONE_ID_TEXT + 1];
    char                      receiver[ZONE_ID_TEXT + 1];
    json_t                   *o;
    uint8_t                   digest[STORE_GONE_SIZE];
    const struct store_hook  *row = &e->row;

    hook_id(id, row);
    zone_id_format(job, row->id);
    job[ZONE_ID_TEXT] = '\0';

    o = json_pack("{s:s, s:s, s:o, s:s, s:I, s:b}", "webhook_id", id,
                  "job_id", job, "url_host",
                  control_text(e->url + row->host_at, row->host_len),
                  "status", hook_status(row->status), "attempts",
                  (json_int_t) row->attempts, "signed",
                  row->hook.secret != 0);

    if (o && row->http_status) {
        json_object_set_new(o, "http_status", json_integer(row->http_status));
    }

    if (o && hook_receiver(digest, row->queue, e->url, row->hook.url_len)
             == 0)
    {
        zone_id_format(receiver, digest);
        json_object_set_new(o, "receiver_id",
                            json_stringn(receiver, ZONE_ID_TEXT));
    }

    if (o && row->status == STORE_HOOK_PENDING) {
        (void) control_time(o, "next_attempt_at", row->next_ms);
    }

    return o;
}


static void
control_hooks_got(struct offloadd *d, struct control_op *op)
{
    json_t                *list;
    uint32_t               i;
    struct control_hooks  *c = (struct control_hooks *) op;

    (void) d;

    if (op->request == NULL) {
        return;
    }

    if (op->rc != 0) {
        control_page_gone(op->request);
        return;
    }

    list = json_array();

    for (i = 0; i < c->page.n; i++) {
        json_array_append_new(list, control_hook_json(&c->page.entries[i]));
    }

    control_page(op->request, "webhooks", list,
                 c->page.more ? "job_id" : NULL);
}


void
control_hooks(struct control_request *r)
{
    struct control_hooks  *c;

    c = control_op_new(r, sizeof(*c));
    if (c == NULL) {
        return;
    }

    c->base.apply = control_hooks_get;
    c->base.done = control_hooks_got;
    c->base.release = control_hooks_release;
    c->page.max = r->limit ? r->limit : HOOKS_PAGE;
    c->page.cap = c->page.max + ZONE_HOOKS_MAX;
    c->page.entries = calloc(c->page.cap, sizeof(*c->page.entries));
    memcpy(c->after, r->after, ZONE_ID_SIZE);
    c->has_after = r->has_after;

    if (c->page.entries == NULL) {
        control_op_no_memory(r, &c->base);
        return;
    }

    control_read(&c->base);
}


/* "msg_<job's id>_<n>_<when it was settled>" */

static int
control_hook_parse(struct control_hook *c, const char *name)
{
    char                *end;
    const char          *p;
    unsigned long        n;
    char                 id[HOOK_ID_MAX];
    struct store_hook    row;

    if (strncmp(name, "msg_", 4) != 0 || strlen(name) < 4 + ZONE_ID_TEXT + 1
        || zone_id_parse(c->id, name + 4, ZONE_ID_TEXT) != 0)
    {
        return -1;
    }

    p = name + 4 + ZONE_ID_TEXT + 1;
    n = strtoul(p, &end, 10);

    if (*end != '_' || n >= ZONE_HOOKS_MAX) {
        return -1;
    }

    c->n = (uint16_t) n;
    c->settled_ms = strtoull(end + 1, &end, 16);

    memset(&row, 0, sizeof(row));
    memcpy(row.id, c->id, ZONE_ID_SIZE);
    row.n = c->n;
    row.settled_ms = c->settled_ms;
    hook_id(id, &row);

    return strcmp(id, name) == 0 ? 0 : -1;
}


static void
control_hook_unknown(struct control_request *r)
{
    control_problem(r, 404, "webhook-not-found", "No such delivery",
                    "There is no delivery with this webhook-id.");
}


static int
control_hook_put(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    struct control_hook  *c = (struct control_hook *) op;

    return s->engine->hook_retry(s->self, c->id, c->n, c->settled_ms,
                                 clock_ms(), e);
}


static void
control_hook_done(struct offloadd *d, struct control_op *op)
{
    char                  id[HOOK_ID_MAX];
    struct store_hook     row;
    struct control_hook  *c = (struct control_hook *) op;

    (void) d;

    memset(&row, 0, sizeof(row));
    memcpy(row.id, c->id, ZONE_ID_SIZE);
    row.n = c->n;
    row.settled_ms = c->settled_ms;
    hook_id(id, &row);

    if (op->rc == 0) {
        control_log(op, "control: a webhook is sent again", "id", id);
    }

    if (op->request == NULL) {
        return;
    }

    if (op->rc == ENGINE_NOT_FOUND) {
        control_hook_unknown(op->request);
        return;
    }

    if (op->rc == ENGINE_STALE) {
        control_problem(op->request, 409, "webhook-delivered",
                        "It was delivered", "What was sent is kept only "
                        "until it has arrived.");
        return;
    }

    control_answer(op->request, 200, json_pack("{s:s, s:s}", "webhook_id", id,
                                               "status", "pending"));
}


void
control_hook_retry(struct control_request *r)
{
    struct control_hook  *c;

    c = control_op_new(r, sizeof(*c));
    if (c == NULL) {
        return;
    }

    c->base.apply = control_hook_put;
    c->base.done = control_hook_done;

    if (control_hook_parse(c, r->name) != 0) {
        control_hook_unknown(r);
        control_op_free(r->daemon, &c->base);
        return;
    }

    control_write(&c->base);
}
