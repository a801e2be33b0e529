
/*
 * The directives webhook and webhook_allow of a queue, and what the policy
 * says of them.  Runs while nginx reads its configuration; looks at the files
 * of secrets, and keeps nothing of what is in them.
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>


#define NGX_HTTP_OFFLOAD_SECRET_MIN     24
#define NGX_HTTP_OFFLOAD_SECRET_MAX     64
#define NGX_HTTP_OFFLOAD_SECRET_FILE    256     /* bytes, at most */


static char *ngx_http_offload_webhook_param(ngx_conf_t *cf,
    ngx_http_offload_webhook_t *hook, ngx_str_t *value);
static char *ngx_http_offload_webhook_file(ngx_str_t *v, ngx_str_t *path,
    uint64_t *hash, ngx_uint_t secret);
static char *ngx_http_offload_webhook_secret(ngx_fd_t fd);
static char *ngx_http_offload_webhook_on(ngx_http_offload_webhook_t *hook,
    ngx_str_t *v);


/* The first problem of a file, as nginx -t tells it. */

static char *
ngx_http_offload_webhook_file(ngx_str_t *v, ngx_str_t *path, uint64_t *hash,
    ngx_uint_t secret)
{
    char             *wrong;
    ngx_fd_t          fd;
    ngx_file_info_t   fi;

    if (secret && (v->len < 6 || ngx_strncmp(v->data, "file:", 5) != 0)) {
        return "it must be \"secret=file:\" and the absolute name of a file";
    }

    if (secret) {
        v->data += 5;
        v->len -= 5;
    }

    if (v->data[0] != '/') {
        return "the file's name must be absolute";
    }

    fd = ngx_open_file(v->data, NGX_FILE_RDONLY|O_NONBLOCK|O_CLOEXEC,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        return "the file is not there, or can not be read";
    }

    wrong = NGX_CONF_OK;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR || !ngx_is_file(&fi)) {
        wrong = "that is not a file";

    } else if (secret && (fi.st_mode & (S_IROTH|S_IWOTH))) {
        wrong = "others may read or write the file: take that from them "
                "(chmod o-rw)";

    } else if (secret) {
        wrong = ngx_http_offload_webhook_secret(fd);
    }

    (void) ngx_close_file(fd);

    *path = *v;
    *hash = zone_key_hash(v->data, v->len);

    return wrong;
}


static char *
ngx_http_offload_webhook_secret(ngx_fd_t fd)
{
    u_char     text[NGX_HTTP_OFFLOAD_SECRET_FILE + 1];
    u_char     key[NGX_HTTP_OFFLOAD_SECRET_FILE];
    ssize_t    n;
    ngx_str_t  base64, out;
    ngx_int_t  rc;

    n = ngx_read_fd(fd, text, sizeof(text));

    while (n > 0 && (text[n - 1] == LF || text[n - 1] == CR)) {
        n--;
    }

    rc = NGX_ERROR;
    out.data = key;
    out.len = 0;

    if (n > 6 && n < (ssize_t) sizeof(text)
        && ngx_strncmp(text, "whsec_", 6) == 0)
    {
        base64.data = text + 6;
        base64.len = n - 6;
        rc = ngx_decode_base64(&out, &base64);
    }

    ngx_explicit_memzero(text, sizeof(text));
    ngx_explicit_memzero(key, sizeof(key));

    return rc == NGX_OK && out.len >= NGX_HTTP_OFFLOAD_SECRET_MIN
           && out.len <= NGX_HTTP_OFFLOAD_SECRET_MAX
           ? NGX_CONF_OK
           : "there must be \"whsec_\" and 24 to 64 bytes in base64 in the "
             "file, in one line";
}


/* on=completed,failed */

