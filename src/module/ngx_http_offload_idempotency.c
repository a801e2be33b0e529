
/*
 * The offload_idempotency directive: a request with a key that was used before
 * is the job of then, not another one (draft-ietf-httpapi-idempotency-key-
 * header).  Runs in worker processes.
 *
 * Here a request gets two digests: of its key and the key's scope, and of what
 * it asks for.  offloadd alone decides by them which request was first, in the
 * transaction that stores the job; so it does not matter which process has the
 * other one.  The body is digested as it comes in: a large one is never read
 * again.  SHA-1 is the strongest digest that every nginx has; to gain anything
 * from a collision of two requests one has to make both of them, and to hit
 * another's key one needs a second preimage.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_KEY_MAX  255               /* characters */
#define NGX_HTTP_OFFLOAD_KEY_TTL  (24 * 60 * 60)


static char *ngx_http_offload_idempotency_param(ngx_conf_t *cf,
    ngx_http_offload_idempotency_t *conf, ngx_str_t *param);
static char *ngx_http_offload_idempotency_scope(ngx_conf_t *cf,
    ngx_http_offload_idempotency_t *conf, ngx_str_t *value);
static ngx_int_t ngx_http_offload_key_find(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_int_t ngx_http_offload_key_parse(ngx_str_t *value, ngx_str_t *key,
    u_char *buf);
static ngx_int_t ngx_http_offload_key_digest(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *text,
    ngx_http_offload_key_t *key);
static ngx_int_t ngx_http_offload_request_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);


static ngx_http_request_body_filter_pt  ngx_http_next_request_body_filter;


static const ngx_http_offload_problem_t  ngx_http_offload_key_missing = {
    NGX_HTTP_BAD_REQUEST, 0, "key-missing", "An idempotency key is required",
    "Requests to this location must have a key of their own in a header."
};

static const ngx_http_offload_problem_t  ngx_http_offload_key_invalid = {
    NGX_HTTP_BAD_REQUEST, 0, "key-invalid", "The idempotency key is not valid",
    "It must be one string of 1 to 255 characters."
};

const ngx_http_offload_problem_t  ngx_http_offload_key_reused = {
    422, 0, "key-reused", "The idempotency key was used for another request",
    "With the same key, method, URL and body must be the same, too."
};

static const ngx_http_offload_problem_t  ngx_http_offload_first_gone = {
    410, 0, "job-expired", "The job has expired",
    "The job of this key was settled, and the time its result is kept is over."
};

static const ngx_http_offload_problem_t  ngx_http_offload_first_unknown = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "store-unavailable",
    "The job can not be looked up",
    "There is a job of this key; the store does not answer."
};


