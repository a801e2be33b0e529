/*
 * The floor that acceptance is measured against: the least any module could
 * do that takes a request into shared memory and answers 202.  It reads the
 * body, copies it behind a small header into a ring, and sends a response
 * made of constant strings with the product's headers.  Nobody reads the
 * ring: it wraps.  No job, no id, no state, no headers kept.
 *
 *     bench_floor_ring  path size;      http: the ring, one per worker
 *     bench_floor       url body;       location: Location, and the document
 *
 * Runs in nginx's worker.  The ring's file is unlinked as soon as it is
 * mapped, so a crash at any line leaves nothing behind.  The body has to fit
 * client_body_buffer_size; one that went to a file is answered with a 500.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


typedef struct {
    ngx_str_t   path;
    size_t      size;
} ngx_http_bench_floor_main_conf_t;


typedef struct {
    ngx_str_t   url;
    ngx_str_t   body;
} ngx_http_bench_floor_loc_conf_t;


typedef struct {
    uint64_t    size;
    uint64_t    time;
} ngx_http_bench_floor_record_t;


typedef struct {
    ngx_str_t   key;
    ngx_str_t   value;
} ngx_http_bench_floor_header_t;


static ngx_int_t ngx_http_bench_floor_handler(ngx_http_request_t *r);
static void ngx_http_bench_floor_body(ngx_http_request_t *r);
static ngx_int_t ngx_http_bench_floor_copy(ngx_http_request_t *r);
static ngx_int_t ngx_http_bench_floor_send(ngx_http_request_t *r);
static ngx_int_t ngx_http_bench_floor_header(ngx_http_request_t *r,
    ngx_table_elt_t **slot, const ngx_http_bench_floor_header_t *h);
static ngx_int_t ngx_http_bench_floor_init_process(ngx_cycle_t *cycle);
static void *ngx_http_bench_floor_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_bench_floor_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_bench_floor_ring(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_bench_floor(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* The worker's own ring. */

static u_char  *ngx_http_bench_floor_base;
static size_t   ngx_http_bench_floor_size;
static size_t   ngx_http_bench_floor_tail;


static const ngx_http_bench_floor_header_t  ngx_http_bench_floor_retry =
    { ngx_string("Retry-After"), ngx_string("2") };

static const ngx_http_bench_floor_header_t  ngx_http_bench_floor_cache =
    { ngx_string("Cache-Control"), ngx_string("no-store") };

static ngx_str_t  ngx_http_bench_floor_type = ngx_string("application/json");


