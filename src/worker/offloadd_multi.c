/*
 * libcurl's multi handles and their sockets.  Main thread, called by the
 * loop; nothing here outlives the process.
 *
 * libcurl goes through all connections of a multi handle for each transfer
 * that begins, and again for each that ends.  So there are several of them,
 * and a replay's handle always belongs to the same one (multi_of()).
 *
 * libcurl wants to be told about a socket only while a request is under way,
 * and says so twice for each.  Sockets stay registered for reading all their
 * life instead: a connection that is kept alive costs no epoll_ctl() at all.
 *
 * The last multi handle is for webhooks.  Those look names up, and the sockets
 * by which libcurl hears of the end of that it closes itself, without a word:
 * there all is done as libcurl says.
 */

#include "offloadd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>


/* What epoll knows of an fd, and what libcurl wants of it. */
enum multi_fd {
    MULTI_FD_IN = 1,
    MULTI_FD_OUT = 2,
    MULTI_FD_WANTED = 4,
    MULTI_FD_OURS = 8                           /* in epoll until it is closed;
                                                   else a resolver's, or a
                                                   webhook's */
};


static int multi_on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx,
    void *sp);
static int multi_on_timer(CURLM *curl, long ms, void *ctx);


int
multi_init(struct offloadd *d, uint32_t nfds)
{
    uint32_t       i;
    struct multi  *m;

    d->loop.nfds = nfds;
    d->loop.fds = calloc(nfds, sizeof(d->loop.fds[0]));

    if (d->loop.fds == NULL) {
        return -1;
    }

    for (i = 0; i <= LOOP_HOOKS; i++) {
        m = &d->loop.multis[i];

        m->daemon = d;
        m->at = UINT64_MAX;
        m->curl = curl_multi_init();

        if (m->curl == NULL
            || curl_multi_setopt(m->curl, CURLMOPT_PIPELINING,
                                 CURLPIPE_NOTHING)
            || curl_multi_setopt(m->curl, CURLMOPT_SOCKETFUNCTION,
                                 multi_on_socket)
            || curl_multi_setopt(m->curl, CURLMOPT_SOCKETDATA, m)
            || curl_multi_setopt(m->curl, CURLMOPT_TIMERFUNCTION,
                                 multi_on_timer)
            || curl_multi_setopt(m->curl, CURLMOPT_TIMERDATA, m))
        {
            return -1;
        }
    }

    return 0;
}


void
multi_free(struct offloadd *d)
{
    uint32_t  i;

    for (i = 0; i <= LOOP_HOOKS; i++) {
        if (d->loop.multis[i].curl) {
            (void) curl_multi_cleanup(d->loop.multis[i].curl);
            d->loop.multis[i].curl = NULL;
        }
    }

    free(d->loop.fds);
    d->loop.fds = NULL;
}


/* How many connections are kept, with room for what is being replaced. */

void
multi_limits(struct offloadd *d)
{
    long      keep;
    uint32_t  i;

    keep = (long) d->policy.concurrency * 2 / LOOP_MULTIS + 8;

    for (i = 0; i <= LOOP_HOOKS; i++) {
        (void) curl_multi_setopt(d->loop.multis[i].curl,
                                 CURLMOPT_MAXCONNECTS, keep);
    }
}


CURLM *
multi_of(struct offloadd *d, const struct replay_handle *h)
{
    return d->loop.multis[h->number % LOOP_MULTIS].curl;
}


int
multi_add_socket(struct offloadd *d, int fd)
{
    if (loop_epoll_add(&d->loop, fd) == -1) {
        return -1;
    }

    d->loop.fds[fd].state = MULTI_FD_IN|MULTI_FD_OURS;

    return 0;
}


int
multi_close_socket(void *ctx, curl_socket_t fd)
{
    struct offloadd  *d = ctx;

    if ((uint32_t) fd < d->loop.nfds) {
        d->loop.fds[fd].state = 0;
    }

    return close(fd);                           /* epoll forgets it, too */
}


