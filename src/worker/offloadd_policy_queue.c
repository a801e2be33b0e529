/*
 * policy.json's "queues": one object for each offload_queue.  What is not
 * said has the value it has in a queue that nobody configured.  Loop thread;
 * main at the start.
 */

#include "offloadd_policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>


#define QUEUES_MAX            1024
#define QUEUE_NUMBER_MAX      1000000
#define QUEUE_PERIOD_MAX      86400000ull
#define QUEUE_RETRIES_MAX     1000
#define QUEUE_BACKOFF_MAX     (7ull * 86400000)
#define QUEUE_SECONDS_MAX     (POLICY_MS_MAX / 1000)

#define member(m)     offsetof(struct queue_policy, m)
#define member_size(m)  sizeof(((struct queue_policy *) 0)->m)

static const struct policy_key  queue_keys[] = {
    { "name", POLICY_STRING, member(name), member_size(name), 1, 0 },
    { "concurrency", POLICY_COUNT, member(concurrency), QUEUE_NUMBER_MAX, 0,
      1 },
    { "rate", POLICY_OTHER, 0, 0, 0, 1 },
    { "adaptive", POLICY_BOOL, member(adaptive), 0, 0, 1 },
    { "circuit", POLICY_BOOL, member(circuit), 0, 0, 1 },
    { "retry", POLICY_OTHER, 0, 0, 0, 1 },
    { "deadline_s", POLICY_NUMBER, member(deadline_s), QUEUE_SECONDS_MAX, 0,
      1 },
    { "dead_ttl_s", POLICY_NUMBER, member(dead_ttl_s), QUEUE_SECONDS_MAX, 0,
      1 },
    { "batch", POLICY_OTHER, 0, 0, 0, 1 },
    { "exec", POLICY_OTHER, 0, 0, 0, 1 },
    { "pass", POLICY_OTHER, 0, 0, 0, 1 },
    { "limit_queued", POLICY_COUNT, member(limit_queued), UINT32_MAX, 0, 1 },
    { "limit_per_key", POLICY_COUNT, member(limit_per_key), UINT32_MAX, 0,
      1 },
};

static const struct policy_key  rate_keys[] = {
    { "count", POLICY_COUNT, member(rate_count), QUEUE_NUMBER_MAX, 1, 0 },
    { "period_ms", POLICY_NUMBER, member(rate_period_ms), QUEUE_PERIOD_MAX, 1,
      0 },
    { "burst", POLICY_COUNT, member(rate_burst), QUEUE_NUMBER_MAX, 0, 0 },
};

static const struct policy_key  retry_keys[] = {
    { "max", POLICY_COUNT, member(retry.max), QUEUE_RETRIES_MAX, 0, 0 },
    { "backoff_ms", POLICY_NUMBER, member(retry.backoff_ms),
      QUEUE_BACKOFF_MAX, 1, 0 },
    { "backoff_max_ms", POLICY_NUMBER, member(retry.backoff_max_ms),
      QUEUE_BACKOFF_MAX, 1, 0 },
    { "jitter", POLICY_JITTER, member(retry.jitter), 0, 0, 0 },
    { "on", POLICY_OTHER, 0, 0, 0, 0 },
    { "methods", POLICY_OTHER, 0, 0, 0, 1 },
};

static const struct policy_key  batch_keys[] = {
    { "size", POLICY_COUNT, member(batch.size), BATCH_SIZE_MAX, 2, 0 },
    { "linger_ms", POLICY_NUMBER, member(batch.linger_ms), 3600000, 0, 0 },
    { "max", POLICY_NUMBER, member(batch.max), UINT32_MAX, 1, 0 },
    { "array", POLICY_BOOL, member(batch.array), 0, 0, 0 },
    { "envelope", POLICY_BOOL, member(batch.envelope), 0, 0, 0 },
};

/* As if nobody had written an offload_queue for it. */

