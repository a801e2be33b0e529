
/*
 * A job's request on its way back through its location: POST_READ lets in
 * only the worker user and root and puts the client's address back,
 * PREACCESS skips what was checked at acceptance, PRECONTENT restores kept
 * variables and gives the upstream the job's timeouts.  Runs in worker
 * processes; all of it is the request's, and nothing is left when it ends or
 * its process dies.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_variable_scheme(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_offload_variable_https(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_offload_replay_peer(ngx_http_request_t *r);
static ngx_table_elt_t *ngx_http_offload_replay_header(ngx_http_request_t *r,
    ngx_str_t *attempt);
static void ngx_http_offload_replay_cleanup(void *data);
static ngx_int_t ngx_http_offload_replay_job_url(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx);
static void ngx_http_offload_replay_timeouts(ngx_event_t *ev);
static ngx_int_t ngx_http_offload_replay_refuse(ngx_http_request_t *r);


static ngx_http_get_variable_pt  ngx_http_offload_next_scheme;
static ngx_http_get_variable_pt  ngx_http_offload_next_https;


/* $scheme and $https say what they said to the client. */

ngx_int_t
ngx_http_offload_replay_init(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_hash_key_t             *key;
    ngx_http_variable_t        *v;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    key = cmcf->variables_keys->keys.elts;

    for (i = 0; i < cmcf->variables_keys->keys.nelts; i++) {

        v = key[i].value;

        if (v->name.len == 6 && ngx_strncmp(v->name.data, "scheme", 6) == 0) {
            ngx_http_offload_next_scheme = v->get_handler;
            v->get_handler = ngx_http_offload_variable_scheme;
        }

        if (v->name.len == 5 && ngx_strncmp(v->name.data, "https", 5) == 0) {
            ngx_http_offload_next_https = v->get_handler;
            v->get_handler = ngx_http_offload_variable_https;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_variable_scheme(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_offload_entered(r) ? ngx_http_offload_get_ctx(r->main)
                                      : NULL;

    if (ctx == NULL || !ctx->https) {
        return ngx_http_offload_next_scheme(r, v, data);
    }

    v->len = sizeof("https") - 1;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = (u_char *) "https";

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_variable_https(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_offload_entered(r) ? ngx_http_offload_get_ctx(r->main)
                                      : NULL;

    if (ctx == NULL || !ctx->https) {
        return ngx_http_offload_next_https(r, v, data);
    }

    v->len = sizeof("on") - 1;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = (u_char *) "on";

    return NGX_OK;
}


ngx_http_offload_ctx_t *
ngx_http_offload_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t      *cln;
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);

    if (ctx == NULL && (r->internal || r->filter_finalize)) {

        /* an internal redirect clears contexts, not cleanups */

        for (cln = r->pool->cleanup; cln; cln = cln->next) {
            if (cln->handler == ngx_http_offload_replay_cleanup) {
                ctx = cln->data;
                ngx_http_set_ctx(r, ctx, ngx_http_offload_module);
                break;
            }
        }
    }

    return ctx;
}


ngx_http_offload_ctx_t *
ngx_http_offload_add_ctx(ngx_http_request_t *r)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_offload_ctx_t));
    if (ctx) {
        ngx_http_set_ctx(r, ctx, ngx_http_offload_module);
    }

    return ctx;
}


/* For ngx_http_offload_get_ctx() to find, whatever the request goes through. */

