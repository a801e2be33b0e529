
/*
 * ngx_http_offload_module: what its files share.
 *
 *   _module.c    directives, variables, registration
 *   _directives.c  directives that are more than a value
 *   _conf.c      configurations: created, merged, put to work
 *   _zone.c      the offload_zone directive
 *   _zones.c     zones on a (re)load: adopt, refuse or create the file
 *   _adopt.c     whose a zone is that is there, and what it keeps
 *   _files.c     what stands beside it: directories, policy, log
 *   _spawn.c     starting and supervising offloadd
 *   _lane.c      a worker process's end of a zone: lane, wake-up
 *   _park.c      requests that wait for offloadd
 *   _wait.c      requests that wait for a job to change
 *   _headers.c   request headers that are lists; Accept
 *   _prefer.c    Prefer: wait=, respond-async
 *   _hold.c      offload_wait: the result in place of the 202
 *   _accept.c    PRECONTENT: read the body, submit the job, answer 202
 *   _confirm.c   a 202 that waits for the commit: durability=disk, keys
 *   _idempotency.c  the offload_idempotency directive, keys of requests
 *   _queue*.c, _terms.c, _limit.c  queues: see ngx_http_offload_queue.h
 *   _record.c    a request as the payload of a record
 *   _context.c   what a replay must know of the original connection
 *   _entrance.c  the replay listeners
 *   _replay.c    a replay's way through the phases
 *   _replay_body.c  the body of one that is of many jobs
 *   _status.c    the status location: document, result
 *   _cancel.c    and cancellation
 *   _report.c    what the backend tells: progress
 *   _put.c       and results it gives later
 *   _job.c       a job as it is now
 *   _owner.c     the offload_owner directive: whose job it is
 *   _events.c    a job's changes as a stream of events
 *   _page.c      a document or problem as a page for people
 *   _status_zone.c  the offload_status_zone directive and its answer
 *   _result.c    a job's result
 *   _lifetime.c  how large results may be, how long they are kept and cached
 *   _filter.c    two corrections of answers on their way out
 *   _answer.c    the JSON of documents, estimates
 *   _dialect.c   the JSON for other pollers: offload_dialect azure
 *   _url.c       the URLs of jobs, offload_base_url
 *   _send.c      answers on their way: documents, problems
 *   _store.c     reading the worker's store
 *
 * Configuration (zone, confs) lives as long as its cycle and is read-only
 * once the cycle runs, `rt` apart: that is private to one worker process.
 */


#ifndef _NGX_HTTP_OFFLOAD_MODULE_H_INCLUDED_
#define _NGX_HTTP_OFFLOAD_MODULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ngx_sha1.h>

#include "zone.h"
#include "zone_queue.h"
#include "zone_report.h"
#include "zone_request.h"
#include "zone_store.h"

#include "ngx_http_offload_queue.h"


#ifndef NGX_OFFLOAD_WORKER_PATH
#define NGX_OFFLOAD_WORKER_PATH     "/usr/sbin/offloadd"
#endif

#define NGX_HTTP_OFFLOAD_DIR        "/dev/shm/nginx-offload-"
#define NGX_HTTP_OFFLOAD_STATE_DIR  "/var/lib/nginx-offload"
#define NGX_HTTP_OFFLOAD_STATE_LOW  (64 * 1024 * 1024)

#define NGX_HTTP_OFFLOAD_TICK       1000            /* ms */
#define NGX_HTTP_OFFLOAD_CANCEL_TIMEOUT  5000       /* ms */
#define NGX_HTTP_OFFLOAD_PARKED     65536           /* per lane, at most */
#define NGX_HTTP_OFFLOAD_GONE       10000           /* ms: offloadd is not
                                                       there any more */

#define NGX_HTTP_OFFLOAD_ENTRANCE_LEN   16          /* hex digits */
#define NGX_HTTP_OFFLOAD_ID_LOGGED      8           /* of the text: no key to
                                                       a job */

#define NGX_HTTP_OFFLOAD_ACCESS_ONCE    0
#define NGX_HTTP_OFFLOAD_ACCESS_EVERY   1

#define NGX_HTTP_OFFLOAD_AT_LEAST_ONCE  0
#define NGX_HTTP_OFFLOAD_AT_MOST_ONCE   1

#define NGX_HTTP_OFFLOAD_JSON           0
#define NGX_HTTP_OFFLOAD_EVENTS         1
#define NGX_HTTP_OFFLOAD_HTML           2

