
/*
 * What clients read of a job: the 202, its document, and the times in them.
 * Runs in worker processes and touches the request's pool; nothing outlives
 * the request.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_TIME_LEN     (sizeof("2026-04-25T10:30:00Z") - 1)


const char  *ngx_http_offload_states[] = {
    "", "queued", "running", "completed", "failed", "canceled", "expired"
};

const char  *ngx_http_offload_errors[STORE_ERRORS] = {
    "", "backend_status", "timeout", "cut_off", "unreachable", "lost",
    "result_not_stored", "request_lost", "result_too_large", "exhausted",
    "expired", "exec_failed", "invalid_item", "invalid_batch_answer"
};


/*
 * Headers and body of the 202, all that could fail for want of memory, before
 * the job is published: RFC 9110, 15.3.3 and 8.7.
 */

ngx_int_t
ngx_http_offload_prepare_accepted(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, ngx_str_t *prefix, u_char id[ZONE_ID_TEXT],
    ngx_http_offload_job_t *job, ngx_str_t *body)
{
    u_char      *p;
    uint64_t     estimate;
    ngx_str_t    url, link, value;
    ngx_uint_t   retry;

    if (ngx_http_offload_job_url(r, r->pool, prefix, id, &url) != NGX_OK) {
        return NGX_ERROR;
    }

    estimate = ngx_http_offload_estimate(rt->conf, job, &retry);

    /* RFC 8288, 3; the relation is RFC 5989's */

    link.data = ngx_pnalloc(r->pool, url.len
                                     + sizeof("<>; rel=\"monitor\"") - 1);
    if (link.data == NULL) {
        return NGX_ERROR;
    }

    link.len = ngx_sprintf(link.data, "<%V>; rel=\"monitor\"", &url)
               - link.data;

    ngx_str_set(&value, "no-store");

    if (ngx_http_offload_location(r, &url) != NGX_OK
        || ngx_http_offload_add_header(r, "Link", sizeof("Link") - 1, &link)
           == NULL
        || ngx_http_offload_add_header(r, "Cache-Control",
                                       sizeof("Cache-Control") - 1, &value)
            == NULL
        || ngx_http_offload_retry_after(r, retry) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_offload_azure(r)) {
        return ngx_http_offload_azure_accepted(r, prefix, id, job, body);
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

    if (estimate) {
        p = ngx_http_offload_put(p, "\",\"estimated_completion\":\"");
        p = ngx_http_offload_time(p, estimate);
    }

    p = ngx_http_offload_put(p, "\"}\n");

    body->len = p - body->data;

    return NGX_OK;
}


/* Where the job is, for all kinds of pollers. */

ngx_int_t
ngx_http_offload_location(ngx_http_request_t *r, ngx_str_t *url)
{
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (ngx_http_offload_add_header(r, "Location", sizeof("Location") - 1,
                                    url)
            == NULL
        || ngx_http_offload_add_header(r, "Content-Location",
                                       sizeof("Content-Location") - 1, url)
            == NULL
        || (olcf->dialect == NGX_HTTP_OFFLOAD_AZURE
            && ngx_http_offload_add_header(r, "Operation-Location",
                                           sizeof("Operation-Location") - 1,
                                           url)
               == NULL))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* The job's document; *retry is 0 once it is settled, and not before. */

ngx_int_t
ngx_http_offload_document_json(ngx_http_request_t *r, ngx_pool_t *pool,
    ngx_http_offload_zone_t *zone, ngx_str_t *prefix,
    ngx_http_offload_job_t *job, ngx_str_t *body, ngx_uint_t *retry)
{
    u_char     *p, id[ZONE_ID_TEXT];
    uint64_t    estimate;
    ngx_str_t   url;

    zone_id_format((char *) id, job->id);

    if (ngx_http_offload_job_url(r, pool, prefix, id, &url) != NGX_OK) {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(pool, 800 + 2 * url.len + job->webhooks.len
                          + 6 * (job->type.len + job->message.len
                                 + job->progress_message.len));
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

    estimate = ngx_http_offload_estimate(zone, job, retry);

    if (estimate) {
        p = ngx_http_offload_put(p, ",\"estimated_completion\":\"");
        p = ngx_http_offload_time(p, estimate);
        *p++ = '"';
    }

    if (job->progress) {
        p = ngx_sprintf(p, ",\"progress\":%ui", job->progress - 1);
    }

    if (job->progress_message.len) {
        p = ngx_http_offload_put(p, ",\"progress_message\":\"");
        p = (u_char *) ngx_escape_json(p, job->progress_message.data,
                                       job->progress_message.len);
        *p++ = '"';
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

        p = ngx_sprintf(p, ",\"length\":%uL", job->result_size);

        if (job->flags & STORE_TRUNCATED) {
            p = ngx_http_offload_put(p, ",\"truncated\":true");
        }

        *p++ = '}';
    }

    if (job->error) {
        p = ngx_sprintf(p, ",\"error\":{\"code\":\"%s\"",
                        ngx_http_offload_errors[job->error]);

        if (job->message.len) {
            p = ngx_http_offload_string(p, "message", &job->message);
        }

        *p++ = '}';
    }

    if (job->webhooks.len) {
        p = ngx_http_offload_put(p, ",\"webhooks\":");
        p = ngx_cpymem(p, job->webhooks.data, job->webhooks.len);
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
    ngx_str_t   value;
    ngx_uint_t  retry;

    if (ngx_http_offload_document_json(r, r->pool, zone, prefix, job, body,
                                       &retry)
        != NGX_OK
        || (ngx_http_offload_azure(r)
            && ngx_http_offload_azure_json(r, prefix, job, body) != NGX_OK))
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

    return retry ? ngx_http_offload_retry_after(r, retry) : NGX_OK;
}


/* 202 while pending, 200 once settled; a dialect may know 200 alone. */

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

    if (r->method == NGX_HTTP_DELETE || ngx_http_offload_azure(r)) {
        pending = 0;
    }

    return ngx_http_offload_send(r, pending ? NGX_HTTP_ACCEPTED : NGX_HTTP_OK,
                                 "application/json", &body);
}


/*
 * RFC 3339.  A second's text is made once; two are remembered, since a 202
 * has two: now and the estimate.
 */

u_char *
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

u_char *
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
