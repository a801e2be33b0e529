/*
 * What the store must hold against its own users: an attempt that was
 * overtaken changes nothing, a record read twice is one job, a job given up
 * with its transaction keeps its files.  The moments in which this matters
 * are too short to be met from outside.
 */

#include <fcntl.h>

#include "../tap.h"
#include "../../../src/worker/offloadd_lmdb.h"


static struct policy         policy;
static struct engine_error   e;
static void                 *self;

static const struct engine  *en = &engine_lmdb;


static int
insert(struct engine_insert *in, uint8_t n, int start)
{
    static struct zone_record        record;
    static struct zone_request       request;
    static struct zone_request_view  view;

    memset(&record, 0, sizeof(record));
    memset(&request, 0, sizeof(request));
    memset(record.id, n, ZONE_ID_SIZE);
    record.id[0] = 0;
    request.flags = ZONE_REQUEST_BODY_FILE;

    memset(in, 0, sizeof(*in));
    in->record = &record;
    in->view = &view;
    in->payload = &request;
    in->size = sizeof(request);
    in->start = start;

    return en->insert(self, in, &e);
}


static void
spool(char *path, size_t size, const uint8_t *id)
{
    int  fd;

    must(files_path(path, size, policy.store, ZONE_DIR_SPOOL, id, 0) == 0);
    fd = open(path, O_CREAT|O_WRONLY, 0600);
    must(fd != -1 && write(fd, "body", 4) == 4);
    close(fd);
}


static void
settle(struct store_op *op, uint64_t seq, uint32_t attempt)
{
    memset(op, 0, sizeof(*op));
    op->type = STORE_OP_SETTLE;
    op->seq = seq;
    op->row.state = STORE_FAILED;
    op->row.attempts = attempt;
    op->row.expires_ms = 1;
}


static int
state(uint64_t seq)
{
    struct lmdb      *m = self;
    struct store_job  row;

    return lmdb_get_row(m, m->txn, seq, &row, &e) == 0 ? row.state : 0;
}


static void
test_lease(void)
{
    uint64_t              seq;
    struct store_op       op;
    struct engine_insert  in;
    struct engine_cancel  c;

    must(en->begin(self, &e) == 0);
    must(insert(&in, 1, 1) == 0);
    seq = in.seq;

    settle(&op, seq, 1);
    must(en->requeue(self, &op, &e) == 0);
    is(en->settle(self, &op, &e), ENGINE_STALE,
       "an attempt that was given up settles nothing");
    is(state(seq), STORE_QUEUED, "its job waits");

    must(en->start(self, &op, 7, &e) == 0);
    buf_free(&op.request);
    is(op.row.attempts, 2, "the next attempt has the next number");
    settle(&op, seq, 1);
    is(en->settle(self, &op, &e), ENGINE_STALE,
       "and the first one still settles nothing");
    is(en->requeue(self, &op, &e), ENGINE_STALE, "nor gives it up");
    is(state(seq), STORE_RUNNING, "the second is running");

    memset(&c, 0, sizeof(c));
    c.id = in.record->id;
    c.ttl_ms = 1000;
    must(en->cancel(self, &c, &e) == 0);
    settle(&op, seq, 2);
    is(en->settle(self, &op, &e), ENGINE_STALE, "nor what was canceled");
    is(state(seq), STORE_CANCELED, "it stays canceled");
    is(en->start(self, &op, 7, &e), ENGINE_STALE, "and is not begun again");
    en->abort(self);
}


/* A token is good for its own attempt, and as long as that runs. */

