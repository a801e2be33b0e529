
/*
 * The replay entrance: how a job gets back into its location.  For every
 * server{} with an offloaded location there is an internal listener, a unix
 * socket in the zone's private directory; offloadd sends the request there,
 * and nginx finds the same server and location as it did for the client.
 *
 * Runs while nginx reads its configuration; under "nginx -t" there are no
 * listeners, since testing would take them from a running nginx.
 */


#include "ngx_http_offload_module.h"


static uint64_t ngx_http_offload_entrance_hash(ngx_conf_t *cf,
    ngx_http_core_srv_conf_t *cscf);
static ngx_http_core_srv_conf_t *ngx_http_offload_entrance_server(
    ngx_conf_t *cf, ngx_http_core_srv_conf_t *cscf,
    ngx_http_offload_entrance_t *entrance);
static ngx_int_t ngx_http_offload_entrance_listen(ngx_conf_t *cf,
    ngx_http_core_srv_conf_t *cscf, ngx_http_offload_entrance_t *entrance);
static ngx_int_t ngx_http_offload_entrance_restore(ngx_listening_t *ls);


/* Called for every offloaded location; the first one of a server adds it. */

ngx_int_t
ngx_http_offload_add_entrance(ngx_conf_t *cf, ngx_http_core_srv_conf_t *cscf,
    ngx_http_offload_entrance_t *entrance)
{
    u_char                         *p;
    uint64_t                        hash;
    ngx_uint_t                      i, n;
    ngx_http_core_srv_conf_t      **cscfp;
    ngx_http_core_main_conf_t      *cmcf;
    ngx_http_offload_srv_conf_t    *oscf;
    ngx_http_offload_entrance_t   **other;

    if (entrance->path.len) {
        return NGX_OK;
    }

    hash = ngx_http_offload_entrance_hash(cf, cscf);

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    cscfp = cmcf->servers.elts;

again:

    ngx_sprintf(entrance->name, "%016xL", hash);

    /* two servers that look the same still need two entrances */

    for (i = 0; i < cmcf->servers.nelts; i++) {
        oscf = cscfp[i]->ctx->srv_conf[ngx_http_offload_module.ctx_index];
        other = oscf->entrances.elts;

        for (n = 0; n < oscf->entrances.nelts; n++) {
            if (other[n] != entrance && other[n]->zone == entrance->zone
                && other[n]->path.len
                && ngx_memcmp(other[n]->name, entrance->name,
                              NGX_HTTP_OFFLOAD_ENTRANCE_LEN)
                   == 0)
            {
                hash++;
                goto again;
            }
        }
    }

    p = ngx_pnalloc(cf->pool, entrance->zone->path.len + sizeof("/r..sock")
                              + NGX_HTTP_OFFLOAD_ENTRANCE_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    entrance->path.data = p;

    p = ngx_sprintf(p, "%V/r.%*s.sock", &entrance->zone->path,
                    (size_t) NGX_HTTP_OFFLOAD_ENTRANCE_LEN, entrance->name);
    *p = '\0';

    entrance->path.len = p - entrance->path.data;

    /* testing would bind it, and take it away from a running nginx */

    if (ngx_test_config) {
        return NGX_OK;
    }

    cscf = ngx_http_offload_entrance_server(cf, cscf, entrance);
    if (cscf == NULL) {
        return NGX_ERROR;
    }

    return ngx_http_offload_entrance_listen(cf, cscf, entrance);
}


/*
 * A server's name for jobs that outlive a reload: what it is called and where
 * it listens, in whatever order these are written.
 */

static uint64_t
ngx_http_offload_entrance_hash(ngx_conf_t *cf, ngx_http_core_srv_conf_t *cscf)
{
    uint64_t                     hash;
    ngx_uint_t                   p, a, s;
    ngx_http_server_name_t      *name;
    ngx_http_conf_port_t        *port;
    ngx_http_conf_addr_t        *addr;
    ngx_http_core_srv_conf_t   **server;
    ngx_http_core_main_conf_t   *cmcf;

#define ngx_http_offload_hash(s)                                              \
    (((uint64_t) ngx_murmur_hash2((s)->data, (s)->len) << 32)                 \
     | ngx_crc32_long((s)->data, (s)->len))

    hash = 0x6f66666c6f616421;

    name = cscf->server_names.elts;

    for (s = 0; s < cscf->server_names.nelts; s++) {
        hash += ngx_http_offload_hash(&name[s].name);
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    port = cmcf->ports ? cmcf->ports->elts : NULL;

    for (p = 0; port && p < cmcf->ports->nelts; p++) {
        addr = port[p].addrs.elts;

        for (a = 0; a < port[p].addrs.nelts; a++) {
            server = addr[a].servers.elts;

            for (s = 0; s < addr[a].servers.nelts; s++) {
                if (server[s] == cscf) {
                    hash += ngx_http_offload_hash(&addr[a].opt.addr_text);
                }
            }
        }
    }

    return hash;
}


/*
 * What serves the entrance is a copy of the server's configuration.  It takes
 * requests with more headers than the server does: a client may have used
 * all of what large_client_header_buffers allows, and a replay adds to it.
 */

static ngx_http_core_srv_conf_t *
ngx_http_offload_entrance_server(ngx_conf_t *cf,
    ngx_http_core_srv_conf_t *cscf, ngx_http_offload_entrance_t *entrance)
{
    size_t                         size;
    ngx_http_conf_ctx_t           *ctx;
    ngx_http_core_srv_conf_t      *copy;
    ngx_http_offload_srv_conf_t   *oscf;

    size = sizeof(void *) * ngx_http_max_module;

    ctx = ngx_palloc(cf->pool, sizeof(ngx_http_conf_ctx_t));
    copy = ngx_palloc(cf->pool, sizeof(ngx_http_core_srv_conf_t));
    oscf = ngx_palloc(cf->pool, sizeof(ngx_http_offload_srv_conf_t));

    if (ctx == NULL || copy == NULL || oscf == NULL) {
        return NULL;
    }

    *ctx = *cscf->ctx;

    ctx->srv_conf = ngx_palloc(cf->pool, size);
    if (ctx->srv_conf == NULL) {
        return NULL;
    }

    ngx_memcpy(ctx->srv_conf, cscf->ctx->srv_conf, size);

    *copy = *cscf;
    copy->ctx = ctx;
    copy->client_header_buffer_size = ngx_max(copy->client_header_buffer_size,
                                              4096);
    copy->large_client_header_buffers.num += 4;
    copy->large_client_header_buffers.size += 16384;

    *oscf = *(ngx_http_offload_srv_conf_t *)
                      cscf->ctx->srv_conf[ngx_http_offload_module.ctx_index];
    oscf->entered = entrance;

    ctx->srv_conf[ngx_http_core_module.ctx_index] = copy;
    ctx->srv_conf[ngx_http_offload_module.ctx_index] = oscf;

    return copy;
}


static ngx_int_t
ngx_http_offload_entrance_listen(ngx_conf_t *cf,
    ngx_http_core_srv_conf_t *cscf, ngx_http_offload_entrance_t *entrance)
{
    u_char                 *text;
    struct sockaddr_un     *saun;
    ngx_http_listen_opt_t   lsopt;

    saun = ngx_pcalloc(cf->pool, sizeof(struct sockaddr_un));
    text = ngx_pnalloc(cf->pool, entrance->path.len + sizeof("unix:"));

    if (saun == NULL || text == NULL) {
        return NGX_ERROR;
    }

    saun->sun_family = AF_UNIX;
    ngx_memcpy(saun->sun_path, entrance->path.data, entrance->path.len + 1);

    ngx_memzero(&lsopt, sizeof(ngx_http_listen_opt_t));

    lsopt.sockaddr = (struct sockaddr *) saun;
    lsopt.socklen = sizeof(struct sockaddr_un);
    lsopt.addr_text.data = text;
    lsopt.addr_text.len = ngx_sprintf(text, "unix:%V", &entrance->path) - text;

    lsopt.set = 1;
    lsopt.bind = 1;
    lsopt.backlog = 4096;
    lsopt.rcvbuf = -1;
    lsopt.sndbuf = -1;
#if (NGX_HAVE_SETFIB)
    lsopt.setfib = -1;
#endif
#if (NGX_HAVE_TCP_FASTOPEN)
    lsopt.fastopen = -1;
#endif
#if (NGX_HAVE_INET6)
    lsopt.ipv6only = 1;
#endif
#if (nginx_version >= 1025000)
    lsopt.type = SOCK_STREAM;
#endif

    return ngx_http_add_listen(cf, cscf, &lsopt);
}


/*
 * nginx keeps a listening socket over a reload as long as the configuration
 * has it, and does not see that its name is gone from the file system with
 * the zone's directory.  Then there is a new one in its place for the new
 * workers: on the same descriptor, so that nothing else has to know.
 */

void
ngx_http_offload_entrances_restore(ngx_cycle_t *cycle)
{
    u_char                         *name;
    ngx_uint_t                      i, z;
    struct stat                     st;
    ngx_listening_t                *ls;
    ngx_http_offload_zone_t       **zone;
    ngx_http_offload_main_conf_t   *omcf;

    omcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_offload_module);

    zone = omcf->zones.elts;
    ls = cycle->listening.elts;

    for (i = 0; i < cycle->listening.nelts; i++) {

        if (ls[i].sockaddr->sa_family != AF_UNIX) {
            continue;
        }

        name = (u_char *) ((struct sockaddr_un *) ls[i].sockaddr)->sun_path;

        for (z = 0; z < omcf->zones.nelts; z++) {
            if (ngx_strncmp(name, zone[z]->path.data, zone[z]->path.len) == 0
                && ngx_strncmp(name + zone[z]->path.len, "/r.", 3) == 0)
            {
                break;
            }
        }

        if (z == omcf->zones.nelts
            || lstat((char *) name, &st) == 0 || ngx_errno != NGX_ENOENT)
        {
            continue;
        }

        if (ngx_http_offload_entrance_restore(&ls[i]) == NGX_OK) {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "the socket \"%s\" of zone \"%V\" was removed "
                          "from its directory and is made anew", name,
                          &zone[z]->name);

        } else {
            ngx_log_error(NGX_LOG_ERR, cycle->log, ngx_errno,
                          "the socket \"%s\" of zone \"%V\" was removed "
                          "from its directory and can not be made anew: "
                          "restart nginx", name, &zone[z]->name);
        }
    }
}


static ngx_int_t
ngx_http_offload_entrance_restore(ngx_listening_t *ls)
{
    int        fd;
    ngx_err_t  err;

    fd = socket(AF_UNIX, SOCK_STREAM|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return NGX_ERROR;
    }

    /* open to all like nginx's own: the directory is not */

    if (bind(fd, ls->sockaddr, ls->socklen) == -1
        || chmod(((struct sockaddr_un *) ls->sockaddr)->sun_path, 0666) == -1
        || listen(fd, ls->backlog) == -1
        || dup2(fd, ls->fd) == -1)
    {
        err = ngx_errno;
        (void) close(fd);
        ngx_set_errno(err);

        return NGX_ERROR;
    }

    (void) close(fd);

    return NGX_OK;
}


/* Did the request come by one of our listeners?  Whatever Host then said. */

ngx_uint_t
ngx_http_offload_entered(ngx_http_request_t *r)
{
    ngx_http_conf_ctx_t          *ctx;
    ngx_http_offload_srv_conf_t  *oscf;

    ctx = r->http_connection->addr_conf->default_server->ctx;
    oscf = ctx->srv_conf[ngx_http_offload_module.ctx_index];

    return oscf->entered != NULL;
}
