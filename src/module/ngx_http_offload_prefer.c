
/*
 * What a client prefers: RFC 7240.  Runs in worker processes, touches the
 * request alone.  Preferences that are not ours, or not well-formed, are
 * ignored, as the RFC wants it; of several of one name the first counts.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_preference(void *data, u_char *p, u_char *last);


void
ngx_http_offload_prefer(ngx_http_request_t *r,
    ngx_http_offload_prefer_t *prefer)
{
    ngx_memzero(prefer, sizeof(ngx_http_offload_prefer_t));

    ngx_http_offload_header_list(r, "prefer", ngx_http_offload_preference,
                                 prefer);
}


/* name [= value] [; parameters] */

static void
ngx_http_offload_preference(void *data, u_char *p, u_char *last)
{
    ngx_http_offload_prefer_t  *prefer = data;

    u_char     *end, *name;
    size_t      len;
    ngx_int_t   n;

    for (end = p; end < last && *end != ';'; end++) { /* void */ }

    while (end > p && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }

    name = p;

    while (p < end && *p != '=' && *p != ' ' && *p != '\t') {
        p++;
    }

    len = p - name;

    if (len == sizeof("respond-async") - 1
        && ngx_strncasecmp(name, (u_char *) "respond-async", len) == 0)
    {
        prefer->respond_async = 1;
        return;
    }

    if (len != 4 || ngx_strncasecmp(name, (u_char *) "wait", 4) != 0
        || prefer->wait_set)
    {
        return;
    }

    while (p < end && (*p == '=' || *p == ' ' || *p == '\t' || *p == '"')) {
        p++;
    }

    while (end > p && end[-1] == '"') {
        end--;
    }

    n = ngx_atoi(p, end - p);

    if (n != NGX_ERROR) {
        prefer->wait_set = 1;
        prefer->wait = ngx_min(n, 24 * 60 * 60);
    }
}


/*
 * RFC 7240, 3: what was honoured, and that the answer depends on it.  wait in
 * seconds, -1: respond-async.
 */

ngx_int_t
ngx_http_offload_preference_applied(ngx_http_request_t *r, ngx_int_t wait)
{
    u_char     *p;
    ngx_str_t   value;

    p = ngx_pnalloc(r->pool, sizeof("wait=") + NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    if (wait < 0) {
        ngx_str_set(&value, "respond-async");

    } else {
        value.data = p;
        value.len = ngx_sprintf(p, "wait=%i", wait) - p;
    }

    if (ngx_http_offload_add_header(r, "Preference-Applied",
                                    sizeof("Preference-Applied") - 1, &value)
        == NULL)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&value, "Prefer");

    return ngx_http_offload_add_header(r, "Vary", sizeof("Vary") - 1, &value)
           == NULL ? NGX_ERROR : NGX_OK;
}
