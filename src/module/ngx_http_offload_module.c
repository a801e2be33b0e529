
/*
 * The module's directives, configuration and registration.  All of it runs
 * while nginx reads its configuration (in the master, or under "nginx -t"),
 * touches nothing but memory, and leaves nothing behind when it fails:
 * directories and files are made later, in ngx_http_offload_zones.c.
 */


#include "ngx_http_offload_module.h"


static char *ngx_http_offload(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static char *ngx_http_offload_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_offload_when(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_offload_keep(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_offload_worker(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_offload_timeout_check(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_offload_msec_check(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_offload_buffer_check(ngx_conf_t *cf, void *post,
    void *data);

static ngx_int_t ngx_http_offload_variable_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_offload_variable_attempt(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);

static ngx_int_t ngx_http_offload_preconfiguration(ngx_conf_t *cf);

static ngx_int_t ngx_http_offload_init_process(ngx_cycle_t *cycle);
static void ngx_http_offload_exit_process(ngx_cycle_t *cycle);


static ngx_conf_enum_t  ngx_http_offload_access[] = {
    { ngx_string("once"), NGX_HTTP_OFFLOAD_ACCESS_ONCE },
    { ngx_string("every"), NGX_HTTP_OFFLOAD_ACCESS_EVERY },
    { ngx_null_string, 0 }
};

static ngx_conf_enum_t  ngx_http_offload_delivery[] = {
    { ngx_string("at-least-once"), NGX_HTTP_OFFLOAD_AT_LEAST_ONCE },
    { ngx_string("at-most-once"), NGX_HTTP_OFFLOAD_AT_MOST_ONCE },
    { ngx_null_string, 0 }
};

static ngx_conf_post_t  ngx_http_offload_timeout_post = {
    ngx_http_offload_timeout_check
};

static ngx_conf_post_t  ngx_http_offload_msec_post = {
    ngx_http_offload_msec_check
};

static ngx_conf_post_t  ngx_http_offload_buffer_post = {
    ngx_http_offload_buffer_check
};

static ngx_conf_post_t  ngx_http_offload_depth_post = {
    ngx_http_offload_depth_check
};


static ngx_command_t  ngx_http_offload_commands[] = {

    { ngx_string("offload_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_http_offload_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_queue"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE2,
      ngx_http_offload_queue,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_worker"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_offload_worker,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_offload,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_offload_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_status_zone"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_offload_status_zone,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_keep"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_offload_keep,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_idempotency"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_offload_idempotency,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_access"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, access),
      ngx_http_offload_access },

    { ngx_string("offload_delivery"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, delivery),
      ngx_http_offload_delivery },

    { ngx_string("offload_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_sec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, timeout),
      &ngx_http_offload_timeout_post },

    { ngx_string("offload_max_depth"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, max_depth),
      &ngx_http_offload_depth_post },

    { ngx_string("offload_accept_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, accept_timeout),
      &ngx_http_offload_msec_post },

    { ngx_string("offload_when"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_offload_when,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("offload_wait"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, wait),
      NULL },

    { ngx_string("offload_wait_max"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, wait_max),
      NULL },

    { ngx_string("offload_heartbeat"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, heartbeat),
      &ngx_http_offload_msec_post },

    { ngx_string("offload_body_buffer_size"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_offload_loc_conf_t, body_buffer),
      &ngx_http_offload_buffer_post },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_offload_module_ctx = {
    ngx_http_offload_preconfiguration,     /* preconfiguration */
    ngx_http_offload_postconfiguration,    /* postconfiguration */

    ngx_http_offload_create_main_conf,     /* create main configuration */
    ngx_http_offload_queues,               /* init main configuration */

    ngx_http_offload_create_srv_conf,      /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_offload_create_loc_conf,      /* create location configuration */
    ngx_http_offload_merge_loc_conf        /* merge location configuration */
};


ngx_module_t  ngx_http_offload_module = {
    NGX_MODULE_V1,
    &ngx_http_offload_module_ctx,          /* module context */
    ngx_http_offload_commands,             /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_offload_zones_init_module,    /* init module */
    ngx_http_offload_init_process,         /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_offload_exit_process,         /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/*
 * A core module for one thing: its init_conf() runs when everything has been
 * parsed ("user" and "worker_processes" too), before listening sockets are
 * opened, and its failure still leaves a running nginx as it was.
 */

static ngx_core_module_t  ngx_http_offload_core_module_ctx = {
    ngx_string("offload"),
    NULL,
    ngx_http_offload_zones_init_conf
};


ngx_module_t  ngx_http_offload_core_module = {
    NGX_MODULE_V1,
    &ngx_http_offload_core_module_ctx,     /* module context */
    NULL,                                  /* module directives */
    NGX_CORE_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_http_variable_t  ngx_http_offload_vars[] = {

    { ngx_string("offload_job_id"), NULL, ngx_http_offload_variable_id,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("offload_attempt"), NULL, ngx_http_offload_variable_attempt,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static char *
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


static char *
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


/* always | prefer | $variable */

static char *
ngx_http_offload_when(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t                         *value;
    ngx_http_compile_complex_value_t   ccv;

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

    olcf->when = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (olcf->when == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = olcf->when;

    return ngx_http_compile_complex_value(&ccv) == NGX_OK ? NGX_CONF_OK
                                                          : NGX_CONF_ERROR;
}


static char *
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


static char *
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


static char *
ngx_http_offload_timeout_check(ngx_conf_t *cf, void *post, void *data)
{
    time_t  *timeout = data;

    /* a replay's timers are milliseconds in 31 bits */

    if (*timeout < 1 || *timeout > 24 * 24 * 60 * 60) {
        return "must be between 1s and 24d";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_msec_check(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *time = data;

    if (*time < 100 || *time > 60 * 60 * 1000) {
        return "must be between 100ms and 1h";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_buffer_check(ngx_conf_t *cf, void *post, void *data)
{
    size_t  *size = data;

    if (*size < 4096) {
        return "must be at least 4k";
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_offload_variable_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx == NULL || !ctx->id_set) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = ZONE_ID_TEXT;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = ctx->id;

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_variable_attempt(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx == NULL || ctx->attempt.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = ctx->attempt.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = ctx->attempt.data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_preconfiguration(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_offload_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                      i;
    ngx_http_offload_zone_t       **zone;
    ngx_http_offload_main_conf_t   *omcf;

    if (ngx_process != NGX_PROCESS_WORKER) {
        return NGX_OK;
    }

    omcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_offload_module);

    if (omcf == NULL) {
        return NGX_OK;
    }

    zone = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {
        if (ngx_http_offload_rt_init(cycle, zone[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_http_offload_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                      i;
    ngx_http_offload_zone_t       **zone;
    ngx_http_offload_main_conf_t   *omcf;

    omcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_offload_module);

    if (omcf == NULL) {
        return;
    }

    zone = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {
        ngx_http_offload_rt_exit(zone[i]);
    }
}
