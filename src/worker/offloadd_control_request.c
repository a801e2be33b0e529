/*
 * One request to the control interface, from its header to its answer.  Loop
 * thread.  Answers are JSON, refusals problem documents (RFC 9457); a request
 * has one answer, and is suspended until it has it.  A kill leaves nothing.
 */

#include "offloadd.h"

#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>


#define CONTROL_PROBLEM       "urn:problem-type:offload:"


static void control_request_resume(struct control_request *r);
static void control_timeout(struct MHD_Connection *c, unsigned seconds);


/* Is there more of a body than is read?  Said before it is sent. */

static int
control_request_large(struct MHD_Connection *c)
{
    const char          *text;
    unsigned long long   n;

    text = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    n = text ? strtoull(text, NULL, 10) : 0;

    return n > CONTROL_BODY_DROP;
}


static void
control_request_too_large(struct control_request *r)
{
    control_problem(r, MHD_HTTP_CONTENT_TOO_LARGE, "content-too-large",
                    "The request's content is too large",
                    "No request here has content that matters; %d bytes are "
                    "put up with.", CONTROL_BODY_MAX);
}


struct control_request *
control_request_new(struct offloadd *d, struct MHD_Connection *c,
    struct control_peer *peer)
{
    struct control_request  *r;

    r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return NULL;
    }

    r->daemon = d;
    r->connection = c;
    r->peer = peer;
    peer->since_ms = mono_ms();

    if (peer->stranger) {
        log_text(LOG_WARN, "control: user %u, process %u, was refused: only "
                 "user %u and root may connect", peer->uid, peer->pid,
                 (unsigned) geteuid());

        control_problem(r, MHD_HTTP_FORBIDDEN, "forbidden", "Forbidden",
                        "Only root and the user that runs the worker may "
                        "use this interface.");

    } else if (control_request_large(c)) {
        control_request_too_large(r);
    }

    return r;
}


void
control_request_free(struct control_request *r)
{
    if (r->op) {
        r->op->request = NULL;
    }

    if (r->suspended) {
        control_request_resume(r);
    }

    buf_free(&r->answer);
    free(r);
}


/*
 * A request that is suspended is in a list; one that is answered before the
 * library was told to suspend it never was.
 */

static void
control_request_resume(struct control_request *r)
{
    struct control  *k = &r->daemon->control;

    if (r->prev) {
        r->prev->next = r->next;
    } else {
        k->suspended = r->next;
    }

    if (r->next) {
        r->next->prev = r->prev;
    }

    r->suspended = 0;
    k->ready = 1;

    control_timeout(r->connection, CONTROL_IDLE_S);
    MHD_resume_connection(r->connection);
}


/* To the library the time of its suspension is silence: see _suspend(). */

static void
control_timeout(struct MHD_Connection *c, unsigned seconds)
{
    (void) MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT,
                                     seconds);
}


void
control_request_suspend(struct control_request *r)
{
    control_timeout(r->connection, 0);
    MHD_suspend_connection(r->connection);
}


static int
control_answer_part(const char *p, size_t n, void *buf)
{
    return buf_append(buf, p, n);
}


void
control_answer(struct control_request *r, unsigned status, json_t *answer)
{
    if (r->op) {
        r->op->request = NULL;
        r->op = NULL;
    }

    r->status = status;
    r->answer.len = 0;

    if (answer == NULL
        || json_dump_callback(answer, control_answer_part, &r->answer,
                              JSON_COMPACT) != 0
        || buf_append(&r->answer, "\n", 1) != 0)
    {
        r->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        r->problem = 1;
        r->answer.len = 0;
    }

    json_decref(answer);

    if (r->suspended) {
        control_request_resume(r);
    }
}


void
control_problem(struct control_request *r, unsigned status, const char *type,
    const char *title, const char *fmt, ...)
{
    char     detail[512], urn[128];
    va_list  ap;

    va_start(ap, fmt);
    (void) vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);

    (void) snprintf(urn, sizeof(urn), CONTROL_PROBLEM "%s", type);

    r->problem = 1;

    control_answer(r, status, json_pack("{s:s, s:s, s:i, s:s}", "type", urn,
                                        "title", title, "status",
                                        (int) status, "detail", detail));
}


void
control_page(struct control_request *r, const char *name, json_t *list,
    const char *next)
{
    size_t   n = json_array_size(list);
    json_t  *o;

    o = json_pack("{s:s, s:o}", "zone", r->daemon->policy.zone, name, list);

    if (o && next && n) {
        json_object_set(o, "next",
                        json_object_get(json_array_get(list, n - 1), next));
    }

    control_answer(r, 200, o);
}


void
control_page_gone(struct control_request *r)
{
    control_problem(r, 400, "bad-argument", "An argument is not right",
                    "The job of \"after\" is gone: begin with the first "
                    "page.");
}


/*
 * The store did not come back in time, or the worker ends first.  What was
 * asked of the store it will still do, if it can.
 */

void
control_request_late(struct control_request *r)
{
    int  writes = r->op && r->op->op.type == STORE_OP_CONTROL;

    if (r->late && !r->daemon->control.stopping) {
        r->late(r);
        return;
    }

    control_problem(r, MHD_HTTP_SERVICE_UNAVAILABLE, "store-unavailable",
                    "The store does not answer", "%s", writes
                    ? "What was asked for is done as soon as the store can "
                      "be written, unless the worker ends before."
                    : "The worker's log says what is wrong with it.");
}


int
control_request_queue(struct control_request *r)
{
    int                   rc;
    struct MHD_Response  *response;

    r->peer->since_ms = mono_ms();

    if (r->body > CONTROL_BODY_MAX && r->status != MHD_HTTP_FORBIDDEN) {
        control_request_too_large(r);
    }

    /* the request, and so the buffer, outlives the response */

    response = MHD_create_response_from_buffer(r->answer.len, r->answer.data,
                                               MHD_RESPMEM_PERSISTENT);
    if (response == NULL) {
        return -1;
    }

    (void) MHD_add_response_header(response, "Content-Type", r->problem
                                   ? "application/problem+json"
                                   : "application/json");
    (void) MHD_add_response_header(response, "Cache-Control", "no-store");

    if (r->allow[0]) {
        (void) MHD_add_response_header(response, "Allow", r->allow);
    }

    if (r->status == MHD_HTTP_SERVICE_UNAVAILABLE) {
        (void) MHD_add_response_header(response, "Retry-After", "2");
    }

    if (r->status == MHD_HTTP_FORBIDDEN) {
        (void) MHD_add_response_header(response, "Connection", "close");
    }

    rc = MHD_queue_response(r->connection, r->status, response);
    MHD_destroy_response(response);

    return rc == MHD_YES ? 0 : -1;
}
