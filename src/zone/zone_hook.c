/*
 * The webhooks in a request: their form, and that of their URLs.  Reads the
 * bytes it is given and nothing else; any process, any thread; leaves nothing
 * behind.
 */

#include <string.h>
#include <strings.h>

#include "zone_hook.h"


static int
zone_hook_host_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')
           || (c >= 'A' && c <= 'Z') || c == '.' || c == '-' || c == '_';
}


/* A port, a path or nothing: what may follow the host. */

static int
zone_hook_tail(const char *p, const char *end)
{
    uint32_t  port;

    if (p < end && *p == ':') {
        for (p++, port = 0; p < end && *p >= '0' && *p <= '9'; p++) {
            port = port * 10 + (uint32_t) (*p - '0');

            if (port > 65535) {
                return -1;
            }
        }

        if (port == 0) {
            return -1;
        }
    }

    return p == end || *p == '/' || *p == '?' ? 0 : -1;
}


int
zone_hook_url(const char *url, size_t len, struct zone_str *host)
{
    size_t       i;
    const char  *p, *end;

    if (len > ZONE_HOOK_URL_MAX) {
        return -1;
    }

    for (i = 0; i < len; i++) {
        if (url[i] <= ' ' || url[i] > '~' || strchr("\"<>\\^`{|}#", url[i])) {
            return -1;
        }
    }

    if (len > 7 && memcmp(url, "http://", 7) == 0) {
        p = url + 7;

    } else if (len > 8 && memcmp(url, "https://", 8) == 0) {
        p = url + 8;

    } else {
        return -1;
    }

    end = url + len;

    if (*p == '[') {
        host->data = ++p;

        while (p < end && (*p == ':' || zone_hook_host_char(*p))) {
            p++;
        }

        host->len = (size_t) (p - host->data);

        return host->len && p < end && *p == ']' ? zone_hook_tail(p + 1, end)
                                                 : -1;
    }

    host->data = p;

    while (p < end && zone_hook_host_char(*p)) {
        p++;
    }

    host->len = (size_t) (p - host->data);

    return host->len && host->len < 256 ? zone_hook_tail(p, end) : -1;
}


int
zone_hook_host_allowed(const char *allow, size_t len,
    const struct zone_str *host)
{
    if (len > 1 && allow[0] == '.') {
        if (host->len == len - 1) {
            allow++;
            len--;

        } else if (host->len > len) {
            return strncasecmp(host->data + host->len - len, allow, len) == 0;
        }
    }

    return host->len == len && strncasecmp(host->data, allow, len) == 0;
}


const char *
zone_hooks_parse(struct zone_hooks_view *v, const struct zone_str *s)
{
    uint32_t           i;
    const char        *p, *end;
    struct zone_str    host;
    struct zone_hook  *h;
    struct zone_hooks  head;

    memset(v, 0, sizeof(*v));

    if (s->len < sizeof(head)) {
        return "the webhooks are too short";
    }

    memcpy(&head, s->data, sizeof(head));
    p = s->data + sizeof(head);
    end = s->data + s->len;

    if (head.count < 1 || head.count > ZONE_HOOKS_MAX
        || head.job_len > (size_t) (end - p))
    {
        return "the webhooks' number or URL is out of range";
    }

    v->job.data = p;
    v->job.len = head.job_len;
    p += head.job_len;

    if (zone_hook_url(v->job.data, v->job.len, &host) != 0) {
        return "the job's URL is none";
    }

    for (i = 0; i < head.count; i++) {
        h = &v->hook[i];

        if ((size_t) (end - p) < sizeof(*h)) {
            return "a webhook is cut off";
        }

        memcpy(h, p, sizeof(*h));
        p += sizeof(*h);

        if (h->url_len > (size_t) (end - p)
            || zone_hook_url(p, h->url_len, &host) != 0)
        {
            return "a webhook's URL is none";
        }

        if (!(h->flags & ZONE_HOOK_EVENTS)
            || (h->flags & ~(ZONE_HOOK_EVENTS|ZONE_HOOK_GUARDED
                             |ZONE_HOOK_CLIENT))
            || h->inline_max > ZONE_HOOK_INLINE_MAX)
        {
            return "a webhook has unknown flags";
        }

        v->url[i].data = p;
        v->url[i].len = h->url_len;
        p += h->url_len;
    }

    v->count = head.count;

    return p == end ? NULL : "the webhooks are too long";
}
