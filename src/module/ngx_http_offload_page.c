
/*
 * A job's document, or a problem, as a page for people: page.html with the
 * fields of the JSON in it, which its script then keeps up to date by events.
 * Runs in worker processes, touches the request alone.
 *
 *     {{name}}     the field, escaped; nothing if there is none
 *     {{name?}}    the attribute that hides an element without that field
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>

#include "ngx_http_offload_page_html.h"     /* made by tools/page */


#define NGX_HTTP_OFFLOAD_PAGE_NAME      64
#define NGX_HTTP_OFFLOAD_PAGE_REFRESH   "5"     /* s, without scripts */


typedef struct {
    const char   *name;
    const char   *value;
} ngx_http_offload_page_header_t;


static ngx_int_t ngx_http_offload_page_headers(ngx_http_request_t *r);
static size_t ngx_http_offload_page_fill(u_char *p, json_t *json);
static size_t ngx_http_offload_page_field(u_char *p, json_t *json,
    const u_char *name, size_t len);


/* Nothing but what is in the page, and what it asks of its own origin. */

static const ngx_http_offload_page_header_t
    ngx_http_offload_page_header[] =
{
    { "Content-Security-Policy",
      "default-src 'none'; script-src " NGX_HTTP_OFFLOAD_PAGE_SCRIPT "; "
      "style-src " NGX_HTTP_OFFLOAD_PAGE_STYLE "; img-src data:; "
      "connect-src 'self'; base-uri 'none'; form-action 'none'; "
      "frame-ancestors 'none'" },
    { "Referrer-Policy", "no-referrer" },
    { "X-Content-Type-Options", "nosniff" },
};


ngx_int_t
ngx_http_offload_send_page(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *text)
{
    json_t     *json;
    ngx_str_t   body;

    if (ngx_http_offload_page_headers(r) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    json = json_loadb((char *) text->data, text->len, 0, NULL);
    if (json == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (status == NGX_HTTP_ACCEPTED) {
        (void) json_object_set_new(json, "refresh",
                                   json_string(NGX_HTTP_OFFLOAD_PAGE_REFRESH));
    }

    body.len = ngx_http_offload_page_fill(NULL, json);
    body.data = ngx_pnalloc(r->pool, body.len);

    if (body.data) {
        (void) ngx_http_offload_page_fill(body.data, json);
    }

    json_decref(json);

    return body.data ? ngx_http_offload_send(r, status,
                                             "text/html; charset=utf-8", &body)
                     : NGX_HTTP_INTERNAL_SERVER_ERROR;
}


static ngx_int_t
ngx_http_offload_page_headers(ngx_http_request_t *r)
{
    ngx_str_t    value;
    ngx_uint_t   i;
    const char  *name;

    for (i = 0; i < sizeof(ngx_http_offload_page_header)
                    / sizeof(ngx_http_offload_page_header_t); i++)
    {
        name = ngx_http_offload_page_header[i].name;
        value.data = (u_char *) ngx_http_offload_page_header[i].value;
        value.len = ngx_strlen(value.data);

        if (ngx_http_offload_add_header(r, name, ngx_strlen(name), &value)
            == NULL)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* The page's length; its text too unless p is NULL. */

static size_t
ngx_http_offload_page_fill(u_char *p, json_t *json)
{
    size_t         len, n;
    const u_char  *from, *field, *end;

    from = ngx_http_offload_page_html;
    len = 0;

    for ( ;; ) {
        field = (u_char *) ngx_strstr(from, "{{");
        end = field ? (u_char *) ngx_strstr(field, "}}") : NULL;

        n = end ? (size_t) (field - from) : ngx_strlen(from);

        if (p) {
            ngx_memcpy(p + len, from, n);
        }

        len += n;

        if (end == NULL) {
            return len;
        }

        len += ngx_http_offload_page_field(p ? p + len : NULL, json,
                                           field + 2, end - field - 2);
        from = end + 2;
    }
}


static size_t
ngx_http_offload_page_field(u_char *p, json_t *json, const u_char *name,
    size_t len)
{
    u_char      *dot, *text;
    u_char       number[NGX_INT64_LEN], path[NGX_HTTP_OFFLOAD_PAGE_NAME];
    size_t       n;
    ngx_uint_t   hide;

    hide = len && name[len - 1] == '?';

    ngx_cpystrn(path, (u_char *) name,
                ngx_min(len - hide + 1, sizeof(path)));

    for (name = path; json; name = dot + 1) {

        dot = (u_char *) ngx_strchr(name, '.');

        if (dot) {
            *dot = '\0';
        }

        json = json_object_get(json, (char *) name);

        if (dot == NULL) {
            break;
        }
    }

    if (hide) {
        n = json ? 0 : sizeof(" hidden") - 1;

        if (p) {
            ngx_memcpy(p, " hidden", n);
        }

        return n;
    }

    if (json_is_integer(json)) {
        text = number;
        n = ngx_sprintf(number, "%L", (int64_t) json_integer_value(json))
            - number;

    } else {
        text = (u_char *) json_string_value(json);      /* NULL: none */
        n = json_string_length(json);
    }

    if (p && n) {
        (void) ngx_escape_html(p, text, n);
    }

    return n ? n + ngx_escape_html(NULL, text, n) : 0;
}
