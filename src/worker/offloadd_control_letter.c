/*
 * The control interface: one dead letter, shown with its request and the last
 * answer, driven again, or purged.  Loop thread; control_letter_get() and
 * control_letter_put() are the store thread's.
 *
 * What looks like a secret is not shown: values of headers whose names say
 * so.  The request's content is not shown at all.  A kill leaves what was
 * committed: see offloadd_dead.c.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>


struct control_letter {
    struct control_op   base;
    struct engine_look  look;
    struct store_op     dead;                   /* REDRIVE, PURGE: as the
                                                   engine knows it */
    int                 purge;
};


/* Parts of names of headers that may hold a secret. */

static const char *const  control_secrets[] = {
    "auth", "cookie", "token", "secret", "passw", "key", "session",
    "signature", "credential", "cert", "jwt"
};


static int
control_letter_secret(const char *name, size_t n)
{
    size_t  i, k, len;

    if (n == sizeof("Idempotency-Key") - 1
        && strncasecmp(name, "Idempotency-Key", n) == 0)
    {
        return 0;
    }

    for (i = 0; i < ARRAY_LENGTH(control_secrets); i++) {
        len = strlen(control_secrets[i]);

        for (k = 0; k + len <= n; k++) {
            if (strncasecmp(name + k, control_secrets[i], len) == 0) {
                return 1;
            }
        }
    }

    return 0;
}


/* "Name: value", each with a NUL: [["Name","value"], ...] */

static json_t *
control_letter_headers(const char *p, size_t n)
{
    json_t      *list, *pair;
    const char  *end, *nul, *colon, *value;

    list = json_array();

    for (end = p + n; p < end; p = nul + 1) {
        nul = memchr(p, '\0', (size_t) (end - p));
        colon = nul ? memchr(p, ':', (size_t) (nul - p)) : NULL;

        if (colon == NULL) {
            break;
        }

        value = colon + 1 + (colon[1] == ' ');
        pair = json_array();

        json_array_append_new(pair, control_text(p, (size_t) (colon - p)));
        json_array_append_new(pair,
                      control_letter_secret(p, (size_t) (colon - p))
                      ? json_string("[redacted]")
                      : control_text(value, (size_t) (nul - value)));
        json_array_append_new(list, pair);
    }

    return list;
}


static json_t *
control_letter_base64(const uint8_t *p, size_t n)
{
    char               *text, *to;
    size_t              i;
    json_t             *s;
    uint32_t            v;
    static const char   digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                   "abcdefghijklmnopqrstuvwxyz0123456789+/";

    text = malloc((n + 2) / 3 * 4 + 1);
    if (text == NULL) {
        return NULL;
    }

    for (i = 0, to = text; i < n; i += 3) {
        v = (uint32_t) p[i] << 16;
        v |= i + 1 < n ? (uint32_t) p[i + 1] << 8 : 0;
        v |= i + 2 < n ? p[i + 2] : 0;

        *to++ = digits[v >> 18];
        *to++ = digits[v >> 12 & 63];
        *to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[v & 63] : '=';
    }

    s = json_stringn(text, (size_t) (to - text));
    free(text);

    return s;
}


/* Text where it is text, also when the last character was cut through. */

static void
control_letter_body(json_t *o, const struct engine_look *v)
{
    size_t   n, cut;
    json_t  *text;

    n = v->body.len;
    text = json_stringn((const char *) v->body.data, n);

    for (cut = 1; text == NULL && cut < 4 && cut < n
                  && n < v->result.body_size; cut++)
    {
        text = json_stringn((const char *) v->body.data, n - cut);
    }

    if (text) {
        json_object_set_new(o, "body", text);

    } else {
        json_object_set_new(o, "body_base64",
                            control_letter_base64(v->body.data, n));
    }

    if (n < v->result.body_size) {
        json_object_set_new(o, "truncated", json_true());
    }
}


static void
control_letter_response(json_t *o, const struct engine_look *v)
{
    char  file[PATH_MAX];

    json_object_set_new(o, "headers",
                        control_letter_headers((char *) v->headers.data,
                                               v->headers.len));

    if (v->result.flags & STORE_RESULT_BLOB) {
        if (files_path(file, sizeof(file), "", ZONE_DIR_BLOBS, v->row.id,
                       v->row.attempts) == 0)
        {
            json_object_set_new(o, "file", json_string(file + 1));
        }

    } else if (v->body.len) {
        control_letter_body(o, v);
    }
}


