/*
 * How fast libcurl alone can tell a receiver: POSTs of a webhook's size by one
 * thread and one multi handle, so many at a time over kept connections, as
 * long as it is told.
 *
 *     posts <at a time> <seconds> <bytes> <url>
 *
 * Prints POSTs a second.
 */

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}


static size_t
drop(char *p, size_t size, size_t n, void *ctx)
{
    (void) p;
    (void) ctx;

    return size * n;
}


static void
check(int good, const char *what)
{
    if (!good) {
        (void) fprintf(stderr, "curl: %s\n", what);
        exit(1);
    }
}


static void
add(CURLM *multi, const char *url, const char *body, size_t size,
    struct curl_slist *lines)
{
    CURL  *easy = curl_easy_init();

    check(easy != NULL
          && curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK
          && curl_easy_setopt(easy, CURLOPT_HTTPHEADER, lines) == CURLE_OK
          && curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body) == CURLE_OK
          && curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long) size)
             == CURLE_OK
          && curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop) == CURLE_OK
          && curl_multi_add_handle(multi, easy) == CURLM_OK,
          "a request can not be made");
}


/* The same handle again, or no more: whether it goes on. */

static int
next(CURLM *multi, const CURLMsg *msg, int more)
{
    long   status = 0;
    CURL  *easy = msg->easy_handle;

    (void) curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);

    check(msg->data.result == CURLE_OK,
          curl_easy_strerror(msg->data.result));
    check(status == 200, "another status than 200");
    check(curl_multi_remove_handle(multi, easy) == CURLM_OK, "removing");

    if (!more) {
        curl_easy_cleanup(easy);
        return 0;
    }

    check(curl_multi_add_handle(multi, easy) == CURLM_OK, "adding");

    return 1;
}


int
main(int argc, char **argv)
{
    int                 most, running, left;
    char               *body;
    CURLM              *multi;
    size_t              size;
    double              start, end;
    CURLMsg            *msg;
    unsigned long       posts;
    struct curl_slist  *lines;

    if (argc != 5) {
        (void) fprintf(stderr, "usage: posts n seconds bytes url\n");
        return 2;
    }

    most = atoi(argv[1]);
    size = (size_t) atol(argv[3]);
    body = malloc(size + 1);
    multi = curl_multi_init();
    lines = curl_slist_append(NULL, "Content-Type: application/json");

    if (body == NULL || multi == NULL || lines == NULL) {
        return 1;
    }

    memset(body, 'x', size);
    running = 0;
    posts = 0;
    start = now();
    end = start + atof(argv[2]);

    for ( /* void */ ; running < most; running++) {
        add(multi, argv[4], body, size, lines);
    }

    while (running) {
        check(curl_multi_perform(multi, &left) == CURLM_OK, "performing");

        while ((msg = curl_multi_info_read(multi, &left)) != NULL) {
            if (msg->msg == CURLMSG_DONE) {
                posts++;
                running -= !next(multi, msg, now() < end);
            }
        }

        check(curl_multi_poll(multi, NULL, 0, running ? 1000 : 0, NULL)
              == CURLM_OK, "polling");
    }

    (void) printf("%.0f\n", (double) posts / (now() - start));

    (void) curl_multi_cleanup(multi);
    curl_slist_free_all(lines);
    free(body);

    return 0;
}
