
/*
 * The webhooks of a request: their URLs as they are for it, and the one its
 * client gives.  In worker processes, before the body is read; touches the
 * request alone.  What is made goes into the job's record.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_callback(ngx_http_request_t *r,
    ngx_http_offload_queue_t *queue, ngx_str_t *url);
static ngx_uint_t ngx_http_offload_callback_allowed(ngx_pool_t *pool,
    ngx_array_t *allow, struct zone_str *host);
static u_char *ngx_http_offload_webhook_put(u_char *p,
    ngx_http_offload_webhook_t *hook, ngx_uint_t flags, ngx_str_t *url);


static const ngx_http_offload_problem_t  ngx_http_offload_callback_refused = {
    NGX_HTTP_FORBIDDEN, 0, "callback-refused",
    "The callback URL is not allowed",
    "Nothing is sent to the URL in Offload-Callback-Url from here."
};

static const ngx_http_offload_problem_t  ngx_http_offload_callback_invalid = {
    NGX_HTTP_BAD_REQUEST, 0, "callback-invalid",
    "The callback URL is not valid",
    "Offload-Callback-Url must be one http or https URL without user, "
    "password and fragment."
};


/* NGX_DECLINED: *problem says why there can be no job. */

ngx_int_t
ngx_http_offload_webhooks(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *out,
    const ngx_http_offload_problem_t **problem)
{
    u_char                      *p;
    size_t                       len;
    ngx_int_t                    rc;
    ngx_str_t                    url[ZONE_HOOKS_MAX], *base;
    ngx_uint_t                   i, n;
    struct zone_str              host, text;
    struct zone_hooks            head;
    struct zone_hooks_view       view;
    ngx_http_offload_queue_t    *queue;
    ngx_http_offload_webhook_t  *hook;

    queue = olcf->queue;
    n = queue->webhooks ? queue->webhooks->nelts : 0;
    hook = n ? queue->webhooks->elts : NULL;
    len = 0;

    ngx_memzero(&head, sizeof(head));
    ngx_str_null(out);

    for (i = 0; i < n; i++) {
        if (ngx_http_complex_value(r, hook[i].url, &url[i]) != NGX_OK) {
            return NGX_ERROR;
        }

        if (url[i].len
            && zone_hook_url((char *) url[i].data, url[i].len, &host) != 0)
        {
            ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                          "a webhook of queue \"%V\" is no URL for this "
                          "request, and left out", &queue->name);
            url[i].len = 0;
        }

        head.count += url[i].len != 0;
        len += sizeof(struct zone_hook) + url[i].len;
    }

    rc = ngx_http_offload_callback(r, queue, &url[n]);

    if (rc != NGX_OK) {
        *problem = rc == NGX_DECLINED ? &ngx_http_offload_callback_refused
                                      : &ngx_http_offload_callback_invalid;
        return NGX_DECLINED;
    }

    head.count += url[n].len != 0;
    len += sizeof(struct zone_hook) + url[n].len;

    if (head.count == 0) {
        return NGX_OK;
    }

    base = ngx_http_offload_base_of(r);
    if (base == NULL) {
        return NGX_ERROR;
    }

    head.job_len = (uint16_t) (base->len + olcf->entrance->status.len);

    p = ngx_pnalloc(r->pool, sizeof(head) + head.job_len + len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    out->data = p;
    p = ngx_cpymem(p, &head, sizeof(head));
    p = ngx_cpymem(p, base->data, base->len);
    p = ngx_cpymem(p, olcf->entrance->status.data,
                   olcf->entrance->status.len);

    for (i = 0; i < n; i++) {
        p = ngx_http_offload_webhook_put(p, &hook[i], hook[i].guarded
                                                  ? ZONE_HOOK_GUARDED : 0,
                                         &url[i]);
    }

    p = ngx_http_offload_webhook_put(p, &queue->callback, ZONE_HOOK_GUARDED
                                                          |ZONE_HOOK_CLIENT,
                                     &url[n]);
    out->len = p - out->data;

    text.data = (char *) out->data;
    text.len = out->len;

    return zone_hooks_parse(&view, &text) == NULL ? NGX_OK : NGX_ERROR;
}


