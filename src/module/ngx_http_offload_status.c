
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
static ngx_int_t ngx_http_offload_document(ngx_http_request_t *r,
    ngx_http_offload_job_t *job);
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
        return ngx_http_offload_send_result(r, olcf->status, &job);
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


ngx_int_t
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
