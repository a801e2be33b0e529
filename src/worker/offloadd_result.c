/*
 * One answer as it comes in: its header lines, then its body, in memory up to
 * STORE_INLINE_MAX and from there on in a file, blobs/<job id>.<attempt>,
 * which the row names once the answer is complete.  Loop thread.  A kill
 * leaves a blob no row names; the sweep removes it.
 *
 * Kept are end-to-end headers only, and what add_header and the like append
 * is not, but for a word on the content: nginx adds that anew, as it does
 * Date, Server and Content-Length, where it serves the result.
 */

#include "offloadd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>


#define RESULT_KEEP           (16u * 1024)      /* of a spare's memory */


static const char *const  result_dropped[] = {
    "Connection", "Keep-Alive", "Transfer-Encoding", "TE", "Trailer",
    "Upgrade", "Date", "Server", "Content-Length"
};

static const char *const  result_dropped_prefix[] = {
    "Proxy-", "Offload-"
};

/* What would be said of the whole, when there is but its beginning. */
static const char *const  result_dropped_cut[] = {
    "Accept-Ranges", "Content-MD5", "Digest", "Content-Digest",
    "Repr-Digest", "ETag", "Last-Modified"
};


void
result_init(struct result *r)
{
    memset(r, 0, sizeof(*r));
    r->fd = -1;
}


void
result_reset(struct result *r, const char *store, const uint8_t *id)
{
    if (r->fd != -1) {
        close(r->fd);
        r->fd = -1;

        if (!r->finished) {
            files_unlink(store, ZONE_DIR_BLOBS, id, r->attempt);
        }
    }

    buf_trim(&r->raw, RESULT_KEEP);
    buf_trim(&r->headers, RESULT_KEEP);
    buf_trim(&r->body, RESULT_KEEP);

    r->size = 0;
    r->type_at = 0;
    r->type_len = 0;
    r->err = 0;
    r->complete = 0;
    r->refused = 0;
    r->deferred = 0;
    r->upstream = RETRY_END_ANSWER;
    r->no_retry = 0;
    r->retry_after_at = 0;
    r->too_large = 0;
    r->direct = 0;
    r->in_memory = 0;
    r->finished = 0;
    r->bodiless = 0;
    r->truncate = 0;
    r->over = 0;
    r->max = 0;
    r->status = 0;
}


void
result_free(struct result *r)
{
    if (r->fd != -1) {
        close(r->fd);
    }

    buf_free(&r->raw);
    buf_free(&r->headers);
    buf_free(&r->body);
}


void
result_limit(struct result *r, const struct zone_request_view *v)
{
    r->max = v->fixed.result_max;
    r->truncate = (v->fixed.flags & ZONE_REQUEST_TRUNCATE) != 0;
    r->bodiless = v->method.len == 4 && memcmp(v->method.data, "HEAD", 4) == 0;
}


/* "HTTP/1.1 200 OK": 0 if it has none. */

static uint32_t
result_status(const char *line, size_t len)
{
    size_t    i;
    uint32_t  status;
    const char *p;

    p = memchr(line, ' ', len);

    if (p == NULL || (size_t) (line + len - p) < 4) {
        return 0;
    }

    for (i = 1, status = 0; i <= 3; i++) {
        if (p[i] < '0' || p[i] > '9') {
            return 0;
        }

        status = status * 10 + (uint32_t) (p[i] - '0');
    }

    return status;
}


/*
 * The header is complete: is more to come than may be kept?  What the module
 * itself has refused is no answer.
 */

static int
result_too_long(struct result *r)
{
    size_t       i;
    const char  *p;

    if (r->max == 0 || r->bodiless || r->status < 200 || r->status == 204
        || r->status == 304)
    {
        return 0;
    }

    for (i = 0; i < r->raw.len; i += strlen(p) + 1) {
        p = (const char *) r->raw.data + i;

        if (r->status == 503 && !r->direct
            && strcasecmp(p, "Offload-Replay: refused") == 0)
        {
            r->max = 0;
            return 0;
        }

        if (strncasecmp(p, "Content-Length:", 15) == 0
            && strtoull(p + 15, NULL, 10) > r->max)
        {
            r->over = !r->truncate;
        }
    }

    return r->over;
}


