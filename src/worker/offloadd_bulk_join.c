/*
 * Jobs into one request: which may go together, and how their bodies become
 * one.  Pure functions but for the reading of spooled bodies; bulk_key() is
 * called by the store thread, the rest by the loop's.
 *
 * What one request says has to be true of all in it: where it goes, and all
 * headers but those that are about a message, a client's software or its way
 * here.  These are left out of a batch, and looked at by nobody.  So two jobs
 * with other credentials, in whatever header, are never in one request.
 */

#include "offloadd.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>


#define BULK_HEAD             256
#define BULK_KEY_START        14695981039346656037ull
#define BULK_KEY_PRIME        1099511628211ull


/* Names, and beginnings of names. */

static const char *const  bulk_dropped[] = {
    "Accept:", "Accept-*", "Baggage:", "Cache-Control:", "Content-*", "Date:",
    "Digest:", "DNT:", "Expect:", "Forwarded:", "Idempotency-Key:", "Origin:",
    "Pragma:", "Prefer:", "Priority:", "Referer:", "Repr-Digest:",
    "Request-Id:", "Sec-*", "Traceparent:", "Tracestate:",
    "Upgrade-Insecure-Requests:", "User-Agent:", "Via:", "X-Correlation-Id:",
    "X-Forwarded-*", "X-Real-Ip:", "X-Request-Id:"
};


static int
bulk_is_dropped(const char *line)
{
    size_t  i, len;

    for (i = 0; i < ARRAY_LENGTH(bulk_dropped); i++) {

        /* of each line of each job: most are spared the rest */

        if ((line[0] | 0x20) != (bulk_dropped[i][0] | 0x20)) {
            continue;
        }

        len = strlen(bulk_dropped[i]);
        len -= bulk_dropped[i][len - 1] == '*';

        if (strncasecmp(line, bulk_dropped[i], len) == 0) {
            return 1;
        }
    }

    return 0;
}


/* The next header line that counts, from `p` on; `end`: there is none. */

static const char *
bulk_line(const char *p, const char *end)
{
    while (p < end && bulk_is_dropped(p)) {
        p += strlen(p) + 1;
    }

    return p;
}


/* The context's words behind the two addresses, which are the client's. */

static struct zone_str
bulk_context(const struct zone_str *context)
{
    int              words;
    struct zone_str  s = *context;

    for (words = 0; s.len > 0 && words < 2; s.data++, s.len--) {
        words += *s.data == ' ';
    }

    return s;
}


/* What has to be equal besides headers, as strings and numbers. */

#define BULK_STRINGS          4
#define BULK_NUMBERS          4

static void
bulk_parts(const struct zone_request_view *v, struct zone_str *s, uint64_t *n)
{
    s[0] = v->method;
    s[1] = v->entrance;
    s[2] = v->uri;
    s[3] = bulk_context(&v->context);

    n[0] = v->fixed.fair;
    n[1] = v->fixed.location;
    n[2] = v->fixed.timeout_s;
    n[3] = v->fixed.depth;
}


uint64_t
bulk_key(const struct zone_request_view *v)
{
    size_t           i;
    uint64_t         key, n[BULK_NUMBERS];
    const char      *p, *end;
    struct zone_str  s[BULK_STRINGS];

    key = BULK_KEY_START;
    bulk_parts(v, s, n);

    for (i = 0; i < BULK_STRINGS; i++) {
        key = (key ^ zone_key_hash(s[i].data, s[i].len)) * BULK_KEY_PRIME;
    }

    for (i = 0; i < BULK_NUMBERS; i++) {
        key = (key ^ zone_key_hash(&n[i], sizeof(n[i]))) * BULK_KEY_PRIME;
    }

    p = v->headers.data;
    end = p + v->headers.len;

    for (p = bulk_line(p, end); p < end;
         p = bulk_line(p + strlen(p) + 1, end))
    {
        key = (key ^ zone_key_hash(p, strlen(p))) * BULK_KEY_PRIME;
    }

    return key ? key : 1;
}


int
bulk_same(const struct zone_request_view *a, const struct zone_request_view *b)
{
    size_t           i;
    uint64_t         na[BULK_NUMBERS], nb[BULK_NUMBERS];
    const char      *p, *q, *pend, *qend;
    struct zone_str  sa[BULK_STRINGS], sb[BULK_STRINGS];

    bulk_parts(a, sa, na);
    bulk_parts(b, sb, nb);

    for (i = 0; i < BULK_STRINGS; i++) {
        if (sa[i].len != sb[i].len
            || memcmp(sa[i].data, sb[i].data, sa[i].len) != 0)
        {
            return 0;
        }
    }

    if (memcmp(na, nb, sizeof(na)) != 0) {
        return 0;
    }

    p = a->headers.data;
    pend = p + a->headers.len;
    q = b->headers.data;
    qend = q + b->headers.len;

    for ( ;; ) {
        p = bulk_line(p, pend);
        q = bulk_line(q, qend);

        if (p == pend || q == qend) {
            return p == pend && q == qend;
        }

        if (strcmp(p, q) != 0) {
            return 0;
        }

        p += strlen(p) + 1;
        q += strlen(q) + 1;
    }
}


