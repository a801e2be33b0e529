/*
 * A trace goes on through a job: each attempt is a span of its own, below the
 * client's, in the client's trace.  What is no traceparent stays what it is.
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

    return tap_end();
}