static json_t *
control_letter_document(struct offloadd *d, const struct engine_look *v)
{
    json_t                    *o, *part;
    struct zone_request_view   view;

    o = control_job_document(d, &v->row, v->type, v->message);
    part = json_object_get(o, "request");

    if (zone_request_parse(&view, v->request.data, v->request.len) == NULL) {
        json_object_set_new(part, "method", control_text(view.method.data,
                                                         view.method.len));
        json_object_set_new(part, "uri", control_text(view.uri.data,
                                                      view.uri.len));
        json_object_set_new(part, "headers",
                            control_letter_headers(view.headers.data,
                                                   view.headers.len));
    }

    part = json_object_get(o, "response");

    if (part && (v->row.flags & STORE_HAS_RESULT)) {
        control_letter_response(part, v);
    }

    return o;
}


static void
control_letter_unknown(struct control_request *r)
{
    control_problem(r, 404, "dead-letter-not-found", "No such dead letter",
                    "There is no job with this id that has failed with all "
                    "its attempts and is kept for that.");
}


static void
control_letter_release(struct control_op *op)
{
    struct control_letter  *l = (struct control_letter *) op;

    buf_free(&l->look.request);
    buf_free(&l->look.headers);
    buf_free(&l->look.body);
}


static int
control_letter_get(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    struct control_letter  *l = (struct control_letter *) op;

    l->look.request.len = 0;
    l->look.headers.len = 0;
    l->look.body.len = 0;

    return s->engine->look(s->self, &l->look, e);
}


static void
control_letter_got(struct offloadd *d, struct control_op *op)
{
    struct control_letter  *l = (struct control_letter *) op;

    if (op->request == NULL) {
        return;
    }

    if (op->rc != 0 || l->look.row.state != STORE_FAILED
        || !(l->look.row.flags & STORE_DEAD))
    {
        control_letter_unknown(op->request);
        return;
    }

    control_answer(op->request, 200, control_letter_document(d, &l->look));
}


static struct control_letter *
control_letter_op(struct control_request *r)
{
    uint8_t                 id[ZONE_ID_SIZE];
    struct control_letter  *l;

    if (zone_id_parse(id, r->name, strlen(r->name)) != 0) {
        control_letter_unknown(r);
        return NULL;
    }

    l = control_op_new(r, sizeof(*l));

    if (l) {
        l->base.release = control_letter_release;
        l->look.whole = 1;
        memcpy(l->look.id, id, ZONE_ID_SIZE);
    }

    return l;
}


void
control_letter(struct control_request *r)
{
    struct control_letter  *l;

    l = control_letter_op(r);

    if (l) {
        l->base.apply = control_letter_get;
        l->base.done = control_letter_got;
        control_read(&l->base);
    }
}


static int
control_letter_put(struct store *s, struct control_op *op,
    struct engine_error *e)
{
    int                     rc;
    struct control_letter  *l = (struct control_letter *) op;

    memset(&l->dead, 0, sizeof(l->dead));
    memcpy(l->dead.row.id, l->look.id, ZONE_ID_SIZE);

    rc = l->purge ? s->engine->purge(s->self, &l->dead, e)
                  : s->engine->redrive(s->self, &l->dead, clock_ms(), e);

    l->dead.result = rc == 0 ? STORE_OP_DONE : STORE_OP_STALE;

    return rc;
}


static void
control_letter_done(struct offloadd *d, struct control_op *op)
{
    char                    id[ZONE_ID_TEXT + 1];
    struct control_letter  *l = (struct control_letter *) op;

    if (!l->purge && l->dead.result == STORE_OP_DONE) {
        dead_redriven(d, &l->dead);
    }

    if (l->dead.result != STORE_OP_DONE) {
        if (op->request) {
            control_letter_unknown(op->request);
        }

        return;
    }

    zone_id_format(id, l->look.id);
    id[ZONE_ID_TEXT] = '\0';
    control_log(op, l->purge ? "control: a dead letter was purged"
                             : "control: a dead letter was driven again",
                "job", id);

    if (op->request) {
        control_job(op->request);               /* as it is now */
    }
}


static void
control_letter_change(struct control_request *r, int purge)
{
    struct control_letter  *l;

    l = control_letter_op(r);

    if (l) {
        l->purge = purge;
        l->base.apply = control_letter_put;
        l->base.done = control_letter_done;
        control_write(&l->base);
    }
}


void
control_letter_redrive(struct control_request *r)
{
    control_letter_change(r, 0);
}


void
control_letter_purge(struct control_request *r)
{
    control_letter_change(r, 1);
}
