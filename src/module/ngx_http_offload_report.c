
/*
 * What backends tell of their jobs: PATCH <job's URL> reports progress.  And
 * what that has in common with PUT <job's URL>/result, see _put.c: the token
 * that says so, the record, the answer.  Runs in worker processes.
 *
 * nginx looks at the form alone; offloadd knows the token, and has committed
 * what was told before it is answered.  If this process dies meanwhile it is
 * stored or it is not, and the backend may say it again.
 */


#include "ngx_http_offload_module.h"

#include <jansson.h>


#define NGX_HTTP_OFFLOAD_REPORT_MAX      4096   /* bytes of JSON */


static void ngx_http_offload_progress_handler(ngx_http_request_t *r);
static const ngx_http_offload_problem_t *ngx_http_offload_progress(
    ngx_http_request_t *r, struct zone_progress *progress, u_char *message);
static const ngx_http_offload_problem_t *ngx_http_offload_progress_json(
    json_t *json, struct zone_progress *progress, u_char *message);
static ngx_uint_t ngx_http_offload_is_json(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_not_json(ngx_http_request_t *r);
static ngx_int_t ngx_http_offload_unauthorized(ngx_http_request_t *r);
static void ngx_http_offload_reported(ngx_http_request_t *r,
    ngx_int_t result);


static const ngx_http_offload_problem_t  ngx_http_offload_no_token = {
    NGX_HTTP_UNAUTHORIZED, 0, "token-missing", "A token is needed",
    "This is for the job's backend, which shows the attempt's token: "
    "Authorization: Bearer, or Offload-Job-Token."
};

static const ngx_http_offload_problem_t  ngx_http_offload_wrong_token = {
    NGX_HTTP_FORBIDDEN, 0, "token-wrong", "The token is another one",
    "It is not that of the job's last attempt."
};

static const ngx_http_offload_problem_t  ngx_http_offload_not_running = {
    NGX_HTTP_CONFLICT, 0, "job-not-running", "The job is not running",
    "It is settled, canceled, or waits for another attempt."
};

static const ngx_http_offload_problem_t  ngx_http_offload_not_confirmed = {
    NGX_HTTP_SERVICE_UNAVAILABLE, 2, "not-confirmed",
    "The report is not confirmed",
    "The worker did not store it in time; send it again."
};

static const ngx_http_offload_problem_t  ngx_http_offload_media_type = {
    NGX_HTTP_UNSUPPORTED_MEDIA_TYPE, 0, "media-type-unsupported",
    "Unsupported media type", "Progress is reported as application/json."
};

static const ngx_http_offload_problem_t  ngx_http_offload_large_report = {
    NGX_HTTP_REQUEST_ENTITY_TOO_LARGE, 0, "body-too-large",
    "Request body too large", "A report of progress has 4096 bytes at most."
};

static const ngx_http_offload_problem_t  ngx_http_offload_bad_json = {
    NGX_HTTP_BAD_REQUEST, 0, "report-invalid", "The report is not valid",
    "The body is not a JSON object."
};

static const ngx_http_offload_problem_t  ngx_http_offload_empty_report = {
    NGX_HTTP_BAD_REQUEST, 0, "report-invalid", "The report is not valid",
    "It has neither progress nor message."
};

static const ngx_http_offload_problem_t  ngx_http_offload_bad_percent = {
    NGX_HTTP_BAD_REQUEST, 0, "report-invalid", "The report is not valid",
    "progress is not a number from 0 to 100."
};

static const ngx_http_offload_problem_t  ngx_http_offload_bad_message = {
    NGX_HTTP_BAD_REQUEST, 0, "report-invalid", "The report is not valid",
    "message is not a string of at most 200 bytes."
};


/*
 * The content handler of PATCH of a job, PUT of a result.  Whose job it is
 * does not matter here: the token is the backend's right.
 */

ngx_int_t
ngx_http_offload_report(ngx_http_request_t *r, uint8_t id[ZONE_ID_SIZE],
    ngx_uint_t result)
{
    uint8_t                       token[ZONE_TOKEN_SIZE];
    ngx_int_t                     rc;
    ngx_http_offload_job_t        job;
    ngx_http_offload_loc_conf_t  *olcf;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    rc = ngx_http_offload_find_any(r, olcf->status, id, &job);

    if (rc != NGX_OK || job.state == STORE_EXPIRED) {
        if (ngx_http_discard_request_body(r) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return ngx_http_offload_status_answer(r, rc, &job);
    }

    rc = ngx_http_offload_token(r, token);

    if (rc != NGX_OK) {
        return rc == NGX_DECLINED
               ? ngx_http_offload_unauthorized(r)
               : ngx_http_offload_refuse(r, &ngx_http_offload_wrong_token);
    }

    if (result) {
        return ngx_http_offload_put(r);
    }

    if (!ngx_http_offload_is_json(r)) {
        return ngx_http_offload_not_json(r);
    }

    if (r->headers_in.content_length_n > NGX_HTTP_OFFLOAD_REPORT_MAX) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_large_report);
    }

    rc = ngx_http_read_client_request_body(r,
                                           ngx_http_offload_progress_handler);

    return rc >= NGX_HTTP_SPECIAL_RESPONSE ? rc : NGX_DONE;
}


