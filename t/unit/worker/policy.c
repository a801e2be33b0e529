/*
 * The policy decides where offloadd writes and how much it runs at once.  What
 * it does not understand whole it has to refuse, and say which key it was.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


static const char *const  pairs[][2] = {
    { "layout", "1" },
    { "zone", "\"jobs\"" },
    { "path", "\"/dev/shm/x\"" },
    { "store", "\"/dev/shm/x/store\"" },
    { "durability", "\"memory\"" },
    { "concurrency", "128" },
    { "ttl_ms", "3600000" },
    { "tombstone_ms", "86400000" },
    { "leave_ms", "10000" },
    { "log", "\"\"" },
    { "log_level", "\"info\"" },
    { "max_bytes", "0" },
};

#define PAIRS  ((int) ARRAY_LENGTH(pairs))


/* The good policy without key `leave`, or with another value for it. */

static int
parse(struct policy *p, int leave, const char *value, struct policy_error *e)
{
    int   i;
    char  text[4096];

    strcpy(text, "{");

    for (i = 0; i < PAIRS; i++) {
        if (i == leave && value == NULL) {
            continue;
        }

        (void) snprintf(text + strlen(text), sizeof(text) - strlen(text),
                        "%s\"%s\":%s", strlen(text) > 1 ? "," : "",
                        pairs[i][0], i == leave ? value : pairs[i][1]);
    }

    strcat(text, "}");
    memset(e, 0, sizeof(*e));

    return policy_parse(p, text, strlen(text), "file", e);
}


static void
test_good(void)
{
    struct policy        p, q;
    struct policy_error  e;

    is(parse(&p, -1, NULL, &e), 0, "a good policy is read");
    ok(strcmp(p.zone, "jobs") == 0 && strcmp(p.path, "/dev/shm/x") == 0
       && strcmp(p.store, "/dev/shm/x/store") == 0, "its strings");
    ok(p.concurrency == 128 && p.ttl_ms == 3600000
       && p.tombstone_ms == 86400000 && p.leave_ms == 10000, "its numbers");
    ok(p.durability == DURABILITY_MEMORY && p.log_level == LOG_INFO,
       "its words");

    must(parse(&q, 5, "1", &e) == 0);
    ok(policy_fixed_differs(&p, &q) == NULL, "concurrency is live");
    policy_free(&q);

    must(parse(&q, 3, "\"/elsewhere\"", &e) == 0);
    like(policy_fixed_differs(&p, &q), "store", "the store is fixed");
    policy_free(&q);

    must(parse(&q, 4, "\"disk\"", &e) == 0);
    like(policy_fixed_differs(&p, &q), "durability", "durability is fixed");
    policy_free(&q);
    policy_free(&p);
}


static void
test_missing(void)
{
    int                  i;
    char                 want[64];
    struct policy        p;
    struct policy_error  e;

    for (i = 0; i < PAIRS; i++) {
        (void) snprintf(want, sizeof(want), "\"%s\" is missing", pairs[i][0]);
        is(parse(&p, i, NULL, &e), -1, "without %s", pairs[i][0]);
        like(e.text, want, "which is named");
    }
}


static void
test_values(void)
{
    int                  i;
    char                 text[512], name[256];
    struct policy        p;
    struct policy_error  e;

    static const struct {
        int          key;
        const char  *value, *says;
    } bad[] = {
        { 0, "2", "this offloadd knows 1" },
        { 1, "\"\"", "\"zone\" has 0 characters" },
        { 1, "7", "\"zone\" is not a string" },
        { 2, "\"relative\"", "absolute path" },
        { 4, "\"tape\"", "\"memory\" or \"disk\"" },
        { 5, "0", "must be 1 to" },
        { 5, "100001", "must be 1 to 100000" },
        { 5, "-1", "must be 1 to" },
        { 5, "1.5", "not an integer" },
        { 5, "\"9\"", "not an integer" },
        { 5, "null", "not an integer" },
        { 6, "0", "\"ttl_ms\" is 0" },
        { 6, "99999999999999999", "\"ttl_ms\"" },
        { 10, "\"loud\"", "debug, info, notice, warn or error" },
        { 9, "1,\"extra\":1", "\"log\" is not a string" },
        { 9, "\"\",\"extra\":1", "unknown key \"extra\"" },
        { 9, "\"\",\"zone\":\"b\"", "duplicate" },
        { 9, "\"a\\u0000b\"", "file:1:" },
    };

    for (i = 0; i < (int) ARRAY_LENGTH(bad); i++) {
        is(parse(&p, bad[i].key, bad[i].value, &e), -1, "%s: %s",
           pairs[bad[i].key][0], bad[i].value);
        like(e.text, bad[i].says, "says why");
    }

    memset(name, 'x', sizeof(name));
    name[ZONE_PATH_MAX] = '\0';
    (void) snprintf(text, sizeof(text), "\"/%s\"", name);
    is(parse(&p, 2, text, &e), -1, "a path that no socket's name holds");

    name[ZONE_PATH_MAX - 1] = '\0';
    (void) snprintf(text, sizeof(text), "\"/%s\"", name);
    is(parse(&p, 2, text, &e), 0, "the longest path");
    policy_free(&p);
}


