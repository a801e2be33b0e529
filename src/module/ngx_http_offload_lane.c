
/*
 * A worker process's end of a zone: the mapping, its lane, the socket it is
 * woken by, and the requests parked until offloadd answers them.
 *
 * All of it is private to the process and is gone with it.  What a killed
 * process leaves in the lane is repaired by whoever takes the lane next;
 * the lock that says so is the kernel's and goes with the process.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_rt_map(ngx_http_offload_rt_t *rt);
static ngx_int_t ngx_http_offload_rt_take(ngx_http_offload_rt_t *rt);
static ngx_int_t ngx_http_offload_rt_listen(ngx_http_offload_rt_t *rt,
    uint32_t lane);
static void ngx_http_offload_rt_prefault(ngx_http_offload_rt_t *rt);
static void ngx_http_offload_rt_release(ngx_http_offload_rt_t *rt);
static void ngx_http_offload_rt_set_broken(ngx_http_offload_rt_t *rt,
    const char *why);
static void ngx_http_offload_rt_tick(ngx_event_t *ev);
static void ngx_http_offload_rt_wake_handler(ngx_event_t *rev);
static void ngx_http_offload_rt_completions(ngx_http_offload_rt_t *rt);
static void ngx_http_offload_unpark(ngx_http_offload_parked_t *parked);
static void ngx_http_offload_unpark_cleanup(void *data);
static void ngx_http_offload_park_timeout(ngx_event_t *ev);


ngx_int_t
ngx_http_offload_rt_init(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    char                    name[NGX_MAX_PATH];
    uint32_t                i;
    struct zone_error       e;
    ngx_http_offload_rt_t  *rt;

    rt = ngx_pcalloc(cycle->pool, sizeof(ngx_http_offload_rt_t));
    if (rt == NULL) {
        return NGX_ERROR;
    }

    rt->conf = zone;
    rt->lock = -1;
    rt->bell = -1;
    rt->lane = NGX_HTTP_OFFLOAD_NO_LANE;

    rt->parked = ngx_pcalloc(cycle->pool, NGX_HTTP_OFFLOAD_PARKED
                                          * sizeof(ngx_http_offload_parked_t));
    if (rt->parked == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < NGX_HTTP_OFFLOAD_PARKED; i++) {
        rt->parked[i].rt = rt;
        rt->parked[i].next = i + 1;
    }

    zone->rt = rt;

    (void) zone_guard_install();

    zone_path(name, sizeof(name), (char *) zone->path.data, ZONE_FILE_WORKER);
    (void) zone_bell_init(&rt->worker, name);

    rt->bell = zone_bell_socket();

    zone_path(name, sizeof(name), (char *) zone->path.data, ZONE_FILE_LOCK);

    rt->lock = zone_lock_open(name, &e);
    if (rt->lock == -1) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0, "zone \"%V\": %s",
                      &zone->name, e.text);
    }

    /* cancelable: a graceful exit does not wait for it */

    rt->tick.handler = ngx_http_offload_rt_tick;
    rt->tick.data = rt;
    rt->tick.log = cycle->log;
    rt->tick.cancelable = 1;

    ngx_add_timer(&rt->tick, NGX_HTTP_OFFLOAD_TICK);

    /* what can not be had now is tried for again by the timer */

    if (ngx_http_offload_rt_map(rt) == NGX_OK) {
        (void) ngx_http_offload_rt_take(rt);
    }

    return NGX_OK;
}


void
ngx_http_offload_rt_exit(ngx_http_offload_zone_t *zone)
{
    ngx_http_offload_rt_t  *rt;

    rt = zone->rt;

    if (rt == NULL) {
        return;
    }

    zone->rt = NULL;

    ngx_http_offload_rt_release(rt);
    ngx_http_offload_store_close(rt);

    if (rt->mapped) {
        zone_close(&rt->zone);
    }

    if (rt->lock != -1) {
        (void) close(rt->lock);
    }

    if (rt->bell != -1) {
        (void) close(rt->bell);
    }
}


