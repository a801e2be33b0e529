/*
 * One request, sent by libcurl: through nginx's entrance, or straight to its
 * queue's URL.  Loop thread.
 *
 * Easy handles are used again and again: what is the same for all requests is
 * set once, the rest each time.  libcurl adds no header of its own but
 * Content-Length, follows nothing, decodes nothing.
 *
 * libcurl would send a request a second time by itself when a connection
 * that was kept alive turns out to be dead.  But then nginx may have had it,
 * and a backend would see one attempt twice: replay_before() forbids that,
 * and the attempt counts as cut off.  At most once
 * would make that a loss, so such a request has a connection made for it.
 */

#include "offloadd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>


#define REPLAY_CONNECT_MS     60000L


static curl_socket_t replay_socket(void *ctx, curlsocktype purpose,
    struct curl_sockaddr *address);
static int replay_before(void *ctx, char *remote, char *local, int rport,
    int lport);
static size_t replay_read(char *to, size_t size, size_t n, void *ctx);
static int replay_seek(void *ctx, curl_off_t offset, int origin);
static size_t replay_header(char *line, size_t size, size_t n, void *ctx);
static size_t replay_write(char *p, size_t size, size_t n, void *ctx);


#define set(option, value)                                                   \
    do {                                                                     \
        if (curl_easy_setopt(easy, option, value) != CURLE_OK) {             \
            return -1;                                                       \
        }                                                                    \
    } while (0)


/* What is the same for all requests. */

static int
replay_set_handle(struct offloadd *d, CURL *easy)
{
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_PROXY, "");
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_HTTP09_ALLOWED, 0L);
    set(CURLOPT_MAXAGE_CONN, 30L);
    set(CURLOPT_BUFFERSIZE, 65536L);
    set(CURLOPT_OPENSOCKETFUNCTION, replay_socket);
    set(CURLOPT_CLOSESOCKETFUNCTION, multi_close_socket);
    set(CURLOPT_CLOSESOCKETDATA, d);
    set(CURLOPT_PREREQFUNCTION, replay_before);
    set(CURLOPT_READFUNCTION, replay_read);
    set(CURLOPT_SEEKFUNCTION, replay_seek);
    set(CURLOPT_HEADERFUNCTION, replay_header);
    set(CURLOPT_WRITEFUNCTION, replay_write);

    return 0;
}


static struct replay_handle *
replay_get_handle(struct offloadd *d)
{
    struct replay_handle  *h;

    h = d->attempts.handles;

    if (h) {
        d->attempts.handles = h->next;
        d->attempts.nhandles--;
        return h;
    }

    h = calloc(1, sizeof(*h));
    if (h == NULL) {
        return NULL;
    }

    h->easy = curl_easy_init();

    if (h->easy == NULL || replay_set_handle(d, h->easy) != 0) {
        curl_easy_cleanup(h->easy);
        free(h);
        return NULL;
    }

    h->number = d->attempts.made++;

    return h;
}


static void
replay_put_handle(struct offloadd *d, struct replay_handle *h)
{
    /* from a CA of its own there is no way back to the system's */

    if (h->private_ca) {
        curl_easy_cleanup(h->easy);
        free(h);
        return;
    }

    /* what points into an attempt does not outlast it */

    (void) curl_easy_setopt(h->easy, CURLOPT_ERRORBUFFER, NULL);
    (void) curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, NULL);
    (void) curl_easy_setopt(h->easy, CURLOPT_PRIVATE, NULL);

    if (d->attempts.nhandles >= REPLAY_HANDLES) {
        curl_easy_cleanup(h->easy);
        free(h);
        return;
    }

    h->next = d->attempts.handles;
    d->attempts.handles = h;
    d->attempts.nhandles++;
}


void
replay_free_handles(struct offloadd *d)
{
    struct replay_handle  *h, *next;

    for (h = d->attempts.handles; h; h = next) {
        next = h->next;
        curl_easy_cleanup(h->easy);
        free(h);
    }
}