#define NGX_HTTP_OFFLOAD_PLAIN          0
#define NGX_HTTP_OFFLOAD_AZURE          1

#define NGX_HTTP_OFFLOAD_WORKER_AUTO    0
#define NGX_HTTP_OFFLOAD_WORKER_OFF     1


typedef struct ngx_http_offload_rt_s    ngx_http_offload_rt_t;
typedef struct ngx_http_offload_wait_s  ngx_http_offload_wait_t;
typedef struct ngx_http_offload_stream_s  ngx_http_offload_stream_t;


/* offload_zone */

typedef struct ngx_http_offload_zone_s {
    ngx_str_t                   name;
    ngx_str_t                   path;       /* the zone's directory */
    ngx_str_t                   store;
    ngx_str_t                   log;        /* empty: stderr */
    off_t                       size;
    off_t                       max;        /* of the store; 0: none */
    ngx_uint_t                  lanes;      /* 0: up to us */
    ngx_uint_t                  slots;      /* 0: up to us */
    ngx_uint_t                  concurrency;/* 0: up to us */
    time_t                      ttl;

    struct zone_geometry        geometry;   /* as created or adopted */

    ngx_path_t                 *spool_tmp;  /* bodies on their way in */
    ngx_open_file_t            *log_file;

    u_char                     *conf_file;  /* where it was declared, */
    ngx_uint_t                  line;       /* or first used */
    unsigned                    defined:1;
    unsigned                    durable:1;  /* durability=disk */
    unsigned                    store_default:1;

    ngx_uint_t                  manager_msec;   /* the helper's back-off */
    ngx_uint_t                  manager_next;
    int                         manager_lock;

    ngx_http_offload_rt_t      *rt;         /* this process's end of it */
} ngx_http_offload_zone_t;


/* One replay listener: a server{} and a zone it uses. */

typedef struct {
    ngx_http_offload_zone_t    *zone;
    ngx_str_t                   status;     /* "/jobs/", of that server */
    ngx_uint_t                  owned;      /* that location: offload_owner */
    u_char                      name[NGX_HTTP_OFFLOAD_ENTRANCE_LEN];
    ngx_str_t                   path;       /* of its socket */
} ngx_http_offload_entrance_t;


typedef struct ngx_http_offload_main_conf_s {
    ngx_array_t                 zones;      /* ngx_http_offload_zone_t * */
    ngx_array_t                 queues;     /* ngx_http_offload_queue_t * */
    ngx_array_t                 locations;  /* ..._location_t */
    ngx_uint_t                  worker;
    ngx_str_t                   worker_path;
    ngx_uint_t                  worker_set;
} ngx_http_offload_main_conf_t;


typedef struct {
    ngx_array_t                 entrances;  /* ..._entrance_t * */
    ngx_http_offload_entrance_t  *entered;  /* set in the copy that serves a
                                               replay listener, only there */
} ngx_http_offload_srv_conf_t;


/* offload_idempotency */

typedef struct {
    ngx_uint_t                  required;
    ngx_str_t                   header;     /* lower case */
    time_t                      ttl;        /* 0: by default */
    ngx_http_complex_value_t   *scope;      /* NULL: the server */
} ngx_http_offload_idempotency_t;


typedef struct ngx_http_offload_loc_conf_s {
    ngx_http_offload_queue_t   *queue;      /* offload */
    ngx_http_offload_zone_t    *zone;       /* the queue's */
    ngx_http_offload_zone_t    *status;     /* offload_status */
    ngx_http_offload_zone_t    *counted;    /* offload_status_zone */
    ngx_array_t                *keep;       /* ..._keep_t */
    ngx_http_offload_idempotency_t  *idempotency;   /* NULL: off */
    ngx_http_complex_value_t   *owner;      /* NULL: off */
    ngx_http_complex_value_t   *base_url;   /* NULL: as the client asks */
    ngx_uint_t                  dialect;
    ngx_uint_t                  access;
    ngx_uint_t                  delivery;
    time_t                      timeout;    /* of one attempt; UNSET: the
                                               queue's, until all is merged */
    ngx_uint_t                  max_depth;
    ngx_msec_t                  accept_timeout;
    ngx_http_complex_value_t   *when;       /* NULL: always */
    ngx_msec_t                  wait;       /* before the 202 */
    ngx_msec_t                  wait_max;   /* what clients may ask for */
    ngx_msec_t                  heartbeat;  /* of event streams */
    size_t                      body_buffer;
    ngx_uint_t                  body_buffer_default;
    time_t                      result_ttl; /* 0: the zone's */
    off_t                       max_result; /* 0: any size */
    ngx_uint_t                  truncate;   /* one that is larger */
    ngx_http_complex_value_t   *cache_control;  /* of results; NULL: by
                                                   default */

    ngx_http_offload_entrance_t  *entrance; /* of this server and zone */
    uint32_t                    hash;       /* of location and server */
    ngx_str_t                   prefix;     /* of a status location */
    void                      **accept_conf;/* loc_conf while accepting a
                                               request, or a result */
    void                      **replay_conf;/* while the body of a batch is
                                               read; NULL: none are sent */
} ngx_http_offload_loc_conf_t;


