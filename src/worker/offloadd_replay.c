/*
 * One request, replayed by libcurl through nginx's entrance.  Loop thread.
 *
 * An easy handle belongs to its attempt and is used again with it: what is
 * the same for all requests is set once, the rest each time.  libcurl adds no
 * header of its own but Content-Length, follows nothing, decodes nothing.
 *
 * libcurl would send a request a second time by itself when a connection
 * that was kept alive turns out to be dead.  But then nginx may have had it,
 * and a backend would see one attempt twice: replay_before() forbids that,
 * and the attempt counts as cut off.
 */

#include "offloadd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>


/* Not sent, unless the client sent it. */
static struct curl_slist  replay_silent[] = {
    { (char *) "Accept:", &replay_silent[1] },
    { (char *) "User-Agent:", &replay_silent[2] },
    { (char *) "Content-Type:", &replay_silent[3] },
    { (char *) "Expect:", NULL }
};

/* The message's frame is libcurl's; nginx has left these out. */
static const char *const  replay_framing[] = {
    "Content-Length:", "Transfer-Encoding:", "Connection:", "Expect:",
    "Upgrade:", "TE:"
};


static curl_socket_t replay_open(void *ctx, curlsocktype purpose,
    struct curl_sockaddr *address);
static int replay_before(void *ctx, char *remote, char *local, int rport,
    int lport);
static size_t replay_read(char *to, size_t size, size_t n, void *ctx);
static int replay_seek(void *ctx, curl_off_t offset, int origin);
static size_t replay_header(char *line, size_t size, size_t n, void *ctx);
static size_t replay_write(char *p, size_t size, size_t n, void *ctx);


#define set(option, value)                                                   \
    do {                                                                     \
        CURLcode  rc_ = curl_easy_setopt(r->easy, option, value);            \
        if (rc_ != CURLE_OK) {                                               \
            return -1;                                                       \
        }                                                                    \
    } while (0)


static int
replay_handle(struct offloadd *d, struct attempt *a)
{
    struct replay  *r = &a->replay;

    if (r->easy) {
        return 0;
    }

    r->easy = curl_easy_init();
    if (r->easy == NULL) {
        return -1;
    }

    set(CURLOPT_PRIVATE, a);
    set(CURLOPT_ERRORBUFFER, r->error);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_PROXY, "");
    set(CURLOPT_PROTOCOLS_STR, "http");
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_HTTP09_ALLOWED, 0L);
    set(CURLOPT_MAXAGE_CONN, 30L);
    set(CURLOPT_BUFFERSIZE, 65536L);
    set(CURLOPT_OPENSOCKETFUNCTION, replay_open);
    set(CURLOPT_OPENSOCKETDATA, a);
    set(CURLOPT_CLOSESOCKETFUNCTION, loop_close_socket);
    set(CURLOPT_CLOSESOCKETDATA, d);
    set(CURLOPT_PREREQFUNCTION, replay_before);
    set(CURLOPT_PREREQDATA, a);
    set(CURLOPT_READFUNCTION, replay_read);
    set(CURLOPT_READDATA, a);
    set(CURLOPT_SEEKFUNCTION, replay_seek);
    set(CURLOPT_SEEKDATA, a);
    set(CURLOPT_HEADERFUNCTION, replay_header);
    set(CURLOPT_HEADERDATA, a);
    set(CURLOPT_WRITEFUNCTION, replay_write);
    set(CURLOPT_WRITEDATA, a);

    return 0;
}


/* Each entrance is a host of its own to libcurl's connection cache. */

static int
replay_entrance(struct offloadd *d, struct replay *r)
{
    char  name[64], path[PATH_MAX], url[64];

    if (strlen(r->entrance) == r->view.entrance.len
        && memcmp(r->entrance, r->view.entrance.data, r->view.entrance.len)
           == 0)
    {
        return 0;
    }

    r->entrance[0] = '\0';

    if (r->view.entrance.len >= sizeof(r->entrance)) {
        return -1;
    }

    (void) snprintf(url, sizeof(url), "http://%.*s/",
                    (int) r->view.entrance.len, r->view.entrance.data);
    (void) snprintf(name, sizeof(name), "r.%.*s.sock",
                    (int) r->view.entrance.len, r->view.entrance.data);

    if (zone_path(path, sizeof(path), d->policy.path, name) != 0) {
        return -1;
    }

    set(CURLOPT_URL, url);
    set(CURLOPT_UNIX_SOCKET_PATH, path);

    memcpy(r->entrance, r->view.entrance.data, r->view.entrance.len);
    r->entrance[r->view.entrance.len] = '\0';

    return 0;
}


