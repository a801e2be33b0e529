/*
 * Which request to the control interface is for whom.  Loop thread.  Path and
 * arguments are looked at here and nowhere else: a handler finds them checked
 * in its struct control_request.
 */

#include "offloadd.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>


static const struct control_route  control_routes[] = {
    { "GET", "/v1/zone", 0, control_zone },
    { "POST", "/v1/zone/pause", 0, control_zone_pause },
    { "POST", "/v1/zone/resume", 0, control_zone_resume },
    { "POST", "/v1/zone/drain", 0, control_zone_drain },
    { "GET", "/v1/queues", 0, control_queues },
    { "GET", "/v1/queues/*", 0, control_queue },
    { "POST", "/v1/queues/*/pause", 0, control_queue_pause },
    { "POST", "/v1/queues/*/resume", 0, control_queue_resume },
    { "POST", "/v1/queues/*/drain", 0, control_queue_drain },
    { "GET", "/v1/jobs/*", 0, control_job },
    { "DELETE", "/v1/jobs/*", 0, control_job_cancel },
    { "GET", "/v1/dead",
      CONTROL_ARG_QUEUE|CONTROL_ARG_AFTER|CONTROL_ARG_LIMIT, control_dead },
    { "DELETE", "/v1/dead", CONTROL_ARG_QUEUE, control_dead_purge },
    { "POST", "/v1/dead/redrive", CONTROL_ARG_QUEUE, control_dead_redrive },
    { "GET", "/v1/dead/*", 0, control_letter },
    { "DELETE", "/v1/dead/*", 0, control_letter_purge },
    { "POST", "/v1/dead/*/redrive", 0, control_letter_redrive },
    { "GET", "/v1/webhooks", CONTROL_ARG_AFTER|CONTROL_ARG_LIMIT,
      control_hooks },
    { "POST", "/v1/webhooks/*/retry", 0, control_hook_retry },
    { "GET", "/v1/receivers", CONTROL_ARG_AFTER|CONTROL_ARG_LIMIT,
      control_receivers },
    { "POST", "/v1/receivers/*/enable", 0, control_receiver_enable },
};


/* Does the path fit the pattern?  Then `name` is what stood for its *. */

static int
control_match(const char *pattern, const char *path, char *name)
{
    size_t       n, head;
    const char  *star, *tail;

    star = strchr(pattern, '*');

    if (star == NULL) {
        return strcmp(pattern, path) == 0;
    }

    head = (size_t) (star - pattern);

    if (strncmp(pattern, path, head) != 0) {
        return 0;
    }

    tail = strchr(path + head, '/');
    n = tail ? (size_t) (tail - path) - head : strlen(path + head);

    if (n == 0 || n > CONTROL_NAME_MAX
        || strcmp(star + 1, tail ? tail : "") != 0)
    {
        return 0;
    }

    memcpy(name, path + head, n);
    name[n] = '\0';

    return 1;
}


static void
control_allow(struct control_request *r, const char *method)
{
    size_t  n = strlen(r->allow);

    (void) snprintf(r->allow + n, sizeof(r->allow) - n, "%s%s%s",
                    n ? ", " : "", method,
                    strcmp(method, "GET") == 0 ? ", HEAD" : "");
}


static const struct control_route *
control_find(struct control_request *r, const char *method, const char *path)
{
    size_t                       i;
    const struct control_route  *route;

    for (i = 0; i < ARRAY_LENGTH(control_routes); i++) {
        route = &control_routes[i];

        if (!control_match(route->path, path, r->name)) {
            continue;
        }

        if (strcmp(route->method, method) == 0
            || (strcmp(route->method, "GET") == 0
                && strcmp(method, "HEAD") == 0))
        {
            r->allow[0] = '\0';
            return route;
        }

        control_allow(r, route->method);
    }

    return NULL;
}


static int
control_arg_number(const char *text, uint32_t max, uint32_t *n)
{
    uint32_t  value;

    for (value = 0; *text >= '0' && *text <= '9'; text++) {
        value = value * 10 + (uint32_t) (*text - '0');

        if (value > max) {
            return -1;
        }
    }

    *n = value;

    return *text == '\0' && value > 0 ? 0 : -1;
}


/* Characters of a queue's name; the name itself is the handler's matter. */

static int
control_arg_name(const char *text, char *name)
{
    size_t  n;

    n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                     "0123456789_.-");

    if (n == 0 || n > CONTROL_NAME_MAX || text[n] != '\0') {
        return -1;
    }

    memcpy(name, text, n + 1);

    return 0;
}


struct control_args {
    struct control_request  *request;
    unsigned                 allowed;
    unsigned                 seen;
    const char              *wrong;             /* name of what is */
};


static enum MHD_Result
control_arg(void *ctx, enum MHD_ValueKind kind, const char *key,
    const char *value)
{
    int                      ok;
    unsigned                 arg;
    struct control_args     *a = ctx;
    struct control_request  *r = a->request;

    (void) kind;

    value = value ? value : "";
    arg = strcmp(key, "queue") == 0 ? CONTROL_ARG_QUEUE
          : strcmp(key, "after") == 0 ? CONTROL_ARG_AFTER
          : strcmp(key, "limit") == 0 ? CONTROL_ARG_LIMIT : 0;

    if (!(arg & a->allowed) || (arg & a->seen)) {
        a->wrong = key;
        return MHD_NO;
    }

    a->seen |= arg;

    switch (arg) {

    case CONTROL_ARG_QUEUE:
        ok = control_arg_name(value, r->queue) == 0;
        break;

    case CONTROL_ARG_AFTER:
        ok = zone_id_parse(r->after, value, strlen(value)) == 0;
        r->has_after = 1;
        break;

    default:
        ok = control_arg_number(value, CONTROL_LIMIT_MAX, &r->limit) == 0;
        break;
    }

    if (!ok) {
        a->wrong = key;
    }

    return ok ? MHD_YES : MHD_NO;
}


void
control_route(struct control_request *r, const char *method,
    const char *path)
{
    struct control_args          a;
    const struct control_route  *route;

    route = control_find(r, method, path);

    if (route == NULL && r->allow[0]) {
        control_problem(r, MHD_HTTP_METHOD_NOT_ALLOWED, "method-not-allowed",
                        "The method is not allowed here", "It has to be one "
                        "of %s.", r->allow);
        return;
    }

    if (route == NULL) {
        control_problem(r, MHD_HTTP_NOT_FOUND, "not-found", "Not found",
                        "There is nothing at this path.");
        return;
    }

    memset(&a, 0, sizeof(a));
    a.request = r;
    a.allowed = route->args;

    (void) MHD_get_connection_values(r->connection, MHD_GET_ARGUMENT_KIND,
                                     control_arg, &a);

    if (a.wrong) {
        control_problem(r, MHD_HTTP_BAD_REQUEST, "bad-argument",
                        "An argument is not right", "\"%.64s\" is not known "
                        "here, is given twice, or its value is no %s.",
                        a.wrong, strcmp(a.wrong, "after") == 0 ? "id"
                                 : strcmp(a.wrong, "limit") == 0
                                   ? "number from 1 to 1000"
                                   : "name");
        return;
    }

    if (r->body > CONTROL_BODY_MAX) {
        return;                                 /* refused with the answer */
    }

    route->handler(r);
}


int
control_time(json_t *o, const char *key, uint64_t ms)
{
    char       text[32];
    time_t     t;
    struct tm  tm;

    t = (time_t) (ms / 1000);

    if (ms == 0 || gmtime_r(&t, &tm) == NULL
        || strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
    {
        return 0;
    }

    return json_object_set_new(o, key, json_string(text));
}
