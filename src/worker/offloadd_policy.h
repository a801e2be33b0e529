/*
 * The two halves of policy.json's reader.  Loop thread; main at the start.
 */

#ifndef OFFLOADD_POLICY_H
#define OFFLOADD_POLICY_H

#include <jansson.h>

#include "offloadd.h"


enum policy_type {
    POLICY_STRING,
    POLICY_PATH,                                /* absolute */
    POLICY_NUMBER,
    POLICY_COUNT,                               /* 32 bits */
    POLICY_BOOL,                                /* uint8_t */
    POLICY_DURABILITY,
    POLICY_LEVEL,
    POLICY_JITTER,                              /* uint32_t: full */
    POLICY_LAYOUT_KEY,
    POLICY_OTHER                                /* its own function reads it */
};

struct policy_key {
    const char       *name;
    enum policy_type  type;
    size_t            offset;
    size_t            size;                     /* strings: room; else max */
    uint64_t          min;                      /* strings: shortest */
    int               optional;
};

/* The members of an object that `name` calls by name, into a structure. */
int policy_members(void *to, const struct policy_key *keys, size_t n,
    const json_t *object, const char *name, struct policy_error *e);

/* offloadd_policy_queue.c; NULL: only the default queue */
int policy_queues(struct policy *p, const json_t *queues, const char *name,
    struct policy_error *e);

/* offloadd_policy_exec.c; NULL: not good */
struct pass_policy *policy_pass(const json_t *object, const char *name,
    struct policy_error *e);
struct exec_policy *policy_exec(const json_t *object, const char *name,
    struct policy_error *e);

#endif /* OFFLOADD_POLICY_H */
