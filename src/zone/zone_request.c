/*
 * The payload of a job record: its size and its checks.  Reads the bytes it
 * is given and nothing else; any process, any thread; leaves nothing behind.
 *
 * The bytes were written by nginx, but from a client's request, and offloadd
 * sends them on as they are: whatever could begin a line or a request of its
 * own is refused here.
 */

#include <string.h>

#include "zone_hook.h"


#define ZONE_REQUEST_FLAGS     (ZONE_REQUEST_BODY_FILE|ZONE_REQUEST_CLIENT_KEY \
                               |ZONE_REQUEST_AT_MOST_ONCE                     \
                               |ZONE_REQUEST_KEYED|ZONE_REQUEST_TRUNCATE      \
                               |ZONE_REQUEST_BATCH)
#define ZONE_REQUEST_ENTRANCE  16


/* without the body */

static uint64_t
zone_request_strings(const struct zone_request *r)
{
    return (uint64_t) sizeof(*r)
           + (r->flags & ZONE_REQUEST_KEYED ? sizeof(struct zone_request_key)
                                            : 0)
           + r->method_len + r->entrance_len + r->uri_len + r->queue_len
           + r->context_len + r->headers_len + r->hooks_len;
}


size_t
zone_request_size(const struct zone_request *r)
{
    uint64_t  n;

    n = zone_request_strings(r);

    if (r->flags & ZONE_REQUEST_BODY_FILE) {
        return (size_t) n;
    }

    return r->body_size > SIZE_MAX - n ? SIZE_MAX : (size_t) (n + r->body_size);
}


static int
zone_is_ctl(unsigned char c)
{
    return c < 0x20 || c == 0x7f;
}


/* tchar of RFC 9110, 5.6.2 */

static int
zone_is_token(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')
           || (c >= 'A' && c <= 'Z')
           || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}


static const char *
zone_request_method(const struct zone_str *s)
{
    size_t  i;

    if (s->len < 1 || s->len > ZONE_REQUEST_METHOD_MAX) {
        return "the method's length is not within 1 to 32";
    }

    for (i = 0; i < s->len; i++) {
        if (!zone_is_token((unsigned char) s->data[i])) {
            return "the method is not a token";
        }
    }

    return NULL;
}


static const char *
zone_request_entrance(const struct zone_str *s)
{
    size_t  i;
    char    c;

    if (s->len != ZONE_REQUEST_ENTRANCE) {
        return "the entrance's length is not 16";
    }

    for (i = 0; i < s->len; i++) {
        c = s->data[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
            return "the entrance is not lower-case hexadecimal";
        }
    }

    return NULL;
}


static const char *
zone_request_uri(const struct zone_str *s)
{
    size_t  i;

    if (s->len == 0 || (s->data[0] != '/'
                        && !(s->len == 1 && s->data[0] == '*')))
    {
        return "the uri does not begin with \"/\" and is not \"*\"";
    }

    for (i = 0; i < s->len; i++) {
        if (s->data[i] == ' ' || zone_is_ctl((unsigned char) s->data[i])) {
            return "the uri has a space or a control character in it";
        }
    }

    return NULL;
}


static const char *
zone_request_text(const struct zone_str *s, const char *bad)
{
    size_t  i;

    for (i = 0; i < s->len; i++) {
        if (zone_is_ctl((unsigned char) s->data[i])) {
            return bad;
        }
    }

    return NULL;
}


/*
 * "Name: value" and a NUL, again and again.  nginx lets almost any character
 * into names and values when it is told to; what matters here is that a line
 * stays one line.
 */

