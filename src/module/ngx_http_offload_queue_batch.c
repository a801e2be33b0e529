
/*
 * The batch directive of an offload_queue block: several jobs in one request.
 * Runs while nginx reads its configuration and touches only memory; what it
 * says is done by offloadd.
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>


#define NGX_HTTP_OFFLOAD_BATCH_SIZE    10000
#define NGX_HTTP_OFFLOAD_BATCH_LINGER  (60 * 1000)          /* ms */
#define NGX_HTTP_OFFLOAD_BATCH_MAX     (8 * 1024 * 1024)
#define NGX_HTTP_OFFLOAD_BATCH_MOST    (1024 * 1024 * 1024)


static char *
ngx_http_offload_batch_param(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value)
{
    ngx_int_t                  n;
    ngx_str_t                  v;
    ngx_http_offload_batch_t  *batch;

    batch = &queue->batch;

    if (ngx_http_offload_queue_param(value, "size=", &v)) {
        n = ngx_atoi(v.data, v.len);
        if (n < 2 || n > NGX_HTTP_OFFLOAD_BATCH_SIZE) {
            return "it must be a number of jobs from 2 to 10000";
        }

        batch->size = n;

        return NGX_CONF_OK;
    }

    if (ngx_http_offload_queue_param(value, "linger=", &v)) {
        n = ngx_parse_time(&v, 0);
        if (n == NGX_ERROR || n > NGX_HTTP_OFFLOAD_BATCH_LINGER) {
            return "it must be a time from 0 to 1m, like \"linger=200ms\"";
        }

        batch->linger = n;

        return NGX_CONF_OK;
    }

    if (ngx_http_offload_queue_param(value, "max=", &v)) {
        n = ngx_parse_size(&v);
        if (n < 1024 || n > NGX_HTTP_OFFLOAD_BATCH_MOST) {
            return "it must be a size from 1k to 1024m, like \"max=8m\"";
        }

        batch->max = n;

        return NGX_CONF_OK;
    }

    if (ngx_http_offload_queue_param(value, "format=", &v)) {
        batch->array = ngx_strcmp(v.data, "json-array") == 0;

        return batch->array || ngx_strcmp(v.data, "ndjson") == 0
               ? NGX_CONF_OK : "it must be \"ndjson\" or \"json-array\"";
    }

    if (ngx_http_offload_queue_param(value, "item=", &v)) {
        batch->envelope = ngx_strcmp(v.data, "envelope") == 0;

        return batch->envelope || ngx_strcmp(v.data, "body") == 0
               ? NGX_CONF_OK : "it must be \"body\" or \"envelope\"";
    }

    return "there is no such parameter; size, linger, max, format and item "
           "are";
}


char *
ngx_http_offload_queue_batch(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    char  *rv;

    queue->batch.linger = 200;
    queue->batch.max = NGX_HTTP_OFFLOAD_BATCH_MAX;

    rv = ngx_http_offload_queue_params(cf, queue, value, n, bad,
                                       ngx_http_offload_batch_param);

    return rv != NGX_CONF_OK || queue->batch.size
           ? rv : "there must be a \"size=\" as well, like \"size=500\"";
}


/* What it must not say together with others; NULL: nothing. */

const char *
ngx_http_offload_batch_wrong(ngx_http_offload_queue_t *queue)
{
    ngx_http_offload_batch_t  *batch;

    batch = &queue->batch;

    if (batch->size == 0) {
        return NULL;
    }

    if (queue->deadline
        && batch->linger >= (ngx_msec_t) queue->deadline * 1000)
    {
        return "\"linger\" of \"batch\" is not shorter than \"deadline\": "
               "jobs would expire before they are sent";
    }

    return queue->exec && ngx_http_offload_exec_reports(queue->exec)
           ? "\"progress_pattern\" and \"batch\": progress is one job's"
           : NULL;
}


/* NULL: no memory */

json_t *
ngx_http_offload_batch_json(ngx_http_offload_batch_t *batch)
{
    return json_pack("{s:I, s:I, s:I, s:b, s:b}",
                     "size", (json_int_t) batch->size,
                     "linger_ms", (json_int_t) batch->linger,
                     "max", (json_int_t) batch->max,
                     "array", (int) batch->array,
                     "envelope", (int) batch->envelope);
}