static int
replay_line(struct replay *r, uint32_t *n, char *line)
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
replay_empty_value(char *line)
{
    char  *colon;

    colon = strchr(line, ':');

    if (colon && colon[1 + strspn(colon + 1, " \t")] == '\0') {
        colon[0] = ';';
        colon[1] = '\0';
    }
}


static int
replay_stored_lines(struct replay *r, uint32_t *n, int *host)
{
    char    *p, *end;
    size_t   i, len;

    p = (char *) (uintptr_t) r->view.headers.data;  /* our own copy */
    end = p + r->view.headers.len;

    for ( /* void */ ; p < end; p += len + 1) {
        len = strlen(p);                        /* parsed: has its NUL */

        for (i = 0; i < ARRAY_LENGTH(replay_framing); i++) {
            if (strncasecmp(p, replay_framing[i], strlen(replay_framing[i]))
                == 0)
            {
                break;
            }
        }

        if (i < ARRAY_LENGTH(replay_framing)) {
            continue;
        }

        if (strncasecmp(p, "Host:", 5) == 0) {
            *host = 1;

        } else {
            replay_empty_value(p);
        }

        if (replay_line(r, n, p) != 0) {
            return -1;
        }
    }

    return 0;
}


/* The stored lines, ours, and what silences libcurl's own. */

static int
replay_headers(struct attempt *a)
{
    int             host, len;
    char            id[ZONE_ID_TEXT];
    size_t          at[3];
    uint32_t        i, n;
    struct replay  *r = &a->replay;

    n = 0;
    host = 0;

    if (replay_stored_lines(r, &n, &host) != 0) {
        return -1;
    }

    r->text.len = 0;

    if (buf_reserve(&r->text, 256 + r->view.context.len) != 0) {
        return -1;
    }

    zone_id_format(id, a->op.row.id);

#define text(...)                                                            \
    snprintf((char *) r->text.data + r->text.len,                            \
             r->text.cap - r->text.len, __VA_ARGS__)

    at[0] = r->text.len;
    len = text("Offload-Attempt: %u", a->op.row.attempts);
    r->text.len += (size_t) len + 1;

    at[1] = r->text.len;
    len = text("Idempotency-Key: %.*s", ZONE_ID_TEXT, id);
    r->text.len += (size_t) len + 1;

    at[2] = r->text.len;
    len = text("Offload-Job-Id: %.*s %.*s", ZONE_ID_TEXT, id,
               (int) r->view.context.len, r->view.context.data);
    r->text.len += (size_t) len + 1;

#undef text

    for (i = 0; i < 3; i++) {
        if (i == 1 && (r->view.fixed.flags & ZONE_REQUEST_CLIENT_KEY)) {
            continue;
        }

        if (replay_line(r, &n, (char *) r->text.data + at[i]) != 0) {
            return -1;
        }
    }

    if (!host && replay_line(r, &n, (char *) (uintptr_t) "Host:") != 0) {
        return -1;
    }

    for (i = 0; i < n; i++) {
        r->lines[i].next = i + 1 < n ? &r->lines[i + 1] : replay_silent;
    }

    set(CURLOPT_HTTPHEADER, r->lines);

    /* a request without a Host was one of HTTP/1.0, and is again */

    set(CURLOPT_HTTP_VERSION, host ? (long) CURL_HTTP_VERSION_1_1
                                   : (long) CURL_HTTP_VERSION_1_0);
    set(CURLOPT_FORBID_REUSE, host ? 0L : 1L);

    return 0;
}


static int
replay_body_file(struct offloadd *d, struct attempt *a)
{
    char            path[PATH_MAX];
    struct stat     st;
    struct replay  *r = &a->replay;

    if (files_path(path, sizeof(path), d->policy.store, ZONE_DIR_SPOOL,
                   a->op.row.id, "")
        != 0)
    {
        return -1;
    }

    r->body_fd = open(path, O_RDONLY|O_CLOEXEC|O_NOFOLLOW|O_NONBLOCK);

    if (r->body_fd == -1) {
        r->body_lost = errno == ENOENT;
        return -1;
    }

    if (fstat(r->body_fd, &st) == -1 || !S_ISREG(st.st_mode)
        || (uint64_t) st.st_size != r->view.fixed.body_size)
    {
        r->body_lost = 1;
        return -1;
    }

    return 0;
}


