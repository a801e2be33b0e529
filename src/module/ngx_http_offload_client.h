
/*
 * A part of ngx_http_offload_module.h, by which it is included: what clients,
 * and backends, see of a job at its URLs.
 */


#ifndef _NGX_HTTP_OFFLOAD_CLIENT_H_INCLUDED_
#define _NGX_HTTP_OFFLOAD_CLIENT_H_INCLUDED_


/* _headers.c */
typedef struct {
    ngx_list_part_t            *part;
    ngx_uint_t                  i;
} ngx_http_offload_walk_t;

void ngx_http_offload_walk_init(ngx_http_offload_walk_t *walk,
    ngx_list_t *list);
ngx_table_elt_t *ngx_http_offload_walk_next(ngx_http_offload_walk_t *walk);
ngx_table_elt_t *ngx_http_offload_request_header(ngx_http_request_t *r,
    const char *lowcase);

typedef void (*ngx_http_offload_element_pt)(void *data, u_char *p,
    u_char *last);

void ngx_http_offload_header_list(ngx_http_request_t *r, const char *lowcase,
    ngx_http_offload_element_pt handler, void *data);
ngx_uint_t ngx_http_offload_negotiate(ngx_http_request_t *r);

/* _result.c */
ngx_int_t ngx_http_offload_send_result(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_http_offload_job_t *job);

/* _lifetime.c */
extern ngx_http_complex_value_t  ngx_http_offload_cache_control_off;
char *ngx_http_offload_max_result(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_offload_cache_control(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_offload_ttl_check(ngx_conf_t *cf, void *post, void *data);
ngx_int_t ngx_http_offload_result_cached(ngx_http_request_t *r,
    ngx_uint_t own);

/* _status.c */
ngx_int_t ngx_http_offload_missing(ngx_http_request_t *r, ngx_int_t rc);
ngx_int_t ngx_http_offload_status_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_offload_status_parse(ngx_http_request_t *r,
    uint8_t id[ZONE_ID_SIZE], ngx_uint_t *result);
ngx_int_t ngx_http_offload_status_answer(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job);

/* _cancel.c */
ngx_int_t ngx_http_offload_cancel(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);

/* _report.c, _put.c */
ngx_int_t ngx_http_offload_report(ngx_http_request_t *r,
    uint8_t id[ZONE_ID_SIZE], ngx_uint_t result);
ngx_int_t ngx_http_offload_token(ngx_http_request_t *r,
    uint8_t token[ZONE_TOKEN_SIZE]);
ngx_int_t ngx_http_offload_report_park(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, struct zone_record *rec, ngx_msec_t timeout);
void ngx_http_offload_report_send(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt);
ngx_int_t ngx_http_offload_put(ngx_http_request_t *r);

/* _job.c: for whoever may ask for it, or whoever has a better right to it */
ngx_int_t ngx_http_offload_find(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, uint8_t id[ZONE_ID_SIZE],
    ngx_http_offload_job_t *job);
ngx_int_t ngx_http_offload_find_any(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, uint8_t id[ZONE_ID_SIZE],
    ngx_http_offload_job_t *job);

/* _wait.c, _prefer.c */
ngx_int_t ngx_http_offload_wait(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_http_offload_job_t *seen,
    ngx_uint_t flags, ngx_msec_t msec, ngx_http_offload_waited_pt handler);
void ngx_http_offload_wait_hold(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);
void ngx_http_offload_wait_close(ngx_http_offload_rt_t *rt);
void ngx_http_offload_prefer(ngx_http_request_t *r,
    ngx_http_offload_prefer_t *prefer);
ngx_int_t ngx_http_offload_preference_applied(ngx_http_request_t *r,
    ngx_int_t wait);

/* _hold.c */
extern ngx_http_complex_value_t  ngx_http_offload_when_prefer;
ngx_int_t ngx_http_offload_wanted(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf);
ngx_int_t ngx_http_offload_accepted(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *answer);

/* _events.c, _page.c */
ngx_int_t ngx_http_offload_events(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
ngx_int_t ngx_http_offload_send_page(ngx_http_request_t *r,
    ngx_uint_t status, ngx_str_t *json);

/* _estimate.c */
uint64_t ngx_http_offload_estimate(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, ngx_uint_t *retry);
ngx_uint_t ngx_http_offload_retry_place(ngx_http_offload_zone_t *zone,
    uint32_t queue, uint32_t location);

/* _answer.c */
extern const char  *ngx_http_offload_states[];
extern const char  *ngx_http_offload_errors[];
ngx_int_t ngx_http_offload_document_json(ngx_http_request_t *r,
    ngx_pool_t *pool, ngx_http_offload_zone_t *zone, ngx_str_t *prefix,
    ngx_http_offload_job_t *job, ngx_str_t *body, ngx_uint_t *retry);
ngx_int_t ngx_http_offload_send_document(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_str_t *prefix,
    ngx_http_offload_job_t *job);
ngx_int_t ngx_http_offload_describe(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_str_t *prefix,
    ngx_http_offload_job_t *job, ngx_str_t *body);
ngx_int_t ngx_http_offload_prepare_accepted(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, ngx_str_t *prefix, u_char id[ZONE_ID_TEXT],
    ngx_http_offload_job_t *job, ngx_str_t *body);
ngx_int_t ngx_http_offload_location(ngx_http_request_t *r, ngx_str_t *url);
u_char *ngx_http_offload_time(u_char *p, uint64_t ms);
u_char *ngx_http_offload_string(u_char *p, const char *name,
    ngx_str_t *value);

/* _owner.c */
char *ngx_http_offload_owner(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_offload_owner_check(ngx_conf_t *cf,
    ngx_http_offload_location_t *location);
ngx_int_t ngx_http_offload_owner_digest(ngx_http_request_t *r,
    uint8_t **digest);
ngx_int_t ngx_http_offload_owner_allows(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);

/* _dialect.c */
ngx_uint_t ngx_http_offload_azure(ngx_http_request_t *r);
ngx_int_t ngx_http_offload_azure_json(ngx_http_request_t *r,
    ngx_str_t *prefix, ngx_http_offload_job_t *job, ngx_str_t *body);
ngx_int_t ngx_http_offload_azure_accepted(ngx_http_request_t *r,
    ngx_str_t *prefix, u_char id[ZONE_ID_TEXT], ngx_http_offload_job_t *job,
    ngx_str_t *body);

/* _url.c */
char *ngx_http_offload_base_url(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
ngx_str_t *ngx_http_offload_base_of(ngx_http_request_t *r);
ngx_uint_t ngx_http_offload_is_base(ngx_str_t *url);
ngx_int_t ngx_http_offload_job_url(ngx_http_request_t *r, ngx_pool_t *pool,
    ngx_str_t *prefix, u_char id[ZONE_ID_TEXT], ngx_str_t *url);


#endif /* _NGX_HTTP_OFFLOAD_CLIENT_H_INCLUDED_ */
