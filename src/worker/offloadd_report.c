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


/* The file as what the row will name: 0, 1 if it is not there, -1. */

static int
put_rename(struct store *s, struct drain_item *item,
    const struct zone_put *put, struct engine_error *e)
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

    /* ENOENT: renamed by a commit that failed, or before a kill */

    if (stat(to, &st) == -1 || !S_ISREG(st.st_mode)
        || (uint64_t) st.st_size != put->body_size)
    {
        return 1;
    }

    ZONE_FAILPOINT("put.renamed");

    return 0;
}


static int
put_file(struct store *s, struct drain_item *item, const struct zone_put *put,
    struct engine_error *e)
{
    int  rc;

    rc = put_rename(s, item, put, e);

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


/* The same as the answer of an attempt, see attempt_settle(). */

static int
put_settle(struct store *s, struct drain_item *item,
    const struct zone_put_view *view, struct engine_error *e)
{
    int              rc;
    char             message[STORE_MESSAGE_MAX];
    struct buf       headers, body;
    struct store_op  op;

    memset(&op, 0, sizeof(op));
    headers.data = (uint8_t *) (uintptr_t) view->headers.data;
    headers.len = view->headers.len;
    body.data = (uint8_t *) (uintptr_t) view->body.data;
    body.len = view->body.len;
    message[0] = '\0';

    op.type = STORE_OP_SETTLE;
    op.seq = item->seq;
    op.row = item->row;
    op.row.state = STORE_COMPLETED;
    op.row.http_status = view->fixed.http_status;
    op.row.finished_ms = clock_ms();
    op.row.expires_ms = op.row.finished_ms
                        + store_ttl_ms(&op.row, atomic_load(&s->ttl_ms));
    op.row.result_size = view->fixed.body_size;

    if (view->fixed.http_status >= 400) {
        op.row.state = STORE_FAILED;
        op.row.error = STORE_ERROR_BACKEND;
        (void) snprintf(message, sizeof(message), "the backend answered %u",
                        view->fixed.http_status);
    }

    op.row.type_len = (uint16_t) (view->type.len < STORE_TYPE_MAX
                                  ? view->type.len : STORE_TYPE_MAX);
    op.row.message_len = (uint16_t) strlen(message);
    op.type_text = view->type.data;
    op.message = message;
    op.headers = &headers;
    op.body = view->fixed.flags & ZONE_PUT_BODY_FILE ? NULL : &body;

    rc = s->engine->settle(s->self, &op, e);

    item->row = op.row;

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

    if (rc == 0) {
        item->row.flags |= STORE_DEFERRED;

        if (view.fixed.flags & ZONE_PUT_BODY_FILE) {
            rc = put_file(s, item, &view.fixed, e);
        }

        if (rc == 0) {
            rc = put_settle(s, item, &view, e);
        }
    }

    if (rc == -1 || rc == 0) {
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