/* A place where jobs are accepted, as collected while merging. */

typedef struct ngx_http_offload_location_s {
    ngx_http_offload_loc_conf_t  *olcf;
    ngx_http_core_srv_conf_t     *cscf;
    void                        **loc_conf;
} ngx_http_offload_location_t;


typedef struct {
    ngx_str_t                   name;
    ngx_int_t                   index;
} ngx_http_offload_keep_t;


/* A request's idempotency key. */

typedef struct {
    struct zone_request_key     digest;
    ngx_sha1_t                  sha1;       /* of the request so far */
} ngx_http_offload_key_t;


/* A request that became a job, or that is the replay of one. */

typedef struct {
    u_char                      id[ZONE_ID_TEXT];
    ngx_uint_t                  id_set;

    /* while the 202 waits for the commit */
    struct zone_record         *record;
    uint64_t                    record_end; /* the ring's tail behind it */
    uint32_t                    lane;
    uint64_t                    token;
    ngx_str_t                   answer;

    ngx_http_offload_terms_t    terms;
    void                      **loc_conf;   /* of its location */
    ngx_http_offload_key_t     *key;        /* NULL: none */
    ngx_uint_t                  reading;    /* its body */
    uint8_t                     first[ZONE_ID_SIZE];    /* whose key it has */

    ngx_http_offload_wait_t    *wait;
    ngx_http_offload_stream_t  *stream;
    ngx_uint_t                  held;       /* by its count */
    ngx_uint_t                  html;       /* a page instead of JSON */
    ngx_uint_t                  owner_set;
    uint8_t                     owner[ZONE_DIGEST_SIZE];    /* zero: nobody */
    ngx_str_t                   base;       /* of URLs; empty: not known yet */

    /* of a replay */
    ngx_uint_t                  replay;
    ngx_uint_t                  job_url_set;
    ngx_str_t                   attempt;
    ngx_str_t                   keep;       /* name \0 value \0 ... */
    ngx_uint_t                  https;
    ngx_connection_t           *connection;
    struct sockaddr            *sockaddr;   /* what was there before */
    socklen_t                   socklen;
    ngx_str_t                   addr_text;
    struct sockaddr            *local_sockaddr;
    socklen_t                   local_socklen;
    ngx_event_t                 timeouts;   /* posted */

    /* what the header filter decided to send instead */
    ngx_str_t                   problem;
} ngx_http_offload_ctx_t;


/* A request measured, to be written as a job's record. */

typedef struct {
    struct zone_request         fixed;
    struct zone_request_key    *key;        /* NULL: none */
    ngx_str_t                   uri;
    ngx_str_t                   host;       /* as the client named it */
    ngx_str_t                   context;
    ngx_str_t                   hooks;
} ngx_http_offload_record_t;


/* A job as its document shows it, from a slot or from the store. */

typedef struct {
    uint8_t                     id[ZONE_ID_SIZE];
    uint8_t                     owner[ZONE_DIGEST_SIZE];    /* zero: nobody's */
    ngx_uint_t                  state;      /* enum store_state */
    ngx_uint_t                  flags;      /* STORE_* */
    ngx_uint_t                  error;
    uint64_t                    seq;
    uint64_t                    created_ms;
    uint64_t                    started_ms;
    uint64_t                    finished_ms;
    uint64_t                    result_size;
    ngx_uint_t                  attempts;
    ngx_uint_t                  timeout_s;
    uint32_t                    location;   /* hash */
    uint32_t                    queue;      /* hash */
    uint64_t                    not_before_ms;  /* queued: 0: at once */
    ngx_uint_t                  progress;   /* percent + 1 */
    ngx_uint_t                  reports;    /* of it, in this attempt */
    ngx_uint_t                  position;   /* in the queue; 0: not there */
    ngx_uint_t                  http_status;
    ngx_str_t                   type;
    ngx_str_t                   message;
    ngx_str_t                   progress_message;
    ngx_str_t                   webhooks;   /* JSON; empty: none */
} ngx_http_offload_job_t;


