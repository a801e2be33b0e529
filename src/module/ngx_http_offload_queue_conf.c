
/*
 * The directives in an offload_queue block, line by line.  Each function
 * takes one and returns what would be right when it is wrong.  Runs while
 * nginx reads its configuration and touches only memory.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_YEARS  (10 * 365 * 24 * 60 * 60)   /* s */

typedef char *(ngx_http_offload_line_pt)(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);

typedef struct {
    ngx_str_t                   name;
    ngx_uint_t                  most;       /* arguments */
    ngx_uint_t                  many;       /* such lines may be */
    ngx_http_offload_line_pt   *set;
} ngx_http_offload_line_t;


static ngx_http_offload_line_pt  ngx_http_offload_queue_concurrency;
static ngx_http_offload_line_pt  ngx_http_offload_queue_rate;
static ngx_http_offload_line_pt  ngx_http_offload_queue_adaptive;
static ngx_http_offload_line_pt  ngx_http_offload_queue_timeout;
static ngx_http_offload_line_pt  ngx_http_offload_queue_deadline;
static ngx_http_offload_line_pt  ngx_http_offload_queue_ttl;
static ngx_http_offload_line_pt  ngx_http_offload_queue_dead_ttl;
static ngx_http_offload_line_pt  ngx_http_offload_queue_delay;
static ngx_http_offload_line_pt  ngx_http_offload_queue_priority;
static ngx_http_offload_line_pt  ngx_http_offload_queue_fair;
static ngx_http_offload_line_pt  ngx_http_offload_queue_limit;
static ngx_http_offload_line_pt  ngx_http_offload_queue_on_full;


static ngx_http_offload_line_t  ngx_http_offload_lines[] = {
    { ngx_string("concurrency"), 1, 0, ngx_http_offload_queue_concurrency },
    { ngx_string("rate"), 2, 0, ngx_http_offload_queue_rate },
    { ngx_string("adaptive"), 1, 0, ngx_http_offload_queue_adaptive },
    { ngx_string("retry"), 5, 0, ngx_http_offload_queue_retry },
    { ngx_string("timeout"), 1, 0, ngx_http_offload_queue_timeout },
    { ngx_string("deadline"), 1, 0, ngx_http_offload_queue_deadline },
    { ngx_string("ttl"), 1, 0, ngx_http_offload_queue_ttl },
    { ngx_string("dead_ttl"), 1, 0, ngx_http_offload_queue_dead_ttl },
    { ngx_string("delay"), 2, 0, ngx_http_offload_queue_delay },
    { ngx_string("priority"), 1, 0, ngx_http_offload_queue_priority },
    { ngx_string("fair"), 1, 0, ngx_http_offload_queue_fair },
    { ngx_string("limit"), 4, 0, ngx_http_offload_queue_limit },
    { ngx_string("on_full"), 1, 0, ngx_http_offload_queue_on_full },
    { ngx_string("webhook"), 5, 1, ngx_http_offload_queue_webhook },
    { ngx_string("webhook_allow"), 64, 0,
      ngx_http_offload_queue_webhook_allow },
    { ngx_string("exec"), 256, 0, ngx_http_offload_queue_exec },
    { ngx_string("exec_limit"), 4, 0, ngx_http_offload_queue_exec_limit },
    { ngx_string("exec_dir"), 1, 0, ngx_http_offload_queue_exec_dir },
    { ngx_string("exec_env"), 256, 0, ngx_http_offload_queue_exec_env },
    { ngx_string("progress_pattern"), 1, 0, ngx_http_offload_queue_pattern },
    { ngx_string("pass"), 2, 0, ngx_http_offload_queue_pass },
    { ngx_string("batch"), 5, 0, ngx_http_offload_queue_batch },
    { ngx_null_string, 0, 0, NULL }
};

