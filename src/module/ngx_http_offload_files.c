
/*
 * What stands beside a zone's file: directories, names of sockets, the log
 * and the policy offloadd reads.  Runs in the master, as root where that is
 * root, on every (re)load; under "nginx -t" nothing is made.
 *
 * Killed at any line, it leaves directories that the next start finds, or a
 * temporary policy that the next one replaces.
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>


static ngx_int_t ngx_http_offload_zone_dir(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, char *name, uid_t uid, gid_t gid);
static ngx_int_t ngx_http_offload_zone_policy(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone, uid_t uid, gid_t gid);


ngx_int_t
ngx_http_offload_zone_dirs(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone,
    uid_t uid, gid_t gid)
{
    char        name[NGX_MAX_PATH];
    ngx_uint_t  i;

    static const char  *dirs[] = { ZONE_DIR_SPOOL, ZONE_DIR_SPOOL_TMP,
                                   ZONE_DIR_BLOBS, NULL };

    /* the place of all stores by default; others are the administrator's */

    if (zone->store_default && !ngx_test_config
        && mkdir(NGX_HTTP_OFFLOAD_STATE_DIR, 0755) == -1
        && ngx_errno != NGX_EEXIST)
    {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "zone \"%V\" in %s:%ui: \"%s\" can not be made: set "
                      "\"store\"", &zone->name, zone->conf_file, zone->line,
                      NGX_HTTP_OFFLOAD_STATE_DIR);
        return NGX_ERROR;
    }

    if (ngx_http_offload_zone_dir(cycle, zone, (char *) zone->path.data, uid,
                                  gid)
        != NGX_OK
        || ngx_http_offload_zone_dir(cycle, zone, (char *) zone->store.data,
                                     uid, gid)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; dirs[i]; i++) {
        if (zone_path(name, sizeof(name), (char *) zone->store.data, dirs[i])
            != 0
            || ngx_http_offload_zone_dir(cycle, zone, name, uid, gid)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/*
 * Sockets in it are as open as the directory is, and /dev/shm is everyone's:
 * what is there already must be the worker user's (or root's) and private.
 * Under "nginx -t" what is not there is not made.
 */

static ngx_int_t
ngx_http_offload_zone_dir(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone,
    char *name, uid_t uid, gid_t gid)
{
    ngx_err_t     err;
    const char   *what;
    struct stat   st;

    err = 0;

    if (!ngx_test_config && mkdir(name, 0700) == -1
        && ngx_errno != NGX_EEXIST)
    {
        err = ngx_errno;
        what = "can not be made";
        goto failed;
    }

    if (lstat(name, &st) == -1) {
        if (ngx_test_config && ngx_errno == NGX_ENOENT) {
            return NGX_OK;
        }

        err = ngx_errno;
        what = "can not be looked at";
        goto failed;
    }

    if (!S_ISDIR(st.st_mode)) {
        what = "is not a directory";
        goto failed;
    }

    if (st.st_uid != uid && st.st_uid != geteuid()) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui: \"%s\" belongs to user %d, "
                      "and must belong to the user of nginx's workers, %d",
                      &zone->name, zone->conf_file, zone->line, name,
                      (int) st.st_uid, (int) uid);
        return NGX_ERROR;
    }

    if (st.st_mode & 077) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "zone \"%V\" in %s:%ui: \"%s\" has mode 0%d%d%d, and "
                      "must be open to its owner only: 0700",
                      &zone->name, zone->conf_file, zone->line, name,
                      (int) (st.st_mode >> 6 & 7),
                      (int) (st.st_mode >> 3 & 7), (int) (st.st_mode & 7));
        return NGX_ERROR;
    }

    if (!ngx_test_config && st.st_uid != uid && lchown(name, uid, gid) == -1) {
        err = ngx_errno;
        what = "can not be given to the user of nginx's workers";
        goto failed;
    }

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_EMERG, cycle->log, err,
                  "zone \"%V\" in %s:%ui: \"%s\" %s", &zone->name,
                  zone->conf_file, zone->line, name, what);

    return NGX_ERROR;
}


