
/*
 * Accepting: the PRECONTENT handler takes a request that has passed access
 * control, reads its body, copies it all into the lane's submission ring and
 * answers 202.  Runs in a worker process, never blocks, never waits.
 *
 * Killed before zone_sq_publish(), the process leaves a slot that the lane's
 * next owner frees, perhaps a body in the spool that offloadd removes, and a
 * client without an answer; after it, a job.  Whatever could fail is done
 * before, so that an answer other than 202 leaves no job.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_accept(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf);
static const ngx_http_offload_problem_t *ngx_http_offload_room(
    ngx_http_request_t *r, ngx_http_offload_loc_conf_t *olcf);
static ngx_uint_t ngx_http_offload_confirms(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf);
static const ngx_http_offload_problem_t *ngx_http_offload_full(
    ngx_http_offload_rt_t *rt);
static void ngx_http_offload_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_submit(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf);
static ngx_int_t ngx_http_offload_spool(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, u_char id[ZONE_ID_TEXT]);


static const ngx_http_offload_problem_t  ngx_http_offload_zone_full = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 5, "zone-full", "No room for another job",
    "Jobs arrive faster than they can be stored."
};

static const ngx_http_offload_problem_t  ngx_http_offload_headers_large = {
    431, 0, "header-fields-too-large", "Header fields too large",
    "The header fields and what is kept with them do not fit the zone."
};


/*
 * RFC 9110, 15.3.3.  Returns NGX_DECLINED when the request is none of ours.
 */

