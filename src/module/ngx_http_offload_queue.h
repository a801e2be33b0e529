
/*
 * Queues: how jobs are treated, named once and used by many locations.
 *
 *   _queue.c        the offload_queue block: which queues there are
 *   _queue_conf.c   the directives in it
 *   _queue_retry.c  one of them: retry
 *   _webhook_conf.c and two more: webhook, webhook_allow
 *   _queue_exec.c   some of them: exec
 *   _queue_pass.c   one of them: pass
 *   _queue_batch.c  one of them: batch
 *   _queue_check.c  what they must not say together; queues as JSON
 *   _terms.c        what they come to for a request
 *   _webhook.c      whom its job's end is told
 *   _limit.c        requests their queue has no place for
 *
 * Configuration as the rest of it; part of ngx_http_offload_module.h.
 */


#ifndef _NGX_HTTP_OFFLOAD_QUEUE_H_INCLUDED_
#define _NGX_HTTP_OFFLOAD_QUEUE_H_INCLUDED_


#define NGX_HTTP_OFFLOAD_QUEUES         1024        /* of a zone */
#define NGX_HTTP_OFFLOAD_QUEUE_NAME     64
#define NGX_HTTP_OFFLOAD_TIMEOUT_DEFAULT  (60 * 60) /* s */

#define NGX_HTTP_OFFLOAD_REFUSE         0
#define NGX_HTTP_OFFLOAD_BYPASS         1


typedef struct ngx_http_offload_zone_s       ngx_http_offload_zone_t;
typedef struct ngx_http_offload_main_conf_s  ngx_http_offload_main_conf_t;
typedef struct ngx_http_offload_loc_conf_s   ngx_http_offload_loc_conf_t;
typedef struct ngx_http_offload_location_s   ngx_http_offload_location_t;
typedef struct ngx_http_offload_problem_s    ngx_http_offload_problem_t;
typedef struct ngx_http_offload_exec_s       ngx_http_offload_exec_t;
typedef struct ngx_http_offload_pass_s       ngx_http_offload_pass_t;


/* offload_queue, or a zone's default queue; 0 and NULL: not said */

typedef struct {
    ngx_uint_t                  max;        /* attempts in all */
    ngx_msec_t                  backoff;
    ngx_msec_t                  backoff_max;
    ngx_uint_t                  jitter;
    ngx_array_t                *on;         /* char *: conditions */
    ngx_array_t                *methods;    /* char * */
} ngx_http_offload_retry_t;


/* webhook; also what goes for URLs that clients give */

typedef struct {
    ngx_http_complex_value_t   *url;
    ngx_str_t                   secret_file;    /* empty: not signed */
    ngx_str_t                   ca_file;
    uint64_t                    secret;     /* hashes of these names */
    uint64_t                    ca;
    size_t                      inline_max;
    ngx_uint_t                  events;     /* ZONE_HOOK_* */
    ngx_uint_t                  guarded;    /* its URL has variables */
} ngx_http_offload_webhook_t;


/* webhook_allow */

typedef struct {
    ngx_str_t                   text;
    ngx_cidr_t                  cidr;
    ngx_uint_t                  is_cidr;    /* else a name */
} ngx_http_offload_allow_t;


/* batch */

typedef struct {
    ngx_uint_t                  size;       /* jobs; 0: there is none */
    ngx_msec_t                  linger;
    size_t                      max;        /* bytes of bodies, and of one */
    ngx_uint_t                  array;      /* else lines */
    ngx_uint_t                  envelope;
} ngx_http_offload_batch_t;


typedef struct {
    ngx_str_t                   name;
    uint32_t                    hash;
    ngx_http_offload_zone_t    *zone;
    ngx_uint_t                  set;        /* directives seen, by bit */

    ngx_uint_t                  concurrency;
    ngx_uint_t                  rate;       /* so many */
    ngx_msec_t                  period;     /* in that time */
    ngx_uint_t                  burst;
    ngx_uint_t                  adaptive;
    ngx_http_offload_retry_t   *retry;
    ngx_http_offload_exec_t    *exec;
    ngx_http_offload_pass_t    *pass;
    ngx_http_offload_batch_t    batch;

    time_t                      timeout;
    time_t                      deadline;
    time_t                      ttl;
    time_t                      dead_ttl;

    ngx_http_complex_value_t   *delay;
    time_t                      delay_max;
    ngx_http_complex_value_t   *priority;
    ngx_http_complex_value_t   *fair;

    ngx_uint_t                  limit_queued;
    ngx_uint_t                  limit_per_key;
    ngx_http_complex_value_t   *limit_key;
    ngx_uint_t                  limit_status;
    ngx_uint_t                  on_full;

    ngx_array_t                *webhooks;   /* ..._webhook_t; or NULL */
    ngx_array_t                *webhook_allow;  /* ..._allow_t; or NULL */
    ngx_http_offload_webhook_t  callback;   /* of URLs from clients */

    u_char                     *conf_file;  /* where it was declared, */
    ngx_uint_t                  line;       /* or first used */
    unsigned                    defined:1;
} ngx_http_offload_queue_t;


