/*
 * What backends tell of their jobs: progress, and results that are put.  Store
 * thread, inside the open transaction.
 *
 * A large result is a file that nginx has received into spool/tmp.  Only when
 * the token is found to be the attempt's is it renamed to the blob that the
 * row will name, and synced, before the commit.  A kill leaves the file under
 * one of the two names and the record in its ring: the next time the rename
 * has been done, or is done then.
 */

#include "offloadd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>


/* What is kept of a result that is put. */

struct put_kept {
    uint64_t    max;                            /* its job's; 0: any size */
    uint64_t    size;
    int         over;                           /* it is larger, */
    int         cut;                            /* and cut, not refused */
    char        message[STORE_MESSAGE_MAX];
    struct buf  headers;
    struct buf  body;                           /* in the record */
};


/* As an answer to nginx; 0 for what goes on. */

static uint32_t
report_refused(int rc)
{
    return rc == ENGINE_NOT_FOUND ? ZONE_NOT_FOUND
           : rc == ENGINE_DENIED ? ZONE_DENIED
           : rc == ENGINE_STALE ? ZONE_NOT_RUNNING : 0;
}


static int
report_malformed(struct drain_item *item, const char *wrong)
{
    struct log_line  l;

    item->result = ZONE_FAILED;

    if (log_begin(&l, LOG_ERROR, "a record is no report and is skipped")) {
        log_id(&l, "job", item->record.id);
        log_uint(&l, "lane", item->lane);
        log_str(&l, "error", wrong);
        log_end(&l);
    }

    return 0;
}


int
drain_progress(struct store *s, struct drain_item *item,
    struct engine_error *e)
{
    int                        rc;
    const char                *wrong;
    struct zone_progress_view  view;

    wrong = zone_progress_parse(&view, zone_record_payload(item->at),
                                item->record.payload);
    if (wrong) {
        return report_malformed(item, wrong);
    }

    rc = s->engine->holder(s->self, item->record.id, view.fixed.token,
                           &item->seq, &item->row, e);
    item->result = report_refused(rc);

    if (rc != 0) {
        item->seq = 0;
        return rc == -1 ? -1 : 0;
    }

    rc = s->engine->progress(s->self, item->seq, &item->row, &view, e);
    item->changed = rc == 0;

    ZONE_FAILPOINT("progress.before-commit");

    return rc == -1 ? -1 : 0;
}


/* The same of a command, from what it prints. */

int
report_apply(struct store *s, struct store_op *op, struct engine_error *e)
{
    int                        rc;
    uint64_t                   seq;
    struct store_job           row;
    struct zone_progress_view  view;

    memset(&view, 0, sizeof(view));
    view.fixed.flags = ZONE_PROGRESS_PERCENT;
    view.fixed.percent = (uint8_t) (op->row.progress - 1);

    rc = s->engine->holder(s->self, op->row.id, op->row.token, &seq, &row, e);
    if (rc != 0) {
        return rc == -1 ? -1 : ENGINE_STALE;
    }

    rc = s->engine->progress(s->self, seq, &row, &view, e);

    return rc == ENGINE_SAME ? 0 : rc;
}


/* As of an attempt's answer: see result_limit(). */

static int
put_bound(struct store *s, struct drain_item *item,
    const struct zone_put *put, struct put_kept *kept, struct engine_error *e)
{
    if (s->engine->bound(s->self, item->seq, &kept->max, &kept->cut, e) != 0) {
        return -1;
    }

    kept->over = kept->max && put->body_size > kept->max;
    kept->size = kept->over ? kept->max : put->body_size;

    return 0;
}


static int
put_refused(const struct put_kept *kept)
{
    return kept->over && !kept->cut;
}


/* The file as what the row will name: 0, 1 if it is not there, -1. */

static int
put_rename(struct store *s, struct drain_item *item,
    const struct zone_put *put, const struct put_kept *kept,
    struct engine_error *e)
{
    char         from[PATH_MAX], to[PATH_MAX];
    struct stat  st;
    const char  *store = s->daemon->policy.store;

