/*
 * Load for beanstalkd: puts jobs over many connections, one at a time on
 * each, as wrk does with requests.
 *
 *     beanstalk <unix socket> <connections> <body size> <seconds>
 *
 * Prints in wrk's way: puts that were answered INSERTED, microseconds, other
 * answers, connections lost; then the median and the 99th percentile of the
 * answers' times in microseconds.  One process, one thread.
 */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>


#define ANSWER_MAX   128
#define EVENTS       256
#define SAMPLES_MAX  (1u << 22)


struct client {
    int      fd;
    size_t   sent;
    size_t   len;                               /* of the answer, so far */
    int64_t  start_ns;
    char     answer[ANSWER_MAX];
};


static struct {
    int         epoll;
    char       *put;
    size_t      size;
    uint64_t    inserted;
    uint64_t    refused;
    uint64_t    lost;
    uint32_t   *us;                             /* one per answer */
} load;


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


static void
client_lost(struct client *c)
{
    load.lost++;
    close(c->fd);
}


/* Sends what is left of a put; waits for room only when there is none. */

static void
client_send(struct client *c)
{
    ssize_t             n;
    struct epoll_event  ev = { .data.ptr = c };

    n = send(c->fd, load.put + c->sent, load.size - c->sent,
             MSG_NOSIGNAL|MSG_DONTWAIT);

    if (n == -1 && errno != EAGAIN) {
        client_lost(c);
        return;
    }

    if (c->sent == 0 && n == (ssize_t) load.size) {
        c->sent = load.size;
        return;
    }

    c->sent += n > 0 ? n : 0;
    ev.events = c->sent < load.size ? EPOLLOUT : EPOLLIN;

    if (epoll_ctl(load.epoll, EPOLL_CTL_MOD, c->fd, &ev) == -1) {
        die("epoll_ctl");
    }
}


static void
client_put(struct client *c)
{
    c->sent = 0;
    c->len = 0;
    c->start_ns = now_ns();

    client_send(c);
}


static void
client_read(struct client *c)
{
    ssize_t  n;

    n = recv(c->fd, c->answer + c->len, ANSWER_MAX - c->len,
             MSG_DONTWAIT);

    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) {
            client_lost(c);
        }

        return;
    }

    c->len += n;

    if (c->answer[c->len - 1] != '\n') {
        if (c->len == ANSWER_MAX) {
            client_lost(c);
        }

        return;
    }

    if (strncmp(c->answer, "INSERTED ", 9) != 0) {
        load.refused++;

    } else if (load.inserted < SAMPLES_MAX) {
        load.us[load.inserted++] = (now_ns() - c->start_ns) / 1000;
    }

    client_put(c);
}


static void
client_connect(struct client *c, const char *path)
{
    struct epoll_event  ev = { .events = EPOLLIN, .data.ptr = c };
    struct sockaddr_un  sun = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof(sun.sun_path)) {
        fprintf(stderr, "too long for a socket: %s\n", path);
        exit(2);
    }

    strcpy(sun.sun_path, path);

    c->fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);

    /* connect() waits while the listener's queue is full */

    if (c->fd == -1
        || connect(c->fd, (struct sockaddr *) &sun, sizeof(sun)) == -1
        || epoll_ctl(load.epoll, EPOLL_CTL_ADD, c->fd, &ev) == -1)
    {
        die(path);
    }
}


static void
load_prepare(size_t size)
{
    int  n;

    load.put = malloc(size + 64);
    load.us = malloc(SAMPLES_MAX * sizeof(*load.us));
    load.epoll = epoll_create1(EPOLL_CLOEXEC);

    if (load.put == NULL || load.us == NULL || load.epoll == -1) {
        die("prepare");
    }

    n = sprintf(load.put, "put 0 0 60 %zu\r\n", size);
    memset(load.put + n, 'x', size);
    memcpy(load.put + n + size, "\r\n", 2);

    load.size = n + size + 2;
}


static void
load_run(int64_t until)
{
    int                 i, n;
    struct client      *c;
    struct epoll_event  ev[EVENTS];

    do {
        n = epoll_wait(load.epoll, ev, EVENTS, 100);

        for (i = 0; i < n; i++) {
            c = ev[i].data.ptr;

            if (c->sent < load.size) {
                client_send(c);

            } else {
                client_read(c);
            }
        }

    } while (now_ns() < until);
}


static int
later(const void *a, const void *b)
{
    uint32_t  x = *(const uint32_t *) a, y = *(const uint32_t *) b;

    return (x > y) - (x < y);
}


int
main(int argc, char **argv)
{
    int             i, n;
    int64_t         start, took;
    struct client  *clients;

    if (argc != 5) {
        fprintf(stderr, "usage: beanstalk <unix socket> <connections> "
                        "<body size> <seconds>\n");
        return 2;
    }

    n = atoi(argv[2]);
    clients = calloc(n, sizeof(*clients));

    if (clients == NULL) {
        die("calloc");
    }

    load_prepare(strtoul(argv[3], NULL, 10));

    for (i = 0; i < n; i++) {
        client_connect(&clients[i], argv[1]);
    }

    start = now_ns();

    for (i = 0; i < n; i++) {
        client_put(&clients[i]);
    }

    load_run(start + atoi(argv[4]) * 1000000000ll);

    took = now_ns() - start;

    qsort(load.us, load.inserted, sizeof(*load.us), later);

    printf("BENCH %llu %lld %llu %llu %u %u\n",
           (unsigned long long) load.inserted, (long long) took / 1000,
           (unsigned long long) load.refused, (unsigned long long) load.lost,
           load.us[load.inserted / 2], load.us[load.inserted * 99 / 100]);

    return 0;
}
