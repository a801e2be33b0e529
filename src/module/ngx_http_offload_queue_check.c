
/*
 * What the directives of a queue must not say together, what they come to for
 * a location, and queues as they stand in a zone's policy.  Runs while nginx
 * reads its configuration (in the master for the policy), touches only
 * memory.
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>


#define NGX_HTTP_OFFLOAD_DEAD_TTL  (7 * 24 * 60 * 60)


static ngx_int_t ngx_http_offload_queue_wrong(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, const char *fmt, ...);
static const char *ngx_http_offload_queue_limits(
    ngx_http_offload_queue_t *queue);
static json_t *ngx_http_offload_queue_json(ngx_http_offload_queue_t *queue);
static json_t *ngx_http_offload_retry_json(ngx_http_offload_retry_t *retry);


static ngx_int_t
ngx_http_offload_queue_wrong(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    const char *fmt, ...)
{
    u_char   text[NGX_MAX_CONF_ERRSTR], *p;
    va_list  args;

    va_start(args, fmt);
    p = ngx_vslprintf(text, text + sizeof(text) - 1, fmt, args);
    va_end(args);

    *p = '\0';

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "queue \"%V\" in %s:%ui: %s",
                  &queue->name, queue->conf_file, queue->line, text);

    return NGX_ERROR;
}


/* Its zone is known. */

ngx_int_t
ngx_http_offload_queue_check(ngx_conf_t *cf, ngx_http_offload_queue_t *queue)
{
    time_t                     ttl;
    const char                *wrong;
    ngx_http_offload_retry_t  *retry;

    retry = queue->retry;
    ttl = queue->ttl ? queue->ttl : queue->zone->ttl;

    if (queue->deadline) {

        if (queue->deadline < queue->timeout) {
            return ngx_http_offload_queue_wrong(cf, queue,
                       "\"deadline\" of %T s is shorter than \"timeout\" of "
                       "%T s: no attempt could take its time",
                       queue->deadline, queue->timeout);
        }

        if (retry && retry->max > 1
            && (ngx_msec_t) queue->deadline * 1000 <= retry->backoff)
        {
            return ngx_http_offload_queue_wrong(cf, queue,
                       "\"deadline\" of %T s is not longer than the \"retry\" "
                       "backoff of %M ms: there would be no second attempt",
                       queue->deadline, retry->backoff);
        }

        if (queue->delay && queue->deadline <= queue->delay_max) {
            return ngx_http_offload_queue_wrong(cf, queue,
                       "\"deadline\" of %T s is not longer than the \"delay\" "
                       "max of %T s: jobs would expire before they may start",
                       queue->deadline, queue->delay_max);
        }
    }

    if (queue->dead_ttl && queue->dead_ttl < ttl) {
        return ngx_http_offload_queue_wrong(cf, queue,
                   "\"dead_ttl\" of %T s is shorter than \"ttl\" of %T s: a "
                   "dead letter would not be kept as long as other jobs",
                   queue->dead_ttl, ttl);
    }

    if (queue->zone->concurrency
        && queue->concurrency > queue->zone->concurrency)
    {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "queue \"%V\" in %s:%ui: \"concurrency\" of %ui is more "
                      "than the zone's, %ui, which is the bound",
                      &queue->name, queue->conf_file, queue->line,
                      queue->concurrency, queue->zone->concurrency);
    }

    wrong = ngx_http_offload_queue_limits(queue);

    if (wrong == NULL) {
        wrong = ngx_http_offload_exec_wrong(queue);
    }

    if (wrong == NULL) {
        wrong = ngx_http_offload_batch_wrong(queue);
    }

    return wrong ? ngx_http_offload_queue_wrong(cf, queue, "%s", wrong)
                 : NGX_OK;
}


static const char *
ngx_http_offload_queue_limits(ngx_http_offload_queue_t *queue)
{
    ngx_uint_t  limited;

    limited = queue->limit_queued || queue->limit_per_key;

    if (queue->limit_per_key && queue->limit_key == NULL) {
        return "\"limit\" has \"per_key\" and no \"key\": it needs both";
    }

    if (queue->limit_key && queue->limit_per_key == 0) {
        return "\"limit\" has \"key\" and no \"per_key\": it needs both";
    }

    if (queue->limit_queued && queue->limit_per_key > queue->limit_queued) {
        return "\"per_key\" of \"limit\" is more than \"queued\": no key "
               "could get there";
    }

    if (queue->limit_status && !limited) {
        return "\"limit\" has \"status\" alone: it needs \"queued\", or "
               "\"key\" and \"per_key\"";
    }

    if (queue->limit_status && queue->on_full == NGX_HTTP_OFFLOAD_BYPASS) {
        return "\"on_full bypass\" refuses nothing: \"status\" of \"limit\" "
               "has no effect";
    }

    if (queue->on_full == NGX_HTTP_OFFLOAD_BYPASS && !limited) {
        return "\"on_full\" needs a \"limit\"";
    }

    return NULL;
}


/*
 * All is merged.  What the location does not say the queue does; a deadline
 * without any timeout is one.  offload_result_ttl gets its default from
 * queue->ttl here, too.
 */

