/*
 * What backends report is shown to others and served as a header: nothing of
 * it may be more than it says, and a token must be the whole token.
 */

#include "unit.h"
#include "zone_report.h"


#define LINES  "content-type: text/a\0X: \0Content-Type: b"

static uint8_t  buf[1024];


/* At an odd address, and so that ASan sees a read beyond the end. */

static const void *
at_the_end(const void *p, size_t n)
{
    static uint8_t  *copy;

    free(copy);
    copy = malloc(n + 1);
    must(copy != NULL);
    memcpy(copy + 1, p, n);

    return copy + 1;
}


static const char *
progress(struct zone_progress f, const char *message, size_t n,
    struct zone_progress_view *v)
{
    memcpy(buf, &f, sizeof(f));
    memcpy(buf + sizeof(f), message, strlen(message));

    return zone_progress_parse(v, at_the_end(buf, n), n);
}


static void
test_progress(void)
{
    size_t                     n;
    struct zone_progress       f, good;
    struct zone_progress_view  v;

    memset(&good, 0, sizeof(good));
    good.layout = ZONE_REPORT_LAYOUT;
    good.flags = ZONE_PROGRESS_PERCENT|ZONE_PROGRESS_MESSAGE;
    good.percent = 100;
    good.message_len = 4;
    n = sizeof(good) + 4;

    ok(progress(good, "half", n, &v) == NULL, "percent and a message");
    ok(v.message.len == 4 && memcmp(v.message.data, "half", 4) == 0,
       "the message is found");

#define bad(change, text)                                                     \
    f = good;                                                                 \
    change;                                                                   \
    like(progress(f, "half", n, &v), text, #change)

    bad(f.layout = 2, "layout");
    bad(f.flags = 0, "flags");
    bad(f.flags = 4, "flags");
    bad(f.percent = 101, "100 percent");
    bad(f.message_len = ZONE_PROGRESS_MAX + 1, "too long");
    bad(f.message_len = 5, "length");
    bad(f.message_len = 3, "length");

    n = sizeof(good) - 1;
    bad(f.message_len = 0, "shorter");
}


static const char *
put(struct zone_put f, const char *strings, size_t len,
    struct zone_put_view *v)
{
    memcpy(buf, &f, sizeof(f));
    memcpy(buf + sizeof(f), strings, len);

    return zone_put_parse(v, at_the_end(buf, sizeof(f) + len),
                          sizeof(f) + len);
}


static void
test_put(void)
{
    struct zone_put       f, good;
    struct zone_put_view  v;

    static const char  strings[] = LINES "\0body";

    memset(&good, 0, sizeof(good));
    good.layout = ZONE_REPORT_LAYOUT;
    good.http_status = 200;
    good.headers_len = sizeof(LINES);
    good.body_size = 4;

#define with(text)  put(f, text, sizeof(text) - 1, &v)

    f = good;
    ok(with(strings) == NULL, "headers and a body");
    ok(v.body.len == 4 && memcmp(v.body.data, "body", 4) == 0, "the body");
    ok(v.type.len == 6 && memcmp(v.type.data, "text/a", 6) == 0,
       "the first Content-Type");

    f.flags = ZONE_PUT_BODY_FILE;
    f.body_size = 1ull << 40;
    ok(with(LINES "\0") == NULL && v.body.len == 0, "the body is a file");
    like(with(strings), "length", "with such and a body");

    f.headers_len = 0;
    ok(with("") == NULL && v.type.len == 0, "no headers");

#undef bad
#define bad(change, text)                                                     \
    f = good;                                                                 \
    change;                                                                   \
    like(with(strings), text, #change)

    bad(f.layout = 0, "layout");
    bad(f.flags = 2, "flags");
    bad(f.http_status = 199, "status");
    bad(f.http_status = 600, "status");
    bad(f.body_size = 5, "length");
    bad(f.body_size = UINT64_MAX, "length");
    bad(f.headers_len = UINT32_MAX, "length");
    bad((f.headers_len--, f.body_size++), "not ended");

    like(zone_put_parse(&v, buf, sizeof(f) - 1), "shorter", "too short");

    f = good;
    f.body_size = 0;

    f.headers_len = 4;
    like(with("A b\0"), "is none", "no colon");
    like(with(": b\0"), "is none", "no name");
    f.headers_len = 7;
    like(with("A: b\rC\0"), "is none", "a line that goes on");
    like(with("A: b\nC\0"), "is none", "a line of its own");
    f.headers_len = 6;
    ok(with("A: \t\xe9\0") == NULL, "a tab and what is not ASCII");
}


static void
test_token(void)
{
    int      i, wrong;
    uint8_t  a[ZONE_TOKEN_SIZE], b[ZONE_TOKEN_SIZE];

    memset(a, 7, sizeof(a));
    memcpy(b, a, sizeof(b));

    ok(zone_token_same(a, b), "a token is itself");

    for (i = 0, wrong = 0; i < ZONE_TOKEN_SIZE * 8; i++) {
        b[i / 8] ^= (uint8_t) (1 << i % 8);
        wrong += zone_token_same(a, b);
        b[i / 8] ^= (uint8_t) (1 << i % 8);
    }

    is(wrong, 0, "with any bit changed it is not");
}


int
main(void)
{
    tap_begin();

    test_progress();
    test_put();
    test_token();

    (void) at_the_end("", 0);

    return tap_end();
}
