/*
 * Any bytes as the bodies of jobs that become one request, and as the answer
 * to it: each item that is JSON is in the request once and no other, which is
 * one that could have been stored; and each job gets its own status.
 *
 * The input: a byte of how, two that say which header lines two requests have,
 * and the bodies, with 0xff, which no JSON has, between them; the last one is
 * the answer.
 *
 * With -DFUZZ_MAIN a program by itself (fuzz_main.h), else for libFuzzer.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "../../src/worker/offloadd.h"


#define FUZZ_ITEMS   8
#define FUZZ_JSON    (JSON_DECODE_ANY|JSON_DECODE_INT_AS_REAL|JSON_ALLOW_NUL)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct offloadd  fuzz_daemon;
static struct attempt   fuzz_attempts[FUZZ_ITEMS];
static struct attempt   fuzz_carrier;

/* The first half goes with the request, the others don't. */

static const char *const  fuzz_lines[] = {
    "Authorization: Bearer a", "Authorization: Bearer b", "X-Kind: a",
    "Acceptance: a", "Accept: a", "Content-Type: a/b", "user-agent: a",
    "X-Forwarded-For: 192.0.2.1"
};

#define FUZZ_KEPT    0x0f


static void
fuzz_is(int good)
{
    if (!good) {
        abort();
    }
}


/* No result has a file yet. */

static void
fuzz_begin(void)
{
    size_t  i;

    if (fuzz_carrier.result.fd == -1) {
        return;
    }

    result_init(&fuzz_carrier.result);

    for (i = 0; i < FUZZ_ITEMS; i++) {
        result_init(&fuzz_attempts[i].result);
    }
}


/* Bit i: it has fuzz_lines[i]. */

static void
fuzz_headers(struct buf *to, unsigned mask)
{
    size_t  i;

    to->len = 0;

    for (i = 0; i < ARRAY_LENGTH(fuzz_lines); i++) {
        if (mask & 1u << i) {
            fuzz_is(buf_append(to, fuzz_lines[i], strlen(fuzz_lines[i]) + 1)
                    == 0);
        }
    }
}


static void
fuzz_request(struct zone_request_view *v, const struct buf *headers)
{
    memset(v, 0, sizeof(*v));

    v->fixed.layout = ZONE_REQUEST_LAYOUT;
    v->fixed.timeout_s = 60;
    v->fixed.method_len = 4;
    v->fixed.entrance_len = 16;
    v->fixed.uri_len = 2;
    v->fixed.context_len = 14;

    v->method = (struct zone_str) { "POST", 4 };
    v->entrance = (struct zone_str) { "0123456789abcdef", 16 };
    v->uri = (struct zone_str) { "/a", 2 };
    v->queue = (struct zone_str) { "", 0 };
    v->context = (struct zone_str) { "192.0.2.1 http", 14 };
    v->headers = (struct zone_str) { (const char *) headers->data,
                                     headers->len };
}


/* 2: but for a number that is too large for jansson, which stops there */

static int
fuzz_json(const uint8_t *p, size_t n, json_t **to)
{
    json_t        *json;
    json_error_t   e;

    json = n ? json_loadb((const char *) p, n, FUZZ_JSON, &e) : NULL;

    if (to) {
        *to = json;

    } else {
        json_decref(json);
    }

    return json ? 1 : n && json_error_code(&e) == json_error_numeric_overflow
                      ? 2 : 0;
}


/* What goes to the backend, of n items. */

static void
fuzz_body(const struct zone_str *body, uint32_t n,
    const struct batch_policy *p)
{
    int             rc;
    json_t         *json;
    uint32_t        lines;
    const uint8_t  *b, *end, *nl;

    b = (const uint8_t *) body->data;
    end = b + body->len;

    if (p->array) {
        rc = fuzz_json(b, body->len, &json);
        fuzz_is(rc == 2 || (json_is_array(json)
                            && json_array_size(json) == n));
        json_decref(json);
        return;
    }

    for (lines = 0; b < end; lines++, b = nl + 1) {
        nl = memchr(b, '\n', (size_t) (end - b));
        fuzz_is(nl != NULL && fuzz_json(b, (size_t) (nl - b), NULL));
    }

    fuzz_is(lines == n);
}