ngx_int_t
ngx_http_offload_queue_location(ngx_conf_t *cf,
    ngx_http_offload_location_t *location)
{
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_offload_queue_t     *queue;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = location->olcf;
    queue = olcf->queue;

    if (olcf->timeout == NGX_CONF_UNSET) {
        olcf->timeout = queue->timeout;
    }

    if (olcf->timeout == 0) {
        olcf->timeout = NGX_HTTP_OFFLOAD_TIMEOUT_DEFAULT;

        if (queue->deadline) {
            olcf->timeout = ngx_min(olcf->timeout, queue->deadline);
        }
    }

    if (olcf->result_ttl == 0) {
        olcf->result_ttl = queue->ttl;
    }

    clcf = location->loc_conf[ngx_http_core_module.ctx_index];

    if (queue->dead_ttl && queue->dead_ttl < olcf->result_ttl) {
        return ngx_http_offload_queue_wrong(cf, queue,
                   "\"dead_ttl\" of %T s is shorter than "
                   "\"offload_result_ttl\" of %T s in location \"%V\" of the "
                   "server in %s:%ui: a dead letter would not be kept as long "
                   "as other jobs", queue->dead_ttl, olcf->result_ttl,
                   &clcf->name, location->cscf->file_name,
                   location->cscf->line);
    }

    if (queue->deadline == 0 || queue->deadline >= olcf->timeout) {
        return NGX_OK;
    }

    return ngx_http_offload_queue_wrong(cf, queue,
               "\"deadline\" of %T s is shorter than \"offload_timeout\" of "
               "%T s in location \"%V\" of the server in %s:%ui: no attempt "
               "could take its time", queue->deadline, olcf->timeout,
               &clcf->name, location->cscf->file_name, location->cscf->line);
}


/* Has one of the zone's queues a block? */

ngx_uint_t
ngx_http_offload_queues_said(ngx_http_offload_main_conf_t *omcf,
    ngx_http_offload_zone_t *zone)
{
    ngx_uint_t                  i;
    ngx_http_offload_queue_t  **queue;

    queue = omcf->queues.elts;

    for (i = 0; i < omcf->queues.nelts; i++) {
        if (queue[i]->zone == zone && queue[i]->defined) {
            return 1;
        }
    }

    return 0;
}


/* NULL: no memory, or a text is not UTF-8. */

json_t *
ngx_http_offload_queues_json(ngx_http_offload_main_conf_t *omcf,
    ngx_http_offload_zone_t *zone)
{
    json_t                     *list;
    ngx_uint_t                  i;
    ngx_http_offload_queue_t  **queue;

    list = json_array();
    queue = omcf->queues.elts;

    for (i = 0; list && i < omcf->queues.nelts; i++) {

        if (queue[i]->zone == zone
            && json_array_append_new(list,
                                     ngx_http_offload_queue_json(queue[i]))
               != 0)
        {
            json_decref(list);
            return NULL;
        }
    }

    return list;
}


static json_t *
ngx_http_offload_queue_json(ngx_http_offload_queue_t *queue)
{
    time_t   ttl, dead_ttl;
    json_t  *json;

    ttl = queue->ttl ? queue->ttl : queue->zone->ttl;
    dead_ttl = ngx_max(NGX_HTTP_OFFLOAD_DEAD_TTL, ttl);

    json = json_pack("{s:s%, s:I, s:b, s:b, s:I, s:I}",
                     "name", (char *) queue->name.data, queue->name.len,
                     "concurrency", (json_int_t) queue->concurrency,
                     "adaptive", (int) queue->adaptive,
                     "circuit", (int) queue->defined,
                     "deadline_s", (json_int_t) queue->deadline,
                     "dead_ttl_s", (json_int_t) (queue->dead_ttl
                                                 ? queue->dead_ttl
                                                 : dead_ttl));

    if (json && queue->rate
        && json_object_set_new(json, "rate",
                               json_pack("{s:I, s:I, s:I}",
                                         "count", (json_int_t) queue->rate,
                                         "period_ms",
                                         (json_int_t) queue->period,
                                         "burst", (json_int_t) queue->burst))
           != 0)
    {
        json_decref(json);
        return NULL;
    }

    if (json && queue->retry
        && json_object_set_new(json, "retry",
                               ngx_http_offload_retry_json(queue->retry))
           != 0)
    {
        json_decref(json);
        return NULL;
    }

    if (json && queue->batch.size
        && json_object_set_new(json, "batch",
                               ngx_http_offload_batch_json(&queue->batch))
           != 0)
    {
        json_decref(json);
        return NULL;
    }

    if (json && queue->exec
        && json_object_set_new(json, "exec",
                               ngx_http_offload_exec_json(queue->exec))
           != 0)
    {
        json_decref(json);
        return NULL;
    }

    if (json && queue->pass
        && json_object_set_new(json, "pass",
                               ngx_http_offload_pass_json(queue->pass))
           != 0)
    {
        json_decref(json);
        return NULL;
    }

    return json;
}


static json_t *
ngx_http_offload_retry_json(ngx_http_offload_retry_t *retry)
{
    json_t  *json;

    json = json_pack("{s:I, s:I, s:I, s:s, s:o}",
                     "max", (json_int_t) retry->max,
                     "backoff_ms", (json_int_t) retry->backoff,
                     "backoff_max_ms", (json_int_t) retry->backoff_max,
                     "jitter", retry->jitter ? "full" : "none",
                     "on", ngx_http_offload_words_json(retry->on));

    if (json && retry->methods
        && json_object_set_new(json, "methods",
                               ngx_http_offload_words_json(retry->methods))
           != 0)
    {
        json_decref(json);
        return NULL;
    }

    return json;
}


json_t *
ngx_http_offload_words_json(ngx_array_t *words)
{
    json_t      *list;
    u_char     **word;
    ngx_uint_t   i;

    list = json_array();
    word = words->elts;

    for (i = 0; list && i < words->nelts; i++) {
        if (json_array_append_new(list, json_string((char *) word[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }

    return list;
}


/* offload_max_depth */

char *
ngx_http_offload_depth_check(ngx_conf_t *cf, void *post, void *data)
{
    ngx_int_t  *depth = data;

    if (*depth < 1 || *depth > 255) {
        return "must be between 1 and 255";
    }

    return NGX_CONF_OK;
}