char *
ngx_http_offload_queue_line(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    ngx_http_offload_queue_t  *queue = conf;

    char                     *rv;
    ngx_str_t                *value;
    ngx_uint_t                i, n, bad;
    ngx_http_offload_line_t  *line;

    value = cf->args->elts;
    n = cf->args->nelts;

    if (ngx_strcmp(value[0].data, "include") == 0 && n == 2) {
        return ngx_conf_include(cf, dummy, conf);
    }

    for (i = 0, line = ngx_http_offload_lines; line->name.len; i++, line++) {
        if (ngx_strcmp(value[0].data, line->name.data) == 0) {
            break;
        }
    }

    if (line->name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown directive \"%V\" in queue \"%V\": "
                           "concurrency, rate, adaptive, retry, timeout, "
                           "deadline, ttl, dead_ttl, delay, priority, fair, "
                           "limit, on_full, webhook, webhook_allow, exec, "
                           "exec_limit, exec_dir, exec_env, "
                           "progress_pattern, pass and batch are known",
                           &value[0],
                           &queue->name);
        return NGX_CONF_ERROR;
    }

    if (n < 2 || n - 1 > line->most) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\" of queue "
                           "\"%V\": 1 to %ui are taken", &value[0],
                           &queue->name, line->most);
        return NGX_CONF_ERROR;
    }

    if ((queue->set & (1 << i)) && !line->many) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" is duplicate in queue \"%V\"", &value[0],
                           &queue->name);
        return NGX_CONF_ERROR;
    }

    queue->set |= 1 << i;
    bad = 1;

    rv = line->set(cf, queue, value, n, &bad);

    if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
        return rv;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"%V\" of queue \"%V\": %s",
                       &value[bad], &value[0], &queue->name, rv);

    return NGX_CONF_ERROR;
}


/* name=value: 1, and what stands behind the "=" */

ngx_uint_t
ngx_http_offload_queue_param(ngx_str_t *value, const char *name, ngx_str_t *v)
{
    size_t  len;

    len = ngx_strlen(name);

    if (value->len <= len || ngx_strncmp(value->data, name, len) != 0) {
        return 0;
    }

    v->data = value->data + len;
    v->len = value->len - len;

    return 1;
}


