
/*
 * A job's result: the backend's answer as the store has it, its body from
 * memory or by sendfile.  Runs in worker processes, changes nothing.
 */


#include "ngx_http_offload_module.h"


static ngx_int_t ngx_http_offload_result_headers(ngx_http_request_t *r,
    ngx_http_offload_job_t *job, ngx_http_offload_result_t *result);
static ngx_int_t ngx_http_offload_result_header(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_int_t ngx_http_offload_result_file(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_http_offload_job_t *job,
    ngx_http_offload_result_t *result, ngx_buf_t *b);


static const ngx_http_offload_problem_t  ngx_http_offload_not_ready = {
    NGX_HTTP_NOT_FOUND, 1, "result-not-ready", "The job has no result yet",
    "The job is not settled yet."
};


static const ngx_http_offload_problem_t  ngx_http_offload_no_result = {
    NGX_HTTP_NOT_FOUND, 0, "no-result", "The job has no result",
    "The job ended without an answer of the backend."
};


static const ngx_http_offload_problem_t  ngx_http_offload_discarded = {
    410, 0, "result-discarded", "The result was discarded",
    "The client deleted it."
};



ngx_int_t
ngx_http_offload_send_result(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_http_offload_job_t *job)
{
    ngx_int_t                   rc;
    ngx_buf_t                  *b;
    ngx_chain_t                 out;
    ngx_http_offload_result_t   result;
    ngx_http_offload_problem_t  not_ready;

    if (job->state == STORE_QUEUED || job->state == STORE_RUNNING) {
        not_ready = ngx_http_offload_not_ready;
        (void) ngx_http_offload_estimate(zone, job, &not_ready.retry_after);

        return ngx_http_offload_send_problem(r, &not_ready);
    }

    if (job->flags & STORE_DISCARDED) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_discarded);
    }

    if (!(job->flags & STORE_HAS_RESULT)) {
        return ngx_http_offload_send_problem(r, &ngx_http_offload_no_result);
    }

    rc = ngx_http_offload_store_result(zone->rt, r->pool, job->seq,
                                       &result);
    if (rc != NGX_OK) {
        return ngx_http_offload_missing(r, rc);
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (result.blob) {
        rc = ngx_http_offload_result_file(r, zone, job, &result, b);
        if (rc != NGX_OK) {
            return ngx_http_offload_missing(r, rc);
        }

    } else {
        b->pos = result.body.data;
        b->last = result.body.data + result.body.len;
        b->memory = result.body.len ? 1 : 0;
    }

    b->last_buf = 1;
    b->last_in_chain = 1;

    if (ngx_http_offload_result_headers(r, job, &result) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* The backend's status and end-to-end headers, and whose they are. */

static ngx_int_t
ngx_http_offload_result_headers(ngx_http_request_t *r,
    ngx_http_offload_job_t *job, ngx_http_offload_result_t *result)
{
    u_char                       *p, *last, *end, *colon;
    ngx_str_t                     name, value;
    ngx_uint_t                    cached, policy;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);
    policy = 0;

    r->headers_out.status = result->status;
    r->headers_out.content_length_n = result->size;

    /* at its own URL alone it is a resource */

    r->allow_ranges = result->status == NGX_HTTP_OK && olcf->status
                      && !(job->flags & STORE_TRUNCATED);
    cached = 0;

    p = result->headers.data;
    last = p + result->headers.len;

    while (p < last) {

        end = ngx_strlchr(p, last, '\0');
        if (end == NULL) {
            return NGX_ERROR;
        }

        colon = ngx_strlchr(p, end, ':');

        if (colon && colon > p) {
            name.data = p;
            name.len = colon - p;

            for (value.data = colon + 1;
                 value.data < end && *value.data == ' ';
                 value.data++)
            {
                /* void */
            }

            value.len = end - value.data;

            if (name.len == sizeof("Cache-Control") - 1
                && ngx_strncasecmp(name.data, (u_char *) "Cache-Control",
                                   name.len)
                   == 0)
            {
                cached = 1;
            }

            if (ngx_http_offload_result_header(r, &name, &value) != NGX_OK) {
                return NGX_ERROR;
            }

            policy |= name.len == sizeof("Referrer-Policy") - 1
                      && ngx_strncasecmp(name.data,
                                         (u_char *) "Referrer-Policy",
                                         name.len)
                         == 0;
        }

        p = end + 1;
    }

    /*
     * the job's id is in this URL, and may be the key to it: a document of
     * the backend's does not pass it on unless the backend says so
     */

    if (olcf->status && !policy) {
        ngx_str_set(&value, "no-referrer");

        if (ngx_http_offload_add_header(r, "Referrer-Policy",
                                        sizeof("Referrer-Policy") - 1, &value)
            == NULL)
        {
            return NGX_ERROR;
        }
    }

    if (olcf->status && ngx_http_offload_result_cached(r, cached) != NGX_OK) {
        return NGX_ERROR;
    }

    if (job->flags & STORE_TRUNCATED) {
        ngx_str_set(&value, "1");

        if (ngx_http_offload_add_header(r, "Offload-Truncated",
                                        sizeof("Offload-Truncated") - 1,
                                        &value)
            == NULL)
        {
            return NGX_ERROR;
        }
    }

    ngx_str_set(&value, "backend");

    return ngx_http_offload_add_header(r, "Offload-Source",
                                       sizeof("Offload-Source") - 1, &value)
           ? NGX_OK : NGX_ERROR;
}


/* Headers that nginx's filters work with have places of their own. */

static ngx_int_t
ngx_http_offload_result_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char           *p;
    ngx_table_elt_t  *h;

#define ngx_http_offload_named(text)                                          \
    (name->len == sizeof(text) - 1                                            \
     && ngx_strncasecmp(name->data, (u_char *) text, sizeof(text) - 1) == 0)

    if (ngx_http_offload_named("Content-Type")) {
        r->headers_out.content_type = *value;

        p = ngx_strlchr(value->data, value->data + value->len, ';');

        r->headers_out.content_type_len = p ? (size_t) (p - value->data)
                                            : value->len;
        r->headers_out.content_type_lowcase = NULL;

        return NGX_OK;
    }

    if (ngx_http_offload_named("Accept-Ranges") && r->allow_ranges) {
        return NGX_OK;
    }

    h = ngx_http_offload_add_header(r, (char *) name->data, name->len, value);
    if (h == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_offload_named("Content-Encoding")) {
        r->headers_out.content_encoding = h;

    } else if (ngx_http_offload_named("ETag")) {
        r->headers_out.etag = h;

    } else if (ngx_http_offload_named("Last-Modified")) {
        r->headers_out.last_modified = h;
        r->headers_out.last_modified_time = ngx_parse_http_time(value->data,
                                                                value->len);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_result_file(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, ngx_http_offload_job_t *job,
    ngx_http_offload_result_t *result, ngx_buf_t *b)
{
    u_char                   *name, *id, *p;
    ngx_fd_t                  fd;
    ngx_str_t                *store;
    ngx_file_info_t           fi;
    ngx_pool_cleanup_t       *cln;
    ngx_pool_cleanup_file_t  *clnf;

    store = &zone->store;

    name = ngx_pnalloc(r->pool, store->len + sizeof("/" ZONE_DIR_BLOBS "/.")
                                + ZONE_ID_TEXT + NGX_INT32_LEN);
    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_pool_cleanup_file_t));
    b->file = ngx_pcalloc(r->pool, sizeof(ngx_file_t));

    if (name == NULL || cln == NULL || b->file == NULL) {
        return NGX_ERROR;
    }

    p = ngx_sprintf(name, "%V/%s/", store, ZONE_DIR_BLOBS);
    id = p;
    zone_id_format((char *) p, job->id);
    p = ngx_sprintf(p + ZONE_ID_TEXT, ".%uD",
                    store_blob((uint32_t) job->flags,
                               (uint32_t) job->attempts));
    *p = '\0';

    fd = ngx_open_file(name, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    p = id + NGX_HTTP_OFFLOAD_ID_LOGGED;        /* from now on it is for logs */
    *p = '\0';

    if (fd == NGX_INVALID_FILE) {
        if (ngx_errno == NGX_ENOENT) {
            return NGX_DECLINED;                /* discarded a moment ago */
        }

        ngx_log_error(NGX_LOG_ERR, r->connection->log, ngx_errno,
                      ngx_open_file_n " \"%s\" failed", name);
        return NGX_ERROR;
    }

    cln->handler = ngx_pool_cleanup_file;
    clnf = cln->data;
    clnf->fd = fd;
    clnf->name = name;
    clnf->log = r->connection->log;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR
        || ngx_file_size(&fi) != result->size)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "\"%s\" has %O bytes, and the store says %O", name,
                      ngx_file_size(&fi), result->size);
        return NGX_ERROR;
    }

    b->file->fd = fd;
    b->file->name.data = name;
    b->file->name.len = p - name;
    b->file->log = r->connection->log;

    b->file_pos = 0;
    b->file_last = result->size;
    b->in_file = result->size ? 1 : 0;

    return NGX_OK;
}