static void
test_holder(void)
{
    uint8_t                    token[ZONE_TOKEN_SIZE];
    uint64_t                   seq;
    struct store_op            op;
    struct store_job           row;
    struct engine_insert       in;
    struct zone_progress_view  view;

    must(en->begin(self, &e) == 0);
    must(insert(&in, 4, 0) == 0);
    is(en->holder(self, in.record->id, in.row.token, &seq, &row, &e),
       ENGINE_DENIED, "a job that was never attempted has no token");

    memset(&op, 0, sizeof(op));
    op.seq = in.seq;
    must(en->start(self, &op, 7, &e) == 0);
    memcpy(token, op.row.token, sizeof(token));
    is(en->holder(self, in.record->id, token, &seq, &row, &e), 0,
       "its attempt has one");

    memset(&view, 0, sizeof(view));
    view.fixed.flags = ZONE_PROGRESS_MESSAGE;
    view.message.data = "half";
    view.message.len = 4;
    is(en->progress(self, seq, &row, &view, &e), 0, "progress");
    must(en->holder(self, in.record->id, token, &seq, &row, &e) == 0);
    is(en->progress(self, seq, &row, &view, &e), ENGINE_SAME,
       "the same again is no news");
    is(row.reports, 1, "and not counted");

    op.row.not_before_ms = 99;
    is(en->defer(self, &op, &e), 0, "it is deferred");
    is(en->defer(self, &op, &e), 0, "as often as it takes");
    must(en->holder(self, in.record->id, token, &seq, &row, &e) == 0);
    ok(row.progress_len == 4 && row.not_before_ms == 99,
       "with its progress, until then");

    op.row.attempts = 1;
    must(en->requeue(self, &op, &e) == 0);
    is(en->holder(self, in.record->id, token, &seq, &row, &e), ENGINE_STALE,
       "not while the job waits");
    must(en->start(self, &op, 7, &e) == 0);
    buf_free(&op.request);
    is(en->holder(self, in.record->id, token, &seq, &row, &e), ENGINE_DENIED,
       "nor in the next attempt, which has another");
    is(en->holder(self, token, token, &seq, &row, &e), ENGINE_NOT_FOUND,
       "no such job");
    en->abort(self);
}


static void
test_known(void)
{
    uint64_t              seq, found;
    struct engine_insert  in;

    must(en->begin(self, &e) == 0);
    must(insert(&in, 2, 1) == 0);
    seq = in.seq;
    is(insert(&in, 2, 1), ENGINE_KNOWN, "an id is inserted once");
    is(in.seq, (intmax_t) seq, "the second time its job is named");
    is(in.row.state, STORE_RUNNING, "and what it does");
    must(en->withdraw(self, in.record->id, &e) == 0);
    is(en->knows(self, in.record->id, &found, &e), 0,
       "withdrawn, it was never there");
    en->abort(self);
}


static void
test_files(void)
{
    char                  path[PATH_MAX];
    uint64_t              seq;
    struct store_op       op;
    struct engine_insert  in;

    must(en->begin(self, &e) == 0);
    must(insert(&in, 3, 1) == 0);
    spool(path, sizeof(path), in.record->id);
    seq = in.seq;
    must(en->commit(self, &e) == 0);

    settle(&op, seq, 1);
    must(en->begin(self, &e) == 0);
    must(en->settle(self, &op, &e) == 0);
    is(access(path, F_OK), 0, "before the commit its body is there");
    en->abort(self);
    is(access(path, F_OK), 0, "and after none");

    must(en->begin(self, &e) == 0);
    must(en->settle(self, &op, &e) == 0);
    must(en->commit(self, &e) == 0);
    is(access(path, F_OK), -1, "after the commit it is gone");
}


/* What of a queue is to outlive the worker, and where a job is to wait. */

static struct store_queue  queues[4];
static int                 nqueues;


static int
each_queue(void *ctx, const struct store_queue *row)
{
    (void) ctx;
    must(nqueues < 4);
    queues[nqueues++] = *row;

    return 0;
}


