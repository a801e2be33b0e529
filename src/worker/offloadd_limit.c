/*
 * How many jobs wait, by queue and by the key a queue's limit is by.  In
 * memory; a count that becomes 0 takes no room.  Changed along with the rows
 * inside a transaction and put back when that is given up; where it is not
 * known any more what the rows say, and after every start, they are counted
 * anew.  Pure data: store thread, or main before it; a kill leaves nothing
 * behind.
 */

#include "offloadd_limit.h"

#include <stdlib.h>
#include <string.h>


#define LIMITS_FIRST          64                /* entries; a power of two */


static uint32_t
limits_home(const struct limits *l, uint32_t queue, uint64_t key)
{
    uint64_t  h;

    h = (key ^ ((uint64_t) queue << 32 | queue)) * 0x9e3779b97f4a7c15ull;
    h ^= h >> 32;

    return (uint32_t) h & (l->size - 1);
}


/* Where it is, or where it would be. */

static uint32_t
limits_find(const struct limits *l, uint32_t queue, uint64_t key)
{
    uint32_t  i;

    for (i = limits_home(l, queue, key);
         l->table[i].n && (l->table[i].queue != queue
                           || l->table[i].key != key);
         i = (i + 1) & (l->size - 1))
    {
        /* void */
    }

    return i;
}


static int
limits_grow(struct limits *l)
{
    uint32_t              i, size;
    struct limit_count   *old;

    old = l->table;
    size = l->size;

    l->size = size ? size * 2 : LIMITS_FIRST;
    l->table = calloc(l->size, sizeof(*l->table));

    if (l->table == NULL) {
        l->table = old;
        l->size = size;
        return -1;
    }

    for (i = 0; i < size; i++) {
        if (old[i].n) {
            l->table[limits_find(l, old[i].queue, old[i].key)] = old[i];
        }
    }

    free(old);

    return 0;
}


/* Entries that were pushed on by this one move back. */

static void
limits_remove(struct limits *l, uint32_t hole)
{
    uint32_t  i, home, mask = l->size - 1;

    l->used--;

    for (i = (hole + 1) & mask; l->table[i].n; i = (i + 1) & mask) {
        home = limits_home(l, l->table[i].queue, l->table[i].key);

        if (((i - home) & mask) >= ((i - hole) & mask)) {
            l->table[hole] = l->table[i];
            hole = i;
        }
    }

    l->table[hole].n = 0;
}


static int
limits_change(struct limits *l, uint32_t queue, uint64_t key, int by)
{
    uint32_t  i;

    if (l->used + 1 > l->size / 4 * 3 && limits_grow(l) != 0) {
        return -1;
    }

    i = limits_find(l, queue, key);

    if (by < 0) {
        if (l->table[i].n == 0) {
            return -1;
        }

        if (--l->table[i].n == 0) {
            limits_remove(l, i);
        }

        return 0;
    }

    if (l->table[i].n++ == 0) {
        l->table[i].queue = queue;
        l->table[i].key = key;
        l->used++;
    }

    return 0;
}


static int
limits_remember(struct limits *l, uint32_t queue, uint64_t key, int by)
{
    uint32_t              cap;
    struct limit_change  *c;

    if (l->nchanges == l->cap) {
        cap = l->cap ? l->cap * 2 : 256;
        c = realloc(l->changes, cap * sizeof(*c));

        if (c == NULL) {
            return -1;
        }

        l->changes = c;
        l->cap = cap;
    }

    c = &l->changes[l->nchanges++];
    c->queue = queue;
    c->key = key;
    c->by = by;

    return 0;
}


/* One job more waits, or one less. */

void
limits_add(struct limits *l, uint32_t queue, uint64_t key, int by)
{
    if (limits_change(l, queue, 0, by) != 0
        || (key && limits_change(l, queue, key, by) != 0)
        || limits_remember(l, queue, key, by) != 0)
    {
        l->known = 0;
    }
}


uint32_t
limits_get(const struct limits *l, uint32_t queue, uint64_t key)
{
    return l->size ? l->table[limits_find(l, queue, key)].n : 0;
}


void
limits_commit(struct limits *l)
{
    l->nchanges = 0;
}


void
limits_undo(struct limits *l)
{
    struct limit_change  *c;

    while (l->nchanges) {
        c = &l->changes[--l->nchanges];

        if (limits_change(l, c->queue, 0, -c->by) != 0
            || (c->key && limits_change(l, c->queue, c->key, -c->by) != 0))
        {
            l->known = 0;
        }
    }
}


void
limits_clear(struct limits *l)
{
    free(l->table);
    free(l->changes);
    memset(l, 0, sizeof(*l));
}
