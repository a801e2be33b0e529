
/*
 * When a job should be done, and when it is worth asking again: offloadd's
 * figures for the arithmetic in zone_estimate.c.  Runs in worker processes
 * and only reads; nothing outlives the call.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_outlook(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, uint64_t now, struct zone_outlook *o);


#define ngx_http_offload_figure(worker, field)                                \
    atomic_load_explicit(&(worker)->field, memory_order_relaxed)


/*
 * A unix time, and seconds for Retry-After; both 0 once the job is settled.
 * Whole seconds, the later ones: documents show no other.
 */

uint64_t
ngx_http_offload_estimate(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, ngx_uint_t *retry)
{
    uint64_t              now;
    ngx_time_t           *tp;
    struct zone_times     all, own;
    struct zone_outlook   o;
    struct zone_estimate  e;
    struct zone_service  *services;

    *retry = 0;

    if (job->state != STORE_QUEUED && job->state != STORE_RUNNING) {
        return 0;
    }

    tp = ngx_timeofday();
    now = (uint64_t) tp->sec * 1000 + tp->msec;

    ngx_http_offload_outlook(zone, job, now, &o);

    all.n = 0;
    own.n = 0;

    if (zone->rt->mapped) {
        services = zone_services(&zone->rt->zone);

        zone_times_of(&own, services, job->location);

        if (!o.running) {
            zone_times_read(&all, &services[0]);
        }
    }

    zone_estimate(&e, &o, &all, &own);

    *retry = e.retry_s;

    return (now + e.left_ms + 999) / 1000 * 1000;
}


static void
ngx_http_offload_outlook(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, uint64_t now, struct zone_outlook *o)
{
    uint64_t             waiting;
    struct zone_worker  *worker;

    ngx_memzero(o, sizeof(struct zone_outlook));

    o->waited_ms = now > job->created_ms ? now - job->created_ms : 0;
    o->timeout_ms = (uint64_t) job->timeout_s * 1000;
    o->running = job->state == STORE_RUNNING;

    if (o->running) {

        /*
         * started_ms is the first attempt's.  When a later one began nobody
         * has noted: it is taken for one that begins now, and not for one
         * that is overdue.
         */

        if (job->attempts <= 1 && now > job->started_ms) {
            o->running_ms = now - job->started_ms;
        }

        return;
    }

    if (!zone->rt->mapped) {
        return;
    }

    worker = zone->rt->zone.worker;

    /*
     * Until it is stored a job has no position: it comes after all that wait.
     * No other has more ahead of it than that, though those that left the
     * queue before their turn count in the position.
     */

    waiting = ngx_http_offload_figure(worker, waiting);

    o->ahead = job->position ? ngx_min(job->position - 1, waiting) : waiting;
    o->busy = ngx_http_offload_figure(worker, running);
    o->concurrency = ngx_http_offload_figure(worker, concurrency);
}
