/*
 * The answer to a batch into those of its jobs.  Loop thread; on the attempts
 * it is given, and the blobs of their results.
 *
 * An array of statuses, one for each item, or an object that has one as
 * "items", settles each job by its own.  An entry is a number, or an object
 * with a number "status", perhaps a "body", which is the job's result, and a
 * "retry_after" in seconds.  Anything else is everyone's answer.  An array
 * that has another length than the batch says nothing of any of them: which
 * were done nobody can know.
 */

#include "offloadd.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>


#define BULK_RETRY_AFTER_MAX  (366 * 86400)


/* 0: it has none. */

static uint32_t
bulk_status(const json_t *entry)
{
    json_int_t  n;

    if (json_is_object(entry)) {
        entry = json_object_get(entry, "status");
    }

    n = json_integer_value(entry);

    return n >= 200 && n <= 599 ? (uint32_t) n : 0;
}


static int
bulk_has_statuses(const json_t *items)
{
    size_t   i;
    json_t  *entry;

    json_array_foreach(items, i, entry) {
        if (bulk_status(entry)) {
            return 1;
        }
    }

    return 0;
}


static void
bulk_wrong(struct bulk_answer *b, struct attempt *carrier, const char *what,
    size_t has, uint32_t n)
{
    b->wrong = 1;
    b->items = NULL;

    if (what) {
        (void) snprintf(carrier->message, sizeof(carrier->message),
                        "the backend answered 207 %s", what);
        return;
    }

    (void) snprintf(carrier->message, sizeof(carrier->message),
                    "the backend's answer has %zu statuses for %u items", has,
                    n);
}


void
bulk_parse(struct bulk_answer *b, struct attempt *carrier, uint32_t n)
{
    uint32_t           status = carrier->op.row.http_status;
    const struct buf  *body = &carrier->result.body;

    if (status < 200 || status > 299) {
        return;
    }

    b->root = json_loadb(body->len ? (char *) body->data : "", body->len,
                         JSON_ALLOW_NUL, NULL);
    b->items = json_is_array(b->root) ? b->root
                                      : json_object_get(b->root, "items");

    if (!json_is_array(b->items)) {
        b->items = NULL;

        if (status == 207) {
            bulk_wrong(b, carrier, "without an array of statuses", 0, n);
        }

        return;
    }

    if (status != 207 && !bulk_has_statuses(b->items)) {
        b->items = NULL;
        return;
    }

    if (json_array_size(b->items) != n) {
        bulk_wrong(b, carrier, NULL, json_array_size(b->items), n);
    }
}


void
bulk_answer_free(struct bulk_answer *b)
{
    json_decref(b->root);
}


/* As if it had come for this job alone. */

static int
bulk_put(struct offloadd *d, struct attempt *a, uint32_t status,
    const struct buf *lines, const void *body, size_t len)
{
    int             rc;
    char            first[32];
    size_t          i;
    const char     *line;
    struct result  *r = &a->result;

    (void) snprintf(first, sizeof(first), "HTTP/1.1 %u -", status);
    rc = result_header(r, first, strlen(first));

    for (i = 0; rc == 0 && i < lines->len; i += strlen(line) + 1) {
        line = (const char *) lines->data + i;
        rc = result_header(r, line, strlen(line));
    }

    if (rc == 0) {
        rc = result_header(r, "", 0);
    }

    if (rc == 0 && len) {
        rc = result_body(r, d->policy.store, a->op.row.id, body, len);
    }

    if (rc != 0 && r->over && !r->truncate) {
        return REPLAY_TOO_LARGE;
    }

    a->op.row.http_status = (uint16_t) status;

    return (rc != 0 && !r->over) || result_finish(r, status) != 0
           ? REPLAY_NOT_STORED : REPLAY_ANSWERED;
}


static int
bulk_whole(struct offloadd *d, const struct attempt *carrier,
    struct attempt *a)
{
    int                   rc;
    const struct result  *r = &carrier->result;

    /* each job has a copy of it */

    if (r->size > STORE_INLINE_MAX) {
        a->result.max = STORE_INLINE_MAX;
        return REPLAY_TOO_LARGE;
    }

    a->result.direct = r->direct;

    rc = bulk_put(d, a, carrier->op.row.http_status, &r->raw, r->body.data,
                  r->body.len);

    a->result.deferred = 0;                     /* nobody could put it */

    return rc;
}


static int
bulk_entry(struct offloadd *d, const json_t *entry, struct attempt *a)
{
    int          rc, len;
    char        *text, line[64];
    uint32_t     status;
    struct buf   lines;
    json_int_t   after;
    const json_t *body;

    status = bulk_status(entry);

    if (status == 0) {
        (void) snprintf(a->message, sizeof(a->message), "the backend's answer "
                        "has no status from 200 to 599 for item %u", a->item);
        return REPLAY_BAD_BATCH;
    }

    memset(&lines, 0, sizeof(lines));
    a->result.direct = 1;

    body = json_object_get(entry, "body");
    body = body ? body : json_is_object(entry) ? entry : NULL;
    text = body ? json_dumps(body, JSON_COMPACT|JSON_ENCODE_ANY) : NULL;
    after = json_integer_value(json_object_get(entry, "retry_after"));

    if (body && text == NULL) {
        a->result.err = ENOMEM;
        return REPLAY_NOT_STORED;
    }

    rc = text ? buf_append(&lines, "Content-Type: application/json", 31) : 0;

    if (rc == 0 && after > 0 && after <= BULK_RETRY_AFTER_MAX) {
        len = snprintf(line, sizeof(line), "Retry-After: %lld",
                       (long long) after);
        rc = buf_append(&lines, line, (size_t) len + 1);
    }

    if (rc != 0) {
        a->result.err = ENOMEM;
        rc = REPLAY_NOT_STORED;

    } else {
        rc = bulk_put(d, a, status, &lines, text, text ? strlen(text) : 0);
    }

    free(text);
    buf_free(&lines);

    return rc;
}


int
bulk_part(struct offloadd *d, const struct bulk_answer *b,
    const struct attempt *carrier, struct attempt *a, uint32_t item)
{
    if (b->wrong) {
        return REPLAY_BAD_BATCH;
    }

    return b->items ? bulk_entry(d, json_array_get(b->items, item), a)
                    : bulk_whole(d, carrier, a);
}
