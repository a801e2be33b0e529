/*
 * The control interface's server: socket, connections, libmicrohttpd in the
 * loop.  Loop thread.  The connections are accepted here and not by the
 * library, which would try again at once when there are no descriptors left.
 *
 * Who may connect is a matter of the directory (0700) and the socket (0600);
 * whoever comes in all the same and is neither the worker's user nor root is
 * answered 403.  A kill leaves the socket's file, to be replaced.
 */

#include "offloadd.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>


#define CONTROL_BACKLOG       16
#define CONTROL_MEMORY        (32u * 1024)      /* a request's header */


static int control_watch(struct offloadd *d, int op, int fd, uint32_t events);
static void control_listen(struct offloadd *d, int on);


static void
control_library_log(void *ctx, const char *fmt, va_list ap)
{
    char    text[512];
    size_t  n;

    (void) ctx;
    (void) vsnprintf(text, sizeof(text), fmt, ap);

    n = strlen(text);
    if (n && text[n - 1] == '\n') {
        text[n - 1] = '\0';
    }

    log_text(LOG_DEBUG, "control: %s", text);
}


/* Names and ids need no %XX: what has one is none, and stays what it is. */

static size_t
control_unescape(void *ctx, struct MHD_Connection *c, char *text)
{
    (void) ctx;
    (void) c;

    return strlen(text);
}


static void
control_credentials(struct control_peer *p)
{
    socklen_t     len;
    struct ucred  cred;

    len = sizeof(cred);
    p->uid = (uint32_t) -1;
    p->stranger = 1;

    if (getsockopt(p->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0
        && len == sizeof(cred))
    {
        p->uid = (uint32_t) cred.uid;
        p->pid = (uint32_t) cred.pid;
        p->stranger = cred.uid != 0 && cred.uid != geteuid();
    }
}


static void
control_notify(void *ctx, struct MHD_Connection *c, void **socket,
    enum MHD_ConnectionNotificationCode code)
{
    struct offloadd                 *d = ctx;
    struct control_peer             *p;
    const union MHD_ConnectionInfo  *info;

    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        p = calloc(1, sizeof(*p));
        *socket = p;

        if (p == NULL || info == NULL) {
            return;                             /* answered 403 */
        }

        p->fd = info->connect_fd;
        p->since_ms = mono_ms();
        control_credentials(p);

        p->next = d->control.peers;
        if (p->next) {
            p->next->prev = p;
        }

        d->control.peers = p;
        d->control.npeers++;
        return;
    }

    p = *socket;
    *socket = NULL;

    if (p == NULL) {
        return;
    }

    if (p->prev) {
        p->prev->next = p->next;
    } else {
        d->control.peers = p->next;
    }

    if (p->next) {
        p->next->prev = p->prev;
    }

    d->control.npeers--;
    free(p);

    if (d->control.deaf && !d->control.stopping) {
        control_listen(d, 1);
    }
}


static void
control_completed(void *ctx, struct MHD_Connection *c, void **request,
    enum MHD_RequestTerminationCode code)
{
    struct control_request  *r = *request;

    (void) ctx;
    (void) c;
    (void) code;

    if (r) {
        r->peer->since_ms = mono_ms();
        control_request_free(r);
        *request = NULL;
    }
}


/*
 * Called with the header, then with what there is of a body, then, without
 * one, for the answer; and for that again when a suspended one goes on.
 */

static enum MHD_Result
control_access(void *ctx, struct MHD_Connection *c, const char *path,
    const char *method, const char *version, const char *body, size_t *size,
    void **request)
{
    struct control_request          *r = *request;
    const union MHD_ConnectionInfo  *info;

    (void) version;
    (void) body;

    if (r == NULL) {
        info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

        if (info == NULL || info->socket_context == NULL) {
            return MHD_NO;
        }

        r = control_request_new(ctx, c, info->socket_context);
        *request = r;

        if (r == NULL) {
            return MHD_NO;
        }

        return r->status && control_request_queue(r) != 0 ? MHD_NO : MHD_YES;
    }

    if (*size) {
        r->body += *size;
        *size = 0;
        return r->body <= CONTROL_BODY_DROP ? MHD_YES : MHD_NO;
    }

    if (!r->routed) {
        r->routed = 1;
        control_route(r, method, path);
    }

    if (r->suspended) {
        control_request_suspend(r);
        return MHD_YES;
    }

    return control_request_queue(r) == 0 ? MHD_YES : MHD_NO;
}


static int
control_bind(struct offloadd *d, struct zone_error *e)
{
    int   fd;
    char  path[PATH_MAX];

    if (zone_path(path, sizeof(path), d->policy.path, CONTROL_SOCKET) != 0) {
        e->err = ENAMETOOLONG;
        (void) snprintf(e->text, sizeof(e->text), "\"path\" is too long");
        return -1;
    }

    fd = zone_socket_bind(path, SOCK_STREAM, e);

    if (fd != -1 && listen(fd, CONTROL_BACKLOG) == -1) {
        e->err = errno;
        (void) snprintf(e->text, sizeof(e->text), "listen() on \"%.200s\": "
                        "%s", path, strerror(errno));
        close(fd);
        return -1;
    }

    return fd;
}


