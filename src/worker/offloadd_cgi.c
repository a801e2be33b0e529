/*
 * What tells a command what is asked for: its environment, as RFC 3875 has it.
 * Pure functions of what is handed in; loop thread.
 *
 * What a client sends stays in the values: a header can only be HTTP_ and its
 * name, of letters, digits and "-" alone, so that no two names become one.
 * HTTP_PROXY would send a command's own requests wherever a client likes, and
 * credentials are nginx's matter.
 */

#include "offloadd.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>


#define CGI_PATH              "/usr/local/bin:/usr/bin:/bin"


/* Of the connection, secret, or told in another way. */
static const char *const  cgi_dropped[] = {
    "Authorization", "Proxy-Authorization", "Proxy-Connection", "Proxy",
    "Content-Type", "Content-Length", "Connection", "Keep-Alive", "TE",
    "Trailer", "Transfer-Encoding", "Upgrade", "Expect"
};


static int
cgi_is(const char *p, size_t len, const char *name)
{
    return strlen(name) == len && strncasecmp(p, name, len) == 0;
}


/* "NAME=" at the beginning of one of those that are there: its end, or -1. */

static int
cgi_find(const struct cgi_env *env, const char *name, size_t len)
{
    size_t        i, n;
    const size_t *at = (const size_t *) (const void *) env->list.data;
    const char   *p;

    n = env->list.len / sizeof(*at);

    for (i = 0; i < n; i++) {
        p = (const char *) env->text.data + at[i];

        if (strncmp(p, name, len) == 0 && p[len] == '=') {
            return (int) i;
        }
    }

    return -1;
}


/* The first one of a name counts. */

static int
cgi_add(struct cgi_env *env, const char *name, size_t name_len,
    const char *value, size_t len)
{
    size_t  at = env->text.len;

    if (cgi_find(env, name, name_len) != -1) {
        return 0;
    }

    if (memchr(value, '\0', len) != NULL) {
        len = strlen(value);
    }

    return buf_append(&env->text, name, name_len) == 0
           && buf_append(&env->text, "=", 1) == 0
           && buf_append(&env->text, value, len) == 0
           && buf_append(&env->text, "", 1) == 0
           && buf_append(&env->list, &at, sizeof(at)) == 0 ? 0 : -1;
}


static int
cgi_set(struct cgi_env *env, const char *name, const char *value)
{
    return cgi_add(env, name, strlen(name), value, strlen(value));
}


static int
cgi_set_str(struct cgi_env *env, const char *name, const struct zone_str *s)
{
    return cgi_add(env, name, strlen(name), s->len ? s->data : "", s->len);
}


/* exec_env: they come first, and so stand for what follows as well. */

static int
cgi_extra(struct cgi_env *env, char **extra)
{
    const char  *value;

    for ( /* void */ ; extra && *extra; extra++) {
        value = strchr(*extra, '=');

        if (value == NULL) {
            value = getenv(*extra);

            if (value && cgi_set(env, *extra, value) != 0) {
                return -1;
            }

        } else if (cgi_add(env, *extra, (size_t) (value - *extra), value + 1,
                           strlen(value + 1))
                   != 0)
        {
            return -1;
        }
    }

    return 0;
}


/* A header's value; NULL: there is none. */

static const char *
cgi_header_value(const struct zone_request_view *v, const char *name,
    size_t name_len)
{
    size_t       len;
    const char  *p, *end;

    p = v->headers.data;
    end = p + v->headers.len;

    for ( /* void */ ; p < end; p += len + 1) {
        len = strlen(p);                        /* parsed: has its NUL */

        if (len > name_len && p[name_len] == ':'
            && strncasecmp(p, name, name_len) == 0)
        {
            p += name_len + 1;
            return p + strspn(p, " \t");
        }
    }

    return NULL;
}


/* "HTTP_ACCEPT_LANGUAGE": 0, or -1 if the name is none for it. */

