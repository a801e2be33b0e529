/*
 * Job ids: made by nginx's workers, read by everyone.  Touches private memory
 * only; a kill leaves nothing behind.
 *
 *      byte 0        lane
 *      bytes 1..3    slot, big endian
 *      bytes 4..15   96 random bits
 *
 * As text an id is 26 characters of Crockford's base32 in lower case, the
 * most significant bits first.  26 characters hold 130 bits, so the first
 * one carries three and is never above '7': each id has one text only.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "zone_internal.h"


#define ZONE_ID_RANDOM  12


static const char  zone_id_alphabet[32] = "0123456789abcdefghjkmnpqrstvwxyz";

/* character - '0' -> value + 1; 0: not of the alphabet */
static const uint8_t  zone_id_values['z' - '0' + 1] = {
     1,  2,  3,  4,  5,  6,  7,  8,  9, 10,     /* 0-9 */
     0,  0,  0,  0,  0,  0,  0,
     0,  0,  0,  0,  0,  0,  0,  0,  0,  0,     /* A-Z */
     0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
     0,  0,  0,  0,  0,  0,
    11, 12, 13, 14, 15, 16, 17, 18,  0, 19,     /* a-j */
    20,  0, 21, 22,  0, 23, 24, 25, 26, 27,     /* k-t */
     0, 28, 29, 30, 31, 32                      /* u-z */
};


/* Bytes handed out are wiped. */

int
zone_random_take(struct zone_random *r, uint8_t *p, size_t n)
{
    size_t   have;
    ssize_t  got;

    if (r->left < n || r->left > sizeof(r->buf)) {
        r->left = 0;
        have = 0;

        while (have < sizeof(r->buf)) {
            got = getrandom(r->buf + have, sizeof(r->buf) - have,
                            GRND_NONBLOCK);

            if (got == -1) {
                if (errno == EINTR) {
                    continue;
                }

                return -1;
            }

            have += (size_t) got;
        }

        r->left = have;
    }

    r->left -= n;
    memcpy(p, r->buf + r->left, n);
    memset(r->buf + r->left, 0, n);

    return 0;
}


int
zone_id_make(uint8_t id[ZONE_ID_SIZE], uint32_t lane, uint32_t slot,
    struct zone_random *r)
{
    if (lane >= 1u << 8 || slot >= 1u << 24) {
        errno = ERANGE;
        return -1;
    }

    id[0] = (uint8_t) lane;
    id[1] = (uint8_t) (slot >> 16);
    id[2] = (uint8_t) (slot >> 8);
    id[3] = (uint8_t) slot;

    return zone_random_take(r, id + ZONE_ID_SIZE - ZONE_ID_RANDOM,
                            ZONE_ID_RANDOM);
}


void
zone_id_hint(const uint8_t id[ZONE_ID_SIZE], uint32_t *lane, uint32_t *slot)
{
    *lane = id[0];
    *slot = (uint32_t) id[1] << 16 | (uint32_t) id[2] << 8 | id[3];
}


/* 25 characters of five bits from the end, then the three that are left. */

void
zone_id_format(char text[ZONE_ID_TEXT], const uint8_t id[ZONE_ID_SIZE])
{
    int       i, bits, byte;
    uint32_t  acc;

    acc = 0;
    bits = 0;
    byte = ZONE_ID_SIZE;

    for (i = ZONE_ID_TEXT - 1; i >= 0; i--) {
        if (bits < 5 && byte > 0) {
            acc |= (uint32_t) id[--byte] << bits;
            bits += 8;
        }

        text[i] = zone_id_alphabet[acc & 31];
        acc >>= 5;
        bits -= 5;
    }
}


int
zone_id_parse(uint8_t id[ZONE_ID_SIZE], const char *text, size_t len)
{
    int       i, bits, byte, value;
    uint8_t   out[ZONE_ID_SIZE], ch;
    uint32_t  acc;

    if (len != ZONE_ID_TEXT || text[0] < '0' || text[0] > '7') {
        return -1;
    }

    acc = 0;
    bits = 0;
    byte = ZONE_ID_SIZE;

    for (i = ZONE_ID_TEXT - 1; i >= 0; i--) {
        ch = (uint8_t) text[i];

        if (ch < '0' || ch > 'z') {
            return -1;
        }

        value = zone_id_values[ch - '0'];

        if (value == 0) {
            return -1;
        }

        acc |= (uint32_t) (value - 1) << bits;
        bits += 5;

        if (bits >= 8 && byte > 0) {
            out[--byte] = (uint8_t) acc;
            acc >>= 8;
            bits -= 8;
        }
    }

    memcpy(id, out, sizeof(out));

    return 0;
}
