
/*
 * What a location says of results: how large they may be, how long they are
 * kept, and what caches may do with them.  The directives run while nginx
 * reads its configuration and touch nothing but memory; the header is set in
 * worker processes, on the request alone.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_TTL_MAX    (100 * 366 * 24 * 60 * 60LL)


ngx_http_complex_value_t  ngx_http_offload_cache_control_off;   /* a mark */


/* offload_max_result size [truncate] */

char *
ngx_http_offload_max_result(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t  *value;

    if (olcf->max_result != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    olcf->max_result = ngx_parse_offset(&value[1]);
    if (olcf->max_result == NGX_ERROR) {
        return "invalid value";
    }

    olcf->truncate = 0;

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[2].data, "truncate") != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in "
                           "\"offload_max_result\": only \"truncate\" is one",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    if (olcf->max_result == 0) {
        return "has \"truncate\", and no size to cut at";
    }

    olcf->truncate = 1;

    return NGX_CONF_OK;
}


/* offload_result_cache_control string | off */

char *
ngx_http_offload_cache_control(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t  *value;

    if (olcf->cache_control != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        olcf->cache_control = &ngx_http_offload_cache_control_off;
        return NGX_CONF_OK;
    }

    return ngx_http_offload_complex_value(cf, &value[1],
                                          &olcf->cache_control);
}


char *
ngx_http_offload_ttl_check(ngx_conf_t *cf, void *post, void *data)
{
    time_t  *ttl = data;

    if (*ttl < 1 || *ttl > NGX_HTTP_OFFLOAD_TTL_MAX) {
        return "must be between 1s and 100y";
    }

    return NGX_CONF_OK;
}


/*
 * The backend's own header stands unless there is one of ours.  A result that
 * says nothing may be of one user alone, and can be deleted any time.
 */

ngx_int_t
ngx_http_offload_result_cached(ngx_http_request_t *r, ngx_uint_t own)
{
    ngx_str_t                     value;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (olcf->cache_control == &ngx_http_offload_cache_control_off) {
        return NGX_OK;
    }

    if (olcf->cache_control) {

        if (ngx_http_complex_value(r, olcf->cache_control, &value) != NGX_OK) {
            return NGX_ERROR;
        }

        if (value.len == 0) {
            return NGX_OK;
        }

        ngx_http_offload_drop_header(r, "Cache-Control",
                                     sizeof("Cache-Control") - 1);
        ngx_http_offload_drop_header(r, "Expires", sizeof("Expires") - 1);

    } else if (own) {
        return NGX_OK;

    } else {
        ngx_str_set(&value, "private, no-cache");
    }

    return ngx_http_offload_add_header(r, "Cache-Control",
                                       sizeof("Cache-Control") - 1, &value)
           == NULL ? NGX_ERROR : NGX_OK;
}
