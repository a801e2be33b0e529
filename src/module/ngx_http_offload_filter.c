
/*
 * Small corrections of answers on their way out, in worker processes:
 *
 *   413 of an offloaded or status location is a problem document like our other
 *   refusals (nginx itself decides it, before any of our phases), and so is
 *   the 500 of a body that could not be written to its file, as a 507;
 *
 *   Offload-Replay and Offload-Upstream are words between this module and
 *   offloadd: a backend does not get to say them.  On a replay the first
 *   marks where the headers of the answer end, and what add_header and the
 *   like append begins: that belongs to the location a client gets its answer
 *   from.  The second tells that an answer is nginx's own, and whether the
 *   backend can have had the request.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_offload_mark_replay(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_tell_upstream(ngx_http_request_t *r);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


const ngx_http_offload_problem_t  ngx_http_offload_too_large = {
    NGX_HTTP_REQUEST_ENTITY_TOO_LARGE, 0, "body-too-large",
    "Request body too large",
    "The request body is larger than this location allows."
};


static const ngx_http_offload_problem_t  ngx_http_offload_no_body = {
    NGX_HTTP_INSUFFICIENT_STORAGE, 30, "body-not-stored",
    "The request body could not be stored",
    "The disk that large bodies are kept on is full or can not be written."
};


void
ngx_http_offload_filter_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_offload_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_offload_body_filter;
}


static ngx_int_t
ngx_http_offload_header_filter(ngx_http_request_t *r)
{
    ngx_str_t                          value;
    ngx_http_offload_ctx_t            *ctx;
    ngx_http_offload_loc_conf_t       *olcf;
    const ngx_http_offload_problem_t  *problem;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);

    if (r == r->main) {
        ctx = ngx_http_offload_get_ctx(r);

        if (ctx && ctx->replay && ngx_http_offload_mark_replay(r) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (r != r->main || r->internal || (ctx && !ctx->reading)) {
        return ngx_http_next_header_filter(r);
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (olcf->zone == NULL && olcf->status == NULL) {
        return ngx_http_next_header_filter(r);
    }

    switch (r->headers_out.status) {

    case NGX_HTTP_REQUEST_ENTITY_TOO_LARGE:
        problem = &ngx_http_offload_too_large;
        break;

    case NGX_HTTP_INTERNAL_SERVER_ERROR:

        /* only while the body is read is this the location's conf */

        if (r->loc_conf != olcf->accept_conf) {
            return ngx_http_next_header_filter(r);
        }

        problem = &ngx_http_offload_no_body;
        break;

    default:
        return ngx_http_next_header_filter(r);
    }

    if (ctx == NULL) {
        ctx = ngx_http_offload_add_ctx(r);
    }

    if (ctx == NULL
        || ngx_http_offload_problem_json(r->pool, &ctx->problem,
                                         problem)
           != NGX_OK
        || (problem->retry_after
            && ngx_http_offload_retry_after(r, problem->retry_after)
               != NGX_OK))
    {
        return NGX_ERROR;
    }

    r->headers_out.status = problem->status;
    ngx_str_null(&r->headers_out.status_line);

    ngx_str_set(&value, "no-store");

    if (ngx_http_offload_add_header(r, "Cache-Control",
                                    sizeof("Cache-Control") - 1, &value)
        == NULL)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&value, "offload");

    if (ngx_http_offload_add_header(r, "Offload-Source",
                                    sizeof("Offload-Source") - 1, &value)
        == NULL)
    {
        return NGX_ERROR;
    }

    ngx_http_clear_content_length(r);

    ngx_str_set(&r->headers_out.content_type, "application/problem+json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
    r->headers_out.content_length_n = ctx->problem.len;

    return ngx_http_next_header_filter(r);
}


static ngx_int_t
ngx_http_offload_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t               *b;
    ngx_chain_t             *cl, out;
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);

    if (ctx == NULL || ctx->problem.len == 0 || in == NULL) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
        cl->buf->file_pos = cl->buf->file_last;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = ctx->problem.data;
    b->last = ctx->problem.data + ctx->problem.len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    ngx_str_null(&ctx->problem);        /* once */

    out.buf = b;
    out.next = NULL;

    return ngx_http_next_body_filter(r, &out);
}


static ngx_int_t
ngx_http_offload_mark_replay(ngx_http_request_t *r)
{
    ngx_str_t  value;

    if (r->upstream) {
        ngx_http_offload_drop_header(r, "Offload-Replay",
                                     sizeof("Offload-Replay") - 1);
        ngx_http_offload_drop_header(r, "Offload-Upstream",
                                     sizeof("Offload-Upstream") - 1);

        if (ngx_http_offload_tell_upstream(r) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ngx_str_set(&value, "added");

    return ngx_http_offload_add_header(r, "Offload-Replay",
                                       sizeof("Offload-Replay") - 1, &value)
           == NULL ? NGX_ERROR : NGX_OK;
}


/*
 * An error that is not the upstream's own answer: "connect" when no byte of
 * the request went to any of them, "timeout" when the last one was waited for
 * in vain, else "cut".
 */

static ngx_int_t
ngx_http_offload_tell_upstream(ngx_http_request_t *r)
{
    ngx_str_t                   value;
    ngx_uint_t                  i, sent;
    ngx_http_upstream_t        *u;
    ngx_http_upstream_state_t  *state;

    u = r->upstream;

    if (r->headers_out.status < NGX_HTTP_BAD_REQUEST
        || u->headers_in.status_n == r->headers_out.status)
    {
        return NGX_OK;
    }

    /* an error page may have another status than the answer it stands for */

    if (r->headers_out.status < NGX_HTTP_INTERNAL_SERVER_ERROR
        && u->state && u->state->header_time != (ngx_msec_t) -1)
    {
        return NGX_OK;
    }

    ngx_str_set(&value, "connect");

    sent = u->request_sent;

    if (r->upstream_states) {
        state = r->upstream_states->elts;

        for (i = 0; i < r->upstream_states->nelts; i++) {
            sent |= state[i].bytes_sent > 0;

            if (sent && state[i].status == NGX_HTTP_GATEWAY_TIME_OUT) {
                ngx_str_set(&value, "timeout");

            } else if (sent) {
                ngx_str_set(&value, "cut");
            }
        }
    }

    return ngx_http_offload_add_header(r, "Offload-Upstream",
                                       sizeof("Offload-Upstream") - 1, &value)
           ? NGX_OK : NGX_ERROR;
}
