
/*
 * durability=disk, and requests with an idempotency key: the request is parked
 * between its record and its 202, until offloadd has committed the job (or has
 * found that there is one) or offload_accept_timeout is over.  Runs in a
 * worker process, blocks nobody.
 *
 * An answer other than 202 means that the job will never run, whatever dies
 * from then on: it is given only when nobody had taken the record before it
 * was withdrawn, or when offloadd has said that the job is not in the store.
 * Where it does not say so within the same time again, the connection is
 * closed without an answer, as if this process had been killed.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_confirm_handler(ngx_http_request_t *r,
    ngx_int_t result);
static ngx_int_t ngx_http_offload_withdraw(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);
static ngx_int_t ngx_http_offload_confirm_refuse(ngx_http_request_t *r,
    ngx_int_t result);
static ngx_int_t ngx_http_offload_confirm_ask(ngx_http_request_t *r,
    ngx_http_offload_rt_t *rt, ngx_http_offload_ctx_t *ctx);


const ngx_http_offload_problem_t  ngx_http_offload_unavailable = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "zone-unavailable",
    "Jobs can not be accepted",
    "This server has no place to put jobs at the moment."
};

static const ngx_http_offload_problem_t  ngx_http_offload_store_full = {
    NGX_HTTP_INSUFFICIENT_STORAGE, 30, "store-full",
    "No room to store another job",
    "The disk the jobs are kept on is full."
};

static const ngx_http_offload_problem_t  ngx_http_offload_store_failed = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 5, "store-failed",
    "The job could not be stored",
    "The disk the jobs are kept on can not be written."
};

static const ngx_http_offload_problem_t  ngx_http_offload_not_stored = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 5, "not-stored",
    "The job was not stored in time",
    "It was withdrawn and will not run."
};


/* Before the body is read.  What offloadd knows already needs no waiting. */

const ngx_http_offload_problem_t *
ngx_http_offload_confirm_room(ngx_http_offload_rt_t *rt)
{
    uint32_t             refusing;
    uint64_t             beat, now;
    ngx_time_t          *tp;
    struct zone_worker  *worker;

    worker = rt->zone.worker;

    refusing = atomic_load_explicit(&worker->refusing, memory_order_relaxed);

    tp = ngx_timeofday();
    now = (uint64_t) tp->sec * 1000 + tp->msec;
    beat = atomic_load_explicit(&worker->beat_ms, memory_order_relaxed);

    /* at a start it may be on its way */

    if (beat + NGX_HTTP_OFFLOAD_GONE < now
        && ngx_current_msec - rt->started > NGX_HTTP_OFFLOAD_GONE)
    {
        return &ngx_http_offload_unavailable;
    }

    if (refusing & ZONE_REFUSING_FAILED) {
        return &ngx_http_offload_store_failed;
    }

    if (refusing & ZONE_REFUSING_FULL) {
        return &ngx_http_offload_store_full;
    }

    return NULL;
}


/* The 202 is prepared, the record is written and not published. */

ngx_int_t
ngx_http_offload_confirm_park(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_http_offload_rt_t *rt,
    struct zone_record *rec, ngx_str_t *answer)
{
    uint64_t                 token;
    ngx_int_t                rc;
    ngx_http_offload_ctx_t  *ctx;

    rc = ngx_http_offload_park(r, rt, ngx_http_offload_confirm_handler,
                               olcf->accept_timeout, olcf->accept_timeout,
                               rec->id, &token);
    if (rc != NGX_OK) {
        return rc;
    }

    rec->token = token;

    ctx = ngx_http_offload_get_ctx(r);

    ctx->record = rec;
    ctx->record_end = rt->producer.next;
    ctx->lane = rt->lane;
    ctx->token = token;
    ctx->answer = *answer;

    return NGX_OK;
}


/* Published.  A client that leaves is noticed, and takes its place with it. */

void
ngx_http_offload_confirm_wait(ngx_http_request_t *r)
{
    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;
    r->main->count++;
}


