/*
 * What a backend tells of its job, by the URL and the token it was given with
 * the attempt: the payloads of PROGRESS and PUT records.  nginx has checked
 * their form and writes them into the SQ; offloadd looks at the token.  The
 * strings follow the fixed part without gaps.
 */

#ifndef OFFLOAD_ZONE_REPORT_H
#define OFFLOAD_ZONE_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "zone.h"
#include "zone_request.h"

#define ZONE_REPORT_LAYOUT        1

/* 128 random bits, as text written like an id. */
#define ZONE_TOKEN_SIZE           ZONE_ID_SIZE
#define ZONE_TOKEN_TEXT           ZONE_ID_TEXT

#define ZONE_PROGRESS_MAX         200       /* bytes of its message */

#define ZONE_PROGRESS_PERCENT     0x01
#define ZONE_PROGRESS_MESSAGE     0x02      /* what is not said stays */

struct zone_progress {
    uint16_t  layout;
    uint8_t   flags;                        /* one of these, or both */
    uint8_t   percent;                      /* 100 at most */
    uint16_t  message_len;
    uint16_t  spare;
    uint8_t   token[ZONE_TOKEN_SIZE];
};

#define ZONE_PUT_BODY_FILE        0x01      /* the body is <tmp>/<file> */

struct zone_put {
    uint16_t  layout;
    uint16_t  flags;
    uint16_t  http_status;                  /* 200 to 599 */
    uint16_t  spare;
    uint64_t  body_size;                    /* inline, or of the file */
    uint32_t  headers_len;                  /* "Name: value\0..." */
    uint32_t  spare2;
    uint8_t   token[ZONE_TOKEN_SIZE];
    uint8_t   file[ZONE_ID_SIZE];           /* its name, written like an id */
};

_Static_assert(sizeof(struct zone_progress) == 24, "zone_progress");
_Static_assert(sizeof(struct zone_put) == 56, "zone_put");

struct zone_progress_view {
    struct zone_progress  fixed;
    struct zone_str       message;
};

struct zone_put_view {
    struct zone_put       fixed;
    struct zone_str       type;             /* Content-Type's value */
    struct zone_str       headers;          /* NUL after each line */
    struct zone_str       body;             /* empty with BODY_FILE */
};

/*
 * Check n bytes and point the view into them; NULL when good, else a static
 * text that says what is wrong.
 */
const char *zone_progress_parse(struct zone_progress_view *v, const void *p,
    size_t n);
const char *zone_put_parse(struct zone_put_view *v, const void *p, size_t n);

/* 1 if they are the same; takes as long when they are not. */
int zone_token_same(const uint8_t a[ZONE_TOKEN_SIZE],
    const uint8_t b[ZONE_TOKEN_SIZE]);

#endif /* OFFLOAD_ZONE_REPORT_H */