static u_char *
ngx_http_offload_webhook_put(u_char *p, ngx_http_offload_webhook_t *hook,
    ngx_uint_t flags, ngx_str_t *url)
{
    struct zone_hook  zh;

    if (url->len == 0) {
        return p;
    }

    ngx_memzero(&zh, sizeof(zh));
    zh.secret = hook->secret;
    zh.ca = hook->ca;
    zh.inline_max = (uint32_t) hook->inline_max;
    zh.url_len = (uint16_t) url->len;
    zh.flags = (uint16_t) (hook->events | flags);

    p = ngx_cpymem(p, &zh, sizeof(zh));

    return ngx_cpymem(p, url->data, url->len);
}


/* One header, one URL: NGX_ERROR if it is none, NGX_DECLINED if not here. */

static ngx_int_t
ngx_http_offload_callback(ngx_http_request_t *r,
    ngx_http_offload_queue_t *queue, ngx_str_t *url)
{
    struct zone_str           host;
    ngx_table_elt_t          *h;
    ngx_http_offload_walk_t   walk;

    static ngx_str_t  name = ngx_string("offload-callback-url");

    ngx_str_null(url);

    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (h->key.len != name.len
            || ngx_memcmp(h->lowcase_key, name.data, name.len) != 0)
        {
            continue;
        }

        if (url->len || h->value.len == 0) {
            return NGX_ERROR;
        }

        *url = h->value;
    }

    if (url->len == 0) {
        return NGX_OK;
    }

    if (zone_hook_url((char *) url->data, url->len, &host) != 0) {
        return NGX_ERROR;
    }

    return queue->webhook_allow
           && ngx_http_offload_callback_allowed(r->pool, queue->webhook_allow,
                                                &host)
           ? NGX_OK : NGX_DECLINED;
}


/*
 * Where CIDRs are allowed a name is looked up first: by offloadd, which sees
 * the very address it connects to.
 */

static ngx_uint_t
ngx_http_offload_callback_allowed(ngx_pool_t *pool, ngx_array_t *allow,
    struct zone_str *host)
{
    ngx_addr_t                 addr;
    ngx_uint_t                 i, literal;
    ngx_array_t                cidrs;
    ngx_http_offload_allow_t  *a;

    a = allow->elts;

    for (i = 0; i < allow->nelts; i++) {
        if (!a[i].is_cidr
            && zone_hook_host_allowed((char *) a[i].text.data,
                                      a[i].text.len, host))
        {
            return 1;
        }
    }

    literal = ngx_parse_addr(pool, &addr, (u_char *) host->data, host->len)
              == NGX_OK;

    for (i = 0; i < allow->nelts; i++) {
        if (!a[i].is_cidr) {
            continue;
        }

        cidrs.elts = &a[i].cidr;
        cidrs.nelts = 1;
        cidrs.size = sizeof(ngx_cidr_t);

        if (!literal || ngx_cidr_match(addr.sockaddr, &cidrs) == NGX_OK) {
            return 1;
        }
    }

    return 0;
}


/* One more in the list that a job's document shows. */

ngx_int_t
ngx_http_offload_hook_json(ngx_pool_t *pool, struct store_hook *row,
    u_char *host, ngx_http_offload_job_t *job)
{
    u_char  *p, *list;

    static const char  *status[STORE_HOOK_STATUSES] = {
        "", "pending", "delivered", "failed", "disabled"
    };

    if (row->status == 0 || row->status >= STORE_HOOK_STATUSES) {
        return NGX_ERROR;
    }

    list = ngx_pnalloc(pool, job->webhooks.len + row->host_len
                             + sizeof("[{\"url_host\":\"\",\"status\":\"\","
                                      "\"attempts\":,\"next_attempt_at\":\""
                                      "2026-04-25T10:30:00Z\"}]")
                             + sizeof("delivered") + NGX_INT_T_LEN);
    if (list == NULL) {
        return NGX_ERROR;
    }

    p = list;

    if (job->webhooks.len) {
        p = ngx_cpymem(p, job->webhooks.data, job->webhooks.len - 1);
    }

    *p++ = job->webhooks.len ? ',' : '[';

    p = ngx_sprintf(p, "{\"url_host\":\"%*s\",\"status\":\"%s\","
                       "\"attempts\":%uD", (size_t) row->host_len, host,
                    status[row->status], row->attempts);

    if (row->status == STORE_HOOK_PENDING) {
        p = ngx_cpymem(p, ",\"next_attempt_at\":\"",
                       sizeof(",\"next_attempt_at\":\"") - 1);
        p = ngx_http_offload_time(p, row->next_ms);
        *p++ = '"';
    }

    *p++ = '}';
    *p++ = ']';

    job->webhooks.data = list;
    job->webhooks.len = p - list;

    return NGX_OK;
}