static int
replay_set_attempt(struct attempt *a, CURL *easy)
{
    set(CURLOPT_PRIVATE, a);
    set(CURLOPT_ERRORBUFFER, a->replay.error);
    set(CURLOPT_OPENSOCKETDATA, a);
    set(CURLOPT_PREREQDATA, a);
    set(CURLOPT_READDATA, a);
    set(CURLOPT_SEEKDATA, a);
    set(CURLOPT_HEADERDATA, a);
    set(CURLOPT_WRITEDATA, a);
    set(CURLOPT_FRESH_CONNECT,
        a->op.row.flags & STORE_AT_MOST_ONCE ? 1L : 0L);
    set(CURLOPT_TIMEOUT_MS,
        (long) (a->replay.view.fixed.timeout_s * 1000ull));

    return 0;
}


/*
 * Each entrance is a host of its own to libcurl's cache of connections.  The
 * requests' own Host lines are the stored ones.
 */

static int
replay_set_entrance(struct offloadd *d, struct replay *r, CURL *easy)
{
    char                  name[64], path[PATH_MAX], url[64];
    struct zone_str      *e = &r->view.entrance;
    struct replay_handle *h = r->handle;

    if (strlen(h->entrance) == e->len
        && memcmp(h->entrance, e->data, e->len) == 0)
    {
        return 0;
    }

    h->entrance[0] = '\0';

    if (e->len >= sizeof(h->entrance)) {
        return -1;
    }

    (void) snprintf(url, sizeof(url), "http://%.*s/", (int) e->len, e->data);
    (void) snprintf(name, sizeof(name), "r.%.*s.sock", (int) e->len, e->data);

    if (zone_path(path, sizeof(path), d->policy.path, name) != 0) {
        return -1;
    }

    set(CURLOPT_URL, url);
    set(CURLOPT_UNIX_SOCKET_PATH, path);

    memcpy(h->entrance, e->data, e->len);
    h->entrance[e->len] = '\0';

    return 0;
}


/*
 * The URL has no query of its own.  libcurl verifies the certificate and the
 * name in it, as it does unless it is told otherwise.
 */

static int
replay_set_url(struct replay *r, CURL *easy)
{
    int          rc;
    size_t       len;
    struct buf   url;
    const char  *query;

    memset(&url, 0, sizeof(url));
    query = memchr(r->view.uri.data, '?', r->view.uri.len);
    len = query ? (size_t) (r->view.uri.data + r->view.uri.len - query) : 0;

    r->handle->entrance[0] = '\0';

    rc = buf_append(&url, r->pass->url, strlen(r->pass->url)) == 0
         && buf_append(&url, query, len) == 0
         && buf_append(&url, "", 1) == 0
         && curl_easy_setopt(easy, CURLOPT_URL, (char *) url.data) == CURLE_OK
         ? 0 : -1;

    buf_free(&url);

    if (rc != 0) {
        return -1;
    }

    set(CURLOPT_UNIX_SOCKET_PATH, NULL);
    set(CURLOPT_REQUEST_TARGET, NULL);
    set(CURLOPT_CONNECTTIMEOUT_MS, REPLAY_CONNECT_MS);

    if (r->pass->ca[0]) {
        r->handle->private_ca = 1;
        set(CURLOPT_CAINFO, r->pass->ca);
    }

    return 0;
}


