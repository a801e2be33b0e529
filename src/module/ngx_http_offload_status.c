
/*
 * The status location: GET <prefix><id> is the job's document (its events, a
 * page: what is accepted), GET <prefix><id>/result the backend's answer,
 * DELETE <prefix><id> cancels, OPTIONS says so; PATCH and PUT are the
 * backend's, see _report.c.  Runs in worker processes and only reads; a long
 * poll parks the request, which is gone with the process.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_format(ngx_http_request_t *r,
    ngx_uint_t result, ngx_uint_t *format);
static ngx_int_t ngx_http_offload_long_poll(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
static void ngx_http_offload_polled(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job, ngx_int_t result);


/* of a job's URL, of its result's */

static const char  *ngx_http_offload_allow[] = {
    "GET, HEAD, PATCH, DELETE, OPTIONS", "GET, HEAD, PUT, OPTIONS"
};


static const ngx_http_offload_problem_t  ngx_http_offload_no_url = {
    NGX_HTTP_NOT_FOUND, 0, "job-not-found", "No such job",
    "This is not the URL of a job."
};

static const ngx_http_offload_problem_t  ngx_http_offload_not_found = {
    NGX_HTTP_NOT_FOUND, 0, "job-not-found", "No such job",
    "There is no job with this id."
};

static const ngx_http_offload_problem_t  ngx_http_offload_gone = {
    410, 0, "job-expired", "The job has expired",
    "The job was settled, and the time its result is kept is over."
};

static const ngx_http_offload_problem_t  ngx_http_offload_store_down = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "store-unavailable",
    "The job can not be looked up",
    "The store does not answer; the job is not lost."
};


ngx_int_t
ngx_http_offload_status_handler(ngx_http_request_t *r)
{
    uint8_t                       id[ZONE_ID_SIZE];
    ngx_int_t                     rc;
    ngx_uint_t                    result, format;
    ngx_http_offload_job_t        job;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rc = ngx_http_offload_status_parse(r, id, &result);

    if (rc == NGX_OK
        && r->method == (result ? NGX_HTTP_PUT : NGX_HTTP_PATCH))
    {
        return ngx_http_offload_report(r, id, result);
    }

    if (ngx_http_discard_request_body(r) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_offload_format(r, result, &format) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc != NGX_OK) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_url);
    }

    /* the same for all ids: it says nothing about the job */

    if (r->method == NGX_HTTP_OPTIONS) {
        return ngx_http_offload_send_options(r,
                                             ngx_http_offload_allow[result]);
    }

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))
        && (r->method != NGX_HTTP_DELETE || result))
    {
        return ngx_http_offload_send_not_allowed(r,
                                             ngx_http_offload_allow[result]);
    }

    rc = ngx_http_offload_find(r, olcf->status, id, &job);

    if (rc != NGX_OK) {
        return ngx_http_offload_missing(r, rc);
    }

    if (job.state == STORE_EXPIRED) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_gone);
    }

    if (r->method == NGX_HTTP_DELETE) {
        return ngx_http_offload_cancel(r, &job);
    }

    if (result) {
        return ngx_http_offload_send_result(r, olcf->status, &job);
    }

    if (format == NGX_HTTP_OFFLOAD_EVENTS) {
        return ngx_http_offload_events(r, &job);
    }

    rc = format == NGX_HTTP_OFFLOAD_JSON ? ngx_http_offload_long_poll(r, &job)
                                         : NGX_DECLINED;

    return rc == NGX_DECLINED ? ngx_http_offload_status_answer(r, NGX_OK, &job)
                             : rc;
}


/* A job's URL has three representations (RFC 9110, 12.5.5), a result's one. */

