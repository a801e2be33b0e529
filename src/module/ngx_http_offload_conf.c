
/*
 * The module's configuration: created, merged, and put to work.  Runs while
 * nginx reads its configuration, touches nothing but memory, and leaves
 * nothing behind when it fails.
 */


#include "ngx_http_offload_module.h"


static ngx_http_offload_entrance_t *ngx_http_offload_find_entrance(
    ngx_http_core_srv_conf_t *cscf, ngx_http_offload_zone_t *zone);
static ngx_int_t ngx_http_offload_add_statuses(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf);
static ngx_int_t ngx_http_offload_add_locations(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf);
static ngx_int_t ngx_http_offload_accept_conf(ngx_conf_t *cf,
    ngx_http_offload_location_t *location);


void *
ngx_http_offload_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_offload_main_conf_t  *omcf;

    omcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_main_conf_t));
    if (omcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     omcf->worker = NGX_HTTP_OFFLOAD_WORKER_AUTO;
     *     omcf->worker_set = 0;
     */

    ngx_str_set(&omcf->worker_path, NGX_OFFLOAD_WORKER_PATH);

    if (ngx_array_init(&omcf->zones, cf->pool, 2,
                       sizeof(ngx_http_offload_zone_t *))
        != NGX_OK)
    {
        return NULL;
    }

    if (ngx_array_init(&omcf->queues, cf->pool, 4,
                       sizeof(ngx_http_offload_queue_t *))
        != NGX_OK)
    {
        return NULL;
    }

    if (ngx_array_init(&omcf->locations, cf->pool, 8,
                       sizeof(ngx_http_offload_location_t))
        != NGX_OK)
    {
        return NULL;
    }

    return omcf;
}


void *
ngx_http_offload_create_srv_conf(ngx_conf_t *cf)
{
    ngx_http_offload_srv_conf_t  *oscf;

    oscf = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_srv_conf_t));
    if (oscf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&oscf->entrances, cf->pool, 1,
                       sizeof(ngx_http_offload_entrance_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return oscf;
}


void *
ngx_http_offload_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_loc_conf_t));
    if (olcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     olcf->zone = NULL;
     *     olcf->status = NULL;
     *     olcf->counted = NULL;
     *     olcf->entrance = NULL;
     *     olcf->hash = 0;
     *     olcf->accept_conf = NULL;
     */

    olcf->queue = NGX_CONF_UNSET_PTR;
    olcf->keep = NGX_CONF_UNSET_PTR;
    olcf->idempotency = NGX_CONF_UNSET_PTR;
    olcf->owner = NGX_CONF_UNSET_PTR;
    olcf->base_url = NGX_CONF_UNSET_PTR;
    olcf->dialect = NGX_CONF_UNSET_UINT;
    olcf->access = NGX_CONF_UNSET_UINT;
    olcf->delivery = NGX_CONF_UNSET_UINT;
    olcf->timeout = NGX_CONF_UNSET;
    olcf->max_depth = NGX_CONF_UNSET_UINT;
    olcf->accept_timeout = NGX_CONF_UNSET_MSEC;
    olcf->when = NGX_CONF_UNSET_PTR;
    olcf->wait = NGX_CONF_UNSET_MSEC;
    olcf->wait_max = NGX_CONF_UNSET_MSEC;
    olcf->heartbeat = NGX_CONF_UNSET_MSEC;
    olcf->body_buffer = NGX_CONF_UNSET_SIZE;
    olcf->result_ttl = NGX_CONF_UNSET;
    olcf->max_result = NGX_CONF_UNSET;
    olcf->truncate = NGX_CONF_UNSET_UINT;
    olcf->cache_control = NGX_CONF_UNSET_PTR;

    return olcf;
}


