/*
 * Accepted = queued + running + completed + failed + canceled + expired, as
 * the engine keeps it: a long random run of everything that happens to jobs,
 * with transactions that are given up, against a plain model; then a row that
 * is taken away, and a store that has not been counted yet.
 *
 * "counters lose STORE ID" is a tool instead: it takes the row of that job
 * out of a store that nobody has open.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd_lmdb.h"


#define JOBS    2000
#define ROUNDS  1500

static struct policy          policy;
static struct engine_error    e;
static void                  *self;

static const struct engine   *en = &engine_lmdb;

struct model {
    int       state;                            /* 0: no row */
    uint32_t  attempts;
    uint64_t  seq;
};

static struct model           jobs[JOBS + 1], saved[JOBS + 1];
static struct store_counters  want, saved_want;
static uint64_t               clock_now = 1000;


static void
model_id(uint8_t id[ZONE_ID_SIZE], uint32_t n)
{
    memset(id, 7, ZONE_ID_SIZE);
    memcpy(id, &n, sizeof(n));
}


static void
model_move(struct model *j, int to)
{
    want.jobs[j->state]--;
    want.jobs[to]++;
    j->state = to;
}


static int
insert(uint32_t n, int start)
{
    int                       rc;
    uint8_t                   body[8] = "payload";
    struct zone_record        record;
    struct engine_insert      in;
    struct zone_request_view  view;

    memset(&record, 0, sizeof(record));
    memset(&view, 0, sizeof(view));
    memset(&in, 0, sizeof(in));

    model_id(record.id, n);
    in.record = &record;
    in.view = &view;
    in.payload = body;
    in.size = sizeof(body);
    in.start = start;

    rc = en->insert(self, &in, &e);

    if (rc == 0) {
        jobs[n].seq = in.seq;
        jobs[n].state = in.row.state;
        jobs[n].attempts = in.row.attempts;
        want.accepted++;
        want.jobs[jobs[n].state]++;
    }

    return rc;
}


/* One step of a random kind, with whatever job; not all are allowed. */

static int
step(uint32_t n, int kind, int end)
{
    int                   rc;
    uint8_t               id[ZONE_ID_SIZE];
    struct model         *j = &jobs[n];
    struct store_op       op;
    struct engine_cancel  c;

    memset(&op, 0, sizeof(op));
    op.seq = j->seq;
    op.row.attempts = j->attempts;

    switch (kind) {

    case 0:
        rc = insert(n, end & 1);
        break;

    case 1:
        rc = en->start(self, &op, clock_now, &e);
        if (rc == 0) {
            model_move(j, STORE_RUNNING);
            j->attempts++;
        }

        buf_free(&op.request);
        break;

    case 2:
        rc = en->requeue(self, &op, &e);
        if (rc == 0) {
            model_move(j, STORE_QUEUED);
        }
        break;

    case 3:
        op.row.state = end & 1 ? STORE_COMPLETED : STORE_FAILED;
        op.row.expires_ms = clock_now + 50;
        rc = en->settle(self, &op, &e);
        if (rc == 0) {
            model_move(j, end & 1 ? STORE_COMPLETED : STORE_FAILED);
        }
        break;

    case 4:
        model_id(id, n);
        rc = en->withdraw(self, id, &e);
        if (j->state == STORE_QUEUED || j->state == STORE_RUNNING) {
            want.accepted--;
            want.jobs[j->state]--;
            want.withdrawn++;
            memset(j, 0, sizeof(*j));
        }
        break;

    default:
        memset(&c, 0, sizeof(c));
        model_id(id, n);
        c.id = id;
        c.now_ms = clock_now;
        c.ttl_ms = 50;
        rc = en->cancel(self, &c, &e);
        if (rc == 0 && c.seq) {
            model_move(j, STORE_CANCELED);
        }
    }

    return rc == -1 ? -1 : 0;
}


/* All that is due expires; what is an EXPIRED row already goes. */

static int
expire(uint64_t tombstone)
{
    uint32_t          n, i;
    uint64_t          seq;
    struct lmdb      *m = self;
    struct store_job  row;

    for (n = 0; n < JOBS; n++) {
        seq = jobs[n].seq;

        if (seq == 0 || lmdb_get_row(m, m->txn, seq, &row, &e) != 0
            || row.expires_ms == 0 || row.expires_ms > clock_now)
        {
            continue;
        }

        i = row.state != STORE_EXPIRED;

        if (i) {
            model_move(&jobs[n], STORE_EXPIRED);
        }

        if (!i || tombstone == 0) {
            want.purged++;
            jobs[n].seq = 0;
        }
    }

    return en->expire(self, clock_now, tombstone, JOBS, &e) == -1 ? -1 : 0;
}


static int
same(const struct store_counters *a, const struct store_counters *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}


