/*
 * How many jobs wait, by queue and key: see offloadd_limit.c.
 */

#ifndef OFFLOADD_LIMIT_H
#define OFFLOADD_LIMIT_H

#include <stdint.h>

struct limit_count {
    uint64_t  key;                              /* 0: the queue's own */
    uint32_t  queue;
    uint32_t  n;                                /* 0: a free place */
};

struct limit_change {
    uint64_t  key;
    uint32_t  queue;
    int       by;
};

struct limits {
    struct limit_count   *table;                /* open addressing */
    uint32_t              size;
    uint32_t              used;
    struct limit_change  *changes;              /* of this transaction */
    uint32_t              nchanges;
    uint32_t              cap;
    int                   known;                /* else: count them anew */
};

void limits_add(struct limits *l, uint32_t queue, uint64_t key, int by);
uint32_t limits_get(const struct limits *l, uint32_t queue, uint64_t key);
void limits_commit(struct limits *l);
void limits_undo(struct limits *l);
void limits_clear(struct limits *l);

#endif /* OFFLOADD_LIMIT_H */