static int
cgi_http_name(char *to, size_t size, const char *name, size_t len)
{
    size_t  i;

    if (len == 0 || len + 6 > size) {
        return -1;
    }

    for (i = 0; i < ARRAY_LENGTH(cgi_dropped); i++) {
        if (cgi_is(name, len, cgi_dropped[i])
            && !ZONE_MUTANT("cgi.dropped"))
        {
            return -1;
        }
    }

    memcpy(to, "HTTP_", 5);

    for (i = 0; i < len; i++) {
        if (name[i] != '-' && !isalnum((unsigned char) name[i])) {
            return -1;
        }

        to[5 + i] = name[i] == '-' ? '_'
                                   : (char) toupper((unsigned char) name[i]);
    }

    to[5 + len] = '\0';

    return 0;
}


/* Lines of one name are one list (RFC 9110, 5.3), but for cookies. */

static int
cgi_joined(const struct zone_request_view *v, const char *from,
    const char *name, size_t len, struct buf *value)
{
    size_t       n;
    const char  *p, *end, *text;

    value->len = 0;
    end = v->headers.data + v->headers.len;

    for (p = from; p < end; p += n + 1) {
        n = strlen(p);

        if (n <= len || p[len] != ':' || strncasecmp(p, name, len) != 0) {
            continue;
        }

        text = p + len + 1;
        text += strspn(text, " \t");

        if ((value->len
             && buf_append(value, cgi_is(name, len, "Cookie") ? "; " : ", ",
                           2) != 0)
            || buf_append(value, text, strlen(text)) != 0)
        {
            return -1;
        }
    }

    return 0;
}


static int
cgi_http(struct cgi_env *env, const struct zone_request_view *v)
{
    int          rc;
    char         name[128];
    size_t       len, n;
    struct buf   value;
    const char  *p, *end;

    memset(&value, 0, sizeof(value));
    end = v->headers.data + v->headers.len;

    for (p = v->headers.data, rc = 0; p < end && rc == 0; p += n + 1) {
        n = strlen(p);
        len = strcspn(p, ":");

        if (len == n || cgi_http_name(name, sizeof(name), p, len) != 0
            || cgi_find(env, name, strlen(name)) != -1)
        {
            continue;
        }

        rc = cgi_joined(v, p, p, len, &value) == 0
             ? cgi_add(env, name, strlen(name),
                       value.len ? (const char *) value.data : "", value.len)
             : -1;
    }

    buf_free(&value);

    return rc;
}


static int
cgi_hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}


/* Decoded; what has a NUL in it is left as it was sent. */

static int
cgi_decoded(struct cgi_env *env, const char *name, const char *p, size_t len)
{
    int     rc;
    char   *to;
    size_t  i, n;

    to = malloc(len + 1);
    if (to == NULL) {
        return -1;
    }

    for (i = 0, n = 0; i < len; i++) {
        to[n] = p[i];

        if (p[i] == '%' && i + 2 < len && cgi_hex(p[i + 1]) >= 0
            && cgi_hex(p[i + 2]) >= 0)
        {
            to[n] = (char) (cgi_hex(p[i + 1]) << 4 | cgi_hex(p[i + 2]));
            i += 2;
        }

        if (to[n++] == '\0') {
            memcpy(to, p, len);
            n = len;
            break;
        }
    }

    rc = cgi_add(env, name, strlen(name), to, n);
    free(to);

    return rc;
}


/* One of the context's words, see ngx_http_offload_context.c; or none. */

static struct zone_str
cgi_word(const struct zone_request_view *v, int i)
{
    const char       *p, *end;
    struct zone_str   s;

    p = v->context.data;
    end = v->context.len ? p + v->context.len : p;

    for ( /* void */ ; i > 0 && p < end; i--) {
        p = memchr(p, ' ', (size_t) (end - p));
        p = p ? p + 1 : end;
    }

    s.data = p;
    p = p < end ? memchr(p, ' ', (size_t) (end - p)) : end;
    s.len = (size_t) ((p ? p : end) - s.data);

    return s;
}