ngx_int_t
ngx_http_offload_hold_ctx(ngx_http_request_t *r, ngx_http_offload_ctx_t *ctx)
{
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(r->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_offload_replay_cleanup;
    cln->data = ctx;

    return NGX_OK;
}


ngx_int_t
ngx_http_offload_replay_post_read(ngx_http_request_t *r)
{
    ngx_int_t                rc;
    ngx_str_t                attempt;
    ngx_table_elt_t         *h;
    ngx_pool_cleanup_t      *cln;
    ngx_http_offload_ctx_t  *ctx;

    if (r != r->main || !ngx_http_offload_entered(r)
        || ngx_http_offload_get_ctx(r))
    {
        return NGX_DECLINED;
    }

    rc = ngx_http_offload_replay_peer(r);
    if (rc != NGX_OK) {
        return rc;
    }

    h = ngx_http_offload_replay_header(r, &attempt);

    if (h == NULL || h->value.len < ZONE_ID_TEXT + 1
        || h->value.data[ZONE_ID_TEXT] != ' ')
    {
        goto invalid;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_offload_ctx_t));
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx = cln->data;

    ngx_memzero(ctx, sizeof(ngx_http_offload_ctx_t));

    ngx_memcpy(ctx->id, h->value.data, ZONE_ID_TEXT);
    ctx->id_set = 1;
    ctx->attempt = attempt;

    rc = ngx_http_offload_replay_context(r, ctx, &h->value);

    if (rc == NGX_DECLINED) {
        goto invalid;
    }

    if (rc != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* the backend gets the id alone */

    h->value.len = ZONE_ID_TEXT;
    h->value.data[ZONE_ID_TEXT] = '\0';

    ctx->replay = 1;

    cln->handler = ngx_http_offload_replay_cleanup;
    ngx_http_set_ctx(r, ctx, ngx_http_offload_module);

    return NGX_DECLINED;

invalid:

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "a request on a replay listener is not a job's");

    return NGX_HTTP_BAD_REQUEST;
}


static ngx_int_t
ngx_http_offload_replay_peer(ngx_http_request_t *r)
{
    socklen_t     len;
    struct ucred  peer;

    len = sizeof(struct ucred);

    if (getsockopt(r->connection->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len)
        == -1)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, ngx_errno,
                      "getsockopt(SO_PEERCRED) failed on a replay listener");
        return NGX_HTTP_FORBIDDEN;
    }

    if (peer.uid != 0 && peer.uid != geteuid()) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "user %d, process %d came to a replay listener: only "
                      "the user of nginx's workers and root may",
                      (int) peer.uid, (int) peer.pid);
        return NGX_HTTP_FORBIDDEN;
    }

    return NGX_OK;
}


static ngx_table_elt_t *
ngx_http_offload_replay_header(ngx_http_request_t *r, ngx_str_t *attempt)
{
    ngx_table_elt_t         *h, *found;
    ngx_http_offload_walk_t  walk;

    ngx_str_null(attempt);
    found = NULL;

    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (h->key.len == sizeof("offload-job-id") - 1
            && ngx_memcmp(h->lowcase_key, "offload-job-id",
                          sizeof("offload-job-id") - 1)
               == 0)
        {
            if (found) {
                return NULL;
            }

            found = h;
        }

        if (h->key.len == sizeof("offload-attempt") - 1
            && ngx_memcmp(h->lowcase_key, "offload-attempt",
                          sizeof("offload-attempt") - 1)
               == 0)
        {
            *attempt = h->value;
        }
    }

    return found;
}


/* The connection is used again for the next job. */

static void
ngx_http_offload_replay_cleanup(void *data)
{
    ngx_http_offload_ctx_t  *ctx = data;

    ngx_connection_t  *c;

    c = ctx->connection;

    if (c == NULL) {
        return;                             /* not a replay */
    }

    c->sockaddr = ctx->sockaddr;
    c->socklen = ctx->socklen;
    c->addr_text = ctx->addr_text;
    c->local_sockaddr = ctx->local_sockaddr;
    c->local_socklen = ctx->local_socklen;

    if (ctx->timeouts.posted) {
        ngx_delete_posted_event((&ctx->timeouts));
    }
}


/*
 * Registered last, run first: the phase engine goes on behind the access
 * phases, whose answer was given when the job was accepted.
 */

