/*
 * A dead letter is rows in five databases and up to two files; each way out of
 * it must take all of them along, leave the counters exact, and be harmless
 * when it is asked for twice.  From outside only the document can be seen.
 */

#include <fcntl.h>

#include "../tap.h"
#include "../../../src/worker/offloadd_lmdb.h"


static struct policy         policy;
static struct engine_error   e;
static void                 *self;

static const struct engine  *en = &engine_lmdb;

struct keyed {
    struct zone_request      fixed;
    struct zone_request_key  key;
};


static void
file(char *path, const char *dir, uint8_t n, uint32_t attempt, int make)
{
    int      fd;
    uint8_t  id[ZONE_ID_SIZE];

    memset(id, n, sizeof(id));
    must(files_path(path, PATH_MAX, policy.store, dir, id, attempt) == 0);

    if (make) {
        fd = open(path, O_CREAT|O_WRONLY, 0600);
        must(fd != -1);
        close(fd);
    }
}


static int
there(const char *dir, uint8_t n, uint32_t attempt)
{
    char  path[PATH_MAX];

    file(path, dir, n, attempt, 0);

    return access(path, F_OK) == 0;
}


/* Job n, running, with a body in the spool, a key, and a minute of time. */

static uint64_t
insert(uint8_t n)
{
    char                      path[PATH_MAX];
    struct keyed              request;
    struct zone_record        record;
    struct engine_insert      in;
    struct zone_request_view  view;

    memset(&request, 0, sizeof(request));
    memset(&record, 0, sizeof(record));
    memset(&view, 0, sizeof(view));
    memset(&in, 0, sizeof(in));

    request.fixed.flags = ZONE_REQUEST_KEYED|ZONE_REQUEST_BODY_FILE;
    request.fixed.deadline_s = 60;
    memset(request.key.key, n, ZONE_DIGEST_SIZE);
    request.key.ttl_s = 1;

    memset(record.id, n, ZONE_ID_SIZE);
    record.created_ms = 1000;
    view.fixed = request.fixed;
    view.key = request.key;

    in.record = &record;
    in.view = &view;
    in.payload = &request;
    in.size = sizeof(request);
    in.start = 1;

    file(path, ZONE_DIR_SPOOL, n, 0, 1);
    must(en->insert(self, &in, &e) == 0);

    return in.seq;
}


static int
key_known(uint8_t n)
{
    struct keyed              request;
    struct zone_record        record;
    struct engine_insert      in;
    struct zone_request_view  view;

    memset(&request, 0, sizeof(request));
    memset(&record, 0, sizeof(record));
    memset(&view, 0, sizeof(view));
    memset(&in, 0, sizeof(in));

    view.fixed.flags = ZONE_REQUEST_KEYED;
    memset(view.key.key, n, ZONE_DIGEST_SIZE);
    memset(record.id, 200, ZONE_ID_SIZE);
    in.record = &record;
    in.view = &view;
    in.payload = &request;
    in.size = sizeof(request);

    return lmdb_key_check(self, &in, &e) == ENGINE_DUPLICATE;
}


/* Its attempt failed for good: a dead letter until `until`, with a blob. */

static void
settle(uint64_t seq, uint8_t n, uint32_t attempt, uint64_t until, int dead)
{
    char             path[PATH_MAX];
    struct buf       none;
    struct store_op  op;

    memset(&op, 0, sizeof(op));
    memset(&none, 0, sizeof(none));

    op.type = STORE_OP_SETTLE;
    op.seq = seq;
    memset(op.row.id, n, ZONE_ID_SIZE);
    op.row.attempts = attempt;
    op.row.state = STORE_FAILED;
    op.row.error = STORE_ERROR_BACKEND;
    op.row.flags = dead ? STORE_DEAD : 0;
    op.row.failures = 5;
    op.row.http_status = 503;
    op.row.finished_ms = 2000;
    op.row.expires_ms = until;
    op.row.message_len = 3;
    op.message = "why";
    op.row.type_len = 4;
    op.type_text = "text";
    op.headers = &none;

    file(path, ZONE_DIR_BLOBS, n, attempt, 1);
    must(en->settle(self, &op, &e) == 0);
}


static struct store_job
row_of(uint64_t seq)
{
    struct store_job  row;

    memset(&row, 0, sizeof(row));
    must(lmdb_get_row(self, ((struct lmdb *) self)->txn, seq, &row, &e)
         != -1);

    return row;
}


static int
do_op(int (*f)(void *, struct store_op *, struct engine_error *), uint8_t n,
    struct store_op *op)
{
    memset(op, 0, sizeof(*op));
    memset(op->row.id, n, ZONE_ID_SIZE);

    return f(self, op, &e);
}


static int
redrive(uint8_t n, struct store_op *op, uint64_t now)
{
    memset(op, 0, sizeof(*op));
    memset(op->row.id, n, ZONE_ID_SIZE);

    return en->redrive(self, op, now, &e);
}


static uint64_t
count(int state)
{
    return ((struct lmdb *) self)->txn_counters.jobs[state];
}


static int64_t
drift(void)
{
    return store_drift(&((struct lmdb *) self)->txn_counters);
}


