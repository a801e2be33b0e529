
/*
 * A zone that is there when nginx (re)loads: whose is it, and what of it may
 * be another now?  Runs in the master before anything is opened; it reads
 * and refuses, and under "nginx -t" says the same as far as files tell: what
 * a running nginx has in memory is known to its own reload only.
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>


static ngx_int_t ngx_http_offload_zone_held(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
static ngx_http_offload_zone_t *ngx_http_offload_zone_before(
    ngx_cycle_t *cycle, ngx_str_t *name, ngx_str_t *path);
static json_t *ngx_http_offload_zone_policy_read(
    ngx_http_offload_zone_t *zone);
static ngx_int_t ngx_http_offload_zone_in_use(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, const char *what, const char *old,
    const char *new);
static const char *ngx_http_offload_zone_differs(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, struct zone_geometry *have, uint64_t *old,
    uint64_t *new);


/* Has any lane an owner?  NGX_OK, NGX_DECLINED, NGX_ERROR: can't be said. */

static ngx_int_t
ngx_http_offload_zone_held(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    int                fd, held;
    char               file[NGX_MAX_PATH];
    struct zone_error  e;

    zone_path(file, sizeof(file), (char *) zone->path.data, ZONE_FILE_LOCK);

    if (access(file, F_OK) == -1) {
        return NGX_DECLINED;
    }

    fd = zone_lock_open(file, &e);
    if (fd == -1) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui: %s", &zone->name,
                      zone->conf_file, zone->line, e.text);
        return NGX_ERROR;
    }

    held = zone_lock_held(fd, 0, ZONE_LANES_MAX);

    (void) close(fd);

    return held ? NGX_OK : NGX_DECLINED;
}


/* The zone of the running configuration that has this name, or this path. */

static ngx_http_offload_zone_t *
ngx_http_offload_zone_before(ngx_cycle_t *cycle, ngx_str_t *name,
    ngx_str_t *path)
{
    ngx_uint_t                      i;
    ngx_cycle_t                    *old;
    ngx_http_offload_zone_t       **zones;
    ngx_http_offload_main_conf_t   *omcf;

    old = cycle->old_cycle;

    if (ngx_is_init_cycle(old)) {
        return NULL;
    }

    for (i = 0; old->modules[i]; i++) {
        if (old->modules[i] == &ngx_http_offload_module) {
            break;
        }
    }

    omcf = old->modules[i] ? ngx_http_cycle_get_module_main_conf(old,
                                                   ngx_http_offload_module)
                           : NULL;

    if (omcf == NULL) {
        return NULL;
    }

    zones = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {

        if ((name && ngx_strcmp(zones[i]->name.data, name->data) == 0)
            || (path && ngx_strcmp(zones[i]->path.data, path->data) == 0))
        {
            return zones[i];
        }
    }

    return NULL;
}


/*
 * A zone belongs to one nginx.  Held lanes are this one's own when the zone
 * was in the configuration before, or when sockets were inherited from the
 * binary that is being upgraded.
 */

ngx_int_t
ngx_http_offload_zone_owned(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    ngx_int_t  rc;

    if (ngx_is_init_cycle(cycle->old_cycle) ? ngx_inherited
        : ngx_http_offload_zone_before(cycle, NULL, &zone->path) != NULL)
    {
        return NGX_OK;
    }

    rc = ngx_http_offload_zone_held(cycle, zone);

    if (rc == NGX_OK) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui: path \"%V\" is in use by "
                      "another nginx, or by workers that outlived their "
                      "master; give this zone a \"path\" of its own",
                      &zone->name, zone->conf_file, zone->line, &zone->path);
    }

    return rc == NGX_DECLINED ? NGX_OK : NGX_ERROR;
}


/*
 * The policy is what the last configuration in force said of the zone.  The
 * directory is the worker user's: whatever stands there may be anything.
 */

static json_t *
ngx_http_offload_zone_policy_read(ngx_http_offload_zone_t *zone)
{
    int      fd;
    char     name[NGX_MAX_PATH], text[16384];
    ssize_t  n;

    zone_path(name, sizeof(name), (char *) zone->path.data, ZONE_FILE_POLICY);

    fd = open(name, O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);
    if (fd == -1) {
        return NULL;
    }

    n = read(fd, text, sizeof(text));

    (void) close(fd);

    return n > 0 ? json_loadb(text, n, 0, NULL) : NULL;
}


/*
 * Jobs are found by the zone's store, and offloadd keeps to the one it has:
 * while anyone is at work in the zone it keeps its name, store and promise,
 * and a zone of that name its path.
 */