static ngx_int_t
ngx_http_offload_rt_map(ngx_http_offload_rt_t *rt)
{
    char               name[NGX_MAX_PATH];
    struct zone_error  e;

    zone_path(name, sizeof(name), (char *) rt->conf->path.data,
              ZONE_FILE_ZONE);

    if (zone_open(&rt->zone, name, &e) != 0) {
        if (ngx_time() - rt->warned >= 10) {
            rt->warned = ngx_time();
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "zone \"%V\" can not be used: %s",
                          &rt->conf->name, e.text);
        }

        return NGX_ERROR;
    }

    if (rt->zone.geo.size != rt->conf->geometry.size
        || rt->zone.geo.lanes != rt->conf->geometry.lanes
        || rt->zone.geo.slots != rt->conf->geometry.slots)
    {
        zone_close(&rt->zone);
        return NGX_ERROR;
    }

    rt->mapped = 1;

    return NGX_OK;
}


/*
 * The runtime with a lane to accept on, or NULL.  A process without a lane
 * (after a reload old workers may still hold them) asks for one again, but
 * not with every request.
 */

ngx_http_offload_rt_t *
ngx_http_offload_rt_lane(ngx_http_offload_zone_t *zone)
{
    ngx_http_offload_rt_t  *rt;

    rt = zone->rt;

    if (rt == NULL) {
        return NULL;
    }

    if (rt->lane != NGX_HTTP_OFFLOAD_NO_LANE) {

        if (!zone_broken(&rt->zone)) {
            return rt;
        }

        ngx_http_offload_rt_set_broken(rt, "it was cut short");
        return NULL;
    }

    if (!rt->mapped || rt->broken || ngx_current_msec - rt->tried < 50) {
        return NULL;
    }

    return ngx_http_offload_rt_take(rt) == NGX_OK ? rt : NULL;
}


static ngx_int_t
ngx_http_offload_rt_take(ngx_http_offload_rt_t *rt)
{
    uint32_t            i;
    struct zone_error   e;
    struct zone_repair  repair;

    rt->tried = ngx_current_msec;

    if (rt->lock == -1) {
        return NGX_ERROR;
    }

    for (i = 0; i < rt->zone.geo.lanes; i++) {

        if (zone_lock_take(rt->lock, i) != 0) {
            continue;
        }

        if (zone_lane_repair(&rt->zone, i, &repair, &e) != 0
            || zone_producer_init(&rt->producer, &rt->zone, i, &e) != 0)
        {
            /* keep clear of it, and leave it for a look at the file */

            (void) zone_lock_drop(rt->lock, i);

            if (ngx_time() - rt->warned >= 10) {
                rt->warned = ngx_time();
                ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                              "zone \"%V\", lane %uD: %s", &rt->conf->name, i,
                              e.text);
            }

            continue;
        }

        if (ngx_http_offload_rt_listen(rt, i) != NGX_OK) {
            (void) zone_lock_drop(rt->lock, i);
            return NGX_ERROR;
        }

        if (repair.undone || repair.pending || repair.completions) {
            ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                          "zone \"%V\", lane %uD: its last owner left %uL "
                          "jobs it never submitted (dropped), %uL submitted "
                          "(kept), %uL answers (dropped)", &rt->conf->name,
                          i, repair.undone, repair.pending,
                          repair.completions);
        }

        rt->lane = i;
        atomic_store_explicit(&rt->producer.lane->owner_pid, ngx_pid,
                              memory_order_relaxed);

        ngx_http_offload_rt_prefault(rt);
        ngx_http_offload_rt_completions(rt);

        return NGX_OK;
    }

    return NGX_DECLINED;
}


/* The socket offloadd rings when the completion ring has something. */

static ngx_int_t
ngx_http_offload_rt_listen(ngx_http_offload_rt_t *rt, uint32_t lane)
{
    int                fd;
    char               name[NGX_MAX_PATH];
    ngx_connection_t  *c;
    struct zone_error  e;

    zone_lane_path(name, sizeof(name), (char *) rt->conf->path.data, lane);

    fd = zone_wake_bind(name, &e);
    if (fd == -1) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "zone \"%V\": %s",
                      &rt->conf->name, e.text);
        return NGX_ERROR;
    }

    c = ngx_get_connection(fd, ngx_cycle->log);
    if (c == NULL) {
        (void) close(fd);
        return NGX_ERROR;
    }

    c->data = rt;
    c->log = ngx_cycle->log;
    c->read->log = c->log;
    c->write->log = c->log;
    c->read->handler = ngx_http_offload_rt_wake_handler;

    /* not a client's: a graceful exit neither waits for it nor complains */

    c->read->channel = 1;

    if (ngx_add_event(c->read, NGX_READ_EVENT, 0) != NGX_OK) {
        ngx_free_connection(c);
        (void) close(fd);
        return NGX_ERROR;
    }

    rt->wake = c;

    return NGX_OK;
}