static ngx_int_t
ngx_http_offload_format(ngx_http_request_t *r, ngx_uint_t result,
    ngx_uint_t *format)
{
    ngx_str_t                value;
    ngx_http_offload_ctx_t  *ctx;

    *format = NGX_HTTP_OFFLOAD_JSON;

    if (result || !(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_OK;
    }

    ngx_str_set(&value, "Accept");

    if (ngx_http_offload_add_header(r, "Vary", sizeof("Vary") - 1, &value)
        == NULL)
    {
        return NGX_ERROR;
    }

    *format = ngx_http_offload_negotiate(r);

    if (*format != NGX_HTTP_OFFLOAD_HTML) {
        return NGX_OK;
    }

    ctx = ngx_http_offload_add_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    ctx->html = 1;

    return NGX_OK;
}


/*
 * "Prefer: wait=N" (RFC 7240, 4.3) or "?wait=N": the document is sent when it
 * has changed, or after N seconds as it is.  NGX_DECLINED: no waiting.
 */

static ngx_int_t
ngx_http_offload_long_poll(ngx_http_request_t *r, ngx_http_offload_job_t *job)
{
    ngx_int_t                     rc;
    ngx_str_t                     arg;
    ngx_msec_t                    wait;
    ngx_http_offload_prefer_t     prefer;
    ngx_http_offload_loc_conf_t  *olcf;

    ngx_http_offload_prefer(r, &prefer);

    wait = prefer.wait_set ? prefer.wait * 1000 : 0;

    if (ngx_http_arg(r, (u_char *) "wait", 4, &arg) == NGX_OK) {
        rc = ngx_atoi(arg.data, arg.len);

        if (rc != NGX_ERROR) {
            wait = ngx_min(rc, 24 * 60 * 60) * 1000;
        }
    }

    if (wait == 0 || (job->state != STORE_QUEUED
                      && job->state != STORE_RUNNING))
    {
        return NGX_DECLINED;
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    wait = ngx_min(wait, olcf->wait_max);

    if (prefer.wait_set
        && ngx_http_offload_preference_applied(r, wait / 1000) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_offload_wait(r, olcf->status, job, 0, wait,
                               ngx_http_offload_polled);

    if (rc == NGX_OK) {
        return NGX_DONE;
    }

    return rc == NGX_DECLINED ? rc : NGX_HTTP_INTERNAL_SERVER_ERROR;
}


static void
ngx_http_offload_polled(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job, ngx_int_t result)
{
    ngx_http_finalize_request(r, ngx_http_offload_status_answer(r, rc, job));
}


/* What ngx_http_offload_find() said. */

ngx_int_t
ngx_http_offload_status_answer(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job)
{
    ngx_http_offload_loc_conf_t  *olcf;

    if (rc != NGX_OK) {
        return ngx_http_offload_missing(r, rc);
    }

    if (job->state == STORE_EXPIRED) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_gone);
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    return ngx_http_offload_send_document(r, olcf->status, &olcf->prefix,
                                          job);
}


ngx_int_t
ngx_http_offload_status_parse(ngx_http_request_t *r,
    uint8_t id[ZONE_ID_SIZE], ngx_uint_t *result)
{
    u_char                    *p;
    size_t                     len;
    ngx_http_core_loc_conf_t  *clcf;

    *result = 0;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (r->uri.len < clcf->name.len) {
        return NGX_DECLINED;
    }

    p = r->uri.data + clcf->name.len;
    len = r->uri.len - clcf->name.len;

    if (clcf->name.data[clcf->name.len - 1] != '/') {
        if (len == 0 || *p != '/') {
            return NGX_DECLINED;
        }

        p++;
        len--;
    }

    if (len == ZONE_ID_TEXT + sizeof("/result") - 1
        && ngx_memcmp(p + ZONE_ID_TEXT, "/result", sizeof("/result") - 1)
           == 0)
    {
        *result = 1;
        len = ZONE_ID_TEXT;
    }

    if (zone_id_parse(id, (char *) p, len) != 0) {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_offload_missing(ngx_http_request_t *r, ngx_int_t rc)
{
    if (rc == NGX_DECLINED) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_not_found);
    }

    return ngx_http_offload_send_problem(r, &ngx_http_offload_store_down);
}
