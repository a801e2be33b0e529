/*
 * A limit is exact because its counts are what the rows say, after whatever
 * becomes of a transaction.  The table is held against a plain array, the
 * engine against what it was told: jobs that start, come back, are canceled,
 * withdrawn, given up half-way, met again after a kill.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd_lmdb.h"

#define QUEUES  3
#define KEYS    200
#define TURNS   300000


static struct policy          policy;
static struct engine_error    e;
static void                  *self;

static const struct engine   *en = &engine_lmdb;


static uint64_t
next(void)
{
    static uint64_t  x = 88172645463325252ull;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;

    return x;
}


/* Key 0 is a job without a key; keys that share their place are wanted. */

static uint64_t
key_of(uint32_t k)
{
    return k == 0 ? 0 : k % 2 ? (uint64_t) k << 40 : k;
}


static uint32_t
waiting(uint32_t counts[QUEUES][KEYS], uint32_t q, uint32_t k)
{
    uint32_t  i, n;

    for (i = 0, n = 0; k == 0 && i < KEYS; i++) {
        n += counts[q][i];
    }

    return k ? counts[q][k] : n;
}


static void
test_table(void)
{
    uint32_t         turn, q, k, entries, wrong;
    struct limits    l;

    static uint32_t  now[QUEUES][KEYS], before[QUEUES][KEYS];

    memset(&l, 0, sizeof(l));
    l.known = 1;
    wrong = 0;

    for (turn = 0; turn < TURNS; turn++) {
        q = next() % QUEUES;
        k = next() % (turn % 20000 < 10000 ? KEYS : 5);

        if (now[q][k] == 0 || next() % 5 < (turn % 40000 < 20000 ? 3 : 2)) {
            now[q][k]++;
            limits_add(&l, q, key_of(k), 1);

        } else {
            now[q][k]--;
            limits_add(&l, q, key_of(k), -1);
        }

        if (next() % 16 == 0) {
            if (next() % 2) {
                limits_undo(&l);
                memcpy(now, before, sizeof(now));

            } else {
                limits_commit(&l);
                memcpy(before, now, sizeof(now));
            }
        }

        q = next() % QUEUES;
        k = next() % KEYS;
        wrong += limits_get(&l, q, key_of(k)) != waiting(now, q, k);
    }

    is(wrong, 0, "%d changes, some of them taken back", TURNS);

    for (q = 0, entries = 0, wrong = 0; q < QUEUES; q++) {
        for (k = 0; k < KEYS; k++) {
            wrong += limits_get(&l, q, key_of(k)) != waiting(now, q, k);
            entries += waiting(now, q, k) != 0;
        }
    }

    is(wrong, 0, "every count");
    is(l.used, entries, "and nothing of those that are 0");
    ok(l.known, "none is doubtful");

    limits_add(&l, 99, 0, -1);
    ok(!l.known, "one less than none: it is to be counted anew");

    limits_clear(&l);
}


/* Job n of the queue "q", with that key. */

static int
insert(uint32_t n, uint64_t key, int start, struct engine_insert *in)
{
    struct zone_record        record;
    struct zone_request_view  view;

    memset(&record, 0, sizeof(record));
    memset(&view, 0, sizeof(view));
    memset(in, 0, sizeof(*in));

    memset(record.id, 7, ZONE_ID_SIZE);
    memcpy(record.id, &n, sizeof(n));
    record.token = 1;
    view.queue.data = "q";
    view.queue.len = 1;
    view.fixed.limit_queued = 3;
    view.fixed.limit_per_key = 2;
    view.fixed.limit_key = key;

    in->record = &record;
    in->view = &view;
    in->payload = &view.fixed;
    in->size = sizeof(view.fixed);
    in->start = start;

    return en->insert(self, in, &e);
}


static void
withdraw(uint32_t n)
{
    uint8_t  id[ZONE_ID_SIZE];

    memset(id, 7, ZONE_ID_SIZE);
    memcpy(id, &n, sizeof(n));
    must(en->withdraw(self, id, &e) == 0);
}


