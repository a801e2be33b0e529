
/*
 * The offload_status_zone directive: a zone's counters as JSON, for whoever
 * watches it.  Runs in worker processes; reads the zone and the store,
 * changes nothing.
 *
 * nginx counts what it puts into the rings, offloadd what it takes from them
 * and where each job is.  The two can be compared only while nothing moves:
 * lanes are read before and after the store, and what changed meanwhile, or
 * is on its way, counts as submitted.
 */


#include "ngx_http_offload_module.h"


typedef struct {
    ngx_uint_t          steady;         /* the counts belong together */
    struct zone_counts  counts;
    uint64_t            submitted;      /* published, not in the store yet */
} ngx_http_offload_lane_t;


/* What the lanes have together. */

typedef struct {
    uint64_t            refused;
    uint64_t            submitted;
    int64_t             drift;
} ngx_http_offload_sum_t;


static ngx_int_t ngx_http_offload_status_zone_handler(ngx_http_request_t *r);
static void ngx_http_offload_lanes_read(struct zone *zone,
    ngx_http_offload_lane_t *lanes);
static void ngx_http_offload_lanes_sum(struct zone *zone,
    ngx_http_offload_counters_t *counters, ngx_http_offload_lane_t *before,
    ngx_http_offload_lane_t *after, ngx_http_offload_sum_t *sum);
static u_char *ngx_http_offload_counters_json(u_char *p,
    ngx_http_offload_zone_t *zone, ngx_http_offload_counters_t *counters,
    ngx_http_offload_sum_t *sum);
static u_char *ngx_http_offload_lanes_json(u_char *p,
    ngx_http_offload_rt_t *rt, ngx_http_offload_lane_t *lanes);
static u_char *ngx_http_offload_worker_json(u_char *p,
    ngx_http_offload_rt_t *rt);


static const ngx_http_offload_problem_t  ngx_http_offload_zone_unknown = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "zone-unavailable",
    "The zone can not be read",
    "Its file or its store is out of order; the error log says more."
};


