/*
 * How long after its 202 a job reaches the backend, one job at a time.
 *
 *     latency <nginx port> <path> <backend port> <jobs> <pause in ms>
 *
 * Client and backend are two threads of one process, so both times come from
 * one clock.  The client posts, notes when it has read the 202, and waits
 * until the backend has seen the request; then it pauses, so that all is idle
 * again, and posts the next.  Prints one number per job, microseconds, in
 * order; negative when the backend was there first.
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>


#define CONNECTIONS  64
#define MESSAGE_MAX  16384
#define WAIT_S       10


/* One HTTP message being received: request or response, small. */

struct message {
    int      fd;
    size_t   len;
    int64_t  first_ns;                          /* its first byte was read */
    char     buf[MESSAGE_MAX + 1];
};


static struct {
    pthread_mutex_t  mutex;
    pthread_cond_t   cond;
    unsigned         count;
    int64_t          ns;
} seen = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 };


static void
die(const char *what)
{
    perror(what);
    exit(1);
}


static int64_t
now_ns(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}


static struct sockaddr_in
loopback(int port)
{
    struct sockaddr_in  sin = { 0 };

    sin.sin_family = AF_INET;
    sin.sin_port = htons(port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    return sin;
}


static void
nodelay(int fd)
{
    int  on = 1;

    (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}


/* 1: the message is whole; 0: more to come; -1: closed, or not HTTP. */

static int
message_read(struct message *m)
{
    char    *end, *p;
    size_t   body;
    ssize_t  n;

    n = recv(m->fd, m->buf + m->len, MESSAGE_MAX - m->len, 0);
    if (n <= 0) {
        return -1;
    }

    if (m->len == 0) {
        m->first_ns = now_ns();
    }

    m->len += n;
    m->buf[m->len] = '\0';

    end = strstr(m->buf, "\r\n\r\n");
    if (end == NULL) {
        return m->len == MESSAGE_MAX ? -1 : 0;
    }

    body = 0;

    for (p = m->buf; p < end; p = strstr(p, "\r\n") + 2) {
        if (strncasecmp(p, "content-length:", 15) == 0) {
            body = strtoul(p + 15, NULL, 10);
        }
    }

    if (body > MESSAGE_MAX) {
        return -1;
    }

    return m->len >= (size_t) (end + 4 - m->buf) + body;
}


static void
backend_answer(struct message *m)
{
    static const char  answer[] = "HTTP/1.1 200 OK\r\n"
                                  "Content-Type: text/plain\r\n"
                                  "Content-Length: 3\r\n\r\nok\n";

    pthread_mutex_lock(&seen.mutex);
    seen.count++;
    seen.ns = m->first_ns;
    pthread_cond_signal(&seen.cond);
    pthread_mutex_unlock(&seen.mutex);

    m->len = 0;

    if (send(m->fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL) == -1) {
        m->len = MESSAGE_MAX;                   /* the next read ends it */
    }
}


static void
backend_accept(int fd, struct message *m)
{
    m->fd = accept(fd, NULL, NULL);
    m->len = 0;

    if (m->fd == -1) {
        die("accept");
    }

    nodelay(m->fd);
}


static void *
backend_run(void *data)
{
    int                    i, n, fd = *(int *) data;
    struct pollfd          p[CONNECTIONS + 1];
    static struct message  m[CONNECTIONS];

    n = 0;

    for ( ;; ) {
        for (i = 0; i < n; i++) {
            p[i].fd = m[i].fd;
            p[i].events = POLLIN;
        }

        p[n].fd = n < CONNECTIONS ? fd : -1;
        p[n].events = POLLIN;
        p[n].revents = 0;

        if (poll(p, n + 1, -1) == -1 && errno != EINTR) {
            die("poll");
        }

        if (p[n].revents) {
            backend_accept(fd, &m[n]);
            p[n++].revents = 0;
        }

        for (i = n - 1; i >= 0; i--) {
            if (p[i].revents == 0) {
                continue;
            }

            switch (message_read(&m[i])) {
            case 1:
                backend_answer(&m[i]);
                break;
            case -1:
                close(m[i].fd);
                m[i] = m[--n];
                break;
            }
        }
    }

    return NULL;
}


static void
backend_start(int port)
{
    int                 on = 1;
    pthread_t           thread;
    static int          fd;
    struct sockaddr_in  sin = loopback(port);

    fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd == -1
        || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == -1
        || bind(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1
        || listen(fd, 128) == -1)
    {
        die("backend");
    }

    if (pthread_create(&thread, NULL, backend_run, &fd) != 0) {
        die("pthread_create");
    }
}


/* Posts one job; returns when its 202 was read. */

static int64_t
client_post(struct message *m, const char *request, size_t len)
{
    int  rc;

    if (send(m->fd, request, len, MSG_NOSIGNAL) != (ssize_t) len) {
        die("send");
    }

    m->len = 0;

    do {
        rc = message_read(m);
    } while (rc == 0);

    if (rc == -1 || strncmp(m->buf, "HTTP/1.1 202 ", 13) != 0) {
        fprintf(stderr, "not a 202: %.60s\n", rc == -1 ? "closed" : m->buf);
        exit(1);
    }

    return now_ns();
}


/* Waits until the backend has seen `count` requests: when the last came. */

static int64_t
backend_wait(unsigned count)
{
    int              rc;
    int64_t          ns;
    struct timespec  until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    rc = 0;

    pthread_mutex_lock(&seen.mutex);

    while (seen.count < count && rc == 0) {
        rc = pthread_cond_timedwait(&seen.cond, &seen.mutex, &until);
    }

    ns = seen.ns;
    pthread_mutex_unlock(&seen.mutex);

    if (rc != 0) {
        fprintf(stderr, "job %u did not reach the backend within %d s\n",
                count, WAIT_S);
        exit(1);
    }

    return ns;
}


int
main(int argc, char **argv)
{
    int                    len, jobs, i;
    char                   request[1024];
    int64_t                answered;
    struct timespec        pause;
    struct sockaddr_in     sin;
    static struct message  m;

    if (argc != 6) {
        fprintf(stderr, "usage: latency <nginx port> <path> <backend port> "
                        "<jobs> <pause ms>\n");
        return 2;
    }

    sin = loopback(atoi(argv[1]));
    jobs = atoi(argv[4]);
    pause.tv_sec = 0;
    pause.tv_nsec = atoi(argv[5]) % 1000 * 1000000l;

    len = snprintf(request, sizeof(request),
                   "POST %.200s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n"
                   "Content-Length: 200\r\n\r\n%0200d",
                   argv[2], argv[1], 0);

    backend_start(atoi(argv[3]));

    m.fd = socket(AF_INET, SOCK_STREAM, 0);

    if (m.fd == -1
        || connect(m.fd, (struct sockaddr *) &sin, sizeof(sin)) == -1)
    {
        die("connect");
    }

    nodelay(m.fd);

    for (i = 0; i < jobs; i++) {
        answered = client_post(&m, request, len);

        printf("%.1f\n", (backend_wait(i + 1) - answered) / 1000.0);

        nanosleep(&pause, NULL);
    }

    return 0;
}