static void
queue_defaults(struct queue_policy *q)
{
    memset(q, 0, sizeof(*q));
    q->retry = retry_default;
    q->dead_ttl_s = 7 * 86400;
}


static int
queue_name_good(const char *name)
{
    return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                        "0123456789_.-") == strlen(name);
}


static int
queue_retry_on(struct retry_policy *p, const json_t *on, const char *name,
    struct policy_error *e)
{
    size_t       i;
    const char  *text;

    if (!json_is_array(on)) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"on\" is not an array", name);
        return -1;
    }

    memset(p->on, 0, sizeof(p->on));

    for (i = 0; i < json_array_size(on); i++) {
        text = json_string_value(json_array_get(on, i));

        if (text == NULL || retry_on(p, text) != 0) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"on\" has \"%.64s\", must have \"connect\", "
                            "\"timeout\" and statuses, \"400\" to \"599\"",
                            name, text ? text : "(not a string)");
            return -1;
        }
    }

    return 0;
}


/* Kept as "GET PUT". */

static int
queue_methods(struct retry_policy *p, const json_t *methods,
    const char *name, struct policy_error *e)
{
    size_t       i, len;
    const char  *text;

    if (!json_is_array(methods)) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"methods\" is not an array", name);
        return -1;
    }

    for (i = 0, len = 0; i < json_array_size(methods); i++) {
        text = json_string_value(json_array_get(methods, i));

        if (text == NULL || text[0] == '\0'
            || strlen(text) > ZONE_REQUEST_METHOD_MAX
            || strpbrk(text, ", \t") != NULL)
        {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"methods\" has \"%.64s\", must have names "
                            "of methods, 1 to %d characters", name,
                            text ? text : "(not a string)",
                            ZONE_REQUEST_METHOD_MAX);
            return -1;
        }

        if (len + strlen(text) + 2 > sizeof(p->methods)) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"methods\" has more than %zu characters",
                            name, sizeof(p->methods) - 2);
            return -1;
        }

        len += (size_t) snprintf(p->methods + len, sizeof(p->methods) - len,
                                 "%s%s", len ? " " : "", text);
    }

    return 0;
}


static int
queue_retry(struct queue_policy *q, const json_t *retry, const char *name,
    struct policy_error *e)
{
    json_t  *methods;

    if (policy_members(q, retry_keys, ARRAY_LENGTH(retry_keys), retry, name,
                       e) != 0)
    {
        return -1;
    }

    if (q->retry.backoff_max_ms < q->retry.backoff_ms) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"backoff_max_ms\" is %llu, must not be less "
                        "than \"backoff_ms\", %llu", name,
                        (unsigned long long) q->retry.backoff_max_ms,
                        (unsigned long long) q->retry.backoff_ms);
        return -1;
    }

    q->has_retry = 1;
    methods = json_object_get(retry, "methods");

    return queue_retry_on(&q->retry, json_object_get(retry, "on"), name, e)
           == 0
           && (methods == NULL
               || queue_methods(&q->retry, methods, name, e) == 0) ? 0 : -1;
}


/* The last: what it has allocated is the queue's, or nobody's. */

static int
queue_executor(struct queue_policy *q, const json_t *object,
    const char *name, struct policy_error *e)
{
    char     label[192];
    json_t  *exec, *pass;

    exec = json_object_get(object, "exec");
    pass = json_object_get(object, "pass");

    if (exec && pass) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: has \"exec\" and \"pass\", must have one", name);
        return -1;
    }

    (void) snprintf(label, sizeof(label), "%.160s, \"%s\"", name,
                    exec ? "exec" : "pass");

    if (exec) {
        q->exec = policy_exec(exec, label, e);
        return q->exec ? 0 : -1;
    }

    if (pass) {
        q->pass = policy_pass(pass, label, e);
        return q->pass ? 0 : -1;
    }

    return 0;
}


