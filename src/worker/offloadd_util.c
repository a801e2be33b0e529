/*
 * Memory that grows, and clocks.  Any thread; nothing is shared.
 */

#include "offloadd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>


#ifdef OFFLOAD_FAILPOINTS

/*
 * How far ahead a test has set the clocks: the milliseconds in the file that
 * OFFLOAD_TEST_CLOCK names, read each time.
 */

static uint64_t
clock_ahead(void)
{
    int                       fd;
    void                     *p;
    const char               *file;

    static _Atomic uint64_t  *ahead;            /* main reads it first */
    static int                looked;

    if (!looked) {
        looked = 1;
        file = getenv("OFFLOAD_TEST_CLOCK");
        fd = file ? open(file, O_RDONLY|O_CLOEXEC) : -1;

        if (fd != -1) {
            p = mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, fd, 0);
            ahead = p == MAP_FAILED ? NULL : p;
            close(fd);
        }
    }

    return ahead ? atomic_load(ahead) : 0;
}

#else

#define clock_ahead()         0

#endif


uint64_t
clock_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_REALTIME, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000
           + clock_ahead();
}


uint64_t
mono_us(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000
           + clock_ahead() * 1000;
}


int
buf_reserve(struct buf *b, size_t room)
{
    size_t    cap;
    uint8_t  *p;

    if (b->cap - b->len >= room) {
        return 0;
    }

    if (room > SIZE_MAX / 2 - b->len) {
        return -1;
    }

    cap = b->cap ? b->cap : 512;

    while (cap - b->len < room) {
        cap *= 2;
    }

    p = realloc(b->data, cap);
    if (p == NULL) {
        return -1;
    }

    b->data = p;
    b->cap = cap;

    return 0;
}


int
buf_append(struct buf *b, const void *p, size_t n)
{
    if (n == 0) {
        return 0;
    }

    if (buf_reserve(b, n) != 0) {
        return -1;
    }

    memcpy(b->data + b->len, p, n);
    b->len += n;

    return 0;
}


void
buf_trim(struct buf *b, size_t keep)
{
    b->len = 0;

    if (b->cap > keep) {
        buf_free(b);
    }
}


void
buf_free(struct buf *b)
{
    free(b->data);
    memset(b, 0, sizeof(*b));
}
