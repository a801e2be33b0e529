/*
 * The payloads of PROGRESS and PUT records: their checks.  Reads the bytes it
 * is given and nothing else; any process, any thread; leaves nothing behind.
 *
 * They were written by nginx, but from what a backend sent.  Header lines are
 * served again as they are: none may be more than a line.
 */

#include <string.h>
#include <strings.h>

#include "zone_report.h"


const char *
zone_progress_parse(struct zone_progress_view *v, const void *p, size_t n)
{
    struct zone_progress  *f = &v->fixed;

    if (n < sizeof(*f)) {
        return "it is shorter than its fixed part";
    }

    memcpy(f, p, sizeof(*f));

    if (f->layout != ZONE_REPORT_LAYOUT) {
        return "its layout is not known";
    }

    if (f->flags == 0
        || (f->flags & ~(ZONE_PROGRESS_PERCENT|ZONE_PROGRESS_MESSAGE)))
    {
        return "it has no flags, or such as are not known";
    }

    if (f->percent > 100 || f->message_len > ZONE_PROGRESS_MAX) {
        return "it is over 100 percent, or its message too long";
    }

    if (n != sizeof(*f) + f->message_len) {
        return "its length is not that of its parts";
    }

    v->message.data = (const char *) p + sizeof(*f);
    v->message.len = f->message_len;

    return NULL;
}


/* "Name: value", and no byte that could end the line. */

static int
zone_put_line(const char *line, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (((unsigned char) line[i] < 0x20 && line[i] != '\t')
            || line[i] == 0x7f)
        {
            return 0;
        }
    }

    line = memchr(line, ':', len);

    return line != NULL;
}


static const char *
zone_put_headers(struct zone_put_view *v)
{
    size_t       len;
    const char  *p, *end;

    static const char  type[] = "Content-Type: ";

    p = v->headers.data;
    end = p + v->headers.len;

    if (p != end && end[-1] != '\0') {
        return "its last header line is not ended";
    }

    for ( /* void */ ; p < end; p += len + 1) {
        len = strlen(p);

        if (p[0] == ':' || !zone_put_line(p, len)) {
            return "a header line of it is none";
        }

        if (v->type.len == 0 && len >= sizeof(type) - 1
            && strncasecmp(p, type, sizeof(type) - 1) == 0)
        {
            v->type.data = p + sizeof(type) - 1;
            v->type.len = len - (sizeof(type) - 1);
        }
    }

    return NULL;
}


const char *
zone_put_parse(struct zone_put_view *v, const void *p, size_t n)
{
    uint64_t          body;
    struct zone_put  *f = &v->fixed;

    if (n < sizeof(*f)) {
        return "it is shorter than its fixed part";
    }

    memcpy(f, p, sizeof(*f));

    if (f->layout != ZONE_REPORT_LAYOUT) {
        return "its layout is not known";
    }

    if (f->flags & ~ZONE_PUT_BODY_FILE) {
        return "it has flags that are not known";
    }

    if (f->http_status < 200 || f->http_status > 599) {
        return "its status is not within 200 to 599";
    }

    body = f->flags & ZONE_PUT_BODY_FILE ? 0 : f->body_size;

    if (f->headers_len > n - sizeof(*f)
        || body != n - sizeof(*f) - f->headers_len)
    {
        return "its length is not that of its parts";
    }

    v->type.data = "";
    v->type.len = 0;
    v->headers.data = (const char *) p + sizeof(*f);
    v->headers.len = f->headers_len;
    v->body.data = v->headers.data + v->headers.len;
    v->body.len = (size_t) body;

    return zone_put_headers(v);
}


int
zone_token_same(const uint8_t a[ZONE_TOKEN_SIZE],
    const uint8_t b[ZONE_TOKEN_SIZE])
{
    int               i;
    volatile uint8_t  differ;

    for (i = 0, differ = 0; i < ZONE_TOKEN_SIZE; i++) {
        differ = (uint8_t) (differ | (a[i] ^ b[i]));
    }

    return differ == 0;
}
