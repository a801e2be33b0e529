
/*
 * A request as the payload of a job record: see src/zone/zone_request.h for
 * the form.  _prepare() measures everything, _write() copies it straight
 * into the ring; between the two nothing may change.
 *
 * Left out are hop-by-hop headers (RFC 9110, 7.6.1), what offloadd's own
 * framing replaces, and all Offload-* headers: only we say those.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_record_uri(ngx_http_request_t *r,
    ngx_str_t *uri);
static ngx_uint_t ngx_http_offload_header_dropped(ngx_http_request_t *r,
    ngx_table_elt_t *h);
static ngx_uint_t ngx_http_offload_connection_names(ngx_http_request_t *r,
    ngx_table_elt_t *h);
static off_t ngx_http_offload_body_size(ngx_http_request_t *r);


#define ngx_http_offload_name_is(h, text)                                     \
    ((h)->key.len == sizeof(text) - 1                                         \
     && ngx_memcmp((h)->lowcase_key, text, sizeof(text) - 1) == 0)


ngx_int_t
ngx_http_offload_record_prepare(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_record_t *record)
{
    size_t                   headers;
    uint8_t                 *owner;
    ngx_table_elt_t         *h;
    struct zone_request     *fixed;
    ngx_http_offload_ctx_t  *ctx;
    ngx_http_offload_walk_t  walk;

    if (r->method_name.len > ZONE_REQUEST_METHOD_MAX) {
        return NGX_HTTP_NOT_IMPLEMENTED;
    }

    fixed = &record->fixed;

    ngx_memzero(fixed, sizeof(struct zone_request));

    (void) ngx_http_offload_authority(r, &record->host);

    if (ngx_http_offload_record_uri(r, &record->uri) != NGX_OK
        || ngx_http_offload_context(r, olcf, &record->context) != NGX_OK
        || ngx_http_offload_owner_digest(r, &owner) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    headers = sizeof("Host: ") - 1 + record->host.len + 1;

    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (ngx_http_offload_header_dropped(r, h)) {
            continue;
        }

        if (ngx_http_offload_name_is(h, "idempotency-key")) {
            fixed->flags |= ZONE_REQUEST_CLIENT_KEY;
        }

        headers += h->key.len + 2 + h->value.len + 1;
    }

    fixed->layout = ZONE_REQUEST_LAYOUT;
    fixed->timeout_s = (uint32_t) olcf->timeout;
    fixed->body_size = (uint64_t) ngx_http_offload_body_size(r);
    fixed->location = olcf->hash;
    fixed->method_len = (uint16_t) r->method_name.len;
    fixed->entrance_len = NGX_HTTP_OFFLOAD_ENTRANCE_LEN;
    fixed->uri_len = (uint32_t) record->uri.len;
    fixed->queue_len = (uint16_t) olcf->queue->name.len;
    fixed->context_len = (uint32_t) record->context.len;
    fixed->headers_len = (uint32_t) headers;
    ngx_memcpy(fixed->owner, owner, ZONE_DIGEST_SIZE);

    if (r->request_body && r->request_body->temp_file) {
        fixed->flags |= ZONE_REQUEST_BODY_FILE;
    }

    if (olcf->delivery == NGX_HTTP_OFFLOAD_AT_MOST_ONCE) {
        fixed->flags |= ZONE_REQUEST_AT_MOST_ONCE;
    }

    fixed->result_ttl_s = (uint32_t) olcf->result_ttl;
    fixed->result_max = (uint64_t) olcf->max_result;

    if (olcf->truncate) {
        fixed->flags |= ZONE_REQUEST_TRUNCATE;
    }

    if (olcf->queue->batch.size) {
        fixed->flags |= ZONE_REQUEST_BATCH;
    }

    ctx = ngx_http_offload_get_ctx(r);

    fixed->fair = ctx->terms.fair;
    fixed->delay_s = ctx->terms.delay;
    fixed->priority = ctx->terms.priority;
    fixed->depth = ctx->terms.depth;
    fixed->limit_key = ctx->terms.limit_key;
    fixed->deadline_s = (uint32_t) olcf->queue->deadline;
    fixed->limit_queued = (uint32_t) olcf->queue->limit_queued;
    fixed->limit_per_key = (uint32_t) olcf->queue->limit_per_key;

    fixed->hooks_len = (uint32_t) ctx->terms.hooks.len;

    record->hooks = ctx->terms.hooks;
    record->key = ctx->key ? &ctx->key->digest : NULL;

    if (record->key) {
        fixed->flags |= ZONE_REQUEST_KEYED;
    }

    return NGX_OK;
}


void
ngx_http_offload_record_write(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_record_t *record,
    u_char *p)
{
    ngx_chain_t             *cl;
    ngx_table_elt_t         *h;
    ngx_http_offload_walk_t  walk;

    p = ngx_cpymem(p, &record->fixed, sizeof(struct zone_request));

    if (record->key) {
        p = ngx_cpymem(p, record->key, sizeof(struct zone_request_key));
    }

    p = ngx_cpymem(p, r->method_name.data, r->method_name.len);
    p = ngx_cpymem(p, olcf->entrance->name, NGX_HTTP_OFFLOAD_ENTRANCE_LEN);
    p = ngx_cpymem(p, record->uri.data, record->uri.len);
    p = ngx_cpymem(p, olcf->queue->name.data, olcf->queue->name.len);
    p = ngx_cpymem(p, record->context.data, record->context.len);

    p = ngx_cpymem(p, "Host: ", sizeof("Host: ") - 1);
    p = ngx_cpymem(p, record->host.data, record->host.len);
    *p++ = '\0';

    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (ngx_http_offload_header_dropped(r, h)) {
            continue;
        }

        p = ngx_cpymem(p, h->key.data, h->key.len);
        *p++ = ':';
        *p++ = ' ';
        p = ngx_cpymem(p, h->value.data, h->value.len);
        *p++ = '\0';
    }

    if (record->hooks.len) {
        p = ngx_cpymem(p, record->hooks.data, record->hooks.len);
    }

    if (r->request_body == NULL || r->request_body->temp_file) {
        return;
    }

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        if (cl->buf->last > cl->buf->pos) {
            p = ngx_cpymem(p, cl->buf->pos, cl->buf->last - cl->buf->pos);
        }
    }
}


/*
 * Host and port as the client named them; when it named none (HTTP/1.0), the
 * server's name, and 0.  The host of an absolute request target rules over the
 * header (RFC 9112, 3.2.2).
 */

