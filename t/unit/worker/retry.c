/*
 * Whether there is another attempt is a table: what the end was, the method,
 * the policy, how often it has failed, what the backend says.  A row that is
 * wrong does a POST twice, or gives up a job that could be done; all of them
 * are looked at here, where a backend takes no time.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


static const char *const  methods[] = {
    "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE",     /* RFC 9110 */
    "POST", "PATCH", "get", "GETS", "PROPFIND"
};

#define IDEMPOTENT  6


static struct retry_failure
failure(uint32_t end, uint32_t status, const char *method)
{
    struct retry_failure  f;

    memset(&f, 0, sizeof(f));
    f.end = end;
    f.status = status;
    f.method.data = method;
    f.method.len = strlen(method);
    f.failures = 1;
    f.left_ms = UINT64_MAX;

    return f;
}


static int
decide(const struct retry_policy *p, struct retry_failure f)
{
    uint64_t  delay;

    return retry_decide(p, &f, 12345, &delay);
}


/* The same verdict for all methods: 1; -1: for those of the RFC alone. */

static void
row(const char *name, uint32_t end, uint32_t status, int want)
{
    size_t  i;
    int     wrong, verdict;

    wrong = 0;

    for (i = 0; i < ARRAY_LENGTH(methods); i++) {
        verdict = decide(&retry_default, failure(end, status, methods[i]));

        if (verdict != (want == 1 || (want == -1 && i < IDEMPOTENT)
                        ? RETRY_AGAIN : RETRY_FINAL))
        {
            tap_say("%s", methods[i]);
            wrong++;
        }
    }

    is(wrong, 0, "%s: tried again %s", name,
       want == 1 ? "whatever it is" : want ? "when idempotent" : "never");
}


static void
test_default(void)
{
    uint32_t  status;
    int       wrong;

    row("no connection", RETRY_END_CONNECT, 502, 1);
    row("no connection in time", RETRY_END_CONNECT, 504, 1);
    row("429", RETRY_END_ANSWER, 429, 1);
    row("503", RETRY_END_ANSWER, 503, 1);
    row("502", RETRY_END_ANSWER, 502, -1);
    row("504", RETRY_END_ANSWER, 504, -1);
    row("cut behind nginx", RETRY_END_CUT, 502, -1);
    row("cut, shown as 503", RETRY_END_CUT, 503, -1);
    row("nothing in time", RETRY_END_TIMEOUT, 0, -1);
    row("nothing in nginx's time", RETRY_END_TIMEOUT, 504, -1);

    for (wrong = 0, status = 400; status <= 1000; status++) {
        if (status != 429 && (status < 502 || status > 504)
            && decide(&retry_default, failure(RETRY_END_ANSWER, status,
                                              "GET")) != RETRY_FINAL)
        {
            wrong++;
        }
    }

    is(wrong, 0, "any other answer is final");
}


static void
test_said(void)
{
    struct retry_failure  f;

    f = failure(RETRY_END_ANSWER, 503, "GET");
    f.no_retry = 1;
    is(decide(&retry_default, f), RETRY_FINAL, "Offload-No-Retry is heeded");

    f = failure(RETRY_END_ANSWER, 503, "GET");
    f.at_most_once = 1;
    is(decide(&retry_default, f), RETRY_FINAL,
       "at most once: an answer is final");
    f.end = RETRY_END_TIMEOUT;
    is(decide(&retry_default, f), RETRY_FINAL, "so is none");
    f.end = RETRY_END_CONNECT;
    is(decide(&retry_default, f), RETRY_AGAIN,
       "what no backend has had may come again");
}


static void
test_count(void)
{
    struct retry_failure  f;
    struct retry_policy   p = retry_default;

    f = failure(RETRY_END_ANSWER, 503, "POST");

    f.failures = 4;
    is(decide(&p, f), RETRY_AGAIN, "the fourth of five fails");
    f.failures = 5;
    is(decide(&p, f), RETRY_EXHAUSTED, "the fifth");
    f.failures = 9;
    is(decide(&p, f), RETRY_EXHAUSTED, "more than there may be");
    f.status = 500;
    is(decide(&p, f), RETRY_FINAL, "one that is final leaves no dead letter");

    f = failure(RETRY_END_CONNECT, 502, "GET");
    p.max = 1;
    is(decide(&p, f), RETRY_FINAL, "one attempt: that was it");
    p.max = 0;
    is(decide(&p, f), RETRY_FINAL, "none: likewise");
}


