
/*
 * The offload_zone directive, and what can be said of zones when the whole
 * configuration has been read.  Runs while nginx reads its configuration and
 * touches only memory.
 */


#include "ngx_http_offload_module.h"


static char *ngx_http_offload_zone_param(ngx_conf_t *cf,
    ngx_http_offload_zone_t *zone, ngx_str_t *value);
static ngx_int_t ngx_http_offload_zone_paths(ngx_conf_t *cf,
    ngx_http_offload_zone_t *zone);


char *
ngx_http_offload_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                     *rv;
    ngx_str_t                *value;
    ngx_uint_t                i;
    ngx_http_offload_zone_t  *zone;

    value = cf->args->elts;

    for (i = 0; i < value[1].len; i++) {
        u_char  c = value[1].data[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
              || (c >= '0' && c <= '9') || c == '_' || c == '-'))
        {
            break;
        }
    }

    if (i == 0 || i < value[1].len || i > 32
        || ngx_strcmp(value[1].data, "off") == 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone name \"%V\": 1 to 32 letters, "
                           "digits, \"-\" and \"_\" are allowed, and \"off\" "
                           "is taken", &value[1]);
        return NGX_CONF_ERROR;
    }

    zone = ngx_http_offload_zone_get(cf, &value[1]);
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (zone->defined) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate zone \"%V\", first defined in %s:%ui",
                           &value[1], zone->conf_file, zone->line);
        return NGX_CONF_ERROR;
    }

    zone->defined = 1;
    zone->conf_file = cf->conf_file->file.name.data;
    zone->line = cf->conf_file->line;
    zone->ttl = 60 * 60;

    zone->size = ngx_parse_offset(&value[2]);
    if (zone->size == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone size \"%V\" of zone \"%V\": it "
                           "must be like \"64m\"", &value[2], &value[1]);
        return NGX_CONF_ERROR;
    }

    for (i = 3; i < cf->args->nelts; i++) {
        rv = ngx_http_offload_zone_param(cf, zone, &value[i]);

        if (rv != NGX_CONF_OK) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" of zone \"%V\": %s",
                               &value[i], &value[1], rv);
            return NGX_CONF_ERROR;
        }
    }

    if (ngx_http_offload_zone_paths(cf, zone) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_zone_param(ngx_conf_t *cf, ngx_http_offload_zone_t *zone,
    ngx_str_t *value)
{
    ngx_int_t  n;
    ngx_str_t  s, v;

    s.data = value->data;
    v.data = (u_char *) ngx_strchr(value->data, '=');

    if (v.data == NULL || v.data[1] == '\0') {
        return "it must be like name=value";
    }

    v.data++;
    v.len = value->data + value->len - v.data;
    s.len = v.data - 1 - s.data;

#define ngx_http_offload_is(text)                                             \
    (s.len == sizeof(text) - 1                                                \
     && ngx_strncmp(s.data, text, sizeof(text) - 1) == 0)

    if (ngx_http_offload_is("path")) {
        zone->path = v;
        return NGX_CONF_OK;
    }

    if (ngx_http_offload_is("store")) {
        zone->store = v;
        return NGX_CONF_OK;
    }

    if (ngx_http_offload_is("log")) {
        zone->log = v;
        return NGX_CONF_OK;
    }

    if (ngx_http_offload_is("durability")) {
        if (ngx_strcmp(v.data, "disk") == 0) {
            zone->durable = 1;
            return NGX_CONF_OK;
        }

        if (ngx_strcmp(v.data, "memory") == 0) {
            zone->durable = 0;
            return NGX_CONF_OK;
        }

        return "it must be \"memory\" or \"disk\"";
    }

    if (ngx_http_offload_is("max")) {
        zone->max = ngx_parse_offset(&v);
        if (zone->max == NGX_ERROR || zone->max < 16 * 1024 * 1024) {
            return "it must be a size of at least 16m, like \"20g\"";
        }

        return NGX_CONF_OK;
    }

    if (ngx_http_offload_is("lanes")) {
        n = ngx_atoi(v.data, v.len);
        if (n < 2 || n > ZONE_LANES_MAX) {
            return "it must be a number from 2 to 255";
        }

        zone->lanes = n;
        return NGX_CONF_OK;
    }

    if (ngx_http_offload_is("slots")) {
        n = ngx_atoi(v.data, v.len);
        if (n < 64 || n > (ngx_int_t) ZONE_SLOTS_MAX) {
            return "it must be a number from 64 to 8388608";
        }

        zone->slots = n;
        return NGX_CONF_OK;
    }

    if (ngx_http_offload_is("concurrency")) {
        n = ngx_atoi(v.data, v.len);
        if (n < 1 || n > 1000000) {
            return "it must be a number from 1 to 1000000";
        }

        zone->concurrency = n;
        return NGX_CONF_OK;
    }

    if (ngx_http_offload_is("ttl")) {
        n = ngx_parse_time(&v, 1);
        if (n < 1 || n > 10 * 365 * 24 * 60 * 60) {
            return "it must be a time of at least 1s, like \"1h\"";
        }

        zone->ttl = n;
        return NGX_CONF_OK;
    }

    return "there is no such parameter; path, store, durability, max, "
           "lanes, slots, concurrency, ttl and log are";
}


static ngx_int_t
ngx_http_offload_zone_paths(ngx_conf_t *cf, ngx_http_offload_zone_t *zone)
{
    u_char  *p;

    if (zone->path.len == 0) {
        zone->path.len = sizeof(NGX_HTTP_OFFLOAD_DIR) - 1 + zone->name.len;
        zone->path.data = ngx_pnalloc(cf->pool, zone->path.len + 1);
        if (zone->path.data == NULL) {
            return NGX_ERROR;
        }

        ngx_sprintf(zone->path.data, "%s%V%Z", NGX_HTTP_OFFLOAD_DIR,
                    &zone->name);

    } else if (ngx_conf_full_name(cf->cycle, &zone->path, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    if (zone->path.len > 1 && zone->path.data[zone->path.len - 1] == '/') {
        zone->path.data[--zone->path.len] = '\0';
    }

    if (zone->path.len > ZONE_PATH_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "path \"%V\" of zone \"%V\" is longer than %d "
                           "characters, and names of sockets must fit",
                           &zone->path, &zone->name, ZONE_PATH_MAX);
        return NGX_ERROR;
    }

    if (zone->store.len == 0 && zone->durable) {
        zone->store_default = 1;
        zone->store.len = sizeof(NGX_HTTP_OFFLOAD_STATE_DIR "/") - 1
                          + zone->name.len;
        zone->store.data = ngx_pnalloc(cf->pool, zone->store.len + 1);
        if (zone->store.data == NULL) {
            return NGX_ERROR;
        }

        ngx_sprintf(zone->store.data, NGX_HTTP_OFFLOAD_STATE_DIR "/%V%Z",
                    &zone->name);

    } else if (zone->store.len == 0) {
        zone->store.len = zone->path.len + sizeof("/" ZONE_DIR_STORE) - 1;
        zone->store.data = ngx_pnalloc(cf->pool, zone->store.len + 1);
        if (zone->store.data == NULL) {
            return NGX_ERROR;
        }

        ngx_sprintf(zone->store.data, "%V/%s%Z", &zone->path, ZONE_DIR_STORE);

    } else if (ngx_conf_full_name(cf->cycle, &zone->store, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    if (zone->store.len > 1 && zone->store.data[zone->store.len - 1] == '/') {
        zone->store.data[--zone->store.len] = '\0';
    }

    if (zone->store.len > NGX_MAX_PATH - 64) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "store \"%V\" of zone \"%V\" is too long",
                           &zone->store, &zone->name);
        return NGX_ERROR;
    }

    zone->spool_tmp = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
    if (zone->spool_tmp == NULL) {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(cf->pool, zone->store.len + sizeof("/" ZONE_DIR_SPOOL_TMP));
    if (p == NULL) {
        return NGX_ERROR;
    }

    zone->spool_tmp->name.data = p;
    p = ngx_sprintf(p, "%V/%s%Z", &zone->store, ZONE_DIR_SPOOL_TMP);
    zone->spool_tmp->name.len = p - 1 - zone->spool_tmp->name.data;

    return NGX_OK;
}


/* The zone of that name; defined later in the configuration, or it is not. */

ngx_http_offload_zone_t *
ngx_http_offload_zone_get(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                      i;
    ngx_http_offload_zone_t       **zone, *z;
    ngx_http_offload_main_conf_t   *omcf;

    omcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_offload_module);

    zone = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {
        if (zone[i]->name.len == name->len
            && ngx_strncmp(zone[i]->name.data, name->data, name->len) == 0)
        {
            return zone[i];
        }
    }

    z = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_zone_t));
    zone = ngx_array_push(&omcf->zones);

    if (z == NULL || zone == NULL) {
        return NULL;
    }

    *zone = z;

    z->name = *name;
    z->conf_file = cf->conf_file->file.name.data;
    z->line = cf->conf_file->line;
    z->manager_lock = -1;

    return z;
}