/*
 * What nginx made of the target: location, path and arguments are those it
 * went by, after its rewrites.  A job that was accepted when its queue had no
 * command has none of that, and the target as it was sent is all.
 */

static int
cgi_target(struct cgi_env *env, const struct zone_request_view *v)
{
    size_t           len;
    const char      *path, *query;
    struct zone_str  s;

    if (cgi_set_str(env, "REQUEST_URI", &v->uri) != 0) {
        return -1;
    }

    s = cgi_word(v, 5);
    path = s.len ? memchr(s.data, ':', s.len) : NULL;
    query = path ? memchr(path + 1, ':', (size_t) (s.data + s.len - path - 1))
                 : NULL;

    if (query) {
        return cgi_decoded(env, "SCRIPT_NAME", s.data, (size_t) (path - s.data))
               == 0
               && cgi_decoded(env, "PATH_INFO", path + 1,
                              (size_t) (query - path - 1)) == 0
               && cgi_decoded(env, "QUERY_STRING", query + 1,
                              (size_t) (s.data + s.len - query - 1)) == 0
               ? 0 : -1;
    }

    query = memchr(v->uri.data, '?', v->uri.len);
    len = query ? (size_t) (query - v->uri.data) : v->uri.len;

    s.data = query ? query + 1 : "";
    s.len = query ? v->uri.len - len - 1 : 0;

    return cgi_set(env, "SCRIPT_NAME", "") == 0
           && cgi_decoded(env, "PATH_INFO", v->uri.data, len) == 0
           && cgi_set_str(env, "QUERY_STRING", &s) == 0 ? 0 : -1;
}


/* "name:port", "[::1]:port": whom the client meant */

static int
cgi_server(struct cgi_env *env, const struct zone_request_view *v)
{
    size_t           len;
    const char      *host;
    struct zone_str  s;

    host = cgi_header_value(v, "Host", 4);

    if (cgi_set(env, "SERVER_PROTOCOL", host ? "HTTP/1.1" : "HTTP/1.0") != 0) {
        return -1;
    }

    host = host ? host : "";
    len = host[0] == '[' ? strcspn(host, "]") : strcspn(host, ":");

    if (host[len] == ']') {
        len++;
    }

    s.data = host;
    s.len = len;

    return cgi_set_str(env, "SERVER_NAME", &s);
}


/* As in ngx_http_offload_sockaddr(); "": no address */

static void
cgi_address(const struct zone_str *word, char *to, size_t size)
{
    int            i, n;
    const char    *p = word->data;
    unsigned char  a[16];

    to[0] = '\0';
    n = word->len == 0 ? 0 : p[0] == '4' ? 4 : p[0] == '6' ? 16 : 0;

    if (n == 0 || word->len < (size_t) n * 2 + 1) {
        return;
    }

    for (i = 0; i < n; i++) {
        if (cgi_hex(p[1 + 2 * i]) < 0 || cgi_hex(p[2 + 2 * i]) < 0) {
            return;
        }

        a[i] = (unsigned char) (cgi_hex(p[1 + 2 * i]) << 4
                                | cgi_hex(p[2 + 2 * i]));
    }

    (void) inet_ntop(n == 4 ? AF_INET : AF_INET6, a, to, (socklen_t) size);
}


/* Its end: that of the second one is the port that the client came to. */

static unsigned
cgi_port(const struct zone_str *word)
{
    int          i, digit;
    unsigned     port;
    const char  *end = word->data + word->len;

    if (word->len < 5) {
        return 0;
    }

    for (i = -4, port = 0; i < 0; i++) {
        digit = cgi_hex(end[i]);

        if (digit < 0) {
            return 0;
        }

        port = port << 4 | (unsigned) digit;
    }

    return port;
}


/* Whom the request came from and to, and how. */