static size_t
rows(enum lmdb_db db)
{
    MDB_stat      st;
    struct lmdb  *m = self;

    must(mdb_stat(m->txn, m->db[db], &st) == 0);

    return st.ms_entries;
}


static void
begin(void)
{
    must(en->begin(self, &e) == 0);
}


static void
commit(void)
{
    must(en->commit(self, &e) == 0);
}


/* What there is to see of n of them, kept whole. */

static void
test_kept(uint64_t seq)
{
    uint8_t  id[ZONE_ID_SIZE];

    memset(id, 1, sizeof(id));

    begin();
    is(row_of(seq).state, STORE_FAILED, "it has failed");
    is(row_of(seq).failures, 5, "so often");
    is(rows(LMDB_DEAD), 1, "it is listed");
    is(rows(LMDB_REQUESTS), 1, "its request is kept");
    commit();

    ok(there(ZONE_DIR_SPOOL, 1, 0) && there(ZONE_DIR_BLOBS, 1, 1),
       "so are its files");
    ok(en->wants_body(self, id) && en->wants_blob(self, id, 1),
       "which the sweep leaves alone");
}


static int
scanned(void *ctx, uint64_t seq, const struct store_job *row)
{
    (void) seq;
    (void) row;
    ++*(int *) ctx;

    return 0;
}


static void
test_redrive(uint64_t seq)
{
    int               n;
    uint8_t           id[ZONE_ID_SIZE];
    struct store_op   op;
    struct store_job  row;

    memset(id, 1, sizeof(id));

    begin();
    is(redrive(1, &op, 500000), 0, "driven again");
    is(op.seq, seq, "by its id");
    en->abort(self);

    begin();
    is(row_of(seq).state, STORE_FAILED, "given up: nothing has happened");
    is(redrive(1, &op, 500000), 0, "once more");
    row = row_of(seq);
    is(row.state, STORE_QUEUED, "it waits");
    ok(memcmp(&row, &op.row, sizeof(row)) == 0, "as the operation says");
    is(row.attempts, 1, "its attempts stay counted");
    ok(row.failures == 0 && row.strikes == 0, "what failed does not");
    ok(row.flags == 0 && row.error == 0 && row.finished_ms == 0
       && row.expires_ms == 0 && row.http_status == 0 && row.result_size == 0
       && row.type_len == 0 && row.message_len == 0,
       "nothing of its end is left");
    is(row.deadline_ms, 560000, "its deadline begins anew");
    ok(rows(LMDB_DEAD) == 0 && rows(LMDB_RESULTS) == 0
       && rows(LMDB_EXPIRY) == 0 && rows(LMDB_KEY_EXPIRY) == 0,
       "nor a row of it");
    is(rows(LMDB_REQUESTS), 1, "its request is there");
    is(redrive(1, &op, 500000), 0, "twice is as good as once");
    is(do_op(en->purge, 1, &op), ENGINE_STALE, "it is no dead letter");
    ok(count(STORE_QUEUED) == 1 && count(STORE_FAILED) == 0 && drift() == 0,
       "and counted so");
    is(en->expire(self, 900000, 5000, 100, &e), 0, "nothing expires");
    ok(key_known(1), "its key is known as long as it is");
    commit();

    ok(there(ZONE_DIR_SPOOL, 1, 0), "its body is there");
    ok(!there(ZONE_DIR_BLOBS, 1, 1), "its last answer is not");
    ok(!en->wants_blob(self, id, 1), "nor wanted");

    n = 0;
    is(en->recover(self, scanned, &n, &e), 0, "a start");
    is(n, 1, "finds it waiting");

    begin();
    is(en->start(self, memset(&op, 0, sizeof(op)), 3000, &e), ENGINE_STALE,
       "no job 0");
    memset(&op, 0, sizeof(op));
    op.seq = seq;
    is(en->start(self, &op, 3000, &e), 0, "it begins");
    is(op.row.attempts, 2, "with a number of its own");
    buf_free(&op.request);
    settle(seq, 1, 2, 100000, 1);
    is(rows(LMDB_DEAD), 1, "and fails again");
    commit();

    n = 0;
    is(en->recover(self, scanned, &n, &e), 0, "another start");
    is(n, 0, "finds nothing that waits, or is lost");
}


static void
gone(const char *how, uint8_t n, uint32_t attempt)
{
    begin();
    ok(rows(LMDB_DEAD) == 0, "%s: not listed", how);
    ok(rows(LMDB_REQUESTS) == 0, "%s: no request", how);
    ok(rows(LMDB_RESULTS) == 0, "%s: no result", how);
    is(drift(), 0, "%s: counted", how);
    commit();

    ok(!there(ZONE_DIR_SPOOL, n, 0), "%s: no body", how);
    ok(!there(ZONE_DIR_BLOBS, n, attempt), "%s: no answer", how);
}


