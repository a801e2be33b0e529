/*
 * One delivery by libcurl: what is sent, where it may go, what is read of the
 * answer.  Loop thread; nothing here outlives the process.
 *
 * Where a URL leads is only known when a connection is made, and a name may
 * lead somewhere else each time: so the address is looked at in the moment
 * its socket is opened.  Nothing is redirected and no proxy is asked.
 */

#include "offloadd.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>


static int
hook_address(const struct curl_sockaddr *a, const uint8_t **addr)
{
    if (a->family == AF_INET && a->addrlen >= sizeof(struct sockaddr_in)) {
        *addr = (const uint8_t *)
                &((const struct sockaddr_in *) (const void *)
                  &a->addr)->sin_addr;
        return AF_INET;
    }

    if (a->family == AF_INET6 && a->addrlen >= sizeof(struct sockaddr_in6)) {
        *addr = ((const struct sockaddr_in6 *) (const void *)
                 &a->addr)->sin6_addr.s6_addr;
        return AF_INET6;
    }

    return 0;
}


static curl_socket_t
hook_open(void *ctx, curlsocktype purpose, struct curl_sockaddr *address)
{
    int              fd, family;
    struct hook     *h = ctx;
    const uint8_t   *addr;
    struct zone_str  host;

    (void) purpose;

    host.data = h->e.url + h->e.row.host_at;
    host.len = h->e.row.host_len;
    family = hook_address(address, &addr);

    if (family == 0
        || (!hook_permits(&h->daemon->policy.hooks, h->e.row.queue,
                          h->e.row.hook.flags, &host, family, addr)
            && !ZONE_MUTANT("hook.guard")))
    {
        h->refused = 1;
        return CURL_SOCKET_BAD;
    }

    fd = socket(address->family,
                address->socktype|SOCK_CLOEXEC|SOCK_NONBLOCK,
                address->protocol);

    if (fd != -1 && (uint32_t) fd >= h->daemon->loop.nfds) {
        close(fd);
        fd = -1;
    }

    return fd == -1 ? CURL_SOCKET_BAD : fd;
}


/* Read and thrown away, header and body; there is an end to it. */

static size_t
hook_write(char *p, size_t size, size_t n, void *ctx)
{
    struct hook  *h = ctx;

    (void) p;

    h->received += size * n;

    return h->received <= HOOK_ANSWER_MAX ? size * n : 0;
}


static int
hook_line(struct hook *h, const char *text)
{
    struct curl_slist  *lines;

    lines = curl_slist_append(h->lines, text);
    if (lines == NULL) {
        return -1;
    }

    h->lines = lines;

    return 0;
}


/*
 * Each try is a span of its own below the client's.  One that is made again
 * after a kill is the same try, and the same span.
 */

static int
hook_trace(struct hook *h, const char *id)
{
    int    n;
    char  *p, *end, try[HOOK_ID_MAX + 16];

    p = (char *) h->e.trace.data;
    end = p + h->e.trace.len;

    if (p == end) {
        return 0;
    }

    n = snprintf(try, sizeof(try), "%s.%u", id, h->e.row.attempts + 1);
    trace_span(p + sizeof(TRACE_HEADER) - 1, try, (size_t) n);

    for ( /* void */ ; p < end; p += strlen(p) + 1) {
        if (hook_line(h, p) != 0) {
            return -1;
        }
    }

    return 0;
}


/* -1: not now, for want of memory or of the secret (`refused`). */

static int
hook_lines(struct offloadd *d, struct hook *h)
{
    char                     id[HOOK_ID_MAX], line[256];
    char                     mac[HOOK_SIGNATURE_MAX];
    uint64_t                 now = clock_ms() / 1000;
    const struct hook_file  *secret;

    hook_id(id, &h->e.row);

    (void) snprintf(line, sizeof(line), "webhook-id: %s", id);

    if (hook_line(h, line) != 0
        || hook_line(h, "Content-Type: application/json") != 0
        || hook_line(h, "Expect:") != 0
        || hook_trace(h, id) != 0)
    {
        return -1;
    }

    (void) snprintf(line, sizeof(line), "webhook-timestamp: %" PRIu64, now);

    if (hook_line(h, line) != 0) {
        return -1;
    }

    if (h->e.row.hook.secret == 0) {
        return 0;
    }

    secret = hook_secret(&d->policy.hooks, h->e.row.hook.secret);

    if (secret == NULL) {
        h->refused = 1;                         /* never without signature */
        return ZONE_MUTANT("hook.unsigned") ? 0 : -1;
    }

    if (hook_sign(mac, secret, id, now, &h->e.body) != 0) {
        return -1;
    }

    (void) snprintf(line, sizeof(line), "webhook-signature: %s", mac);

    return hook_line(h, line);
}


