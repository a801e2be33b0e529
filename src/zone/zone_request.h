/*
 * The payload of a job record: one HTTP request as it was accepted.  nginx
 * writes it into the SQ, offloadd stores it as it is and reads it back for
 * each attempt.  The strings follow the fixed part without gaps, in the order
 * of the lengths, the webhooks behind the headers, the body last; none is NUL-
 * terminated except that each header line ends with a NUL ("Name: value\0Name:
 * value\0").  With the flag KEYED a struct zone_request_key stands between the
 * fixed part and them.
 *
 * Method, uri, headers and context are sent by offloadd without looking into
 * them, so zone_request_parse() refuses whatever could break out of its line.
 */

#ifndef OFFLOAD_ZONE_REQUEST_H
#define OFFLOAD_ZONE_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#define ZONE_REQUEST_LAYOUT   1

#define ZONE_REQUEST_METHOD_MAX   32
#define ZONE_DIGEST_SIZE          20        /* SHA-1 */

#define ZONE_PRIORITY_MAX         9
#define ZONE_PRIORITY_DEFAULT     5

#define ZONE_REQUEST_BODY_FILE    0x0001    /* the body is <spool>/<job id> */
#define ZONE_REQUEST_CLIENT_KEY   0x0002    /* has its own Idempotency-Key */
#define ZONE_REQUEST_AT_MOST_ONCE 0x0004    /* an attempt begun is the last */
#define ZONE_REQUEST_KEYED        0x0008    /* a job for its key's first */
#define ZONE_REQUEST_TRUNCATE     0x0010    /* a result over result_max is cut,
                                               not refused */
#define ZONE_REQUEST_BATCH        0x0020    /* its queue sends several as one:
                                               its turn is with its like */

struct zone_request {
    uint16_t  layout;
    uint16_t  flags;
    uint32_t  timeout_s;                    /* of one attempt, 1 or more */
    uint64_t  body_size;                    /* inline, or of the file */
    uint32_t  location;                     /* hash of location and server */
    uint16_t  method_len;
    uint16_t  entrance_len;                 /* "0123456789abcdef": which
                                               replay listener */
    uint32_t  uri_len;                      /* as the client sent it */
    uint16_t  queue_len;                    /* the policy's name */
    uint16_t  spare;
    uint32_t  context_len;                  /* nginx's own: address, scheme,
                                               kept variables, a command's
                                               path; opaque, token characters
                                               and spaces */
    uint32_t  headers_len;
    uint8_t   owner[ZONE_DIGEST_SIZE];      /* whose job it is; zero: nobody's,
                                               its id is the key to it */
    uint32_t  result_ttl_s;                 /* once settled; 0: the zone's */
    uint64_t  result_max;                   /* of its body; 0: any size */
    uint64_t  fair;                         /* zone_key_hash(); 0: none */
    uint32_t  delay_s;                      /* not to be started before */
    uint8_t   priority;                     /* 0 to 9, 9 first */
    uint8_t   depth;                        /* in a chain, from 1 */
    uint8_t   pad[2];
    uint64_t  limit_key;                    /* zone_key_hash(); 0: none */
    uint32_t  limit_queued;                 /* of the queue; 0: no limit */
    uint32_t  limit_per_key;                /* of them with its limit_key */
    uint32_t  deadline_s;                   /* from created_ms; 0: none */
    uint32_t  hooks_len;                    /* see zone_hook.h */
};

_Static_assert(sizeof(struct zone_request) == 112, "zone_request");
_Static_assert(offsetof(struct zone_request, fair) == 72, "fair");
_Static_assert(offsetof(struct zone_request, limit_key) == 88, "limit_key");
_Static_assert(offsetof(struct zone_request, uri_len) == 24, "uri_len");
_Static_assert(offsetof(struct zone_request, owner) == 40, "owner");
_Static_assert(offsetof(struct zone_request, result_max) == 64, "result_max");

/*
 * An idempotency key: requests with the same one are the same job.  Digests
 * only: the key itself is one of the request's headers, or not kept.
 */

struct zone_request_key {
    uint8_t   key[ZONE_DIGEST_SIZE];        /* of its scope and its text */
    uint8_t   print[ZONE_DIGEST_SIZE];      /* of the request it stands for */
    uint32_t  ttl_s;                        /* from created_ms; 1 or more */
    uint32_t  spare;
};

_Static_assert(sizeof(struct zone_request_key) == 48, "zone_request_key");
_Static_assert(offsetof(struct zone_request_key, ttl_s) == 40, "ttl_s");

struct zone_str {
    const char  *data;
    size_t       len;
};

struct zone_request_view {
    struct zone_request      fixed;
    struct zone_request_key  key;           /* zeroed unless KEYED */
    struct zone_str          method;
    struct zone_str          entrance;
    struct zone_str          uri;
    struct zone_str          queue;
    struct zone_str          context;
    struct zone_str          headers;       /* NUL after each line */
    struct zone_str          hooks;
    struct zone_str          body;          /* empty with BODY_FILE */
};

/* FNV-1a: a queue's name as it stands in rows, the text of a key (0: none). */

static inline uint32_t
zone_queue_hash(const void *name, size_t len)
{
    size_t          i;
    uint32_t        h;
    const uint8_t  *p = name;

    for (i = 0, h = 2166136261u; i < len; i++) {
        h = (h ^ p[i]) * 16777619u;
    }

    return h;
}

static inline uint64_t
zone_key_hash(const void *text, size_t len)
{
    size_t          i;
    uint64_t        h;
    const uint8_t  *p = text;

    for (i = 0, h = 14695981039346656037ull; i < len; i++) {
        h = (h ^ p[i]) * 1099511628211ull;
    }

    return len == 0 ? 0 : h ? h : 1;
}

/* Bytes of the payload, fixed part and body included. */
size_t zone_request_size(const struct zone_request *r);

/*
 * Checks n bytes and points the view into them; NULL when good, else a
 * static text that says what is wrong.
 */
const char *zone_request_parse(struct zone_request_view *v, const void *p,
    size_t n);

#endif /* OFFLOAD_ZONE_REQUEST_H */