static char *
ngx_http_offload_webhook_on(ngx_http_offload_webhook_t *hook, ngx_str_t *v)
{
    u_char      *p, *end, *last;
    ngx_uint_t   i;

    static const struct {
        ngx_str_t   name;
        ngx_uint_t  flag;
    } events[] = {
        { ngx_string("completed"), ZONE_HOOK_COMPLETED },
        { ngx_string("failed"), ZONE_HOOK_FAILED },
        { ngx_string("canceled"), ZONE_HOOK_CANCELED }
    };

    last = v->data + v->len;

    for (p = v->data; p <= last; p = end + 1) {
        end = ngx_strlchr(p, last, ',');
        end = end ? end : last;

        for (i = 0; i < 3; i++) {
            if ((size_t) (end - p) == events[i].name.len
                && ngx_strncmp(p, events[i].name.data, end - p) == 0)
            {
                break;
            }
        }

        if (i == 3 || (hook->events & events[i].flag)) {
            return "events are \"completed\", \"failed\" and \"canceled\", "
                   "each at most once";
        }

        hook->events |= events[i].flag;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_webhook_param(ngx_conf_t *cf,
    ngx_http_offload_webhook_t *hook, ngx_str_t *value)
{
    ssize_t    size;
    ngx_str_t  v;

    if (ngx_http_offload_queue_param(value, "secret=", &v)) {
        return ngx_http_offload_webhook_file(&v, &hook->secret_file,
                                             &hook->secret, 1);
    }

    if (ngx_http_offload_queue_param(value, "ca=", &v)) {
        return ngx_http_offload_webhook_file(&v, &hook->ca_file, &hook->ca,
                                             0);
    }

    if (ngx_http_offload_queue_param(value, "on=", &v)) {
        return ngx_http_offload_webhook_on(hook, &v);
    }

    if (ngx_http_offload_queue_param(value, "inline=", &v)) {
        size = ngx_parse_size(&v);

        if (size < 0 || size > (ssize_t) ZONE_HOOK_INLINE_MAX) {
            return "it must be a size of at most 64k";
        }

        hook->inline_max = size;

        return NGX_CONF_OK;
    }

    return "there is no such parameter; secret, on, inline and ca are";
}


/* webhook url [secret=file:/path] [on=events] [inline=size] [ca=/path] */

char *
ngx_http_offload_queue_webhook(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    char                        *rv;
    ngx_uint_t                   i;
    struct zone_str              host;
    ngx_http_offload_webhook_t  *hook;

    if (queue->webhooks == NULL) {
        queue->webhooks = ngx_array_create(cf->pool, 2,
                                       sizeof(ngx_http_offload_webhook_t));
        if (queue->webhooks == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    if (queue->webhooks->nelts == ZONE_HOOKS_MAX - 1) {
        return "a queue can have 7 webhooks";
    }

    hook = ngx_array_push(queue->webhooks);
    if (hook == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(hook, sizeof(ngx_http_offload_webhook_t));

    if (ngx_http_script_variables_count(&value[1])) {
        hook->guarded = 1;

    } else if (zone_hook_url((char *) value[1].data, value[1].len, &host)
               != 0)
    {
        return "it must be like \"https://example.com/path\", without user, "
               "password and fragment, or have a variable in it";
    }

    for (i = 2; i < n; i++) {
        *bad = i;

        if (ngx_http_offload_queue_twice(value, i)) {
            return "the parameter is duplicate";
        }

        rv = ngx_http_offload_webhook_param(cf, hook, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    if (hook->events == 0) {
        hook->events = ZONE_HOOK_EVENTS;
    }

    return ngx_http_offload_complex_value(cf, &value[1], &hook->url);
}


/* webhook_allow host|cidr ... [secret=file:/path] */

char *
ngx_http_offload_queue_webhook_allow(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    ngx_int_t                  rc;
    ngx_str_t                  v;
    ngx_uint_t                 i;
    ngx_http_offload_allow_t  *allow;

    queue->webhook_allow = ngx_array_create(cf->pool, n,
                                            sizeof(ngx_http_offload_allow_t));
    if (queue->webhook_allow == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < n; i++) {
        *bad = i;

        if (ngx_http_offload_queue_param(&value[i], "secret=", &v)) {
            if (queue->callback.secret) {
                return "the parameter is duplicate";
            }

            if (ngx_http_offload_webhook_file(&v,
                                          &queue->callback.secret_file,
                                          &queue->callback.secret, 1)
                != NGX_CONF_OK)
            {
                return "it must be \"secret=file:\" and the absolute name of "
                       "a file that others can not read, with a secret "
                       "(\"whsec_...\") in it";
            }

            continue;
        }

        allow = ngx_array_push(queue->webhook_allow);
        if (allow == NULL) {
            return NGX_CONF_ERROR;
        }

        allow->text = value[i];

        rc = ngx_ptocidr(&value[i], &allow->cidr);
        allow->is_cidr = rc != NGX_ERROR;

        if (rc == NGX_DONE) {
            return "its address has bits behind the prefix";
        }

        if (!allow->is_cidr
            && strspn((char *) value[i].data,
                      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                      "0123456789._-")
               != value[i].len)
        {
            return "it must be a host's name, \".\" and a domain, an "
                   "address or a CIDR";
        }
    }

    *bad = 1;
    queue->callback.events = ZONE_HOOK_EVENTS;

    return queue->webhook_allow->nelts ? NGX_CONF_OK
                                       : "a host or a CIDR is needed";
}


static int
ngx_http_offload_webhook_add(json_t *list, ngx_str_t *path)
{
    size_t   i;
    json_t  *v;

    if (path->len == 0) {
        return 0;
    }

    json_array_foreach(list, i, v) {
        if (ngx_strcmp(json_string_value(v), path->data) == 0) {
            return 0;
        }
    }

    return json_array_append_new(list, json_stringn((char *) path->data,
                                                    path->len));
}


static int
ngx_http_offload_webhook_allowed(json_t *allow,
    ngx_http_offload_queue_t *queue)
{
    json_t                    *list;
    ngx_uint_t                 i;
    ngx_http_offload_allow_t  *a;

    list = json_array();
    a = queue->webhook_allow->elts;

    for (i = 0; list && i < queue->webhook_allow->nelts; i++) {
        if (json_array_append_new(list, json_stringn((char *) a[i].text.data,
                                                     a[i].text.len))
            != 0)
        {
            json_decref(list);
            return -1;
        }
    }

    return json_object_set_new(allow, (char *) queue->name.data, list);
}


/* What offloadd has to know: names of files, hosts.  NULL: no memory. */

json_t *
ngx_http_offload_webhooks_json(ngx_http_offload_main_conf_t *omcf,
    ngx_http_offload_zone_t *zone)
{
    int                          rc;
    json_t                      *json, *secrets, *cas, *allow;
    ngx_uint_t                   i, k;
    ngx_http_offload_queue_t   **queue, *q;
    ngx_http_offload_webhook_t  *hook;

    secrets = json_array();
    cas = json_array();
    allow = json_object();
    queue = omcf->queues.elts;
    rc = secrets && cas && allow ? 0 : -1;

    for (i = 0; rc == 0 && i < omcf->queues.nelts; i++) {
        q = queue[i];

        if (q->zone != zone) {
            continue;
        }

        for (k = 0; rc == 0 && q->webhooks && k < q->webhooks->nelts; k++) {
            hook = q->webhooks->elts;

            rc = ngx_http_offload_webhook_add(secrets, &hook[k].secret_file)
                 || ngx_http_offload_webhook_add(cas, &hook[k].ca_file);
        }

        if (rc == 0 && q->webhook_allow) {
            rc = ngx_http_offload_webhook_add(secrets,
                                              &q->callback.secret_file)
                 || ngx_http_offload_webhook_allowed(allow, q);
        }
    }

    json = rc == 0 ? json_pack("{s:O, s:O, s:O}", "secrets", secrets, "cas",
                               cas, "allow", allow)
                   : NULL;

    json_decref(secrets);
    json_decref(cas);
    json_decref(allow);

    return json;
}
