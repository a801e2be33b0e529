/*
 * Any bytes as the payload of a job record: zone_request_parse() refuses them
 * or gives a view that lies within them and keeps its promises.
 *
 * With -DFUZZ_MAIN a program by itself (fuzz_main.h), else for libFuzzer.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zone_request.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
within(const struct zone_str *s, const uint8_t *data, size_t size)
{
    size_t          i;
    const uint8_t  *p;

    p = (const uint8_t *) s->data;

    if (p < data || p > data + size
        || s->len > (size_t) (data + size - p))
    {
        abort();
    }

    for (i = 0; i < s->len; i++) {
        if (p[i] == '\n' || p[i] == '\r') {
            abort();
        }
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zone_request_view  v;

    if (zone_request_parse(&v, data, size) != NULL) {
        return 0;
    }

    within(&v.method, data, size);
    within(&v.entrance, data, size);
    within(&v.uri, data, size);
    within(&v.queue, data, size);
    within(&v.context, data, size);
    within(&v.headers, data, size);

    if (v.method.len == 0 || v.uri.len == 0 || v.entrance.len != 16
        || zone_request_size(&v.fixed) != size
        || (v.fixed.flags & ZONE_REQUEST_KEYED ? v.key.ttl_s == 0
                                               : v.key.ttl_s != 0)
        || ((v.fixed.flags & ZONE_REQUEST_TRUNCATE)
            && v.fixed.result_max == 0)
        || (const uint8_t *) v.body.data + v.body.len != data + size
        || (v.headers.len && v.headers.data[v.headers.len - 1] != '\0'))
    {
        abort();
    }

    return 1;
}


#ifdef FUZZ_MAIN

#include "fuzz_main.h"


/* A good request with some of its bytes changed: random ones get nowhere. */

size_t
fuzz_make(uint8_t *to, size_t max, uint64_t *random)
{
    size_t               n, i, changes;
    uint64_t             x;
    struct zone_request  r;

    static const struct zone_request_key  key = { { 1 }, { 2 }, 60, 0 };

    static const char  strings[] =
        "POST0123456789abcdef/reports?a=b192.0.2.1 http"
        "Host: a\0Accept: */*\0body";

    memset(&r, 0, sizeof(r));
    r.layout = ZONE_REQUEST_LAYOUT;
    r.timeout_s = 60;
    r.method_len = 4;
    r.entrance_len = 16;
    r.uri_len = 12;
    r.context_len = 14;
    r.headers_len = 20;
    r.body_size = 4;

    n = sizeof(r) + sizeof(strings) - 1 + sizeof(key);

    if (n > max) {
        abort();
    }

    n = sizeof(r);

    if (fuzz_random(random) % 2) {
        r.flags = ZONE_REQUEST_KEYED;
        memcpy(to + n, &key, sizeof(key));
        n += sizeof(key);
    }

    memcpy(to, &r, sizeof(r));
    memcpy(to + n, strings, sizeof(strings) - 1);
    n += sizeof(strings) - 1;

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