char *
ngx_http_offload_status_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (olcf->counted) {
        return "is duplicate";
    }

    if (olcf->status
        || (olcf->queue != NGX_CONF_UNSET_PTR && olcf->queue != NULL))
    {
        return "is in a location with \"offload\" or \"offload_status\"";
    }

    value = cf->args->elts;

    olcf->counted = ngx_http_offload_zone_get(cf, &value[1]);
    if (olcf->counted == NULL) {
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_offload_status_zone_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_offload_status_zone_handler(ngx_http_request_t *r)
{
    u_char                       *p;
    ngx_int_t                     rc;
    ngx_str_t                     body, value;
    ngx_uint_t                    n;
    ngx_http_offload_rt_t        *rt;
    ngx_http_offload_sum_t        sum;
    ngx_http_offload_lane_t      *before, *after;
    ngx_http_offload_loc_conf_t  *olcf;
    ngx_http_offload_counters_t   counters;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return ngx_http_offload_send_not_allowed(r, "GET, HEAD");
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    rt = olcf->counted->rt;

    if (rt == NULL || !rt->mapped || rt->broken || zone_broken(&rt->zone)) {
        return ngx_http_offload_send_problem(r,
                                             &ngx_http_offload_zone_unknown);
    }

    n = rt->zone.geo.lanes;

    ngx_memzero(&counters, sizeof(ngx_http_offload_counters_t));

    counters.ring = ngx_pcalloc(r->pool, n * sizeof(struct store_ring));
    before = ngx_palloc(r->pool, 2 * n * sizeof(ngx_http_offload_lane_t));
    p = ngx_pnalloc(r->pool, 2048 + n * 256);

    if (counters.ring == NULL || before == NULL || p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    after = before + n;
    body.data = p;

    ngx_http_offload_lanes_read(&rt->zone, before);

    if (ngx_http_offload_store_counters(rt, &counters) == NGX_ERROR) {
        return ngx_http_offload_send_problem(r,
                                             &ngx_http_offload_zone_unknown);
    }

    ngx_http_offload_lanes_read(&rt->zone, after);
    ngx_http_offload_lanes_sum(&rt->zone, &counters, before, after, &sum);

    p = ngx_http_offload_counters_json(p, olcf->counted, &counters, &sum);
    p = ngx_http_offload_lanes_json(p, rt, after);
    p = ngx_http_offload_worker_json(p, rt);

    body.len = p - body.data;

    ngx_str_set(&value, "no-store");

    if (ngx_http_offload_add_header(r, "Cache-Control",
                                    sizeof("Cache-Control") - 1, &value)
        == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_send(r, NGX_HTTP_OK, "application/json", &body);
}


static void
ngx_http_offload_lanes_read(struct zone *zone, ngx_http_offload_lane_t *lanes)
{
    uint32_t  i;

    for (i = 0; i < zone->geo.lanes; i++) {
        lanes[i].steady = zone_count(zone, i, &lanes[i].counts);
        lanes[i].submitted = 0;
    }
}


/*
 * A ring that was empty before the store was read, and had nothing new in it
 * afterwards: the store has all of it, or something is lost.
 */

static void
ngx_http_offload_lanes_sum(struct zone *zone,
    ngx_http_offload_counters_t *counters, ngx_http_offload_lane_t *before,
    ngx_http_offload_lane_t *after, ngx_http_offload_sum_t *sum)
{
    int64_t             n;
    uint32_t            i;
    ngx_uint_t          known;
    struct zone_counts  *c;

    ngx_memzero(sum, sizeof(ngx_http_offload_sum_t));

    known = counters->rings.lanes == zone->geo.lanes
            && ngx_memcmp(counters->rings.boot_id, zone->geo.boot_id,
                          sizeof(zone->geo.boot_id))
               == 0;

    for (i = 0; i < zone->geo.lanes; i++) {

        c = &after[i].counts;
        n = c->accepted - (known ? counters->ring[i].drained : 0);

        sum->refused += c->refused;

        if (before[i].steady && after[i].steady
            && before[i].counts.head == c->tail)
        {
            sum->drift += known ? n : 0;
            continue;
        }

        if (n > 0) {
            after[i].submitted = n;
            sum->submitted += n;
        }
    }
}


static u_char *
ngx_http_offload_counters_json(u_char *p, ngx_http_offload_zone_t *zone,
    ngx_http_offload_counters_t *counters, ngx_http_offload_sum_t *sum)
{
    struct store_counters  *c = &counters->jobs;

    p = ngx_sprintf(p, "{\"zone\":\"%V\",\"durability\":\"%s\"",
                    &zone->name, zone->durable ? "disk" : "memory");

    p = ngx_sprintf(p, ",\"accepted\":%uL,\"submitted\":%uL,\"queued\":%uL,"
                       "\"running\":%uL,\"completed\":%uL,\"failed\":%uL,"
                       "\"canceled\":%uL,\"expired\":%uL",
                    c->accepted, sum->submitted, c->jobs[STORE_QUEUED],
                    c->jobs[STORE_RUNNING], c->jobs[STORE_COMPLETED],
                    c->jobs[STORE_FAILED], c->jobs[STORE_CANCELED],
                    c->jobs[STORE_EXPIRED]);

    p = ngx_sprintf(p, ",\"refused\":%uL,\"withdrawn\":%uL,\"rejected\":%uL"
                       ",\"duplicates\":%uL,\"limited\":%uL,\"drift\":%L,"
                       "\"ring_drift\":%L",
                    sum->refused, c->withdrawn, c->rejected, c->duplicates,
                    c->limited, store_drift(c), sum->drift);

    return ngx_sprintf(p, ",\"store\":{\"bytes\":%uL,\"max\":%O,\"jobs\":%uL,"
                          "\"requests\":%uL,\"results\":%uL,\"dead\":%uL,"
                          "\"purged\":%uL}",
                       counters->size, zone->max, counters->rows,
                       counters->requests, counters->results,
                       counters->dead, c->purged);
}


static u_char *
ngx_http_offload_lanes_json(u_char *p, ngx_http_offload_rt_t *rt,
    ngx_http_offload_lane_t *lanes)
{
    uint32_t             i;
    ngx_uint_t           held;
    struct zone_counts  *c;

    p = ngx_sprintf(p, ",\"lanes\":[");

    for (i = 0; i < rt->zone.geo.lanes; i++) {
        c = &lanes[i].counts;

        /* our own lock does not show */

        held = i == rt->lane
               || (rt->lock != -1 && zone_lock_held(rt->lock, i, 1) == 1);

        p = ngx_sprintf(p, "%s{\"lane\":%uD,\"held\":%s,\"accepted\":%uL,"
                           "\"submitted\":%uL,\"refused\":%uL,"
                           "\"slots_used\":%uL,\"ring_bytes\":%uL}",
                        i ? "," : "", i, held ? "true" : "false",
                        c->accepted, lanes[i].submitted, c->refused,
                        (uint64_t) zone_slots_used(&rt->zone, i),
                        c->tail - c->head);
    }

    *p++ = ']';

    return p;
}


static u_char *
ngx_http_offload_worker_json(u_char *p, ngx_http_offload_rt_t *rt)
{
    ngx_uint_t           alive;
    struct zone_worker  *w = rt->zone.worker;

    alive = rt->lock != -1
            && zone_lock_held(rt->lock, ZONE_LOCK_WORKER, 1) == 1;

#define ngx_http_offload_figure(field)                                        \
    atomic_load_explicit(&w->field, memory_order_relaxed)

    return ngx_sprintf(p, ",\"worker\":{\"alive\":%s,\"pid\":%uD,"
                          "\"waiting\":%uL,\"running\":%uL,"
                          "\"concurrency\":%uL,\"service_us\":%uL,"
                          "\"refusing\":%uD}}\n",
                       alive ? "true" : "false",
                       ngx_http_offload_figure(pid),
                       ngx_http_offload_figure(waiting),
                       ngx_http_offload_figure(running),
                       ngx_http_offload_figure(concurrency),
                       ngx_http_offload_figure(service_us),
                       ngx_http_offload_figure(refusing));
}