int
result_header(struct result *r, const char *line, size_t len)
{
    if (len >= 5 && memcmp(line, "HTTP/", 5) == 0) {

        /* another answer: those before were interim ones (1xx) */

        r->raw.len = 0;
        r->complete = 0;
        r->status = result_status(line, len);
        return 0;
    }

    if (r->complete) {
        return 0;                               /* a trailer */
    }

    while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r')) {
        len--;
    }

    if (len == 0) {
        r->complete = 1;
        return result_too_long(r) ? -1 : 0;
    }

    if (memchr(line, '\0', len) != NULL || line[0] == ':') {
        return 0;                               /* no header */
    }

    if (r->raw.len + len + 1 > RESULT_HEADERS_MAX) {
        r->too_large = 1;
        return -1;
    }

    if (line[0] == ' ' || line[0] == '\t') {

        /* the line before goes on */

        if (r->raw.len == 0) {
            return 0;
        }

        r->raw.data[r->raw.len - 1] = ' ';
    }

    if (buf_append(&r->raw, line, len) != 0
        || buf_append(&r->raw, "", 1) != 0)
    {
        r->err = ENOMEM;
        return -1;
    }

    return 0;
}


static int
result_write(struct result *r, const uint8_t *p, size_t n)
{
    ssize_t  done;

    while (n > 0) {
        done = write(r->fd, p, n);

        if (done == -1) {
            if (errno == EINTR) {
                continue;
            }

            r->err = errno;
            return -1;
        }

        p += done;
        n -= (size_t) done;
    }

    return 0;
}


/* Too large to stay in memory: what there is of it goes to a file. */

static int
result_to_file(struct result *r, const char *store, const uint8_t *id)
{
    char  path[PATH_MAX];

    if (files_path(path, sizeof(path), store, ZONE_DIR_BLOBS, id,
                   r->attempt)
        != 0)
    {
        r->err = ENAMETOOLONG;
        return -1;
    }

    r->fd = open(path, O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC|O_NOFOLLOW, 0600);
    if (r->fd == -1) {
        r->err = errno;
        return -1;
    }

    if (result_write(r, r->body.data, r->body.len) != 0) {
        return -1;
    }

    buf_free(&r->body);

    return 0;
}


static int
result_keep_body(struct result *r, const char *store, const uint8_t *id,
    const void *p, size_t n)
{
    if (r->fd == -1 && !r->in_memory && n > STORE_INLINE_MAX - r->body.len) {
        if (result_to_file(r, store, id) != 0) {
            return -1;
        }
    }

    r->size += n;

    if (r->fd != -1) {
        return result_write(r, p, n);
    }

    if (buf_append(&r->body, p, n) != 0) {
        r->err = ENOMEM;
        return -1;
    }

    return 0;
}


/* 0, or -1: give up, or with `over` and `truncate`: this is enough. */

int
result_body(struct result *r, const char *store, const uint8_t *id,
    const void *p, size_t n)
{
    if (r->max && n > r->max - r->size) {
        r->over = 1;

        if (!r->truncate) {
            return -1;
        }

        n = (size_t) (r->max - r->size);
    }

    if (result_keep_body(r, store, id, p, n) != 0) {
        return -1;
    }

    return r->over ? -1 : 0;
}


/* Is `name` one of the tokens of a Connection header? */

static int
result_in_list(const char *list, const char *name, size_t len)
{
    size_t  n;

    while (*list) {
        list += strspn(list, " \t,");
        n = strcspn(list, " \t,");

        if (n == len && strncasecmp(list, name, len) == 0) {
            return 1;
        }

        list += n;
    }

    return 0;
}


static int
result_connection_names(const struct result *r, const char *name, size_t len)
{
    size_t       i;
    const char  *p;

    for (i = 0; i < r->raw.len; i += strlen(p) + 1) {
        p = (const char *) r->raw.data + i;

        if (strncasecmp(p, "Connection:", 11) == 0
            && result_in_list(p + 11, name, len))
        {
            return 1;
        }
    }

    return 0;
}


