/*
 * How fast a disk takes batches: appends them to a file, each made durable
 * by one fdatasync() before the next.
 *
 *     append <file> <records> <record size> <seconds> [prealloc]
 *
 * The file is new and is removed at the end.  With "prealloc" it has its size
 * before, written and synced, and is written from the start again at its end:
 * then an fdatasync() has no metadata to write.  Prints records a second, and
 * the median and the 99th percentile of one batch in milliseconds.
 */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>


#define FILE_SIZE    (256u << 20)               /* where it wraps around */
#define SAMPLES_MAX  (1u << 20)


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
write_at(int fd, const char *buf, size_t size, off_t at)
{
    ssize_t  n;

    while (size > 0) {
        n = pwrite(fd, buf, size, at);
        if (n == -1) {
            die("pwrite");
        }

        buf += n;
        size -= n;
        at += n;
    }
}


static int
later(const void *a, const void *b)
{
    int64_t  x = *(const int64_t *) a, y = *(const int64_t *) b;

    return (x > y) - (x < y);
}


/* Batches until `until`: how many; the time of each in samples. */

static unsigned
append(int fd, const char *buf, size_t size, int64_t until, int64_t *samples)
{
    off_t     at;
    int64_t   start, end;
    unsigned  n;

    at = 0;
    end = now_ns();

    for (n = 0; n < SAMPLES_MAX && end < until; n++) {
        if (at + size > FILE_SIZE) {
            at = 0;
        }

        start = end;
        write_at(fd, buf, size, at);

        if (fdatasync(fd) == -1) {
            die("fdatasync");
        }

        end = now_ns();
        samples[n] = end - start;
        at += size;
    }

    return n;
}


int
main(int argc, char **argv)
{
    int       fd;
    char     *buf;
    size_t    size, at;
    int64_t   start, *samples;
    unsigned  n;

    if (argc < 5) {
        fprintf(stderr, "usage: append <file> <records> <record size> "
                        "<seconds> [prealloc]\n");
        return 2;
    }

    size = strtoul(argv[2], NULL, 10) * strtoul(argv[3], NULL, 10);

    if (size == 0 || size > FILE_SIZE) {
        fprintf(stderr, "a batch of %zu bytes\n", size);
        return 2;
    }

    buf = malloc(size);
    samples = malloc(SAMPLES_MAX * sizeof(*samples));
    fd = open(argv[1], O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600);

    if (buf == NULL || samples == NULL || fd == -1) {
        die(argv[1]);
    }

    (void) unlink(argv[1]);
    memset(buf, 'x', size);

    if (argc > 5) {
        for (at = 0; at + size <= FILE_SIZE; at += size) {
            write_at(fd, buf, size, at);
        }
    }

    if (fsync(fd) == -1) {
        die("fsync");
    }

    start = now_ns();
    n = append(fd, buf, size, start + atoi(argv[4]) * 1000000000ll, samples);

    printf("APPEND %.0f", n * strtod(argv[2], NULL) * 1e9
                          / (now_ns() - start));

    qsort(samples, n, sizeof(*samples), later);

    printf(" %.3f %.3f\n", samples[n / 2] / 1e6, samples[n * 99 / 100] / 1e6);

    return 0;
}
