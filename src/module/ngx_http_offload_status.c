
/*
 * The status location: GET <prefix><id> is the job's document, GET
 * <prefix><id>/result the backend's answer, DELETE <prefix><id> cancels.
 * Runs in worker processes.  Reading touches nothing; cancelling publishes
 * one record and parks the request until offloadd has answered, and if the
 * process dies meanwhile the job is canceled or it is not, as its document
 * then says.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_parse(ngx_http_request_t *r,
    uint8_t id[ZONE_ID_SIZE], ngx_uint_t *result);
static ngx_int_t ngx_http_offload_missing(ngx_http_request_t *r,
    ngx_int_t rc);
static ngx_int_t ngx_http_offload_document(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
static ngx_int_t ngx_http_offload_result(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
static ngx_int_t ngx_http_offload_result_headers(ngx_http_request_t *r,
    ngx_http_offload_result_t *result);
static ngx_int_t ngx_http_offload_result_header(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_int_t ngx_http_offload_result_file(ngx_http_request_t *r,
    ngx_http_offload_job_t *job, ngx_http_offload_result_t *result,
    ngx_buf_t *b);
static ngx_int_t ngx_http_offload_cancel(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
static void ngx_http_offload_canceled(ngx_http_request_t *r,
    ngx_int_t result);
static ngx_int_t ngx_http_offload_long_poll(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
static void ngx_http_offload_polled(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job, ngx_int_t result);


static const ngx_http_offload_problem_t  ngx_http_offload_no_url = {
    NGX_HTTP_NOT_FOUND, 0, "job-not-found", "No such job",
    "This is not the URL of a job."
};

static const ngx_http_offload_problem_t  ngx_http_offload_not_found = {
    NGX_HTTP_NOT_FOUND, 0, "job-not-found", "No such job",
    "There is no job with this id."
};

static const ngx_http_offload_problem_t  ngx_http_offload_gone = {
    410, 0, "job-expired", "The job has expired",
    "The job was settled, and the time its result is kept is over."
};

static const ngx_http_offload_problem_t  ngx_http_offload_not_ready = {
    NGX_HTTP_NOT_FOUND, 2, "result-not-ready", "The job has no result yet",
    "The job is not settled yet."
};

static const ngx_http_offload_problem_t  ngx_http_offload_no_result = {
    NGX_HTTP_NOT_FOUND, 0, "no-result", "The job has no result",
    "The job ended without an answer of the backend."
};

static const ngx_http_offload_problem_t  ngx_http_offload_discarded = {
    410, 0, "result-discarded", "The result was discarded",
    "The client deleted it."
};

static const ngx_http_offload_problem_t  ngx_http_offload_store_down = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "store-unavailable",
    "The job can not be looked up",
    "The store does not answer; the job is not lost."
};

static const ngx_http_offload_problem_t  ngx_http_offload_no_worker = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "not-confirmed",
    "The cancellation is not confirmed",
    "The worker did not answer in time; ask again."
};


ngx_int_t
ngx_http_offload_status_handler(ngx_http_request_t *r)
{
    uint8_t                       id[ZONE_ID_SIZE];
    ngx_int_t                     rc;
    ngx_uint_t                    result;
    ngx_http_offload_job_t        job;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_http_offload_parse(r, id, &result) != NGX_OK) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_url);
    }

    rc = ngx_http_offload_find(r, olcf->status, id, &job);

    if (rc != NGX_OK) {
        return ngx_http_offload_missing(r, rc);
    }

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))
        && (r->method != NGX_HTTP_DELETE || result))
    {
        return ngx_http_offload_send_not_allowed(r, result ? "GET, HEAD"
                                                  : "GET, HEAD, DELETE");
    }

    if (job.state == STORE_EXPIRED) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_gone);
    }

    if (r->method == NGX_HTTP_DELETE) {
        return ngx_http_offload_cancel(r, &job);
    }

    if (result) {
        return ngx_http_offload_result(r, &job);
    }

    rc = ngx_http_offload_long_poll(r, &job);

    return rc == NGX_DECLINED ? ngx_http_offload_document(r, &job) : rc;
}


/*
 * "Prefer: wait=N" (RFC 7240, 4.3) or "?wait=N": the document is sent when it
 * has changed, or after N seconds as it is.  NGX_DECLINED: no waiting.
 */

