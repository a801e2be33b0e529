/*
 * A job's place in a distributed trace (W3C Trace Context).  The client's
 * traceparent is kept with its request; each attempt is a span of its own
 * below the client's, so what it calls has the attempt for a parent.  Pure
 * functions; loop thread.
 *
 * The span's id is made of job and attempt: it needs no row to be the same
 * whoever asks, and says nothing that the backend is not told anyway.
 */

#include "offloadd.h"

#include <string.h>
#include <strings.h>


#define TRACE_LEN             55                /* 00-<32>-<16>-<2> */
#define TRACE_ID              3
#define TRACE_PARENT          36
#define TRACE_FLAGS           53


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


/* What is not of that form, or there twice, is passed on as it is. */

void
trace_child(const struct zone_request_view *v, const uint8_t *id,
    uint32_t attempt)
{
    char     *p, *end, *value, text[17];
    size_t    i;
    uint8_t   span[ZONE_ID_SIZE + 4];
    uint64_t  hash;

    p = (char *) (uintptr_t) v->headers.data;   /* our own copy */
    end = p + v->headers.len;
    value = NULL;

    for ( /* void */ ; p < end; p += strlen(p) + 1) {
        if (strncasecmp(p, "traceparent:", 12) == 0) {
            if (value) {
                return;
            }

            for (value = p + 12; *value == ' ' || *value == '\t'; value++) {
                /* void */
            }
        }
    }

    if (value == NULL || !trace_good(value) || ZONE_MUTANT("trace.child")) {
        return;
    }

    memcpy(span, id, ZONE_ID_SIZE);

    for (i = 0; i < 4; i++) {
        span[ZONE_ID_SIZE + i] = (uint8_t) (attempt >> 8 * i);
    }

    hash = zone_key_hash(span, sizeof(span));   /* never 0 */

    (void) snprintf(text, sizeof(text), "%016llx", (unsigned long long) hash);
    memcpy(value + TRACE_PARENT, text, 16);
}
