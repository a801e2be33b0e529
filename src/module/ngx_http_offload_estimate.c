
/*
 * When a job should be done, and when it is worth asking again: offloadd's
 * figures for the arithmetic in zone_estimate.c.  Runs in worker processes
 * and only reads; what outlives a call is a copy of its answer.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_estimate_job(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, uint64_t now, struct zone_estimate *e);
static uint32_t ngx_http_offload_outlook(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, uint64_t now, struct zone_outlook *o);


/*
 * A unix time, 0 while nobody can tell, and seconds for Retry-After; both 0
 * once the job is settled.  Whole seconds, the later ones: documents show no
 * other.
 */

uint64_t
ngx_http_offload_estimate(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, ngx_uint_t *retry)
{
    uint64_t              now;
    ngx_time_t           *tp;
    struct zone_estimate  e;

    *retry = 0;

    if (job->state != STORE_QUEUED && job->state != STORE_RUNNING) {
        return 0;
    }

    tp = ngx_timeofday();
    now = (uint64_t) tp->sec * 1000 + tp->msec;

    ngx_http_offload_estimate_job(zone, job, now, &e);

    *retry = e.retry_s;

    return e.known ? (now + e.left_ms + 999) / 1000 * 1000 : 0;
}


/* Seconds until the job that is next in the queue should have had its turn. */

ngx_uint_t
ngx_http_offload_retry_place(ngx_http_offload_zone_t *zone, uint32_t queue,
    uint32_t location)
{
    ngx_uint_t              retry;
    ngx_time_t             *tp;
    ngx_http_offload_job_t  job;

    ngx_memzero(&job, sizeof(ngx_http_offload_job_t));

    tp = ngx_timeofday();

    job.state = STORE_QUEUED;
    job.position = 1;
    job.queue = queue;
    job.location = location;
    job.created_ms = (uint64_t) tp->sec * 1000 + tp->msec;

    (void) ngx_http_offload_estimate(zone, &job, &retry);

    return ngx_max(retry, 1);
}


/*
 * It takes half a microsecond, which a 202 would feel.  Those of one location
 * that are sent within a millisecond mostly have the same to say.
 */

static void
ngx_http_offload_estimate_job(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, uint64_t now, struct zone_estimate *e)
{
    uint32_t              queue;
    struct zone_times     all, own;
    struct zone_outlook   o;
    struct zone_service  *services;

    static struct {
        struct zone_service  *services;
        uint32_t              location;
        uint32_t              queue;
        uint64_t              at;
        struct zone_outlook   outlook;
        struct zone_estimate  estimate;
    } last;

    queue = ngx_http_offload_outlook(zone, job, now, &o);

    services = zone->rt->mapped ? zone_services(&zone->rt->zone) : NULL;

    if (services && services == last.services && now == last.at
        && job->location == last.location && queue == last.queue
        && ngx_memcmp(&o, &last.outlook, sizeof(struct zone_outlook)) == 0)
    {
        *e = last.estimate;
        return;
    }

    all.n = 0;
    own.n = 0;

    if (services) {
        zone_times_of(&own, services, job->location);

        if (!o.running) {
            zone_times_of(&all, services, queue);
        }
    }

    zone_estimate(e, &o, &all, &own);

    last.services = services;
    last.location = job->location;
    last.queue = queue;
    last.at = now;
    last.outlook = o;
    last.estimate = *e;
}


/* Returns the queue by whose service times it waits. */

static uint32_t
ngx_http_offload_outlook(ngx_http_offload_zone_t *zone,
    ngx_http_offload_job_t *job, uint64_t now, struct zone_outlook *o)
{
    uint64_t           delay;
    struct zone_turns  turns;

    ngx_memzero(o, sizeof(struct zone_outlook));    /* padding as well */

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

        return 0;
    }

    if (job->not_before_ms > now) {
        o->delay_ms = job->not_before_ms - now;
    }

    if (!zone->rt->mapped) {
        return 0;
    }

    zone_turns_read(&turns, &zone->rt->zone, job->queue);

    /* until it is stored a job has no number: it comes after all that wait */

    o->ahead = job->seq ? zone_turns_ahead(&turns, job->seq)
                        : (job->position ? job->position - 1 : turns.waiting)
                          / turns.batch;
    o->busy = turns.busy;
    o->concurrency = turns.concurrency;
    o->held = (turns.flags & ZONE_QUEUE_HELD) != 0;
    o->down = (turns.flags & ZONE_QUEUE_OPEN) != 0;

    delay = zone_turns_rate(&turns, o->ahead, now);
    o->delay_ms = ngx_max(o->delay_ms, delay);

    return turns.queue;
}
