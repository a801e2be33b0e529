/*
 * What a replay sends: method, target, header lines, body, from the stored
 * request's own copy into a libcurl handle.  Loop thread; no side effects but
 * on the attempt and the handle.
 *
 * The stored lines go out as they are.  Ours follow, and then the names of
 * those that libcurl would add by itself, without a value, which silences it.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>


/* Not sent, unless the client sent it. */
static struct curl_slist  request_silent[] = {
    { (char *) "Accept:", &request_silent[1] },
    { (char *) "User-Agent:", &request_silent[2] },
    { (char *) "Content-Type:", &request_silent[3] },
    { (char *) "Expect:", NULL }
};

/* Nor to a URL, which has a host of its own; what is ours is said anew. */
static const char *const  request_hops[] = {
    "Host:", "Keep-Alive:", "Proxy-Connection:", "Proxy-Authorization:",
    "Trailer:"
};

/* The message's frame is libcurl's; nginx has left these out. */
static const char *const  request_framing[] = {
    "Content-Length:", "Transfer-Encoding:", "Connection:", "Expect:",
    "Upgrade:", "TE:"
};


#define set(option, value)                                                   \
    do {                                                                     \
        if (curl_easy_setopt(easy, option, value) != CURLE_OK) {             \
            return -1;                                                       \
        }                                                                    \
    } while (0)


static int
request_line(struct replay *r, uint32_t *n, char *line)
{
    uint32_t            cap;
    struct curl_slist  *p;

    if (*n == r->lines_cap) {
        cap = r->lines_cap ? r->lines_cap * 2 : 32;

        p = realloc(r->lines, cap * sizeof(*p));
        if (p == NULL) {
            return -1;
        }

        r->lines = p;
        r->lines_cap = cap;
    }

    r->lines[(*n)++].data = line;

    return 0;
}


/* libcurl sends a header without a value only when told so: "Name;" */

static void
request_empty_value(char *line)
{
    char  *colon;

    colon = strchr(line, ':');

    if (colon && colon[1 + strspn(colon + 1, " \t")] == '\0') {
        colon[0] = ';';
        colon[1] = '\0';
    }
}


static int
request_is_of(const char *line, const char *const *names, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (strncasecmp(line, names[i], strlen(names[i])) == 0) {
            return 1;
        }
    }

    return 0;
}


static int
request_stored_lines(struct replay *r, uint32_t *n, int *host)
{
    char    *p, *end;
    size_t   len;

    p = (char *) (uintptr_t) r->view.headers.data;  /* our own copy */
    end = p + r->view.headers.len;

    for ( /* void */ ; p < end; p += len + 1) {
        len = strlen(p);                        /* parsed: has its NUL */

        if (request_is_of(p, request_framing, ARRAY_LENGTH(request_framing))
            || (r->pass && request_is_of(p, request_hops,
                                         ARRAY_LENGTH(request_hops))))
        {
            continue;
        }

        if (strncasecmp(p, "Host:", 5) == 0) {
            *host = 1;

        } else {
            request_empty_value(p);
        }

        if (request_line(r, n, p) != 0) {
            return -1;
        }
    }

    return 0;
}


/*
 * Ours, after the stored ones; the last is nginx's, who takes it out.  Straight
 * to a URL it is the id alone, and without a token: what could be reported by
 * that needs an URL of the job.  Nor has a batch one: it is of no job.
 */

static int
request_own_lines(struct attempt *a, uint32_t *n)
{
    int             i, len;
    char            id[ZONE_ID_TEXT], token[ZONE_TOKEN_TEXT];
    size_t          at[5];
    struct replay  *r = &a->replay;

    r->text.len = 0;

    if (buf_reserve(&r->text, 256 + r->view.context.len) != 0) {
        return -1;
    }

    zone_id_format(id, a->op.row.id);
    zone_id_format(token, a->op.row.token);

    for (i = 0; i < 5; i++) {
        char   *to = (char *) r->text.data + r->text.len;
        size_t  room = r->text.cap - r->text.len;

        if (i == 0) {
            len = snprintf(to, room, "Offload-Attempt: %u",
                           a->op.row.attempts);

        } else if (i == 1) {
            len = snprintf(to, room, "Idempotency-Key: %.*s", ZONE_ID_TEXT,
                           id);

        } else if (i == 2) {
            len = snprintf(to, room, "Offload-Job-Token: %.*s",
                           ZONE_TOKEN_TEXT, token);

        } else if (i == 3) {
            len = snprintf(to, room, "Offload-Depth: %u",
                           r->view.fixed.depth);

        } else {
            len = snprintf(to, room, "Offload-Job-Id: %.*s%s%.*s",
                           ZONE_ID_TEXT, id, r->pass ? "" : " ",
                           r->pass ? 0 : (int) r->view.context.len,
                           r->view.context.data);
        }

        at[i] = r->text.len;
        r->text.len += (size_t) len + 1;        /* with its NUL */
    }

    for (i = 0; i < 5; i++) {
        if ((i == 1 && (r->view.fixed.flags & ZONE_REQUEST_CLIENT_KEY))
            || (i == 2 && (r->pass || a->carries)))
        {
            continue;
        }

        if (request_line(r, n, (char *) r->text.data + at[i]) != 0) {
            return -1;
        }
    }

    return 0;
}


