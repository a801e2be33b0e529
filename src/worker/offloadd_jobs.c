/*
 * Jobs in memory: what the loop has to know of each to schedule it, and heaps
 * of jobs.  Loop thread (main, in recovery).  Nothing here outlives the
 * process: the store has it all.
 *
 * Jobs live in chunks and are named by 32-bit indices, so that a million of
 * them cost some 65 MB and never move.  A job is in at most one list or heap
 * at a time, and knows where.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define JOB_CHUNK             4096


struct job *
job_at(struct job_table *t, uint32_t i)
{
    return &t->chunks[i / JOB_CHUNK][i % JOB_CHUNK];
}


static int
job_table_grow(struct job_table *t)
{
    uint32_t      i, cap, first;
    struct job   *chunk, **chunks;

    if (t->nchunks == t->chunks_cap) {
        cap = t->chunks_cap ? t->chunks_cap * 2 : 16;

        chunks = realloc(t->chunks, cap * sizeof(*chunks));
        if (chunks == NULL) {
            return -1;
        }

        t->chunks = chunks;
        t->chunks_cap = cap;
    }

    chunk = malloc(JOB_CHUNK * sizeof(*chunk));
    if (chunk == NULL) {
        return -1;
    }

    first = t->nchunks * JOB_CHUNK;
    t->chunks[t->nchunks++] = chunk;

    for (i = 0; i < JOB_CHUNK; i++) {
        chunk[i].place = JOB_FREE;
        chunk[i].next = i + 1 < JOB_CHUNK ? first + i + 1 : t->free;
    }

    t->free = first;

    return 0;
}


static inline uint32_t
job_bucket(const struct job_table *t, uint64_t seq)
{
    return (uint32_t) (seq & (t->hash_size - 1));   /* dense: no mixing */
}


static int
job_hash_grow(struct job_table *t)
{
    uint32_t     i, n, old, size, *hash;
    struct job  *job;

    old = t->hash_size;
    size = old ? old * 2 : 1024;

    hash = malloc(size * sizeof(*hash));
    if (hash == NULL) {
        return -1;
    }

    memset(hash, 0xff, size * sizeof(*hash));   /* JOB_NONE */
    t->hash_size = size;

    for (i = 0; i < old; i++) {
        while ((n = t->hash[i]) != JOB_NONE) {
            job = job_at(t, n);
            t->hash[i] = job->hash_next;
            job->hash_next = hash[job_bucket(t, job->seq)];
            hash[job_bucket(t, job->seq)] = n;
        }
    }

    free(t->hash);
    t->hash = hash;

    return 0;
}


/* JOB_NONE for want of memory. */

uint32_t
job_add(struct job_table *t, uint64_t seq, const uint8_t *id)
{
    uint32_t     i, bucket;
    struct job  *job;

    if (t->nchunks == 0) {
        t->free = JOB_NONE;
    }

    if (t->free == JOB_NONE && job_table_grow(t) != 0) {
        return JOB_NONE;
    }

    if (t->count >= t->hash_size && job_hash_grow(t) != 0) {
        return JOB_NONE;
    }

    i = t->free;
    job = job_at(t, i);
    t->free = job->next;

    memset(job, 0, sizeof(*job));
    job->seq = seq;
    memcpy(job->id, id, ZONE_ID_SIZE);

    bucket = job_bucket(t, seq);
    job->hash_next = t->hash[bucket];
    t->hash[bucket] = i;
    t->count++;

    return i;
}


uint32_t
job_find(struct job_table *t, uint64_t seq)
{
    uint32_t     i;
    struct job  *job;

    if (t->hash_size == 0) {
        return JOB_NONE;
    }

    for (i = t->hash[job_bucket(t, seq)]; i != JOB_NONE; i = job->hash_next) {
        job = job_at(t, i);

        if (job->seq == seq) {
            return i;
        }
    }

    return JOB_NONE;
}


void
job_remove(struct job_table *t, uint32_t i)
{
    uint32_t    *link;
    struct job  *job;

    job = job_at(t, i);
    link = &t->hash[job_bucket(t, job->seq)];

    while (*link != i) {
        link = &job_at(t, *link)->hash_next;
    }

    *link = job->hash_next;
    job->place = JOB_FREE;
    job->next = t->free;
    t->free = i;
    t->count--;
}


uint32_t
job_table_size(const struct job_table *t)
{
    return t->nchunks * JOB_CHUNK;
}


void
job_table_free(struct job_table *t)
{
    uint32_t  i;

    for (i = 0; i < t->nchunks; i++) {
        free(t->chunks[i]);
    }

    free(t->chunks);
    free(t->hash);
}


static void
heap_place(struct job_heap *h, struct job_table *t, uint32_t at,
    struct job_heap_entry e)
{
    h->entries[at] = e;
    job_at(t, e.job)->heap = at;
}


static void
heap_up(struct job_heap *h, struct job_table *t, uint32_t at,
    struct job_heap_entry e)
{
    uint32_t  parent;

    while (at > 0) {
        parent = (at - 1) / 2;

        if (h->entries[parent].key <= e.key) {
            break;
        }

        heap_place(h, t, at, h->entries[parent]);
        at = parent;
    }

    heap_place(h, t, at, e);
}


static void
heap_down(struct job_heap *h, struct job_table *t, uint32_t at,
    struct job_heap_entry e)
{
    uint32_t  child;

    while ((child = at * 2 + 1) < h->n) {

        if (child + 1 < h->n
            && h->entries[child + 1].key < h->entries[child].key)
        {
            child++;
        }

        if (e.key <= h->entries[child].key) {
            break;
        }

        heap_place(h, t, at, h->entries[child]);
        at = child;
    }

    heap_place(h, t, at, e);
}


int
job_heap_push(struct job_heap *h, struct job_table *t, uint64_t key,
    uint32_t job)
{
    uint32_t                cap;
    struct job_heap_entry  *p, e = { key, job };

    if (h->n == h->cap) {
        cap = h->cap ? h->cap * 2 : 4;

        p = realloc(h->entries, cap * sizeof(*p));
        if (p == NULL) {
            return -1;
        }

        h->entries = p;
        h->cap = cap;
    }

    heap_up(h, t, h->n++, e);

    return 0;
}


void
job_heap_remove(struct job_heap *h, struct job_table *t, uint32_t at)
{
    struct job_heap_entry  last;

    last = h->entries[--h->n];

    if (at == h->n) {
        return;
    }

    if (at > 0 && last.key < h->entries[(at - 1) / 2].key) {
        heap_up(h, t, at, last);

    } else {
        heap_down(h, t, at, last);
    }
}