static void
test_queues(void)
{
    struct store_queue         row = { 7, 0, 1000 };
    struct store_job           job;
    struct zone_request_view   view;

    must(en->begin(self, &e) == 0);
    must(en->put_queue(self, &row, &e) == 0);
    row.hash = 0x01020304;
    must(en->put_queue(self, &row, &e) == 0);
    must(en->put_flags(self, row.hash, STORE_QUEUE_PAUSED, &e) == 0);
    must(en->commit(self, &e) == 0);

    must(en->begin(self, &e) == 0);
    row.tat_us = 2000;
    must(en->put_queue(self, &row, &e) == 0);
    en->abort(self);

    is(en->queues(self, each_queue, NULL, &e), 0, "the rows of queues");
    is(nqueues, 2, "are found, and only they");
    ok(queues[0].hash + queues[1].hash == 0x01020304 + 7
       && queues[0].flags + queues[1].flags == STORE_QUEUE_PAUSED
       && queues[0].tat_us == 1000 && queues[1].tat_us == 1000,
       "as they were committed");

    memset(&job, 0, sizeof(job));
    memset(&view, 0, sizeof(view));
    job.created_ms = 5000;
    view.fixed.fair = 1ull << 60;
    view.fixed.priority = 9;
    view.fixed.delay_s = UINT32_MAX;
    view.queue.data = "foobar";
    view.queue.len = 6;
    lmdb_queue_row(&job, &view);
    ok(job.queue == 0xbf9cf968 && job.fair == 1ull << 60 && job.priority == 9,
       "a job's row has its queue, key and priority");
    is(job.not_before_ms, 5000 + UINT32_MAX * 1000ull, "and its time");
}


/* A queue's time and flags are written by different operations, which may
 * change places. */

static int
queue_seven(void *ctx, const struct store_queue *row)
{
    if (row->hash == 7) {
        *(struct store_queue *) ctx = *row;
    }

    return 0;
}


static void
test_flags(void)
{
    struct store_queue  row, read;

    memset(&row, 0, sizeof(row));
    row.hash = 7;
    row.tat_us = 1000;

    must(en->begin(self, &e) == 0);
    must(en->put_flags(self, 7, STORE_QUEUE_PAUSED, &e) == 0);
    must(en->put_queue(self, &row, &e) == 0);
    must(en->commit(self, &e) == 0);
    must(en->queues(self, queue_seven, &read, &e) == 0);
    is(read.flags, STORE_QUEUE_PAUSED, "a time leaves a queue's flags alone");
    is((intmax_t) read.tat_us, 1000, "and is written");

    must(en->begin(self, &e) == 0);
    must(en->put_flags(self, 7, 0, &e) == 0);
    must(en->commit(self, &e) == 0);
    must(en->queues(self, queue_seven, &read, &e) == 0);
    is(read.flags, 0, "flags are taken back");
    is((intmax_t) read.tat_us, 1000, "and leave its time alone");
}


static void
test_look(void)
{
    uint64_t              seq;
    struct engine_look    v;
    struct engine_insert  in;

    must(en->begin(self, &e) == 0);
    must(insert(&in, 9, 0) == 0);
    seq = in.seq;
    memset(&v, 0, sizeof(v));
    memcpy(v.id, in.record->id, ZONE_ID_SIZE);
    is(en->look(self, &v, &e), ENGINE_NOT_FOUND,
       "what is not committed is not to be seen");
    must(en->commit(self, &e) == 0);
    is(en->look(self, &v, &e), 0, "a job is seen");
    is((intmax_t) v.seq, (intmax_t) seq, "it is that one");
    is(v.row.state, STORE_QUEUED, "as it stands");
    v.whole = 1;
    is(en->look(self, &v, &e), -1, "a request that is none is not shown");
    must(en->begin(self, &e) == 0);
    must(en->withdraw(self, v.id, &e) == 0);
    must(en->commit(self, &e) == 0);
    buf_free(&v.request);
}


int
main(void)
{
    int   i;
    char  path[PATH_MAX + 16];

    static const char  *dirs[] = {
        ZONE_DIR_SPOOL_TMP, ZONE_DIR_SPOOL, ZONE_DIR_BLOBS
    };

    tap_begin();
    (void) snprintf(policy.store, sizeof(policy.store), "%s", tap_dir);
    (void) snprintf(policy.path, sizeof(policy.path), "%.60s", tap_dir);
    must(files_init(&policy, &e) == 0);
    must(en->open(&self, &policy, &e) == 0);

    test_lease();
    test_holder();
    test_known();
    test_files();
    test_queues();
    test_flags();
    test_look();

    en->close(self);

    for (i = 0; i < 3; i++) {
        (void) snprintf(path, sizeof(path), "%.4000s/%s", tap_dir, dirs[i]);
        must(rmdir(path) == 0);
    }

    return tap_end();
}
