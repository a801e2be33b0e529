
/*
 * offload_wait: an accepted request is held until its job is settled, and
 * then gets the backend's answer, as if nothing had been offloaded; or, when
 * the time is over first, the 202.  And offload_when: which requests become
 * jobs at all.  Runs in worker processes, blocks nobody.
 *
 * The job is accepted before all this: killed here, the process leaves a job
 * and a client without an answer, as after any submission.
 */


#include "ngx_http_offload_module.h"


static ngx_msec_t ngx_http_offload_hold_time(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_prefer_t *prefer);
static ngx_int_t ngx_http_offload_hold_applied(ngx_http_request_t *r,
    ngx_msec_t time, ngx_http_offload_prefer_t *prefer);
static void ngx_http_offload_held(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job, ngx_int_t result);
static ngx_int_t ngx_http_offload_hold_result(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_http_offload_job_t *job);


ngx_http_complex_value_t  ngx_http_offload_when_prefer;     /* a mark */


static const ngx_http_offload_problem_t  ngx_http_offload_job_timeout = {
    NGX_HTTP_GATEWAY_TIME_OUT, 0, "job-failed", "The job failed",
    "The backend did not answer within the time it is given."
};

static const ngx_http_offload_problem_t  ngx_http_offload_job_failed = {
    NGX_HTTP_BAD_GATEWAY, 0, "job-failed", "The job failed",
    "The job ended without an answer of the backend."
};


/* NGX_DECLINED: the request is served as if the module were absent. */

ngx_int_t
ngx_http_offload_wanted(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf)
{
    ngx_str_t                  value;
    ngx_http_offload_prefer_t  prefer;

    /*
     * A browser's question about the request it wants to make; any 2xx is a
     * yes to it, so that a job would be made, and no one would know of it.
     */

    if (r->method == NGX_HTTP_OPTIONS
        && ngx_http_offload_request_header(r, "access-control-request-method"))
    {
        return NGX_DECLINED;
    }

    if (olcf->when == NULL) {
        return NGX_OK;
    }

    if (olcf->when != &ngx_http_offload_when_prefer) {

        if (ngx_http_complex_value(r, olcf->when, &value) != NGX_OK) {
            return NGX_ERROR;
        }

        return value.len == 0 || (value.len == 1 && value.data[0] == '0')
               ? NGX_DECLINED : NGX_OK;
    }

    ngx_http_offload_prefer(r, &prefer);

    if (prefer.respond_async) {
        return NGX_OK;
    }

    ngx_str_set(&value, "Prefer");

    return ngx_http_offload_add_header(r, "Vary", sizeof("Vary") - 1, &value)
           == NULL ? NGX_ERROR : NGX_DECLINED;
}


/*
 * The job is accepted, *answer is the 202's body and its headers are set.
 * Returns what the request is to be finalized with.  RFC 7240, 4.1 and 4.3.
 */

ngx_int_t
ngx_http_offload_accepted(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *answer)
{
    ngx_int_t                  rc;
    ngx_msec_t                 time;
    ngx_http_offload_ctx_t    *ctx;
    ngx_http_offload_job_t     job;
    ngx_http_offload_prefer_t  prefer;

    time = ngx_http_offload_hold_time(r, olcf, &prefer);

    ctx = ngx_http_offload_get_ctx(r);

    if (time) {
        ngx_memzero(&job, sizeof(ngx_http_offload_job_t));
        job.state = STORE_QUEUED;

        ctx->answer = *answer;

        if (zone_id_parse(job.id, (char *) ctx->id, ZONE_ID_TEXT) == 0) {
            rc = ngx_http_offload_wait(r, olcf->zone, &job,
                                       ZONE_WATCH_SETTLED, time,
                                       ngx_http_offload_held);
            if (rc == NGX_OK) {
                return NGX_DONE;
            }
        }
    }

    if (ngx_http_offload_hold_applied(r, time, &prefer) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_send(r, NGX_HTTP_ACCEPTED, "application/json",
                                 answer);
}


/* "wait" with "respond-async" says how long to wait before the 202. */

static ngx_msec_t
ngx_http_offload_hold_time(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_prefer_t *prefer)
{
    ngx_http_offload_prefer(r, prefer);

    if (prefer->wait_set) {
        return ngx_min(prefer->wait * 1000, olcf->wait_max);
    }

    return prefer->respond_async ? 0 : olcf->wait;
}


static ngx_int_t
ngx_http_offload_hold_applied(ngx_http_request_t *r, ngx_msec_t time,
    ngx_http_offload_prefer_t *prefer)
{
    if (!prefer->wait_set && !prefer->respond_async) {
        return NGX_OK;
    }

    return ngx_http_offload_preference_applied(r, prefer->wait_set
                                               ? (ngx_int_t) (time / 1000)
                                               : -1);
}


static void
ngx_http_offload_held(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job, ngx_int_t result)
{
    ngx_str_t                     body;
    ngx_msec_t                    time;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_prefer_t     prefer;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    ctx = ngx_http_offload_get_ctx(r);

    time = ngx_http_offload_hold_time(r, olcf, &prefer);
    body = ctx->answer;

    if (rc == NGX_OK) {

        /* what was prepared is older than the wait: all is made anew */

        ngx_http_clean_header(r);

        if (job->state != STORE_QUEUED && job->state != STORE_RUNNING) {
            rc = ngx_http_offload_hold_applied(r, time, &prefer);

            if (rc == NGX_OK) {
                rc = ngx_http_offload_hold_result(r, olcf->zone, job);
            }

            ngx_http_finalize_request(r, rc);
            return;
        }

        if (ngx_http_offload_prepare_accepted(r, olcf->zone->rt,
                                              &olcf->entrance->status,
                                              ctx->id, job, &body)
            != NGX_OK)
        {
            ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
            return;
        }
    }

    rc = ngx_http_offload_hold_applied(r, time, &prefer);

    if (rc == NGX_OK) {
        rc = ngx_http_offload_send(r, NGX_HTTP_ACCEPTED, "application/json",
                                   &body);
    }

    ngx_http_finalize_request(r, rc);
}


static ngx_int_t
ngx_http_offload_hold_result(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_http_offload_job_t *job)
{
    if (job->flags & STORE_HAS_RESULT) {
        return ngx_http_offload_send_result(r, zone, job);
    }

    return ngx_http_offload_send_problem(r, job->error == STORE_ERROR_TIMEOUT
                                            ? &ngx_http_offload_job_timeout
                                            : &ngx_http_offload_job_failed);
}
