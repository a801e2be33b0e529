/*
 * Any bytes as the payload of a PROGRESS or PUT record: they are refused, or
 * give a view that lies within them and keeps its promises.
 *
 * With -DFUZZ_MAIN a program by itself (fuzz_main.h), else for libFuzzer.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zone_report.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
within(const struct zone_str *s, const uint8_t *data, size_t size)
{
    const uint8_t  *p = (const uint8_t *) s->data;

    if (s->len && (p < data || p > data + size
                   || s->len > (size_t) (data + size - p)))
    {
        abort();
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                        good;
    size_t                     i;
    struct zone_put_view       put;
    struct zone_progress_view  progress;

    good = 0;

    if (zone_progress_parse(&progress, data, size) == NULL) {
        within(&progress.message, data, size);

        if (progress.fixed.percent > 100 || progress.fixed.flags == 0
            || progress.message.len > ZONE_PROGRESS_MAX)
        {
            abort();
        }

        good = 1;
    }

    if (zone_put_parse(&put, data, size) != NULL) {
        return good;
    }

    within(&put.type, data, size);
    within(&put.headers, data, size);
    within(&put.body, data, size);

    for (i = 0; i < put.headers.len; i++) {
        if (put.headers.data[i] == '\n' || put.headers.data[i] == '\r') {
            abort();
        }
    }

    if (put.fixed.http_status < 200 || put.fixed.http_status > 599
        || (put.headers.len && put.headers.data[put.headers.len - 1] != '\0'))
    {
        abort();
    }

    return 1;
}


#ifdef FUZZ_MAIN

#include "fuzz_main.h"


/* Good ones with some of their bytes changed: random ones get nowhere. */

size_t
fuzz_make(uint8_t *to, size_t max, uint64_t *random)
{
    size_t                n, i, changes;
    uint64_t              x;
    struct zone_put       put;
    struct zone_progress  progress;

    static const char  strings[] = "Content-Type: a/b\0X: y\0body";

    if (max < sizeof(put) + sizeof(strings)) {
        abort();
    }

    if (fuzz_random(random) % 2) {
        memset(&progress, 0, sizeof(progress));
        progress.layout = ZONE_REPORT_LAYOUT;
        progress.flags = ZONE_PROGRESS_PERCENT|ZONE_PROGRESS_MESSAGE;
        progress.message_len = 4;
        n = sizeof(progress);
        memcpy(to, &progress, n);
        memcpy(to + n, "half", 4);
        n += 4;

    } else {
        memset(&put, 0, sizeof(put));
        put.layout = ZONE_REPORT_LAYOUT;
        put.http_status = 200;
        put.headers_len = sizeof(strings) - 1 - 4;
        put.body_size = 4;
        n = sizeof(put);
        memcpy(to, &put, n);
        memcpy(to + n, strings, sizeof(strings) - 1);
        n += sizeof(strings) - 1;
    }

    changes = fuzz_random(random) % 4;

    for (i = 0; i < changes; i++) {
        x = fuzz_random(random);
        to[(x >> 32) % n] = x & 1 ? (uint8_t) (x >> 8)
                                  : (uint8_t) (to[(x >> 32) % n] + (x & 2) - 1);
    }

    return fuzz_random(random) % 16 == 0 ? fuzz_random(random) % n : n;
}


int
main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 300000);
}

#endif
