/*
 * offloadd sends a stored request as it is.  What could become a second line,
 * a second request, or a read beyond the record is refused here or nowhere.
 */

#include "unit.h"
#include "zone_request.h"


/* A request in the making: everything may be overridden. */

struct parts {
    struct zone_request      fixed;
    struct zone_request_key  key;               /* if KEYED */
    const char              *method;
    const char              *entrance;
    const char              *uri;
    const char              *queue;
    const char              *context;
    const char              *headers;
    size_t                   headers_len;
    const char              *body;
};

static uint8_t  buf[4096];


#define GOOD_HEADERS  "Host: example.com\0X-Empty: \0Via: 1.1 a, 1.0 b:c"


static struct parts
parts(void)
{
    struct parts  p;

    memset(&p, 0, sizeof(p));

    p.fixed.layout = ZONE_REQUEST_LAYOUT;
    p.fixed.timeout_s = 3600;
    p.fixed.location = 0xdeadbeef;
    memset(p.fixed.owner, 3, ZONE_DIGEST_SIZE);
    memset(p.key.key, 1, ZONE_DIGEST_SIZE);
    memset(p.key.print, 2, ZONE_DIGEST_SIZE);
    p.key.ttl_s = 60;
    p.method = "POST";
    p.entrance = "0123456789abcdef";
    p.uri = "/reports/2026?from=1&to=%20\xc3\xa9";
    p.queue = "";
    p.context = "192.0.2.1 4711 https";
    p.headers = GOOD_HEADERS;
    p.headers_len = sizeof(GOOD_HEADERS);
    p.body = "a=1&b=2";

    return p;
}


static uint8_t *
append(uint8_t *to, const void *from, size_t len)
{
    memcpy(to, from, len);

    return to + len;
}


/* At an odd address, and so that ASan sees a read beyond the end. */

static uint8_t *
build(const struct parts *p, size_t *n)
{
    uint8_t              *to, *whole;
    struct zone_request   r;

    r = p->fixed;
    r.method_len = (uint16_t) strlen(p->method);
    r.entrance_len = (uint16_t) strlen(p->entrance);
    r.uri_len = (uint32_t) strlen(p->uri);
    r.queue_len = (uint16_t) strlen(p->queue);
    r.context_len = (uint32_t) strlen(p->context);
    r.headers_len = (uint32_t) p->headers_len;

    if (!(r.flags & ZONE_REQUEST_BODY_FILE)) {
        r.body_size = strlen(p->body);
    }

    to = append(buf, &r, sizeof(r));

    if (r.flags & ZONE_REQUEST_KEYED) {
        to = append(to, &p->key, sizeof(p->key));
    }

    to = append(to, p->method, r.method_len);
    to = append(to, p->entrance, r.entrance_len);
    to = append(to, p->uri, r.uri_len);
    to = append(to, p->queue, r.queue_len);
    to = append(to, p->context, r.context_len);
    to = append(to, p->headers, r.headers_len);

    if (!(r.flags & ZONE_REQUEST_BODY_FILE)) {
        to = append(to, p->body, r.body_size);
    }

    *n = (size_t) (to - buf);
    must(zone_request_size(&r) == *n);

    whole = malloc(*n + 1);
    must(whole != NULL);
    memcpy(whole + 1, buf, *n);

    return whole;
}


static const char *
parse(const struct parts *p)
{
    size_t                    n;
    uint8_t                  *whole;
    const char               *bad;
    struct zone_request_view  v;

    whole = build(p, &n);
    bad = zone_request_parse(&v, whole + 1, n);
    free(whole);

    return bad;
}


static int
same(const struct zone_str *s, const void *text, size_t len)
{
    return s->len == len && memcmp(s->data, text, len) == 0;
}