    if (files_path(from, sizeof(from), store, ZONE_DIR_SPOOL_TMP, put->file,
                   0)
            != 0
        || files_path(to, sizeof(to), store, ZONE_DIR_BLOBS, item->record.id,
                      store_blob(item->row.flags, item->row.attempts))
            != 0)
    {
        return 1;
    }

    if (rename(from, to) == -1 && errno != ENOENT) {
        e->err = errno;
        (void) snprintf(e->text, sizeof(e->text), "rename %.256s: %s", from,
                        strerror(errno));
        return -1;
    }

    ZONE_FAILPOINT("put.renamed");

    /* ENOENT, or cut: by a commit that failed, or before a kill */

    if (stat(to, &st) == -1 || !S_ISREG(st.st_mode)) {
        return 1;
    }

    if ((uint64_t) st.st_size == kept->size) {
        return 0;
    }

    if ((uint64_t) st.st_size != put->body_size) {
        return 1;
    }

    if (truncate(to, (off_t) kept->size) == -1) {
        e->err = errno;
        (void) snprintf(e->text, sizeof(e->text), "truncate %.256s: %s", to,
                        strerror(errno));
        return -1;
    }

    return 0;
}


static int
put_file(struct store *s, struct drain_item *item, const struct zone_put *put,
    const struct put_kept *kept, struct engine_error *e)
{
    int  rc;

    rc = put_rename(s, item, put, kept, e);

    if (rc == 0 && s->durable) {
        rc = files_sync(s, FILES_BLOBS, item->record.id,
                        store_blob(item->row.flags, item->row.attempts), e);
    }

    if (rc > 0) {
        item->result = ZONE_FAILED;
        files_unlink(s->daemon->policy.store, ZONE_DIR_BLOBS, item->record.id,
                     store_blob(item->row.flags, item->row.attempts));
        log_text(LOG_ERROR, "a result that was put is lost: its file is not "
                 "there, or can not be synced");
    }

    return rc;
}


/* Of one that is cut nothing is said of the whole. */

static int
put_headers(const struct zone_put_view *view, struct put_kept *kept,
    struct engine_error *e)
{
    size_t       len;
    const char  *p, *end;

    p = view->headers.data;
    end = p + view->headers.len;

    for ( /* void */ ; p < end; p += len) {
        len = strlen(p) + 1;

        if (kept->over && result_is_of_whole(p, strcspn(p, ":"))) {
            continue;
        }

        if (buf_append(&kept->headers, p, len) != 0) {
            e->err = ENOMEM;
            (void) snprintf(e->text, sizeof(e->text), "no memory for the "
                            "header of a result");
            return -1;
        }
    }

    return 0;
}


/* One that is larger than its job allows, and is not cut. */

static int
put_refuse(struct store *s, struct drain_item *item, struct store_op *op,
    struct put_kept *kept, struct engine_error *e)
{
    int  rc;

    (void) snprintf(kept->message, sizeof(kept->message), "the result that "
                    "was put is larger than %llu bytes",
                    (unsigned long long) kept->max);

    op->row.state = STORE_FAILED;
    op->row.error = STORE_ERROR_TOO_LARGE;
    op->row.message_len = (uint16_t) strlen(kept->message);
    op->message = kept->message;

    rc = s->engine->settle(s->self, op, e);

    item->row = op->row;

    return rc;
}


static int
put_answer(struct store *s, struct drain_item *item, struct store_op *op,
    const struct zone_put_view *view, struct put_kept *kept,
    struct engine_error *e)
{
    int  rc;

    kept->body.data = (uint8_t *) (uintptr_t) view->body.data;
    kept->body.len = (size_t) kept->size;

    op->row.state = STORE_COMPLETED;
    op->row.http_status = view->fixed.http_status;
    op->row.result_size = kept->size;
    op->row.flags |= kept->over ? STORE_TRUNCATED : 0;