static void
test_policy(void)
{
    struct retry_policy  p;

    memset(&p, 0, sizeof(p));
    p.max = 3;
    p.backoff_ms = p.backoff_max_ms = 1000;

    is(retry_on(&p, "500"), 0, "500 can be named");
    is(retry_on(&p, "timeout"), 0, "timeout");
    is(retry_on(&p, "599"), 0, "so can 599");
    is(retry_on(&p, "600"), -1, "600 can not");
    is(retry_on(&p, "399"), -1, "nor 399");
    is(retry_on(&p, "5xx"), -1, "nor 5xx");
    is(retry_on(&p, "0500"), -1, "nor 0500");
    is(retry_on(&p, ""), -1, "nothing");

    is(decide(&p, failure(RETRY_END_ANSWER, 500, "GET")), RETRY_AGAIN,
       "500 of a GET");
    is(decide(&p, failure(RETRY_END_ANSWER, 599, "GET")), RETRY_AGAIN,
       "so is 599");
    is(decide(&p, failure(RETRY_END_ANSWER, 500, "POST")), RETRY_FINAL,
       "500 of a POST may have been work");
    is(decide(&p, failure(RETRY_END_ANSWER, 503, "GET")), RETRY_FINAL,
       "503 is not named");
    is(decide(&p, failure(RETRY_END_CONNECT, 502, "GET")), RETRY_FINAL,
       "nor connect");
    is(decide(&p, failure(RETRY_END_TIMEOUT, 504, "GET")), RETRY_AGAIN,
       "timeout is also nginx's 504");

    (void) snprintf(p.methods, sizeof(p.methods), "POST PATCH");
    is(decide(&p, failure(RETRY_END_ANSWER, 500, "POST")), RETRY_AGAIN,
       "methods=POST,PATCH: POST");
    is(decide(&p, failure(RETRY_END_TIMEOUT, 0, "PATCH")), RETRY_AGAIN,
       "PATCH");
    is(decide(&p, failure(RETRY_END_TIMEOUT, 0, "GET")), RETRY_FINAL,
       "GET is not among them");
    is(decide(&p, failure(RETRY_END_TIMEOUT, 0, "PATC")), RETRY_FINAL,
       "nor half a name");

    (void) retry_on(&p, "502");
    is(decide(&p, failure(RETRY_END_CONNECT, 502, "GET")), RETRY_AGAIN,
       "502 named: no connection is one");
}


static uint64_t
delay(const struct retry_policy *p, struct retry_failure f, uint64_t random)
{
    uint64_t  ms;

    is(retry_decide(p, &f, random, &ms), RETRY_AGAIN, "again");

    return ms;
}


static void
test_delay(void)
{
    struct retry_failure  f;
    struct retry_policy   p = retry_default;

    f = failure(RETRY_END_ANSWER, 503, "GET");
    p.max = 100;
    p.jitter = 0;

    is(delay(&p, f, 7), 1000, "the first after backoff");
    f.failures = 2;
    is(delay(&p, f, 7), 2000, "the next after twice that");
    f.failures = 9;
    is(delay(&p, f, 7), 256000, "and so on");
    f.failures = 10;
    is(delay(&p, f, 7), 300000, "up to the longest");
    f.failures = 90;
    is(delay(&p, f, 7), 300000, "for ever");

    p.jitter = 1;
    is(delay(&p, f, 300001 * 5 + 17), 17, "jitter: anything from nothing");
    is(delay(&p, f, 300000), 300000, "to all of it");

    f.failures = 1;
    f.retry_after_ms = 20000;
    is(delay(&p, f, 1001 * 9 + 5), 20005, "not before the backend wants it");
    p.jitter = 0;
    is(delay(&p, f, 5), 20000, "without jitter: just then");
    f.failures = 9;
    is(delay(&p, f, 5), 20000, "sooner than the backoff if it says so");
    f.retry_after_ms = UINT64_MAX;
    is(delay(&p, f, 5), 3600000, "an hour at most");
    p.backoff_max_ms = 7200000;
    is(delay(&p, f, 5), 7200000, "or as long as the policy waits");
}


static void
test_deadline(void)
{
    uint64_t              ms;
    struct retry_failure  f;
    struct retry_policy   p = retry_default;

    p.jitter = 0;
    f = failure(RETRY_END_ANSWER, 503, "GET");

    f.left_ms = 1001;
    is(retry_decide(&p, &f, 0, &ms), RETRY_AGAIN, "before the deadline");
    f.left_ms = 1000;
    is(retry_decide(&p, &f, 0, &ms), RETRY_TOO_LATE, "at it");
    f.left_ms = 0;
    is(retry_decide(&p, &f, 0, &ms), RETRY_TOO_LATE, "behind it");
    f.failures = 5;
    is(retry_decide(&p, &f, 0, &ms), RETRY_EXHAUSTED,
       "the last one is the last one");
}


static void
test_retry_after(void)
{
    uint64_t  now = 1777113000000;          /* 2026-04-25T10:30:00Z */

    is(retry_after("120", now), 120000, "seconds");
    is(retry_after("0", now), 0, "none");
    is(retry_after("120 ", now), 120000, "a space behind them");
    is(retry_after("1.5", now), 0, "not a number of seconds");
    is(retry_after("-5", now), 0, "less than none");
    is(retry_after("soon", now), 0, "no date");
    is(retry_after("", now), 0, "nothing");
    ok(retry_after("99999999999999999999999", now) >= 3600000,
       "more than a number can be");
    is(retry_after("Sat, 25 Apr 2026 10:31:40 GMT", now), 100000, "a date");
    is(retry_after("Sat, 25 Apr 2026 10:30:00 GMT", now), 0, "now");
    is(retry_after("Sat, 25 Apr 2026 10:29:00 GMT", now), 0, "over");
    is(retry_after("Saturday, 25-Apr-26 10:31:40 GMT", now), 100000,
       "an obsolete one");
}


int
main(void)
{
    tap_begin();

    test_default();
    test_said();
    test_count();
    test_policy();
    test_delay();
    test_deadline();
    test_retry_after();

    return tap_end();
}
