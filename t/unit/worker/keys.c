/*
 * Of all requests with one key the first makes the job.  The moments that no
 * test from outside can hold: a transaction that is given up, a record read
 * twice, a first one that is withdrawn in the batch its twin came with.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd_lmdb.h"


static struct policy          policy;
static struct engine_error    e;
static void                  *self;

static const struct engine   *en = &engine_lmdb;


struct keyed {
    struct zone_request      fixed;
    struct zone_request_key  key;
};


static void
id_of(uint8_t id[ZONE_ID_SIZE], uint32_t n)
{
    memset(id, 7, ZONE_ID_SIZE);
    memcpy(id, &n, sizeof(n));
}


/* Job n, created at 1000, with such a key and content. */

static int
insert(uint32_t n, int key, int print, struct engine_insert *in)
{
    struct keyed              request;
    struct zone_record        record;
    struct zone_request_view  view;

    memset(&request, 0, sizeof(request));
    memset(&record, 0, sizeof(record));
    memset(&view, 0, sizeof(view));
    memset(in, 0, sizeof(*in));

    request.fixed.flags = ZONE_REQUEST_KEYED;
    memset(request.key.key, key, ZONE_DIGEST_SIZE);
    memset(request.key.print, print, ZONE_DIGEST_SIZE);
    request.key.ttl_s = 1;

    id_of(record.id, n);
    record.created_ms = 1000;
    view.fixed = request.fixed;
    view.key = request.key;

    in->record = &record;
    in->view = &view;
    in->payload = &request;
    in->size = sizeof(request);

    return en->insert(self, in, &e);
}


static int
first(const struct engine_insert *in, uint32_t n)
{
    uint8_t  id[ZONE_ID_SIZE];

    id_of(id, n);

    return memcmp(in->first, id, ZONE_ID_SIZE) == 0;
}


static void
test_first(void)
{
    struct engine_insert  in;

    must(en->begin(self, &e) == 0);
    is(insert(1, 1, 1, &in), 0, "a key that is new");
    is(insert(2, 1, 1, &in), ENGINE_DUPLICATE, "the same again");
    ok(first(&in, 1), "is the first's");
    en->abort(self);

    must(en->begin(self, &e) == 0);
    is(insert(2, 1, 1, &in), 0, "given up: it is new again");
    is(insert(2, 1, 1, &in), ENGINE_KNOWN, "its own record, read twice");
    is(insert(3, 1, 1, &in), ENGINE_DUPLICATE, "a twin");
    ok(first(&in, 2), "of this one now");
    is(insert(3, 1, 2, &in), ENGINE_CONFLICT, "other content");
    is(insert(3, 2, 1, &in), 0, "another key");
    must(en->commit(self, &e) == 0);

    must(en->begin(self, &e) == 0);
    is(insert(2, 1, 1, &in), ENGINE_KNOWN, "committed: read twice");
    is(insert(4, 1, 1, &in), ENGINE_DUPLICATE, "committed: a twin");
    is(insert(4, 1, 3, &in), ENGINE_CONFLICT, "committed: other content");
    must(en->commit(self, &e) == 0);
}


static void
test_withdrawn(void)
{
    uint8_t               id[ZONE_ID_SIZE];
    struct engine_insert  in;

    id_of(id, 2);

    must(en->begin(self, &e) == 0);
    is(en->withdraw(self, id, &e), 0, "the first is withdrawn");
    is(insert(5, 1, 9, &in), 0, "its key is free, for any content");
    id_of(id, 99);
    is(en->withdraw(self, id, &e), 0, "one that is not there is withdrawn");
    is(insert(6, 1, 9, &in), ENGINE_DUPLICATE, "which frees nothing");
    must(en->commit(self, &e) == 0);
}


/* Job 5 has key 1, job 3 key 2; both were created at 1000, ttl is a second. */