#define set(option, value)                                                    \
    rc = rc ? rc : (int) curl_easy_setopt(easy, option, value)

static int
hook_options(struct offloadd *d, struct hook *h, CURL *easy)
{
    int                      rc = 0;
    const struct hook_file  *ca;

    set(CURLOPT_PRIVATE, h);
    set(CURLOPT_URL, h->e.url);
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_PROXY, "");
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_FOLLOWLOCATION, ZONE_MUTANT("hook.redirect") ? 1L : 0L);
    set(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
    set(CURLOPT_USERAGENT, "offloadd/" OFFLOADD_VERSION);
    set(CURLOPT_POST, 1L);
    set(CURLOPT_POSTFIELDS, (const char *) h->e.body.data);
    set(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) h->e.body.len);
    set(CURLOPT_HTTPHEADER, h->lines);
    set(CURLOPT_TIMEOUT_MS, (long) HOOK_TIMEOUT_MS);
    set(CURLOPT_OPENSOCKETFUNCTION, hook_open);
    set(CURLOPT_OPENSOCKETDATA, h);
    set(CURLOPT_CLOSESOCKETFUNCTION, multi_close_socket);
    set(CURLOPT_CLOSESOCKETDATA, d);
    set(CURLOPT_WRITEFUNCTION, hook_write);
    set(CURLOPT_WRITEDATA, h);
    set(CURLOPT_HEADERFUNCTION, hook_write);
    set(CURLOPT_HEADERDATA, h);

    /*
     * A connection that is kept was looked at for whom it was opened: rules
     * may have changed since, and differ between queues.
     */

    if (h->e.row.hook.flags & ZONE_HOOK_GUARDED) {
        set(CURLOPT_FRESH_CONNECT, 1L);
        set(CURLOPT_FORBID_REUSE, 1L);
    }

    if (h->e.row.hook.ca) {
        ca = hook_ca(&d->policy.hooks, h->e.row.hook.ca);

        if (ca == NULL) {
            return -1;
        }

        set(CURLOPT_CAINFO, ca->name);
    }

    return rc;
}


int
hook_send(struct offloadd *d, struct hook *h)
{
    CURL  *easy;

    if (hook_lines(d, h) != 0) {
        return -1;
    }

    easy = curl_easy_init();
    if (easy == NULL) {
        return -1;
    }

    if (hook_options(d, h, easy) != 0
        || curl_multi_add_handle(d->loop.multis[LOOP_HOOKS].curl, easy)
           != CURLM_OK)
    {
        curl_easy_cleanup(easy);
        return -1;
    }

    h->easy = easy;

    return 0;
}


void
hook_stop(struct offloadd *d, struct hook *h)
{
    if (h->easy) {
        if (d->loop.multis[LOOP_HOOKS].curl) {
            (void) curl_multi_remove_handle(d->loop.multis[LOOP_HOOKS].curl,
                                            h->easy);
        }

        curl_easy_cleanup(h->easy);
        h->easy = NULL;
    }

    curl_slist_free_all(h->lines);
    h->lines = NULL;
}


/* A status counts, also when what follows it is too long, or never ends. */

void
hook_finished(struct offloadd *d, CURL *easy, CURLcode code)
{
    int           refused;
    long          status = 0;
    char         *private = NULL;
    curl_off_t    after = 0;
    struct hook  *h;

    (void) curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
    (void) curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    (void) curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &after);

    h = (struct hook *) (void *) private;

    if (h == NULL || !h->sending) {
        return;
    }

    refused = h->refused;
    h->late = code == CURLE_OPERATION_TIMEDOUT && status == 0;
    hook_stop(d, h);

    hooks_ended(d, h, status, after > 0 ? (uint64_t) after : 0,
                refused ? "its address is not allowed"
                        : curl_easy_strerror(code));
}