static void
test_good(void)
{
    size_t                    n;
    uint8_t                  *whole;
    struct parts              p;
    struct zone_request_view  v;

    p = parts();
    whole = build(&p, &n);

    ok(zone_request_parse(&v, whole + 1, n) == NULL, "a request");
    ok(same(&v.method, "POST", 4), "its method");
    ok(same(&v.entrance, p.entrance, 16), "its entrance");
    ok(same(&v.uri, p.uri, strlen(p.uri)), "its uri");
    ok(same(&v.queue, "", 0), "its queue");
    ok(same(&v.context, p.context, strlen(p.context)), "its context");
    ok(same(&v.headers, GOOD_HEADERS, sizeof(GOOD_HEADERS)), "its headers");
    ok(same(&v.body, "a=1&b=2", 7), "its body");
    ok(v.fixed.timeout_s == 3600 && v.fixed.location == 0xdeadbeef
       && v.fixed.body_size == 7, "its numbers");
    ok(memcmp(v.fixed.owner, p.fixed.owner, ZONE_DIGEST_SIZE) == 0,
       "its owner");
    free(whole);

    p.headers_len = 0;
    p.body = "";
    p.context = "";
    p.uri = "*";
    p.method = "OPTIONS";
    p.queue = "slow";
    ok(parse(&p) == NULL, "the least there can be");

    p = parts();
    p.method = "!#$%&'*+-.^_`|~09azAZ-----------";
    ok(parse(&p) == NULL, "all characters a method can have, 32 of them");

    p = parts();
    p.fixed.flags = ZONE_REQUEST_BODY_FILE|ZONE_REQUEST_CLIENT_KEY
                    |ZONE_REQUEST_AT_MOST_ONCE;
    p.fixed.body_size = 1ull << 50;
    whole = build(&p, &n);
    ok(zone_request_parse(&v, whole + 1, n) == NULL, "a body in a file");
    ok(v.body.len == 0 && v.fixed.body_size == 1ull << 50,
       "is not in the record, whatever its size");
    ok(v.key.ttl_s == 0, "it has no key");
    free(whole);

    p = parts();
    p.fixed.flags = ZONE_REQUEST_KEYED;
    whole = build(&p, &n);
    ok(zone_request_parse(&v, whole + 1, n) == NULL, "a request with a key");
    ok(memcmp(&v.key, &p.key, sizeof(p.key)) == 0, "has it as it was");
    ok(same(&v.method, "POST", 4) && same(&v.body, "a=1&b=2", 7),
       "and all the others");
    ok(zone_request_parse(&v, whole + 1, sizeof(struct zone_request) + 10)
       != NULL, "cut short in its key it is refused");
    free(whole);
}


#define refuse(text)                                                          \
    do {                                                                      \
        like(parse(&p), text, "%s", text);                                    \
        p = parts();                                                          \
    } while (0)

#define refuse_headers(h, text)                                               \
    do {                                                                      \
        p.headers = h;                                                        \
        p.headers_len = sizeof(h);                                            \
        refuse(text);                                                         \
    } while (0)


static void
test_bad(void)
{
    struct parts  p;

    p = parts();

    p.fixed.layout = 2;
    refuse("layout is not 1");
    p.fixed.flags = 64;
    refuse("unknown flags");
    p.fixed.flags = ZONE_REQUEST_TRUNCATE;
    refuse("cut at no size");
    p.fixed.timeout_s = 0;
    refuse("timeout is 0");
    p.fixed.priority = 10;
    refuse("priority is not within 0 to 9");
    p.fixed.flags = ZONE_REQUEST_KEYED;
    p.key.ttl_s = 0;
    refuse("lifetime of the request's key is 0");

    p.method = "";
    refuse("method's length");
    p.method = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456";
    refuse("method's length");
    p.method = "GET /";
    refuse("not a token");
    p.method = "GET\r\n";
    refuse("not a token");
    p.method = "G\xc3\xa9T";
    refuse("not a token");

    p.entrance = "0123456789abcde";
    refuse("entrance's length is not 16");
    p.entrance = "0123456789abcdef0";
    refuse("entrance's length is not 16");
    p.entrance = "0123456789abcdeF";
    refuse("not lower-case hexadecimal");
    p.entrance = "../../../etc/pwd";
    refuse("not lower-case hexadecimal");

    p.uri = "";
    refuse("uri does not begin");
    p.uri = "reports";
    refuse("uri does not begin");
    p.uri = "http://example.com/";
    refuse("uri does not begin");
    p.uri = "*/";
    refuse("uri does not begin");
    p.uri = "/a b";
    refuse("uri has a space");
    p.uri = "/a HTTP/1.1\r\nX: y";
    refuse("uri has a space");
    p.uri = "/a\tb";
    refuse("uri has a space or a control");
    p.uri = "/a\x7f";
    refuse("uri has a space or a control");

    p.queue = "a\nb";
    refuse("queue's name");
    p.context = "a\r\nX: y";
    refuse("context has a control");
    p.context = "a\tb";
    refuse("context has a control");

    refuse_headers("Host", "form \"Name: value\"");
    refuse_headers("Host:x", "form \"Name: value\"");
    refuse_headers("Host:", "form \"Name: value\"");
    refuse_headers(": x", "form \"Name: value\"");
    refuse_headers("A: b\0", "form \"Name: value\"");
    refuse_headers("A: b\0c", "form \"Name: value\"");
    refuse_headers("A b: c", "name has a space");
    refuse_headers("A\r\nB: c", "name has a space or a control");
    refuse_headers("A: b\r\nC: d", "line break");
    refuse_headers("A: b\rc", "line break");
    refuse_headers("A: b\nc", "line break");

    p.headers = "Host: x";
    p.headers_len = 7;
    refuse("no end");
}


