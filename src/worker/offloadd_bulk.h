/*
 * Several jobs, one request: what the directive `batch` asks for.  Included by
 * offloadd.h.
 *
 * Each job has its attempt as always: it is started, counted and settled by
 * itself, so a kill leaves rows like any others.  What they have in common is
 * in memory alone: a bulk, and in it an attempt of no job, the carrier, that
 * counts as the one that runs.  It makes the request, by the executor of the
 * queue, and its end is the end of all that are still in it.
 *
 *      sched -> bulk_begin     one of the flow whose turn it is, and others
 *               bulk_started   each START that came back; after the last one
 *               bulk_send      the bodies become one, the carrier sends it
 *               bulk_ended     each job gets its part of the answer, or all
 *               bulk_left      each that is settled; after the last one the
 *                              place is free again
 *
 * A flow has what may go together: see bulk_key().
 */

#ifndef OFFLOADD_BULK_H
#define OFFLOADD_BULK_H


#define BULK_ANSWER_MAX       (16u * 1024 * 1024)

struct bulk {
    struct attempt       *carrier;
    struct batch_policy   policy;               /* as it was at the start */
    uint32_t              refs;                 /* attempts in it */
    uint32_t              starting;             /* whose START is on its way */
    uint32_t              n;                    /* items */
    uint32_t              live;                 /* that wait for the answer */
    int                   under_way;
    struct attempt       *items[];              /* NULL: it has left */
};

extern const struct executor  executor_bulk;


/* offloadd_bulk.c */

/* NULL: no memory.  It has room for as many as the queue puts into one. */
struct bulk *bulk_make(struct offloadd *d, const struct queue *q);
/* That job, which has left its queue, and those that may go with it: how many
 * there are. */
uint32_t bulk_begin(struct offloadd *d, struct bulk *b, uint32_t job,
    int probe);
void bulk_started(struct offloadd *d, struct bulk *b);
/* enum replay_outcome, of the carrier */
void bulk_ended(struct offloadd *d, struct bulk *b, int outcome);
void bulk_left(struct offloadd *d, struct attempt *a);


/* offloadd_bulk_join.c: jobs into a request */

/* Requests with the same one may go together: a hash, never 0.  Any thread. */
uint64_t bulk_key(const struct zone_request_view *v);
/* What bulk_key() says, without a doubt. */
int bulk_same(const struct zone_request_view *a,
    const struct zone_request_view *b);
/* One more item, behind the `n` that `body` has: 0; -1: no memory; or enum
 * replay_outcome: it can't be one, and if it is no JSON *wrong says why. */
int bulk_item(struct buf *body, uint32_t n, const struct batch_policy *p,
    const struct attempt *a, char *wrong, size_t size);
/* The request of them all, in the form of a stored one: 0, or -1: memory. */
int bulk_request(struct buf *to, const struct zone_request_view *first,
    struct buf *body, uint32_t n, const struct batch_policy *p);


/* offloadd_bulk_json.c: as bulk_item() */
int bulk_json(const void *p, size_t n, char *wrong, size_t size);


/* offloadd_bulk_split.c: an answer into those of jobs */

struct bulk_answer {
    struct json_t  *root;
    struct json_t  *items;                      /* NULL: it is everyone's */
    int             wrong;                      /* it is nobody's: the
                                                   carrier's message */
};

void bulk_parse(struct bulk_answer *b, struct attempt *carrier, uint32_t n);
void bulk_answer_free(struct bulk_answer *b);
/* An item's part: enum replay_outcome. */
int bulk_part(struct offloadd *d, const struct bulk_answer *b,
    const struct attempt *carrier, struct attempt *a, uint32_t item);

#endif /* OFFLOADD_BULK_H */