typedef struct {
    ngx_uint_t                  status;
    ngx_str_t                   headers;    /* "Name: value\0..." */
    ngx_str_t                   body;       /* inline */
    ngx_uint_t                  blob;       /* else a file */
    off_t                       size;
} ngx_http_offload_result_t;


/* The store's counters, of one moment. */

typedef struct {
    struct store_counters       jobs;
    struct store_rings          rings;      /* zeroed: not known */
    struct store_ring          *ring;       /* for each lane */
    uint64_t                    size;       /* of the file, bytes */
    uint64_t                    rows;       /* in "jobs" */
    uint64_t                    requests;
    uint64_t                    results;
    uint64_t                    dead;       /* dead letters */
} ngx_http_offload_counters_t;


/* A request that waits for a completion. */

typedef struct ngx_http_offload_parked_s  ngx_http_offload_parked_t;

typedef void (*ngx_http_offload_wakened_pt)(ngx_http_request_t *r,
    ngx_int_t result);

struct ngx_http_offload_parked_s {
    ngx_http_request_t           *request;  /* NULL: free */
    ngx_http_offload_rt_t        *rt;
    ngx_http_offload_wakened_pt   handler;
    ngx_event_t                   timer;
    ngx_msec_t                    more;     /* after NGX_HTTP_OFFLOAD_LATE */
    uint32_t                      serial;   /* tells reuses apart */
    uint32_t                      index;
    uint8_t                       id[ZONE_ID_SIZE];
    ngx_http_offload_parked_t    *next;     /* in the free list */
};


#define NGX_HTTP_OFFLOAD_TIMEOUT      1000  /* beside zone_completion_result */
#define NGX_HTTP_OFFLOAD_CLOSING      1001  /* this process leaves */
#define NGX_HTTP_OFFLOAD_LATE         1002  /* its time is over, it stays */

#define NGX_HTTP_OFFLOAD_NO_LANE      ((uint32_t) -1)

/* One process's end of a zone. */

struct ngx_http_offload_rt_s {
    ngx_http_offload_zone_t    *conf;
    struct zone                 zone;
    unsigned                    mapped:1;
    unsigned                    broken:1;

    int                         lock;       /* -1: not open */
    int                         bell;       /* to ring with */
    struct zone_bell            worker;
    uint32_t                    lane;       /* or NO_LANE */
    struct zone_producer        producer;
    ngx_connection_t           *wake;
    ngx_msec_t                  started;
    ngx_msec_t                  tried;      /* last look for a lane */
    time_t                      warned;     /* last log line of a kind */

    ngx_event_t                 tick;

    ngx_http_offload_parked_t **parked;     /* places to wait */
    uint32_t                    nplaces;
    uint32_t                    places_cap;
    ngx_http_offload_parked_t  *free;       /* those nobody waits at */
    ngx_uint_t                  nparked;

    struct zone_random          random;

    void                       *store;      /* ngx_http_offload_store_t */
};


/* A request that waits for a job to change. */

typedef void (*ngx_http_offload_waited_pt)(ngx_http_request_t *r,
    ngx_int_t rc, ngx_http_offload_job_t *job, ngx_int_t result);

struct ngx_http_offload_wait_s {
    ngx_http_request_t         *request;
    ngx_http_offload_zone_t    *zone;
    ngx_http_offload_job_t      seen;
    uint64_t                    token;
    uint64_t                    record_end; /* of the last WATCH */
    uint32_t                    lane;
    ngx_msec_t                  deadline;
    ngx_uint_t                  flags;      /* ZONE_WATCH_* */
    ngx_http_offload_waited_pt  handler;
};


/* RFC 7240 */

typedef struct {
    ngx_uint_t                  respond_async;
    ngx_uint_t                  wait_set;
    ngx_uint_t                  wait;       /* seconds */
} ngx_http_offload_prefer_t;


/* A reason to refuse, RFC 9457.  Texts are ours: JSON without escapes. */