/* Lengths that do not add up to the record's. */

static void
test_lengths(void)
{
    int                       wrong;
    size_t                    n, i;
    uint8_t                  *whole;
    struct parts              p;
    struct zone_request      *r, saved;
    struct zone_request_view  v;

    p = parts();
    free(build(&p, &n));
    wrong = 0;

    for (i = 0; i < n; i++) {
        whole = malloc(i ? i : 1);
        must(whole != NULL);
        memcpy(whole, buf, i);
        wrong += zone_request_parse(&v, whole, i) == NULL;
        free(whole);
    }

    is(wrong, 0, "cut short anywhere it is refused");
    ok(zone_request_parse(&v, buf, n + 1) != NULL, "so it is with a byte more");

    r = (struct zone_request *) (void *) buf;
    saved = *r;

#define overflow(field, value)                                                \
    r->field = value;                                                         \
    ok(zone_request_parse(&v, buf, n) != NULL, #field " " #value " refused"); \
    *r = saved;

    overflow(method_len, 65535)
    overflow(entrance_len, 65535)
    overflow(uri_len, UINT32_MAX)
    overflow(queue_len, 65535)
    overflow(context_len, UINT32_MAX)
    overflow(headers_len, UINT32_MAX)
    overflow(body_size, UINT64_MAX)
    overflow(body_size, 8)
    overflow(body_size, 6)
    overflow(priority, 10)

    /* the sum comes to what it was, in 32 bits and in 64 */

    r->uri_len = saved.uri_len - 100;
    r->headers_len = saved.headers_len + 100;
    ok(zone_request_parse(&v, buf, n) != NULL, "uri_len + headers_len 2^32");
    *r = saved;

    r->body_size = saved.body_size - 50;
    r->context_len = saved.context_len + 50;
    ok(zone_request_parse(&v, buf, n) != NULL, "body_size + context_len 2^64");

    is(zone_request_size(r) == SIZE_MAX, 1, "such a size is no size");
    r->body_size = UINT64_MAX;
    is(zone_request_size(r) == SIZE_MAX, 1, "nor is that");
    r->flags = ZONE_REQUEST_BODY_FILE;
    ok(zone_request_size(r) < 1000, "unless the body is in a file");
    *r = saved;

    r->flags = ZONE_REQUEST_BODY_FILE;
    like(zone_request_parse(&v, buf, n), "shorter than the record",
         "a body in a file and bytes for it in the record are refused");
    *r = saved;

    ok(zone_request_parse(&v, buf, n) == NULL, "as it was it is good");
}


/* Both programs, and the store, know a queue by it. */

static void
test_queue_hash(void)
{
    is(zone_queue_hash("", 0), 0x811c9dc5, "the hash of no name");
    is(zone_queue_hash("a", 1), 0xe40c292c, "of a short one");
    is(zone_queue_hash("foobar", 6), 0xbf9cf968, "of a longer one");
}


int
main(void)
{
    tap_begin();

    test_good();
    test_bad();
    test_lengths();
    test_queue_hash();

    return tap_end();
}