/* The stored lines, ours, and what silences libcurl's own. */

static int
request_set_headers(struct attempt *a, CURL *easy)
{
    int             host;
    uint32_t        i, n;
    struct replay  *r = &a->replay;

    n = 0;
    host = 0;

    if (request_stored_lines(r, &n, &host) != 0
        || request_own_lines(a, &n) != 0)
    {
        return -1;
    }

    host |= r->pass != NULL;                    /* libcurl's */

    if (!host && request_line(r, &n, (char *) (uintptr_t) "Host:") != 0) {
        return -1;
    }

    for (i = 0; i < n; i++) {
        r->lines[i].next = i + 1 < n ? &r->lines[i + 1] : request_silent;
    }

    set(CURLOPT_HTTPHEADER, r->lines);

    /* a request without a Host was one of HTTP/1.0, and is again */

    set(CURLOPT_HTTP_VERSION, host ? (long) CURL_HTTP_VERSION_1_1
                                   : (long) CURL_HTTP_VERSION_1_0);
    set(CURLOPT_FORBID_REUSE, host ? 0L : 1L);

    return 0;
}


/*
 * A large body may have been sent long before its answer comes: then its
 * memory is given back.  For that the strings before it move to memory of
 * their own.
 */

int
request_split(struct attempt *a)
{
    size_t              i, head;
    const char         *from, *to;
    struct replay      *r = &a->replay;
    struct zone_str    *strings[] = {
        &r->view.method, &r->view.entrance, &r->view.uri, &r->view.queue,
        &r->view.context, &r->view.headers
    };

    head = a->op.request.len - r->view.body.len;
    r->head.len = 0;

    if (buf_append(&r->head, a->op.request.data, head) != 0) {
        return -1;
    }

    from = (const char *) a->op.request.data;
    to = (const char *) r->head.data;

    for (i = 0; i < ARRAY_LENGTH(strings); i++) {
        strings[i]->data = to + (strings[i]->data - from);
    }

    return 0;
}


static int
request_method_is(const struct replay *r, const char *name)
{
    return r->view.method.len == strlen(name)
           && memcmp(r->view.method.data, name, r->view.method.len) == 0;
}


/*
 * HEAD has no use for a body, and libcurl no way to send one.  POST, PUT and
 * PATCH without one say so (Content-Length: 0).
 */

static int
request_set_body(struct attempt *a, CURL *easy)
{
    struct replay  *r = &a->replay;
    uint64_t        size = r->view.fixed.body_size;

    set(CURLOPT_HTTPGET, 1L);                   /* undoes what follows */

    if (request_method_is(r, "HEAD")) {
        set(CURLOPT_NOBODY, 1L);
        return 0;
    }

    /* nginx bounds what one client sends: a batch comes without a length */

    if (a->carries && r->pass == NULL) {
        set(CURLOPT_UPLOAD, 1L);
        set(CURLOPT_INFILESIZE_LARGE, (curl_off_t) -1);
        return 0;
    }

    if (r->body_fd != -1 || size > REPLAY_POSTFIELDS_MAX) {
        set(CURLOPT_UPLOAD, 1L);
        set(CURLOPT_INFILESIZE_LARGE, (curl_off_t) size);
        return 0;
    }

    if (size > 0 || request_method_is(r, "POST") || request_method_is(r, "PUT")
        || request_method_is(r, "PATCH"))
    {
        set(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) size);
        set(CURLOPT_POSTFIELDS, size ? r->view.body.data : "");
    }

    return 0;
}


static int
request_set_target(struct attempt *a, CURL *easy)
{
    char            method[64];
    size_t          len;
    uint8_t        *uri;
    struct replay  *r = &a->replay;

    if (r->view.method.len >= sizeof(method)) {
        return -1;
    }

    memcpy(method, r->view.method.data, r->view.method.len);
    method[r->view.method.len] = '\0';

    set(CURLOPT_CUSTOMREQUEST, method);

    len = r->view.uri.len;

    if (buf_reserve(&r->text, len + 1) != 0) {
        return -1;
    }

    uri = r->text.data + r->text.len;
    memcpy(uri, r->view.uri.data, len);
    uri[len] = '\0';

    set(CURLOPT_REQUEST_TARGET, (char *) uri);

    return 0;
}


/* The target before the headers: both use the attempt's text. */

int
request_set(struct attempt *a, CURL *easy)
{
    if (request_set_target(a, easy) != 0
        || request_set_headers(a, easy) != 0)
    {
        return -1;
    }

    return request_set_body(a, easy);
}
