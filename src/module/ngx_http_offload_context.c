
/*
 * What a replay must know of the connection it stands for, as one word list
 * that travels with the job and that nobody but this file reads (and, all but
 * what was kept and the base, offloadd_cgi.c):
 *
 *     <remote> <local> <h|s> <keep> <base> [<target>]
 *
 * the addresses as in ngx_http_offload_sockaddr(), whether it was HTTPS, the
 * kept variables as base64url of "name\0value\0...", or "-", and what the
 * URLs of the job begin with, which no replay can find out.  For a command,
 * which has no location to find by the URI, what nginx has made of it: the
 * part that chose the location, the rest, the arguments, each escaped, with
 * ":" in between.  A replay passes that over: its queue may have been one of
 * commands when the job was accepted.  Runs in worker processes, on the
 * request's memory.
 */


#include "ngx_http_offload_module.h"


static size_t ngx_http_offload_keep_len(ngx_http_request_t *r,
    ngx_array_t *keep);
static void ngx_http_offload_keep_copy(ngx_http_request_t *r,
    ngx_array_t *keep, u_char *p);
static size_t ngx_http_offload_script(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_target(ngx_http_request_t *r,
    ngx_str_t *target);
static u_char *ngx_http_offload_sockaddr(u_char *p, struct sockaddr *sa);
static struct sockaddr *ngx_http_offload_replay_sockaddr(ngx_pool_t *pool,
    u_char *p, size_t len, socklen_t *socklen);


/* At acceptance: the words for this request. */

ngx_int_t
ngx_http_offload_context(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *context)
{
    u_char            *p;
    size_t             keep;
    ngx_str_t          src, dst, target, *base;
    ngx_connection_t  *c;

    c = r->connection;

    if (ngx_connection_local_sockaddr(c, NULL, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    base = ngx_http_offload_base_of(r);
    if (base == NULL) {
        return NGX_ERROR;
    }

    ngx_str_null(&target);

    if (olcf->queue->exec && ngx_http_offload_target(r, &target) != NGX_OK) {
        return NGX_ERROR;
    }

    keep = olcf->keep ? ngx_http_offload_keep_len(r, olcf->keep) : 0;

    p = ngx_pnalloc(r->pool, 2 * (1 + 32 + 4) + sizeof("  h -  ")
                             + ngx_base64_encoded_length(keep) + base->len
                             + target.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    context->data = p;

    p = ngx_http_offload_sockaddr(p, c->sockaddr);
    *p++ = ' ';
    p = ngx_http_offload_sockaddr(p, c->local_sockaddr);
    *p++ = ' ';
#if (NGX_HTTP_SSL)
    *p++ = c->ssl ? 's' : 'h';
#else
    *p++ = 'h';
#endif
    *p++ = ' ';

    if (keep == 0) {
        *p++ = '-';

    } else {
        src.len = keep;
        src.data = ngx_pnalloc(r->pool, keep);
        if (src.data == NULL) {
            return NGX_ERROR;
        }

        ngx_http_offload_keep_copy(r, olcf->keep, src.data);

        dst.data = p;
        ngx_encode_base64url(&dst, &src);
        p += dst.len;
    }

    *p++ = ' ';
    p = ngx_cpymem(p, base->data, base->len);

    if (target.len) {
        *p++ = ' ';
        p = ngx_cpymem(p, target.data, target.len);
    }

    context->len = p - context->data;

    return NGX_OK;
}


/*
 * How much of the URI is the script's name: the location's, without a slash
 * at its end.  Nothing, if the location is one of a regular expression, or is
 * no whole part of the path, or a rewrite has left the URI without it.
 */

static size_t
ngx_http_offload_script(ngx_http_request_t *r)
{
    size_t                     len;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);
    len = clcf->name.len;

#if (NGX_PCRE)
    if (clcf->regex) {
        return 0;
    }
#endif

    if (len && clcf->name.data[len - 1] == '/') {
        len--;
    }

    return len && len <= r->uri.len
           && ngx_memcmp(clcf->name.data, r->uri.data, len) == 0
           && (len == r->uri.len || r->uri.data[len] == '/') ? len : 0;
}


static ngx_int_t
ngx_http_offload_target(ngx_http_request_t *r, ngx_str_t *target)
{
    u_char      *p;
    size_t       len;
    ngx_str_t    part[3];
    ngx_uint_t   i;

    part[0].data = r->uri.data;
    part[0].len = ngx_http_offload_script(r);
    part[1].data = r->uri.data + part[0].len;
    part[1].len = r->uri.len - part[0].len;
    part[2] = r->args;

    for (i = 0, len = 2; i < 3; i++) {
        len += part[i].len
               + 2 * ngx_escape_uri(NULL, part[i].data, part[i].len,
                                    NGX_ESCAPE_URI_COMPONENT);
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    target->data = p;
    target->len = len;

    for (i = 0; i < 3; i++) {
        if (i) {
            *p++ = ':';
        }

        p = (u_char *) ngx_escape_uri(p, part[i].data, part[i].len,
                                      NGX_ESCAPE_URI_COMPONENT);
    }

    return NGX_OK;
}


static size_t
ngx_http_offload_keep_len(ngx_http_request_t *r, ngx_array_t *keep)
{
    size_t                      len;
    ngx_uint_t                  i;
    ngx_http_offload_keep_t    *k;
    ngx_http_variable_value_t  *v;

    len = 0;
    k = keep->elts;

    for (i = 0; i < keep->nelts; i++) {
        v = ngx_http_get_indexed_variable(r, k[i].index);

        if (v && !v->not_found && ngx_strlchr(v->data, v->data + v->len, '\0')
                                  == NULL)
        {
            len += k[i].name.len + 1 + v->len + 1;
        }
    }

    return len;
}


static void
ngx_http_offload_keep_copy(ngx_http_request_t *r, ngx_array_t *keep,
    u_char *p)
{
    ngx_uint_t                  i;
    ngx_http_offload_keep_t    *k;
    ngx_http_variable_value_t  *v;

    k = keep->elts;

    for (i = 0; i < keep->nelts; i++) {
        v = ngx_http_get_indexed_variable(r, k[i].index);

        if (v && !v->not_found && ngx_strlchr(v->data, v->data + v->len, '\0')
                                  == NULL)
        {
            p = ngx_cpymem(p, k[i].name.data, k[i].name.len);
            *p++ = '\0';
            p = ngx_cpymem(p, v->data, v->len);
            *p++ = '\0';
        }
    }
}


/* "4" + 8 hex digits + 4 of the port; "6" + 32 + 4; "u" for all else. */

static u_char *
ngx_http_offload_sockaddr(u_char *p, struct sockaddr *sa)
{
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    switch (sa->sa_family) {

    case AF_INET:
        sin = (struct sockaddr_in *) sa;
        *p++ = '4';
        p = ngx_hex_dump(p, (u_char *) &sin->sin_addr, 4);
        return ngx_hex_dump(p, (u_char *) &sin->sin_port, 2);

#if (NGX_HAVE_INET6)
    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;
        *p++ = '6';
        p = ngx_hex_dump(p, (u_char *) &sin6->sin6_addr, 16);
        return ngx_hex_dump(p, (u_char *) &sin6->sin6_port, 2);
#endif

    default:
        *p++ = 'u';
        return p;
    }
}


/*
 * On a replay: "<id>" and the words, put to work on the connection until the
 * request ends.  NGX_DECLINED: not of that form.
 */

ngx_int_t
ngx_http_offload_replay_context(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx, ngx_str_t *value)
{
    u_char            *p, *last, *word[5], text[NGX_SOCKADDR_STRLEN];
    size_t             len[5];
    socklen_t          socklen, local_socklen;
    ngx_str_t          addr_text, src;
    ngx_uint_t         i;
    struct sockaddr   *sockaddr, *local;
    ngx_connection_t  *c;

    p = value->data + ZONE_ID_TEXT + 1;
    last = value->data + value->len;

    for (i = 0; i < 5; i++) {
        word[i] = p;

        while (p < last && *p != ' ') {
            p++;
        }

        len[i] = p - word[i];

        if (len[i] == 0 || (p == last && i < 4)) {
            return NGX_DECLINED;
        }

        p++;
    }

    sockaddr = ngx_http_offload_replay_sockaddr(r->pool, word[0], len[0],
                                                &socklen);
    local = ngx_http_offload_replay_sockaddr(r->pool, word[1], len[1],
                                             &local_socklen);

    ctx->base.data = word[4];
    ctx->base.len = len[4];

    if (sockaddr == NULL || local == NULL || len[2] != 1
        || !ngx_http_offload_is_base(&ctx->base)
        || (word[2][0] != 'h' && word[2][0] != 's'))
    {
        return NGX_DECLINED;
    }

    addr_text.len = ngx_sock_ntop(sockaddr, socklen, text,
                                  NGX_SOCKADDR_STRLEN, 0);
    addr_text.data = ngx_pnalloc(r->pool, addr_text.len + 1);
    if (addr_text.data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(addr_text.data, text, addr_text.len);

    if (len[3] != 1 || word[3][0] != '-') {
        src.data = word[3];
        src.len = len[3];

        ctx->keep.data = ngx_pnalloc(r->pool,
                                     ngx_base64_decoded_length(src.len));
        if (ctx->keep.data == NULL) {
            return NGX_ERROR;
        }

        if (ngx_decode_base64url(&ctx->keep, &src) != NGX_OK) {
            return NGX_DECLINED;
        }
    }

    c = r->connection;

    ctx->https = (word[2][0] == 's');
    ctx->connection = c;
    ctx->sockaddr = c->sockaddr;
    ctx->socklen = c->socklen;
    ctx->addr_text = c->addr_text;
    ctx->local_sockaddr = c->local_sockaddr;
    ctx->local_socklen = c->local_socklen;

    c->sockaddr = sockaddr;
    c->socklen = socklen;
    c->addr_text = addr_text;
    c->local_sockaddr = local;
    c->local_socklen = local_socklen;

    return NGX_OK;
}


static struct sockaddr *
ngx_http_offload_replay_sockaddr(ngx_pool_t *pool, u_char *p, size_t len,
    socklen_t *socklen)
{
    u_char                bytes[18];
    ngx_int_t             n;
    ngx_uint_t            i, want;
    struct sockaddr      *sa;
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    want = (p[0] == '4') ? 6 : (p[0] == '6') ? 18 : 0;

    if (len != 1 + 2 * want || (want == 0 && p[0] != 'u')) {
        return NULL;
    }

    for (i = 0; i < want; i++) {
        n = ngx_hextoi(&p[1 + 2 * i], 2);
        if (n == NGX_ERROR) {
            return NULL;
        }

        bytes[i] = (u_char) n;
    }

    sa = ngx_pcalloc(pool, sizeof(ngx_sockaddr_t));
    if (sa == NULL) {
        return NULL;
    }

    switch (p[0]) {

    case '4':
        sin = (struct sockaddr_in *) sa;
        sin->sin_family = AF_INET;
        ngx_memcpy(&sin->sin_addr, bytes, 4);
        ngx_memcpy(&sin->sin_port, bytes + 4, 2);
        *socklen = sizeof(struct sockaddr_in);
        break;

#if (NGX_HAVE_INET6)
    case '6':
        sin6 = (struct sockaddr_in6 *) sa;
        sin6->sin6_family = AF_INET6;
        ngx_memcpy(&sin6->sin6_addr, bytes, 16);
        ngx_memcpy(&sin6->sin6_port, bytes + 16, 2);
        *socklen = sizeof(struct sockaddr_in6);
        break;
#endif

    default:
        sa->sa_family = AF_UNIX;
        *socklen = sizeof(sa_family_t);
        break;
    }

    return sa;
}


/* Names and values were text when they were kept, and have a NUL each. */

void
ngx_http_offload_replay_restore(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx)
{
    u_char                     *p, *last, *name, *value;
    size_t                      len;
    ngx_uint_t                  i;
    ngx_http_offload_keep_t    *keep;
    ngx_http_variable_value_t  *v;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    keep = olcf->keep->elts;

    p = ctx->keep.data;
    last = p + ctx->keep.len;

    while (p < last) {

        name = p;
        p = ngx_strlchr(p, last, '\0');
        if (p == NULL) {
            return;
        }

        len = p - name;
        value = ++p;

        p = ngx_strlchr(p, last, '\0');
        if (p == NULL) {
            return;
        }

        for (i = 0; i < olcf->keep->nelts; i++) {
            if (keep[i].name.len != len
                || ngx_strncmp(keep[i].name.data, name, len) != 0)
            {
                continue;
            }

            v = &r->variables[keep[i].index];

            v->len = p - value;
            v->valid = 1;
            v->no_cacheable = 0;
            v->not_found = 0;
            v->data = value;
        }

        p++;
    }
}