static void
cancel(uint32_t n)
{
    uint8_t               id[ZONE_ID_SIZE];
    struct engine_cancel  c;

    memset(id, 7, ZONE_ID_SIZE);
    memcpy(id, &n, sizeof(n));
    memset(&c, 0, sizeof(c));
    c.id = id;
    c.now_ms = 1000;
    c.ttl_ms = 100000;
    must(en->cancel(self, &c, &e) == 0);
}


static void
test_engine(void)
{
    struct store_op       op;
    struct engine_insert  in;

    must(en->begin(self, &e) == 0);
    is(insert(1, 5, 0, &in), 0, "one waits");
    en->abort(self);

    must(en->begin(self, &e) == 0);
    is(insert(1, 5, 0, &in), 0, "given up, and again");
    is(insert(2, 5, 0, &in), 0, "two wait");
    is(insert(3, 5, 0, &in), ENGINE_LIMITED_KEY, "no third of this key");
    is(insert(1, 5, 0, &in), ENGINE_KNOWN, "one that is met again is known");
    is(insert(3, 6, 0, &in), 0, "one of another key");
    is(insert(4, 0, 0, &in), ENGINE_LIMITED, "and the queue is full");
    must(en->commit(self, &e) == 0);

    must(en->begin(self, &e) == 0);
    withdraw(3);
    is(insert(5, 0, 0, &in), 0, "one is withdrawn: one more");
    is(insert(6, 0, 0, &in), ENGINE_LIMITED, "and not two");
    en->abort(self);

    must(en->begin(self, &e) == 0);
    is(insert(5, 0, 0, &in), ENGINE_LIMITED, "given up: it is full");
    cancel(2);
    is(insert(6, 5, 0, &in), 0, "one is canceled: one more of its key");
    must(en->commit(self, &e) == 0);

    memset(&op, 0, sizeof(op));
    op.seq = in.seq;
    must(en->begin(self, &e) == 0);
    must(en->start(self, &op, 1000, &e) == 0);
    is(insert(7, 0, 0, &in), 0, "one runs: one more");
    op.row.strikes = 1;
    must(en->requeue(self, &op, &e) == 0);
    is(insert(8, 0, 0, &in), ENGINE_LIMITED, "it waits again");
    withdraw(7);
    is(insert(8, 0, 0, &in), ENGINE_LIMITED, "above the limit is full, too");
    withdraw(3);
    is(insert(9, 0, 1, &in), 0, "one that starts at once does not wait");
    is(insert(10, 0, 0, &in), 0, "so there is a place");
    must(en->commit(self, &e) == 0);
    free(op.request.data);
}


/* A start, or a commit of which nobody knows what became of it. */

static void
test_anew(void)
{
    struct lmdb          *m;
    struct engine_insert  in;

    en->close(self);
    must(en->open(&self, &policy, &e) == 0);

    must(en->begin(self, &e) == 0);
    is(insert(11, 0, 0, &in), ENGINE_LIMITED, "after a start it is full");
    is(insert(11, 5, 0, &in), ENGINE_LIMITED, "for all");
    withdraw(10);
    is(insert(11, 5, 0, &in), ENGINE_LIMITED_KEY, "keys are known as well");
    en->abort(self);

    m = self;
    limits_add(&m->limits, zone_queue_hash("q", 1), 0, 5);
    m->limits.known = 0;

    must(en->begin(self, &e) == 0);
    withdraw(10);
    is(insert(11, 0, 0, &in), 0, "in doubt they are counted anew");
    en->abort(self);
}


int
main(void)
{
    tap_begin();
    (void) snprintf(policy.store, sizeof(policy.store), "%s", tap_dir);
    (void) snprintf(policy.path, sizeof(policy.path), "/dev/shm");

    is(zone_queue_hash("", 0), 0x811c9dc5, "FNV-1a, 32 bits: of nothing");
    is(zone_queue_hash("foobar", 6), 0xbf9cf968, "and of something");
    ok(zone_key_hash("foobar", 6) == 0x85944171f73967e8ull, "64 bits");
    is(zone_key_hash("", 0), 0, "of nothing: 0");

    test_table();

    must(en->open(&self, &policy, &e) == 0);

    test_engine();
    test_anew();

    en->close(self);

    return tap_end();
}
