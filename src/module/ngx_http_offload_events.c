
/*
 * A job's changes as server-sent events (WHATWG HTML, 9.2).  Runs in worker
 * processes; all of it belongs to the request, and a client whose process
 * dies connects again with the id of the last event it has seen.
 *
 * A stream either waits for the job or for the client: while the client's
 * socket is full nothing is looked at, and what is sent then is the newest
 * state alone.  So a slow reader costs one event, and an idle one nothing.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_RECONNECT     1000     /* ms, and up to twice that */
#define NGX_HTTP_OFFLOAD_VERSION_LEN   (4 * NGX_INT_T_LEN + 3)


struct ngx_http_offload_stream_s {
    ngx_http_offload_job_t      sent;       /* as the client knows it */
    uint64_t                    estimate;   /* that it was told */
    ngx_uint_t                  started;
    ngx_pool_t                 *pool;       /* of what is on its way, or NULL */
    ngx_buf_t                   buf;        /* filters remember it */
};


typedef struct {
    ngx_str_t                   version;
    ngx_uint_t                  seen;
} ngx_http_offload_last_id_t;


static ngx_http_offload_stream_t *ngx_http_offload_stream(
    ngx_http_request_t *r);
static void ngx_http_offload_stream_cleanup(void *data);
static ngx_int_t ngx_http_offload_stream_headers(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_stream_send(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
static ngx_int_t ngx_http_offload_stream_wait(ngx_http_request_t *r);
static void ngx_http_offload_stream_waited(ngx_http_request_t *r,
    ngx_int_t rc, ngx_http_offload_job_t *job, ngx_int_t result);
static ngx_int_t ngx_http_offload_stream_block(ngx_http_request_t *r);
static void ngx_http_offload_stream_writer(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_stream_end(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_event(ngx_http_request_t *r,
    ngx_http_offload_stream_t *s, ngx_http_offload_job_t *job);
static const char *ngx_http_offload_event_name(ngx_http_offload_stream_t *s,
    ngx_http_offload_job_t *job);
static ngx_uint_t ngx_http_offload_event_moved(ngx_http_offload_stream_t *s,
    uint64_t estimate);
static u_char *ngx_http_offload_version(u_char *p,
    ngx_http_offload_job_t *job);
static void ngx_http_offload_last_id(void *data, u_char *p, u_char *last);


#define ngx_http_offload_stream_busy(r, s)                                    \
    ((r)->buffered || (r)->connection->buffered                               \
     || (s)->buf.pos < (s)->buf.last)

#define ngx_http_offload_settled(job)                                         \
    ((job)->state != STORE_QUEUED && (job)->state != STORE_RUNNING)


ngx_int_t
ngx_http_offload_events(ngx_http_request_t *r, ngx_http_offload_job_t *job)
{
    u_char                       version[NGX_HTTP_OFFLOAD_VERSION_LEN];
    ngx_int_t                    rc;
    ngx_http_offload_stream_t   *s;
    ngx_http_offload_last_id_t   last;

    last.version.data = version;
    last.version.len = ngx_http_offload_version(version, job) - version;
    last.seen = 0;

    ngx_http_offload_header_list(r, "last-event-id", ngx_http_offload_last_id,
                                 &last);

    if (ngx_http_offload_stream_headers(r) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (last.seen && ngx_http_offload_settled(job)) {

        /* there is no more to come: 204 makes a browser stop asking */

        r->headers_out.status = NGX_HTTP_NO_CONTENT;
        ngx_str_null(&r->headers_out.content_type);

        return ngx_http_send_header(r);
    }

    s = ngx_http_offload_stream(r);
    if (s == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (last.seen) {
        s->sent = *job;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_offload_stream_send(r, job);
}


static ngx_http_offload_stream_t *
ngx_http_offload_stream(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t         *cln;
    ngx_http_offload_ctx_t     *ctx;
    ngx_http_offload_stream_t  *s;

    ctx = ngx_http_offload_add_ctx(r);
    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_offload_stream_t));

    if (ctx == NULL || cln == NULL) {
        return NULL;
    }

    s = cln->data;
    ngx_memzero(s, sizeof(ngx_http_offload_stream_t));

    cln->handler = ngx_http_offload_stream_cleanup;

    ctx->stream = s;

    return s;
}


static void
ngx_http_offload_stream_cleanup(void *data)
{
    ngx_http_offload_stream_t  *s = data;

    if (s->pool) {
        ngx_destroy_pool(s->pool);
    }
}


static ngx_int_t
ngx_http_offload_stream_headers(ngx_http_request_t *r)
{
    ngx_str_t  value;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = -1;

    ngx_str_set(&r->headers_out.content_type, "text/event-stream");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    ngx_str_set(&value, "no-store");

    return ngx_http_offload_add_header(r, "Cache-Control",
                                       sizeof("Cache-Control") - 1, &value)
           == NULL ? NGX_ERROR : NGX_OK;
}


/*
 * Says what is new about the job, or that it is still there, and waits for
 * what comes next: NGX_DONE.  Anything else is for ngx_http_finalize_request().
 */

static ngx_int_t
ngx_http_offload_stream_send(ngx_http_request_t *r,
    ngx_http_offload_job_t *job)
{
    ngx_int_t                   rc;
    ngx_chain_t                 out;
    ngx_http_offload_ctx_t     *ctx;
    ngx_http_offload_stream_t  *s;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);
    s = ctx->stream;

    if (ngx_http_offload_event(r, s, job) != NGX_OK) {
        return NGX_ERROR;
    }

    s->started = 1;
    s->sent = *job;

    out.buf = &s->buf;
    out.next = NULL;

    rc = ngx_http_output_filter(r, &out);

    if (rc == NGX_ERROR || ngx_http_offload_settled(job)) {
        return rc;
    }

    return ngx_http_offload_stream_wait(r);
}


/* For the client while it has not taken all there was, then for the job. */

static ngx_int_t
ngx_http_offload_stream_wait(ngx_http_request_t *r)
{
    ngx_int_t                     rc;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_stream_t    *s;
    ngx_http_offload_loc_conf_t  *olcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);
    s = ctx->stream;

    if (ngx_http_offload_stream_busy(r, s)) {
        ngx_http_offload_wait_hold(r, ctx);
        return ngx_http_offload_stream_block(r);
    }

    ngx_destroy_pool(s->pool);
    s->pool = NULL;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rc = ngx_http_offload_wait(r, olcf->status, &s->sent, ZONE_WATCH_POSITION,
                               olcf->heartbeat,
                               ngx_http_offload_stream_waited);

    switch (rc) {

    case NGX_OK:
        return NGX_DONE;

    case NGX_DECLINED:
        return ngx_http_offload_stream_end(r);

    default:
        return NGX_ERROR;
    }
}


static void
ngx_http_offload_stream_waited(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job, ngx_int_t result)
{
    if (rc != NGX_OK || job->state == STORE_EXPIRED
        || result == NGX_HTTP_OFFLOAD_CLOSING)
    {
        rc = ngx_http_offload_stream_end(r);

    } else {
        rc = ngx_http_offload_stream_send(r, job);
    }

    if (rc != NGX_DONE) {
        ngx_http_finalize_request(r, rc);
    }
}


static ngx_int_t
ngx_http_offload_stream_block(ngx_http_request_t *r)
{
    ngx_event_t               *wev;
    ngx_http_core_loc_conf_t  *clcf;

    wev = r->connection->write;
    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    r->write_event_handler = ngx_http_offload_stream_writer;

    if (!wev->delayed) {                        /* limit_rate has a timer */
        ngx_add_timer(wev, clcf->send_timeout);
    }

    return ngx_handle_write_event(wev, clcf->send_lowat) == NGX_OK
           ? NGX_DONE : NGX_ERROR;
}


static void
ngx_http_offload_stream_writer(ngx_http_request_t *r)
{
    ngx_int_t                     rc;
    ngx_event_t                  *wev;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_job_t        job;
    ngx_http_offload_stream_t    *s;
    ngx_http_offload_loc_conf_t  *olcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);
    s = ctx->stream;
    wev = r->connection->write;

    if (wev->timedout) {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, NGX_ETIMEDOUT,
                      "client timed out");
        r->connection->timedout = 1;
        ngx_http_finalize_request(r, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }

    rc = wev->delayed ? NGX_AGAIN : ngx_http_output_filter(r, NULL);

    if (rc == NGX_ERROR) {
        ngx_http_finalize_request(r, NGX_ERROR);
        return;
    }

    if (ngx_http_offload_stream_busy(r, s)) {

        if (ngx_http_offload_stream_block(r) != NGX_DONE) {
            ngx_http_finalize_request(r, NGX_ERROR);
        }

        return;
    }

    r->write_event_handler = ngx_http_request_empty_handler;

    if (wev->timer_set && !wev->delayed) {
        ngx_del_timer(wev);
    }

    ngx_destroy_pool(s->pool);
    s->pool = NULL;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rc = ngx_http_offload_find(r, olcf->status, s->sent.id, &job);

    ngx_http_offload_stream_waited(r, rc, &job, ZONE_DONE);
}


/* The client comes back, to another process or when there is an answer. */

static ngx_int_t
ngx_http_offload_stream_end(ngx_http_request_t *r)
{
    return ngx_http_send_special(r, NGX_HTTP_LAST);
}


/* The next text: what has changed, or a comment that says nothing has. */

static ngx_int_t
ngx_http_offload_event(ngx_http_request_t *r, ngx_http_offload_stream_t *s,
    ngx_http_offload_job_t *job)
{
    u_char                       *p;
    uint64_t                      estimate;
    ngx_str_t                     json;
    ngx_uint_t                    retry_after;
    const char                   *name;
    ngx_http_offload_loc_conf_t  *olcf;

    static const u_char  retry[] = "retry: \n\n";
    static const u_char  event[] = "event: \nid: \ndata: \n\n";

    s->pool = ngx_create_pool(1024, r->connection->log);
    if (s->pool == NULL) {
        return NGX_ERROR;
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    name = ngx_http_offload_event_name(s, job);
    estimate = ngx_http_offload_estimate(olcf->status, job, &retry_after);
    json.len = 0;

    if (name == NULL && ngx_http_offload_event_moved(s, estimate)) {
        name = "estimate";
    }

    if (name || !s->started) {
        s->estimate = estimate;
    }

    if (name
        && ngx_http_offload_document_json(r, s->pool, olcf->status,
                                          &olcf->prefix, job, &json,
                                          &retry_after)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(s->pool, sizeof(retry) + NGX_INT_T_LEN + sizeof(event)
                             + NGX_HTTP_OFFLOAD_VERSION_LEN
                             + sizeof("completed") + json.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(&s->buf, sizeof(ngx_buf_t));

    s->buf.memory = 1;
    s->buf.flush = 1;
    s->buf.last_buf = ngx_http_offload_settled(job);
    s->buf.last_in_chain = 1;
    s->buf.pos = p;

    if (!s->started) {

        /* after a reload not all come back in the same moment */

        p = ngx_sprintf(p, "retry: %i\n\n", NGX_HTTP_OFFLOAD_RECONNECT
                        + ngx_random() % NGX_HTTP_OFFLOAD_RECONNECT);
    }

    if (name) {
        p = ngx_sprintf(p, "event: %s\nid: ", name);
        p = ngx_http_offload_version(p, job);
        p = ngx_cpymem(p, "\ndata: ", sizeof("\ndata: ") - 1);
        p = ngx_cpymem(p, json.data, json.len);        /* ends its line */
        *p++ = '\n';

    } else if (s->started) {
        p = ngx_cpymem(p, ":\n\n", sizeof(":\n\n") - 1);
    }

    s->buf.last = p;

    return NGX_OK;
}


/* What the event is about, or NULL if it would be about nothing. */

static const char *
ngx_http_offload_event_name(ngx_http_offload_stream_t *s,
    ngx_http_offload_job_t *job)
{
    if (job->state != s->sent.state || job->attempts != s->sent.attempts) {
        return ngx_http_offload_states[job->state];
    }

    if (job->reports != s->sent.reports) {
        return "progress";
    }

    return job->position != s->sent.position ? "position" : NULL;
}


/*
 * With a heartbeat: is what the client was told over, or off by a tenth of
 * what is left?
 */

static ngx_uint_t
ngx_http_offload_event_moved(ngx_http_offload_stream_t *s, uint64_t estimate)
{
    uint64_t     now, off;
    ngx_time_t  *tp;

    if (!s->started) {
        return 0;
    }

    if (estimate == 0 || s->estimate == 0) {        /* held, or no more */
        return estimate != s->estimate;
    }

    tp = ngx_timeofday();
    now = (uint64_t) tp->sec * 1000 + tp->msec;

    off = estimate > s->estimate ? estimate - s->estimate
                                 : s->estimate - estimate;

    return off > 1000
           && (s->estimate <= now
               || off > (estimate > now ? (estimate - now) / 10 : 0));
}


/*
 * An event's id is all that makes events differ, but for an estimate's, which
 * nobody has missed who is told the next.
 */

static u_char *
ngx_http_offload_version(u_char *p, ngx_http_offload_job_t *job)
{
    return ngx_sprintf(p, "%ui.%ui.%ui.%ui", job->state, job->attempts,
                       job->reports, job->position);
}


static void
ngx_http_offload_last_id(void *data, u_char *p, u_char *last)
{
    ngx_http_offload_last_id_t  *id = data;

    id->seen = (size_t) (last - p) == id->version.len
               && ngx_memcmp(p, id->version.data, id->version.len) == 0;
}