static int
result_is_one_of(const char *const *names, size_t n, const char *name,
    size_t len)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (strlen(names[i]) == len && strncasecmp(name, names[i], len) == 0) {
            return 1;
        }
    }

    return 0;
}


static int
result_is_dropped(const struct result *r, const char *name, size_t len)
{
    size_t  i, n;

    if (result_is_one_of(result_dropped, ARRAY_LENGTH(result_dropped), name,
                         len))
    {
        return 1;
    }

    for (i = 0; i < ARRAY_LENGTH(result_dropped_prefix); i++) {
        n = strlen(result_dropped_prefix[i]);

        if (len >= n && strncasecmp(name, result_dropped_prefix[i], n) == 0) {
            return 1;
        }
    }

    return (r->over && result_is_one_of(result_dropped_cut,
                                        ARRAY_LENGTH(result_dropped_cut),
                                        name, len))
           || result_connection_names(r, name, len);
}


static int
result_is(const char *line, size_t len, const char *name)
{
    return strlen(name) == len && strncasecmp(line, name, len) == 0;
}


/*
 * What nginx and the backend say about the answer rather than in it; without
 * nginx between them a backend can say what it likes.
 */

static void
result_note(struct result *r, const char *line, size_t len,
    const char *value)
{
    if (r->direct && strncasecmp(line, "Offload-", 8) == 0
        && !result_is(line, len, "Offload-No-Retry"))
    {
        return;
    }

    if (result_is(line, len, "Offload-Replay")) {
        r->refused |= strcmp(value, "refused") == 0;
        r->added |= strcmp(value, "added") == 0;

    } else if (result_is(line, len, "Offload-Upstream")) {
        r->upstream = strcmp(value, "connect") == 0 ? RETRY_END_CONNECT
                      : strcmp(value, "timeout") == 0 ? RETRY_END_TIMEOUT
                                                      : RETRY_END_CUT;

    } else if (result_is(line, len, "Offload-Defer")) {
        r->deferred = strcmp(value, "1") == 0;

    } else if (result_is(line, len, "Offload-No-Retry")) {
        r->no_retry = value[0] == '1';

    } else if (result_is(line, len, "Retry-After") && !r->added) {
        r->retry_after_at = (uint32_t) (value - (const char *) r->raw.data);
    }
}


static int
result_keep(struct result *r, const char *line)
{
    size_t       len;
    const char  *value;

    value = strchr(line, ':');
    if (value == NULL) {
        return 0;
    }

    len = (size_t) (value++ - line);
    value += strspn(value, " \t");

    result_note(r, line, len, value);

    if (result_is_dropped(r, line, len)
        || (r->added && strncasecmp(line, "Content-", 8) != 0))
    {
        return 0;
    }

    if (buf_append(&r->headers, line, len) != 0
        || buf_append(&r->headers, ": ", 2) != 0)
    {
        return -1;
    }

    if (r->type_len == 0 && result_is(line, len, "Content-Type")) {
        len = strlen(value);
        r->type_at = (uint32_t) r->headers.len;
        r->type_len = len < STORE_TYPE_MAX ? (uint32_t) len : STORE_TYPE_MAX;
    }

    return buf_append(&r->headers, value, strlen(value) + 1);
}


int
result_finish(struct result *r, uint32_t status)
{
    size_t       i;
    const char  *p;

    r->headers.len = 0;
    r->added = 0;

    for (i = 0; i < r->raw.len; i += strlen(p) + 1) {
        p = (const char *) r->raw.data + i;

        if (result_keep(r, p) != 0) {
            r->err = ENOMEM;
            return -1;
        }
    }

    r->refused = r->refused && status == 503;

    if (r->fd == -1 || r->refused) {
        return 0;
    }

    r->finished = 1;

    ZONE_FAILPOINT("result.blob-written");

    return 0;
}