/* The first write to a page of the ring must not fault on a request's path. */

static void
ngx_http_offload_rt_prefault(ngx_http_offload_rt_t *rt)
{
#ifdef MADV_POPULATE_WRITE
    uint8_t  *lane;

    lane = (uint8_t *) zone_lane(&rt->zone, rt->lane);

    (void) madvise(lane, rt->zone.geo.lane_stride, MADV_POPULATE_WRITE);
#endif
}


static void
ngx_http_offload_rt_release(ngx_http_offload_rt_t *rt)
{
    int                fd;
    char               name[NGX_MAX_PATH];
    ngx_connection_t  *c;

    if (rt->lane == NGX_HTTP_OFFLOAD_NO_LANE) {
        return;
    }

    c = rt->wake;

    if (c) {
        fd = c->fd;

        zone_lane_path(name, sizeof(name), (char *) rt->conf->path.data,
                       rt->lane);
        (void) unlink(name);

        ngx_del_conn(c, NGX_CLOSE_EVENT);
        ngx_free_connection(c);
        c->fd = (ngx_socket_t) -1;
        (void) close(fd);

        rt->wake = NULL;
    }

    (void) zone_lock_drop(rt->lock, rt->lane);

    rt->lane = NGX_HTTP_OFFLOAD_NO_LANE;
}


static void
ngx_http_offload_rt_set_broken(ngx_http_offload_rt_t *rt, const char *why)
{
    if (rt->broken) {
        return;
    }

    rt->broken = 1;

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "zone \"%V\" is out of order: its file in \"%V\" was "
                  "changed by someone else: %s; requests are refused until "
                  "the file is moved away and nginx reloaded",
                  &rt->conf->name, &rt->conf->path, why);

    ngx_http_offload_rt_release(rt);
}


/* Ring offloadd if it sleeps: call it after every publish. */

void
ngx_http_offload_rt_wake(ngx_http_offload_rt_t *rt)
{
    if (zone_wake_due(&rt->zone.worker->sleeping)) {
        zone_bell_ring(rt->bell, &rt->worker);
    }
}


static void
ngx_http_offload_rt_tick(ngx_event_t *ev)
{
    char                    name[NGX_MAX_PATH];
    ngx_http_offload_rt_t  *rt;

    rt = ev->data;

    ngx_add_timer(ev, NGX_HTTP_OFFLOAD_TICK);

    if (ngx_exiting || ngx_terminate) {

        /* long connections may hold this process for hours, not its lane */

        if (rt->nparked == 0) {
            ngx_http_offload_rt_release(rt);
        }

        return;
    }

    ngx_http_offload_store_check(rt);

    if (!rt->mapped) {
        if (ngx_http_offload_rt_map(rt) != NGX_OK) {
            return;
        }
    }

    if (!rt->broken) {
        zone_path(name, sizeof(name), (char *) rt->conf->path.data,
                  ZONE_FILE_ZONE);

        if (zone_broken(&rt->zone) || !zone_is_current(&rt->zone, name)) {
            ngx_http_offload_rt_set_broken(rt, "cut short or replaced");
        }
    }

    if (rt->broken) {
        return;
    }

    if (rt->lane == NGX_HTTP_OFFLOAD_NO_LANE) {
        (void) ngx_http_offload_rt_take(rt);
        return;
    }

    /* the safety net under wake-ups that were lost */

    ngx_http_offload_rt_completions(rt);
}