/* A name left by a kill -9 would make bind() fail. */

ngx_int_t
ngx_http_offload_zone_sockets(ngx_cycle_t *cycle,
    ngx_http_offload_zone_t *zone)
{
    u_char                        *name;
    ngx_uint_t                     i, n, k;
    struct stat                    st;
    ngx_listening_t               *ls;
    struct sockaddr_un            *saun;
    ngx_http_core_srv_conf_t     **cscfp;
    ngx_http_core_main_conf_t     *cmcf;
    ngx_http_offload_srv_conf_t   *oscf;
    ngx_http_offload_entrance_t  **entrance;

    cmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_core_module);
    cscfp = cmcf->servers.elts;
    ls = cycle->old_cycle->listening.elts;

    for (i = 0; i < cmcf->servers.nelts; i++) {

        oscf = cscfp[i]->ctx->srv_conf[ngx_http_offload_module.ctx_index];
        entrance = oscf->entrances.elts;

        for (n = 0; n < oscf->entrances.nelts; n++) {

            if (entrance[n]->zone != zone || entrance[n]->path.len == 0) {
                continue;
            }

            name = entrance[n]->path.data;

            for (k = 0; k < cycle->old_cycle->listening.nelts; k++) {
                saun = (struct sockaddr_un *) ls[k].sockaddr;

                if (saun->sun_family == AF_UNIX
                    && ngx_strcmp(saun->sun_path, name) == 0)
                {
                    break;
                }
            }

            if (k < cycle->old_cycle->listening.nelts
                || lstat((char *) name, &st) == -1)
            {
                continue;
            }

            if (!S_ISSOCK(st.st_mode) || unlink((char *) name) == -1) {
                ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                              "\"%s\" is in the way of a socket of zone "
                              "\"%V\"", name, &zone->name);
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


/*
 * The log is one of nginx's open files, so that it is made by the master and
 * made anew when log files are reopened; offloadd follows the name.
 */

ngx_int_t
ngx_http_offload_zone_log(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone)
{
    u_char     *p, *last;
    ngx_str_t   dir;

    if (zone->log.len == 0) {

        dir = cycle->error_log;

        if (dir.len == 0 || ngx_strcmp(dir.data, "stderr") == 0) {
            return NGX_OK;
        }

        for (last = dir.data + dir.len; last > dir.data; last--) {
            if (last[-1] == '/') {
                break;
            }
        }

        dir.len = last - dir.data;

        p = ngx_pnalloc(cycle->pool, dir.len + sizeof("offload-.log")
                                     + zone->name.len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        zone->log.data = p;
        p = ngx_sprintf(p, "%Voffload-%V.log", &dir, &zone->name);
        *p = '\0';
        zone->log.len = p - zone->log.data;
    }

    if (ngx_strcmp(zone->log.data, "stderr") == 0) {
        zone->log.len = 0;
        return NGX_OK;
    }

    if (ngx_conf_full_name(cycle, &zone->log, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    zone->log_file = ngx_conf_open_file(cycle, &zone->log);

    return zone->log_file ? NGX_OK : NGX_ERROR;
}


/* Failing here would end the master, so that what fails is only logged. */

ngx_int_t
ngx_http_offload_zones_init_module(ngx_cycle_t *cycle)
{
    gid_t                           gid;
    uid_t                           uid;
    ngx_uint_t                      i;
    ngx_http_offload_zone_t       **zone;
    ngx_http_offload_main_conf_t   *omcf;

    omcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_offload_module);

    if (omcf == NULL || ngx_test_config) {
        return NGX_OK;
    }

    ngx_http_offload_zone_user(cycle, &uid, &gid);
    ngx_http_offload_entrances_restore(cycle);

    zone = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {

        if (zone[i]->log_file && zone[i]->log_file->fd != NGX_INVALID_FILE
            && geteuid() == 0
            && fchown(zone[i]->log_file->fd, uid, (gid_t) -1) == -1)
        {
            ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno,
                          "fchown(\"%V\", %d) failed", &zone[i]->log,
                          (int) uid);
        }

        (void) ngx_http_offload_zone_policy(cycle, zone[i], uid, gid);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_zone_policy(ngx_cycle_t *cycle, ngx_http_offload_zone_t *zone,
    uid_t uid, gid_t gid)
{
    int               fd;
    char              name[NGX_MAX_PATH], tmp[NGX_MAX_PATH], *text;
    size_t            len;
    json_t           *json;
    ngx_uint_t        concurrency;
    ngx_core_conf_t  *ccf;

    ngx_http_offload_main_conf_t  *omcf;

    omcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_offload_module);
    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    /* a replay has two connections here: leave half of them to clients */

    concurrency = zone->concurrency ? zone->concurrency
                  : ngx_max(1, cycle->connection_n
                               * (ngx_uint_t) ccf->worker_processes / 4);

    json = json_pack("{s:i, s:s, s:s, s:s, s:s, s:I,"
                     " s:I, s:I, s:I, s:I, s:s, s:s}",
                     "layout", 1,
                     "zone", (char *) zone->name.data,
                     "path", (char *) zone->path.data,
                     "store", (char *) zone->store.data,
                     "durability", zone->durable ? "disk" : "memory",
                     "max_bytes", (json_int_t) zone->max,
                     "concurrency", (json_int_t) concurrency,
                     "ttl_ms", (json_int_t) zone->ttl * 1000,
                     "tombstone_ms", (json_int_t) 24 * 60 * 60 * 1000,
                     "leave_ms", (json_int_t) 10000,
                     "log", zone->log.len ? (char *) zone->log.data : "",
                     "log_level", "info");

    if (json && ngx_http_offload_queues_said(omcf, zone)
        && json_object_set_new(json, "queues",
                               ngx_http_offload_queues_json(omcf, zone))
           != 0)
    {
        json_decref(json);
        json = NULL;
    }

    if (json && ngx_http_offload_queues_said(omcf, zone)
        && json_object_set_new(json, "webhooks",
                               ngx_http_offload_webhooks_json(omcf, zone))
           != 0)
    {
        json_decref(json);
        json = NULL;
    }

    text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    json_decref(json);

    if (text == NULL) {
        ngx_log_error(NGX_LOG_ERR, cycle->log, 0,
                      "the policy of zone \"%V\" can not be written: a path "
                      "is not UTF-8, or memory is short", &zone->name);
        return NGX_ERROR;
    }

    len = strlen(text);

    zone_path(name, sizeof(name), (char *) zone->path.data, ZONE_FILE_POLICY);
    zone_path(tmp, sizeof(tmp), (char *) zone->path.data,
              ZONE_FILE_POLICY ".new");

    (void) unlink(tmp);

    fd = open(tmp, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

    if (fd == -1
        || write(fd, text, len) != (ssize_t) len
        || (geteuid() == 0 && fchown(fd, uid, gid) == -1)
        || rename(tmp, name) == -1)
    {
        ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno,
                      "\"%s\" can not be written: offloadd keeps to the "
                      "policy it had", name);

        if (fd != -1) {
            (void) close(fd);
            (void) unlink(tmp);
        }

        free(text);

        return NGX_ERROR;
    }

    (void) close(fd);
    free(text);

    return NGX_OK;
}


void
ngx_http_offload_zone_user(ngx_cycle_t *cycle, uid_t *uid, gid_t *gid)
{
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    if (geteuid() == 0) {
        *uid = (uid_t) ccf->user;
        *gid = (gid_t) ccf->group;

    } else {
        *uid = geteuid();
        *gid = getegid();
    }
}
