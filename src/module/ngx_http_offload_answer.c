
/*
 * What clients read of a job: the 202, its document, and the URLs, times and
 * estimates in them.  Runs in worker processes, touches the request's pool and
 * reads offloadd's figures; nothing outlives the request.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_TIME_LEN     (sizeof("2026-04-25T10:30:00Z") - 1)
#define NGX_HTTP_OFFLOAD_RETRY        2     /* seconds, nothing measured */
#define NGX_HTTP_OFFLOAD_RETRY_MAX    30


static u_char *ngx_http_offload_time(u_char *p, uint64_t ms);
static u_char *ngx_http_offload_string(u_char *p, const char *name,
    ngx_str_t *value);
static uint64_t ngx_http_offload_now(void);
static uint64_t ngx_http_offload_estimate(ngx_http_offload_zone_t *zone,
    uint64_t start, uint64_t ahead, ngx_uint_t timeout_s);
static uint64_t ngx_http_offload_job_estimate(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job);
static ngx_uint_t ngx_http_offload_retry(ngx_http_offload_zone_t *zone,
    uint64_t estimate);


const char  *ngx_http_offload_states[] = {
    "", "queued", "running", "completed", "failed", "canceled", "expired"
};

static const char  *ngx_http_offload_errors[STORE_ERRORS] = {
    "", "backend-status", "timeout", "cut-off", "unreachable", "lost",
    "result-not-stored", "request-lost", "exhausted", "expired"
};


/*
 * scheme://authority<prefix><id>: absolute, as the client reached us.  The
 * prefix is the status location's, escaped.  nginx lets a host have quotes
 * and bytes that are not ASCII; the URL stands in JSON as it is, so it has
 * none.
 */

ngx_int_t
ngx_http_offload_job_url(ngx_http_request_t *r, ngx_pool_t *pool,
    ngx_str_t *prefix, ngx_str_t *host, u_char id[ZONE_ID_TEXT],
    ngx_str_t *url)
{
    u_char  *p, c;
    size_t   i;

    p = ngx_pnalloc(pool, sizeof("https://") - 1 + host->len + prefix->len
                          + ZONE_ID_TEXT);
    if (p == NULL) {
        return NGX_ERROR;
    }

    url->data = p;

#if (NGX_HTTP_SSL)
    if (r->connection->ssl) {
        p = ngx_cpymem(p, "https://", sizeof("https://") - 1);
    } else
#endif
    {
        p = ngx_cpymem(p, "http://", sizeof("http://") - 1);
    }

    for (i = 0; i < host->len; i++) {
        c = host->data[i];
        *p++ = (c == '"' || c == '\\' || c >= 0x80) ? '_' : c;
    }

    p = ngx_cpymem(p, prefix->data, prefix->len);
    p = ngx_cpymem(p, id, ZONE_ID_TEXT);

    url->len = p - url->data;

    return NGX_OK;
}


/*
 * Headers and body of the 202, all that could fail for want of memory, before
 * the job is published: RFC 9110, 15.3.3 and 8.7.
 */