ngx_int_t
ngx_http_offload_replay_preaccess(ngx_http_request_t *r)
{
    ngx_uint_t                    i;
    ngx_http_phase_handler_t     *ph;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_core_main_conf_t    *cmcf;
    ngx_http_offload_loc_conf_t  *olcf;

    if (r != r->main || !ngx_http_offload_entered(r)) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_offload_get_ctx(r);
    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (ctx == NULL || !ctx->replay
        || olcf->access == NGX_HTTP_OFFLOAD_ACCESS_EVERY)
    {
        return NGX_DECLINED;
    }

    cmcf = ngx_http_get_module_main_conf(r, ngx_http_core_module);
    ph = cmcf->phase_engine.handlers;

    /*
     * The first handler of PRECONTENT: right behind the one that ends the
     * access phase, or ours where there is no access phase at all.
     */

    for (i = r->phase_handler; ph[i].checker; i++) {

        if (ph[i].checker == ngx_http_core_post_access_phase) {
            r->phase_handler = i;
            break;
        }

        if (ph[i].handler == ngx_http_offload_precontent_handler) {
            r->phase_handler = i - 1;
            break;
        }
    }

    /* declining makes the checker step on by one */

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_offload_replay_precontent(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx)
{
    ngx_int_t                     rc;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    if (ngx_cycle->free_connection_n < ngx_cycle->connection_n / 16 + 1) {
        return ngx_http_offload_replay_refuse(r);
    }

    rc = ngx_http_offload_replay_body(r, ctx);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    if (ctx->keep.len && olcf->keep) {
        ngx_http_offload_replay_restore(r, ctx);
    }

    if (ngx_http_offload_replay_job_url(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* for when the content handler has set up its upstream */

    ctx->timeouts.handler = ngx_http_offload_replay_timeouts;
    ctx->timeouts.data = r;
    ctx->timeouts.log = r->connection->log;

    ngx_post_event((&ctx->timeouts), &ngx_posted_events);

    return NGX_DECLINED;
}


/* Where the backend finds its job: the token came with the request. */

static ngx_int_t
ngx_http_offload_replay_job_url(ngx_http_request_t *r,
    ngx_http_offload_ctx_t *ctx)
{
    ngx_table_elt_t              *h;
    ngx_http_conf_ctx_t          *conf;
    ngx_http_offload_srv_conf_t  *oscf;

    if (ctx->job_url_set) {
        return NGX_OK;                          /* an internal redirect */
    }

    conf = r->http_connection->addr_conf->default_server->ctx;
    oscf = conf->srv_conf[ngx_http_offload_module.ctx_index];

    h = ngx_list_push(&r->headers_in.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    if (ngx_http_offload_job_url(r, r->pool, &oscf->entered->status, ctx->id,
                                 &h->value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_str_set(&h->key, "Offload-Job-Url");
    h->lowcase_key = (u_char *) "offload-job-url";
    h->hash = ngx_hash_key(h->lowcase_key, h->key.len);

    ctx->job_url_set = 1;

    return NGX_OK;
}


/*
 * The content handler has run: a job may take as long as offload_timeout,
 * whatever the location allows a request that a client waits for.
 */

static void
ngx_http_offload_replay_timeouts(ngx_event_t *ev)
{
    ngx_msec_t                    timeout;
    ngx_connection_t             *pc;
    ngx_http_request_t           *r;
    ngx_http_upstream_t          *u;
    ngx_http_upstream_conf_t     *conf;
    ngx_http_offload_loc_conf_t  *olcf;

    r = ev->data;
    u = r->upstream;

    if (u == NULL || u->conf == NULL) {
        return;
    }

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    /* the worker's own clock ends the attempt: let it be the first */

    timeout = olcf->timeout == NGX_CONF_UNSET   /* not offloaded any more */
              ? NGX_HTTP_OFFLOAD_TIMEOUT_DEFAULT : olcf->timeout;
    timeout = timeout * 1000 + 5000;

    conf = ngx_palloc(r->pool, sizeof(ngx_http_upstream_conf_t));
    if (conf == NULL) {
        return;
    }

    *conf = *u->conf;
    conf->read_timeout = timeout;
    conf->send_timeout = timeout;

    u->conf = conf;

    pc = u->peer.connection;

    if (pc == NULL || !u->request_sent) {
        return;                     /* no timer but that of connecting */
    }

    if (pc->read->timer_set) {
        ngx_add_timer(pc->read, timeout);
    }

    if (pc->write->timer_set) {
        ngx_add_timer(pc->write, timeout);
    }
}


/*
 * Too few connections to have one more upstream: the job stays with the
 * worker, which tells this answer by its header and comes again later.
 */

static ngx_int_t
ngx_http_offload_replay_refuse(ngx_http_request_t *r)
{
    ngx_int_t         rc;
    ngx_str_t         body, value;

    ngx_str_set(&body, "");
    ngx_str_set(&value, "refused");

    rc = ngx_http_discard_request_body(r);

    if (rc == NGX_OK) {
        rc = NGX_HTTP_INTERNAL_SERVER_ERROR;

        if (ngx_http_offload_add_header(r, "Offload-Replay",
                                        sizeof("Offload-Replay") - 1, &value))
        {
            r->header_only = 1;
            rc = ngx_http_offload_send(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                       "text/plain", &body);
        }
    }

    ngx_http_finalize_request(r, rc);

    return NGX_DONE;
}
