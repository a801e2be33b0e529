/*
 * Several jobs in one request, one answer for several jobs: what may go
 * together, what the request is, and whose part of the answer is whose.  A
 * mistake here gives one client's credentials, or result, to another.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"

#include <fcntl.h>


static struct offloadd  daemon_;
static struct attempt   carrier, one;


/* A text as the name of a test. */

static const char *
plain(const char *text, size_t len)
{
    size_t       i;
    static char  name[256];

    for (i = 0; i < len && i < sizeof(name) - 1; i++) {
        name[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '.';
    }

    name[i] = '\0';

    return name;
}


/* ---- what is JSON */

static void
test_json(void)
{
    int     rc;
    char    wrong[256], *deep;
    size_t  i, n;

    static const struct {
        const char  *text;
        int          good;
    } cases[] = {
        { "0", 1 }, { "-0", 1 }, { "10.01", 1 }, { "1e9", 1 }, { "1E-9", 1 },
        { "01", 0 }, { "1.", 0 }, { ".1", 0 }, { "+1", 0 }, { "-", 0 },
        { "1e", 0 }, { "0x1", 0 }, { "NaN", 0 }, { "1 2", 0 },
        { "12345678901234567890123", 1 }, { "1e999", 1 },
        { "true", 1 }, { "false", 1 }, { " null\r\n\t", 1 }, { "True", 0 },
        { "nul", 0 }, { "truefalse", 0 },
        { "\"\"", 1 }, { "\"", 0 }, { "'a'", 0 }, { "\"a\nb\"", 0 },
        { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\"", 1 }, { "\"\\a\"", 0 },
        { "\"\\u00e\"", 0 }, { "\"\\u0000\"", 1 }, { "\"\\uD834\\uDD1E\"", 1 },
        { "\"\\ud834\"", 0 }, { "\"\\udd1e\\ud834\"", 0 },
        { "\"\\ud834\\u0041\"", 0 }, { "\"\\\"", 0 },
        { "\"\xc3\xa4\"", 1 }, { "\"\xc3\"", 0 }, { "\"\xed\xa0\xb4\"", 0 },
        { "\"\xc0\xaf\"", 0 }, { "\"\xf4\x90\x80\x80\"", 0 },
        { "[]", 1 }, { "[ ]", 1 }, { "[1,[2,[]]]", 1 }, { "[1,]", 0 },
        { "[,1]", 0 }, { "[1 2]", 0 }, { "[", 0 }, { "]", 0 }, { "[1}", 0 },
        { "{}", 1 }, { "{ }", 1 }, { " { \"a\" : 1 , \"a\" : { } } ", 1 },
        { "{\"a\"}", 0 }, { "{\"a\":}", 0 }, { "{a:1}", 0 }, { "{1:1}", 0 },
        { "{\"a\":1,}", 0 }, { "{,}", 0 }, { "{\"a\":1 \"b\":2}", 0 },
        { "{\"a\",1}", 0 }, { "", 0 }, { " ", 0 }, { "[]// a", 0 },
        { "\xef\xbb\xbf[]", 0 }, { "{}{}", 0 }, { "{}\n{}", 0 }
    };

    for (i = 0; i < ARRAY_LENGTH(cases); i++) {
        wrong[0] = '\0';
        rc = bulk_json(cases[i].text, strlen(cases[i].text), wrong,
                       sizeof(wrong));
        ok(rc == (cases[i].good ? 0 : REPLAY_NO_ITEM)
           && (rc == 0 || strlen(wrong) > 20),
           "%s is%s JSON", plain(cases[i].text, strlen(cases[i].text)),
           cases[i].good ? "" : " no");
    }

    is(bulk_json("[1]\0", 4, wrong, sizeof(wrong)), REPLAY_NO_ITEM,
       "nothing behind it");
    is(bulk_json("\"a\0b\"", 5, wrong, sizeof(wrong)), REPLAY_NO_ITEM,
       "no NUL in it");

    /* beyond what the pattern's stack bears, and beyond all bounds */

    for (n = 1000; n <= 1000000; n *= 1000) {
        deep = malloc(2 * n);
        must(deep != NULL);
        memset(deep, '[', n);
        memset(deep + n, ']', n);
        is(bulk_json(deep, 2 * n, wrong, sizeof(wrong)),
           n > 1000 ? REPLAY_NO_ITEM : 0,
           "%zu arrays in each other", n);
        free(deep);
    }
}


/* ---- what goes together */

static const char  headers[] = "Host: a\0Authorization: Bearer a\0"
                               "User-Agent: a\0X-Kind: a";

static void
view(struct zone_request_view *v)
{
    memset(v, 0, sizeof(*v));

    v->fixed.layout = ZONE_REQUEST_LAYOUT;
    v->fixed.timeout_s = 60;
    v->fixed.location = 1;
    v->fixed.method_len = 4;
    v->fixed.entrance_len = 16;
    v->fixed.uri_len = 2;
    v->fixed.queue_len = 1;
    v->fixed.context_len = 24;

    v->method = (struct zone_str) { "POST", 4 };
    v->entrance = (struct zone_str) { "0123456789abcdef", 16 };
    v->uri = (struct zone_str) { "/a", 2 };
    v->queue = (struct zone_str) { "q", 1 };
    v->context = (struct zone_str) { "192.0.2.1 192.0.2.9 http", 24 };
    v->headers = (struct zone_str) { headers, sizeof(headers) };
}


static void
together(const struct zone_request_view *b, int want, const char *name)
{
    struct zone_request_view  a;

    view(&a);

    ok(bulk_same(&a, b) == want && bulk_same(b, &a) == want
       && (bulk_key(&a) == bulk_key(b)) == want,
       "%s: %s", name, want ? "together" : "apart");
}


static void
test_same(void)
{
    size_t                    i;
    struct zone_request_view  b;

    static const struct {
        const char  *lines;
        size_t       len;
        int          same;
    } cases[] = {
#define LINES(text, same)  { text, sizeof(text), same }
        LINES("Host: a\0Authorization: Bearer a\0X-Kind: a", 1),
        LINES("Host: a\0Accept: b\0Authorization: Bearer a\0X-Kind: a\0"
              "content-LENGTH: 5\0Sec-Fetch-Mode: cors\0Date: x", 1),
        LINES("Host: a\0Authorization: Bearer b\0X-Kind: a", 0),
        LINES("Host: a\0X-Kind: a", 0),
        LINES("Host: a\0Authorization: Bearer a\0X-Kind: a\0X-Kind: a", 0),
        LINES("Host: a\0Authorization: Bearer a\0X-Kind: a\0Cookie: a", 0),
        LINES("Host: a\0X-Kind: a\0Authorization: Bearer a", 0),
        LINES("Host: a\0Authorization: Bearer a\0X-Kind: a\0Dates: a", 0),
        LINES("Host: a\0Authorization: Bearer a\0X-Kind: a\0X-Api-Key: a", 0),
        LINES("Host: b\0Authorization: Bearer a\0X-Kind: a", 0),
        LINES("Host: a\0Authorization: Bearer a\0X-Kind: a\0Range: a", 0)
    };

    view(&b);
    b.method = (struct zone_str) { "PUT", 3 };
    together(&b, 0, "another method");
    view(&b);
    b.uri = (struct zone_str) { "/b", 2 };
    together(&b, 0, "another URI");
    b.uri = (struct zone_str) { "/a?", 3 };
    together(&b, 0, "a query");
    view(&b);
    b.entrance = (struct zone_str) { "fedcba9876543210", 16 };
    together(&b, 0, "another entrance");
    view(&b);
    b.fixed.location = 2;
    together(&b, 0, "another location");
    view(&b);
    b.fixed.fair = 7;
    together(&b, 0, "another tenant");
    view(&b);
    b.fixed.timeout_s = 61;
    together(&b, 0, "another timeout");
    view(&b);
    b.fixed.depth = 2;
    together(&b, 0, "another depth");
    view(&b);
    b.context = (struct zone_str) { "2001:db8::7 192.0.2.9 http", 26 };
    together(&b, 1, "another client's address");
    b.context = (struct zone_str) { "192.0.2.1 192.0.2.9 https", 25 };
    together(&b, 0, "another scheme");
    b.context = (struct zone_str) { "192.0.2.1 192.0.2.9 http user", 29 };
    together(&b, 0, "a variable that is kept");
    view(&b);
    b.fixed.priority = 9;
    b.fixed.flags = ZONE_REQUEST_CLIENT_KEY;
    together(&b, 1, "what is said of one job's turn");

    for (i = 0; i < ARRAY_LENGTH(cases); i++) {
        view(&b);
        b.headers = (struct zone_str) { cases[i].lines, cases[i].len };
        together(&b, cases[i].same, "headers");
    }
}


/* ---- their request */

static int
item(struct buf *body, uint32_t n, const struct batch_policy *p,
    const char *text)
{
    char  wrong[256];

    view(&one.replay.view);
    one.replay.view.fixed.flags = ZONE_REQUEST_TRUNCATE|ZONE_REQUEST_KEYED
                                  |ZONE_REQUEST_AT_MOST_ONCE
                                  |ZONE_REQUEST_BATCH;
    one.replay.view.fixed.result_max = 5;
    one.replay.view.fixed.hooks_len = 9;
    one.replay.view.body = (struct zone_str) { text, strlen(text) };
    one.replay.body_fd = -1;
    one.op.row.attempts = 3;

    return bulk_item(body, n, p, &one, wrong, sizeof(wrong));
}


static void
joined(const struct batch_policy *p, const char *want, const char *type)
{
    char                      lines[256];
    int                       len;
    struct buf                body, request;
    struct zone_request_view  v;

    memset(&body, 0, sizeof(body));
    memset(&request, 0, sizeof(request));

    is(item(&body, 0, p, "{\"a\":\r\n1}"), 0, "an item");
    is(item(&body, 1, p, "{"), REPLAY_NO_ITEM, "one that is none");
    is(item(&body, 1, p, ""), REPLAY_NO_ITEM, "an empty one");
    is(item(&body, 1, p, "2"), 0, "another item");
    must(bulk_request(&request, &one.replay.view, &body, 2, p) == 0);
    ok(zone_request_parse(&v, request.data, request.len) == NULL,
       "a request like one that is stored");
    ok(v.body.len == strlen(want) && memcmp(v.body.data, want, v.body.len) == 0,
       "%s: %s", type, plain(v.body.data, v.body.len));

    len = snprintf(lines, sizeof(lines), "Host: a%cAuthorization: Bearer a%c"
                   "X-Kind: a%cContent-Type: %s%cOffload-Batch: 2", 0, 0, 0,
                   type, 0) + 1;

    ok(v.headers.len == (size_t) len
       && memcmp(v.headers.data, lines, v.headers.len) == 0,
       "the headers that all have, and two of its own");
    is(v.fixed.flags, ZONE_REQUEST_CLIENT_KEY|ZONE_REQUEST_AT_MOST_ONCE,
       "no key, no file, nothing to cut: but at most once stays");
    is(v.fixed.hooks_len, 0, "no webhooks");
    is(v.fixed.result_max, BULK_ANSWER_MAX, "an answer of some size");

    buf_free(&body);
    buf_free(&request);
}


static void
test_join(void)
{
    int                  fd;
    char                 want[256], id[ZONE_ID_TEXT], wrong[64];
    struct buf           body;
    struct batch_policy  p;

    memset(&p, 0, sizeof(p));
    joined(&p, "{\"a\":  1}\n2\n", "application/x-ndjson");
    p.array = 1;
    joined(&p, "[{\"a\":  1},2]", "application/json");
    p.envelope = 1;
    zone_id_format(id, one.op.row.id);
    (void) snprintf(want, sizeof(want),
                    "[{\"job_id\":\"%.*s\",\"attempt\":3,\"body\":{\"a\":  1}},"
                    "{\"job_id\":\"%.*s\",\"attempt\":3,\"body\":2}]",
                    ZONE_ID_TEXT, id, ZONE_ID_TEXT, id);
    joined(&p, want, "application/json");

    /* from a file */

    memset(&p, 0, sizeof(p));
    memset(&body, 0, sizeof(body));
    fd = open(tap_file("body"), O_RDWR|O_CREAT|O_CLOEXEC, 0600);
    must(fd != -1 && write(fd, "[1,\n2]", 6) == 6);
    view(&one.replay.view);
    one.replay.view.fixed.body_size = 6;
    one.replay.body_fd = fd;
    is(bulk_item(&body, 0, &p, &one, wrong, sizeof(wrong)), 0, "a file");
    ok(body.len == 7 && memcmp(body.data, "[1, 2]\n", 7) == 0, "is read");
    one.replay.view.fixed.body_size = 7;
    is(bulk_item(&body, 1, &p, &one, wrong, sizeof(wrong)), REPLAY_LOST,
       "one that is too short is none");
    is(body.len, 7, "and leaves nothing");
    one.replay.body_fd = -1;
    close(fd);
    buf_free(&body);
}


/* ---- their answers */

static uint32_t  given;                         /* to one of two */
static char      said[8192];                    /* its headers, "|" its body */


static int
part(uint32_t status, const char *text, size_t len, uint32_t i)
{
    int                 rc;
    size_t              k, n;
    struct bulk_answer  answer;

    memset(&answer, 0, sizeof(answer));
    result_reset(&one.result, "", one.op.row.id);
    one.item = i;
    one.message[0] = '\0';
    one.op.row.http_status = 0;

    carrier.message[0] = '\0';
    carrier.op.row.http_status = (uint16_t) status;
    carrier.result.raw.len = 0;
    must(buf_append(&carrier.result.raw, "X-All: a", 9) == 0);
    carrier.result.body.len = 0;
    must(buf_append(&carrier.result.body, text, len) == 0);
    carrier.result.size = len;

    bulk_parse(&answer, &carrier, 2);
    rc = bulk_part(&daemon_, &answer, &carrier, &one, i);
    bulk_answer_free(&answer);

    given = one.op.row.http_status;

    for (k = 0; k < one.result.headers.len; k++) {
        said[k] = (char) one.result.headers.data[k];
        said[k] = said[k] ? said[k] : ' ';
    }

    n = one.result.body.len < 1000 ? one.result.body.len : 0;
    (void) snprintf(said + k, sizeof(said) - k, "|%.*s", (int) n,
                    n ? (char *) one.result.body.data : "");

    return rc;
}


static void
test_split(void)
{
    int     rc;
    size_t  i;

#define JSON   "Content-Type: application/json "
#define ALL    "X-All: a |"
#define BAD    REPLAY_BAD_BATCH

    static const struct {
        uint32_t     status;
        const char  *text;
        int          rc;
        uint32_t     given;
        const char  *said;
    } cases[] = {                               /* for the second of two */
        { 200, "[200,201]", 0, 201, "|" },
        { 207, "[200,599]", 0, 599, "|" },
        { 200, "[200,{\"status\":422}]", 0, 422, JSON "|{\"status\":422}" },
        { 200, "{\"items\":[200,{\"status\":200,\"body\":\"x\"}],\"a\":1}", 0,
          200, JSON "|\"x\"" },
        { 200, "[200,{\"status\":503,\"retry_after\":5,\"body\":null}]", 0,
          503, JSON "Retry-After: 5 |null" },
        { 200, "[200,{\"status\":503,\"retry_after\":-5,\"body\":1}]", 0,
          503, JSON "|1" },
        { 200, "[200,{\"status\":503,\"retry_after\":99999999,\"body\":1}]", 0,
          503, JSON "|1" },

        /* nobody's */
        { 200, "[200]", BAD, 0, "|" },
        { 200, "[200,200,200]", BAD, 0, "|" },
        { 207, "[]", BAD, 0, "|" },
        { 207, "", BAD, 0, "|" },
        { 207, "{\"items\":{}}", BAD, 0, "|" },
        { 207, "[1,2]", BAD, 0, "|" },
        { 200, "[200,199]", BAD, 0, "|" },
        { 200, "[200,600]", BAD, 0, "|" },
        { 200, "[200,\"200\"]", BAD, 0, "|" },
        { 200, "[200,200.0]", BAD, 0, "|" },
        { 200, "[200,4294967496]", BAD, 0, "|" },
        { 200, "[200,{\"status\":[200]}]", BAD, 0, "|" },
        { 200, "[200,null]", BAD, 0, "|" },

        /* everyone's */
        { 200, "", 0, 200, ALL },
        { 204, "", 0, 204, ALL },
        { 200, "done", 0, 200, ALL "done" },
        { 200, "200", 0, 200, ALL "200" },
        { 200, "[]", 0, 200, ALL "[]" },
        { 200, "[1,2]", 0, 200, ALL "[1,2]" },
        { 200, "[{\"id\":1}]", 0, 200, ALL "[{\"id\":1}]" },
        { 200, "{\"items\":[1]}", 0, 200, ALL "{\"items\":[1]}" },
        { 200, "{\"items\":200}", 0, 200, ALL "{\"items\":200}" },
        { 200, "[200,201", 0, 200, ALL "[200,201" },
        { 400, "[200,201]", 0, 400, ALL "[200,201]" },
        { 503, "", 0, 503, ALL }
    };

    for (i = 0; i < ARRAY_LENGTH(cases); i++) {
        rc = part(cases[i].status, cases[i].text, strlen(cases[i].text), 1);

        if (!ok(rc == cases[i].rc && given == cases[i].given
                && strcmp(said, cases[i].said) == 0,
                "answered %u \"%s\"", cases[i].status, cases[i].text))
        {
            tap_say("outcome %d, status %u, \"%s\"", rc, given, said);
        }
    }

    (void) part(200, "[200,0]", 7, 1);
    like(one.message, "no status from 200 to 599 for item 1", "whose fault");
    is(part(200, "[200,0]", 7, 0), 0, "which is no loss for the other");
    (void) part(200, "[200]", 5, 0);
    like(carrier.message, "has 1 statuses for 2 items", "too few");
    (void) part(207, "{}", 2, 0);
    like(carrier.message, "answered 207 without an array", "none");
}


/* A copy for each job: not of something large. */

static void
test_large(void)
{
    static char  text[STORE_INLINE_MAX + 1];

    memset(text, 'a', sizeof(text));

    is(part(200, text, sizeof(text) - 1, 0), REPLAY_ANSWERED, "64 KB");
    is(one.result.body.len, sizeof(text) - 1, "are everyone's");
    is(part(200, text, sizeof(text), 0), REPLAY_TOO_LARGE, "one byte more");
    is(one.result.max, STORE_INLINE_MAX, "is too much, which is said");

}


int
main(void)
{
    tap_begin();

    result_init(&one.result);
    result_init(&carrier.result);

    test_json();
    test_same();
    test_join();
    test_split();
    test_large();

    result_free(&one.result);
    result_free(&carrier.result);

    return tap_end();
}
