
/*
 * offload_dialect azure: a job's document in the words that pollers of an
 * Operation-Location look for (Microsoft's REST guidelines for long-running
 * operations).  Such a poller goes by `status` alone, not by the code: it is
 * done when that is "Succeeded", "Failed" or "Canceled", and then gets
 * `resourceLocation`.  Runs in worker processes, touches the request alone.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_dialect_asked(void *data, u_char *p,
    u_char *last);


static const char  *ngx_http_offload_azure_states[] = {
    "", "NotStarted", "Running", "Succeeded", "Failed", "Canceled", ""
};


/*
 * Is the document of this answer to be in that dialect?  Not what the page is
 * made of, nor what its script asks for: ";dialect=default".
 */

ngx_uint_t
ngx_http_offload_azure(ngx_http_request_t *r)
{
    ngx_uint_t                    asked;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (olcf->dialect != NGX_HTTP_OFFLOAD_AZURE) {
        return 0;
    }

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx && ctx->html) {
        return 0;
    }

    asked = 0;
    ngx_http_offload_header_list(r, "accept", ngx_http_offload_dialect_asked,
                                 &asked);
    return !asked;
}


static void
ngx_http_offload_dialect_asked(void *data, u_char *p, u_char *last)
{
    ngx_uint_t  *asked = data;

    static u_char  plain[] = "application/json;dialect=default";

    if (last - p == sizeof(plain) - 1
        && ngx_strncasecmp(p, plain, sizeof(plain) - 1) == 0)
    {
        *asked = 1;
    }
}


ngx_int_t
ngx_http_offload_azure_json(ngx_http_request_t *r, ngx_str_t *prefix,
    ngx_http_offload_job_t *job, ngx_str_t *body)
{
    u_char     *p, id[ZONE_ID_TEXT];
    ngx_str_t   url, message;
    ngx_uint_t  progress;

    zone_id_format((char *) id, job->id);

    if (ngx_http_offload_job_url(r, r->pool, prefix, id, &url) != NGX_OK) {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(r->pool, 512 + url.len + 6 * job->message.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    p = ngx_sprintf(p, "{\"id\":\"%*s\",\"status\":\"%s\","
                       "\"createdDateTime\":\"",
                    (size_t) ZONE_ID_TEXT, id,
                    ngx_http_offload_azure_states[job->state]);
    p = ngx_http_offload_time(p, job->created_ms);

    p = ngx_sprintf(p, "\",\"lastActionDateTime\":\"");
    p = ngx_http_offload_time(p, job->finished_ms ? job->finished_ms
                                 : job->started_ms ? job->started_ms
                                                   : job->created_ms);
    *p++ = '"';

    progress = job->state == STORE_COMPLETED ? 101 : job->progress;

    if (progress) {
        p = ngx_sprintf(p, ",\"percentComplete\":%ui", progress - 1);
    }

    if (job->flags & STORE_HAS_RESULT) {
        p = ngx_sprintf(p, ",\"resourceLocation\":\"%V/result\"", &url);
    }

    if (job->error) {
        p = ngx_sprintf(p, ",\"error\":{\"code\":\"%s\"",
                        ngx_http_offload_errors[job->error]);

        message = job->message;

        if (message.len == 0) {
            ngx_str_set(&message, "The job failed.");
        }

        p = ngx_http_offload_string(p, "message", &message);
        *p++ = '}';
    }

    p = ngx_sprintf(p, "}\n");

    body->len = p - body->data;

    return NGX_OK;
}


/* Of a job that was accepted just now, or has begun meanwhile. */

ngx_int_t
ngx_http_offload_azure_accepted(ngx_http_request_t *r, ngx_str_t *prefix,
    u_char id[ZONE_ID_TEXT], ngx_http_offload_job_t *job, ngx_str_t *body)
{
    ngx_http_offload_job_t  shown;

    ngx_memzero(&shown, sizeof(ngx_http_offload_job_t));

    if (zone_id_parse(shown.id, (char *) id, ZONE_ID_TEXT) != 0) {
        return NGX_ERROR;
    }

    shown.state = job->state;
    shown.created_ms = job->created_ms;

    if (job->state == STORE_RUNNING) {
        shown.started_ms = job->started_ms;
    }

    return ngx_http_offload_azure_json(r, prefix, &shown, body);
}