ngx_int_t
ngx_http_offload_precontent_handler(ngx_http_request_t *r)
{
    ngx_int_t                     rc;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_loc_conf_t  *olcf;

    if (r != r->main) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx && ctx->replay) {
        return ngx_http_offload_replay_precontent(r, ctx);
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    /*
     * Internal redirects (try_files, index, rewrite) are welcome: the replay
     * takes the same way.  What a backend or an error page has had its part
     * in already is not started over.
     */

    if (olcf->zone == NULL || r->error_page || r->upstream || ctx) {
        return NGX_DECLINED;
    }

    rc = ngx_http_offload_wanted(r, olcf);

    if (rc != NGX_OK) {
        return rc == NGX_DECLINED ? rc : NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_accept(r, olcf);
}


static ngx_int_t
ngx_http_offload_accept(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf)
{
    ngx_int_t                          rc;
    ngx_http_offload_ctx_t            *ctx;
    const ngx_http_offload_problem_t  *problem;

    ctx = ngx_http_offload_add_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_offload_terms(r, olcf, &ctx->terms, &problem);

    if (rc == NGX_OK) {
        rc = ngx_http_offload_key(r, olcf, &problem);
    }

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc == NGX_OK) {
        problem = ngx_http_offload_room(r, olcf);
    }

    if (problem) {
        rc = ngx_http_offload_refuse(r, problem);
        ngx_http_finalize_request(r, rc);
        return NGX_DONE;
    }

    /* bodies stay in memory, or go where they can be renamed from */

    ctx->loc_conf = r->loc_conf;
    r->loc_conf = olcf->accept_conf;
    r->request_body_in_file_only = 0;
    r->request_body_in_single_buf = 0;
    r->request_body_in_persistent_file = 1;
    r->request_body_in_clean_file = 1;
    r->request_body_file_log_level = 0;

    ctx->reading = 1;

    rc = ngx_http_read_client_request_body(r, ngx_http_offload_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    /* the phase engine does not drop the reference that reading took */

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


/*
 * Before the body is read: there is no use in sending it to a full zone.
 * NULL: go on.
 */

static const ngx_http_offload_problem_t *
ngx_http_offload_room(ngx_http_request_t *r, ngx_http_offload_loc_conf_t *olcf)
{
    off_t                              body;
    size_t                             buffer;
    ngx_http_offload_rt_t             *rt;
    ngx_http_core_loc_conf_t          *clcf;
    const ngx_http_offload_problem_t  *problem;

    rt = ngx_http_offload_rt_lane(olcf->zone);

    if (rt == NULL) {
        return &ngx_http_offload_unavailable;
    }

    if (ngx_http_offload_confirms(r, olcf)) {
        problem = ngx_http_offload_confirm_room(rt);

        if (problem) {
            (void) ngx_http_offload_full(rt);
            return problem;
        }
    }

    clcf = olcf->accept_conf[ngx_http_core_module.ctx_index];

    buffer = clcf->client_body_buffer_size;
    body = r->headers_in.content_length_n;

    if (clcf->client_max_body_size && body > clcf->client_max_body_size) {
        return &ngx_http_offload_too_large;     /* for a batch */
    }

    if (body < 0 || body > (off_t) buffer) {
        body = 0;
    }

    if (zone_sq_room(&rt->producer, sizeof(struct zone_request)
                                    + sizeof(struct zone_request_key) + body)
        && zone_slot_find(&rt->producer) >= 0)
    {
        return NULL;
    }

    return ngx_http_offload_full(rt);
}


/* Does the 202 wait for offloadd? */

static ngx_uint_t
ngx_http_offload_confirms(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_offload_get_ctx(r);

    return olcf->zone->durable || ctx->key || ngx_http_offload_limits(olcf);
}


/* Counted. */

static const ngx_http_offload_problem_t *
ngx_http_offload_full(ngx_http_offload_rt_t *rt)
{
    atomic_fetch_add_explicit(&rt->producer.lane->refused, 1,
                              memory_order_relaxed);

    return &ngx_http_offload_zone_full;
}


static void
ngx_http_offload_body_handler(ngx_http_request_t *r)
{
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    ngx_http_finalize_request(r, ngx_http_offload_submit(r, olcf));
}


static ngx_int_t
ngx_http_offload_submit(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf)
{
    int64_t                     slot;
    size_t                      size;
    ngx_int_t                   rc;
    ngx_str_t                   body;
    ngx_time_t                 *tp;
    struct zone_job             job;
    ngx_http_offload_job_t      shown;
    struct zone_record         *rec;
    ngx_http_offload_rt_t      *rt;
    ngx_http_offload_ctx_t     *ctx;
    ngx_http_offload_record_t   record;

    /* while the body came in, lanes may have changed hands */

    rt = ngx_http_offload_rt_lane(olcf->zone);

    if (rt == NULL) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_unavailable);
    }

    ctx = ngx_http_offload_get_ctx(r);

    ctx->reading = 0;

    if (ctx->key) {
        ngx_http_offload_key_print(r);
    }

    rc = ngx_http_offload_record_prepare(r, olcf, &record);

    if (rc != NGX_OK) {
        return rc;
    }

    size = zone_request_size(&record.fixed);

    if (zone_record_size(rt->zone.geo.sq_size, size) == 0) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_headers_large);
    }

    slot = zone_slot_find(&rt->producer);
    rec = zone_sq_reserve(&rt->producer, ZONE_RECORD_JOB, size);

    if (slot < 0 || rec == NULL) {
        return ngx_http_offload_refuse(r, ngx_http_offload_full(rt));
    }

    if (zone_id_make(rec->id, rt->lane, (uint32_t) slot, &rt->random) != 0) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, ngx_errno,
                      "getrandom() failed");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    zone_id_format((char *) ctx->id, rec->id);

    tp = ngx_timeofday();

    rec->slot = (uint32_t) slot;
    rec->created_ms = (uint64_t) tp->sec * 1000 + tp->msec;

    ngx_http_offload_record_write(r, olcf, &record, zone_record_payload(rec));

    ngx_memzero(&shown, sizeof(ngx_http_offload_job_t));

    shown.state = STORE_QUEUED;
    shown.created_ms = rec->created_ms;
    shown.timeout_s = record.fixed.timeout_s;
    shown.location = record.fixed.location;
    shown.queue = olcf->queue->hash;

    if (record.fixed.delay_s) {
        shown.not_before_ms = rec->created_ms + record.fixed.delay_s * 1000ull;
    }

    if (ngx_http_offload_prepare_accepted(r, rt, &olcf->entrance->status,
                                          ctx->id, &shown, &body)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if ((record.fixed.flags & ZONE_REQUEST_BODY_FILE)
        && ngx_http_offload_spool(r, olcf, ctx->id) != NGX_OK)
    {
        return ngx_http_offload_refuse(r, &ngx_http_offload_unavailable);
    }

    if (ngx_http_offload_confirms(r, olcf)) {
        rc = ngx_http_offload_confirm_park(r, olcf, rt, rec, &body);

        if (rc != NGX_OK) {
            return rc == NGX_BUSY
                   ? ngx_http_offload_refuse(r, ngx_http_offload_full(rt))
                   : NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    ngx_memzero(&job, sizeof(struct zone_job));

    ngx_memcpy(job.id, rec->id, ZONE_ID_SIZE);
    job.created_ms = rec->created_ms;
    job.body_size = record.fixed.body_size;
    job.timeout_s = record.fixed.timeout_s;
    job.location = record.fixed.location;
    job.queue = olcf->queue->hash;
    job.delay_s = record.fixed.delay_s;
    ngx_memcpy(job.owner, record.fixed.owner, ZONE_DIGEST_SIZE);

    zone_slot_fill(&rt->producer, (uint32_t) slot, &job);
    zone_sq_publish(&rt->producer);

    if (zone_broken(&rt->zone)) {

        /* the file was cut short under the record: nobody will read it */

        return ngx_http_offload_refuse(r, &ngx_http_offload_unavailable);
    }

    ctx->id_set = 1;

    ngx_http_offload_rt_wake(rt);

    if (ngx_http_offload_confirms(r, olcf)) {
        ngx_http_offload_confirm_wait(r);
        return NGX_DONE;
    }

    return ngx_http_offload_accepted(r, olcf, &body);
}


/*
 * The body was received into the spool's own tmp directory, so that this is
 * a rename whatever its size.  The request's clean-up finds the old name gone
 * and is content.
 */

static ngx_int_t
ngx_http_offload_spool(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, u_char id[ZONE_ID_TEXT])
{
    u_char      *name, *p;
    ngx_str_t   *store;
    ngx_file_t  *file;

    store = &olcf->zone->store;
    file = &r->request_body->temp_file->file;

    name = ngx_pnalloc(r->pool, store->len + sizeof("/" ZONE_DIR_SPOOL "/")
                                + ZONE_ID_TEXT);
    if (name == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(name, "%V/%s/", store, ZONE_DIR_SPOOL);
    p = ngx_cpymem(p, id, ZONE_ID_TEXT);
    *p = '\0';

    if (ngx_rename_file(file->name.data, name) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, ngx_errno,
                      ngx_rename_file_n " \"%s\" to \"%V/%s\" failed",
                      file->name.data, store, ZONE_DIR_SPOOL);

        return NGX_ERROR;
    }

    return NGX_OK;
}


/* Also after the 202 was prepared: its headers go. */

ngx_int_t
ngx_http_offload_refuse(ngx_http_request_t *r,
    const ngx_http_offload_problem_t *problem)
{
    ngx_int_t  rc;

    ngx_http_clean_header(r);

    if (r->request_body == NULL) {
        rc = ngx_http_discard_request_body(r);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    return ngx_http_offload_send_problem(r, problem);
}
