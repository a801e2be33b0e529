
/*
 * Directives that are more than a value for a slot.  Runs while nginx reads
 * its configuration (in the master, or under "nginx -t"), touches nothing but
 * memory, and leaves nothing behind when it fails.
 */


#include "ngx_http_offload_module.h"


char *
ngx_http_offload(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t  *value;

    if (olcf->queue != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        olcf->queue = NULL;
        return NGX_CONF_OK;
    }

    if (olcf->status || olcf->counted) {
        return "is in a location with \"offload_status\" or "
               "\"offload_status_zone\": a status can not be a job";
    }

    olcf->queue = ngx_http_offload_queue_get(cf, &value[1]);
    if (olcf->queue == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_offload_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (olcf->status) {
        return "is duplicate";
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->exact_match || clcf->named || clcf->noname
#if (NGX_PCRE)
        || clcf->regex
#endif
        || clcf->name.len == 0 || clcf->name.data[0] != '/')
    {
        return "needs a location given by a prefix, like \"location /jobs/\"";
    }

    if (olcf->queue != NGX_CONF_UNSET_PTR && olcf->queue != NULL) {
        return "is in a location with \"offload\": a job's status "
               "can not be a job";
    }

    if (olcf->counted) {
        return "is in a location with \"offload_status_zone\"";
    }

    value = cf->args->elts;

    olcf->status = ngx_http_offload_zone_get(cf, &value[1]);
    if (olcf->status == NULL) {
        return NGX_CONF_ERROR;
    }

    clcf->handler = ngx_http_offload_status_handler;

    return NGX_CONF_OK;
}


char *
ngx_http_offload_complex_value(ngx_conf_t *cf, ngx_str_t *text,
    ngx_http_complex_value_t **value)
{
    ngx_http_compile_complex_value_t  ccv;

    *value = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (*value == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = text;
    ccv.complex_value = *value;

    return ngx_http_compile_complex_value(&ccv) == NGX_OK ? NGX_CONF_OK
                                                          : NGX_CONF_ERROR;
}


/* always | prefer | $variable */

char *
ngx_http_offload_when(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t  *value;

    if (olcf->when != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "always") == 0) {
        olcf->when = NULL;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "prefer") == 0) {
        olcf->when = &ngx_http_offload_when_prefer;
        return NGX_CONF_OK;
    }

    if (value[1].data[0] != '$') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"offload_when\": it "
                           "must be \"always\", \"prefer\" or a variable",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    return ngx_http_offload_complex_value(cf, &value[1], &olcf->when);
}


char *
ngx_http_offload_keep(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t                *value;
    ngx_uint_t                i;
    ngx_http_offload_keep_t  *keep;

    if (olcf->keep == NGX_CONF_UNSET_PTR) {
        olcf->keep = ngx_array_create(cf->pool, 4,
                                      sizeof(ngx_http_offload_keep_t));
        if (olcf->keep == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (value[i].len < 2 || value[i].data[0] != '$') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid variable name \"%V\": "
                               "\"offload_keep\" takes names like \"$user\"",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        keep = ngx_array_push(olcf->keep);
        if (keep == NULL) {
            return NGX_CONF_ERROR;
        }

        keep->name.len = value[i].len - 1;
        keep->name.data = value[i].data + 1;

        keep->index = ngx_http_get_variable_index(cf, &keep->name);
        if (keep->index == NGX_ERROR) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


char *
ngx_http_offload_worker(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_main_conf_t  *omcf = conf;

    ngx_str_t  *value;

    if (omcf->worker_set) {
        return "is duplicate";
    }

    omcf->worker_set = 1;

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        omcf->worker = NGX_HTTP_OFFLOAD_WORKER_OFF;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "auto") == 0) {
        return NGX_CONF_OK;
    }

    if (value[1].data[0] != '/') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"offload_worker\": it "
                           "must be \"auto\", \"off\" or an absolute path",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    omcf->worker_path = value[1];

    return NGX_CONF_OK;
}


char *
ngx_http_offload_timeout_check(ngx_conf_t *cf, void *post, void *data)
{
    time_t  *timeout = data;

    /* a replay's timers are milliseconds in 31 bits */

    if (*timeout < 1 || *timeout > 24 * 24 * 60 * 60) {
        return "must be between 1s and 24d";
    }

    return NGX_CONF_OK;
}


char *
ngx_http_offload_msec_check(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *time = data;

    if (*time < 100 || *time > 60 * 60 * 1000) {
        return "must be between 100ms and 1h";
    }

    return NGX_CONF_OK;
}


char *
ngx_http_offload_buffer_check(ngx_conf_t *cf, void *post, void *data)
{
    size_t  *size = data;

    if (*size < 4096) {
        return "must be at least 4k";
    }

    return NGX_CONF_OK;
}