/*
 * A large body may have been sent long before its answer comes: then its
 * memory is given back.  For that the strings before it move to memory of
 * their own.
 */

static int
replay_split(struct attempt *a)
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
replay_method_is(const struct replay *r, const char *name)
{
    return r->view.method.len == strlen(name)
           && memcmp(r->view.method.data, name, r->view.method.len) == 0;
}


/*
 * HEAD has no use for a body, and libcurl no way to send one.  POST, PUT and
 * PATCH without one say so (Content-Length: 0).
 */

static int
replay_body(struct attempt *a)
{
    struct replay  *r = &a->replay;
    uint64_t        size = r->view.fixed.body_size;

    set(CURLOPT_HTTPGET, 1L);                   /* undoes what follows */

    if (replay_method_is(r, "HEAD")) {
        set(CURLOPT_NOBODY, 1L);
        return 0;
    }

    if (r->body_fd != -1 || size > REPLAY_POSTFIELDS_MAX) {
        set(CURLOPT_UPLOAD, 1L);
        set(CURLOPT_INFILESIZE_LARGE, (curl_off_t) size);
        return 0;
    }

    if (size > 0 || replay_method_is(r, "POST") || replay_method_is(r, "PUT")
        || replay_method_is(r, "PATCH"))
    {
        set(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) size);
        set(CURLOPT_POSTFIELDS, size ? r->view.body.data : "");
    }

    return 0;
}


static int
replay_target(struct attempt *a)
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


/*
 * 0: on its way.  -1: not even begun; replay_outcome() says what that means.
 */

int
replay_start(struct offloadd *d, struct attempt *a)
{
    const char     *wrong;
    struct replay  *r = &a->replay;

    r->error[0] = '\0';
    r->body_sent = 0;
    r->body_fd = -1;
    r->fd = -1;
    r->connect_errno = 0;
    r->begun = 0;
    r->resend = 0;
    r->body_lost = 0;

    wrong = zone_request_parse(&r->view, a->op.request.data,
                               a->op.request.len);
    if (wrong) {
        (void) snprintf(r->error, sizeof(r->error), "stored request: %s",
                        wrong);
        r->body_lost = 1;
        return -1;
    }

    if ((r->view.fixed.flags & ZONE_REQUEST_BODY_FILE)
        && replay_body_file(d, a) != 0)
    {
        return -1;
    }

    if (r->view.body.len > REPLAY_POSTFIELDS_MAX && replay_split(a) != 0) {
        return -1;
    }

    r->text.len = 0;

    /* the target first: text may move while it grows */

    if (replay_handle(d, a) != 0 || replay_entrance(d, r) != 0
        || replay_target(a) != 0 || replay_headers(a) != 0
        || replay_body(a) != 0
        || curl_easy_setopt(r->easy, CURLOPT_TIMEOUT_MS,
                            (long) (r->view.fixed.timeout_s * 1000ull))
           != CURLE_OK)
    {
        (void) snprintf(r->error, sizeof(r->error), "out of memory");
        return -1;
    }

    if (curl_multi_add_handle(d->loop.multi, r->easy) != CURLM_OK) {
        return -1;
    }

    r->active = 1;

    return 0;
}


/* Done, or to be done no more: then its connection is closed, not kept. */

void
replay_stop(struct offloadd *d, struct attempt *a)
{
    struct replay  *r = &a->replay;

    if (r->active) {
        r->active = 0;
        (void) curl_multi_remove_handle(d->loop.multi, r->easy);
    }

    if (r->body_fd != -1) {
        close(r->body_fd);
        r->body_fd = -1;
    }
}


void
replay_free(struct replay *r)
{
    if (r->easy) {
        curl_easy_cleanup(r->easy);
    }

    free(r->lines);
    buf_free(&r->text);
    buf_free(&r->head);
}


static curl_socket_t
replay_open(void *ctx, curlsocktype purpose, struct curl_sockaddr *address)
{
    int             fd;
    struct attempt *a = ctx;

    (void) purpose;

    if (a->replay.begun) {
        a->replay.resend = 1;                   /* see above */
        return CURL_SOCKET_BAD;
    }

    fd = socket(address->family,
                address->socktype|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);

    if (fd == -1 || loop_add_socket(a->daemon, fd) != 0) {
        a->replay.connect_errno = errno;

        if (fd != -1) {
            close(fd);
        }

        return CURL_SOCKET_BAD;
    }

    a->replay.fd = fd;

    return fd;
}