static void
test_expire(uint64_t seq)
{
    begin();
    is(en->expire(self, 99999, 5000, 100, &e), 0, "before its time");
    is(en->expire(self, 100000, 900000, 100, &e), 1, "at its time");
    is(row_of(seq).state, STORE_EXPIRED, "expired");
    is(count(STORE_EXPIRED), 1, "and counted so");
    ok(!key_known(1), "with its key");
    commit();
    gone("expired", 1, 2);
}


static void
test_purge(void)
{
    uint64_t         seq;
    struct store_op  op;

    begin();
    seq = insert(2);
    settle(seq, 2, 1, 200000, 1);
    commit();

    begin();
    is(do_op(en->purge, 2, &op), 0, "purged");
    is(do_op(en->purge, 2, &op), 0, "twice");
    is(redrive(2, &op, 3000), ENGINE_STALE, "it is not driven again");
    is(row_of(seq).state, STORE_FAILED, "that it failed is known");
    is(row_of(seq).message_len, 3, "and why");
    is(row_of(seq).flags, STORE_DISCARDED, "and that no result is left");
    commit();
    gone("purged", 2, 1);

    begin();
    is(en->expire(self, 200000, 5000, 100, &e), 1, "until it expires");
    commit();
}


static void
test_deleted(void)
{
    uint64_t              seq;
    uint8_t               id[ZONE_ID_SIZE];
    struct engine_cancel  c;

    begin();
    seq = insert(3);
    settle(seq, 3, 1, 300000, 1);
    commit();

    memset(&c, 0, sizeof(c));
    memset(id, 3, sizeof(id));
    c.id = id;

    begin();
    is(en->cancel(self, &c, &e), 0, "its client deletes it");
    commit();
    gone("deleted", 3, 1);
}


static void
test_overdue(void)
{
    uint64_t         seq;
    struct store_op  op;

    begin();
    seq = insert(4);
    memset(&op, 0, sizeof(op));
    op.seq = seq;
    op.row.finished_ms = 61000;
    op.row.message_len = 4;
    op.message = "late";
    is(en->overdue(self, &op, 9000, 61000, &e), ENGINE_STALE,
       "one that runs is not waiting");
    commit();

    begin();
    op.row.attempts = 1;
    is(en->requeue(self, &op, &e), 0, "it waits");
    op.row.finished_ms = 61000;
    op.row.message_len = 4;
    is(en->overdue(self, &op, 9000, 60999, &e), ENGINE_STALE, "not late yet");
    is(op.row.state, STORE_QUEUED, "it stays where it is");
    op.row.finished_ms = 61000;
    op.row.message_len = 4;
    is(en->overdue(self, &op, 9000, 61000, &e), 0, "late");
    is(row_of(seq).state, STORE_FAILED, "failed");
    is(row_of(seq).error, STORE_ERROR_EXPIRED, "as expired");
    is(row_of(seq).expires_ms, 70000, "kept as others");
    is(en->overdue(self, &op, 9000, 61000, &e), 0, "twice is once");
    is(rows(LMDB_REQUESTS), 0, "its request goes");
    is(rows(LMDB_DEAD), 0, "it is no dead letter");
    is(drift(), 0, "counted");
    commit();
    ok(!there(ZONE_DIR_SPOOL, 4, 0), "so does its body");
}


static void
test_list(void)
{
    uint8_t            n;
    uint64_t           seq[6];
    struct dead_entry  entries[2];
    struct dead_list   list;

    begin();

    for (n = 0; n < 6; n++) {
        seq[n] = insert((uint8_t) (10 + n));
        settle(seq[n], (uint8_t) (10 + n), 1, 400000, n != 2);
    }

    memset(&list, 0, sizeof(list));
    list.entries = entries;
    list.max = 2;

    is(en->list(self, &list, &e), 0, "a list");
    is(list.n, 2, "a page of it");
    ok(entries[0].seq == seq[0] && entries[1].seq == seq[1], "the oldest");
    ok(strcmp(entries[0].message, "why") == 0
       && strcmp(entries[0].type, "text") == 0, "with its words");

    is(en->list(self, &list, &e), 0, "the next");
    ok(list.n == 2 && entries[0].seq == seq[3] && entries[1].seq == seq[4],
       "without what only failed");

    is(en->list(self, &list, &e), 0, "the last");
    ok(list.n == 1 && entries[0].seq == seq[5], "is short");

    is(en->list(self, &list, &e), 0, "behind the end");
    is(list.n, 0, "there is none");

    list.one_queue = 1;
    list.queue = 77;
    list.seq = 0;
    is(en->list(self, &list, &e), 0, "of another queue");
    is(list.n, 0, "there is none");
    commit();
}


int
main(void)
{
    uint64_t  seq;

    tap_begin();
    (void) snprintf(policy.store, sizeof(policy.store), "%s", tap_dir);
    (void) snprintf(policy.path, sizeof(policy.path), "/dev/shm");
    must(files_init(&policy, &e) == 0);
    must(en->open(&self, &policy, &e) == 0);

    begin();
    seq = insert(1);
    settle(seq, 1, 1, 90000, 1);
    commit();

    test_kept(seq);
    test_redrive(seq);
    test_expire(seq);
    test_purge();
    test_deleted();
    test_overdue();
    test_list();

    en->close(self);

    return tap_end();
}
