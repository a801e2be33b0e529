
/*
 * PUT <job's URL>/result: a backend that has deferred its answer gives it.
 * Runs in worker processes.
 *
 * The request's body becomes the result's.  A small one travels with the
 * record; a large one is received into the spool's own tmp directory, gets a
 * name that nobody else will have, and offloadd moves it on.  Killed before
 * the record is published, the process leaves a file that the worker's sweep
 * removes; after it, a result.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_PUT_TIMEOUT     60000  /* ms: a large file's sync */


static void ngx_http_offload_put_handler(ngx_http_request_t *r);
static const ngx_http_offload_problem_t *ngx_http_offload_put_prepare(
    ngx_http_request_t *r, struct zone_put *put);
static ngx_int_t ngx_http_offload_put_status(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_put_headers(ngx_http_request_t *r,
    u_char *p);
static ngx_int_t ngx_http_offload_put_name(ngx_table_elt_t *h,
    ngx_str_t *name);
static ngx_uint_t ngx_http_offload_put_refused(ngx_str_t *name);
static ngx_int_t ngx_http_offload_put_spool(ngx_http_request_t *r,
    struct zone_put *put);


static const ngx_http_offload_problem_t  ngx_http_offload_bad_status = {
    NGX_HTTP_BAD_REQUEST, 0, "report-invalid", "The result is not valid",
    "Offload-Status is not a number from 200 to 599."
};

static const ngx_http_offload_problem_t  ngx_http_offload_bad_header = {
    NGX_HTTP_BAD_REQUEST, 0, "report-invalid", "The result is not valid",
    "An Offload-Header- names a header that nginx itself decides about."
};

static const ngx_http_offload_problem_t  ngx_http_offload_put_large = {
    431, 0, "header-fields-too-large", "Header fields too large",
    "The header fields of the result do not fit the zone."
};

static const ngx_http_offload_problem_t  ngx_http_offload_put_busy = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "not-confirmed",
    "The result is not stored", "There is no room for it just now."
};


/* What a request says of its own body goes for the result's. */

static ngx_str_t  ngx_http_offload_put_kept[] = {
    ngx_string("content-type"),
    ngx_string("content-encoding"),
    ngx_string("content-language"),
    ngx_string("content-disposition"),
    ngx_string("content-location"),
    ngx_string("etag"),
    ngx_string("last-modified"),
    ngx_string("cache-control"),
    ngx_string("expires"),
    ngx_null_string
};

/* As with a replayed answer: of this connection, or nginx's to say. */

static ngx_str_t  ngx_http_offload_put_dropped[] = {
    ngx_string("connection"),
    ngx_string("keep-alive"),
    ngx_string("transfer-encoding"),
    ngx_string("te"),
    ngx_string("trailer"),
    ngx_string("upgrade"),
    ngx_string("date"),
    ngx_string("server"),
    ngx_string("content-length"),
    ngx_null_string
};


ngx_int_t
ngx_http_offload_put(ngx_http_request_t *r)
{
    ngx_int_t                     rc;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (ngx_http_offload_put_status(r) == NGX_ERROR) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_bad_status);
    }

    if (ngx_http_offload_put_headers(r, NULL) == NGX_ERROR) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_bad_header);
    }

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_http_offload_add_ctx(r);
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    /* see ngx_http_offload_accept() */

    r->loc_conf = olcf->accept_conf;
    r->request_body_in_file_only = 0;
    r->request_body_in_single_buf = 0;
    r->request_body_in_persistent_file = 1;
    r->request_body_in_clean_file = 1;
    r->request_body_file_log_level = 0;

    ctx->reading = 1;

    rc = ngx_http_read_client_request_body(r, ngx_http_offload_put_handler);

    return rc >= NGX_HTTP_SPECIAL_RESPONSE ? rc : NGX_DONE;
}


static void
ngx_http_offload_put_handler(ngx_http_request_t *r)
{
    u_char                             *p;
    size_t                              size;
    ngx_int_t                           rc;
    ngx_chain_t                        *cl;
    struct zone_put                     put;
    struct zone_record                 *rec;
    ngx_http_offload_rt_t              *rt;
    ngx_http_offload_loc_conf_t        *olcf;
    const ngx_http_offload_problem_t   *problem;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    rt = ngx_http_offload_rt_lane(olcf->status);
    rec = NULL;

    problem = rt ? ngx_http_offload_put_prepare(r, &put)
                 : &ngx_http_offload_put_busy;

    if (problem == NULL) {
        size = sizeof(put) + put.headers_len
               + (r->request_body->temp_file ? 0 : put.body_size);

        problem = zone_record_size(rt->zone.geo.sq_size, size)
                  ? &ngx_http_offload_put_busy : &ngx_http_offload_put_large;

        rec = zone_sq_reserve(&rt->producer, ZONE_RECORD_PUT, size);
    }

    if (rec == NULL) {
        ngx_http_finalize_request(r, ngx_http_offload_refuse(r, problem));
        return;
    }

    rc = ngx_http_offload_report_park(r, rt, rec,
                                      NGX_HTTP_OFFLOAD_PUT_TIMEOUT);

    if (rc == NGX_OK && r->request_body->temp_file
        && ngx_http_offload_put_spool(r, &put) != NGX_OK)
    {
        ngx_http_offload_unpark_token(rt, rec->token);
        rc = NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc != NGX_OK) {
        ngx_http_finalize_request(r, rc);
        return;
    }

    p = ngx_cpymem(zone_record_payload(rec), &put, sizeof(put));
    p += ngx_http_offload_put_headers(r, p);

    for (cl = r->request_body->bufs;
         cl && r->request_body->temp_file == NULL;
         cl = cl->next)
    {
        if (cl->buf->last > cl->buf->pos) {
            p = ngx_cpymem(p, cl->buf->pos, cl->buf->last - cl->buf->pos);
        }
    }

    ngx_http_offload_report_send(r, rt);
}


