
/*
 * DELETE of a job.  Runs in worker processes.  It publishes one record and
 * parks the request until offloadd has answered, and if the process dies
 * meanwhile the job is canceled or it is not, as its document then says.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_canceled(ngx_http_request_t *r,
    ngx_int_t result);


static const ngx_http_offload_problem_t  ngx_http_offload_no_worker = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "not-confirmed",
    "The cancellation is not confirmed",
    "The worker did not answer in time; ask again."
};


/*
 * offloadd decides, since it alone knows what runs: the request
 * waits for its word, and then answers with what the job has become.
 */

ngx_int_t
ngx_http_offload_cancel(ngx_http_request_t *r, ngx_http_offload_job_t *job)
{
    uint64_t                      token;
    ngx_int_t                     rc;
    struct zone_record           *rec;
    ngx_http_offload_rt_t        *rt;
    ngx_http_offload_loc_conf_t  *olcf;

    if (job->state == STORE_CANCELED || (job->flags & STORE_DISCARDED)) {
        return ngx_http_offload_status_answer(r, NGX_OK, job);
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rt = ngx_http_offload_rt_lane(olcf->status);

    rec = rt ? zone_sq_reserve(&rt->producer, ZONE_RECORD_CANCEL, 0) : NULL;

    if (rec == NULL) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_worker);
    }

    rc = ngx_http_offload_park(r, rt, ngx_http_offload_canceled,
                               NGX_HTTP_OFFLOAD_CANCEL_TIMEOUT, 0, job->id,
                               &token);

    if (rc == NGX_BUSY) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_worker);
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memcpy(rec->id, job->id, ZONE_ID_SIZE);
    rec->token = token;

    zone_sq_publish(&rt->producer);
    ngx_http_offload_rt_wake(rt);

    /* a client that leaves is noticed, and takes its place with it */

    r->read_event_handler = ngx_http_test_reading;
    r->main->count++;

    return NGX_DONE;
}


/* Without an answer it may be done all the same: the store knows first. */

static ngx_uint_t
ngx_http_offload_was_canceled(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, uint8_t id[ZONE_ID_SIZE],
    ngx_http_offload_job_t *job)
{
    return rt != NULL
           && ngx_http_offload_store_job(rt, r->pool, id, job) == NGX_OK
           && (job->state == STORE_CANCELED
               || (job->flags & STORE_DISCARDED));
}


static void
ngx_http_offload_canceled(ngx_http_request_t *r, ngx_int_t result)
{
    uint8_t                       id[ZONE_ID_SIZE];
    ngx_int_t                     rc;
    ngx_uint_t                    unused;
    ngx_http_offload_job_t        job;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rc = ngx_http_offload_status_parse(r, id, &unused);

    if (rc == NGX_OK) {
        rc = ngx_http_offload_find(r, olcf->status, id, &job);
    }

    if (result != ZONE_DONE && result != ZONE_NOT_FOUND
        && (rc != NGX_OK
            || !ngx_http_offload_was_canceled(r, olcf->status->rt, id, &job)))
    {
        rc = ngx_http_offload_send_problem(r, &ngx_http_offload_no_worker);

    } else {
        rc = ngx_http_offload_status_answer(r, rc, &job);
    }

    ngx_http_finalize_request(r, rc);
}
