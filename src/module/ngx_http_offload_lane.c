
/*
 * A worker process's end of a zone: the mapping, its lane, the socket it is
 * woken by.
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
static void ngx_http_offload_rt_leave(ngx_http_offload_rt_t *rt);
static void ngx_http_offload_rt_tick(ngx_event_t *ev);
static void ngx_http_offload_rt_wake_handler(ngx_event_t *rev);


ngx_int_t
ngx_http_offload_rt_init(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    char                    name[NGX_MAX_PATH];
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

    rt->started = ngx_current_msec;

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

    if (rt->broken) {
        return NULL;
    }

    if (rt->lane != NGX_HTTP_OFFLOAD_NO_LANE) {

        if (!zone_broken(&rt->zone)) {
            return rt;
        }

        ngx_http_offload_rt_set_broken(rt, "it was cut short");
        return NULL;
    }

    if (!rt->mapped || ngx_current_msec - rt->tried < 50) {
        return NULL;
    }

    return ngx_http_offload_rt_take(rt) == NGX_OK ? rt : NULL;
}


static ngx_int_t
ngx_http_offload_rt_take(ngx_http_offload_rt_t *rt)
{
    char                name[NGX_MAX_PATH];
    uint32_t            i;
    struct zone_error   e;
    struct zone_repair  repair;

    rt->tried = ngx_current_msec;

    if (rt->lock == -1) {
        return NGX_ERROR;
    }

    /* what is put into a file that was replaced would be read by nobody */

    zone_path(name, sizeof(name), (char *) rt->conf->path.data,
              ZONE_FILE_ZONE);

    if (!zone_is_current(&rt->zone, name)) {
        return NGX_ERROR;
    }

    for (i = 0; i < rt->zone.geo.lanes; i++) {

        if (zone_lock_take(rt->lock, i) != 0 && !ZONE_MUTANT("lane.lock")) {
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

        /* in a zone that took this one's place it is another's */

        zone_path(name, sizeof(name), (char *) rt->conf->path.data,
                  ZONE_FILE_ZONE);

        if (zone_is_current(&rt->zone, name)) {
            zone_lane_path(name, sizeof(name), (char *) rt->conf->path.data,
                           rt->lane);
            (void) unlink(name);
        }

        ngx_del_conn(c, NGX_CLOSE_EVENT);
        ngx_free_connection(c);
        c->fd = (ngx_socket_t) -1;
        (void) close(fd);

        rt->wake = NULL;
    }

    (void) zone_lock_drop(rt->lock, rt->lane);

    rt->lane = NGX_HTTP_OFFLOAD_NO_LANE;
}


/*
 * Gives the lane back, after those who wait for an answer in it: a file that
 * was replaced or removed is still what is mapped, here and by offloadd.
 */

static void
ngx_http_offload_rt_leave(ngx_http_offload_rt_t *rt)
{
    if (rt->lane == NGX_HTTP_OFFLOAD_NO_LANE) {
        return;
    }

    if (rt->nparked && !zone_broken(&rt->zone)) {
        ngx_http_offload_rt_completions(rt);
    }

    if (rt->nparked == 0 || zone_broken(&rt->zone)) {
        ngx_http_offload_rt_release(rt);
    }
}


void
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

    ngx_http_offload_rt_leave(rt);
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

        ngx_http_offload_wait_close(rt);
        ngx_http_offload_rt_leave(rt);
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
        ngx_http_offload_rt_leave(rt);
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
