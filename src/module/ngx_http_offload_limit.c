
/*
 * Requests their queue has no place for.  offloadd counts and says so, as it
 * would have stored the job (see _confirm.c): there is none.  The request is
 * refused, or goes on to its content handler as if it had never been wanted.
 * In a worker process; blocks nobody.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_bypass(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);


static const ngx_http_offload_problem_t  ngx_http_offload_queue_full = {
    NGX_HTTP_TOO_MANY_REQUESTS, 0, "queue-full",
    "Too many jobs are waiting",
    "The queue has as many waiting jobs as it may have."
};

static const ngx_http_offload_problem_t  ngx_http_offload_key_full = {
    NGX_HTTP_TOO_MANY_REQUESTS, 0, "queue-full",
    "Too many jobs are waiting",
    "The queue has as many waiting jobs of this client as it may have."
};


/* Can a request be refused for what the queue holds? */

ngx_uint_t
ngx_http_offload_limits(ngx_http_offload_loc_conf_t *olcf)
{
    return olcf->queue->limit_queued || olcf->queue->limit_per_key;
}


/* Returns what the request is to be finalized with; NGX_DONE: it goes on. */

ngx_int_t
ngx_http_offload_limited(ngx_http_request_t *r, ngx_int_t result)
{
    ngx_http_offload_queue_t     *queue;
    ngx_http_offload_problem_t    problem;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    queue = olcf->queue;

    if (queue->on_full == NGX_HTTP_OFFLOAD_BYPASS) {
        return ngx_http_offload_bypass(r, ngx_http_offload_get_ctx(r));
    }

    problem = result == ZONE_LIMITED ? ngx_http_offload_queue_full
                                     : ngx_http_offload_key_full;

    problem.retry_after = ngx_http_offload_retry_place(queue->zone,
                                                       queue->hash,
                                                       olcf->hash);

    if (queue->limit_status) {
        problem.status = queue->limit_status;
    }

    return ngx_http_offload_refuse(r, &problem);
}


/*
 * The phase engine goes on where the request was parked: with its context it
 * is declined there.  The body has been read; content handlers that ask for
 * it are given it at once, from memory or from the file that is open and has
 * no name any more.
 */

static ngx_int_t
ngx_http_offload_bypass(ngx_http_request_t *r, ngx_http_offload_ctx_t *ctx)
{
    if (ngx_http_offload_hold_ctx(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_clean_header(r);               /* of a 202 */

    r->loc_conf = ctx->loc_conf;
    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    r->main->count++;                       /* the caller finalizes */
    ngx_http_core_run_phases(r);

    return NGX_DONE;
}