char *
ngx_http_offload_idempotency(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_offload_loc_conf_t  *olcf = conf;

    char                            *rv;
    ngx_str_t                       *value;
    ngx_uint_t                       i;
    ngx_http_offload_idempotency_t  *idempotency;

    if (olcf->idempotency != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        if (cf->args->nelts > 2) {
            return "takes no parameters with \"off\"";
        }

        olcf->idempotency = NULL;
        return NGX_CONF_OK;
    }

    idempotency = ngx_pcalloc(cf->pool,
                              sizeof(ngx_http_offload_idempotency_t));
    if (idempotency == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_strcmp(value[1].data, "required") == 0) {
        idempotency->required = 1;

    } else if (ngx_strcmp(value[1].data, "on") != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"offload_idempotency\": "
                           "it must be \"on\", \"required\" or \"off\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    ngx_str_set(&idempotency->header, "idempotency-key");

    for (i = 2; i < cf->args->nelts; i++) {
        rv = ngx_http_offload_idempotency_param(cf, idempotency, &value[i]);

        if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
            if (rv == NGX_CONF_ERROR) {
                return rv;
            }

            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in "
                           "\"offload_idempotency\": %s", &value[i], rv);
        return NGX_CONF_ERROR;
    }

    olcf->idempotency = idempotency;

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_idempotency_param(ngx_conf_t *cf,
    ngx_http_offload_idempotency_t *conf, ngx_str_t *param)
{
    size_t      i;
    time_t      ttl;
    ngx_str_t   v;

    v = *param;

    if (v.len > 7 && ngx_strncmp(v.data, "header=", 7) == 0) {
        v.data += 7;
        v.len -= 7;

        for (i = 0; i < v.len; i++) {
            v.data[i] = ngx_tolower(v.data[i]);

            if ((v.data[i] < 'a' || v.data[i] > 'z')
                && (v.data[i] < '0' || v.data[i] > '9') && v.data[i] != '-')
            {
                return "it must be the name of a request header, of letters, "
                       "digits and \"-\"";
            }
        }

        if (v.len > 8 && ngx_strncmp(v.data, "offload-", 8) == 0) {
            return "\"Offload-\" headers of clients are dropped";
        }

        conf->header = v;

        return NGX_CONF_OK;
    }

    if (v.len > 4 && ngx_strncmp(v.data, "ttl=", 4) == 0) {
        v.data += 4;
        v.len -= 4;

        ttl = ngx_parse_time(&v, 1);
        if (ttl < 1 || ttl > 10 * 365 * 24 * 60 * 60) {
            return "it must be a time of at least 1s, like \"24h\"";
        }

        conf->ttl = ttl;

        return NGX_CONF_OK;
    }

    if (v.len > 6 && ngx_strncmp(v.data, "scope=", 6) == 0) {
        v.data += 6;
        v.len -= 6;

        return ngx_http_offload_idempotency_scope(cf, conf, &v);
    }

    return "there is no such parameter; header, ttl and scope are";
}


static char *
ngx_http_offload_idempotency_scope(ngx_conf_t *cf,
    ngx_http_offload_idempotency_t *conf, ngx_str_t *value)
{
    if (ngx_http_script_variables_count(value) == 0) {
        return "it must have a variable in it, like \"scope=$remote_user\"";
    }

    return ngx_http_offload_complex_value(cf, value, &conf->scope);
}


/* When all is parsed: the zone may stand behind the location. */

ngx_int_t
ngx_http_offload_idempotency_check(ngx_conf_t *cf,
    ngx_http_offload_location_t *location)
{
    time_t                           ttl;
    ngx_http_core_loc_conf_t        *clcf;
    ngx_http_offload_loc_conf_t     *olcf;
    ngx_http_offload_idempotency_t  *idempotency;

    olcf = location->olcf;
    idempotency = olcf->idempotency;
    ttl = olcf->result_ttl ? olcf->result_ttl : olcf->zone->ttl;

    if (idempotency == NULL || idempotency->ttl == 0
        || idempotency->ttl >= ttl)
    {
        return NGX_OK;
    }

    clcf = location->loc_conf[ngx_http_core_module.ctx_index];

    ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                  "\"ttl=%T\" of \"offload_idempotency\" in location \"%V\" "
                  "of the server in %s:%ui is shorter than \"%s%T\" of %s "
                  "\"%V\": a key must live as long as its job",
                  idempotency->ttl, &clcf->name, location->cscf->file_name,
                  location->cscf->line,
                  olcf->result_ttl ? "offload_result_ttl " : "ttl=", ttl,
                  olcf->result_ttl ? "location" : "zone",
                  olcf->result_ttl ? &clcf->name : &olcf->zone->name);

    return NGX_ERROR;
}


void
ngx_http_offload_idempotency_init(void)
{
    ngx_http_next_request_body_filter = ngx_http_top_request_body_filter;
    ngx_http_top_request_body_filter = ngx_http_offload_request_body_filter;
}


/*
 * Before the body is read.  NGX_OK, and ctx->key is set if the request has a
 * key that counts here; NGX_DECLINED: *problem says what is wrong with it.
 */