/* A body as it came, from memory or its file, behind what is in `to`: 0; -1:
 * no memory; or its file is not what it was. */

static int
bulk_body(struct buf *to, const struct attempt *a)
{
    size_t    n;
    ssize_t   got;
    uint64_t  size = a->replay.view.fixed.body_size;

    if (a->replay.body_fd == -1) {
        return buf_append(to, a->replay.view.body.data,
                          a->replay.view.body.len);
    }

    if (size > SIZE_MAX / 2 || buf_reserve(to, (size_t) size) != 0) {
        return -1;
    }

    for (n = 0; n < size; n += (size_t) got) {
        got = pread(a->replay.body_fd, to->data + to->len + n,
                    (size_t) size - n, (off_t) n);

        if (got == -1 && errno == EINTR) {
            got = 0;

        } else if (got <= 0) {
            return REPLAY_LOST;
        }
    }

    to->len += n;

    return 0;
}


/* Between values of JSON a line's end is a space like any other. */

static void
bulk_one_line(uint8_t *p, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (p[i] == '\n' || p[i] == '\r') {
            p[i] = ' ';
        }
    }
}


/* Its beginning.  The headers are the attempt's own copy: its span is in it. */

static int
bulk_envelope(char head[BULK_HEAD], const struct attempt *a)
{
    int          traced;
    char         id[ZONE_ID_TEXT];
    const char  *trace;

    zone_id_format(id, a->op.row.id);
    trace = trace_parent(&a->replay.view.headers);
    traced = trace && strlen(trace) == TRACE_LEN;

    return snprintf(head, BULK_HEAD, "{\"job_id\":\"%.*s\",\"attempt\":%u,"
                    "%s%s%s\"body\":", ZONE_ID_TEXT, id, a->op.row.attempts,
                    traced ? "\"traceparent\":\"" : "", traced ? trace : "",
                    traced ? "\"," : "");
}


int
bulk_item(struct buf *body, uint32_t n, const struct batch_policy *p,
    const struct attempt *a, char *wrong, size_t size)
{
    int     len, rc;
    char    head[BULK_HEAD];
    size_t  was, at;

    was = body->len;
    len = p->envelope ? bulk_envelope(head, a) : 0;

    if ((p->array && buf_append(body, n ? "," : "[", 1) != 0)
        || buf_append(body, head, (size_t) len) != 0)
    {
        return -1;
    }

    at = body->len;

    rc = bulk_body(body, a);

    if (rc != 0) {
        body->len = was;
        return rc;
    }

    rc = bulk_json(body->data + at, body->len - at, wrong, size);

    if (rc != 0 && !ZONE_MUTANT("bulk.json")) {
        body->len = was;
        return rc;
    }

    bulk_one_line(body->data + at, body->len - at);

    return (p->envelope && buf_append(body, "}", 1) != 0)
           || (!p->array && buf_append(body, "\n", 1) != 0) ? -1 : 0;
}


/* The lines that all have, and what the body is by now. */

static int
bulk_headers(struct buf *to, const struct zone_str *headers, uint32_t n,
    const struct batch_policy *p)
{
    int          len;
    char         own[128];
    const char  *line, *end;

    line = headers->data;
    end = line + headers->len;

    for (line = bulk_line(line, end); line < end;
         line = bulk_line(line + strlen(line) + 1, end))
    {
        if (buf_append(to, line, strlen(line) + 1) != 0) {
            return -1;
        }
    }

    len = snprintf(own, sizeof(own), "Content-Type: %s%cOffload-Batch: %u",
                   p->array ? "application/json" : "application/x-ndjson",
                   '\0', n);

    return buf_append(to, own, (size_t) len + 1);
}


/*
 * No idempotency key: the jobs of a batch that is tried again are not the same
 * ones, and a backend that knew the key would drop some.
 */

int
bulk_request(struct buf *to, const struct zone_request_view *first,
    struct buf *body, uint32_t n, const struct batch_policy *p)
{
    int                  rc;
    struct buf           headers;
    struct zone_request  fixed = first->fixed;

    if (p->array && buf_append(body, "]", 1) != 0) {
        return -1;
    }

    memset(&headers, 0, sizeof(headers));
    to->len = 0;
    rc = bulk_headers(&headers, &first->headers, n, p);

    fixed.flags = (uint16_t) (ZONE_REQUEST_CLIENT_KEY
                              | (fixed.flags & ZONE_REQUEST_AT_MOST_ONCE));
    fixed.body_size = body->len;
    fixed.headers_len = (uint32_t) headers.len;
    fixed.hooks_len = 0;
    fixed.result_max = BULK_ANSWER_MAX;

    rc = rc != 0
         || buf_append(to, &fixed, sizeof(fixed)) != 0
         || buf_append(to, first->method.data, first->method.len) != 0
         || buf_append(to, first->entrance.data, first->entrance.len) != 0
         || buf_append(to, first->uri.data, first->uri.len) != 0
         || buf_append(to, first->queue.data, first->queue.len) != 0
         || buf_append(to, first->context.data, first->context.len) != 0
         || buf_append(to, headers.data, headers.len) != 0
         || buf_append(to, body->data, body->len) != 0 ? -1 : 0;

    buf_free(&headers);

    return rc;
}