ngx_uint_t
ngx_http_offload_queue_twice(ngx_str_t *value, ngx_uint_t i)
{
    u_char      *p;
    size_t       len;
    ngx_uint_t   k;

    p = (u_char *) ngx_strchr(value[i].data, '=');

    if (p == NULL) {
        return 0;
    }

    len = p + 1 - value[i].data;

    for (k = 1; k < i; k++) {
        if (value[k].len > len
            && ngx_strncmp(value[k].data, value[i].data, len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* Each by itself; said twice, the first must not be lost without a word. */

char *
ngx_http_offload_queue_params(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad,
    ngx_http_offload_param_pt *set)
{
    char        *rv;
    ngx_uint_t   i;

    for (i = 1; i < n; i++) {
        *bad = i;

        if (ngx_http_offload_queue_twice(value, i)) {
            return "the parameter is duplicate";
        }

        rv = set(cf, queue, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_queue_concurrency(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    ngx_int_t  c;

    c = ngx_atoi(value[1].data, value[1].len);
    if (c < 1 || c > 1000000) {
        return "it must be a number from 1 to 1000000";
    }

    queue->concurrency = c;

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_queue_rate(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    ngx_int_t  rate;
    ngx_str_t  v;

    v = value[1];

    if (v.len > 3 && ngx_strncmp(v.data + v.len - 3, "r/s", 3) == 0) {
        queue->period = 1000;

    } else if (v.len > 3 && ngx_strncmp(v.data + v.len - 3, "r/m", 3) == 0) {
        queue->period = 60 * 1000;

    } else {
        return "it must be like \"10r/s\" or \"10r/m\"";
    }

    rate = ngx_atoi(v.data, v.len - 3);
    if (rate < 1 || rate > 1000000) {
        return "it must be from 1 to 1000000, like \"10r/s\" or \"10r/m\"";
    }

    queue->rate = rate;

    if (n == 2) {
        return NGX_CONF_OK;
    }

    *bad = 2;

    rate = ngx_http_offload_queue_param(&value[2], "burst=", &v)
           ? ngx_atoi(v.data, v.len) : NGX_ERROR;

    if (rate < 1 || rate > 1000000) {
        return "it must be \"burst=\" and a number from 1 to 1000000";
    }

    queue->burst = rate;

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_queue_adaptive(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    if (ngx_strcmp(value[1].data, "on") == 0) {
        queue->adaptive = 1;

    } else if (ngx_strcmp(value[1].data, "off") != 0) {
        return "it must be \"on\" or \"off\"";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_queue_timeout(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    queue->timeout = ngx_parse_time(&value[1], 1);

    /* a replay's timers are milliseconds in 31 bits */

    return queue->timeout < 1 || queue->timeout > 24 * 24 * 60 * 60
           ? "it must be between 1s and 24d" : NGX_CONF_OK;
}


static char *
ngx_http_offload_queue_time(ngx_str_t *value, time_t *time)
{
    *time = ngx_parse_time(value, 1);

    return *time < 1 || *time > NGX_HTTP_OFFLOAD_YEARS
           ? "it must be a time of at least 1s and at most 10 years, like "
             "\"1h\""
           : NGX_CONF_OK;
}


static char *
ngx_http_offload_queue_deadline(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    return ngx_http_offload_queue_time(&value[1], &queue->deadline);
}


static char *
ngx_http_offload_queue_ttl(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    return ngx_http_offload_queue_time(&value[1], &queue->ttl);
}


static char *
ngx_http_offload_queue_dead_ttl(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    return ngx_http_offload_queue_time(&value[1], &queue->dead_ttl);
}


static char *
ngx_http_offload_queue_delay(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    ngx_str_t  v;

    queue->delay_max = 24 * 60 * 60;

    if (n == 3) {
        *bad = 2;

        if (!ngx_http_offload_queue_param(&value[2], "max=", &v)
            || ngx_http_offload_queue_time(&v, &queue->delay_max)
               != NGX_CONF_OK)
        {
            return "it must be \"max=\" and a time of at least 1s, like "
                   "\"max=1h\"";
        }
    }

    return ngx_http_offload_complex_value(cf, &value[1], &queue->delay);
}


static char *
ngx_http_offload_queue_priority(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    if (ngx_http_script_variables_count(&value[1]) == 0
        && (value[1].len != 1 || value[1].data[0] < '0'
            || value[1].data[0] > '9'))
    {
        return "it must be a digit, 9 first, or have a variable in it";
    }

    return ngx_http_offload_complex_value(cf, &value[1], &queue->priority);
}


static char *
ngx_http_offload_queue_fair(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    if (ngx_http_script_variables_count(&value[1]) == 0) {
        return "it must have a variable in it, like \"$remote_user\"";
    }

    return ngx_http_offload_complex_value(cf, &value[1], &queue->fair);
}


static char *
ngx_http_offload_queue_limit_param(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value)
{
    ngx_int_t    limit;
    ngx_str_t    v;
    ngx_uint_t  *n;

    n = NULL;

    if (ngx_http_offload_queue_param(value, "queued=", &v)) {
        n = &queue->limit_queued;

    } else if (ngx_http_offload_queue_param(value, "per_key=", &v)) {
        n = &queue->limit_per_key;
    }

    if (n) {
        limit = ngx_atoi(v.data, v.len);
        if (limit < 1 || limit > 1000000000) {
            return "it must be a number of jobs from 1 to 1000000000";
        }

        *n = limit;

        return NGX_CONF_OK;
    }

    if (ngx_http_offload_queue_param(value, "key=", &v)) {
        return ngx_http_script_variables_count(&v)
               ? ngx_http_offload_complex_value(cf, &v, &queue->limit_key)
               : "it must have a variable in it, like \"key=$remote_user\"";
    }

    if (ngx_http_offload_queue_param(value, "status=", &v)) {
        queue->limit_status = ngx_atoi(v.data, v.len);

        return queue->limit_status == 429 || queue->limit_status == 503
               ? NGX_CONF_OK : "it must be 429 or 503";
    }

    return "there is no such parameter; queued, key, per_key and status are";
}


static char *
ngx_http_offload_queue_limit(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    return ngx_http_offload_queue_params(cf, queue, value, n, bad,
                                         ngx_http_offload_queue_limit_param);
}


static char *
ngx_http_offload_queue_on_full(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    if (ngx_strcmp(value[1].data, "bypass") == 0) {
        queue->on_full = NGX_HTTP_OFFLOAD_BYPASS;

    } else if (ngx_strcmp(value[1].data, "refuse") != 0) {
        return "it must be \"refuse\" or \"bypass\"";
    }

    return NGX_CONF_OK;
}