static int
policy_queue(struct queue_policy *q, const json_t *object, const char *name,
    struct policy_error *e)
{
    char     label[192];
    json_t  *rate, *retry, *batch;

    queue_defaults(q);
    q->circuit = 1;

    if (policy_members(q, queue_keys, ARRAY_LENGTH(queue_keys), object, name,
                       e) != 0)
    {
        return -1;
    }

    if (!queue_name_good(q->name)) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"name\" is \"%s\", must be of letters, digits, "
                        "\"_\", \".\" and \"-\"", name, q->name);
        return -1;
    }

    rate = json_object_get(object, "rate");

    if (rate) {
        (void) snprintf(label, sizeof(label), "%.160s, \"rate\"", name);

        if (policy_members(q, rate_keys, ARRAY_LENGTH(rate_keys), rate,
                           label, e) != 0)
        {
            return -1;
        }
    }

    retry = json_object_get(object, "retry");

    if (retry) {
        (void) snprintf(label, sizeof(label), "%.160s, \"retry\"", name);

        if (queue_retry(q, retry, label, e) != 0) {
            return -1;
        }
    }

    batch = json_object_get(object, "batch");

    if (batch) {
        (void) snprintf(label, sizeof(label), "%.160s, \"batch\"", name);

        if (policy_members(q, batch_keys, ARRAY_LENGTH(batch_keys), batch,
                           label, e) != 0)
        {
            return -1;
        }
    }

    return queue_executor(q, object, name, e);
}


/* Each has a name and a hash of its own; the default queue comes first. */

static int
policy_queue_names(struct policy *p, const char *name,
    struct policy_error *e)
{
    uint32_t             i, n;
    struct queue_policy  q, *a, *b;

    for (i = 0; i < p->nqueues; i++) {
        a = &p->queues[i];

        for (n = 0; n < i; n++) {
            b = &p->queues[n];

            if (zone_queue_hash(a->name, strlen(a->name))
                == zone_queue_hash(b->name, strlen(b->name)))
            {
                (void) snprintf(e->text, sizeof(e->text),
                                "%s: \"queues\": \"%s\" and \"%s\" are not "
                                "told apart, must have other names", name,
                                b->name, a->name);
                return -1;
            }
        }
    }

    for (i = 0; i < p->nqueues; i++) {
        if (strcmp(p->queues[i].name, p->zone) == 0) {
            q = p->queues[0];
            p->queues[0] = p->queues[i];
            p->queues[i] = q;
            return 0;
        }
    }

    queue_defaults(&q);
    (void) snprintf(q.name, sizeof(q.name), "%s", p->zone);

    if (p->nqueues) {
        p->queues[p->nqueues] = p->queues[0];
    }

    p->queues[0] = q;
    p->nqueues++;

    return 0;
}


int
policy_queues(struct policy *p, const json_t *queues, const char *name,
    struct policy_error *e)
{
    char         label[160];
    size_t       i, n;
    const char  *text;

    if (queues && !json_is_array(queues)) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"queues\" is not an array", name);
        return -1;
    }

    n = json_array_size(queues);

    if (n > QUEUES_MAX) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"queues\" has %zu, must have at most %d", name,
                        n, QUEUES_MAX);
        return -1;
    }

    p->queues = calloc(n + 1, sizeof(*p->queues));
    if (p->queues == NULL) {
        (void) snprintf(e->text, sizeof(e->text), "%s: %s", name,
                        strerror(ENOMEM));
        return -1;
    }

    for (i = 0; i < n; i++) {
        text = json_string_value(json_object_get(json_array_get(queues, i),
                                                 "name"));

        (void) snprintf(label, sizeof(label), "%.70s: queue %zu \"%.64s\"",
                        name, i + 1, text ? text : "");

        if (policy_queue(&p->queues[i], json_array_get(queues, i), label, e)
            != 0)
        {
            return -1;
        }

        p->nqueues++;
    }

    return policy_queue_names(p, name, e);
}