/* The whole configuration has been read. */

ngx_int_t
ngx_http_offload_zones_check(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf)
{
    ngx_path_t                *path;
    ngx_uint_t                 i, n;
    ngx_http_offload_zone_t  **zone;

    zone = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {

        if (!zone[i]->defined) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "unknown offload zone \"%V\" in %s:%ui: there is "
                          "no \"offload_zone %V\"", &zone[i]->name,
                          zone[i]->conf_file, zone[i]->line, &zone[i]->name);
            return NGX_ERROR;
        }

        for (n = 0; n < i; n++) {
            if (ngx_strcmp(zone[i]->path.data, zone[n]->path.data) == 0
                || ngx_strcmp(zone[i]->store.data, zone[n]->store.data) == 0)
            {
                ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                              "zone \"%V\" in %s:%ui has the path or store "
                              "of zone \"%V\": \"%V\"", &zone[i]->name,
                              zone[i]->conf_file, zone[i]->line,
                              &zone[n]->name, &zone[i]->path);
                return NGX_ERROR;
            }
        }

        if (omcf->worker == NGX_HTTP_OFFLOAD_WORKER_OFF) {
            continue;
        }

        if (access((char *) omcf->worker_path.data, X_OK) == -1) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, ngx_errno,
                          "zone \"%V\" in %s:%ui needs offloadd, and \"%V\" "
                          "can not be executed: set \"offload_worker\"",
                          &zone[i]->name, zone[i]->conf_file, zone[i]->line,
                          &omcf->worker_path);
            return NGX_ERROR;
        }

        if (ngx_test_config) {
            continue;
        }

        /* the master starts a helper process that calls the manager */

        path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
        if (path == NULL) {
            return NGX_ERROR;
        }

        path->name = zone[i]->path;
        path->manager = ngx_http_offload_manager;
        path->data = zone[i];
        path->conf_file = zone[i]->conf_file;
        path->line = zone[i]->line;

        if (ngx_add_path(cf, &path) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
