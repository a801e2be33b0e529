/*
 * A backend that takes any number of requests at once and answers none until
 * it is told to.
 *
 *      hold <port> <requests>
 *
 * It says "ready", "held" when it has so many, and answers all when it reads a
 * byte; from then on each at once.  It ends with its stdin.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>


#define FILES_MAX    65536
#define REQUEST_MAX  4096
#define EVENTS       256

static const char  answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct connection {
    char    *text;                              /* of a request so far */
    size_t   len;
    int      held;
};

static struct connection  connections[FILES_MAX];
static int                nheld, go;


static void
fail(const char *what)
{
    perror(what);
    exit(1);
}


static int
whole(struct connection *c)
{
    size_t  body;
    char   *end, *p;

    c->text[c->len] = '\0';
    end = strstr(c->text, "\r\n\r\n");

    if (end == NULL) {
        return 0;
    }

    p = strcasestr(c->text, "\r\nContent-Length:");
    body = p && p < end ? strtoul(p + 17, NULL, 10) : 0;

    return c->len >= (size_t) (end + 4 - c->text) + body;
}


static void
reply(int fd)
{
    if (write(fd, answer, sizeof(answer) - 1) != sizeof(answer) - 1) {
        shutdown(fd, SHUT_RDWR);
    }
}


static void
gone(int fd)
{
    struct connection  *c = &connections[fd];

    nheld -= c->held;
    free(c->text);
    memset(c, 0, sizeof(*c));
    close(fd);
}


static void
readable(int fd, int wanted)
{
    ssize_t             n;
    struct connection  *c = &connections[fd];

    if (c->text == NULL && (c->text = malloc(REQUEST_MAX + 1)) == NULL) {
        fail("malloc");
    }

    n = read(fd, c->text + c->len, REQUEST_MAX - c->len);

    if (n <= 0) {
        gone(fd);
        return;
    }

    c->len += (size_t) n;

    if (!whole(c)) {
        return;
    }

    free(c->text);
    c->text = NULL;
    c->len = 0;

    if (go) {
        reply(fd);
        return;
    }

    c->held = 1;

    if (++nheld == wanted) {
        puts("held");
    }
}


static void
told(void)
{
    int   fd;
    char  c;

    if (read(STDIN_FILENO, &c, 1) != 1) {
        exit(0);
    }

    for (fd = 0, go = 1; fd < FILES_MAX; fd++) {
        if (connections[fd].held) {
            connections[fd].held = 0;
            reply(fd);
        }
    }
}


static void
take(int ep, int listener)
{
    int                 fd;
    struct epoll_event  e;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) != -1) {

        if (fd >= FILES_MAX) {
            close(fd);
            continue;
        }

        e.events = EPOLLIN;
        e.data.fd = fd;

        if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) == -1) {
            fail("epoll_ctl");
        }
    }
}


static int
listen_on(int port)
{
    int                 fd, on = 1;
    struct sockaddr_in  a;

    memset(&a, 0, sizeof(a));
    a.sin_family = AF_INET;
    a.sin_port = htons((uint16_t) port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    fd = socket(AF_INET, SOCK_STREAM|SOCK_NONBLOCK, 0);

    if (fd == -1
        || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == -1
        || bind(fd, (struct sockaddr *) &a, sizeof(a)) == -1
        || listen(fd, 4096) == -1)
    {
        fail("listen");
    }

    return fd;
}


int
main(int argc, char **argv)
{
    int                 ep, i, n, fd, listener;
    struct rlimit       files;
    struct epoll_event  e, events[EVENTS];

    if (argc != 3) {
        (void) fprintf(stderr, "usage: hold port requests\n");
        return 2;
    }

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void) setrlimit(RLIMIT_NOFILE, &files);
    }

    setvbuf(stdout, NULL, _IONBF, 0);
    listener = listen_on(atoi(argv[1]));
    ep = epoll_create1(0);

    for (i = 0; i < 2; i++) {
        e.events = EPOLLIN;
        e.data.fd = i == 0 ? STDIN_FILENO : listener;

        if (epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e) == -1) {
            fail("epoll_ctl");
        }
    }

    puts("ready");

    for ( ;; ) {
        n = epoll_wait(ep, events, EVENTS, -1);

        if (n == -1 && errno != EINTR) {
            fail("epoll_wait");
        }

        for (i = 0; i < n; i++) {
            fd = events[i].data.fd;

            if (fd == listener) {
                take(ep, listener);

            } else if (fd == STDIN_FILENO) {
                told();

            } else {
                readable(fd, atoi(argv[2]));
            }
        }
    }
}