static const char *
zone_request_headers(const struct zone_str *s)
{
    size_t       i;
    const char  *p, *end, *nul, *colon;

    p = s->data;
    end = s->data + s->len;

    while (p < end) {
        nul = memchr(p, '\0', (size_t) (end - p));

        if (nul == NULL) {
            return "the last header line has no end";
        }

        colon = memchr(p, ':', (size_t) (nul - p));

        if (colon == NULL || colon == p || colon[1] != ' ') {
            return "a header line is not of the form \"Name: value\"";
        }

        for (i = 0; p + i < colon; i++) {
            if (p[i] == ' ' || zone_is_ctl((unsigned char) p[i])) {
                return "a header's name has a space or a control character "
                       "in it";
            }
        }

        if (memchr(p, '\r', (size_t) (nul - p)) != NULL
            || memchr(p, '\n', (size_t) (nul - p)) != NULL)
        {
            return "a header line has a line break in it";
        }

        p = nul + 1;
    }

    return NULL;
}


static const char *
zone_request_fixed(const struct zone_request *r, size_t n)
{
    uint64_t  strings;

    if (r->layout != ZONE_REQUEST_LAYOUT) {
        return "the request's layout is not 1";
    }

    if (r->flags & ~ZONE_REQUEST_FLAGS) {
        return "the request has unknown flags";
    }

    if (r->timeout_s == 0) {
        return "the request's timeout is 0";
    }

    if ((r->flags & ZONE_REQUEST_TRUNCATE) && r->result_max == 0) {
        return "the request's result is to be cut at no size";
    }

    if (r->priority > ZONE_PRIORITY_MAX) {
        return "the request's priority is not within 0 to 9";
    }

    strings = zone_request_strings(r);          /* < 2^34: no overflow */

    if (strings > n) {
        return "the request's strings are longer than the record";
    }

    if (r->flags & ZONE_REQUEST_BODY_FILE) {
        return strings == n ? NULL : "the request is shorter than the record";
    }

    if (r->body_size != n - strings) {
        return "the request's body is not what is left of the record";
    }

    return NULL;
}


static const char *
zone_request_cut(struct zone_str *s, const char *p, size_t len)
{
    s->data = p;
    s->len = len;

    return p + len;
}


const char *
zone_request_parse(struct zone_request_view *v, const void *p, size_t n)
{
    const char              *pos, *bad;
    struct zone_request     *r;
    struct zone_hooks_view   hooks;

    if (n < sizeof(*r)) {
        return "the record is too short for a request";
    }

    memset(v, 0, sizeof(*v));
    r = &v->fixed;
    memcpy(r, p, sizeof(*r));

    bad = zone_request_fixed(r, n);

    if (bad != NULL) {
        return bad;
    }

    pos = (const char *) p + sizeof(*r);

    if (r->flags & ZONE_REQUEST_KEYED) {
        memcpy(&v->key, pos, sizeof(v->key));
        pos += sizeof(v->key);

        if (v->key.ttl_s == 0) {
            return "the lifetime of the request's key is 0";
        }
    }

    pos = zone_request_cut(&v->method, pos, r->method_len);
    pos = zone_request_cut(&v->entrance, pos, r->entrance_len);
    pos = zone_request_cut(&v->uri, pos, r->uri_len);
    pos = zone_request_cut(&v->queue, pos, r->queue_len);
    pos = zone_request_cut(&v->context, pos, r->context_len);
    pos = zone_request_cut(&v->headers, pos, r->headers_len);
    pos = zone_request_cut(&v->hooks, pos, r->hooks_len);

    (void) zone_request_cut(&v->body, pos, (r->flags & ZONE_REQUEST_BODY_FILE)
                                           ? 0 : (size_t) r->body_size);

    if ((bad = zone_request_method(&v->method)) != NULL
        || (bad = zone_request_entrance(&v->entrance)) != NULL
        || (bad = zone_request_uri(&v->uri)) != NULL
        || (bad = zone_request_text(&v->queue, "the queue's name has a "
                                    "control character in it")) != NULL
        || (bad = zone_request_text(&v->context, "the context has a control "
                                    "character in it")) != NULL
        || (bad = zone_request_headers(&v->headers)) != NULL
        || (r->hooks_len
            && (bad = zone_hooks_parse(&hooks, &v->hooks)) != NULL))
    {
        return bad;
    }

    return NULL;
}
