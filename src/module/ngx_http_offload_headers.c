
/*
 * Request headers that are lists (RFC 9110, 5.6.1), and what a client accepts
 * by one of them.  Runs in worker processes, touches the request alone.
 */


#include "ngx_http_offload_module.h"


/* What is offered, by preference: of two that are as welcome the first. */

static ngx_str_t  ngx_http_offload_formats[] = {
    ngx_string("application/json"),         /* NGX_HTTP_OFFLOAD_JSON */
    ngx_string("text/event-stream"),        /* NGX_HTTP_OFFLOAD_EVENTS */
    ngx_string("text/html"),                /* NGX_HTTP_OFFLOAD_HTML */
};

#define NGX_HTTP_OFFLOAD_FORMATS                                              \
    (sizeof(ngx_http_offload_formats) / sizeof(ngx_str_t))


typedef struct {
    ngx_uint_t   rank[NGX_HTTP_OFFLOAD_FORMATS];
    ngx_uint_t   quality[NGX_HTTP_OFFLOAD_FORMATS];
} ngx_http_offload_accept_t;


static void ngx_http_offload_elements(ngx_str_t *value,
    ngx_http_offload_element_pt handler, void *data);
static void ngx_http_offload_media_range(void *data, u_char *p, u_char *last);
static ngx_int_t ngx_http_offload_quality(u_char *p, u_char *last);
static ngx_uint_t ngx_http_offload_rank(ngx_str_t *type, u_char *p,
    size_t len);


/* One header after another, of a request or of an answer. */

void
ngx_http_offload_walk_init(ngx_http_offload_walk_t *walk, ngx_list_t *list)
{
    walk->part = &list->part;
    walk->i = 0;
}


ngx_table_elt_t *
ngx_http_offload_walk_next(ngx_http_offload_walk_t *walk)
{
    ngx_table_elt_t  *h;

    while (walk->part && walk->i >= walk->part->nelts) {
        walk->part = walk->part->next;
        walk->i = 0;
    }

    if (walk->part == NULL) {
        return NULL;
    }

    h = walk->part->elts;

    return &h[walk->i++];
}


/* The first of that name, or NULL. */

ngx_table_elt_t *
ngx_http_offload_request_header(ngx_http_request_t *r, const char *lowcase)
{
    size_t                   len;
    ngx_table_elt_t         *h;
    ngx_http_offload_walk_t  walk;

    len = ngx_strlen(lowcase);
    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (h->key.len == len && ngx_memcmp(h->lowcase_key, lowcase, len) == 0)
        {
            return h;
        }
    }

    return NULL;
}


/* Calls the handler for each element of all header lines of that name. */

void
ngx_http_offload_header_list(ngx_http_request_t *r, const char *lowcase,
    ngx_http_offload_element_pt handler, void *data)
{
    size_t                   len;
    ngx_table_elt_t         *h;
    ngx_http_offload_walk_t  walk;

    len = ngx_strlen(lowcase);
    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (h->key.len == len
            && ngx_memcmp(h->lowcase_key, lowcase, len) == 0)
        {
            ngx_http_offload_elements(&h->value, handler, data);
        }
    }
}


/* Commas part elements, but not those inside of quotes. */

static void
ngx_http_offload_elements(ngx_str_t *value,
    ngx_http_offload_element_pt handler, void *data)
{
    u_char      *p, *start, *end, *last;
    ngx_uint_t   quoted;

    start = value->data;
    last = value->data + value->len;
    quoted = 0;

    for (p = start; p <= last; p++) {

        if (p < last && *p == '\\' && quoted && p + 1 < last) {
            p++;
            continue;
        }

        if (p < last && *p == '"') {
            quoted = !quoted;
        }

        if (p < last && (*p != ',' || quoted)) {
            continue;
        }

        end = p;

        while (start < end && (*start == ' ' || *start == '\t')) {
            start++;
        }

        while (end > start && (end[-1] == ' ' || end[-1] == '\t')) {
            end--;
        }

        if (end > start) {
            handler(data, start, end);
        }

        start = p + 1;
    }
}


/*
 * RFC 9110, 12.5.1: the format the client likes best.  One who wants nothing
 * of what there is gets JSON, as the RFC allows it.
 */

ngx_uint_t
ngx_http_offload_negotiate(ngx_http_request_t *r)
{
    ngx_uint_t                 i, best;
    ngx_http_offload_accept_t  accept;

    ngx_memzero(&accept, sizeof(ngx_http_offload_accept_t));

    ngx_http_offload_header_list(r, "accept", ngx_http_offload_media_range,
                                 &accept);

    best = NGX_HTTP_OFFLOAD_JSON;

    for (i = best + 1; i < NGX_HTTP_OFFLOAD_FORMATS; i++) {
        if (accept.quality[i] > accept.quality[best]) {
            best = i;
        }
    }

    return best;
}


/* For each format the most precise range counts: its quality. */

static void
ngx_http_offload_media_range(void *data, u_char *p, u_char *last)
{
    ngx_http_offload_accept_t  *accept = data;

    u_char      *end;
    size_t       len;
    ngx_int_t    quality;
    ngx_uint_t   i, rank;

    end = ngx_strlchr(p, last, ';');

    if (end == NULL) {
        end = last;
    }

    quality = ngx_http_offload_quality(end, last);

    while (end > p && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }

    len = end - p;

    for (i = 0; i < NGX_HTTP_OFFLOAD_FORMATS; i++) {
        rank = ngx_http_offload_rank(&ngx_http_offload_formats[i], p, len);

        if (rank > accept->rank[i]
            || (rank && rank == accept->rank[i]
                && quality > (ngx_int_t) accept->quality[i]))
        {
            accept->rank[i] = rank;
            accept->quality[i] = quality;
        }
    }
}


/* 3: the type itself, 2: "type/" and a star, 1: anything, 0: another. */

static ngx_uint_t
ngx_http_offload_rank(ngx_str_t *type, u_char *p, size_t len)
{
    size_t  major;

    if (len == type->len && ngx_strncasecmp(p, type->data, len) == 0) {
        return 3;
    }

    major = ngx_strlchr(type->data, type->data + type->len, '/') + 1
            - type->data;

    if (len == major + 1 && p[major] == '*'
        && ngx_strncasecmp(p, type->data, major) == 0)
    {
        return 2;
    }

    return len == 3 && ngx_memcmp(p, "*/*", 3) == 0;
}


/* RFC 9110, 12.4.2: ";q=0.5" in thousandths; other parameters mean nothing. */

static ngx_int_t
ngx_http_offload_quality(u_char *p, u_char *last)
{
    ngx_int_t  quality, scale;

    for ( ;; ) {

        while (p < last && (*p == ';' || *p == ' ' || *p == '\t')) {
            p++;
        }

        if (p == last) {
            return 1000;
        }

        if (last - p > 2 && (*p == 'q' || *p == 'Q') && p[1] == '=') {
            break;
        }

        p = ngx_strlchr(p, last, ';');

        if (p == NULL) {
            return 1000;
        }
    }

    p += 2;

    if (*p == '1') {
        return 1000;
    }

    quality = 0;

    if (*p == '0' && ++p < last && *p == '.') {
        p++;

        for (scale = 100; scale && p < last && *p >= '0' && *p <= '9'; p++) {
            quality += (*p - '0') * scale;
            scale /= 10;
        }
    }

    return quality;
}
