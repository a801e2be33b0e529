/*
 * The driver without libFuzzer: N pseudo-random inputs, the same in each run,
 * and one line of TAP.  To be included after LLVMFuzzerTestOneInput() by a
 * file that defines fuzz_make(), which writes one input and says how long it
 * is.  The input is copied to memory of just its size, so that ASan sees a
 * read beyond it.
 */

#ifndef OFFLOAD_FUZZ_MAIN_H
#define OFFLOAD_FUZZ_MAIN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>


#define FUZZ_MAX  4096

size_t fuzz_make(uint8_t *to, size_t max, uint64_t *random);


static inline uint64_t
fuzz_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;

    return *state * 0x2545f4914f6cdd1dull;
}


static inline int
fuzz_main(int argc, char **argv, unsigned long runs)
{
    size_t         n;
    uint8_t        buf[FUZZ_MAX], *copy;
    uint64_t       random;
    unsigned long  i, good;

    if (argc > 1) {
        runs = strtoul(argv[1], NULL, 10);
    }

    random = 4711;
    good = 0;

    for (i = 0; i < runs; i++) {
        n = fuzz_make(buf, sizeof(buf), &random);
        copy = malloc(n ? n : 1);

        if (copy == NULL) {
            printf("Bail out!  no memory\n");
            return 1;
        }

        memcpy(copy, buf, n);
        good += LLVMFuzzerTestOneInput(copy, n) == 1;
        free(copy);
    }

    /* All refused or none: then the inputs are no test. */

    printf("%sok 1 - %lu inputs, %lu of them good\n1..1\n",
           good > 0 && good < runs ? "" : "not ", runs, good);

    return !(good > 0 && good < runs);
}

#endif /* OFFLOAD_FUZZ_MAIN_H */
