/*
 * What is sent to a webhook: the event, its id, its signature.  Pure functions
 * of their arguments; the document is made by the store thread, in the
 * transaction that settles the job, the signature by the loop thread, for
 * each attempt.
 */

#include "offloadd.h"

#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>


static const char *const  hook_states[STORE_STATES] = {
    "", "queued", "running", "completed", "failed", "canceled", "expired"
};


const char *
hook_status(uint32_t status)
{
    static const char *const  names[STORE_HOOK_STATUSES] = {
        "unknown", "pending", "delivered", "failed", "disabled"
    };

    return names[status < STORE_HOOK_STATUSES ? status : 0];
}


/* The same for all attempts, another for each settlement of the job. */

void
hook_id(char id[HOOK_ID_MAX], const struct store_hook *row)
{
    char  job[ZONE_ID_TEXT + 1];

    zone_id_format(job, row->id);
    job[ZONE_ID_TEXT] = '\0';

    (void) snprintf(id, HOOK_ID_MAX, "msg_%s_%u_%" PRIx64, job,
                    (unsigned) row->n, row->settled_ms);
}


int
hook_receiver(uint8_t digest[STORE_GONE_SIZE], uint32_t queue,
    const char *url, size_t len)
{
    uint8_t  text[sizeof(queue) + ZONE_HOOK_URL_MAX], all[EVP_MAX_MD_SIZE];

    if (len > ZONE_HOOK_URL_MAX) {
        return -1;
    }

    memcpy(text, &queue, sizeof(queue));
    memcpy(text + sizeof(queue), url, len);

    if (EVP_Digest(text, sizeof(queue) + len, all, NULL, EVP_sha256(), NULL)
        != 1)
    {
        return -1;
    }

    memcpy(digest, all, STORE_GONE_SIZE);

    return 0;
}


static char *
hook_base64(const uint8_t *p, size_t n)
{
    char  *text;

    text = malloc((n + 2) / 3 * 4 + 1);

    if (text) {
        (void) EVP_EncodeBlock((unsigned char *) text, p, (int) n);
    }

    return text;
}


int
hook_sign(char text[HOOK_SIGNATURE_MAX], const struct hook_file *secret,
    const char *id, uint64_t timestamp, const struct buf *body)
{
    int            n;
    char          *base64;
    char           head[HOOK_ID_MAX + 32];
    uint8_t        mac[EVP_MAX_MD_SIZE];
    unsigned       len;
    struct buf     all;

    memset(&all, 0, sizeof(all));
    n = snprintf(head, sizeof(head), "%s.%" PRIu64 ".", id, timestamp);

    if (n < 0
        || buf_append(&all, head, ZONE_MUTANT("hook.sign") ? 0 : (size_t) n)
           != 0
        || buf_append(&all, body->data, body->len) != 0
        || HMAC(EVP_sha256(), secret->key, (int) secret->len, all.data,
                all.len, mac, &len) == NULL)
    {
        buf_free(&all);
        return -1;
    }

    buf_free(&all);

    base64 = hook_base64(mac, len);
    if (base64 == NULL) {
        return -1;
    }

    (void) snprintf(text, HOOK_SIGNATURE_MAX, "v1,%s", base64);
    free(base64);

    return 0;
}


static void
hook_result(json_t *o, const struct hook_facts *f)
{
    char    *base64;
    json_t  *text;

    /* text as it is; what is no UTF-8 text would not survive that */

    text = json_stringn((const char *) f->result, f->result_len);

    if (text && memchr(f->result, '\0', f->result_len) == NULL) {
        json_object_set_new(o, "result", text);
        return;
    }

    json_decref(text);

    base64 = hook_base64(f->result, f->result_len);
    json_object_set_new(o, "result_base64", json_string(base64));
    free(base64);
}


static void
hook_response(json_t *o, const struct hook_facts *f, const char *url)
{
    json_t                  *part;
    const struct store_job  *row = f->row;

    if (row->flags & STORE_HAS_RESULT) {
        json_object_set_new(o, "result_url", json_sprintf("%s/result", url));
    }

    if (row->http_status) {
        part = json_pack("{s:i}", "status", (int) row->http_status);

        if (row->type_len) {
            json_object_set_new(part, "content_type",
                                control_text(f->type, row->type_len));
        }

        json_object_set_new(part, "length",
                            json_integer((json_int_t) row->result_size));

        if (row->flags & STORE_TRUNCATED) {
            json_object_set_new(part, "truncated", json_true());
        }

        json_object_set_new(o, "response", part);
    }

    if (row->error > 0 && row->error < STORE_ERRORS) {
        part = json_pack("{s:s}", "code", attempt_errors[row->error]);

        if (row->message_len) {
            json_object_set_new(part, "message",
                                control_text(f->message, row->message_len));
        }

        json_object_set_new(o, "error", part);
    }

    if (f->result) {
        hook_result(o, f);
    }
}


/* {"type":"job.completed","timestamp":"...","data":{the job's document}} */

int
hook_document(struct buf *out, const struct hook_facts *f)
{
    int                      rc;
    char                     id[ZONE_ID_TEXT + 1], *url, *text;
    json_t                  *o, *data;
    const struct store_job  *row = f->row;

    zone_id_format(id, row->id);
    id[ZONE_ID_TEXT] = '\0';

    url = malloc(f->job.len + ZONE_ID_TEXT + 1);
    if (url == NULL) {
        return -1;
    }

    memcpy(url, f->job.data, f->job.len);
    memcpy(url + f->job.len, id, ZONE_ID_TEXT + 1);

    data = json_pack("{s:s, s:s, s:s}", "job_id", id, "status",
                     hook_states[row->state], "status_url", url);
    o = json_pack("{s:o}", "type", json_sprintf("job.%s",
                                                hook_states[row->state]));
    rc = -1;

    if (o && data) {
        (void) control_time(data, "created_at", row->created_ms);
        (void) control_time(data, "started_at", row->started_ms);
        (void) control_time(data, "finished_at", row->finished_ms);
        json_object_set_new(data, "attempts",
                            json_integer((json_int_t) row->attempts));
        hook_response(data, f, url);

        (void) control_time(o, "timestamp", row->finished_ms);
        json_object_set(o, "data", data);

        text = json_dumps(o, JSON_COMPACT);

        if (text) {
            rc = buf_append(out, text, strlen(text));
            free(text);
        }
    }

    json_decref(data);
    json_decref(o);
    free(url);

    return rc;
}