static int
control_start(struct offloadd *d)
{
    struct control               *k = &d->control;
    const union MHD_DaemonInfo   *info;

    k->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET
                              | MHD_USE_ERROR_LOG | MHD_ALLOW_SUSPEND_RESUME,
                   0, NULL, NULL, control_access, d,
                   MHD_OPTION_EXTERNAL_LOGGER, control_library_log, NULL,
                   MHD_OPTION_CONNECTION_LIMIT, CONTROL_CONNECTIONS + 1u,
                   MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                                (size_t) CONTROL_MEMORY,
                   MHD_OPTION_CONNECTION_TIMEOUT, CONTROL_IDLE_S + 0u,
                   MHD_OPTION_STRICT_FOR_CLIENT, 1,
                   MHD_OPTION_UNESCAPE_CALLBACK, control_unescape, NULL,
                   MHD_OPTION_NOTIFY_CONNECTION, control_notify, d,
                   MHD_OPTION_NOTIFY_COMPLETED, control_completed, d,
                   MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
                   MHD_OPTION_END);

    if (k->mhd == NULL) {
        return -1;
    }

    info = MHD_get_daemon_info(k->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    k->epoll = info ? info->epoll_fd : -1;

    return k->epoll != -1
           && control_watch(d, EPOLL_CTL_ADD, k->epoll, EPOLLIN) == 0
           && control_watch(d, EPOLL_CTL_ADD, k->listen, EPOLLIN) == 0
           ? 0 : -1;
}


/* A worker that can not be controlled is better than none. */

int
control_init(struct offloadd *d)
{
    struct control     *k = &d->control;
    struct zone_error   e;

    k->writes_last = &k->writes;
    k->started_ms = clock_ms();
    k->mono_ms = mono_ms();
    k->epoll = -1;
    k->listen = control_bind(d, &e);

    if (k->listen == -1) {
        log_text(LOG_ERROR, "there is no control interface: %s", e.text);
        return -1;
    }

    if (control_start(d) != 0) {
        log_text(LOG_ERROR, "there is no control interface: libmicrohttpd "
                 "could not be started");
        control_stop(d);
        return -1;
    }

    return 0;
}


/* Who still waits is told that it was for nothing. */

void
control_stop(struct offloadd *d)
{
    struct control  *k = &d->control;

    k->stopping = 1;

    while (k->suspended) {
        control_request_late(k->suspended);
    }

    if (k->mhd) {
        (void) MHD_run(k->mhd);                 /* they are told */
        MHD_stop_daemon(k->mhd);
        k->mhd = NULL;
    }

    if (k->listen != -1) {
        close(k->listen);
        k->listen = -1;
    }
}


void
control_free(struct offloadd *d)
{
    while (d->control.ops) {
        control_op_free(d, d->control.ops);
    }
}


static int
control_watch(struct offloadd *d, int op, int fd, uint32_t events)
{
    struct epoll_event  ev;

    memset(&ev, 0, sizeof(ev));
    ev.events = events;
    ev.data.fd = fd;

    return epoll_ctl(d->loop.epoll, op, fd, &ev);
}


static void
control_listen(struct offloadd *d, int on)
{
    struct control  *k = &d->control;

    if (k->listen != -1) {
        (void) control_watch(d, EPOLL_CTL_MOD, k->listen, on ? EPOLLIN : 0);
        k->deaf = !on;
    }
}


/* Too many of them, or no descriptor: the others wait to be accepted. */

static void
control_accept(struct offloadd *d)
{
    int                  fd;
    socklen_t            len;
    struct sockaddr_un   addr;
    struct control      *k = &d->control;

    while (k->npeers < CONTROL_CONNECTIONS) {
        len = sizeof(addr);
        fd = accept4(k->listen, (struct sockaddr *) &addr, &len,
                     SOCK_CLOEXEC|SOCK_NONBLOCK);

        if (fd == -1) {
            if (errno == EAGAIN) {
                return;
            }

            if (errno == EINTR || errno == ECONNABORTED) {
                continue;
            }

            log_text(LOG_WARN, "control: accept4(): %s", strerror(errno));
            break;
        }

        k->ready = 1;

        if (MHD_add_connection(k->mhd, fd, (struct sockaddr *) &addr, len)
            != MHD_YES)
        {
            break;                              /* closed by the library */
        }
    }

    control_listen(d, 0);
}


int
control_ready(struct offloadd *d, int fd)
{
    struct control  *k = &d->control;

    if (k->mhd == NULL) {
        return 0;
    }

    if (fd == k->listen) {
        control_accept(d);
        return 1;
    }

    if (fd == k->epoll) {
        k->ready = 1;
        return 1;
    }

    return 0;
}


void
control_run(struct offloadd *d)
{
    struct control  *k = &d->control;

    if (k->mhd && control_next(d) <= mono_ms()) {
        k->ready = 0;
        (void) MHD_run(k->mhd);
    }
}


uint64_t
control_next(const struct offloadd *d)
{
    MHD_UNSIGNED_LONG_LONG  ms;

    if (d->control.ready) {
        return 0;
    }

    if (d->control.mhd == NULL || d->control.npeers == 0
        || MHD_get_timeout(d->control.mhd, &ms) != MHD_YES)
    {
        return UINT64_MAX;
    }

    return mono_ms() + ms;
}


/* The library ends who is silent, this who sends or takes a byte at times. */

void
control_tick(struct offloadd *d)
{
    uint64_t                 now = mono_ms();
    struct control          *k = &d->control;
    struct control_peer     *p;
    struct control_request  *r, *next;

    for (r = k->suspended; r; r = next) {
        next = r->next;

        r->peer->since_ms = now;                /* it is not its fault */

        if (now >= r->until_ms) {
            control_request_late(r);
        }
    }

    for (p = k->peers; p; p = p->next) {

        if (now - p->since_ms >= CONTROL_STEP_MS && !p->cut) {
            p->cut = 1;
            (void) shutdown(p->fd, SHUT_RDWR);
            k->ready = 1;
        }
    }

    if (k->deaf && k->npeers < CONTROL_CONNECTIONS) {
        control_listen(d, 1);
    }
}
