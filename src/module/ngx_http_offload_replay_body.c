
/*
 * The body of a batch on its way back through the location.  What each of its
 * jobs sent was within client_max_body_size, all of it together may not be;
 * so offloadd sends it without a length, and it is read here, on a copy of the
 * location's configuration without that bound, before the content handler asks
 * for it and finds it there.  Runs in worker processes, on the request.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_replay_body_handler(ngx_http_request_t *r);


/* All is merged; NULL stays where there are no batches. */

ngx_int_t
ngx_http_offload_replay_conf(ngx_conf_t *cf,
    ngx_http_offload_location_t *location)
{
    ngx_http_core_loc_conf_t  *clcf;

    if (location->olcf->queue->batch.size == 0) {
        return NGX_OK;
    }

    clcf = ngx_http_offload_core_conf(cf, location);
    if (clcf == NULL) {
        return NGX_ERROR;
    }

    clcf->client_max_body_size = 0;
    location->olcf->replay_conf = clcf->loc_conf;

    return NGX_OK;
}


/*
 * NGX_DECLINED: there is nothing to read, or it was; else what the handler is
 * to return.
 */

ngx_int_t
ngx_http_offload_replay_body(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx)
{
    ngx_int_t                     rc;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (olcf->replay_conf == NULL || !r->headers_in.chunked
        || r->request_body)
    {
        return NGX_DECLINED;
    }

    ctx->loc_conf = r->loc_conf;
    r->loc_conf = olcf->replay_conf;

    rc = ngx_http_read_client_request_body(r,
                                         ngx_http_offload_replay_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        r->loc_conf = ctx->loc_conf;
        return rc;
    }

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


/* On with the phases: the same handler is called again. */

static void
ngx_http_offload_replay_body_handler(ngx_http_request_t *r)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_offload_get_ctx(r);

    r->loc_conf = ctx->loc_conf;
    r->preserve_body = 1;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}
