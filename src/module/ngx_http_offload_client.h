
/*
 * A part of ngx_http_offload_module.h, by which it is included: whose a job
 * is, where it is, and in which words its document is.
 */


#ifndef _NGX_HTTP_OFFLOAD_CLIENT_H_INCLUDED_
#define _NGX_HTTP_OFFLOAD_CLIENT_H_INCLUDED_


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
