
/*
 * Zones as the master sees them, on every (re)load: adopt the file that is
 * there, refuse it, or create one.  Under "nginx -t" all is checked and
 * nothing made.
 *
 * Killed at any line, the master leaves directories, or a zone file that is
 * whole: it is created under another name and renamed.
 */


#include "ngx_http_offload_module.h"

#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <linux/magic.h>


static ngx_int_t ngx_http_offload_zone_init(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
static ngx_int_t ngx_http_offload_zone_file(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, char *file, uid_t uid, gid_t gid);
static ngx_int_t ngx_http_offload_zone_geometry(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
static ngx_int_t ngx_http_offload_zone_writable(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, const char *what, ngx_str_t *name,
    struct statvfs *fs);
static ngx_int_t ngx_http_offload_zone_fs(ngx_str_t *name, uint64_t *room);
static void ngx_http_offload_zone_media(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
static ngx_int_t ngx_http_offload_zone_room(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone);
static void ngx_http_offload_zone_buffers(ngx_http_offload_main_conf_t *omcf,
    ngx_http_offload_zone_t *zone);


/*
 * Everything is parsed, nothing is opened yet, and a failure keeps a running
 * nginx on its old configuration.
 */

char *
ngx_http_offload_zones_init_conf(ngx_cycle_t *cycle, void *conf)
{
    ngx_uint_t                      i;
    ngx_core_conf_t                *ccf;
    ngx_http_offload_zone_t       **zone;
    ngx_http_offload_main_conf_t   *omcf;

    omcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_offload_module);

    if (omcf == NULL || ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_CONF_OK;
    }

    if (ngx_http_offload_exec_check(cycle, omcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    zone = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {

        if (!ccf->master) {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                          "zone \"%V\" in %s:%ui needs \"master_process on\"",
                          &zone[i]->name, zone[i]->conf_file, zone[i]->line);
            return NGX_CONF_ERROR;
        }

        if (zone[i]->lanes
            && zone[i]->lanes < (ngx_uint_t) ngx_min(ccf->worker_processes,
                                                     ZONE_LANES_MAX))
        {
            ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                          "zone \"%V\" in %s:%ui has lanes=%ui, and each of "
                          "%i worker processes needs one", &zone[i]->name,
                          zone[i]->conf_file, zone[i]->line, zone[i]->lanes,
                          ccf->worker_processes);
            return NGX_CONF_ERROR;
        }

        if (ngx_http_offload_zone_init(cycle, zone[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        ngx_http_offload_zone_buffers(omcf, zone[i]);
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_offload_zone_init(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    char      file[NGX_MAX_PATH];
    gid_t     gid;
    uid_t     uid;

    ngx_http_offload_zone_user(cycle, &uid, &gid);

    if (zone_path(file, sizeof(file), (char *) zone->path.data,
                  ZONE_FILE_ZONE)
        != 0)
    {
        return NGX_ERROR;
    }

    if (ngx_http_offload_zone_dirs(cycle, zone, uid, gid) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_offload_zone_media(cycle, zone);

    if (ngx_http_offload_zone_kept(cycle, zone) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_test_config) {
        return ngx_http_offload_zone_file(cycle, zone, file, uid, gid);
    }

    if (ngx_http_offload_zone_owned(cycle, zone) != NGX_OK
        || ngx_http_offload_zone_file(cycle, zone, file, uid, gid) != NGX_OK
        || ngx_http_offload_zone_sockets(cycle, zone) != NGX_OK
        || ngx_http_offload_zone_log(cycle, zone) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* Adopts the file that is there, refuses it, or creates one. */

static ngx_int_t
ngx_http_offload_zone_file(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone,
    char *file, uid_t uid, gid_t gid)
{
    ngx_int_t             rc;
    struct zone_error     e;
    struct zone_geometry  have;

    if (zone_probe(file, &have, &e) == 0) {
        rc = ngx_http_offload_zone_compare(cycle, zone, &have);

        if (rc != NGX_DECLINED) {
            return rc;
        }

        /* another geometry, nobody there, nothing in it: as if absent */

    } else if (e.err != ENOENT) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui can not be used: %s; move the "
                      "file away to start with a new zone", &zone->name,
                      zone->conf_file, zone->line, e.text);
        return NGX_ERROR;
    }

    if (ngx_http_offload_zone_geometry(cycle, zone) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_offload_zone_room(cycle, zone) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_test_config) {
        return NGX_OK;
    }

    if (zone_create(file, &zone->geometry, uid, gid, &e) != 0) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui can not be created: %s",
                      &zone->name, zone->conf_file, zone->line, e.text);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * The number of lanes is ours to choose when "lanes" is not given: twice the
 * workers, since a reload has old and new ones, as far as the size allows.
 */

static ngx_int_t
ngx_http_offload_zone_geometry(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone)
{
    ngx_uint_t             lanes, least;
    ngx_core_conf_t       *ccf;
    struct zone_error      e;
    struct zone_geometry  *g;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    lanes = ngx_min(2 * ccf->worker_processes + 2, ZONE_LANES_MAX);
    least = ngx_min(ccf->worker_processes + 1, ZONE_LANES_MAX);

    if (zone->lanes) {
        lanes = zone->lanes;
        least = zone->lanes;
    }

    g = &zone->geometry;

    for ( ;; ) {
        g->size = zone->size;
        g->lanes = lanes;
        g->slots = zone->slots;
        g->sq_size = 0;

        if (zone_geometry(g, &e) == 0) {
            return NGX_OK;
        }

        if (lanes == least) {
            break;
        }

        lanes--;
    }

    ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                  "zone \"%V\" in %s:%ui with %i worker processes: %s",
                  &zone->name, zone->conf_file, zone->line,
                  ccf->worker_processes, e.text);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_offload_zone_writable(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, const char *what, ngx_str_t *name,
    struct statvfs *fs)
{
    u_char  parent[NGX_MAX_PATH], *p;

    /* the directory may not be there yet, its parent must be */

    p = ngx_cpystrn(parent, name->data, sizeof(parent));

    while (access((char *) parent, F_OK) == -1 && p > parent) {
        while (p > parent && *p != '/') {
            p--;
        }

        p[p == parent] = '\0';

        if (!zone->store_default) {
            break;                  /* others are not ours to make */
        }
    }

    if (access((char *) parent, W_OK|X_OK) == -1
        || statvfs((char *) parent, fs) == -1)
    {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "%s \"%V\" of zone \"%V\" in %s:%ui can not be "
                      "written to: \"%s\"", what, name, &zone->name,
                      zone->conf_file, zone->line, parent);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* The file system of what is there of a path: 1 if its files are memory. */

static ngx_int_t
ngx_http_offload_zone_fs(ngx_str_t *name, uint64_t *room)
{
    u_char         *p, path[NGX_MAX_PATH];
    struct statfs   fs;

    p = ngx_cpystrn(path, name->data, sizeof(path));

    while (statfs((char *) path, &fs) == -1) {

        while (p > path && *p != '/') {
            p--;
        }

        if (p == path) {
            return NGX_ERROR;
        }

        *p = '\0';
    }

    *room = (uint64_t) fs.f_bavail * fs.f_bsize;

    return fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
}


/* Neither is a mistake for certain, so that these are warnings. */

static void
ngx_http_offload_zone_media(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    uint64_t   room;
    ngx_int_t  memory;

    if (ngx_http_offload_zone_fs(&zone->path, &room) == 0) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "path \"%V\" of zone \"%V\" in %s:%ui is not on a "
                      "tmpfs: the zone is shared memory, and the system would "
                      "write it to a disk again and again", &zone->path,
                      &zone->name, zone->conf_file, zone->line);
    }

    memory = ngx_http_offload_zone_fs(&zone->store, &room);

    if (zone->durable && memory == 1) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "store \"%V\" of zone \"%V\" in %s:%ui is on a tmpfs: "
                      "with \"durability=disk\" jobs are to survive a "
                      "reboot, and there they do not", &zone->store,
                      &zone->name, zone->conf_file, zone->line);
    }

    if (memory != NGX_ERROR && room < NGX_HTTP_OFFLOAD_STATE_LOW) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "store \"%V\" of zone \"%V\" in %s:%ui has %uL bytes "
                      "left: when it is full, requests are refused",
                      &zone->store, &zone->name, zone->conf_file, zone->line,
                      room);
    }
}


static ngx_int_t
ngx_http_offload_zone_room(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    uint64_t        room;
    struct statvfs  fs;

    /* by default the store is in the zone's directory, and made with it */

    if ((zone->store.len < zone->path.len
         || ngx_strncmp(zone->store.data, zone->path.data, zone->path.len)
            != 0)
        && ngx_http_offload_zone_writable(cycle, zone, "store", &zone->store,
                                          &fs)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_offload_zone_writable(cycle, zone, "path", &zone->path, &fs)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    room = (uint64_t) fs.f_bavail * fs.f_frsize;

    if (room < (uint64_t) zone->size) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "path \"%V\" of zone \"%V\" in %s:%ui has %uL bytes "
                      "left, and the zone takes %O", &zone->path, &zone->name,
                      zone->conf_file, zone->line, room, zone->size);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * A body and the rest of its record must fit the ring: the buffer's default
 * is half of the largest record at most, leaving the other half to headers.
 */

static void
ngx_http_offload_zone_buffers(ngx_http_offload_main_conf_t *omcf,
    ngx_http_offload_zone_t *zone)
{
    size_t                         max;
    ngx_uint_t                     i;
    ngx_http_core_loc_conf_t      *clcf;
    ngx_http_offload_location_t   *location;

    max = ZONE_RECORD_MAX(zone->geometry.sq_size) / 2;

    location = omcf->locations.elts;

    for (i = 0; i < omcf->locations.nelts; i++) {

        if (location[i].olcf->zone != zone
            && location[i].olcf->status != zone)
        {
            continue;
        }

        clcf = location[i].olcf->accept_conf[ngx_http_core_module.ctx_index];

        if (clcf->client_body_buffer_size > max) {

            if (location[i].olcf->zone
                && !location[i].olcf->body_buffer_default)
            {
                ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                              "\"offload_body_buffer_size\" in location "
                              "\"%V\" is %uz, and zone \"%V\" takes bodies "
                              "of up to %uz in its rings: larger ones go by "
                              "way of a file", &clcf->name,
                              clcf->client_body_buffer_size, &zone->name,
                              max);
            }

            clcf->client_body_buffer_size = max;
        }
    }
}
