
/*
 * The retry directive of an offload_queue block.  Runs while nginx reads its
 * configuration and touches only memory.
 */


#include "ngx_http_offload_module.h"


/* As nginx knows them: others reach few backends, and are hard to tell from
   a misspelled one. */

static const char  *ngx_http_offload_methods[] = {
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "MKCOL",
    "COPY", "MOVE", "PROPFIND", "PROPPATCH", "LOCK", "UNLOCK", "TRACE", NULL
};


/* "429,502": each word of the list, its own NUL behind it */

static ngx_int_t
ngx_http_offload_queue_list(ngx_conf_t *cf, ngx_str_t *list,
    ngx_array_t *words)
{
    u_char  *p, *last, *end, *word, **slot;

    p = list->data;
    last = p + list->len;

    do {
        for (end = p; end < last && *end != ','; end++) { /* void */ }

        word = ngx_pnalloc(cf->pool, end - p + 1);
        slot = ngx_array_push(words);

        if (word == NULL || slot == NULL) {
            return NGX_ERROR;
        }

        *ngx_cpymem(word, p, end - p) = '\0';
        *slot = word;

        p = end + 1;

    } while (end < last);

    return NGX_OK;
}


/* connect, timeout or an error's status; each one once */

static ngx_uint_t
ngx_http_offload_queue_on(ngx_array_t *words)
{
    u_char      **word;
    ngx_int_t     status;
    ngx_uint_t    i, k;

    word = words->elts;

    for (i = 0; i < words->nelts; i++) {

        status = ngx_atoi(word[i], ngx_strlen(word[i]));

        if (ngx_strcmp(word[i], "connect") != 0
            && ngx_strcmp(word[i], "timeout") != 0
            && (ngx_strlen(word[i]) != 3 || status < 400 || status > 599))
        {
            return 0;
        }

        for (k = 0; k < i; k++) {
            if (ngx_strcmp(word[i], word[k]) == 0) {
                return 0;
            }
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_offload_queue_methods(ngx_array_t *words)
{
    u_char      **word;
    ngx_uint_t    i, k;

    word = words->elts;

    for (i = 0; i < words->nelts; i++) {

        for (k = 0; ngx_http_offload_methods[k]; k++) {
            if (ngx_strcmp(word[i], ngx_http_offload_methods[k]) == 0) {
                break;
            }
        }

        if (ngx_http_offload_methods[k] == NULL) {
            return 0;
        }

        for (k = 0; k < i; k++) {
            if (ngx_strcmp(word[i], word[k]) == 0) {
                return 0;
            }
        }
    }

    return 1;
}


/* 1s..5m: the first and the longest wait */

static ngx_int_t
ngx_http_offload_queue_backoff(ngx_str_t *v, ngx_http_offload_retry_t *retry)
{
    u_char     *p;
    ngx_int_t   least, most;
    ngx_str_t   s;

    p = (u_char *) ngx_strnstr(v->data, "..", v->len);

    s.data = v->data;
    s.len = p ? (size_t) (p - v->data) : v->len;
    least = s.len ? ngx_parse_time(&s, 0) : NGX_ERROR;
    most = least;

    if (p) {
        s.data = p + 2;
        s.len = v->data + v->len - s.data;
        most = s.len ? ngx_parse_time(&s, 0) : NGX_ERROR;
    }

    if (least < 10 || most < least || most > 24 * 60 * 60 * 1000) {
        return NGX_ERROR;
    }

    retry->backoff = least;
    retry->backoff_max = most;

    return NGX_OK;
}


static char *
ngx_http_offload_queue_retry_param(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value)
{
    ngx_int_t                  max;
    ngx_str_t                  v;
    ngx_http_offload_retry_t  *retry;

    retry = queue->retry;

    if (ngx_http_offload_queue_param(value, "max=", &v)) {
        max = ngx_atoi(v.data, v.len);
        if (max < 1 || max > 1000) {
            return "it must be a number of attempts from 1 to 1000";
        }

        retry->max = max;

        return NGX_CONF_OK;
    }

    if (ngx_http_offload_queue_param(value, "backoff=", &v)) {
        return ngx_http_offload_queue_backoff(&v, retry) == NGX_OK
               ? NGX_CONF_OK
               : "it must be times from 10ms to 1d, the shorter one first, "
                 "like \"1s..5m\"";
    }

    if (ngx_http_offload_queue_param(value, "jitter=", &v)) {
        retry->jitter = ngx_strcmp(v.data, "full") == 0;

        return retry->jitter || ngx_strcmp(v.data, "none") == 0
               ? NGX_CONF_OK : "it must be \"full\" or \"none\"";
    }

    if (ngx_http_offload_queue_param(value, "on=", &v)) {
        retry->on->nelts = 0;

        if (ngx_http_offload_queue_list(cf, &v, retry->on) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        return ngx_http_offload_queue_on(retry->on)
               ? NGX_CONF_OK
               : "it must be a list of \"connect\", \"timeout\" and statuses "
                 "from 400 to 599, each one once";
    }

    if (ngx_http_offload_queue_param(value, "methods=", &v)) {
        retry->methods = ngx_array_create(cf->pool, 4, sizeof(u_char *));

        if (retry->methods == NULL
            || ngx_http_offload_queue_list(cf, &v, retry->methods) != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }

        return ngx_http_offload_queue_methods(retry->methods)
               ? NGX_CONF_OK
               : "it must be a list of methods like \"GET,PUT\", each one "
                 "once";
    }

    return "there is no such parameter; max, backoff, jitter, on and methods "
           "are, or \"off\" alone";
}


char *
ngx_http_offload_queue_retry(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    ngx_http_offload_retry_t  *retry;

    static ngx_str_t  on = ngx_string("connect,timeout,429,502,503,504");

    retry = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_retry_t));
    if (retry == NULL) {
        return NGX_CONF_ERROR;
    }

    queue->retry = retry;

    retry->max = 5;
    retry->backoff = 1000;
    retry->backoff_max = 5 * 60 * 1000;
    retry->jitter = 1;
    retry->on = ngx_array_create(cf->pool, 6, sizeof(u_char *));

    if (retry->on == NULL
        || ngx_http_offload_queue_list(cf, &on, retry->on) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (n == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        retry->max = 1;
        return NGX_CONF_OK;
    }

    return ngx_http_offload_queue_params(cf, queue, value, n, bad,
                                         ngx_http_offload_queue_retry_param);
}