    if (view->fixed.http_status >= 400) {
        op->row.state = STORE_FAILED;
        op->row.error = STORE_ERROR_BACKEND;
        (void) snprintf(kept->message, sizeof(kept->message),
                        "the backend answered %u", view->fixed.http_status);
    }

    op->row.type_len = (uint16_t) (view->type.len < STORE_TYPE_MAX
                                   ? view->type.len : STORE_TYPE_MAX);
    op->row.message_len = (uint16_t) strlen(kept->message);
    op->type_text = view->type.data;
    op->message = kept->message;
    op->headers = &kept->headers;
    op->body = view->fixed.flags & ZONE_PUT_BODY_FILE ? NULL : &kept->body;

    rc = put_headers(view, kept, e);

    if (rc == 0) {
        rc = s->engine->settle(s->self, op, e);
        item->row = op->row;
    }

    buf_free(&kept->headers);

    return rc;
}


/* The same as the answer of an attempt, see attempt_settle(). */

static int
put_settle(struct store *s, struct drain_item *item,
    const struct zone_put_view *view, struct put_kept *kept,
    struct engine_error *e)
{
    int              rc;
    struct store_op  op;

    memset(&op, 0, sizeof(op));

    op.type = STORE_OP_SETTLE;
    op.seq = item->seq;
    op.row = item->row;
    op.row.finished_ms = clock_ms();
    op.row.expires_ms = op.row.finished_ms
                        + store_ttl_ms(&op.row, atomic_load(&s->ttl_ms));

    rc = put_refused(kept) ? put_refuse(s, item, &op, kept, e)
                           : put_answer(s, item, &op, view, kept, e);

    ZONE_FAILPOINT("put.before-commit");

    return rc;
}


/*
 * A result that is put again, because its answer was lost, finds the job
 * settled by its own token: that is as good as done.  Else the job was settled
 * before the commit that would have had this result could be repeated.
 */

static uint32_t
put_stale(struct store *s, struct drain_item *item)
{
    if (item->row.flags & STORE_DEFERRED) {
        return ZONE_DONE;
    }

    files_unlink(s->daemon->policy.store, ZONE_DIR_BLOBS, item->record.id,
                 store_blob(STORE_DEFERRED, item->row.attempts));

    return ZONE_NOT_RUNNING;
}


int
drain_put(struct store *s, struct drain_item *item, struct engine_error *e)
{
    int                   rc;
    const char           *wrong;
    struct put_kept       kept;
    struct zone_put_view  view;

    wrong = zone_put_parse(&view, zone_record_payload(item->at),
                           item->record.payload);
    if (wrong) {
        return report_malformed(item, wrong);
    }

    rc = s->engine->holder(s->self, item->record.id, view.fixed.token,
                           &item->seq, &item->row, e);
    item->result = report_refused(rc);

    if (rc == ENGINE_STALE) {
        item->result = put_stale(s, item);
    }

    memset(&kept, 0, sizeof(kept));

    if (rc == 0) {
        item->row.flags |= STORE_DEFERRED;
        rc = put_bound(s, item, &view.fixed, &kept, e);

        if (rc == 0 && (view.fixed.flags & ZONE_PUT_BODY_FILE)
            && !put_refused(&kept))
        {
            rc = put_file(s, item, &view.fixed, &kept, e);
        }

        if (rc == 0) {
            rc = put_settle(s, item, &view, &kept, e);
        }
    }

    if (rc == -1 || (rc == 0 && !put_refused(&kept))) {
        return rc;
    }

    if (item->result != ZONE_DONE) {
        item->seq = 0;                          /* else: forget it, if that
                                                   was not done */
    }

    if (view.fixed.flags & ZONE_PUT_BODY_FILE) {
        files_unlink(s->daemon->policy.store, ZONE_DIR_SPOOL_TMP,
                     view.fixed.file, 0);
    }

    return 0;
}
