
/*
 * The offload_queue block: which queues there are, and whose a location's
 * are.  A zone's own name is its default queue, whether it has a block or
 * not.  Runs while nginx reads its configuration, touches nothing but memory,
 * and leaves nothing behind when it fails.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_queue_names(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf, ngx_uint_t i);


static ngx_uint_t
ngx_http_offload_queue_name(ngx_str_t *name)
{
    u_char  c;
    size_t  i;

    for (i = 0; i < name->len; i++) {
        c = name->data[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
              || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.'))
        {
            return 0;
        }
    }

    return i > 0 && i <= NGX_HTTP_OFFLOAD_QUEUE_NAME
           && ngx_strcmp(name->data, "off") != 0;
}


char *
ngx_http_offload_queue(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                      *rv;
    ngx_str_t                 *value, zone;
    ngx_conf_t                 save;
    ngx_http_offload_queue_t  *queue;

    value = cf->args->elts;

    if (!ngx_http_offload_queue_name(&value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid queue name \"%V\": 1 to 64 letters, "
                           "digits, \"-\", \"_\" and \".\" are allowed, and "
                           "\"off\" is taken", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (value[2].len < 6 || ngx_strncmp(value[2].data, "zone=", 5) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" of queue \"%V\": it must "
                           "be \"zone=\" and the name of a zone", &value[2],
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    queue = ngx_http_offload_queue_get(cf, &value[1]);
    if (queue == NULL) {
        return NGX_CONF_ERROR;
    }

    if (queue->defined) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate queue \"%V\", first defined in %s:%ui",
                           &value[1], queue->conf_file, queue->line);
        return NGX_CONF_ERROR;
    }

    zone.data = value[2].data + 5;
    zone.len = value[2].len - 5;

    queue->zone = ngx_http_offload_zone_get(cf, &zone);
    if (queue->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    queue->defined = 1;
    queue->conf_file = cf->conf_file->file.name.data;
    queue->line = cf->conf_file->line;

    save = *cf;
    cf->handler = ngx_http_offload_queue_line;
    cf->handler_conf = (void *) queue;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    return rv;
}


/* The queue of that name; defined later in the configuration, or it is not. */

ngx_http_offload_queue_t *
ngx_http_offload_queue_get(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                      i;
    ngx_http_offload_queue_t      **queue, *q;
    ngx_http_offload_main_conf_t   *omcf;

    omcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_offload_module);

    queue = omcf->queues.elts;

    for (i = 0; i < omcf->queues.nelts; i++) {
        if (queue[i]->name.len == name->len
            && ngx_strncmp(queue[i]->name.data, name->data, name->len) == 0)
        {
            return queue[i];
        }
    }

    q = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_queue_t));
    queue = ngx_array_push(&omcf->queues);

    if (q == NULL || queue == NULL) {
        return NULL;
    }

    *queue = q;

    q->name = *name;
    q->hash = zone_queue_hash(name->data, name->len);
    q->conf_file = cf->conf_file->file.name.data;
    q->line = cf->conf_file->line;

    return q;
}


/* All blocks have been read, and nothing is merged: which name is whose? */

char *
ngx_http_offload_queues(ngx_conf_t *cf, void *conf)
{
    ngx_http_offload_main_conf_t  *omcf = conf;

    ngx_uint_t                  i;
    ngx_http_offload_zone_t   **zone;
    ngx_http_offload_queue_t   *queue, **queues;

    zone = omcf->zones.elts;

    for (i = 0; i < omcf->zones.nelts; i++) {

        if (!zone[i]->defined) {
            continue;                           /* _zones_check() says so */
        }

        queue = ngx_http_offload_queue_get(cf, &zone[i]->name);
        if (queue == NULL) {
            return NGX_CONF_ERROR;
        }

        if (!queue->defined) {
            queue->zone = zone[i];
            queue->conf_file = zone[i]->conf_file;
            queue->line = zone[i]->line;

        } else if (queue->zone != zone[i]) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "queue \"%V\" in %s:%ui has the name of a zone and "
                          "\"zone=%V\": it must be \"zone=%V\", or another "
                          "name", &queue->name, queue->conf_file, queue->line,
                          &queue->zone->name, &queue->name);
            return NGX_CONF_ERROR;
        }
    }

    queues = omcf->queues.elts;

    for (i = 0; i < omcf->queues.nelts; i++) {
        if (ngx_http_offload_queue_names(cf, omcf, i) != NGX_OK
            || ngx_http_offload_queue_check(cf, queues[i]) != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_offload_queue_names(ngx_conf_t *cf,
    ngx_http_offload_main_conf_t *omcf, ngx_uint_t i)
{
    ngx_uint_t                  n, count;
    ngx_http_offload_queue_t  **queue, *q;

    queue = omcf->queues.elts;
    q = queue[i];

    if (q->zone == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "unknown offload queue or zone \"%V\" in %s:%ui: there "
                      "is no \"offload_queue %V\" and no \"offload_zone "
                      "%V\"",
                      &q->name, q->conf_file, q->line, &q->name, &q->name);
        return NGX_ERROR;
    }

    if (!q->zone->defined) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "unknown zone \"%V\" of queue \"%V\" in %s:%ui: there "
                      "is no \"offload_zone %V\"", &q->zone->name, &q->name,
                      q->conf_file, q->line, &q->zone->name);
        return NGX_ERROR;
    }

    for (n = 0, count = 1; n < i; n++) {

        if (queue[n]->hash == q->hash) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "queue \"%V\" in %s:%ui and queue \"%V\" in %s:%ui "
                          "have names with the same checksum: one of them "
                          "must be called otherwise", &q->name, q->conf_file,
                          q->line, &queue[n]->name, queue[n]->conf_file,
                          queue[n]->line);
            return NGX_ERROR;
        }

        count += queue[n]->zone == q->zone;
    }

    if (count > NGX_HTTP_OFFLOAD_QUEUES) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "queue \"%V\" in %s:%ui is one more than the %d that "
                      "zone \"%V\" can have", &q->name, q->conf_file, q->line,
                      NGX_HTTP_OFFLOAD_QUEUES, &q->zone->name);
        return NGX_ERROR;
    }

    return NGX_OK;
}
