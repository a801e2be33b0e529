/*
 * A job's place in a distributed trace (W3C Trace Context).  The client's
 * traceparent is kept with its request; each attempt is a span of its own
 * below the client's, so what it calls has the attempt for a parent.  So is
 * each try of a webhook: what it needs is in its delivery's row.  Pure
 * functions; loop thread, trace_keep() the store's.
 *
 * The span's id is made of job and attempt: it needs no row to be the same
 * whoever asks, and says nothing that the backend is not told anyway.
 */

#include "offloadd.h"

#include <string.h>
#include <strings.h>


#define TRACE_ID              3
#define TRACE_PARENT          36
#define TRACE_FLAGS           53
#define TRACE_STATE_MAX       4096              /* the standard's least: 512 */


static int
trace_hex(const char *p, size_t n, int zero)
{
    size_t  i, zeros;

    for (i = 0, zeros = 0; i < n; i++) {
        if (!(p[i] >= '0' && p[i] <= '9') && !(p[i] >= 'a' && p[i] <= 'f')) {
            return 0;
        }

        zeros += p[i] == '0';
    }

    return zero || zeros < n;
}


/* Later versions begin like this one, and may go on behind another "-". */

static int
trace_good(const char *p)
{
    size_t  len = strlen(p);

    return len >= TRACE_LEN && trace_hex(p, 2, 1) && memcmp(p, "ff", 2) != 0
           && p[2] == '-' && trace_hex(p + TRACE_ID, 32, 0)
           && p[TRACE_PARENT - 1] == '-' && trace_hex(p + TRACE_PARENT, 16, 0)
           && p[TRACE_FLAGS - 1] == '-' && trace_hex(p + TRACE_FLAGS, 2, 1)
           && (len == TRACE_LEN
               || (memcmp(p, "00", 2) != 0 && p[TRACE_LEN] == '-'));
}


const char *
trace_parent(const struct zone_str *headers)
{
    const char  *p, *end, *value;

    end = headers->data + headers->len;
    value = NULL;

    for (p = headers->data; p < end; p += strlen(p) + 1) {
        if (strncasecmp(p, "traceparent:", 12) != 0) {
            continue;
        }

        if (value) {
            return NULL;
        }

        for (value = p + 12; *value == ' ' || *value == '\t'; value++) {
            /* void */
        }
    }

    return value && trace_good(value) ? value : NULL;
}


void
trace_span(char *parent, const void *of, size_t n)
{
    char      text[17];
    uint64_t  hash = zone_key_hash(of, n);      /* never 0 */

    (void) snprintf(text, sizeof(text), "%016llx", (unsigned long long) hash);
    memcpy(parent + TRACE_PARENT, text, 16);
}


/* What is not of that form, or there twice, is passed on as it is. */

void
trace_child(const struct zone_request_view *v, const uint8_t *id,
    uint32_t attempt)
{
    size_t       i;
    uint8_t      span[ZONE_ID_SIZE + 4];
    const char  *parent;

    parent = trace_parent(&v->headers);

    if (parent == NULL || ZONE_MUTANT("trace.child")) {
        return;
    }

    memcpy(span, id, ZONE_ID_SIZE);

    for (i = 0; i < 4; i++) {
        span[ZONE_ID_SIZE + i] = (uint8_t) (attempt >> 8 * i);
    }

    trace_span((char *) (uintptr_t) parent, span, sizeof(span));    /* our own
                                                                       copy */
}


static int
trace_printable(const char *p)
{
    while (*p >= ' ' && *p <= '~') {
        p++;
    }

    return *p == '\0';
}


int
trace_keep(struct buf *out, const struct zone_str *headers)
{
    size_t       start;
    const char  *p, *end, *parent;

    parent = trace_parent(headers);

    if (parent == NULL) {
        return 0;
    }

    /* of a later version what we know of it */

    if (buf_append(out, TRACE_HEADER "00", sizeof(TRACE_HEADER "00") - 1) != 0
        || buf_append(out, parent + 2, TRACE_LEN - 2) != 0
        || buf_append(out, "", 1) != 0)
    {
        return -1;
    }

    start = out->len;
    end = headers->data + headers->len;

    for (p = headers->data; p < end; p += strlen(p) + 1) {
        if (strncasecmp(p, "tracestate:", 11) != 0) {
            continue;
        }

        if (!trace_printable(p)
            || out->len - start + strlen(p) > TRACE_STATE_MAX)
        {
            out->len = start;                   /* whole, or not at all */
            break;
        }

        if (buf_append(out, p, strlen(p) + 1) != 0) {
            return -1;
        }
    }

    return 0;
}


int
trace_kept(const char *p, size_t n)
{
    size_t  head = sizeof(TRACE_HEADER) - 1;

    return n == 0
           || (n > head + TRACE_LEN && p[n - 1] == '\0'
               && memcmp(p, TRACE_HEADER, head) == 0 && trace_good(p + head));
}