/* The queues of a good policy: 0, or -1 and why. */

static int
queues(struct policy *p, const char *text, struct policy_error *e)
{
    char  value[2048];

    (void) snprintf(value, sizeof(value), "\"\",\"queues\":%s", text);

    return parse(p, 9, value, e);
}


static void
test_queues(void)
{
    struct policy         p;
    struct policy_error   e;
    struct queue_policy  *q;

    is(parse(&p, -1, NULL, &e), 0, "a policy without queues");
    ok(p.nqueues == 1 && strcmp(p.queues[0].name, "jobs") == 0
       && p.queues[0].concurrency == 0 && p.queues[0].rate_count == 0
       && !p.queues[0].adaptive && !p.queues[0].circuit,
       "has the default queue, without limits");
    policy_free(&p);

    is(queues(&p, "[{\"name\":\"reports\",\"concurrency\":10,"
              "\"rate\":{\"count\":10,\"period_ms\":1000,\"burst\":5},"
              "\"adaptive\":true,\"retry\":{\"max\":3,"
              "\"backoff_ms\":2000,\"backoff_max_ms\":60000,"
              "\"jitter\":\"none\",\"on\":[\"connect\",\"503\"],"
              "\"methods\":[\"GET\",\"PUT\"]},"
              "\"deadline_s\":3600,\"dead_ttl_s\":604800,"
              "\"limit_queued\":1000,\"limit_per_key\":10},"
              "{\"name\":\"jobs\",\"concurrency\":7}]", &e), 0,
       "queues are read");
    must(p.nqueues == 2);
    ok(strcmp(p.queues[0].name, "jobs") == 0 && p.queues[0].concurrency == 7,
       "the default queue comes first, wherever it is");

    q = &p.queues[1];
    ok(strcmp(q->name, "reports") == 0 && q->concurrency == 10
       && q->rate_count == 10 && q->rate_period_ms == 1000
       && q->rate_burst == 5 && q->adaptive && q->circuit, "its limits");
    ok(q->has_retry && q->retry.max == 3 && q->retry.backoff_ms == 2000
       && q->retry.backoff_max_ms == 60000 && !q->retry.jitter
       && q->retry.on[0] == 0 && q->retry.on[1] == 1ull << (503 - 464)
       && q->retry.on[2] == 0 && q->retry.on[3] == 1ull << (RETRY_CONNECT % 64)
       && strcmp(q->retry.methods, "GET PUT") == 0, "its retries");
    ok(q->deadline_s == 3600 && q->dead_ttl_s == 604800
       && q->limit_queued == 1000 && q->limit_per_key == 10, "its numbers");
    policy_free(&p);

    is(queues(&p, "[{\"name\":\"a\"},{\"name\":\"b\"}]", &e), 0,
       "queues by name alone");
    ok(p.nqueues == 3 && strcmp(p.queues[0].name, "jobs") == 0,
       "the default queue is there all the same");
    ok(!p.queues[1].has_retry && p.queues[1].retry.max == 5
       && p.queues[1].retry.backoff_ms == 1000 && p.queues[1].retry.jitter,
       "and the rest has its defaults");
    policy_free(&p);
}


