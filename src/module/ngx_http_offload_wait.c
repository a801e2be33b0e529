
/*
 * Requests that wait for a job to change: held submissions, long polls and
 * event streams.  Runs in worker processes.
 *
 * A request is parked under a WATCH record; offloadd answers that it watches,
 * then the job is looked at once more, then its change wakes the request.  A
 * watch is renewed before its time is over, which makes good for an offloadd
 * that died.  A process that is told to leave wakes all it has.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_WATCH        30        /* s: offloadd keeps it */
#define NGX_HTTP_OFFLOAD_WATCH_RENEW  10000     /* ms */
#define NGX_HTTP_OFFLOAD_WATCH_AGAIN  1000


static ngx_int_t ngx_http_offload_watch(ngx_http_offload_wait_t *w);
static void ngx_http_offload_watched(ngx_http_request_t *r, ngx_int_t result);
static ngx_uint_t ngx_http_offload_unread(ngx_http_offload_wait_t *w);
static ngx_uint_t ngx_http_offload_changed(ngx_http_offload_wait_t *w,
    ngx_http_offload_job_t *job);


/*
 * Waits until the job is other than *seen, or `msec` are over, and then calls
 * the handler with what it is by then; the handler finalizes the request, or
 * waits again.  NGX_DECLINED: no waiting now, NGX_ERROR.
 */

ngx_int_t
ngx_http_offload_wait(ngx_http_request_t *r, ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *seen, ngx_uint_t flags, ngx_msec_t msec,
    ngx_http_offload_waited_pt handler)
{
    ngx_int_t                 rc;
    ngx_http_offload_ctx_t   *ctx;
    ngx_http_offload_wait_t  *w;

    ctx = ngx_http_offload_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_http_offload_add_ctx(r);
        if (ctx == NULL) {
            return NGX_ERROR;
        }
    }

    w = ctx->wait;

    if (w == NULL) {
        w = ngx_pcalloc(r->pool, sizeof(ngx_http_offload_wait_t));
        if (w == NULL) {
            return NGX_ERROR;
        }

        ctx->wait = w;
    }

    w->request = r;
    w->zone = zone;
    w->flags = flags;
    w->seen = *seen;
    w->deadline = ngx_current_msec + msec;
    w->handler = handler;

    rc = ngx_http_offload_watch(w);

    if (rc == NGX_OK) {
        ngx_http_offload_wait_hold(r, ctx);
    }

    return rc;
}


/* The request outlives its handler's NGX_DONE, and a lost client is noticed. */

void
ngx_http_offload_wait_hold(ngx_http_request_t *r, ngx_http_offload_ctx_t *ctx)
{
    if (!ctx->held) {
        ctx->held = 1;
        r->read_event_handler = ngx_http_test_reading;

        if (r->write_event_handler == ngx_http_core_run_phases) {
            r->write_event_handler = ngx_http_request_empty_handler;
        }

        r->main->count++;
    }
}


static ngx_int_t
ngx_http_offload_watch(ngx_http_offload_wait_t *w)
{
    ngx_int_t               rc;
    ngx_msec_int_t          left;
    struct zone_record     *rec;
    ngx_http_offload_rt_t  *rt;

    rt = ngx_http_offload_rt_lane(w->zone);

    rec = rt ? zone_sq_reserve(&rt->producer, ZONE_RECORD_WATCH, 0) : NULL;

    if (rec == NULL || ngx_exiting) {
        return NGX_DECLINED;
    }

    left = ngx_max((ngx_msec_int_t) (w->deadline - ngx_current_msec), 1);

    rc = ngx_http_offload_park(w->request, rt, ngx_http_offload_watched,
                               ngx_min(left, NGX_HTTP_OFFLOAD_WATCH_RENEW),
                               0, w->seen.id, &w->token);
    if (rc != NGX_OK) {
        return rc == NGX_BUSY ? NGX_DECLINED : NGX_ERROR;
    }

    ngx_memcpy(rec->id, w->seen.id, ZONE_ID_SIZE);
    rec->token = w->token;
    rec->slot = NGX_HTTP_OFFLOAD_WATCH;
    rec->watch = w->flags;

    w->lane = rt->lane;
    w->record_end = rt->producer.next;

    zone_sq_publish(&rt->producer);
    ngx_http_offload_rt_wake(rt);

    return NGX_OK;
}


/* Is the record of the last watch in the ring still? */

static ngx_uint_t
ngx_http_offload_unread(ngx_http_offload_wait_t *w)
{
    ngx_http_offload_rt_t  *rt;

    rt = w->zone->rt;

    return rt && rt->lane == w->lane
           && (int64_t) (atomic_load(&rt->producer.lane->sq_head)
                         - w->record_end)
              < 0;
}


/* ZONE_ARMED leaves the request where it is, all others have unparked it. */

static void
ngx_http_offload_watched(ngx_http_request_t *r, ngx_int_t result)
{
    ngx_int_t                 rc;
    ngx_msec_int_t            left;
    ngx_http_offload_ctx_t   *ctx;
    ngx_http_offload_job_t    job;
    ngx_http_offload_wait_t  *w;

    ctx = ngx_http_offload_get_ctx(r);
    w = ctx->wait;

    rc = ngx_http_offload_find(r, w->zone, w->seen.id, &job);

    left = w->deadline - ngx_current_msec;

    if (rc == NGX_OK && left > 0 && result != NGX_HTTP_OFFLOAD_CLOSING
        && !ngx_http_offload_changed(w, &job))
    {
        if (result == ZONE_ARMED) {
            return;
        }

        /*
         * Not active, and not settled: it is on its way into the store.  Or
         * nobody has read the last record: another would only fill the ring.
         */

        if ((result == ZONE_NOT_FOUND || ngx_http_offload_unread(w))
            && ngx_http_offload_park(r, w->zone->rt, ngx_http_offload_watched,
                                     ngx_min(left,
                                             NGX_HTTP_OFFLOAD_WATCH_AGAIN),
                                     0, w->seen.id, &w->token)
               == NGX_OK)
        {
            return;
        }

        if (ngx_http_offload_watch(w) == NGX_OK) {
            return;
        }
    }

    if (result == ZONE_ARMED) {
        ngx_http_offload_unpark_token(w->zone->rt, w->token);
    }

    w->handler(r, rc, &job, result);
}


static ngx_uint_t
ngx_http_offload_changed(ngx_http_offload_wait_t *w,
    ngx_http_offload_job_t *job)
{
    if (w->flags & ZONE_WATCH_SETTLED) {
        return job->state != STORE_QUEUED && job->state != STORE_RUNNING;
    }

    if (job->state != w->seen.state || job->attempts != w->seen.attempts
        || job->progress != w->seen.progress)
    {
        return 1;
    }

    return (w->flags & ZONE_WATCH_POSITION)
           && job->position != w->seen.position;
}


/* The process leaves: whoever waits gets an answer, and asks the next one. */

void
ngx_http_offload_wait_close(ngx_http_offload_rt_t *rt)
{
    uint32_t                    i;
    ngx_connection_t           *c;
    ngx_http_request_t         *r;
    ngx_http_offload_parked_t  *parked;

    for (i = 0; i < rt->nplaces; i++) {
        parked = rt->parked[i];

        if (parked->request == NULL
            || parked->handler != ngx_http_offload_watched)
        {
            continue;
        }

        r = parked->request;
        c = r->connection;

        ngx_http_offload_unpark(parked);
        ngx_http_offload_watched(r, NGX_HTTP_OFFLOAD_CLOSING);

        ngx_http_run_posted_requests(c);
    }
}
