
/*
 * The terms of a job: how deep it is in a chain, and what the directives of
 * its queue come to for this request.  Before the body is read, in a worker
 * process; touches the request alone.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_DEPTH_MAX  255


static void ngx_http_offload_depth(void *data, u_char *p, u_char *last);
static ngx_int_t ngx_http_offload_delay(ngx_http_request_t *r,
    ngx_http_offload_queue_t *queue, uint32_t *delay);
static ngx_int_t ngx_http_offload_priority(ngx_http_request_t *r,
    ngx_http_offload_queue_t *queue, uint8_t *priority);
static ngx_int_t ngx_http_offload_hash(ngx_http_request_t *r,
    ngx_http_complex_value_t *value, uint64_t *hash);


static const ngx_http_offload_problem_t  ngx_http_offload_too_deep = {
    508, 0, "chain-too-deep", "The chain of jobs is too long",
    "A job's request has led to another job too often."
};

static const ngx_http_offload_problem_t  ngx_http_offload_delay_invalid = {
    NGX_HTTP_BAD_REQUEST, 0, "delay-invalid", "The delay is not valid",
    "It must be a number of seconds, or a time like 10s, 5m or 1h."
};


/* NGX_DECLINED: *problem says why there can be no job. */

ngx_int_t
ngx_http_offload_terms(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_terms_t *terms,
    const ngx_http_offload_problem_t **problem)
{
    ngx_int_t                  rc;
    ngx_uint_t                 depth;
    ngx_http_offload_queue_t  *queue;

    queue = olcf->queue;

    /*
     * A job says its depth to its backend, and whoever passes that on is
     * inside of the chain.
     */

    depth = 0;

    ngx_http_offload_header_list(r, "offload-depth", ngx_http_offload_depth,
                                 &depth);

    if (depth >= olcf->max_depth) {
        *problem = &ngx_http_offload_too_deep;
        return NGX_DECLINED;
    }

    terms->depth = (uint8_t) (depth + 1);

    rc = ngx_http_offload_delay(r, queue, &terms->delay);

    if (rc != NGX_OK) {
        *problem = &ngx_http_offload_delay_invalid;
        return rc;
    }

    if (ngx_http_offload_priority(r, queue, &terms->priority) != NGX_OK
        || ngx_http_offload_hash(r, queue->fair, &terms->fair) != NGX_OK
        || ngx_http_offload_hash(r, queue->limit_key, &terms->limit_key)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_offload_webhooks(r, olcf, &terms->hooks, problem);
}


/* Of several, the largest; what is no number may be any. */

static void
ngx_http_offload_depth(void *data, u_char *p, u_char *last)
{
    ngx_uint_t  *depth = data;

    ngx_int_t  n;

    if (p == last) {
        return;
    }

    n = ngx_atoi(p, last - p);

    if (n == NGX_ERROR || n > NGX_HTTP_OFFLOAD_DEPTH_MAX) {
        n = NGX_HTTP_OFFLOAD_DEPTH_MAX;
    }

    *depth = ngx_max(*depth, (ngx_uint_t) n);
}


static ngx_int_t
ngx_http_offload_delay(ngx_http_request_t *r, ngx_http_offload_queue_t *queue,
    uint32_t *delay)
{
    time_t     time;
    ngx_str_t  value;

    *delay = 0;

    if (queue->delay == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, queue->delay, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_OK;
    }

    time = ngx_parse_time(&value, 1);

    if (time == (time_t) NGX_ERROR) {
        return NGX_DECLINED;
    }

    *delay = (uint32_t) ngx_min(time, queue->delay_max);

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_priority(ngx_http_request_t *r,
    ngx_http_offload_queue_t *queue, uint8_t *priority)
{
    ngx_str_t  value;

    *priority = ZONE_PRIORITY_DEFAULT;

    if (queue->priority == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, queue->priority, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 1 && value.data[0] >= '0' && value.data[0] <= '9') {
        *priority = value.data[0] - '0';

    } else if (value.len) {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "the priority \"%V\" for queue \"%V\" is not a number "
                      "from 0 to 9: it is %d", &value, &queue->name,
                      ZONE_PRIORITY_DEFAULT);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_hash(ngx_http_request_t *r, ngx_http_complex_value_t *value,
    uint64_t *hash)
{
    ngx_str_t  text;

    *hash = 0;

    if (value == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, value, &text) != NGX_OK) {
        return NGX_ERROR;
    }

    *hash = zone_key_hash(text.data, text.len);

    return NGX_OK;
}