static int
multi_on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *sp)
{
    uint8_t              mask;
    struct multi        *m = ctx;
    struct loop         *l = &m->daemon->loop;
    struct epoll_event   ev;

    (void) easy;
    (void) sp;

    if ((uint32_t) fd >= l->nfds) {
        return -1;
    }

    l->fds[fd].multi = (uint8_t) (m - l->multis);
    mask = l->fds[fd].state;

    if (what == CURL_POLL_REMOVE) {
        if (mask == 0) {
            return 0;                           /* closed already */
        }

        if (!(mask & MULTI_FD_OURS)) {
            (void) epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
            l->fds[fd].state = 0;
            return 0;
        }

        mask &= (uint8_t) ~MULTI_FD_WANTED;

    } else {
        mask |= MULTI_FD_WANTED;
    }

    /* reading stays on, writing only while wanted: it is always possible */

    memset(&ev, 0, sizeof(ev));
    ev.data.fd = fd;
    ev.events = EPOLLIN;

    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT) {
        ev.events |= EPOLLOUT;
    }

    if (((mask & MULTI_FD_OUT) != 0) != ((ev.events & EPOLLOUT) != 0)
        || !(mask & MULTI_FD_IN))
    {
        if (epoll_ctl(l->epoll,
                      mask & MULTI_FD_IN ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd,
                      &ev)
            == -1)
        {
            log_text(LOG_ERROR, "epoll_ctl: %s", strerror(errno));
            return -1;
        }

        mask = (uint8_t) ((mask & (MULTI_FD_WANTED|MULTI_FD_OURS))
                          | MULTI_FD_IN
                          | (ev.events & EPOLLOUT ? MULTI_FD_OUT : 0));
    }

    l->fds[fd].state = mask;

    return 0;
}


static int
multi_on_timer(CURLM *curl, long ms, void *ctx)
{
    struct multi  *m = ctx;

    (void) curl;

    m->at = ms < 0 ? UINT64_MAX : mono_ms() + (uint64_t) ms;

    return 0;
}


/* epoll says that something is to be done with a socket of libcurl's. */

void
multi_ready(struct offloadd *d, int fd, uint32_t events)
{
    int           running, mask;
    struct loop  *l = &d->loop;

    if (!(l->fds[fd].state & MULTI_FD_WANTED)) {

        /* an idle connection was closed; libcurl will see it in time */

        (void) epoll_ctl(l->epoll, EPOLL_CTL_DEL, fd, NULL);
        l->fds[fd].state &= (uint8_t) ~(MULTI_FD_IN|MULTI_FD_OUT);
        return;
    }

    mask = (events & (EPOLLIN|EPOLLHUP) ? CURL_CSELECT_IN : 0)
           | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0)
           | (events & EPOLLERR ? CURL_CSELECT_ERR : 0);

    l->multis[l->fds[fd].multi].ready = 1;

    (void) curl_multi_socket_action(l->multis[l->fds[fd].multi].curl, fd,
                                    mask, &running);
}


static void
multi_ended(struct offloadd *d, CURLM *curl)
{
    int              left;
    char            *private;
    CURLMsg         *msg;
    CURLcode         code;
    struct attempt  *a;

    while ((msg = curl_multi_info_read(curl, &left)) != NULL) {
        if (msg->msg != CURLMSG_DONE) {
            continue;
        }

        code = msg->data.result;

        if (curl == d->loop.multis[LOOP_HOOKS].curl) {
            hook_finished(d, msg->easy_handle, code);
            continue;
        }

        private = NULL;
        (void) curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE,
                                 &private);
        a = (struct attempt *) (void *) private;

        if (a && a->stage == ATTEMPT_REPLAYING) {
            attempt_ended(d, a, code);
        }
    }
}


/* Whatever of libcurl's is due, and all that ended. */

void
multi_run(struct offloadd *d)
{
    int            running;
    uint32_t       i, again;
    uint64_t       now;
    struct multi  *m;

    do {
        again = 0;
        now = mono_ms();

        for (i = 0; i <= LOOP_HOOKS; i++) {
            m = &d->loop.multis[i];

            if (m->at <= now) {
                m->at = UINT64_MAX;
                m->ready = 1;
                (void) curl_multi_socket_action(m->curl, CURL_SOCKET_TIMEOUT,
                                                0, &running);
            }

            if (m->ready) {
                m->ready = 0;
                again = 1;
                multi_ended(d, m->curl);
            }
        }

    } while (again);
}


uint64_t
multi_next(const struct offloadd *d)
{
    uint32_t  i;
    uint64_t  at = UINT64_MAX;

    for (i = 0; i <= LOOP_HOOKS; i++) {
        if (d->loop.multis[i].at < at) {
            at = d->loop.multis[i].at;
        }
    }

    return at;
}
