/*
 * Any bytes as a command's output: there is no header, or one that lies within
 * it, is the same however it came, and has in its lines what a line may have.
 *
 * With -DFUZZ_MAIN a program by itself (fuzz_main.h), else for libFuzzer.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/worker/offloadd.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    long         whole, part;
    size_t       n, i, len;
    uint32_t     status, again;
    const char  *p, *end, *line;

    p = (const char *) data;
    whole = cgi_header(p, size, 1, &status);

    if (whole < 0 || (size_t) whole > size) {
        abort();
    }

    /* in pieces: undecided, and then the same */

    for (n = 0; n <= size; n++) {
        part = cgi_header(p, n, 0, &again);

        if (part != -1) {
            if (part != whole || (whole && again != status)) {
                abort();
            }

            break;
        }
    }

    if (whole == 0) {
        return 0;
    }

    if (status < 200 || status > 599) {
        abort();
    }

    for (end = p + whole; p < end; /* void */ ) {
        len = cgi_line(&p, end, &line);

        for (i = 0; i < len; i++) {
            if (line[i] == '\r' || line[i] == '\n' || line[i] == '\0') {
                abort();
            }
        }

        if (len == 0 && p != end) {
            abort();
        }
    }

    return 1;
}


#ifdef FUZZ_MAIN

#include "fuzz_main.h"


/* Lines that may be there, in any order, with some bytes changed. */

size_t
fuzz_make(uint8_t *to, size_t max, uint64_t *random)
{
    size_t    n, i, lines, changes;
    uint64_t  x;

    static const char *const  some[] = {
        "Content-Type: a/b\r\n", "Status: 404 no\n", "X-A: b\n", "\n",
        "Location: /\r\n", "\r\n", "body text\n", "Status:  200\n"
    };

    lines = 1 + fuzz_random(random) % 6;

    for (i = 0, n = 0; i < lines; i++) {
        x = fuzz_random(random) % 8;

        if (n + strlen(some[x]) > max) {
            abort();
        }

        memcpy(to + n, some[x], strlen(some[x]));
        n += strlen(some[x]);
    }

    changes = fuzz_random(random) % 3;

    for (i = 0; i < changes; i++) {
        x = fuzz_random(random);
        to[(x >> 32) % n] = (uint8_t) (x >> 8);
    }

    return n;
}


int
main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 300000);
}

#endif
