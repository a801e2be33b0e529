
/*
 * offload_owner: whose job it is.  A request has a digest of the directive's
 * value; it goes with the job, and whoever asks for the job later on must
 * have the same.  Runs in worker processes, touches the request alone.
 *
 * This is asked in ngx_http_offload_find(), by which every representation
 * gets its job, so none can forget it.  SHA-1 is the strongest digest that
 * every nginx has; to be taken for another one needs a second preimage.
 */


#include "ngx_http_offload_module.h"


static const uint8_t  ngx_http_offload_nobody[ZONE_DIGEST_SIZE];


char *
ngx_http_offload_owner(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t  *value;

    if (olcf->owner != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        olcf->owner = NULL;
        return NGX_CONF_OK;
    }

    if (value[1].len == 0) {
        return "is empty: it must be \"off\" or a value with variables";
    }

    return ngx_http_set_complex_value_slot(cf, cmd, conf);
}


/* Its jobs would be nobody's to ask for at the URL of their 202. */

ngx_int_t
ngx_http_offload_owner_check(ngx_conf_t *cf,
    ngx_http_offload_location_t *location)
{
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = location->olcf;

    if (olcf->owner == NULL || olcf->entrance->owned) {
        return NGX_OK;
    }

    clcf = location->loc_conf[ngx_http_core_module.ctx_index];

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "\"offload_owner\" in location \"%V\" of the server in "
                  "%s:%ui needs one in its location \"%V\" with "
                  "\"offload_status %V\" as well: nobody could ask for the "
                  "jobs",
                  &clcf->name, location->cscf->file_name, location->cscf->line,
                  &olcf->entrance->status, &olcf->zone->name);

    return NGX_ERROR;
}


/* Of the request, asked for once: a stream of events may run for hours. */

ngx_int_t
ngx_http_offload_owner_digest(ngx_http_request_t *r, uint8_t **digest)
{
    ngx_str_t                     value;
    ngx_sha1_t                    sha1;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_loc_conf_t  *olcf;

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_http_offload_add_ctx(r);
        if (ctx == NULL) {
            return NGX_ERROR;
        }
    }

    *digest = ctx->owner;

    if (ctx->owner_set) {
        return NGX_OK;
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (olcf->owner) {

        if (ngx_http_complex_value(r, olcf->owner, &value) != NGX_OK) {
            return NGX_ERROR;
        }

        if (value.len) {
            ngx_sha1_init(&sha1);
            ngx_sha1_update(&sha1, value.data, value.len);
            ngx_sha1_final(ctx->owner, &sha1);
        }
    }

    ctx->owner_set = 1;

    return NGX_OK;
}


/* NGX_DECLINED: for this request there is no such job. */

ngx_int_t
ngx_http_offload_owner_allows(ngx_http_request_t *r,
    ngx_http_offload_job_t *job)
{
    uint8_t  *digest;

    if (ngx_memcmp(job->owner, ngx_http_offload_nobody, ZONE_DIGEST_SIZE)
        == 0)
    {
        return NGX_OK;
    }

    if (ngx_http_offload_owner_digest(r, &digest) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_memcmp(job->owner, digest, ZONE_DIGEST_SIZE) == 0
           ? NGX_OK : NGX_DECLINED;
}
