/*
 * The control interface: JSON over HTTP/1.1 on a unix socket in the zone's
 * directory, for operators and their tools; docs/control-api.md is what they
 * read.  Included by offloadd.h.
 *
 * libmicrohttpd does the HTTP, in the loop thread: it has an epoll descriptor
 * of its own, which is in the loop's, and no thread.  What is known in memory
 * is answered at once.  For what only the store knows, or has to change, the
 * connection is suspended and a struct control_op goes to the store thread:
 *
 *      control_read()    beside transactions, so also while the store can
 *                        not be written
 *      control_write()   in a transaction; answered after its commit, one at
 *                        a time, in the order they were asked for
 *
 * A client may leave at any moment and an operation outlive it: each points
 * at the other until one of them is gone.  A kill leaves what was committed,
 * and a socket that the next worker replaces.
 */

#ifndef OFFLOADD_CONTROL_H
#define OFFLOADD_CONTROL_H

#include <jansson.h>

#define CONTROL_SOCKET        "control.sock"
#define CONTROL_CONNECTIONS   64
#define CONTROL_IDLE_S        5                 /* nothing sent or taken */
#define CONTROL_STEP_MS       10000             /* to send a header, a body,
                                                   to take an answer */
#define CONTROL_STORE_MS      10000             /* the store has so long */
#define CONTROL_BODY_MAX      4096              /* none is wanted: see 413 */
#define CONTROL_BODY_DROP     (1024u * 1024)    /* read to be able to say so */
#define CONTROL_NAME_MAX      64                /* of a queue */
#define CONTROL_LIMIT_MAX     1000              /* of a list */

struct MHD_Connection;
struct MHD_Daemon;
struct control_request;


/* Who is connected. */

struct control_peer {
    struct control_peer  *next;
    struct control_peer  *prev;
    uint64_t              since_ms;             /* mono: its last step */
    int                   fd;                   /* libmicrohttpd's */
    uint32_t              uid;
    uint32_t              pid;
    uint8_t               stranger;             /* neither we nor root */
    uint8_t               cut;                  /* was too slow */
};

/*
 * One request to the store.  apply() runs in the store thread, perhaps more
 * than once when transactions fail, and returns as engine functions do; all
 * else is the loop thread's.
 */
struct control_op {
    struct store_op          op;                /* first: op <-> control_op */
    struct control_op       *next;              /* of those to be written */
    struct control_op       *all_next;
    struct control_op       *all_prev;
    struct control_request  *request;           /* NULL: nobody waits */
    int                    (*apply)(struct store *s, struct control_op *op,
                                struct engine_error *e);
    void                   (*begin)(struct offloadd *d,
                                struct control_op *op);     /* or NULL */
    void                   (*done)(struct offloadd *d,
                                struct control_op *op);
    void                   (*release)(struct control_op *op);   /* or NULL */
    int                      rc;                /* of apply() */
    int                      failed;            /* the store did: READ */
    uint8_t                  id[ZONE_ID_SIZE];
    uint32_t                 uid;               /* for the log */
    uint32_t                 pid;
};

struct control_route {
    const char  *method;
    const char  *path;                          /* a * stands for a name */
    unsigned     args;                          /* CONTROL_ARG_* */
    void       (*handler)(struct control_request *r);
};

#define CONTROL_ARG_QUEUE     0x01
#define CONTROL_ARG_AFTER     0x02
#define CONTROL_ARG_LIMIT     0x04

struct control_request {
    struct offloadd        *daemon;
    struct MHD_Connection  *connection;
    struct control_peer    *peer;
    struct control_request *next;               /* of those suspended */
    struct control_request *prev;
    struct control_op      *op;                 /* suspended: for this */
    void                  (*late)(struct control_request *r);
    uint64_t                until_ms;           /* mono: then it is late */
    uint64_t                body;               /* bytes, thrown away */
    uint8_t                 suspended;
    uint8_t                 routed;

    char                    name[CONTROL_NAME_MAX + 1];     /* in the path */
    char                    queue[CONTROL_NAME_MAX + 1];    /* ?queue= */
    uint8_t                 after[ZONE_ID_SIZE];            /* ?after= */
    uint8_t                 has_after;
    uint32_t                limit;                          /* ?limit=, 0 */