ngx_int_t
ngx_http_offload_zone_kept(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    json_t                   *policy;
    ngx_int_t                 rc, held;
    ngx_uint_t                i;
    const char               *old;
    ngx_http_offload_zone_t  *before;

    const char  *fixed[][2] = {
        { "zone", (const char *) zone->name.data },
        { "store", (const char *) zone->store.data },
        { "durability", zone->durable ? "disk" : "memory" }
    };

    before = ngx_http_offload_zone_before(cycle, &zone->name, NULL);

    if (before && ngx_strcmp(before->path.data, zone->path.data) != 0) {
        return ngx_http_offload_zone_in_use(cycle, zone, "path",
                                            (char *) before->path.data,
                                            (char *) zone->path.data);
    }

    policy = ngx_http_offload_zone_policy_read(zone);
    if (policy == NULL) {
        return NGX_OK;
    }

    held = ngx_http_offload_zone_held(cycle, zone);
    rc = held == NGX_ERROR ? NGX_ERROR : NGX_OK;

    for (i = 0; rc == NGX_OK && i < sizeof(fixed) / sizeof(fixed[0]); i++) {

        old = json_string_value(json_object_get(policy, fixed[i][0]));

        if (old == NULL || strcmp(old, fixed[i][1]) == 0) {
            continue;
        }

        if (held == NGX_OK) {
            rc = ngx_http_offload_zone_in_use(cycle, zone, fixed[i][0], old,
                                              fixed[i][1]);

        } else if (strcmp(fixed[i][0], "store") == 0) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "zone \"%V\" in %s:%ui: store was \"%s\" and is "
                          "\"%s\" now: the jobs of the one are not found in "
                          "the other", &zone->name, zone->conf_file,
                          zone->line, old, fixed[i][1]);
        }
    }

    json_decref(policy);

    return rc;
}


static ngx_int_t
ngx_http_offload_zone_in_use(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, const char *what, const char *old,
    const char *new)
{
    ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                  "zone \"%V\" in %s:%ui: %s was \"%s\" and is \"%s\" now; a "
                  "zone in use keeps what its jobs are found by: stop nginx "
                  "first, or define another zone beside it", &zone->name,
                  zone->conf_file, zone->line, what, old, new);

    return NGX_ERROR;
}


/*
 * What of the geometry has changed, or NULL.  With as many worker processes
 * as there are lanes nobody could be replaced by a reload, with more some
 * could accept nothing.
 */

static const char *
ngx_http_offload_zone_differs(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, struct zone_geometry *have, uint64_t *old,
    uint64_t *new)
{
    uint64_t          least;
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    least = ngx_min(ccf->worker_processes + 1, ZONE_LANES_MAX);

    *old = have->lanes;

    if (have->size != (uint64_t) zone->size) {
        *old = have->size;
        *new = zone->size;
        return "size";
    }

    if (zone->lanes && have->lanes != zone->lanes) {
        *new = zone->lanes;
        return "lanes";
    }

    if (zone->slots && have->slots != zone->slots) {
        *old = have->slots;
        *new = zone->slots;
        return "slots";
    }

    if (zone->lanes == 0 && have->lanes < least) {
        *new = ngx_min(2 * ccf->worker_processes + 2, ZONE_LANES_MAX);
        return "lanes (by worker_processes)";
    }

    return NULL;
}


/*
 * NGX_OK: adopted.  NGX_DECLINED: another geometry, but the zone is out of
 * use and empty, so that a new one can take its place.
 */

ngx_int_t
ngx_http_offload_zone_compare(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, struct zone_geometry *have)
{
    char               file[NGX_MAX_PATH];
    uint32_t           i;
    uint64_t           pending, old, new;
    ngx_int_t          held;
    const char        *name;
    struct zone        z;
    struct zone_error  e;

    name = ngx_http_offload_zone_differs(cycle, zone, have, &old, &new);

    if (name == NULL) {
        zone->geometry = *have;
        return NGX_OK;
    }

    held = ngx_http_offload_zone_held(cycle, zone);

    if (held == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (held == NGX_OK) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui: %s was %uL and is %uL now; a "
                      "zone in use keeps its geometry: stop nginx first, or "
                      "give the new zone another name and path",
                      &zone->name, zone->conf_file, zone->line, name, old,
                      new);
        return NGX_ERROR;
    }

    pending = 0;

    zone_path(file, sizeof(file), (char *) zone->path.data, ZONE_FILE_ZONE);

    if (zone_open(&z, file, &e) != 0) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui can not be used: %s",
                      &zone->name, zone->conf_file, zone->line, e.text);
        return NGX_ERROR;
    }

    for (i = 0; i < z.geo.lanes && !ZONE_MUTANT("zone.owed"); i++) {
        pending += zone_lane_owed(&z, i);
    }

    zone_close(&z);

    if (pending) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui: %s was %uL and is %uL now, and "
                      "the zone holds accepted jobs that are not stored yet "
                      "(%uL bytes): start once more with the old %s until "
                      "they are", &zone->name, zone->conf_file, zone->line,
                      name, old, new, pending, name);
        return NGX_ERROR;
    }

    return NGX_DECLINED;
}
