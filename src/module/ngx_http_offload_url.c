
/*
 * The URLs of jobs: <scheme>://<authority><path> of offload_base_url, or as
 * the client reached us, and then the status location's path.  What a proxy in
 * front of nginx says of the client counts where the realip module trusts it.
 * Runs in worker processes, touches the request alone.
 *
 * A URL stands in headers and in JSON as it is: nothing goes into it that was
 * not looked at here, wherever it came from.
 */


#include "ngx_http_offload_module.h"


typedef struct {
    ngx_uint_t   https;
    ngx_str_t    host;              /* perhaps with a port */
    ngx_uint_t   port;              /* 0: what the host says */
} ngx_http_offload_origin_t;


static ngx_int_t ngx_http_offload_base(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);
static ngx_uint_t ngx_http_offload_origin(ngx_http_request_t *r,
    ngx_http_offload_origin_t *origin);
static ngx_uint_t ngx_http_offload_trusted(ngx_http_request_t *r);
static void ngx_http_offload_forwarded(ngx_http_request_t *r,
    ngx_http_offload_origin_t *origin);
static void ngx_http_offload_first(void *data, u_char *p, u_char *last);
static u_char *ngx_http_offload_host_end(u_char *p, u_char *last);
static ngx_uint_t ngx_http_offload_is_authority(ngx_str_t *s);


char *
ngx_http_offload_base_url(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    char       *rv;
    ngx_str_t  *value;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    value = cf->args->elts;

    if (value[1].len && ngx_http_script_variables_count(&value[1]) == 0
        && !ngx_http_offload_is_base(&olcf->base_url->value))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid URL \"%V\" in \"offload_base_url\": it "
                           "must be like \"https://api.example.com\", perhaps "
                           "with a port and a path", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* The prefix is the status location's, escaped. */

ngx_int_t
ngx_http_offload_job_url(ngx_http_request_t *r, ngx_pool_t *pool,
    ngx_str_t *prefix, u_char id[ZONE_ID_TEXT], ngx_str_t *url)
{
    u_char     *p;
    ngx_str_t  *base;

    base = ngx_http_offload_base_of(r);

    p = base ? ngx_pnalloc(pool, base->len + prefix->len + ZONE_ID_TEXT)
             : NULL;

    if (p == NULL) {
        return NGX_ERROR;
    }

    url->data = p;

    p = ngx_cpymem(p, base->data, base->len);
    p = ngx_cpymem(p, prefix->data, prefix->len);
    p = ngx_cpymem(p, id, ZONE_ID_TEXT);

    url->len = p - url->data;

    return NGX_OK;
}


/*
 * All that stands before the path.  Decided once for a request, and for a
 * replay at acceptance: its own connection is offloadd's.  NULL: no memory.
 */

ngx_str_t *
ngx_http_offload_base_of(ngx_http_request_t *r)
{
    ngx_str_t                     value;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_loc_conf_t  *olcf;

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_http_offload_add_ctx(r);
        if (ctx == NULL) {
            return NULL;
        }
    }

    if (ctx->base.len) {
        return &ctx->base;
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (olcf->base_url) {

        if (ngx_http_complex_value(r, olcf->base_url, &value) != NGX_OK) {
            return NULL;
        }

        if (ngx_http_offload_is_base(&value)) {
            ctx->base = value;
            return &ctx->base;
        }

        if (value.len) {
            ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                          "\"offload_base_url\" is \"%V\" for this request: "
                          "that is no URL to begin with, and not used",
                          &value);
        }
    }

    return ngx_http_offload_base(r, ctx) == NGX_OK ? &ctx->base : NULL;
}


/* As the client reached us. */

static ngx_int_t
ngx_http_offload_base(ngx_http_request_t *r, ngx_http_offload_ctx_t *ctx)
{
    u_char                     *p;
    ngx_uint_t                  own;
    ngx_http_core_loc_conf_t   *clcf;
    ngx_http_offload_origin_t   origin;

    own = ngx_http_offload_origin(r, &origin);

    if (ngx_http_offload_trusted(r)) {
        ngx_http_offload_forwarded(r, &origin);

    } else if (own) {

        /* as in nginx's redirects */

        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

        if (clcf->port_in_redirect
            && ngx_connection_local_sockaddr(r->connection, NULL, 0)
               == NGX_OK)
        {
            origin.port = ngx_inet_get_port(r->connection->local_sockaddr);
        }
    }

    if (origin.port == (ngx_uint_t) (origin.https ? 443 : 80)) {
        origin.port = 0;
    }

    p = ngx_pnalloc(r->pool, sizeof("https://:65535") + origin.host.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->base.data = p;

    p = ngx_sprintf(p, "http%s://%V", origin.https ? "s" : "", &origin.host);

    if (origin.port) {
        p = ngx_sprintf(p, ":%ui", origin.port);
    }

    ctx->base.len = p - ctx->base.data;

    return NGX_OK;
}


/*
 * Without a word of any proxy.  1: the host is the server's own name, since
 * the client gave none, or none that is good for a URL, or is not to be asked.
 */

static ngx_uint_t
ngx_http_offload_origin(ngx_http_request_t *r,
    ngx_http_offload_origin_t *origin)
{
    ngx_http_core_srv_conf_t  *cscf;
    ngx_http_core_loc_conf_t  *clcf;

    origin->port = 0;
#if (NGX_HTTP_SSL)
    origin->https = r->connection->ssl ? 1 : 0;
#else
    origin->https = 0;
#endif

    cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);
    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (!clcf->server_name_in_redirect
        && ngx_http_offload_authority(r, &origin->host)
        && ngx_http_offload_is_authority(&origin->host))
    {
        return 0;
    }

    origin->host = cscf->server_name;

    if (!ngx_http_offload_is_authority(&origin->host)) {
        ngx_str_set(&origin->host, "localhost");
    }

    return 1;
}