/* Takes one parameter, and says what would be right when it is wrong. */

typedef char *(ngx_http_offload_param_pt)(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value);


/* What they come to for one request. */

typedef struct {
    uint64_t                    fair;       /* hash; 0: none */
    uint64_t                    limit_key;
    uint32_t                    delay;      /* seconds */
    uint8_t                     priority;
    uint8_t                     depth;      /* of the job in its chain */
    ngx_str_t                   hooks;      /* for its record; or empty */
} ngx_http_offload_terms_t;


/* _queue.c, _queue_conf.c, _queue_retry.c, _queue_exec.c, _queue_pass.c,
   _queue_batch.c, _queue_check.c */
char *ngx_http_offload_queue(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_http_offload_queue_t *ngx_http_offload_queue_get(ngx_conf_t *cf,
    ngx_str_t *name);
char *ngx_http_offload_queues(ngx_conf_t *cf, void *conf);
char *ngx_http_offload_queue_line(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
ngx_uint_t ngx_http_offload_queue_param(ngx_str_t *value, const char *name,
    ngx_str_t *v);
ngx_uint_t ngx_http_offload_queue_twice(ngx_str_t *value, ngx_uint_t i);
char *ngx_http_offload_queue_params(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad, ngx_http_offload_param_pt *set);
char *ngx_http_offload_queue_retry(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_exec(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_exec_dir(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_exec_env(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_exec_limit(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_pattern(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_pass(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_batch(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
const char *ngx_http_offload_batch_wrong(ngx_http_offload_queue_t *queue);
struct json_t *ngx_http_offload_batch_json(ngx_http_offload_batch_t *batch);
const char *ngx_http_offload_exec_wrong(ngx_http_offload_queue_t *queue);
ngx_uint_t ngx_http_offload_exec_reports(ngx_http_offload_exec_t *exec);
ngx_int_t ngx_http_offload_exec_check(ngx_cycle_t *cycle,
    ngx_http_offload_main_conf_t *omcf);
struct json_t *ngx_http_offload_exec_json(ngx_http_offload_exec_t *exec);
struct json_t *ngx_http_offload_pass_json(ngx_http_offload_pass_t *pass);
struct json_t *ngx_http_offload_words_json(ngx_array_t *words);
ngx_int_t ngx_http_offload_queue_check(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue);
ngx_int_t ngx_http_offload_queue_location(ngx_conf_t *cf,
    ngx_http_offload_location_t *location);
ngx_uint_t ngx_http_offload_queues_said(ngx_http_offload_main_conf_t *omcf,
    ngx_http_offload_zone_t *zone);
struct json_t *ngx_http_offload_queues_json(
    ngx_http_offload_main_conf_t *omcf, ngx_http_offload_zone_t *zone);
char *ngx_http_offload_depth_check(ngx_conf_t *cf, void *post, void *data);


/* _webhook_conf.c, _webhook.c */
char *ngx_http_offload_queue_webhook(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
char *ngx_http_offload_queue_webhook_allow(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad);
struct json_t *ngx_http_offload_webhooks_json(
    ngx_http_offload_main_conf_t *omcf, ngx_http_offload_zone_t *zone);
ngx_int_t ngx_http_offload_webhooks(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *out,
    const ngx_http_offload_problem_t **problem);

/* _terms.c */
ngx_int_t ngx_http_offload_terms(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_terms_t *terms,
    const ngx_http_offload_problem_t **problem);

/* _limit.c */
ngx_uint_t ngx_http_offload_limits(ngx_http_offload_loc_conf_t *olcf);
ngx_int_t ngx_http_offload_limited(ngx_http_request_t *r, ngx_int_t result);


#endif /* _NGX_HTTP_OFFLOAD_QUEUE_H_INCLUDED_ */
