/*
 * The webhooks of a job as they stand in its request: where to send news of
 * its end, behind the headers, hooks_len bytes:
 *
 *      struct zone_hooks, the job's URL but for its id, and for each hook a
 *      struct zone_hook and its URL
 *
 * nginx writes them, offloadd makes deliveries of them.  No secret is in
 * here: secrets and certificates are named by the hash of their file's name.
 */

#ifndef OFFLOAD_ZONE_HOOK_H
#define OFFLOAD_ZONE_HOOK_H

#include "zone_request.h"

#define ZONE_HOOKS_MAX        8                 /* of a job */
#define ZONE_HOOK_URL_MAX     2048
#define ZONE_HOOK_INLINE_MAX  (64u * 1024)

#define ZONE_HOOK_COMPLETED   0x01              /* events it wants */
#define ZONE_HOOK_FAILED      0x02
#define ZONE_HOOK_CANCELED    0x04
#define ZONE_HOOK_EVENTS      0x07
#define ZONE_HOOK_GUARDED     0x08              /* no private addresses but
                                                   those that are allowed */
#define ZONE_HOOK_CLIENT      0x10              /* a client's URL: guarded, and
                                                   only where it is allowed */

struct zone_hooks {
    uint16_t  count;
    uint16_t  job_len;
};

struct zone_hook {
    uint64_t  secret;                           /* zone_key_hash() of its file;
                                                   0: not signed */
    uint64_t  ca;                               /* likewise; 0: the system's */
    uint32_t  inline_max;                       /* of a result in the news */
    uint16_t  url_len;
    uint16_t  flags;
};

_Static_assert(sizeof(struct zone_hooks) == 4, "zone_hooks");
_Static_assert(sizeof(struct zone_hook) == 24, "zone_hook");

struct zone_hooks_view {
    uint32_t          count;
    struct zone_str   job;                      /* URL, the id goes behind */
    struct zone_hook  hook[ZONE_HOOKS_MAX];
    struct zone_str   url[ZONE_HOOKS_MAX];
};

/* NULL when good, else what is wrong. */
const char *zone_hooks_parse(struct zone_hooks_view *v,
    const struct zone_str *s);

/* "https://host:port/path": 0, and where the host is, without brackets. */
int zone_hook_url(const char *url, size_t len, struct zone_str *host);

/* Is that the host?  ".example.com": or one of its domain. */
int zone_hook_host_allowed(const char *allow, size_t len,
    const struct zone_str *host);

#endif /* OFFLOAD_ZONE_HOOK_H */