/*
 * The realip module changes the client's address when the peer is one of
 * set_real_ip_from, and never else; before it had another, which it shows.
 */

static ngx_uint_t
ngx_http_offload_trusted(ngx_http_request_t *r)
{
    ngx_str_t                  *addr;
    ngx_http_variable_value_t  *peer;

    static ngx_str_t  name = ngx_string("realip_remote_addr");

    peer = ngx_http_get_variable(r, &name, ngx_hash_key(name.data, name.len));

    if (peer == NULL || peer->not_found || !peer->valid) {
        return 0;                               /* no such module */
    }

    addr = &r->connection->addr_text;

    return peer->len != addr->len
           || ngx_memcmp(peer->data, addr->data, addr->len) != 0;
}


static void
ngx_http_offload_forwarded(ngx_http_request_t *r,
    ngx_http_offload_origin_t *origin)
{
    ngx_int_t                  port;
    ngx_str_t                  value;
    ngx_http_core_loc_conf_t  *clcf;

    ngx_str_null(&value);
    ngx_http_offload_header_list(r, "x-forwarded-proto",
                                 ngx_http_offload_first, &value);

    if (value.len == 5 && ngx_strncasecmp(value.data, (u_char *) "https", 5)
                          == 0)
    {
        origin->https = 1;
    }

    if (value.len == 4 && ngx_strncasecmp(value.data, (u_char *) "http", 4)
                          == 0)
    {
        origin->https = 0;
    }

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    ngx_str_null(&value);
    ngx_http_offload_header_list(r, "x-forwarded-host",
                                 ngx_http_offload_first, &value);

    if (!clcf->server_name_in_redirect
        && ngx_http_offload_is_authority(&value))
    {
        origin->host = value;
    }

    ngx_str_null(&value);
    ngx_http_offload_header_list(r, "x-forwarded-port",
                                 ngx_http_offload_first, &value);

    port = ngx_atoi(value.data, value.len);

    if (port > 0 && port <= 65535
        && ngx_http_offload_host_end(origin->host.data,
                                     origin->host.data + origin->host.len)
           == origin->host.data + origin->host.len)
    {
        origin->port = port;
    }
}


/* Of several proxies the first was the one the client came to. */

static void
ngx_http_offload_first(void *data, u_char *p, u_char *last)
{
    ngx_str_t  *value = data;

    if (value->data == NULL) {
        value->data = p;
        value->len = last - p;
    }
}


/*
 * May all URLs begin with it?  "http" or "https", an authority without a
 * user, and perhaps a path, whose last slashes go: RFC 3986, 3.
 */

ngx_uint_t
ngx_http_offload_is_base(ngx_str_t *url)
{
    u_char     *p, *last;
    size_t      scheme;
    ngx_str_t   authority;

    while (url->len && url->data[url->len - 1] == '/') {
        url->len--;
    }

    if (url->len > 7
        && ngx_strncasecmp(url->data, (u_char *) "http://", 7) == 0)
    {
        scheme = 7;

    } else if (url->len > 8
               && ngx_strncasecmp(url->data, (u_char *) "https://", 8) == 0)
    {
        scheme = 8;

    } else {
        return 0;
    }

    last = url->data + url->len;

    authority.data = url->data + scheme;
    p = ngx_strlchr(authority.data, last, '/');

    if (p == NULL) {
        p = last;
    }

    authority.len = p - authority.data;

    for ( /* void */ ; p < last; p++) {
        if (*p <= ' ' || *p >= 0x7f || ngx_strchr("\"#<>?\\^`{|}", *p)) {
            return 0;
        }
    }

    return ngx_http_offload_is_authority(&authority);
}


/* Behind the host: its end, or a colon. */

static u_char *
ngx_http_offload_host_end(u_char *p, u_char *last)
{
    if (p < last && *p == '[') {
        while (p < last && *p != ']') {
            p++;
        }
    }

    while (p < last && *p != ':') {
        p++;
    }

    return p;
}


/* host [ ":" port ] */

static ngx_uint_t
ngx_http_offload_is_authority(ngx_str_t *s)
{
    u_char     *p, *end, *last, c;
    ngx_int_t   port;

    last = s->data + s->len;
    end = ngx_http_offload_host_end(s->data, last);

    if (end == s->data) {
        return 0;
    }

    for (p = s->data; p < end; p++) {
        c = ngx_tolower(*p);

        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')
            || c == '-' || c == '.' || c == '_' || c == '~')
        {
            continue;
        }

        if (s->data[0] != '[' || !(c == ':' || (c == '[' && p == s->data)
                                   || (c == ']' && p == end - 1)))
        {
            return 0;
        }
    }

    if (s->data[0] == '[' && end[-1] != ']') {
        return 0;
    }

    if (end == last) {
        return 1;
    }

    port = ngx_atoi(end + 1, last - end - 1);

    return port > 0 && port <= 65535;
}
