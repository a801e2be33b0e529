/*
 * A trace goes on through a job: each attempt is a span of its own, below the
 * client's, in the client's trace.  What is no traceparent stays what it is
 * where a request is passed on, and is left out where one is made.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


#define TRACE   "0af7651916cd43dd8448eb211c80319c"
#define PARENT  "b7ad6b7169203331"


/* The header as an attempt sends it. */

static const char *
sent(const char *value, uint32_t attempt)
{
    static char                text[256];
    static const uint8_t       id[ZONE_ID_SIZE] = { 4, 7, 1, 1 };
    struct zone_request_view   v;

    memset(&v, 0, sizeof(v));
    (void) snprintf(text, sizeof(text), "TraceParent: %s", value);
    v.headers.data = text;
    v.headers.len = strlen(text) + 1;

    trace_child(&v, id, attempt);

    return text + 13;
}


/* What is kept for a webhook of these headers. */

static int
keeps(const char *headers, size_t n, const char *want, size_t len)
{
    int              same;
    struct buf       b;
    struct zone_str  s = { headers, n };

    memset(&b, 0, sizeof(b));
    must(trace_keep(&b, &s) == 0);

    same = b.len == len && (len == 0 || memcmp(b.data, want, len) == 0)
           && trace_kept((const char *) b.data, b.len);
    buf_free(&b);

    return same;
}

#define keeps(headers, want)                                                  \
    keeps(headers, sizeof(headers) - 1, want, sizeof(want) - 1)


static void
test_keep(void)
{
    size_t  i, n;
    char    text[6000];

    static const char  whole[] = TRACE_HEADER "00-" TRACE "-" PARENT "-01\0"
                                 "tracestate: a=b\0";

    ok(keeps("Accept: */*\0TraceParent:\t00-" TRACE "-" PARENT "-01\0"
             "TraceState: c=d\0X: y\0tracestate:e=f\0",
             TRACE_HEADER "00-" TRACE "-" PARENT "-01\0"
             "TraceState: c=d\0tracestate:e=f\0"), "a trace and its state");
    ok(keeps("traceparent: cc-" TRACE "-" PARENT "-01-later\0",
             TRACE_HEADER "00-" TRACE "-" PARENT "-01\0"),
       "of a later version what is known");
    ok(keeps("Accept: */*\0tracestate: a=b\0", ""),
       "without traceparent nothing");
    ok(keeps("traceparent: 00-" TRACE "-" PARENT "\0tracestate: a=b\0", ""),
       "nor with one that is none");
    ok(keeps("traceparent: 00-" TRACE "-" PARENT "-01\0"
             "traceparent: 00-" TRACE "-" PARENT "-00\0", ""),
       "nor with two");
    ok(keeps("traceparent: 00-" TRACE "-" PARENT "-01\0"
             "tracestate: a=b\0tracestate: c=\xc3\xa4\0",
             TRACE_HEADER "00-" TRACE "-" PARENT "-01\0"),
       "a state that is not ASCII is left out whole");

    n = (size_t) snprintf(text, sizeof(text), "traceparent: 00-" TRACE "-"
                          PARENT "-01") + 1;
    memset(text + n, 'x', sizeof(text) - n);
    memcpy(text + n, "tracestate: a=", 14);
    text[sizeof(text) - 1] = '\0';
    ok((keeps)(text, sizeof(text), TRACE_HEADER "00-" TRACE "-" PARENT "-01",
               n), "as is one without end");

    ok(trace_kept(whole, sizeof(whole) - 1), "what is kept is known");

    for (i = 1; i < sizeof(TRACE_HEADER) + 55; i++) {
        if (trace_kept(whole, i)) {
            break;
        }
    }

    is(i, sizeof(TRACE_HEADER) + 55, "only when it is whole");
}


int
main(void)
{
    int          i;
    char         first[128];
    const char  *p;

    static const char *const  stay[] = {
        "", "00", "00-" TRACE "-" PARENT, "00-" TRACE "-" PARENT "-0",
        "ff-" TRACE "-" PARENT "-01", "00-" TRACE "-" PARENT "-01-x",
        "00-" TRACE "-0000000000000000-01", "00_" TRACE "-" PARENT "-01",
        "00-00000000000000000000000000000000-" PARENT "-01",
        "00-0AF7651916CD43DD8448EB211C80319C-" PARENT "-01",
        "01-" TRACE "-" PARENT "-01x"
    };

    tap_begin();

    p = sent("00-" TRACE "-" PARENT "-01", 1);
    (void) snprintf(first, sizeof(first), "%s", p);
    ok(strncmp(p, "00-" TRACE "-", 36) == 0, "the trace is the client's");
    ok(strcmp(p + 52, "-01") == 0, "its flags, too");
    ok(strncmp(p + 36, PARENT, 16) != 0, "the parent is another");
    is(strspn(p + 36, "0123456789abcdef"), 16, "of the same form");

    p = sent("00-" TRACE "-" PARENT "-01", 1);
    is(strcmp(p, first), 0, "the same for the same attempt");
    p = sent("00-" TRACE "-" PARENT "-01", 2);
    ok(strcmp(p, first) != 0, "and another for the next");

    p = sent("cc-" TRACE "-" PARENT "-01-later", 1);
    ok(strcmp(p + 52, "-01-later") == 0 && strncmp(p + 36, PARENT, 16) != 0,
       "a version that is to come");

    for (i = 0; i < (int) ARRAY_LENGTH(stay); i++) {
        is(strcmp(sent(stay[i], 1), stay[i]), 0, "no traceparent: %d", i);
    }

    test_keep();

    return tap_end();
}