static ngx_int_t
ngx_http_offload_long_poll(ngx_http_request_t *r, ngx_http_offload_job_t *job)
{
    ngx_int_t                     rc;
    ngx_str_t                     arg;
    ngx_msec_t                    wait;
    ngx_http_offload_prefer_t     prefer;
    ngx_http_offload_loc_conf_t  *olcf;

    ngx_http_offload_prefer(r, &prefer);

    wait = prefer.wait_set ? prefer.wait * 1000 : 0;

    if (ngx_http_arg(r, (u_char *) "wait", 4, &arg) == NGX_OK) {
        rc = ngx_atoi(arg.data, arg.len);

        if (rc != NGX_ERROR) {
            wait = ngx_min(rc, 24 * 60 * 60) * 1000;
        }
    }

    if (wait == 0 || (job->state != STORE_QUEUED
                      && job->state != STORE_RUNNING))
    {
        return NGX_DECLINED;
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    wait = ngx_min(wait, olcf->wait_max);

    if (prefer.wait_set
        && ngx_http_offload_preference_applied(r, wait / 1000) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_offload_wait(r, olcf->status, job, 0, wait,
                               ngx_http_offload_polled);

    if (rc == NGX_OK) {
        return NGX_DONE;
    }

    return rc == NGX_DECLINED ? rc : NGX_HTTP_INTERNAL_SERVER_ERROR;
}


static void
ngx_http_offload_polled(ngx_http_request_t *r, ngx_int_t rc,
    ngx_http_offload_job_t *job, ngx_int_t result)
{
    if (rc != NGX_OK) {
        rc = ngx_http_offload_missing(r, rc);

    } else if (job->state == STORE_EXPIRED) {
        rc = ngx_http_offload_send_problem(r, &ngx_http_offload_gone);

    } else {
        rc = ngx_http_offload_document(r, job);
    }

    ngx_http_finalize_request(r, rc);
}


static ngx_int_t
ngx_http_offload_parse(ngx_http_request_t *r, uint8_t id[ZONE_ID_SIZE],
    ngx_uint_t *result)
{
    u_char                    *p;
    size_t                     len;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (r->uri.len < clcf->name.len) {
        return NGX_DECLINED;
    }

    p = r->uri.data + clcf->name.len;
    len = r->uri.len - clcf->name.len;

    if (clcf->name.data[clcf->name.len - 1] != '/') {
        if (len == 0 || *p != '/') {
            return NGX_DECLINED;
        }

        p++;
        len--;
    }

    *result = 0;

    if (len == ZONE_ID_TEXT + sizeof("/result") - 1
        && ngx_memcmp(p + ZONE_ID_TEXT, "/result", sizeof("/result") - 1)
           == 0)
    {
        *result = 1;
        len = ZONE_ID_TEXT;
    }

    if (zone_id_parse(id, (char *) p, len) != 0) {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


/*
 * From the slot while the job is active, otherwise from the store.  In this
 * order: a slot is given up only after the store has what it said.
 */

ngx_int_t
ngx_http_offload_find(ngx_http_request_t *r, ngx_http_offload_zone_t *zone,
    uint8_t id[ZONE_ID_SIZE], ngx_http_offload_job_t *job)
{
    int                     state;
    char                    name[NGX_MAX_PATH];
    ngx_int_t               rc;
    struct zone_job         zj;
    ngx_http_offload_rt_t  *rt;

    rt = zone->rt;

    if (rt == NULL || !rt->mapped || rt->broken || zone_broken(&rt->zone)) {
        return NGX_ERROR;
    }

    ngx_memzero(job, sizeof(ngx_http_offload_job_t));

    state = zone_slot_read(&rt->zone, id, &zj);

    switch (state) {

    case ZONE_SLOT_SUBMITTED:
    case ZONE_SLOT_QUEUED:
    case ZONE_SLOT_RUNNING:

        ngx_memcpy(job->id, id, ZONE_ID_SIZE);
        job->state = state == ZONE_SLOT_RUNNING ? STORE_RUNNING
                                                : STORE_QUEUED;
        job->seq = zj.seq;
        job->created_ms = zj.created_ms;
        job->started_ms = zj.started_ms;
        job->attempts = zj.attempts;
        job->timeout_s = zj.timeout_s;
        job->progress = ngx_min(zj.progress, 101);

        return NGX_OK;

    default:
        break;
    }

    rc = ngx_http_offload_store_job(rt, r->pool, id, job);

    /*
     * A slot that could not be read is not proof of anything, nor is a zone
     * that another has taken the place of, nor a store before its worker has
     * taken it up: in a new zone no job has a number.
     */

    if (rc != NGX_DECLINED) {
        return rc;
    }

    zone_path(name, sizeof(name), (char *) zone->path.data, ZONE_FILE_ZONE);

    if (state < 0 || !zone_is_current(&rt->zone, name)
        || atomic_load_explicit(&rt->zone.worker->next_seq,
                                memory_order_relaxed) == 0)
    {
        return NGX_ERROR;
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_offload_missing(ngx_http_request_t *r, ngx_int_t rc)
{
    if (rc == NGX_DECLINED) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_not_found);
    }

    return ngx_http_offload_send_problem(r, &ngx_http_offload_store_down);
}


static ngx_int_t
ngx_http_offload_document(ngx_http_request_t *r, ngx_http_offload_job_t *job)
{
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    return ngx_http_offload_send_document(r, olcf->status, &olcf->prefix,
                                          job);
}


static ngx_int_t
ngx_http_offload_result(ngx_http_request_t *r, ngx_http_offload_job_t *job)
{
    ngx_int_t                     rc;
    ngx_buf_t                    *b;
    ngx_chain_t                   out;
    ngx_http_offload_result_t     result;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (job->state == STORE_QUEUED || job->state == STORE_RUNNING) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_not_ready);
    }

    if (job->flags & STORE_DISCARDED) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_discarded);
    }

    if (!(job->flags & STORE_HAS_RESULT)) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_result);
    }

    rc = ngx_http_offload_store_result(olcf->status->rt, r->pool, job->seq,
                                       &result);
    if (rc != NGX_OK) {
        return ngx_http_offload_missing(r, rc);
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (result.blob) {
        rc = ngx_http_offload_result_file(r, job, &result, b);
        if (rc != NGX_OK) {
            return ngx_http_offload_missing(r, rc);
        }

    } else {
        b->pos = result.body.data;
        b->last = result.body.data + result.body.len;
        b->memory = result.body.len ? 1 : 0;
    }

    b->last_buf = 1;
    b->last_in_chain = 1;

    if (ngx_http_offload_result_headers(r, &result) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* The backend's status and end-to-end headers, and whose they are. */

static ngx_int_t
ngx_http_offload_result_headers(ngx_http_request_t *r,
    ngx_http_offload_result_t *result)
{
    u_char     *p, *last, *end, *colon;
    ngx_str_t   name, value;

    r->headers_out.status = result->status;
    r->headers_out.content_length_n = result->size;

    r->allow_ranges = result->status == NGX_HTTP_OK;

    p = result->headers.data;
    last = p + result->headers.len;

    while (p < last) {

        end = ngx_strlchr(p, last, '\0');
        if (end == NULL) {
            return NGX_ERROR;
        }

        colon = ngx_strlchr(p, end, ':');

        if (colon && colon > p) {
            name.data = p;
            name.len = colon - p;

            for (value.data = colon + 1;
                 value.data < end && *value.data == ' ';
                 value.data++)
            {
                /* void */
            }

            value.len = end - value.data;

            if (ngx_http_offload_result_header(r, &name, &value) != NGX_OK) {
                return NGX_ERROR;
            }
        }

        p = end + 1;
    }

    ngx_str_set(&value, "backend");

    return ngx_http_offload_add_header(r, "Offload-Source",
                                       sizeof("Offload-Source") - 1, &value)
           ? NGX_OK : NGX_ERROR;
}


/* Headers that nginx's filters work with have places of their own. */

static ngx_int_t
ngx_http_offload_result_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char           *p;
    ngx_table_elt_t  *h;

#define ngx_http_offload_named(text)                                          \
    (name->len == sizeof(text) - 1                                            \
     && ngx_strncasecmp(name->data, (u_char *) text, sizeof(text) - 1) == 0)

    if (ngx_http_offload_named("Content-Type")) {
        r->headers_out.content_type = *value;

        p = ngx_strlchr(value->data, value->data + value->len, ';');

        r->headers_out.content_type_len = p ? (size_t) (p - value->data)
                                            : value->len;
        r->headers_out.content_type_lowcase = NULL;

        return NGX_OK;
    }

    if (ngx_http_offload_named("Accept-Ranges") && r->allow_ranges) {
        return NGX_OK;
    }

    h = ngx_http_offload_add_header(r, (char *) name->data, name->len, value);
    if (h == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_offload_named("Content-Encoding")) {
        r->headers_out.content_encoding = h;

    } else if (ngx_http_offload_named("ETag")) {
        r->headers_out.etag = h;

    } else if (ngx_http_offload_named("Last-Modified")) {
        r->headers_out.last_modified = h;
        r->headers_out.last_modified_time = ngx_parse_http_time(value->data,
                                                                value->len);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_result_file(ngx_http_request_t *r,
    ngx_http_offload_job_t *job, ngx_http_offload_result_t *result,
    ngx_buf_t *b)
{
    u_char                       *name, *p;
    ngx_fd_t                      fd;
    ngx_str_t                    *store;
    ngx_file_info_t               fi;
    ngx_pool_cleanup_t           *cln;
    ngx_pool_cleanup_file_t      *clnf;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    store = &olcf->status->store;

    name = ngx_pnalloc(r->pool, store->len + sizeof("/" ZONE_DIR_BLOBS "/.")
                                + ZONE_ID_TEXT + NGX_INT32_LEN);
    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_pool_cleanup_file_t));
    b->file = ngx_pcalloc(r->pool, sizeof(ngx_file_t));

    if (name == NULL || cln == NULL || b->file == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(name, "%V/%s/", store, ZONE_DIR_BLOBS);
    zone_id_format((char *) p, job->id);
    p = ngx_sprintf(p + ZONE_ID_TEXT, ".%ui", job->attempts);
    *p = '\0';

    fd = ngx_open_file(name, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        if (ngx_errno == NGX_ENOENT) {
            return NGX_DECLINED;                /* discarded a moment ago */
        }

        ngx_log_error(NGX_LOG_ERR, r->connection->log, ngx_errno,
                      ngx_open_file_n " \"%s\" failed", name);
        return NGX_ERROR;
    }

    cln->handler = ngx_pool_cleanup_file;
    clnf = cln->data;
    clnf->fd = fd;
    clnf->name = name;
    clnf->log = r->connection->log;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR
        || ngx_file_size(&fi) != result->size)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "\"%s\" has %O bytes, and the store says %O", name,
                      ngx_file_size(&fi), result->size);
        return NGX_ERROR;
    }

    b->file->fd = fd;
    b->file->name.data = name;
    b->file->name.len = p - name;
    b->file->log = r->connection->log;

    b->file_pos = 0;
    b->file_last = result->size;
    b->in_file = result->size ? 1 : 0;

    return NGX_OK;
}