ngx_int_t
ngx_http_offload_key(ngx_http_request_t *r, ngx_http_offload_loc_conf_t *olcf,
    const ngx_http_offload_problem_t **problem)
{
    u_char                           buf[NGX_HTTP_OFFLOAD_KEY_MAX];
    ngx_int_t                        rc;
    ngx_str_t                        value, text;
    ngx_http_offload_key_t          *key;
    ngx_http_offload_ctx_t          *ctx;
    ngx_http_offload_idempotency_t  *idempotency;

    idempotency = olcf->idempotency;

    if (idempotency == NULL) {
        return NGX_OK;
    }

    rc = ngx_http_offload_key_find(r, &idempotency->header, &value);

    if (rc == NGX_DECLINED && !idempotency->required) {
        return NGX_OK;
    }

    if (rc == NGX_DECLINED) {
        *problem = &ngx_http_offload_key_missing;
        return NGX_DECLINED;
    }

    if (rc == NGX_ERROR
        || ngx_http_offload_key_parse(&value, &text, buf) != NGX_OK)
    {
        *problem = &ngx_http_offload_key_invalid;
        return NGX_DECLINED;
    }

    ctx = ngx_http_offload_get_ctx(r);
    key = ngx_pcalloc(r->pool, sizeof(ngx_http_offload_key_t));

    if (key == NULL
        || ngx_http_offload_key_digest(r, olcf, &text, key) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ctx->key = key;

    return NGX_OK;
}


/* NGX_DECLINED: there is none, NGX_ERROR: there are several. */

static ngx_int_t
ngx_http_offload_key_find(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_int_t                rc;
    ngx_table_elt_t         *h;
    ngx_http_offload_walk_t  walk;

    rc = NGX_DECLINED;

    ngx_http_offload_walk_init(&walk, &r->headers_in.headers);

    while ((h = ngx_http_offload_walk_next(&walk)) != NULL) {
        if (h->key.len != name->len
            || ngx_memcmp(h->lowcase_key, name->data, name->len) != 0)
        {
            continue;
        }

        if (rc == NGX_OK) {
            return NGX_ERROR;
        }

        *value = h->value;
        rc = NGX_OK;
    }

    return rc;
}


/*
 * A structured field's string (RFC 9651, 3.3.3), whose parameters mean nothing
 * to us, or the same without quotes, as many clients send it.
 */

static ngx_int_t
ngx_http_offload_key_parse(ngx_str_t *value, ngx_str_t *key, u_char *buf)
{
    u_char      *p, *last, *to, ch;
    ngx_uint_t   quoted;

    p = value->data;
    last = p + value->len;
    to = buf;

    quoted = (p < last && *p == '"');

    if (quoted) {
        p++;
    }

    for ( /* void */ ; p < last; p++) {
        ch = *p;

        if (quoted && ch == '"') {
            break;
        }

        if (ch < 0x20 || ch > 0x7e || to == buf + NGX_HTTP_OFFLOAD_KEY_MAX) {
            return NGX_DECLINED;
        }

        if (!quoted
            && (ch == ' ' || ch == '"' || ch == ',' || ch == ';'
                || ch == '\\'))
        {
            return NGX_DECLINED;
        }

        if (quoted && ch == '\\') {
            ch = ++p < last ? *p : '\0';

            if (ch != '"' && ch != '\\') {
                return NGX_DECLINED;
            }
        }

        *to++ = ch;
    }

    if (quoted && (p == last || (p + 1 < last && p[1] != ';'))) {
        return NGX_DECLINED;
    }

    key->data = buf;
    key->len = to - buf;

    return key->len ? NGX_OK : NGX_DECLINED;
}


/* The key in its scope, and the beginning of what it is a key to. */

static ngx_int_t
ngx_http_offload_key_digest(ngx_http_request_t *r,
    ngx_http_offload_loc_conf_t *olcf, ngx_str_t *text,
    ngx_http_offload_key_t *key)
{
    u_char                          *p, head[NGX_SIZE_T_LEN + 2];
    uint8_t                         *owner;
    ngx_str_t                        scope;
    ngx_http_offload_idempotency_t  *idempotency;

    if (ngx_http_offload_owner_digest(r, &owner) != NGX_OK) {
        return NGX_ERROR;
    }

    idempotency = olcf->idempotency;

    if (idempotency->scope) {
        if (ngx_http_complex_value(r, idempotency->scope, &scope) != NGX_OK) {
            return NGX_ERROR;
        }

    } else {
        scope.data = olcf->entrance->name;
        scope.len = NGX_HTTP_OFFLOAD_ENTRANCE_LEN;
    }

    /*
     * no scope may look like another with a part of the key, and no owner
     * gets another's job
     */

    p = ngx_sprintf(head, "%c%uz:", idempotency->scope ? 'v' : 's',
                    scope.len);

    ngx_sha1_init(&key->sha1);
    ngx_sha1_update(&key->sha1, owner, ZONE_DIGEST_SIZE);
    ngx_sha1_update(&key->sha1, head, p - head);
    ngx_sha1_update(&key->sha1, scope.data, scope.len);
    ngx_sha1_update(&key->sha1, text->data, text->len);
    ngx_sha1_final(key->digest.key, &key->sha1);

    key->digest.ttl_s = (uint32_t) (idempotency->ttl ? idempotency->ttl
                          : ngx_max(NGX_HTTP_OFFLOAD_KEY_TTL,
                                    olcf->zone->ttl));

    /* neither has a NUL in it */

    ngx_sha1_init(&key->sha1);
    ngx_sha1_update(&key->sha1, r->method_name.data, r->method_name.len);
    ngx_sha1_update(&key->sha1, "", 1);
    ngx_sha1_update(&key->sha1, r->unparsed_uri.data, r->unparsed_uri.len);
    ngx_sha1_update(&key->sha1, "", 1);

    return NGX_OK;
}


/* Of all bodies; decoded here, and in memory still. */

static ngx_int_t
ngx_http_offload_request_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_chain_t             *cl;
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);

    if (ctx && ctx->key && ctx->reading) {
        for (cl = in; cl; cl = cl->next) {
            ngx_sha1_update(&ctx->key->sha1, cl->buf->pos,
                            cl->buf->last - cl->buf->pos);
        }
    }

    return ngx_http_next_request_body_filter(r, in);
}


