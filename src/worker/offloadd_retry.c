/*
 * What follows on an attempt that has no good answer: the last word, another
 * attempt, or the dead letters.  Pure functions of what is handed in; any
 * thread.
 *
 * Only what surely was not processed is tried again whatever the method: no
 * connection to the backend, 429, 503.  After the rest (nothing in time, any
 * other status) the backend may have done the work, so only methods that can
 * be repeated (RFC 9110, 9.2.2) are, or those the policy names.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>


/* As long as the backend itself asks for, if the policy is less patient. */
#define RETRY_AFTER_MAX_MS    (3600ull * 1000)


static const char *const  retry_idempotent[] = {
    "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"
};


#define RETRY_BIT(status)     (1ull << (((status) - 400) % 64))

const struct retry_policy  retry_default = {
    .max = 5,
    .jitter = 1,
    .backoff_ms = 1000,
    .backoff_max_ms = 300000,
    .on = {
        RETRY_BIT(429),
        RETRY_BIT(502)|RETRY_BIT(503)|RETRY_BIT(504),
        0,
        1ull << (RETRY_CONNECT % 64) | 1ull << (RETRY_TIMEOUT % 64),
    },
};


int
retry_on(struct retry_policy *p, const char *word)
{
    uint32_t  bit;

    if (strcmp(word, "connect") == 0) {
        bit = RETRY_CONNECT;

    } else if (strcmp(word, "timeout") == 0) {
        bit = RETRY_TIMEOUT;

    } else if (strlen(word) == 3 && strspn(word, "0123456789") == 3
               && (word[0] == '4' || word[0] == '5'))
    {
        bit = (uint32_t) (atoi(word) - 400);

    } else {
        return -1;
    }

    p->on[bit / 64] |= 1ull << (bit % 64);

    return 0;
}


static int
retry_bit(const struct retry_policy *p, uint32_t bit)
{
    return (p->on[bit / 64] >> (bit % 64)) & 1;
}


/* Whoever names 502 and 504 means those that nginx makes, too. */

static int
retry_is_on(const struct retry_policy *p, const struct retry_failure *f)
{
    switch (f->end) {

    case RETRY_END_CONNECT:
        return retry_bit(p, RETRY_CONNECT) || retry_bit(p, 502 - 400);

    case RETRY_END_TIMEOUT:
        return retry_bit(p, RETRY_TIMEOUT) || retry_bit(p, 504 - 400);

    case RETRY_END_CUT:
        return retry_bit(p, 502 - 400);

    case RETRY_END_EXEC:
        return retry_bit(p, 503 - 400);

    default:
        return f->status >= 400 && f->status < 400 + RETRY_STATUSES
               && retry_bit(p, f->status - 400);
    }
}


/* Surely not processed: it may be sent again whatever it is. */

static int
retry_is_safe(const struct retry_failure *f)
{
    return f->end == RETRY_END_CONNECT || f->end == RETRY_END_EXEC
           || (f->end == RETRY_END_ANSWER
               && (f->status == 429 || f->status == 503));
}


static int
retry_method(const struct retry_policy *p, const struct zone_str *method)
{
    size_t       i, n;
    const char  *name;

    if (p->methods[0] == '\0') {
        for (i = 0; i < ARRAY_LENGTH(retry_idempotent); i++) {
            name = retry_idempotent[i];

            if (strlen(name) == method->len
                && memcmp(name, method->data, method->len) == 0)
            {
                return 1;
            }
        }

        return 0;
    }

    for (name = p->methods; *name; name += n + (name[n] != '\0')) {
        n = strcspn(name, " ");

        if (n == method->len && memcmp(name, method->data, n) == 0) {
            return 1;
        }
    }

    return 0;
}


/* backoff, twice that, four times ... up to its end. */

static uint64_t
retry_backoff(const struct retry_policy *p, uint32_t failures)
{
    uint64_t  most;

    most = p->backoff_ms;

    while (failures-- > 1 && most < p->backoff_max_ms) {
        most *= 2;
    }

    return most < p->backoff_max_ms ? most : p->backoff_max_ms;
}


/*
 * A backend that says when it can be asked again is not asked earlier, nor by
 * all its jobs at once: the first backoff's jitter comes on top.
 */

static uint64_t
retry_delay(const struct retry_policy *p, const struct retry_failure *f,
    uint64_t random)
{
    uint64_t  most, after;

    most = retry_backoff(p, f->failures);

    if (f->retry_after_ms == 0) {
        return p->jitter ? random % (most + 1) : most;
    }

    most = p->backoff_max_ms > RETRY_AFTER_MAX_MS ? p->backoff_max_ms
                                                  : RETRY_AFTER_MAX_MS;
    after = f->retry_after_ms < most ? f->retry_after_ms : most;

    return p->jitter ? after + random % (retry_backoff(p, 1) + 1) : after;
}


int
retry_decide(const struct retry_policy *p, const struct retry_failure *f,
    uint64_t random, uint64_t *delay_ms)
{
    *delay_ms = 0;

    if (p->max <= 1 || !retry_is_on(p, f) || f->no_retry) {
        return RETRY_FINAL;
    }

    /* sent to the backend: no second time */

    if (f->at_most_once && f->end != RETRY_END_CONNECT) {
        return RETRY_FINAL;
    }

    if (!retry_is_safe(f) && !retry_method(p, &f->method)
        && !ZONE_MUTANT("retry.method"))
    {
        return RETRY_FINAL;
    }

    if (f->failures >= p->max && !ZONE_MUTANT("retry.max")) {
        return RETRY_EXHAUSTED;
    }

    *delay_ms = retry_delay(p, f, random);

    return *delay_ms < f->left_ms ? RETRY_AGAIN : RETRY_TOO_LATE;
}


/* Retry-After (RFC 9110, 10.2.3) in ms from now; 0: it says nothing. */

uint64_t
retry_after(const char *value, uint64_t now_ms)
{
    time_t    at;
    size_t    i;
    uint64_t  seconds;

    seconds = 0;

    for (i = 0; value[i] >= '0' && value[i] <= '9'; i++) {
        if (seconds < UINT32_MAX) {
            seconds = seconds * 10 + (uint64_t) (value[i] - '0');
        }
    }

    if (i > 0) {
        i += strspn(value + i, " \t");
        return value[i] == '\0' ? seconds * 1000 : 0;
    }

    at = curl_getdate(value, NULL);

    return at > 0 && (uint64_t) at * 1000 > now_ms
           ? (uint64_t) at * 1000 - now_ms : 0;
}