/*
 * DELETE.  offloadd decides, since it alone knows what runs: the request
 * waits for its word, and then answers with what the job has become.
 */

static ngx_int_t
ngx_http_offload_cancel(ngx_http_request_t *r, ngx_http_offload_job_t *job)
{
    uint64_t                      token;
    ngx_int_t                     rc;
    struct zone_record           *rec;
    ngx_http_offload_rt_t        *rt;
    ngx_http_offload_loc_conf_t  *olcf;

    if (job->state == STORE_CANCELED || (job->flags & STORE_DISCARDED)) {
        return ngx_http_offload_document(r, job);
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rt = ngx_http_offload_rt_lane(olcf->status);

    rec = rt ? zone_sq_reserve(&rt->producer, ZONE_RECORD_CANCEL, 0) : NULL;

    if (rec == NULL) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_worker);
    }

    rc = ngx_http_offload_park(r, rt, ngx_http_offload_canceled,
                               NGX_HTTP_OFFLOAD_CANCEL_TIMEOUT, 0, job->id,
                               &token);

    if (rc == NGX_BUSY) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_worker);
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memcpy(rec->id, job->id, ZONE_ID_SIZE);
    rec->token = token;

    zone_sq_publish(&rt->producer);
    ngx_http_offload_rt_wake(rt);

    /* a client that leaves is noticed, and takes its place with it */

    r->read_event_handler = ngx_http_test_reading;
    r->main->count++;

    return NGX_DONE;
}