static void
test_random(void)
{
    int                    failed, undone, bad_kept, bad_rows, drifted;
    uint32_t               i, k;
    uint64_t               random;
    struct store_counters  was, now;

    random = 5;
    failed = undone = bad_kept = bad_rows = drifted = 0;

    for (i = 0; i < ROUNDS; i++) {
        must(en->begin(self, &e) == 0);

        memcpy(saved, jobs, sizeof(jobs));
        saved_want = want;

        for (k = 0; k < 8; k++) {
            failed += step((uint32_t) (tap_random(&random) % JOBS),
                           (int) (tap_random(&random) % 6),
                           (int) (tap_random(&random) % 2))
                      != 0;
        }

        clock_now += 3;
        failed += expire(i & 1 ? 100 : 0) != 0;

        if (tap_random(&random) % 4 == 0) {
            en->abort(self);
            memcpy(jobs, saved, sizeof(jobs));
            want = saved_want;
            undone++;

        } else {
            must(en->commit(self, &e) == 0);
        }

        if (i % 10 == 0 || i == ROUNDS - 1) {
            must(en->recount(self, &was, &now, &e) == 0);
            bad_kept += !same(&was, &want);
            bad_rows += !same(&now, &want);
            drifted += store_drift(&now) != 0;
        }
    }

    is(failed, 0, "a random run: no step failed");
    ok(undone > ROUNDS / 8 && want.purged > 100
       && want.jobs[STORE_EXPIRED] > want.purged
       && want.jobs[STORE_RUNNING] > 0 && want.jobs[STORE_CANCELED] > 0
       && want.withdrawn > 100,
       "and it went through everything");
    is(bad_kept, 0, "the counters were right whenever they were looked at");
    is(bad_rows, 0, "and the rows said the same");
    is(drifted, 0, "there was never a drift");
}


/* The row alone, as damage would. */

static int
lose(const uint8_t *id)
{
    int           rc;
    MDB_val       key, data;
    uint64_t      seq;
    struct lmdb  *m = self;

    must(en->begin(self, &e) == 0);

    key.mv_data = (void *) (uintptr_t) id;
    key.mv_size = ZONE_ID_SIZE;

    rc = mdb_get(m->txn, m->db[LMDB_IDS], &key, &data);

    if (rc == 0) {
        memcpy(&seq, data.mv_data, sizeof(seq));
        lmdb_seq_key(&key, &seq);
        rc = mdb_del(m->txn, m->db[LMDB_JOBS], &key, NULL);
    }

    must(en->commit(self, &e) == 0);

    return rc == 0 ? 0 : -1;
}


static void
test_lost(void)
{
    uint8_t                id[ZONE_ID_SIZE];
    struct store_counters  was, now;

    model_id(id, JOBS);

    must(en->begin(self, &e) == 0);
    must(insert(JOBS, 0) == 0);
    must(en->commit(self, &e) == 0);
    must(lose(id) == 0);

    must(en->recount(self, &was, &now, &e) == 0);
    is(store_drift(&was), 0, "a row that vanishes: nobody has noticed yet");
    is(store_drift(&now), 1, "counted anew: one is missing");
    is(now.accepted, was.accepted, "what was accepted is not talked down");

    must(en->recount(self, &was, &now, &e) == 0);
    is(store_drift(&was), 1, "that was written down");
    is(store_drift(&now), 1, "and it stays missing");
}


static void
test_older(void)
{
    int                    i;
    MDB_val                key;
    uint64_t               rows;
    struct lmdb           *m = self;
    struct store_counters  was, now;

    key.mv_data = STORE_ROW_COUNTERS;
    key.mv_size = strlen(STORE_ROW_COUNTERS);

    must(en->begin(self, &e) == 0);
    must(mdb_del(m->txn, m->db[LMDB_META], &key, NULL) == 0);
    must(en->commit(self, &e) == 0);

    must(en->recount(self, &was, &now, &e) == 0);

    for (i = STORE_QUEUED, rows = 0; i < STORE_STATES; i++) {
        rows += now.jobs[i];
    }

    ok(rows > 0, "a store that was never counted has jobs");
    is(now.accepted, rows, "they are what was accepted");
    ok(same(&was, &now), "and nothing is wrong with that");

    must(en->recount(self, &was, &now, &e) == 0);
    is(was.accepted, rows, "from then on it is written down");
}


int
main(int argc, char **argv)
{
    uint8_t  id[ZONE_ID_SIZE];

    if (argc == 4 && strcmp(argv[1], "lose") == 0) {
        (void) snprintf(policy.store, sizeof(policy.store), "%s", argv[2]);
        (void) snprintf(policy.path, sizeof(policy.path), "/dev/shm");
        must(zone_id_parse(id, argv[3], strlen(argv[3])) == 0);
        must(en->open(&self, &policy, &e) == 0);
        must(lose(id) == 0);
        en->close(self);
        return 0;
    }

    tap_begin();
    (void) snprintf(policy.store, sizeof(policy.store), "%s", tap_dir);
    (void) snprintf(policy.path, sizeof(policy.path), "/dev/shm");
    must(en->open(&self, &policy, &e) == 0);

    test_random();
    test_lost();
    test_older();

    en->close(self);

    return tap_end();
}