static void
fuzz_joined(const struct buf *request, const struct buf *headers, uint32_t n,
    const struct batch_policy *p)
{
    char                      own[128];
    int                       len;
    size_t                    kept;
    struct zone_request_view  v;

    fuzz_is(zone_request_parse(&v, request->data, request->len) == NULL);
    fuzz_is(v.method.len == 4 && v.uri.len == 2 && v.context.len == 14);
    fuzz_is((v.fixed.flags & ZONE_REQUEST_BODY_FILE) == 0);

    len = snprintf(own, sizeof(own), "Content-Type: application/%s%c"
                   "Offload-Batch: %u", p->array ? "json" : "x-ndjson", '\0',
                   n);
    kept = v.headers.len - (size_t) len - 1;

    fuzz_is(v.headers.len > (size_t) len && kept == headers->len
            && memcmp(v.headers.data + kept, own, (size_t) len + 1) == 0
            && (kept == 0
                || memcmp(v.headers.data, headers->data, kept) == 0));

    fuzz_body(&v.body, n, p);
}


/* Of n jobs, whose backend has answered so. */

static void
fuzz_answer(const uint8_t *p, size_t size, uint32_t status, uint32_t n)
{
    int                 part, array;
    uint32_t            i, own;
    json_t             *json, *entry;
    struct attempt     *a, *c = &fuzz_carrier;
    struct bulk_answer  answer;

    memset(&answer, 0, sizeof(answer));
    c->op.row.http_status = (uint16_t) status;
    c->result.body = (struct buf) { .data = (uint8_t *) p, .len = size };
    c->result.size = size;

    json = size ? json_loadb((const char *) p, size, JSON_ALLOW_NUL, NULL)
                : NULL;
    array = status >= 200 && status <= 299 && json_is_array(json);

    bulk_parse(&answer, c, n);

    for (i = 0; i < n; i++) {
        a = &fuzz_attempts[i];
        result_reset(&a->result, "", a->op.row.id);
        a->item = i;
        a->op.row.http_status = 0;

        part = bulk_part(&fuzz_daemon, &answer, c, a, i);

        fuzz_is(part == REPLAY_BAD_BATCH || part == REPLAY_ANSWERED);
        fuzz_is(part == REPLAY_BAD_BATCH
                || (a->op.row.http_status >= 200
                    && a->op.row.http_status <= 599));
        fuzz_is(part == REPLAY_ANSWERED || (status >= 200 && status <= 299));

        entry = array ? json_array_get(json, i) : NULL;
        own = json_is_integer(entry) ? (uint32_t) json_integer_value(entry)
                                     : 0;

        if (own >= 200 && own <= 599
            && json_integer_value(entry) == (json_int_t) own)
        {
            fuzz_is(json_array_size(json) == n
                    ? part == REPLAY_ANSWERED && a->op.row.http_status == own
                    : part == REPLAY_BAD_BATCH);
        }
    }

    bulk_answer_free(&answer);
    json_decref(json);
    memset(&c->result.body, 0, sizeof(c->result.body));
}


static uint32_t
fuzz_items(struct buf *body, const uint8_t **at, const uint8_t *end,
    const struct buf *headers, const struct batch_policy *p)
{
    int              rc, json;
    char             wrong[256];
    size_t           len, was;
    uint32_t         n;
    const uint8_t   *next;
    struct attempt  *a;

    for (n = 0; n < FUZZ_ITEMS; *at = next + 1) {
        next = memchr(*at, 0xff, (size_t) (end - *at));

        if (next == NULL) {
            break;
        }

        a = &fuzz_attempts[n];
        len = (size_t) (next - *at);
        was = body->len;

        fuzz_request(&a->replay.view, headers);
        a->replay.view.body = (struct zone_str) { (const char *) *at, len };
        a->replay.body_fd = -1;

        rc = bulk_item(body, n, p, a, wrong, sizeof(wrong));
        json = fuzz_json(*at, len, NULL);

        fuzz_is(rc == 0 || rc == REPLAY_NO_ITEM);
        fuzz_is(rc == 0 ? json != 0 : json != 1 && body->len == was);

        n += rc == 0;
    }

    return n;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                       same;
    uint32_t                  n;
    struct buf                headers[2], body, request;
    const uint8_t            *at, *end;
    struct batch_policy       p;
    struct zone_request_view  v[2];

    static const uint16_t  statuses[] = { 200, 207, 202, 400, 503, 599 };

    if (size < 3) {
        return 0;
    }

    fuzz_begin();

    memset(headers, 0, sizeof(headers));
    memset(&body, 0, sizeof(body));
    memset(&request, 0, sizeof(request));
    memset(&p, 0, sizeof(p));

    p.array = data[0] & 1;
    p.envelope = data[0] >> 1 & 1;

    fuzz_headers(&headers[0], data[1]);
    fuzz_headers(&headers[1], data[2]);
    fuzz_request(&v[0], &headers[0]);
    fuzz_request(&v[1], &headers[1]);

    same = ((data[1] ^ data[2]) & FUZZ_KEPT) == 0;
    fuzz_is(bulk_same(&v[0], &v[1]) == same);
    fuzz_is((bulk_key(&v[0]) == bulk_key(&v[1])) == same);

    at = data + 3;
    end = data + size;
    n = fuzz_items(&body, &at, end, &headers[0], &p);

    if (n) {
        fuzz_is(bulk_request(&request, &fuzz_attempts[0].replay.view, &body, n,
                             &p) == 0);
        fuzz_headers(&headers[0], data[1] & FUZZ_KEPT);
        fuzz_joined(&request, &headers[0], n, &p);
        fuzz_answer(at, (size_t) (end - at),
                    statuses[(data[0] >> 2) % ARRAY_LENGTH(statuses)], n);
    }

    buf_free(&headers[0]);
    buf_free(&headers[1]);
    buf_free(&body);
    buf_free(&request);

    return n > 0;
}