static int
cgi_connection(struct cgi_env *env, const struct zone_request_view *v)
{
    char             text[64];
    struct zone_str  word;

    word = cgi_word(v, 1);
    (void) snprintf(text, sizeof(text), "%u", cgi_port(&word));

    if (cgi_set(env, "SERVER_PORT", text) != 0) {
        return -1;
    }

    word = cgi_word(v, 2);

    if (word.len == 1 && word.data[0] == 's'
        && cgi_set(env, "HTTPS", "on") != 0)
    {
        return -1;
    }

    word = cgi_word(v, 0);
    cgi_address(&word, text, sizeof(text));

    return cgi_set(env, "REMOTE_ADDR", text);
}


static int
cgi_fixed(struct cgi_env *env, const struct cgi_request *rq)
{
    char                            text[64];
    const char                     *type;
    const struct zone_request_view *v = rq->view;

    type = cgi_header_value(v, "Content-Type", 12);

    if (type && cgi_set(env, "CONTENT_TYPE", type) != 0) {
        return -1;
    }

    (void) snprintf(text, sizeof(text), "%llu",
                    (unsigned long long) v->fixed.body_size);

    if (v->fixed.body_size && cgi_set(env, "CONTENT_LENGTH", text) != 0) {
        return -1;
    }

    return cgi_connection(env, v) == 0
           && cgi_set_str(env, "REQUEST_METHOD", &v->method) == 0
           && cgi_set(env, "GATEWAY_INTERFACE", "CGI/1.1") == 0
           && cgi_set(env, "SERVER_SOFTWARE", "offloadd/" OFFLOADD_VERSION)
              == 0
           && cgi_set(env, "PATH", CGI_PATH) == 0 ? 0 : -1;
}


/* As programs know them that take part in a trace. */

static int
cgi_trace(struct cgi_env *env, const struct zone_request_view *v)
{
    const char  *parent, *state;

    parent = cgi_header_value(v, "traceparent", 11);
    state = cgi_header_value(v, "tracestate", 10);

    return (parent == NULL || cgi_set(env, "TRACEPARENT", parent) == 0)
           && (state == NULL || cgi_set(env, "TRACESTATE", state) == 0)
           ? 0 : -1;
}


static int
cgi_job(struct cgi_env *env, const struct cgi_request *rq)
{
    char             id[ZONE_ID_TEXT], attempt[16];
    struct zone_str  s;

    zone_id_format(id, rq->id);
    s.data = id;
    s.len = sizeof(id);
    (void) snprintf(attempt, sizeof(attempt), "%u", rq->attempt);

    return cgi_set_str(env, "OFFLOAD_JOB_ID", &s) == 0
           && cgi_set(env, "OFFLOAD_ATTEMPT", attempt) == 0
           && cgi_set_str(env, "OFFLOAD_QUEUE", &rq->view->queue) == 0
           ? 0 : -1;
}


int
cgi_environment(struct cgi_env *env, const struct cgi_request *rq)
{
    size_t   i, n, *at;

    memset(env, 0, sizeof(*env));

    if (cgi_extra(env, rq->extra) != 0 || cgi_job(env, rq) != 0
        || cgi_fixed(env, rq) != 0 || cgi_trace(env, rq->view) != 0
        || cgi_target(env, rq->view) != 0
        || cgi_server(env, rq->view) != 0
        || cgi_http(env, rq->view) != 0)
    {
        return -1;
    }

    n = env->list.len / sizeof(*at);
    at = (size_t *) (void *) env->list.data;

    env->envp = calloc(n + 1, sizeof(*env->envp));
    if (env->envp == NULL) {
        return -1;
    }

    for (i = 0; i < n; i++) {
        env->envp[i] = (char *) env->text.data + at[i];
    }

    return 0;
}


void
cgi_free(struct cgi_env *env)
{
    free(env->envp);
    buf_free(&env->text);
    buf_free(&env->list);
}