/* The body is complete. */

void
ngx_http_offload_key_print(ngx_http_request_t *r)
{
    ngx_http_offload_ctx_t  *ctx;

    ctx = ngx_http_offload_get_ctx(r);

    ngx_sha1_final(ctx->key->digest.print, &ctx->key->sha1);
}


/*
 * The answer to a request whose key was used before, for the same: the job of
 * then, as it is by now, and where to ask for it; or its result, for a client
 * that waits.
 */

ngx_int_t
ngx_http_offload_send_first(ngx_http_request_t *r)
{
    ngx_int_t                     rc;
    ngx_str_t                     url, body, *prefix;
    ngx_http_offload_ctx_t       *ctx;
    ngx_http_offload_job_t        job;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    ctx = ngx_http_offload_get_ctx(r);
    prefix = &olcf->entrance->status;

    rc = ngx_http_offload_find(r, olcf->zone, ctx->first, &job);

    if (rc == NGX_ERROR) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_first_unknown);
    }

    if (rc != NGX_OK || job.state == STORE_EXPIRED) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_first_gone);
    }

    zone_id_format((char *) ctx->id, ctx->first);
    ctx->id_set = 1;

    ngx_http_clean_header(r);               /* of a job of its own */

    if (ngx_http_offload_job_url(r, r->pool, prefix, ctx->id, &url) != NGX_OK
        || ngx_http_offload_describe(r, olcf->zone, prefix, &job, &body)
           != NGX_OK
        || ngx_http_offload_location(r, &url) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_accepted(r, olcf, &body);
}