static void
ngx_http_offload_rt_wake_handler(ngx_event_t *rev)
{
    ngx_connection_t       *c;
    ngx_http_offload_rt_t  *rt;

    c = rev->data;
    rt = c->data;

    zone_wake_drain(c->fd);

    ngx_http_offload_rt_completions(rt);
}


static void
ngx_http_offload_rt_completions(ngx_http_offload_rt_t *rt)
{
    int                         rc;
    uint32_t                    index;
    ngx_uint_t                  pass;
    ngx_connection_t           *c;
    ngx_http_request_t         *r;
    struct zone_completion      completion;
    ngx_http_offload_parked_t  *parked;
    ngx_http_offload_wakened_pt  handler;

    /* once more after arming: what came in between rings nobody */

    for (pass = 0; pass < 2; pass++) {

        while ((rc = zone_cq_pop(&rt->zone, rt->lane, &completion)) == 1) {

            index = (uint32_t) completion.token - 1;

            if (index >= NGX_HTTP_OFFLOAD_PARKED) {
                continue;
            }

            parked = &rt->parked[index];

            if (parked->request == NULL
                || parked->serial != completion.token >> 32)
            {
                continue;                   /* it did not wait any longer */
            }

            r = parked->request;
            c = r->connection;
            handler = parked->handler;

            ngx_http_offload_unpark(parked);

            handler(r, completion.result);

            ngx_http_run_posted_requests(c);

            if (rt->lane == NGX_HTTP_OFFLOAD_NO_LANE) {
                return;
            }
        }

        if (rc == -1) {
            ngx_http_offload_rt_set_broken(rt, "its completion ring has "
                                               "positions that can not be");
            return;
        }

        zone_sleep_arm(&rt->producer.lane->cq_sleeping);
    }
}


/*
 * Sets the request aside until a completion with *token arrives, `timeout`
 * is over or the client is gone.  The caller has published nothing yet: room
 * for the completion is what is reserved here.
 */

ngx_int_t
ngx_http_offload_park(ngx_http_request_t *r, ngx_http_offload_rt_t *rt,
    ngx_http_offload_wakened_pt handler, ngx_msec_t timeout, uint64_t *token)
{
    ngx_http_cleanup_t         *cln;
    ngx_http_offload_parked_t  *parked;

    if (rt->free == NGX_HTTP_OFFLOAD_PARKED) {
        return NGX_BUSY;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    parked = &rt->parked[rt->free];
    rt->free = parked->next;
    rt->nparked++;

    parked->serial++;
    parked->request = r;
    parked->handler = handler;

    cln->handler = ngx_http_offload_unpark_cleanup;
    cln->data = parked;

    parked->timer.handler = ngx_http_offload_park_timeout;
    parked->timer.data = parked;
    parked->timer.log = r->connection->log;

    ngx_add_timer(&parked->timer, timeout);

    *token = ((uint64_t) parked->serial << 32) | (parked - rt->parked + 1);

    return NGX_OK;
}


static void
ngx_http_offload_unpark(ngx_http_offload_parked_t *parked)
{
    ngx_http_cleanup_t     *cln;
    ngx_http_offload_rt_t  *rt;

    rt = parked->rt;

    for (cln = parked->request->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_offload_unpark_cleanup
            && cln->data == parked)
        {
            cln->handler = NULL;
        }
    }

    if (parked->timer.timer_set) {
        ngx_del_timer(&parked->timer);
    }

    parked->request = NULL;
    parked->next = rt->free;
    rt->free = parked - rt->parked;
    rt->nparked--;
}


/* The client went away first. */

static void
ngx_http_offload_unpark_cleanup(void *data)
{
    ngx_http_offload_parked_t  *parked = data;

    if (parked->request) {
        ngx_http_offload_unpark(parked);
    }
}


static void
ngx_http_offload_park_timeout(ngx_event_t *ev)
{
    ngx_connection_t             *c;
    ngx_http_request_t           *r;
    ngx_http_offload_parked_t    *parked;
    ngx_http_offload_wakened_pt   handler;

    parked = ev->data;
    r = parked->request;
    c = r->connection;
    handler = parked->handler;

    ngx_http_offload_unpark(parked);

    handler(r, NGX_HTTP_OFFLOAD_TIMEOUT);

    ngx_http_run_posted_requests(c);
}