    unsigned                status;             /* of the answer; 0: none */
    struct buf              answer;             /* JSON */
    uint8_t                 problem;
    char                    allow[64];          /* 405 */
};

struct control {
    struct MHD_Daemon       *mhd;
    int                      listen;            /* -1: there is none */
    int                      epoll;             /* libmicrohttpd's */
    int                      deaf;              /* accepts nobody now */
    int                      ready;
    int                      stopping;
    uint32_t                 npeers;
    struct control_peer     *peers;
    struct control_request  *suspended;
    struct control_op       *ops;               /* all of them */
    struct control_op       *writes;            /* the first is under way */
    struct control_op      **writes_last;
    uint64_t                 started_ms;        /* unix time */
    uint64_t                 mono_ms;
    uint32_t                 hold;              /* STORE_QUEUE_* of the zone */
};


/* offloadd_control.c: the server */

int control_init(struct offloadd *d);           /* -1: goes on without */
void control_stop(struct offloadd *d);          /* before the store is */
void control_free(struct offloadd *d);          /* after it */
int control_ready(struct offloadd *d, int fd);  /* 1: was its descriptor */
void control_run(struct offloadd *d);
void control_tick(struct offloadd *d);
uint64_t control_next(const struct offloadd *d);    /* mono ms */

/* offloadd_control_request.c: requests, their answers */

struct control_request *control_request_new(struct offloadd *d,
    struct MHD_Connection *c, struct control_peer *peer);
void control_request_free(struct control_request *r);
int control_request_queue(struct control_request *r);   /* the answer */
void control_request_suspend(struct control_request *r);
void control_request_late(struct control_request *r);
/* Either ends a request; `answer` is given away. */
void control_answer(struct control_request *r, unsigned status,
    json_t *answer);
void control_problem(struct control_request *r, unsigned status,
    const char *type, const char *title, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* A page of a list, which is given away.  There is another page behind it if
 * `next` is the member by which its last entry is to be named; or NULL. */
void control_page(struct control_request *r, const char *name, json_t *list,
    const char *next);
void control_page_gone(struct control_request *r);

/* offloadd_control_op.c: what the store is asked for */

void *control_op_new(struct control_request *r, size_t size);
void control_read(struct control_op *op);
void control_write(struct control_op *op);
/* Loop thread: it is back.  Store thread: it is there. */
void control_op_done(struct offloadd *d, struct store_op *op);
int control_op_apply(struct store *s, struct store_op *op,
    struct engine_error *e);
void control_op_free(struct offloadd *d, struct control_op *op);
void control_op_no_memory(struct control_request *r, struct control_op *op);
void control_log(const struct control_op *op, const char *what,
    const char *key, const char *value);

/* offloadd_control_route.c */

void control_route(struct control_request *r, const char *method,
    const char *path);
/* "2026-04-25T10:30:00Z"; nothing when there is no such time (0). */
int control_time(json_t *o, const char *key, uint64_t ms);

/* offloadd_control_zone.c */

void control_zone(struct control_request *r);
void control_zone_pause(struct control_request *r);
void control_zone_resume(struct control_request *r);
void control_zone_drain(struct control_request *r);
const char *control_state(uint32_t hold);

/* offloadd_control_queue.c */

void control_queues(struct control_request *r);
void control_queue(struct control_request *r);
void control_queue_pause(struct control_request *r);
void control_queue_resume(struct control_request *r);
void control_queue_drain(struct control_request *r);

/* offloadd_control_job.c */

void control_job(struct control_request *r);
void control_job_cancel(struct control_request *r);
json_t *control_job_document(struct offloadd *d, const struct store_job *row,
    const char *type, const char *message);
json_t *control_text(const char *text, size_t n);

/* offloadd_control_dead.c, offloadd_control_letter.c */

void control_dead(struct control_request *r);
void control_dead_redrive(struct control_request *r);
void control_dead_purge(struct control_request *r);
void control_letter(struct control_request *r);
void control_letter_redrive(struct control_request *r);
void control_letter_purge(struct control_request *r);

/* offloadd_control_hook.c */

void control_hooks(struct control_request *r);
void control_hook_retry(struct control_request *r);

/* offloadd_control_gone.c */

void control_receivers(struct control_request *r);
void control_receiver_enable(struct control_request *r);

#endif /* OFFLOADD_CONTROL_H */