static void
test_queue_values(void)
{
    int                  i;
    struct policy        p;
    struct policy_error  e;

    static const struct {
        const char  *value, *says;
    } bad[] = {
        { "{}", "\"queues\" is not an array" },
        { "[7]", "queue 1 \"\": not a JSON object" },
        { "[{}]", "queue 1 \"\": \"name\" is missing" },
        { "[{\"name\":\"\"}]", "\"name\" has 0 characters" },
        { "[{\"name\":\"a b\"}]", "must be of letters, digits" },
        { "[{\"name\":\"a\"},{\"name\":\"a\"}]", "must have other names" },
        { "[{\"name\":\"a\",\"concurrency\":1000001}]",
          "queue 1 \"a\": \"concurrency\" is 1000001, must be 0 to " },
        { "[{\"name\":\"a\",\"concurrency\":-1}]", "must be 0 to" },
        { "[{\"name\":\"a\",\"adaptive\":1}]",
          "\"adaptive\" is not true or false" },
        { "[{\"name\":\"a\",\"colour\":1}]", "unknown key \"colour\"" },
        { "[{\"name\":\"a\",\"rate\":5}]",
          "queue 1 \"a\", \"rate\": not a JSON object" },
        { "[{\"name\":\"a\",\"rate\":{\"count\":0,\"period_ms\":1,"
          "\"burst\":0}}]", "\"count\" is 0, must be 1 to 1000000" },
        { "[{\"name\":\"a\",\"rate\":{\"count\":1,\"period_ms\":0,"
          "\"burst\":0}}]", "\"period_ms\" is 0, must be 1 to 86400000" },
        { "[{\"name\":\"a\",\"rate\":{\"count\":1,\"period_ms\":1}}]",
          "\"burst\" is missing" },
        { "[{\"name\":\"a\",\"limit_queued\":\"9\"}]",
          "\"limit_queued\" is not an integer" },
#define RETRY(max, least, most, jitter, on)                                   \
        "[{\"name\":\"a\",\"retry\":{\"max\":" max ",\"backoff_ms\":"      \
        least ",\"backoff_max_ms\":" most ",\"jitter\":" jitter ",\"on\":"  \
        on "}}]"
        { RETRY("1001", "1", "2", "\"full\"", "[]"),
          "queue 1 \"a\", \"retry\": \"max\" is 1001, must be 0 to 1000" },
        { RETRY("1", "0", "2", "\"full\"", "[]"), "\"backoff_ms\" is 0" },
        { RETRY("1", "3", "2", "\"full\"", "[]"),
          "must not be less than \"backoff_ms\", 3" },
        { RETRY("1", "1", "2", "\"half\"", "[]"), "\"full\" or \"none\"" },
        { RETRY("1", "1", "2", "\"none\"", "7"), "\"on\" is not an array" },
        { RETRY("1", "1", "2", "\"none\"", "[\"600\"]"),
          "\"on\" has \"600\", must have \"connect\"" },
        { RETRY("1", "1", "2", "\"none\"", "[],\"methods\":[\"A,B\"]"),
          "\"methods\" has \"A,B\"" },
#define BATCH(size, linger, array)                                            \
        "[{\"name\":\"a\",\"batch\":{\"size\":" size ",\"linger_ms\":"      \
        linger ",\"max\":1024,\"array\":" array ",\"envelope\":false}}]"
        { BATCH("1", "0", "false"),
          "queue 1 \"a\", \"batch\": \"size\" is 1, must be 2 to 10000" },
        { BATCH("2", "-1", "false"), "\"linger_ms\" is -1" },
        { BATCH("2", "0", "1"), "\"array\" is not" },
#define EXEC(members)  "[{\"name\":\"a\",\"exec\":{" members "}}]"
        { "[{\"name\":\"a\",\"exec\":\"/bin/true\"}]",
          "queue 1 \"a\", \"exec\": not a JSON object" },
        { EXEC(""), "\"argv\" is missing" },
        { EXEC("\"argv\":[]"), "\"argv\" is not an array of 1 to 256" },
        { EXEC("\"argv\":[7]"), "\"argv\" has what is no string" },
        { EXEC("\"argv\":[\"true\"]"), "begin with an absolute path" },
        { EXEC("\"argv\":[\"/a\"],\"env\":7"), "\"env\" is not an array" },
        { EXEC("\"argv\":[\"/a\"],\"dir\":\"b\""),
          "\"dir\" is \"b\", must be an absolute path" },
        { EXEC("\"argv\":[\"/a\"],\"memory\":-1"), "\"memory\" is -1" },
        { EXEC("\"argv\":[\"/a\"],\"progress_pattern\":\"(\""),
          "\"progress_pattern\" is not good: missing closing" },
        { EXEC("\"argv\":[\"/a\"],\"progress_pattern\":\"a\""),
          "it has 0 groups in parentheses, must have one" },
        { EXEC("\"argv\":[\"/a\"],\"shell\":true"),
          "unknown key \"shell\"" },
        { "[{\"name\":\"a\",\"pass\":{\"url\":\"/b\"}}]",
          "\"url\" is \"/b\", must be http://host/path" },
        { "[{\"name\":\"a\",\"pass\":{\"url\":\"http://a/\",\"ca\":\"b\"}}]",
          "\"ca\" is \"b\", must be an absolute path" },
        { "[{\"name\":\"a\",\"pass\":{},\"exec\":{}}]",
          "has \"exec\" and \"pass\", must have one" },
    };

    for (i = 0; i < (int) ARRAY_LENGTH(bad); i++) {
        is(queues(&p, bad[i].value, &e), -1, "queues: %s", bad[i].value);
        like(e.text, bad[i].says, "says why");
    }
}


static void
test_syntax(void)
{
    struct policy        p;
    struct policy_error  e;

    is(policy_parse(&p, "{\n \"zone\": }", 12, "file", &e), -1, "no JSON");
    like(e.text, "file:2:", "with its line");
    is(policy_parse(&p, "", 0, "file", &e), -1, "an empty file");
    is(policy_parse(&p, "[]", 2, "file", &e), -1, "an array");
    is(policy_load(&p, "/nonexistent/policy.json", &e), -1, "no file");
    like(e.text, "/nonexistent/policy.json: No such file", "which is named");
    is(policy_load(&p, "/", &e), -1, "a directory");
}


int
main(void)
{
    tap_begin();

    test_good();
    test_missing();
    test_values();
    test_queues();
    test_queue_values();
    test_syntax();

    return tap_end();
}