static void
ngx_http_offload_confirm_handler(ngx_http_request_t *r, ngx_int_t result)
{
    ngx_int_t                     rc;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_loc_conf_t  *olcf;

    ctx = ngx_http_offload_get_ctx(r);
    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (result == NGX_HTTP_OFFLOAD_LATE) {
        rc = ngx_http_offload_withdraw(r, ctx);

        if (rc == NGX_AGAIN) {
            return;
        }

        ngx_http_offload_unpark_token(olcf->zone->rt, ctx->token);

    } else if (result == NGX_HTTP_OFFLOAD_TIMEOUT) {
        rc = ngx_http_offload_withdraw(r, ctx);

    } else if (result == ZONE_DONE) {
        rc = NGX_OK;

    } else {
        rc = NGX_DECLINED;
    }

    switch (rc) {

    case NGX_OK:
        rc = ngx_http_offload_accepted(r, olcf, &ctx->answer);
        break;

    case NGX_DECLINED:
        ctx->id_set = 0;
        rc = ngx_http_offload_confirm_refuse(r, result);
        break;

    default:
        rc = NGX_HTTP_CLOSE;
    }

    ngx_http_finalize_request(r, rc);
}


/* There is no job of this request's own. */

static ngx_int_t
ngx_http_offload_confirm_refuse(ngx_http_request_t *r, ngx_int_t result)
{
    switch (result) {

    case ZONE_DUPLICATE:
        return ngx_http_offload_send_first(r);

    case ZONE_CONFLICT:
        return ngx_http_offload_refuse(r, &ngx_http_offload_key_reused);

    case ZONE_LIMITED:
    case ZONE_LIMITED_KEY:
        return ngx_http_offload_limited(r, result);

    case ZONE_NO_ROOM:
        return ngx_http_offload_refuse(r, &ngx_http_offload_store_full);

    case ZONE_FAILED:
        return ngx_http_offload_refuse(r, &ngx_http_offload_store_failed);

    default:
        return ngx_http_offload_refuse(r, &ngx_http_offload_not_stored);
    }
}


/*
 * Nobody answered in time.  NGX_OK: the job is stored, NGX_DECLINED: it will
 * never be, NGX_AGAIN: offloadd has taken it and is asked to remove it, so
 * that its word is needed, NGX_ERROR: nobody knows.
 */

static ngx_int_t
ngx_http_offload_withdraw(ngx_http_request_t *r, ngx_http_offload_ctx_t *ctx)
{
    ngx_http_offload_rt_t        *rt;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rt = olcf->zone->rt;

    if (rt == NULL || rt->lane != ctx->lane || zone_broken(&rt->zone)) {
        return NGX_ERROR;
    }

    switch (zone_sq_withdraw(&rt->producer, ctx->record, ctx->record_end)) {

    case ZONE_WITHDRAWN:
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "offloadd has not stored a job of zone \"%V\" in time: "
                      "it is withdrawn", &olcf->zone->name);
        return NGX_DECLINED;

    case ZONE_WITHDRAW_PENDING:
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "offloadd is storing a job of zone \"%V\", and not in "
                      "time: it is asked to remove it", &olcf->zone->name);
        return NGX_AGAIN;

    case ZONE_WITHDRAW_COMMITTED:
        return NGX_OK;

    default:
        return ngx_http_offload_confirm_ask(r, rt, ctx);
    }
}


/* The record was dealt with, and the answer is lost: the store has it. */

static ngx_int_t
ngx_http_offload_confirm_ask(ngx_http_request_t *r, ngx_http_offload_rt_t *rt,
    ngx_http_offload_ctx_t *ctx)
{
    uint8_t                 id[ZONE_ID_SIZE];
    ngx_int_t               rc;
    ngx_http_offload_job_t  job;

    if (zone_id_parse(id, (char *) ctx->id, ZONE_ID_TEXT) != 0) {
        return NGX_ERROR;
    }

    rc = ngx_http_offload_store_job(rt, r->pool, id, &job);

    return rc == NGX_OK || rc == NGX_DECLINED ? rc : NGX_ERROR;
}