static const ngx_http_offload_problem_t *
ngx_http_offload_put_prepare(ngx_http_request_t *r, struct zone_put *put)
{
    ngx_chain_t            *cl;
    ngx_http_offload_rt_t  *rt;
    ngx_http_offload_loc_conf_t  *olcf;

    ngx_memzero(put, sizeof(struct zone_put));

    put->layout = ZONE_REPORT_LAYOUT;
    put->http_status = (uint16_t) ngx_http_offload_put_status(r);
    put->headers_len = (uint32_t) ngx_http_offload_put_headers(r, NULL);

    if (ngx_http_offload_token(r, put->token) != NGX_OK) {
        return &ngx_http_offload_put_busy;      /* it was there before */
    }

    if (r->request_body->temp_file == NULL) {
        for (cl = r->request_body->bufs; cl; cl = cl->next) {
            put->body_size += cl->buf->last - cl->buf->pos;
        }

        return NULL;
    }

    put->flags = ZONE_PUT_BODY_FILE;
    put->body_size = r->request_body->temp_file->file.offset;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    rt = olcf->status->rt;

    return zone_id_make(put->file, rt->lane, 0, &rt->random) == 0
           ? NULL : &ngx_http_offload_put_busy;
}


/* Three digits; 200 if it is not said. */

static ngx_int_t
ngx_http_offload_put_status(ngx_http_request_t *r)
{
    ngx_int_t         status;
    ngx_table_elt_t  *h;

    h = ngx_http_offload_request_header(r, "offload-status");

    if (h == NULL) {
        return NGX_HTTP_OK;
    }

    status = ngx_atoi(h->value.data, h->value.len);

    return status >= 200 && status <= 599 ? status : NGX_ERROR;
}


/* Their length as lines; the lines too unless p is NULL. */

static ngx_int_t
ngx_http_offload_put_headers(ngx_http_request_t *r, u_char *p)
{
    size_t                   len;
    ngx_str_t                name;
    ngx_table_elt_t         *h;
    ngx_http_offload_walk_t  walk;

    len = 0;

    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        switch (ngx_http_offload_put_name(h, &name)) {

        case NGX_DECLINED:
            continue;

        case NGX_ERROR:
            return NGX_ERROR;
        }

        len += name.len + 2 + h->value.len + 1;

        if (p) {
            p = ngx_cpymem(p, name.data, name.len);
            *p++ = ':';
            *p++ = ' ';
            p = ngx_cpymem(p, h->value.data, h->value.len);
            *p++ = '\0';
        }
    }

    return len;
}


/* A request header as one of the result: its name, or NGX_DECLINED. */

static ngx_int_t
ngx_http_offload_put_name(ngx_table_elt_t *h, ngx_str_t *name)
{
    ngx_str_t  *kept;

    static const u_char  prefix[] = "offload-header-";

    for (kept = ngx_http_offload_put_kept; kept->len; kept++) {

        if (kept->len == h->key.len
            && ngx_memcmp(kept->data, h->lowcase_key, kept->len) == 0)
        {
            *name = h->key;
            return NGX_OK;
        }
    }

    if (h->key.len < sizeof(prefix) - 1
        || ngx_memcmp(h->lowcase_key, prefix, sizeof(prefix) - 1) != 0)
    {
        return NGX_DECLINED;
    }

    name->data = h->key.data + sizeof(prefix) - 1;
    name->len = h->key.len - (sizeof(prefix) - 1);

    return name->len == 0 || ngx_http_offload_put_refused(name) ? NGX_ERROR
                                                                : NGX_OK;
}


static ngx_uint_t
ngx_http_offload_put_refused(ngx_str_t *name)
{
    ngx_str_t  *dropped;

    for (dropped = ngx_http_offload_put_dropped; dropped->len; dropped++) {

        if (dropped->len == name->len
            && ngx_strncasecmp(dropped->data, name->data, name->len) == 0)
        {
            return 1;
        }
    }

    return (name->len >= 6
            && ngx_strncasecmp(name->data, (u_char *) "proxy-", 6) == 0)
           || (name->len >= 8
               && ngx_strncasecmp(name->data, (u_char *) "offload-", 8) == 0);
}


/* From now on the file is offloadd's, whether the client stays or not. */

static ngx_int_t
ngx_http_offload_put_spool(ngx_http_request_t *r, struct zone_put *put)
{
    u_char                       *name, *p;
    ngx_str_t                    *store;
    ngx_file_t                   *file;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    store = &olcf->status->store;
    file = &r->request_body->temp_file->file;

    name = ngx_pnalloc(r->pool, store->len
                                + sizeof("/" ZONE_DIR_SPOOL_TMP "/")
                                + ZONE_ID_TEXT);
    if (name == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(name, "%V/%s/", store, ZONE_DIR_SPOOL_TMP);
    zone_id_format((char *) p, put->file);
    p[ZONE_ID_TEXT] = '\0';

    if (ngx_rename_file(file->name.data, name) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, ngx_errno,
                      ngx_rename_file_n " \"%s\" to \"%s\" failed",
                      file->name.data, name);
        return NGX_ERROR;
    }

    return NGX_OK;
}
