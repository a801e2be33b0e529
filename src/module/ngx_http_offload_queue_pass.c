
/*
 * The pass directive of an offload_queue block: a URL that jobs are sent to
 * without nginx in between.  Runs while nginx reads its configuration, looks
 * at the certificate's file, touches only memory.
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>


#define NGX_HTTP_OFFLOAD_URL_MAX  2047


struct ngx_http_offload_pass_s {
    ngx_str_t  url;
    ngx_str_t  ca;
};


/* No query, which is the request's; no credentials, which end up in logs. */

static ngx_uint_t
ngx_http_offload_pass_url(ngx_conf_t *cf, ngx_str_t *value)
{
    size_t      len;
    ngx_uint_t  i;
    ngx_url_t   u;

    len = ngx_strncmp(value->data, "http://", 7) == 0 ? 7
          : ngx_strncmp(value->data, "https://", 8) == 0 ? 8 : 0;

    if (len == 0 || value->len > NGX_HTTP_OFFLOAD_URL_MAX) {
        return 0;
    }

    for (i = 0; i < value->len; i++) {
        if (value->data[i] <= ' ' || value->data[i] >= 0x7f
            || ngx_strchr("?#@\"<>\\^`{|}$", value->data[i]) != NULL)
        {
            return 0;
        }
    }

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url.data = value->data + len;
    u.url.len = value->len - len;
    u.default_port = len == 7 ? 80 : 443;
    u.uri_part = 1;
    u.no_resolve = 1;

    return ngx_parse_url(cf->pool, &u) == NGX_OK && u.host.len
           && u.family != AF_UNIX && u.uri.len && u.uri.data[0] == '/';
}


char *
ngx_http_offload_queue_pass(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    ngx_str_t                 ca;
    ngx_file_info_t           fi;
    ngx_http_offload_pass_t  *pass;

    pass = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_pass_t));
    if (pass == NULL) {
        return NGX_CONF_ERROR;
    }

    queue->pass = pass;
    pass->url = value[1];

    if (!ngx_http_offload_pass_url(cf, &value[1])) {
        return "it must be like \"https://host:8443/path\", without a query";
    }

    if (n == 2) {
        return NGX_CONF_OK;
    }

    *bad = 2;

    if (!ngx_http_offload_queue_param(&value[2], "ca=", &ca)
        || ca.data[0] != '/' || ca.len >= NGX_MAX_PATH)
    {
        return "it must be \"ca=\" and the absolute path of a file";
    }

    if (ngx_file_info(ca.data, &fi) == NGX_FILE_ERROR || !ngx_is_file(&fi)) {
        return "there is no such file";
    }

    pass->ca = ca;

    return NGX_CONF_OK;
}


/* NULL: no memory */

json_t *
ngx_http_offload_pass_json(ngx_http_offload_pass_t *pass)
{
    return pass->ca.len
           ? json_pack("{s:s, s:s}", "url", (char *) pass->url.data,
                       "ca", (char *) pass->ca.data)
           : json_pack("{s:s}", "url", (char *) pass->url.data);
}