static int
replay_body_file(struct offloadd *d, struct attempt *a)
{
    char            path[PATH_MAX];
    struct stat     st;
    struct replay  *r = &a->replay;

    if (files_path(path, sizeof(path), d->policy.store, ZONE_DIR_SPOOL,
                   a->op.row.id, 0)
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


static int
replay_set(struct offloadd *d, struct attempt *a)
{
    CURL           *easy;
    struct replay  *r = &a->replay;

    r->handle = replay_get_handle(d);
    if (r->handle == NULL) {
        return -1;
    }

    easy = r->handle->easy;

    if (replay_set_attempt(a, easy) != 0
        || (r->pass == NULL && replay_set_entrance(d, r, easy) != 0)
        || request_set(a, easy) != 0
        || (r->pass && replay_set_url(r, easy) != 0)
        || curl_multi_add_handle(multi_of(d, r->handle), easy) != CURLM_OK)
    {
        replay_put_handle(d, r->handle);
        r->handle = NULL;
        return -1;
    }

    return 0;
}


int
replay_open(struct offloadd *d, struct attempt *a)
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
    r->text.len = 0;

    wrong = zone_request_parse(&r->view, a->op.request.data,
                               a->op.request.len);
    if (wrong) {
        (void) snprintf(r->error, sizeof(r->error), "stored request: %s",
                        wrong);
        r->body_lost = 1;
        return -1;
    }

    result_limit(&a->result, &r->view);
    trace_child(&r->view, a->op.row.id, a->op.row.attempts);

    if ((r->view.fixed.flags & ZONE_REQUEST_BODY_FILE)
        && replay_body_file(d, a) != 0)
    {
        return -1;
    }

    return 0;
}


static int
replay_begin(struct offloadd *d, struct attempt *a)
{
    if (replay_open(d, a) != 0
        || ((a->replay.view.body.len > REPLAY_POSTFIELDS_MAX || a->carries)
            && request_split(a) != 0))
    {
        return -1;
    }

    return replay_set(d, a);
}


static int
replay_start(struct offloadd *d, struct attempt *a)
{
    a->replay.pass = NULL;

    return replay_begin(d, a);
}


static int
pass_start(struct offloadd *d, struct attempt *a)
{
    a->replay.pass = queues_find(&d->sched.queues, a->queue)->conf.pass;
    a->result.direct = 1;

    return replay_begin(d, a);
}


/* Done, or to be done no more: then its connection is closed, not kept. */

static void
replay_stop(struct offloadd *d, struct attempt *a)
{
    struct replay  *r = &a->replay;

    if (r->handle) {
        (void) curl_multi_remove_handle(multi_of(d, r->handle),
                                        r->handle->easy);
        replay_put_handle(d, r->handle);
        r->handle = NULL;
    }

    if (r->body_fd != -1) {
        close(r->body_fd);
        r->body_fd = -1;
    }
}


void
replay_free(struct replay *r)
{
    free(r->lines);
    buf_free(&r->text);
    buf_free(&r->head);
}


static curl_socket_t
replay_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *address)
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

    if (fd == -1 || multi_add_socket(a->daemon, fd) != 0) {
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

    if (a->replay.fd != -1 && a->replay.pass == NULL
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
        buf_free(&a->op.request);               /* see request_split() */
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

static int
replay_outcome(struct attempt *a, int code)
{
    long            status, err;
    struct replay  *r = &a->replay;

    if (r->body_lost) {
        return REPLAY_LOST;
    }

    if (a->result.err || a->result.too_large) {
        return REPLAY_NOT_STORED;
    }

    if (a->result.over) {
        if (!a->result.truncate) {
            return REPLAY_TOO_LARGE;
        }

        code = CURLE_OK;                        /* ended by us, with enough */
    }

    if (!r->begun) {
        if (r->connect_errno == 0 && code == CURLE_COULDNT_CONNECT) {
            err = 0;
            (void) curl_easy_getinfo(r->handle->easy, CURLINFO_OS_ERRNO,
                                     &err);
            r->connect_errno = err || r->fd == -1 ? (int) err : EAGAIN;
        }

        return r->pass ? REPLAY_CONNECT
               : code == CURLE_OPERATION_TIMEDOUT ? REPLAY_TIMEOUT
                                                  : REPLAY_UNREACHED;
    }

    if (code == CURLE_OPERATION_TIMEDOUT) {
        return REPLAY_TIMEOUT;
    }

    status = 0;

    if ((code != CURLE_OK && !ZONE_MUTANT("result.whole"))
        || curl_easy_getinfo(r->handle->easy, CURLINFO_RESPONSE_CODE,
                             &status)
           != CURLE_OK
        || status < 200 || status > 999 || !a->result.complete)
    {
        return REPLAY_CUT_OFF;
    }

    a->op.row.http_status = (uint16_t) status;

    return REPLAY_ANSWERED;
}


/* libcurl's own words, if it has any. */

static const char *
replay_reason(const struct attempt *a, int code)
{
    if (a->replay.connect_errno) {
        return strerror(a->replay.connect_errno);
    }

    return a->replay.error[0] ? a->replay.error
                              : curl_easy_strerror((CURLcode) code);
}


const struct executor  executor_replay = {
    replay_start, replay_stop, replay_outcome, replay_reason
};

const struct executor  executor_pass = {
    pass_start, replay_stop, replay_outcome, replay_reason
};