/*
 * Just before the request is sent.  A unix socket whose listener's queue is
 * full says EAGAIN, which libcurl takes for a connection under way, and then
 * for a connection.
 */

static int
replay_before(void *ctx, char *remote, char *local, int rport, int lport)
{
    socklen_t            len;
    struct attempt      *a = ctx;
    struct sockaddr_un   peer;

    (void) remote;
    (void) local;
    (void) rport;
    (void) lport;

    if (a->replay.begun) {
        a->replay.resend = 1;
        return CURL_PREREQFUNC_ABORT;
    }

    len = sizeof(peer);

    if (a->replay.fd != -1
        && getpeername(a->replay.fd, (struct sockaddr *) &peer, &len) == -1)
    {
        a->replay.connect_errno = EAGAIN;
        return CURL_PREREQFUNC_ABORT;
    }

    a->replay.begun = 1;

    ZONE_FAILPOINT("attempt.sent");

    return CURL_PREREQFUNC_OK;
}


static size_t
replay_read(char *to, size_t size, size_t n, void *ctx)
{
    size_t           room = size * n;
    ssize_t          got;
    uint64_t         left;
    struct attempt  *a = ctx;
    struct replay   *r = &a->replay;

    left = r->view.fixed.body_size - r->body_sent;

    if (left == 0) {
        return 0;
    }

    if (room > left) {
        room = (size_t) left;
    }

    if (r->body_fd != -1) {
        got = pread(r->body_fd, to, room, (off_t) r->body_sent);

        if (got <= 0) {
            r->body_lost = 1;
            return CURL_READFUNC_ABORT;
        }

        r->body_sent += (uint64_t) got;
        return (size_t) got;
    }

    memcpy(to, r->view.body.data + r->body_sent, room);
    r->body_sent += room;

    if (r->body_sent == r->view.fixed.body_size) {
        r->view.body.data = NULL;
        buf_free(&a->op.request);               /* see replay_split() */
    }

    return room;
}


static int
replay_seek(void *ctx, curl_off_t offset, int origin)
{
    struct attempt *a = ctx;

    if (origin != SEEK_SET || offset < 0
        || (uint64_t) offset > a->replay.view.fixed.body_size
        || (a->replay.body_fd == -1 && a->replay.view.body.data == NULL))
    {
        return CURL_SEEKFUNC_FAIL;
    }

    a->replay.body_sent = (uint64_t) offset;

    return CURL_SEEKFUNC_OK;
}


static size_t
replay_header(char *line, size_t size, size_t n, void *ctx)
{
    struct attempt *a = ctx;

    return result_header(&a->result, line, size * n) == 0 ? size * n : 0;
}


static size_t
replay_write(char *p, size_t size, size_t n, void *ctx)
{
    size_t          len = size * n;
    struct attempt *a = ctx;

    if (result_body(&a->result, a->daemon->policy.store, a->op.row.id, p, len)
        != 0)
    {
        return len == 0;                        /* anything but len */
    }

    return len;
}


/* What came of it; `code` is libcurl's. */

int
replay_outcome(struct attempt *a, CURLcode code)
{
    long            status, err;
    struct replay  *r = &a->replay;

    if (r->body_lost) {
        return REPLAY_LOST;
    }

    if (a->result.err || a->result.too_large) {
        return REPLAY_NOT_STORED;
    }

    if (!r->begun) {
        if (r->connect_errno == 0 && code == CURLE_COULDNT_CONNECT) {
            err = 0;
            (void) curl_easy_getinfo(r->easy, CURLINFO_OS_ERRNO, &err);
            r->connect_errno = (int) err;
        }

        return code == CURLE_OPERATION_TIMEDOUT ? REPLAY_TIMEOUT
                                                : REPLAY_UNREACHED;
    }

    if (code == CURLE_OPERATION_TIMEDOUT) {
        return REPLAY_TIMEOUT;
    }

    status = 0;

    if (code != CURLE_OK
        || curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status)
           != CURLE_OK
        || status < 200 || status > 999 || !a->result.complete)
    {
        return REPLAY_CUT_OFF;
    }

    a->op.row.http_status = (uint16_t) status;

    return REPLAY_ANSWERED;
}