ngx_uint_t
ngx_http_offload_authority(ngx_http_request_t *r, ngx_str_t *host)
{
    u_char                    *p;
    ngx_http_core_srv_conf_t  *cscf;

    if (r->host_start && r->host_end && r->http_version < NGX_HTTP_VERSION_20)
    {
        /* the request line goes on behind it: with a port, a path, a space */

        p = r->host_end;

        if (*p == ':') {
            do {
                p++;
            } while (*p >= '0' && *p <= '9');
        }

        host->data = r->host_start;
        host->len = p - r->host_start;

        return 1;
    }

    if (r->headers_in.host && r->headers_in.host->value.len) {
        *host = r->headers_in.host->value;
        return 1;
    }

    cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);

    *host = cscf->server_name;

    if (host->len == 0) {
        ngx_str_set(host, "localhost");
    }

    return 0;
}


/* "GET http://host?a=1" has a request target without a path. */

static ngx_int_t
ngx_http_offload_record_uri(ngx_http_request_t *r, ngx_str_t *uri)
{
    u_char  *p;

    *uri = r->unparsed_uri;

    if (uri->len && uri->data[0] == '/') {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, uri->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    *p = '/';
    ngx_memcpy(p + 1, uri->data, uri->len);

    uri->data = p;
    uri->len++;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_offload_header_dropped(ngx_http_request_t *r, ngx_table_elt_t *h)
{
    if (h->key.len > 8 && ngx_memcmp(h->lowcase_key, "offload-", 8) == 0) {
        return 1;
    }

    switch (h->lowcase_key[0]) {

    case 'c':
        if (ngx_http_offload_name_is(h, "connection")
            || ngx_http_offload_name_is(h, "content-length"))
        {
            return 1;
        }

        break;

    case 'e':
        if (ngx_http_offload_name_is(h, "expect")) {
            return 1;
        }

        break;

    case 'h':
        if (ngx_http_offload_name_is(h, "host")
            || ngx_http_offload_name_is(h, "http2-settings"))
        {
            return 1;
        }

        break;

    case 'k':
        if (ngx_http_offload_name_is(h, "keep-alive")) {
            return 1;
        }

        break;

    case 'p':
        if (ngx_http_offload_name_is(h, "proxy-connection")) {
            return 1;
        }

        break;

    case 't':
        if (ngx_http_offload_name_is(h, "te")
            || ngx_http_offload_name_is(h, "trailer")
            || ngx_http_offload_name_is(h, "transfer-encoding"))
        {
            return 1;
        }

        break;

    case 'u':
        if (ngx_http_offload_name_is(h, "upgrade")) {
            return 1;
        }

        break;
    }

    if (r->headers_in.connection == NULL) {
        return 0;
    }

    return ngx_http_offload_connection_names(r, h);
}


/* A header that Connection names is for this connection only. */

static ngx_uint_t
ngx_http_offload_connection_names(ngx_http_request_t *r, ngx_table_elt_t *h)
{
    u_char     *p, *last, *token;
    ngx_str_t  *value;

    value = &r->headers_in.connection->value;

    if ((value->len == 10
         && ngx_strncasecmp(value->data, (u_char *) "keep-alive", 10) == 0)
        || (value->len == 5
            && ngx_strncasecmp(value->data, (u_char *) "close", 5) == 0))
    {
        return 0;
    }

    p = value->data;
    last = p + value->len;

    while (p < last) {

        while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
            p++;
        }

        token = p;

        while (p < last && *p != ' ' && *p != '\t' && *p != ',') {
            p++;
        }

        if ((size_t) (p - token) == h->key.len && h->key.len
            && ngx_strncasecmp(token, h->lowcase_key, h->key.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


static off_t
ngx_http_offload_body_size(ngx_http_request_t *r)
{
    off_t         size;
    ngx_chain_t  *cl;

    if (r->request_body == NULL) {
        return 0;
    }

    if (r->request_body->temp_file) {
        return r->request_body->temp_file->file.offset;
    }

    size = 0;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        size += cl->buf->last - cl->buf->pos;
    }

    return size;
}