/* Without an answer it may be done all the same: the store knows first. */

static ngx_uint_t
ngx_http_offload_was_canceled(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, uint8_t id[ZONE_ID_SIZE],
    ngx_http_offload_job_t *job)
{
    return rt != NULL
           && ngx_http_offload_store_job(rt, r->pool, id, job) == NGX_OK
           && (job->state == STORE_CANCELED
               || (job->flags & STORE_DISCARDED));
}


static void
ngx_http_offload_canceled(ngx_http_request_t *r, ngx_int_t result)
{
    uint8_t                       id[ZONE_ID_SIZE];
    ngx_int_t                     rc;
    ngx_uint_t                    unused;
    ngx_http_offload_job_t        job;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rc = ngx_http_offload_parse(r, id, &unused);

    if (rc == NGX_OK) {
        rc = ngx_http_offload_find(r, olcf->status, id, &job);
    }

    if (result != ZONE_DONE && result != ZONE_NOT_FOUND
        && (rc != NGX_OK
            || !ngx_http_offload_was_canceled(r, olcf->status->rt, id, &job)))
    {
        rc = ngx_http_offload_send_problem(r, &ngx_http_offload_no_worker);

    } else if (rc != NGX_OK) {
        rc = ngx_http_offload_missing(r, rc);

    } else if (job.state == STORE_EXPIRED) {
        rc = ngx_http_offload_send_problem(r, &ngx_http_offload_gone);

    } else {
        rc = ngx_http_offload_document(r, &job);
    }

    ngx_http_finalize_request(r, rc);
}