static void
ngx_http_offload_progress_handler(ngx_http_request_t *r)
{
    u_char                             message[ZONE_PROGRESS_MAX];
    ngx_int_t                          rc;
    struct zone_record                *rec;
    struct zone_progress               progress;
    ngx_http_offload_rt_t             *rt;
    ngx_http_offload_loc_conf_t       *olcf;
    const ngx_http_offload_problem_t  *problem;

    olcf = ngx_http_get_module_loc_conf(r, ngx_http_offload_module);

    problem = ngx_http_offload_progress(r, &progress, message);
    rec = NULL;
    rt = NULL;

    if (problem == NULL) {
        problem = &ngx_http_offload_not_confirmed;
        rt = ngx_http_offload_rt_lane(olcf->status);

        if (rt) {
            rec = zone_sq_reserve(&rt->producer, ZONE_RECORD_PROGRESS,
                                  sizeof(progress) + progress.message_len);
        }
    }

    if (rec == NULL) {
        ngx_http_finalize_request(r, ngx_http_offload_refuse(r, problem));
        return;
    }

    ngx_memcpy(zone_record_payload(rec), &progress, sizeof(progress));
    ngx_memcpy(zone_record_payload(rec) + sizeof(progress), message,
               progress.message_len);

    rc = ngx_http_offload_report_park(r, rt, rec,
                                      NGX_HTTP_OFFLOAD_CANCEL_TIMEOUT);

    if (rc == NGX_OK) {
        ngx_http_offload_report_send(r, rt);
        return;
    }

    ngx_http_finalize_request(r, rc);
}


/* What the body says; NULL when that is good. */

static const ngx_http_offload_problem_t *
ngx_http_offload_progress(ngx_http_request_t *r,
    struct zone_progress *progress, u_char *message)
{
    u_char                             body[NGX_HTTP_OFFLOAD_REPORT_MAX];
    json_t                            *json;
    size_t                             len, n;
    ngx_chain_t                       *cl;
    const ngx_http_offload_problem_t  *problem;

    ngx_memzero(progress, sizeof(struct zone_progress));

    if (ngx_http_offload_token(r, progress->token) != NGX_OK) {
        return &ngx_http_offload_wrong_token;
    }

    if (r->request_body->temp_file) {
        return &ngx_http_offload_large_report;
    }

    len = 0;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {
        n = cl->buf->last - cl->buf->pos;

        if (n > sizeof(body) - len) {
            return &ngx_http_offload_large_report;
        }

        if (n) {
            ngx_memcpy(body + len, cl->buf->pos, n);
            len += n;
        }
    }

    json = json_loadb((char *) body, len, JSON_REJECT_DUPLICATES, NULL);

    problem = ngx_http_offload_progress_json(json, progress, message);

    json_decref(json);

    return problem;
}


/* Other members are for readers that know them. */

static const ngx_http_offload_problem_t *
ngx_http_offload_progress_json(json_t *json, struct zone_progress *progress,
    u_char *message)
{
    double   percent;
    json_t  *value;

    if (!json_is_object(json)) {
        return &ngx_http_offload_bad_json;
    }

    progress->layout = ZONE_REPORT_LAYOUT;

    value = json_object_get(json, "progress");

    if (value) {
        percent = json_number_value(value);

        if (!json_is_number(value) || percent < 0 || percent > 100) {
            return &ngx_http_offload_bad_percent;
        }

        progress->flags |= ZONE_PROGRESS_PERCENT;
        progress->percent = (uint8_t) percent;      /* 100 is the end only */
    }

    value = json_object_get(json, "message");

    if (value) {
        if (!json_is_string(value)
            || json_string_length(value) > ZONE_PROGRESS_MAX)
        {
            return &ngx_http_offload_bad_message;
        }

        progress->flags |= ZONE_PROGRESS_MESSAGE;
        progress->message_len = (uint16_t) json_string_length(value);
        ngx_memcpy(message, json_string_value(value), progress->message_len);
    }

    return progress->flags ? NULL : &ngx_http_offload_empty_report;
}


