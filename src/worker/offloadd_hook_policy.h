/*
 * What of the policy is about webhooks.  Included by offloadd.h; the loop
 * thread's alone, from the start on.
 */

#ifndef OFFLOADD_HOOK_POLICY_H
#define OFFLOADD_HOOK_POLICY_H

#define HOOK_SECRET_MAX       64

struct policy_error;
struct json_t;


/* The policy's "webhooks": which files there are, whom clients may name. */

struct hook_file {
    uint64_t  hash;                             /* of its name */
    char     *name;
    uint32_t  len;                              /* of key; 0: not read */
    uint8_t   key[HOOK_SECRET_MAX];
};

struct hook_allow {
    uint32_t  queue;                            /* its hash */
    int       family;                           /* 0: a host's name */
    uint32_t  bits;
    uint8_t   addr[16];
    char     *name;
};

struct hook_policy {
    struct hook_file   *secrets;
    struct hook_file   *cas;
    struct hook_allow  *allow;
    uint32_t            nsecrets;
    uint32_t            ncas;
    uint32_t            nallow;
};


/* offloadd_hook_policy.c */

int hook_policy(struct hook_policy *p, const struct json_t *o,
    const char *name, struct policy_error *e);
void hook_policy_free(struct hook_policy *p);
const struct hook_file *hook_secret(const struct hook_policy *p,
    uint64_t hash);
const struct hook_file *hook_ca(const struct hook_policy *p, uint64_t hash);
/* May a connection go there?  addr: 4 or 16 bytes. */
int hook_permits(const struct hook_policy *p, uint32_t queue,
    uint32_t flags, const struct zone_str *host, int family,
    const uint8_t *addr);

#endif /* OFFLOADD_HOOK_POLICY_H */