char *
ngx_http_offload_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_offload_loc_conf_t  *prev = parent;
    ngx_http_offload_loc_conf_t  *conf = child;

    ngx_http_conf_ctx_t           *ctx;
    ngx_http_offload_location_t   *location;
    ngx_http_offload_main_conf_t  *omcf;

    if (conf->status || conf->counted) {
        conf->queue = NULL;     /* a status location is never offloaded */
    }

    ngx_conf_merge_ptr_value(conf->queue, prev->queue, NULL);
    ngx_conf_merge_ptr_value(conf->keep, prev->keep, NULL);
    ngx_conf_merge_ptr_value(conf->idempotency, prev->idempotency, NULL);
    ngx_conf_merge_ptr_value(conf->owner, prev->owner, NULL);
    ngx_conf_merge_ptr_value(conf->base_url, prev->base_url, NULL);
    ngx_conf_merge_uint_value(conf->dialect, prev->dialect,
                              NGX_HTTP_OFFLOAD_PLAIN);
    ngx_conf_merge_uint_value(conf->access, prev->access,
                              NGX_HTTP_OFFLOAD_ACCESS_ONCE);
    ngx_conf_merge_uint_value(conf->delivery, prev->delivery,
                              NGX_HTTP_OFFLOAD_AT_LEAST_ONCE);
    ngx_conf_merge_value(conf->timeout, prev->timeout, NGX_CONF_UNSET);
    ngx_conf_merge_uint_value(conf->max_depth, prev->max_depth, 3);
    ngx_conf_merge_msec_value(conf->accept_timeout, prev->accept_timeout,
                              5000);
    ngx_conf_merge_ptr_value(conf->when, prev->when, NULL);
    ngx_conf_merge_msec_value(conf->wait, prev->wait, 0);
    ngx_conf_merge_msec_value(conf->wait_max, prev->wait_max, 60000);
    ngx_conf_merge_msec_value(conf->heartbeat, prev->heartbeat, 15000);
    ngx_conf_merge_value(conf->result_ttl, prev->result_ttl, 0);
    ngx_conf_merge_off_value(conf->max_result, prev->max_result, 0);
    ngx_conf_merge_uint_value(conf->truncate, prev->truncate, 0);
    ngx_conf_merge_ptr_value(conf->cache_control, prev->cache_control, NULL);

    if (conf->body_buffer == NGX_CONF_UNSET_SIZE
        && prev->body_buffer == NGX_CONF_UNSET_SIZE)
    {
        /* the default is cut to what the ring takes, not refused */
        conf->body_buffer_default = 1;
    }

    if (prev->body_buffer_default) {
        conf->body_buffer_default = conf->body_buffer == NGX_CONF_UNSET_SIZE;
    }

    ngx_conf_merge_size_value(conf->body_buffer, prev->body_buffer,
                              256 * 1024);

    conf->zone = conf->queue ? conf->queue->zone : NULL;

    if (conf->zone == NULL && conf->status == NULL) {
        return NGX_CONF_OK;
    }

    omcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_offload_module);

    location = ngx_array_push(&omcf->locations);
    if (location == NULL) {
        return NGX_CONF_ERROR;
    }

    ctx = cf->ctx;

    location->olcf = conf;
    location->cscf = ctx->srv_conf[ngx_http_core_module.ctx_index];
    location->loc_conf = ctx->loc_conf;

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_offload_postconfiguration(ngx_conf_t *cf)
{
    ngx_http_handler_pt           *h;
    ngx_http_core_main_conf_t     *cmcf;
    ngx_http_offload_main_conf_t  *omcf;

    omcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_offload_module);

    if (ngx_http_offload_zones_check(cf, omcf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (omcf->zones.nelts == 0) {
        return NGX_OK;
    }

    if (ngx_http_offload_add_statuses(cf, omcf) != NGX_OK
        || ngx_http_offload_add_locations(cf, omcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_offload_replay_init(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_offload_filter_init();
    ngx_http_offload_idempotency_init();

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_POST_READ_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_offload_replay_post_read;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_offload_replay_preaccess;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_offload_precontent_handler;

    return NGX_OK;
}


static ngx_http_offload_entrance_t *
ngx_http_offload_find_entrance(ngx_http_core_srv_conf_t *cscf,
    ngx_http_offload_zone_t *zone)
{
    ngx_uint_t                     i;
    ngx_http_offload_srv_conf_t   *oscf;
    ngx_http_offload_entrance_t  **entrance;

    oscf = cscf->ctx->srv_conf[ngx_http_offload_module.ctx_index];

    entrance = oscf->entrances.elts;

    for (i = 0; i < oscf->entrances.nelts; i++) {
        if (entrance[i]->zone == zone) {
            return entrance[i];
        }
    }

    return NULL;
}


/* The first status location of a zone in a server is where its jobs are. */

static ngx_int_t
ngx_http_offload_add_statuses(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf)
{
    u_char                        *p;
    ngx_str_t                     *prefix;
    ngx_uint_t                     i;
    ngx_http_core_loc_conf_t      *clcf;
    ngx_http_offload_location_t   *location;
    ngx_http_offload_srv_conf_t   *oscf;
    ngx_http_offload_entrance_t   *entrance, **slot;

    location = omcf->locations.elts;

    for (i = 0; i < omcf->locations.nelts; i++) {

        if (location[i].olcf->status == NULL) {
            continue;
        }

        oscf = location[i].cscf->ctx->srv_conf
                                         [ngx_http_offload_module.ctx_index];
        clcf = location[i].loc_conf[ngx_http_core_module.ctx_index];

        /* "location /jobs" serves "/jobs/<id>" as well */

        p = ngx_pnalloc(cf->pool, 3 * clcf->name.len + 1);
        if (p == NULL) {
            return NGX_ERROR;
        }

        prefix = &location[i].olcf->prefix;
        prefix->data = p;

        p = (u_char *) ngx_escape_uri(p, clcf->name.data, clcf->name.len,
                                      NGX_ESCAPE_URI);
        if (p[-1] != '/') {
            *p++ = '/';
        }

        prefix->len = p - prefix->data;

        if (ngx_http_offload_accept_conf(cf, &location[i]) != NGX_OK) {
            return NGX_ERROR;
        }

        if (ngx_http_offload_find_entrance(location[i].cscf,
                                           location[i].olcf->status))
        {
            continue;
        }

        entrance = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_entrance_t));
        slot = ngx_array_push(&oscf->entrances);

        if (entrance == NULL || slot == NULL) {
            return NGX_ERROR;
        }

        *slot = entrance;

        entrance->zone = location[i].olcf->status;
        entrance->status = *prefix;
        entrance->owned = location[i].olcf->owner != NULL;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_add_locations(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf)
{
    ngx_uint_t                    i;
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_offload_location_t  *location;
    ngx_http_offload_loc_conf_t  *olcf;

    location = omcf->locations.elts;

    for (i = 0; i < omcf->locations.nelts; i++) {

        olcf = location[i].olcf;

        if (olcf->zone == NULL) {
            continue;
        }

        clcf = location[i].loc_conf[ngx_http_core_module.ctx_index];

        olcf->hash = ngx_murmur_hash2(clcf->name.data, clcf->name.len);

        olcf->entrance = ngx_http_offload_find_entrance(location[i].cscf,
                                                        olcf->zone);
        if (olcf->entrance == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"offload %V\" in location \"%V\" of the server "
                          "in %s:%ui needs a location with "
                          "\"offload_status %V\" in the same server",
                          &olcf->zone->name, &clcf->name,
                          location[i].cscf->file_name, location[i].cscf->line,
                          &olcf->zone->name);
            return NGX_ERROR;
        }

        if (ngx_http_offload_queue_location(cf, &location[i]) != NGX_OK
            || ngx_http_offload_owner_check(cf, &location[i]) != NGX_OK
            || ngx_http_offload_idempotency_check(cf, &location[i]) != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (ngx_http_offload_add_entrance(cf, location[i].cscf,
                                          olcf->entrance)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        /* every server has a "location /" */

        olcf->hash ^= ngx_murmur_hash2(olcf->entrance->name,
                                       NGX_HTTP_OFFLOAD_ENTRANCE_LEN);

        if (ngx_http_offload_accept_conf(cf, &location[i]) != NGX_OK
            || ngx_http_offload_replay_conf(cf, &location[i]) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/*
 * A copy of the location's configuration, for as long as a request's body is
 * read, with a core part of its own, which is returned.
 */

ngx_http_core_loc_conf_t *
ngx_http_offload_core_conf(ngx_conf_t *cf,
    ngx_http_offload_location_t *location)
{
    void                      **copy;
    ngx_http_core_loc_conf_t   *clcf;

    copy = ngx_palloc(cf->pool, sizeof(void *) * ngx_http_max_module);
    clcf = ngx_palloc(cf->pool, sizeof(ngx_http_core_loc_conf_t));

    if (copy == NULL || clcf == NULL) {
        return NULL;
    }

    ngx_memcpy(copy, location->loc_conf,
               sizeof(void *) * ngx_http_max_module);
    ngx_memcpy(clcf, location->loc_conf[ngx_http_core_module.ctx_index],
               sizeof(ngx_http_core_loc_conf_t));

    clcf->loc_conf = copy;
    copy[ngx_http_core_module.ctx_index] = clcf;

    return clcf;
}


/*
 * While a request is accepted it runs on a copy of its location's
 * configuration that keeps bodies in memory up to offload_body_buffer_size,
 * and puts larger ones where they can be renamed into the spool.  The size
 * is settled when the ring's is, by ngx_http_offload_zones_init_conf().  No
 * body may be larger than a batch.  A result that is put to a status location
 * is received the same way.
 */

static ngx_int_t
ngx_http_offload_accept_conf(ngx_conf_t *cf,
    ngx_http_offload_location_t *location)
{
    ngx_http_core_loc_conf_t     *clcf;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = location->olcf;

    clcf = ngx_http_offload_core_conf(cf, location);
    if (clcf == NULL) {
        return NGX_ERROR;
    }

    clcf->client_body_buffer_size = olcf->zone ? olcf->body_buffer
                                   : ngx_min(olcf->body_buffer,
                                             STORE_INLINE_MAX);
    clcf->client_body_in_file_only = 0;                    /* off */

    if (olcf->zone && olcf->queue->batch.size
        && (clcf->client_max_body_size == 0
            || clcf->client_max_body_size > (off_t) olcf->queue->batch.max))
    {
        clcf->client_max_body_size = (off_t) olcf->queue->batch.max;
    }

    clcf->client_body_temp_path = olcf->zone ? olcf->zone->spool_tmp
                                             : olcf->status->spool_tmp;
    olcf->accept_conf = clcf->loc_conf;

    return NGX_OK;
}
