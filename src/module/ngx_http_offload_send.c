
/*
 * Sending answers made in memory: documents, and problems (RFC 9457).  Runs in
 * worker processes, touches the request alone.
 */


#include "ngx_http_offload_module.h"


static const ngx_http_offload_problem_t  ngx_http_offload_not_allowed = {
    NGX_HTTP_NOT_ALLOWED, 0, "method-not-allowed", "Method not allowed",
    "The Allow header has the methods this URL knows."
};


/*
 * Sends a whole answer from memory and returns what the request is to be
 * finalized with.  The caller has added its headers.
 */

ngx_int_t
ngx_http_offload_send(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_str_t *body)
{
    ngx_int_t                rc;
    ngx_buf_t               *b;
    ngx_chain_t              out;
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);

    if (ctx && ctx->html) {
        ctx->html = 0;
        return ngx_http_offload_send_page(r, status, body);
    }

    r->headers_out.status = status;
    r->headers_out.content_length_n = body->len;
    r->headers_out.content_type.data = (u_char *) type;
    r->headers_out.content_type.len = ngx_strlen(type);
    r->headers_out.content_type_len = strcspn(type, ";");
    r->headers_out.content_type_lowcase = NULL;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = body->data;
    b->last = body->data + body->len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


ngx_int_t
ngx_http_offload_problem_json(ngx_pool_t *pool, ngx_str_t *out,
    const ngx_http_offload_problem_t *problem)
{
    u_char  *p;
    size_t   len;

    static const char  type[] = "{\"type\":\"urn:problem-type:offload:";

    len = sizeof(type) + ngx_strlen(problem->type)
          + ngx_strlen(problem->title) + ngx_strlen(problem->detail)
          + NGX_INT_T_LEN
          + sizeof("\",\"title\":\"\",\"status\":,\"detail\":\"\"}\n");

    p = ngx_pnalloc(pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    out->data = p;

    p = ngx_sprintf(p, "%s%s\",\"title\":\"%s\",\"status\":%ui,"
                       "\"detail\":\"%s\"}\n",
                    type, problem->type, problem->title, problem->status,
                    problem->detail);

    out->len = p - out->data;

    return NGX_OK;
}


ngx_int_t
ngx_http_offload_send_problem(ngx_http_request_t *r,
    const ngx_http_offload_problem_t *problem)
{
    ngx_str_t  body, value;

    if (ngx_http_offload_problem_json(r->pool, &body, problem)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_str_set(&value, "no-store");

    if (ngx_http_offload_add_header(r, "Cache-Control",
                                    sizeof("Cache-Control") - 1, &value)
        == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_str_set(&value, "offload");

    if (ngx_http_offload_add_header(r, "Offload-Source",
                                    sizeof("Offload-Source") - 1, &value)
        == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (problem->retry_after
        && ngx_http_offload_retry_after(r, problem->retry_after) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_send(r, problem->status,
                                 "application/problem+json", &body);
}


static ngx_int_t
ngx_http_offload_allow(ngx_http_request_t *r, const char *allow)
{
    ngx_str_t  value;

    value.data = (u_char *) allow;
    value.len = ngx_strlen(allow);

    return ngx_http_offload_add_header(r, "Allow", sizeof("Allow") - 1, &value)
           == NULL ? NGX_ERROR : NGX_OK;
}


/* RFC 9110, 15.5.6 */

ngx_int_t
ngx_http_offload_send_not_allowed(ngx_http_request_t *r, const char *allow)
{
    if (ngx_http_offload_allow(r, allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_send_problem(r, &ngx_http_offload_not_allowed);
}


/* RFC 9110, 9.3.7 */

ngx_int_t
ngx_http_offload_send_options(ngx_http_request_t *r, const char *allow)
{
    if (ngx_http_offload_allow(r, allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = NGX_HTTP_NO_CONTENT;

    return ngx_http_send_header(r);
}


ngx_table_elt_t *
ngx_http_offload_add_header(ngx_http_request_t *r, const char *name,
    size_t len, ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NULL;
    }

    h->hash = 1;
    h->key.len = len;
    h->key.data = (u_char *) name;
    h->value = *value;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif

    return h;
}


/* All of that name, in any case. */

void
ngx_http_offload_drop_header(ngx_http_request_t *r, const char *name,
    size_t len)
{
    ngx_table_elt_t         *h;
    ngx_http_offload_walk_t  walk;

    ngx_http_offload_walk_init(&walk, &r->headers_out.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (h->key.len == len
            && ngx_strncasecmp(h->key.data, (u_char *) name, len) == 0)
        {
            h->hash = 0;
        }
    }
}


/* RFC 9110, 10.2.3; whole seconds, which every client understands. */

ngx_int_t
ngx_http_offload_retry_after(ngx_http_request_t *r, ngx_uint_t seconds)
{
    ngx_str_t  value;

    value.data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    value.len = ngx_sprintf(value.data, "%ui", seconds) - value.data;

    return ngx_http_offload_add_header(r, "Retry-After",
                                       sizeof("Retry-After") - 1, &value)
           ? NGX_OK : NGX_ERROR;
}