ngx_int_t
ngx_http_offload_prepare_accepted(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, ngx_str_t *prefix, ngx_str_t *host,
    u_char id[ZONE_ID_TEXT], ngx_http_offload_job_t *job, ngx_str_t *body)
{
    u_char     *p;
    uint64_t    now, estimate, waiting;
    ngx_str_t   url, value;

    if (ngx_http_offload_job_url(r, r->pool, prefix, host, id, &url)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    now = ngx_http_offload_now();

    if (job->state == STORE_RUNNING) {
        estimate = ngx_http_offload_estimate(rt->conf, job->started_ms, 0,
                                             job->timeout_s);
        estimate = ngx_max(estimate, now + 1000);

    } else {
        waiting = atomic_load_explicit(&rt->zone.worker->waiting,
                                       memory_order_relaxed);
        estimate = ngx_http_offload_estimate(rt->conf, now, waiting,
                                             job->timeout_s);
    }

    ngx_str_set(&value, "no-store");

    if (ngx_http_offload_add_header(r, "Location", sizeof("Location") - 1,
                                    &url)
            == NULL
        || ngx_http_offload_add_header(r, "Content-Location",
                                       sizeof("Content-Location") - 1, &url)
            == NULL
        || ngx_http_offload_add_header(r, "Cache-Control",
                                       sizeof("Cache-Control") - 1, &value)
            == NULL
        || ngx_http_offload_retry_after(r, ngx_http_offload_retry(rt->conf,
                                                                  estimate))
            != NGX_OK)
    {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(r->pool, sizeof("{\"job_id\":\"\",\"status\":\"running\","
                                    "\"status_url\":\"\",\"created_at\":\"\","
                                    "\"estimated_completion\":\"\"}\n")
                             + ZONE_ID_TEXT + url.len
                             + 2 * NGX_HTTP_OFFLOAD_TIME_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

#define ngx_http_offload_put(p, text)                                         \
    ngx_cpymem(p, text, sizeof(text) - 1)

    p = ngx_http_offload_put(p, "{\"job_id\":\"");
    p = ngx_cpymem(p, id, ZONE_ID_TEXT);
    p = ngx_http_offload_put(p, "\",\"status\":\"");
    p = job->state == STORE_RUNNING ? ngx_http_offload_put(p, "running")
                                    : ngx_http_offload_put(p, "queued");
    p = ngx_http_offload_put(p, "\",\"status_url\":\"");
    p = ngx_cpymem(p, url.data, url.len);
    p = ngx_http_offload_put(p, "\",\"created_at\":\"");
    p = ngx_http_offload_time(p, job->created_ms);
    p = ngx_http_offload_put(p, "\",\"estimated_completion\":\"");
    p = ngx_http_offload_time(p, estimate);
    p = ngx_http_offload_put(p, "\"}\n");

    body->len = p - body->data;

    return NGX_OK;
}


/* The job's document; *estimate is 0 once it is settled. */

ngx_int_t
ngx_http_offload_document_json(ngx_http_request_t *r, ngx_pool_t *pool,
    ngx_http_offload_zone_t *zone, ngx_str_t *prefix,
    ngx_http_offload_job_t *job, ngx_str_t *body, uint64_t *estimate)
{
    u_char     *p, id[ZONE_ID_TEXT];
    ngx_str_t   host, url;

    zone_id_format((char *) id, job->id);

    ngx_http_offload_authority(r, &host);

    if (ngx_http_offload_job_url(r, pool, prefix, &host, id, &url)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(pool, 768 + 2 * url.len
                          + 6 * (job->type.len + job->message.len));
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    p = ngx_http_offload_put(p, "{\"job_id\":\"");
    p = ngx_cpymem(p, id, ZONE_ID_TEXT);
    p = ngx_sprintf(p, "\",\"status\":\"%s\"",
                    ngx_http_offload_states[job->state]);
    p = ngx_http_offload_put(p, ",\"status_url\":\"");
    p = ngx_cpymem(p, url.data, url.len);
    *p++ = '"';

    p = ngx_http_offload_put(p, ",\"created_at\":\"");
    p = ngx_http_offload_time(p, job->created_ms);
    *p++ = '"';

    if (job->started_ms) {
        p = ngx_http_offload_put(p, ",\"started_at\":\"");
        p = ngx_http_offload_time(p, job->started_ms);
        *p++ = '"';
    }

    if (job->finished_ms) {
        p = ngx_http_offload_put(p, ",\"finished_at\":\"");
        p = ngx_http_offload_time(p, job->finished_ms);
        *p++ = '"';
    }

    p = ngx_sprintf(p, ",\"attempts\":%ui", job->attempts);

    if (job->position) {
        p = ngx_sprintf(p, ",\"queue_position\":%ui", job->position);
    }

    *estimate = ngx_http_offload_job_estimate(zone, job);

    if (*estimate) {
        p = ngx_http_offload_put(p, ",\"estimated_completion\":\"");
        p = ngx_http_offload_time(p, *estimate);
        *p++ = '"';
    }

    if (job->progress) {
        p = ngx_sprintf(p, ",\"progress\":%ui", job->progress - 1);
    }

    if (job->flags & STORE_HAS_RESULT) {
        p = ngx_http_offload_put(p, ",\"result_url\":\"");
        p = ngx_cpymem(p, url.data, url.len);
        p = ngx_http_offload_put(p, "/result\"");
    }

    if (job->http_status) {
        p = ngx_sprintf(p, ",\"response\":{\"status\":%ui", job->http_status);

        if (job->type.len) {
            p = ngx_http_offload_string(p, "content_type", &job->type);
        }

        p = ngx_sprintf(p, ",\"length\":%uL}", job->result_size);
    }

    if (job->error) {
        p = ngx_sprintf(p, ",\"error\":{\"code\":\"%s\"",
                        ngx_http_offload_errors[job->error]);

        if (job->message.len) {
            p = ngx_http_offload_string(p, "message", &job->message);
        }

        *p++ = '}';
    }

    p = ngx_http_offload_put(p, "}\n");

    body->len = p - body->data;

    return NGX_OK;
}


/* The same, and the headers that go with it wherever it is sent. */

ngx_int_t
ngx_http_offload_describe(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_str_t *prefix,
    ngx_http_offload_job_t *job, ngx_str_t *body)
{
    uint64_t   estimate;
    ngx_str_t  value;

    if (ngx_http_offload_document_json(r, r->pool, zone, prefix, job, body,
                                       &estimate)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&value, "no-store");

    if (ngx_http_offload_add_header(r, "Cache-Control",
                                    sizeof("Cache-Control") - 1, &value)
        == NULL)
    {
        return NGX_ERROR;
    }

    if (estimate == 0) {
        return NGX_OK;
    }

    return ngx_http_offload_retry_after(r, ngx_http_offload_retry(zone,
                                                                  estimate));
}


/* 202 while pending, 200 once settled. */

ngx_int_t
ngx_http_offload_send_document(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_str_t *prefix,
    ngx_http_offload_job_t *job)
{
    ngx_str_t   body;
    ngx_uint_t  pending;

    if (ngx_http_offload_describe(r, zone, prefix, job, &body) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    pending = job->state == STORE_QUEUED || job->state == STORE_RUNNING;

    return ngx_http_offload_send(r, (pending && r->method != NGX_HTTP_DELETE)
                                    ? NGX_HTTP_ACCEPTED : NGX_HTTP_OK,
                                 "application/json", &body);
}


/*
 * RFC 3339.  A second's text is made once; two are remembered, since a 202
 * has two: now and the estimate.
 */

static u_char *
ngx_http_offload_time(u_char *p, uint64_t ms)
{
    time_t       sec;
    ngx_tm_t     tm;
    ngx_uint_t   n;

    static time_t      made[2];
    static u_char      text[2][NGX_HTTP_OFFLOAD_TIME_LEN + 1];
    static ngx_uint_t  last;

    sec = ms / 1000;

    for (n = 0; n < 2; n++) {
        if (made[n] == sec && text[n][0] != '\0') {
            goto found;
        }
    }

    n = last ^= 1;

    ngx_gmtime(sec, &tm);

    ngx_sprintf(text[n], "%04d-%02d-%02dT%02d:%02d:%02dZ%Z", tm.ngx_tm_year,
                tm.ngx_tm_mon, tm.ngx_tm_mday, tm.ngx_tm_hour,
                tm.ngx_tm_min, tm.ngx_tm_sec);
    made[n] = sec;

found:

    return ngx_cpymem(p, text[n], NGX_HTTP_OFFLOAD_TIME_LEN);
}


/*
 * ,"name":"value".  Headers may hold any byte, JSON only UTF-8: what is not
 * ASCII becomes a question mark.
 */

static u_char *
ngx_http_offload_string(u_char *p, const char *name, ngx_str_t *value)
{
    size_t  i;

    p = ngx_sprintf(p, ",\"%s\":\"", name);

    for (i = 0; i < value->len; i++) {
        if (value->data[i] >= 0x80) {
            value->data[i] = '?';
        }
    }

    p = (u_char *) ngx_escape_json(p, value->data, value->len);

    *p++ = '"';

    return p;
}


static uint64_t
ngx_http_offload_now(void)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    return (uint64_t) tp->sec * 1000 + tp->msec;
}


/*
 * When a job that starts to wait at `start` behind `ahead` others should be
 * done.  As long as nothing was measured, this is the time by which its
 * first attempt is over at the latest.
 */

static uint64_t
ngx_http_offload_estimate(ngx_http_offload_zone_t *zone, uint64_t start,
    uint64_t ahead, ngx_uint_t timeout_s)
{
    uint64_t             service, concurrency;
    struct zone_worker  *worker;

    if (!zone->rt->mapped) {
        return start + (uint64_t) timeout_s * 1000;
    }

    worker = zone->rt->zone.worker;

    service = atomic_load_explicit(&worker->service_us, memory_order_relaxed);
    concurrency = atomic_load_explicit(&worker->concurrency,
                                       memory_order_relaxed);

    if (service == 0 || concurrency == 0) {
        return start + (uint64_t) timeout_s * 1000;
    }

    return start + service * (ahead / concurrency + 1) / 1000;
}


static uint64_t
ngx_http_offload_job_estimate(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job)
{
    uint64_t  now, ahead, estimate;

    now = ngx_http_offload_now();

    switch (job->state) {

    case STORE_QUEUED:
        ahead = job->position ? job->position - 1 : 0;
        return ngx_http_offload_estimate(zone, now, ahead, job->timeout_s);

    case STORE_RUNNING:
        estimate = ngx_http_offload_estimate(zone, job->started_ms, 0,
                                             job->timeout_s);
        return ngx_max(estimate, now + 1000);

    default:
        return 0;
    }
}


static ngx_uint_t
ngx_http_offload_retry(ngx_http_offload_zone_t *zone, uint64_t estimate)
{
    uint64_t  now, seconds;

    if (!zone->rt->mapped
        || atomic_load_explicit(&zone->rt->zone.worker->service_us,
                                memory_order_relaxed)
           == 0)
    {
        return NGX_HTTP_OFFLOAD_RETRY;
    }

    now = ngx_http_offload_now();
    seconds = estimate > now ? (estimate - now + 999) / 1000 : 1;

    return ngx_max(1, ngx_min(seconds, NGX_HTTP_OFFLOAD_RETRY_MAX));
}


/* Seconds until a job that waits now has had its turn. */

ngx_uint_t
ngx_http_offload_retry_place(ngx_http_offload_zone_t *zone)
{
    return ngx_http_offload_retry(zone,
               ngx_http_offload_estimate(zone, ngx_http_offload_now(), 0, 0));
}