static void
test_expiry(void)
{
    uint8_t               id[ZONE_ID_SIZE];
    struct engine_insert  in;
    struct engine_cancel  c;

    must(en->begin(self, &e) == 0);
    is(en->expire(self, 1000000, 0, 100, &e), 0, "long after its ttl");
    is(insert(6, 1, 9, &in), ENGINE_DUPLICATE, "a job not settled keeps it");

    memset(&c, 0, sizeof(c));
    c.id = id;
    c.now_ms = 1100;
    c.ttl_ms = 100;
    id_of(id, 5);
    is(en->cancel(self, &c, &e), 0, "canceled at 1100, for 100 ms");
    c.ttl_ms = 5000;
    id_of(id, 3);
    is(en->cancel(self, &c, &e), 0, "another one for 5 s");
    is(insert(6, 1, 9, &in), ENGINE_DUPLICATE, "canceled: it keeps its key");
    must(en->commit(self, &e) == 0);

    must(en->begin(self, &e) == 0);
    is(en->expire(self, 1999, 0, 100, &e), 1, "at 1999 the first is gone");
    is(en->first_expiry(self), 2000, "its key is next");
    is(insert(6, 1, 9, &in), ENGINE_DUPLICATE, "and outlives it");
    ok(first(&in, 5), "as what it was");
    is(en->expire(self, 2000, 0, 100, &e), 0, "at 2000");
    is(insert(6, 1, 8, &in), 0, "it is free");
    is(en->expire(self, 6099, 0, 100, &e), 0, "the other lives on");
    is(insert(7, 2, 1, &in), ENGINE_DUPLICATE, "beyond ttl, with its job");
    is(en->expire(self, 6100, 0, 100, &e), 1, "at 6100");
    is(insert(7, 2, 1, &in), 0, "it is free with it");
    must(en->commit(self, &e) == 0);
}


static void
make_item(struct drain_item *item, struct zone_record *rec, uint32_t n,
    uint32_t kind)
{
    memset(rec, 0, sizeof(*rec));
    memset(item, 0, sizeof(*item));
    id_of(rec->id, n);
    rec->type = ZONE_RECORD_JOB;
    rec->token = n;
    rec->claim = ZONE_CLAIM_TAKEN;
    memcpy(&item->record, rec, sizeof(*rec));
    item->at = rec;
    item->kind = kind;
}


/* Stored, then withdrawn before the claim; twins came in the same batch. */

static void
test_batch(void)
{
    uint64_t              seq;
    struct store         *s;
    struct offloadd      *d;
    struct drain_item     items[4];
    struct zone_record    records[4];
    struct engine_insert  in;

    d = calloc(1, sizeof(*d));
    must(d != NULL);
    s = &d->store;
    s->daemon = d;
    s->engine = en;
    s->self = self;
    s->items = items;
    s->nitems = 4;

    make_item(&items[0], &records[0], 10, DRAIN_JOB);
    make_item(&items[1], &records[1], 11, DRAIN_DUPLICATE);
    make_item(&items[2], &records[2], 12, DRAIN_JOB);
    make_item(&items[3], &records[3], 13, DRAIN_DUPLICATE);
    id_of(items[1].first, 10);
    id_of(items[3].first, 12);
    items[1].result = items[3].result = ZONE_DUPLICATE;

    must(en->begin(self, &e) == 0);
    must(insert(10, 10, 1, &in) == 0);
    must(insert(11, 10, 1, &in) == ENGINE_DUPLICATE);
    must(insert(12, 12, 1, &in) == 0);
    must(en->commit(self, &e) == 0);

    must(zone_claim_withdraw(&records[0]));
    is(claims_committed(s), 0, "a batch, and one of it was withdrawn");
    is(items[0].kind, DRAIN_WITHDRAWN, "it is out");
    is(items[1].result, ZONE_NOT_FOUND, "its twin is no duplicate of it");
    is(items[3].result, ZONE_DUPLICATE, "the others are what they were");
    is(records[2].claim, ZONE_CLAIM_COMMITTED, "and promised");

    must(en->begin(self, &e) == 0);
    is(en->knows(self, records[0].id, &seq, &e), 0, "it left the store");
    is(en->knows(self, records[2].id, &seq, &e), 1, "the other did not");
    is(insert(11, 10, 1, &in), 0, "and the key is free");
    en->abort(self);

    free(d);
}


int
main(void)
{
    tap_begin();
    (void) snprintf(policy.store, sizeof(policy.store), "%s", tap_dir);
    (void) snprintf(policy.path, sizeof(policy.path), "/dev/shm");
    must(en->open(&self, &policy, &e) == 0);

    test_first();
    test_withdrawn();
    test_expiry();
    test_batch();

    en->close(self);

    return tap_end();
}
