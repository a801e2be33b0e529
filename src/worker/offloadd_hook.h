/*
 * Webhooks: news of a job's end, sent to its receivers after Standard Webhooks
 * 1.0.0.  Included by offloadd.h; docs/webhooks.md is what people read.
 *
 *      store thread   a delivery's row is made in the transaction that settles
 *                     its job (offloadd_lmdb_hook.c), with what is sent
 *                     (offloadd_hook_doc.c)
 *      loop thread    asks for rows that are due, sends them by a multi
 *                     handle of its own, has the outcome committed
 *                     (offloadd_hook.c, offloadd_hook_send.c)
 *
 * A row that is under way stays due until its outcome is committed.  So a
 * kill at any moment means it is sent again, under the same id.
 */

#ifndef OFFLOADD_HOOK_H
#define OFFLOADD_HOOK_H

#define HOOKS_MAX             64                /* under way at once */
#define HOOK_ATTEMPTS         10                /* by the schedule */
#define HOOK_TIMEOUT_MS       20000
#define HOOK_ANSWER_MAX       (64u * 1024)      /* read of an answer */
#define HOOK_HOSTS            64                /* that are held back */
#define HOOKS_SLOW            4                 /* at once to one of those
                                                   that do not answer */
#define HOOK_ID_MAX           64


/* Rows that the loop asks for; in the control interface a page of them. */

struct hook_entry {
    uint64_t           seq;
    struct store_hook  row;
    int                gone;                    /* its receiver is */
    char              *url;                     /* malloc()ed, or NULL */
    struct buf         trace;
    struct buf         body;
};

struct hook_ref {
    uint64_t  seq;
    uint16_t  n;
};

struct hook_list {
    uint64_t           now_ms;
    uint32_t           max;
    uint32_t           n;                       /* out */
    uint64_t           next_ms;                 /* out: then look again */
    uint32_t           nskip;
    struct hook_ref    skip[HOOKS_MAX];         /* those under way */
    struct hook_entry  entries[HOOKS_MAX];
};

struct hook_page {
    uint64_t           after;                   /* a job's seq */
    uint32_t           max;                     /* jobs begin no more then */
    uint32_t           n;                       /* out */
    uint32_t           cap;
    int                more;                    /* out */
    struct hook_entry *entries;
};

/* Receivers that are sent nothing: a page of them. */

struct gone_entry {
    struct store_gone_key  key;
    struct store_gone      row;
    char                   host[256];
};

struct gone_page {
    uint64_t           now_ms;
    uint8_t            after[STORE_GONE_SIZE];
    uint32_t           has_after;
    uint32_t           max;
    uint32_t           n;                       /* out */
    int                more;                    /* out */
    struct gone_entry *entries;                 /* room for max */
};

/* What came of an attempt. */
struct hook_outcome {
    uint64_t  settled_ms;                       /* of the row it is for */
    uint64_t  now_ms;
    uint64_t  next_ms;
    uint32_t  attempts;
    uint16_t  n;
    uint16_t  http_status;
    uint8_t   status;                           /* enum store_hook_status */
    uint8_t   gone;                             /* so its receiver said */
};


/* offloadd_hook_doc.c */

/* Everything but the data's envelope is the job's document. */
struct hook_facts {
    const struct store_job  *row;
    const char              *type;
    const char              *message;           /* of row's lengths */
    struct zone_str          job;               /* its URL but the id */
    const struct zone_str   *headers;           /* of its request */
    const uint8_t           *result;            /* NULL: none, or too large */
    size_t                   result_len;
};

int hook_document(struct buf *out, const struct hook_facts *f);
void hook_id(char id[HOOK_ID_MAX], const struct store_hook *row);
/* "v1,..." of id.timestamp.body; NUL-terminated.  -1: no memory. */
#define HOOK_SIGNATURE_MAX    64
int hook_sign(char text[HOOK_SIGNATURE_MAX], const struct hook_file *secret,
    const char *id, uint64_t timestamp, const struct buf *body);
const char *hook_status(uint32_t status);
/* Which receiver it is: a digest of queue and URL.  -1: no memory. */
int hook_receiver(uint8_t digest[STORE_GONE_SIZE], uint32_t queue,
    const char *url, size_t len);


/* offloadd_trace.c: a webhook's, as strings that are header lines */

#define TRACE_HEADER          "traceparent: "

/* Of a request without a good traceparent nothing.  -1: no memory. */
int trace_keep(struct buf *out, const struct zone_str *headers);
/* Is it what trace_keep() makes? */
int trace_kept(const char *p, size_t n);
/* A good traceparent's value: the span becomes one made of these bytes. */
void trace_span(char *parent, const void *of, size_t n);


/* offloadd_hook.c */

struct hook {
    struct store_op       op;                   /* first: op <-> hook */
    struct offloadd      *daemon;
    int                   used;
    int                   sending;
    struct hook_entry     e;
    struct hook_outcome   outcome;
    void                 *easy;                 /* CURL */
    struct curl_slist    *lines;
    uint64_t              host;                 /* scheme, host, port */
    size_t                received;
    int                   late;                 /* it did not answer */
    int                   refused;              /* by the guard */
};

struct hook_host {
    uint64_t  hash;
    uint64_t  until_ms;                         /* it has asked for a pause */
    int       slow;                             /* it did not answer in time */
};

struct hooks {
    struct hook       all[HOOKS_MAX];
    struct hook_host  hosts[HOOK_HOSTS];
    struct hook_list  list;
    struct store_op   fetch;
    int               fetching;
    uint32_t          used;
    uint32_t          filed;                    /* as last seen */
    uint64_t          at_ms;                    /* unix: look then */
    uint64_t          sent;
};

void hooks_run(struct offloadd *d);
uint64_t hooks_next(const struct offloadd *d);  /* mono ms */
void hooks_stored(struct offloadd *d, struct store_op *op);
void hooks_ended(struct offloadd *d, struct hook *h, long status,
    uint64_t retry_after_s, const char *error);
void hooks_free(struct offloadd *d);
void hook_entry_free(struct hook_entry *e);
/* Pure: what this answer means.  status 0: there was none. */
void hook_weigh(struct hook_outcome *o, uint32_t attempts, uint32_t status,
    uint64_t retry_after_s, uint64_t now_ms, uint64_t random);


/* offloadd_hook_send.c */

int hook_send(struct offloadd *d, struct hook *h);
void hook_stop(struct offloadd *d, struct hook *h);
void hook_finished(struct offloadd *d, CURL *easy, CURLcode code);

#endif /* OFFLOADD_HOOK_H */