static ngx_uint_t
ngx_http_offload_is_json(ngx_http_request_t *r)
{
    u_char     *p;
    size_t      len;
    ngx_str_t  *type;

    static const u_char  json[] = "application/json";

    if (r->headers_in.content_type == NULL) {
        return 0;
    }

    type = &r->headers_in.content_type->value;
    p = ngx_strlchr(type->data, type->data + type->len, ';');
    len = p ? (size_t) (p - type->data) : type->len;

    while (len && (type->data[len - 1] == ' ' || type->data[len - 1] == '\t'))
    {
        len--;
    }

    return len == sizeof(json) - 1
           && ngx_strncasecmp(type->data, (u_char *) json, len) == 0;
}


/* RFC 5789, 2.2 and 3.1 */

static ngx_int_t
ngx_http_offload_not_json(ngx_http_request_t *r)
{
    ngx_int_t  rc;
    ngx_str_t  value;

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    ngx_str_set(&value, "application/json");

    if (ngx_http_offload_add_header(r, "Accept-Patch",
                                    sizeof("Accept-Patch") - 1, &value)
        == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_send_problem(r, &ngx_http_offload_media_type);
}


/*
 * RFC 6750, 2.1, or a header of ours where the location needs Authorization
 * for itself.  NGX_DECLINED: there is none; NGX_ERROR: it can be no token.
 */

ngx_int_t
ngx_http_offload_token(ngx_http_request_t *r, uint8_t token[ZONE_TOKEN_SIZE])
{
    ngx_str_t         value;
    ngx_table_elt_t  *h;

    h = ngx_http_offload_request_header(r, "offload-job-token");

    if (h) {
        value = h->value;

    } else {
        h = r->headers_in.authorization;

        if (h == NULL || h->value.len < sizeof("Bearer ") - 1
            || ngx_strncasecmp(h->value.data, (u_char *) "Bearer ",
                               sizeof("Bearer ") - 1)
               != 0)
        {
            return NGX_DECLINED;
        }

        value.data = h->value.data + sizeof("Bearer ") - 1;
        value.len = h->value.len - (sizeof("Bearer ") - 1);

        while (value.len && value.data[0] == ' ') {
            value.data++;
            value.len--;
        }
    }

    return zone_id_parse(token, (char *) value.data, value.len) == 0
           ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_offload_unauthorized(ngx_http_request_t *r)
{
    ngx_int_t  rc;
    ngx_str_t  value;

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    ngx_str_set(&value, "Bearer");

    if (ngx_http_offload_add_header(r, "WWW-Authenticate",
                                    sizeof("WWW-Authenticate") - 1, &value)
        == NULL)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_offload_send_problem(r, &ngx_http_offload_no_token);
}


/*
 * The last things that can fail; afterwards report_send() publishes.  Returns
 * NGX_OK, or what the request is to be finalized with.
 */

ngx_int_t
ngx_http_offload_report_park(ngx_http_request_t *r, ngx_http_offload_rt_t *rt,
    struct zone_record *rec, ngx_msec_t timeout)
{
    ngx_int_t                rc;
    ngx_uint_t               unused;
    ngx_http_offload_ctx_t  *ctx;

    if (ngx_http_offload_status_parse(r, rec->id, &unused) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* the body is here: what becomes of it is not the filter's */

    ctx = ngx_http_get_module_ctx(r, ngx_http_offload_module);

    if (ctx) {
        ctx->reading = 0;
    }

    rc = ngx_http_offload_park(r, rt, ngx_http_offload_reported, timeout, 0,
                               rec->id, &rec->token);

    if (rc == NGX_BUSY) {
        return ngx_http_offload_refuse(r, &ngx_http_offload_not_confirmed);
    }

    return rc == NGX_OK ? NGX_OK : NGX_HTTP_INTERNAL_SERVER_ERROR;
}


/* The request keeps the reference that reading its body took. */

void
ngx_http_offload_report_send(ngx_http_request_t *r, ngx_http_offload_rt_t *rt)
{
    zone_sq_publish(&rt->producer);
    ngx_http_offload_rt_wake(rt);

    r->read_event_handler = ngx_http_test_reading;
}


static void
ngx_http_offload_reported(ngx_http_request_t *r, ngx_int_t result)
{
    ngx_int_t                          rc;
    const ngx_http_offload_problem_t  *problem;

    switch (result) {

    case ZONE_DONE:
        r->headers_out.status = NGX_HTTP_NO_CONTENT;
        ngx_http_finalize_request(r, ngx_http_send_header(r));
        return;

    case ZONE_NOT_FOUND:
        rc = ngx_http_offload_missing(r, NGX_DECLINED);
        ngx_http_finalize_request(r, rc);
        return;

    case ZONE_DENIED:
        problem = &ngx_http_offload_wrong_token;
        break;

    case ZONE_NOT_RUNNING:
        problem = &ngx_http_offload_not_running;
        break;

    default:
        problem = &ngx_http_offload_not_confirmed;
        break;
    }

    ngx_http_finalize_request(r, ngx_http_offload_send_problem(r, problem));
}