static ngx_command_t  ngx_http_bench_floor_commands[] = {

    { ngx_string("bench_floor_ring"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE2,
      ngx_http_bench_floor_ring,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("bench_floor"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_http_bench_floor,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_bench_floor_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_bench_floor_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_bench_floor_create_loc_conf,  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_bench_floor_module = {
    NGX_MODULE_V1,
    &ngx_http_bench_floor_module_ctx,      /* module context */
    ngx_http_bench_floor_commands,         /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_bench_floor_init_process,     /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_bench_floor_handler(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    rc = ngx_http_read_client_request_body(r, ngx_http_bench_floor_body);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


static void
ngx_http_bench_floor_body(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    rc = ngx_http_bench_floor_copy(r);

    if (rc == NGX_OK) {
        rc = ngx_http_bench_floor_send(r);
    }

    ngx_http_finalize_request(r, rc);
}


static ngx_int_t
ngx_http_bench_floor_copy(ngx_http_request_t *r)
{
    u_char                         *p;
    size_t                          size, n;
    ngx_buf_t                      *b;
    ngx_chain_t                    *cl, *bufs;
    ngx_http_bench_floor_record_t  *rec;

    bufs = r->request_body ? r->request_body->bufs : NULL;
    size = 0;

    for (cl = bufs; cl; cl = cl->next) {
        if (cl->buf->in_file) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "bench_floor: body went to a file, "
                          "client_body_buffer_size must hold it");
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        size += ngx_buf_size(cl->buf);
    }

    n = ngx_align(sizeof(ngx_http_bench_floor_record_t) + size, 8);

    if (n > ngx_http_bench_floor_size) {
        return NGX_HTTP_REQUEST_ENTITY_TOO_LARGE;
    }

    if (n > ngx_http_bench_floor_size - ngx_http_bench_floor_tail) {
        ngx_http_bench_floor_tail = 0;
    }

    rec = (ngx_http_bench_floor_record_t *)
              (ngx_http_bench_floor_base + ngx_http_bench_floor_tail);

    rec->size = size;
    rec->time = ngx_cached_time->sec;

    p = (u_char *) (rec + 1);

    for (cl = bufs; cl; cl = cl->next) {
        b = cl->buf;
        p = ngx_cpymem(p, b->pos, b->last - b->pos);
    }

    ngx_http_bench_floor_tail += n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_bench_floor_send(ngx_http_request_t *r)
{
    ngx_int_t                         rc;
    ngx_buf_t                        *b;
    ngx_chain_t                       out;
    ngx_http_bench_floor_header_t     h;
    ngx_http_bench_floor_loc_conf_t  *flcf;

    flcf = ngx_http_get_module_loc_conf(r, ngx_http_bench_floor_module);

    ngx_str_set(&h.key, "Location");
    h.value = flcf->url;

    if (ngx_http_bench_floor_header(r, &r->headers_out.location, &h)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_str_set(&h.key, "Content-Location");

    if (ngx_http_bench_floor_header(r, NULL, &h) != NGX_OK
        || ngx_http_bench_floor_header(r, NULL, &ngx_http_bench_floor_retry)
           != NGX_OK
        || ngx_http_bench_floor_header(r, NULL, &ngx_http_bench_floor_cache)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = NGX_HTTP_ACCEPTED;
    r->headers_out.content_length_n = flcf->body.len;
    r->headers_out.content_type = ngx_http_bench_floor_type;
    r->headers_out.content_type_len = ngx_http_bench_floor_type.len;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = flcf->body.data;
    b->last = b->pos + flcf->body.len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


static ngx_int_t
ngx_http_bench_floor_header(ngx_http_request_t *r, ngx_table_elt_t **slot,
    const ngx_http_bench_floor_header_t *h)
{
    ngx_table_elt_t  *elt;

    elt = ngx_list_push(&r->headers_out.headers);
    if (elt == NULL) {
        return NGX_ERROR;
    }

    elt->hash = 1;
    elt->key = h->key;
    elt->value = h->value;

#if (nginx_version >= 1023000)
    elt->next = NULL;
#endif

    if (slot) {
        *slot = elt;
    }

    return NGX_OK;
}


/*
 * Every block allocated and every page mapped before the first request: a
 * page touched for the first time costs more than a whole small request, and
 * would be what is measured.
 */

static ngx_int_t
ngx_http_bench_floor_init_process(ngx_cycle_t *cycle)
{
    int                                err;
    void                              *p;
    u_char                             name[NGX_MAX_PATH];
    ngx_fd_t                           fd;
    ngx_http_bench_floor_main_conf_t  *fmcf;

    fmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_bench_floor_module);

    if (fmcf == NULL || fmcf->size == 0
        || (ngx_process != NGX_PROCESS_WORKER
            && ngx_process != NGX_PROCESS_SINGLE))
    {
        return NGX_OK;
    }

    ngx_snprintf(name, NGX_MAX_PATH, "%V.%ui%Z", &fmcf->path, ngx_worker);

    fd = ngx_open_file(name, NGX_FILE_RDWR, NGX_FILE_TRUNCATE, 0600);
    if (fd == NGX_INVALID_FILE) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      ngx_open_file_n " \"%s\" failed", name);
        return NGX_ERROR;
    }

    err = posix_fallocate(fd, 0, fmcf->size);

    p = err ? MAP_FAILED
            : mmap(NULL, fmcf->size, PROT_READ|PROT_WRITE,
                   MAP_SHARED|MAP_POPULATE, fd, 0);

    if (p == MAP_FAILED) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, err ? err : ngx_errno,
                      "bench_floor: no ring of %uz bytes in \"%s\"",
                      fmcf->size, name);
    }

    (void) ngx_delete_file(name);
    (void) ngx_close_file(fd);

    if (p == MAP_FAILED) {
        return NGX_ERROR;
    }

    ngx_http_bench_floor_base = p;
    ngx_http_bench_floor_size = fmcf->size;

    return NGX_OK;
}


static void *
ngx_http_bench_floor_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_bench_floor_main_conf_t));
}


static void *
ngx_http_bench_floor_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_bench_floor_loc_conf_t));
}


static char *
ngx_http_bench_floor_ring(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_bench_floor_main_conf_t  *fmcf = conf;

    off_t       size;
    ngx_str_t  *value;

    value = cf->args->elts;

    size = ngx_parse_offset(&value[2]);
    if (size < (off_t) ngx_pagesize) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "bench_floor_ring: size \"%V\" is not a number "
                           "of at least %ui", &value[2], ngx_pagesize);
        return NGX_CONF_ERROR;
    }

    fmcf->path = value[1];
    fmcf->size = size;

    return NGX_CONF_OK;
}


static char *
ngx_http_bench_floor(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_bench_floor_loc_conf_t  *flcf = conf;

    ngx_str_t                         *value;
    ngx_http_core_loc_conf_t          *clcf;
    ngx_http_bench_floor_main_conf_t  *fmcf;

    fmcf = ngx_http_conf_get_module_main_conf(cf,
                                              ngx_http_bench_floor_module);

    if (fmcf->size == 0) {
        return "needs a bench_floor_ring above it";
    }

    value = cf->args->elts;

    flcf->url = value[1];
    flcf->body = value[2];

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_bench_floor_handler;

    return NGX_CONF_OK;
}