#ifdef FUZZ_MAIN

#include "fuzz_main.h"


struct fuzz_text {
    uint8_t   *to;
    size_t     n;
    size_t     max;
    uint64_t  *random;
};


static void
fuzz_put(struct fuzz_text *t, const char *text)
{
    size_t  n = strlen(text);

    if (n <= t->max - t->n) {
        memcpy(t->to + t->n, text, n);
        t->n += n;
    }
}


static void
fuzz_value(struct fuzz_text *t, int depth)
{
    uint64_t  x, i;

    static const char *const  some[] = {
        "200", "404", "207", "1", "-0.5e+3", "1e999", "01", "true", "null", "",
        "\"\"", "\"a\\u00e4\\n\"", "\"\xc3\xa4\"", "\"\\ud834\\udd1e\"",
        "\"\\ud834\"", "\"\\udd1e\"", " false\r\n", "\"\\x\"",
        "\"\\u0000\"", "{\"status\":200,\"body\":[1]}", "{\"status\":599}"
    };

    x = fuzz_random(t->random);
    i = x >> 8 & 3;

    switch (depth ? x % 6 : 5) {

    case 0:
    case 1:
        fuzz_put(t, x >> 16 & 1 ? "[" : " [\n");

        while (i--) {
            fuzz_value(t, depth - 1);
            fuzz_put(t, i ? "," : "");
        }

        fuzz_put(t, "]");
        break;

    case 2:
        fuzz_put(t, "{");

        while (i--) {
            fuzz_put(t, x >> 16 & 1 ? "\"items\":" : "\"status\" : ");
            fuzz_value(t, depth - 1);
            fuzz_put(t, i ? "," : "");
        }

        fuzz_put(t, "}");
        break;

    default:
        /* the first four of them most of the time */
        fuzz_put(t, some[x >> 16 & 3 ? (x >> 20) % 4
                                     : (x >> 20) % ARRAY_LENGTH(some)]);
    }
}


/* JSON as it may come, with some of its bytes changed. */

size_t
fuzz_make(uint8_t *to, size_t max, uint64_t *random)
{
    size_t            i;
    uint64_t          x, items;
    struct fuzz_text  t = { to, 3, max / 2, random };

    x = fuzz_random(random);
    to[0] = (uint8_t) x;
    to[1] = (uint8_t) (x >> 8);
    to[2] = x >> 16 & 1 ? (uint8_t) (x >> 24)
                        : (uint8_t) (to[1] ^ (x >> 24 & ~FUZZ_KEPT));

    for (items = x >> 32 & 3; items; items--) {
        fuzz_value(&t, 3);
        fuzz_put(&t, "\xff");
    }

    fuzz_value(&t, x >> 40 & 1 ? 3 : 1);

    for (i = x >> 48 & 3; i > 1 && t.n > 3; i--) {
        x = fuzz_random(random);
        to[3 + (x >> 32) % (t.n - 3)] = (uint8_t) (x >> 8);
    }

    return t.n;
}


int
main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 100000);
}

#endif