typedef struct ngx_http_offload_problem_s {
    ngx_uint_t                  status;
    ngx_uint_t                  retry_after;    /* seconds; 0: none */
    const char                 *type;       /* last part of the type URI */
    const char                 *title;
    const char                 *detail;
} ngx_http_offload_problem_t;


extern ngx_module_t  ngx_http_offload_core_module;
extern ngx_module_t  ngx_http_offload_module;


/* _directives.c */
char *ngx_http_offload_complex_value(ngx_conf_t *cf, ngx_str_t *text,
    ngx_http_complex_value_t **value);
char *ngx_http_offload(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_offload_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_offload_when(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_offload_keep(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_offload_worker(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_offload_timeout_check(ngx_conf_t *cf, void *post, void *data);
char *ngx_http_offload_msec_check(ngx_conf_t *cf, void *post, void *data);
char *ngx_http_offload_buffer_check(ngx_conf_t *cf, void *post, void *data);

/* _conf.c */
void *ngx_http_offload_create_main_conf(ngx_conf_t *cf);
void *ngx_http_offload_create_srv_conf(ngx_conf_t *cf);
void *ngx_http_offload_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_offload_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
ngx_int_t ngx_http_offload_postconfiguration(ngx_conf_t *cf);
ngx_http_core_loc_conf_t *ngx_http_offload_core_conf(ngx_conf_t *cf,
    ngx_http_offload_location_t *location);

/* _zone.c */
char *ngx_http_offload_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_http_offload_zone_t *ngx_http_offload_zone_get(ngx_conf_t *cf,
    ngx_str_t *name);
ngx_int_t ngx_http_offload_zones_check(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf);

/* _zones.c, _adopt.c, _files.c: in the master, as root where it is */
char *ngx_http_offload_zones_init_conf(ngx_cycle_t *cycle, void *conf);
ngx_int_t ngx_http_offload_zones_init_module(ngx_cycle_t *cycle);
ngx_int_t ngx_http_offload_zone_owned(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
ngx_int_t ngx_http_offload_zone_kept(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
ngx_int_t ngx_http_offload_zone_compare(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, struct zone_geometry *have);
ngx_int_t ngx_http_offload_zone_dirs(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, uid_t uid, gid_t gid);
ngx_int_t ngx_http_offload_zone_sockets(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
ngx_int_t ngx_http_offload_zone_log(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
void ngx_http_offload_zone_user(ngx_cycle_t *cycle, uid_t *uid, gid_t *gid);

/* _spawn.c: in the "cache manager" helper */
ngx_msec_t ngx_http_offload_manager(void *data);

/* _lane.c: in a worker process */
ngx_int_t ngx_http_offload_rt_init(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
void ngx_http_offload_rt_exit(ngx_http_offload_zone_t *zone);
ngx_http_offload_rt_t *ngx_http_offload_rt_lane(ngx_http_offload_zone_t *zone);
void ngx_http_offload_rt_wake(ngx_http_offload_rt_t *rt);
void ngx_http_offload_rt_set_broken(ngx_http_offload_rt_t *rt,
    const char *why);

/* _park.c */
void ngx_http_offload_rt_completions(ngx_http_offload_rt_t *rt);
ngx_int_t ngx_http_offload_park(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, ngx_http_offload_wakened_pt handler,
    ngx_msec_t timeout, ngx_msec_t more, const uint8_t id[ZONE_ID_SIZE],
    uint64_t *token);
void ngx_http_offload_unpark_token(ngx_http_offload_rt_t *rt, uint64_t token);

void ngx_http_offload_unpark(ngx_http_offload_parked_t *parked);

/* _accept.c */
ngx_int_t ngx_http_offload_precontent_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_offload_refuse(ngx_http_request_t *r,
    const ngx_http_offload_problem_t *problem);

/* _idempotency.c */
extern const ngx_http_offload_problem_t  ngx_http_offload_key_reused;
char *ngx_http_offload_idempotency(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
ngx_int_t ngx_http_offload_idempotency_check(ngx_conf_t *cf,
    ngx_http_offload_location_t *location);
void ngx_http_offload_idempotency_init(void);
ngx_int_t ngx_http_offload_key(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf,
    const ngx_http_offload_problem_t **problem);
void ngx_http_offload_key_print(ngx_http_request_t *r);
ngx_int_t ngx_http_offload_send_first(ngx_http_request_t *r);

/* _confirm.c */
extern const ngx_http_offload_problem_t  ngx_http_offload_unavailable;
const ngx_http_offload_problem_t *ngx_http_offload_confirm_room(
    ngx_http_offload_rt_t *rt);
ngx_int_t ngx_http_offload_confirm_park(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_rt_t *rt,
    struct zone_record *rec, ngx_str_t *answer);
void ngx_http_offload_confirm_wait(ngx_http_request_t *r);

/* _record.c */
ngx_int_t ngx_http_offload_record_prepare(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_record_t *record);
void ngx_http_offload_record_write(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_record_t *record,
    u_char *p);
ngx_uint_t ngx_http_offload_authority(ngx_http_request_t *r, ngx_str_t *host);

/* _context.c */
ngx_int_t ngx_http_offload_context(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *context);
ngx_int_t ngx_http_offload_replay_context(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx, ngx_str_t *value);
void ngx_http_offload_replay_restore(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);

/* _entrance.c */
ngx_int_t ngx_http_offload_add_entrance(ngx_conf_t *cf,
    ngx_http_core_srv_conf_t *cscf, ngx_http_offload_entrance_t *entrance);
void ngx_http_offload_entrances_restore(ngx_cycle_t *cycle);
ngx_uint_t ngx_http_offload_entered(ngx_http_request_t *r);

/* _replay.c */
ngx_int_t ngx_http_offload_replay_init(ngx_conf_t *cf);
ngx_http_offload_ctx_t *ngx_http_offload_get_ctx(ngx_http_request_t *r);
ngx_http_offload_ctx_t *ngx_http_offload_add_ctx(ngx_http_request_t *r);
ngx_int_t ngx_http_offload_hold_ctx(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);
ngx_int_t ngx_http_offload_replay_post_read(ngx_http_request_t *r);
ngx_int_t ngx_http_offload_replay_preaccess(ngx_http_request_t *r);
ngx_int_t ngx_http_offload_replay_precontent(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);

/* _replay_body.c */
ngx_int_t ngx_http_offload_replay_conf(ngx_conf_t *cf,
    ngx_http_offload_location_t *location);
ngx_int_t ngx_http_offload_replay_body(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);

/* _status_zone.c */
char *ngx_http_offload_status_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* _filter.c */
extern const ngx_http_offload_problem_t  ngx_http_offload_too_large;
void ngx_http_offload_filter_init(void);

/* _send.c */
ngx_int_t ngx_http_offload_send(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_str_t *body);
ngx_int_t ngx_http_offload_send_problem(ngx_http_request_t *r,
    const ngx_http_offload_problem_t *problem);
ngx_int_t ngx_http_offload_send_not_allowed(ngx_http_request_t *r,
    const char *allow);
ngx_int_t ngx_http_offload_send_options(ngx_http_request_t *r,
    const char *allow);
ngx_int_t ngx_http_offload_problem_json(ngx_pool_t *pool, ngx_str_t *out,
    const ngx_http_offload_problem_t *problem);
ngx_table_elt_t *ngx_http_offload_add_header(ngx_http_request_t *r,
    const char *name, size_t len, ngx_str_t *value);
void ngx_http_offload_drop_header(ngx_http_request_t *r, const char *name,
    size_t len);
ngx_int_t ngx_http_offload_retry_after(ngx_http_request_t *r,
    ngx_uint_t seconds);

/* _store.c: in a worker process */
#define NGX_HTTP_OFFLOAD_STORE_ABSENT  NGX_DECLINED  /* nothing stored yet */

ngx_int_t ngx_http_offload_store_job(ngx_http_offload_rt_t *rt,
    ngx_pool_t *pool, const uint8_t id[ZONE_ID_SIZE],
    ngx_http_offload_job_t *job);
ngx_int_t ngx_http_offload_hook_json(ngx_pool_t *pool,
    struct store_hook *row, u_char *host, ngx_http_offload_job_t *job);
ngx_int_t ngx_http_offload_store_result(ngx_http_offload_rt_t *rt,
    ngx_pool_t *pool, uint64_t seq, ngx_http_offload_result_t *result);
/* counters->ring: zeroed room for all lanes of the zone */
ngx_int_t ngx_http_offload_store_counters(ngx_http_offload_rt_t *rt,
    ngx_http_offload_counters_t *counters);
void ngx_http_offload_store_check(ngx_http_offload_rt_t *rt);
void ngx_http_offload_store_close(ngx_http_offload_rt_t *rt);

#include "ngx_http_offload_client.h"


#endif /* _NGX_HTTP_OFFLOAD_MODULE_H_INCLUDED_ */
