/*
 * The submission ring by itself, one process playing both sides: records come
 * out as they went in wherever the ring's end falls, a full ring refuses and
 * harms nothing, and neither side follows a counter or a record that cannot
 * be.
 */

#include "unit.h"


static struct zone           z;
static struct zone_lane     *lane;
static struct zone_error     e;
static struct zone_producer  p;
static struct zone_consumer  c;


/* An empty ring whose positions are at `pos`. */

static void
start_at(uint64_t pos)
{
    zone_lane(&z, 0)->sq_head = pos;
    zone_lane(&z, 0)->sq_tail = pos;

    must(zone_producer_init(&p, &z, 0, &e) == 0);
    must(zone_consumer_init(&c, &z, 0, &e) == 0);
}


static struct zone_record *
put(uint64_t n, size_t payload)
{
    struct zone_record  *rec;

    rec = zone_sq_reserve(&p, ZONE_RECORD_JOB, payload);

    if (rec != NULL) {
        rec->token = n;
        unit_pattern(zone_record_payload(rec), payload, n);
        zone_sq_publish(&p);
    }

    return rec;
}


/* 1 if the next record is the nth with that payload */

static int
take(uint64_t n, size_t payload)
{
    struct zone_record  *rec;

    return zone_sq_peek(&c, &rec, &e) == 1
           && rec->token == n
           && rec->payload == payload
           && rec->type == ZONE_RECORD_JOB
           && ((uintptr_t) rec & 63) == 0
           && unit_pattern_ok(zone_record_payload(rec), payload, n);
}


static void
test_wrap(void)
{
    int                  bad, count, fits;
    size_t               len;
    uint64_t             pos, n;
    struct zone_record  *rec;

    bad = 0;
    count = 0;
    n = 1;

    for (pos = 0; pos < z.geo.sq_size; pos += 64) {
        start_at(pos);

        for (len = 0; len < 200; len += 24) {
            bad += put(++n, len) == NULL;
            bad += !take(n, len);
            zone_sq_release(&c);
            count++;
        }
    }

    is(bad, 0, "%d short records, begun at each place of the ring", count);

    bad = 0;
    count = 0;

    for (pos = z.geo.sq_size - 2048; pos <= z.geo.sq_size; pos += 64) {
        for (len = 0; len < 2200; len += 7) {
            start_at(pos);
            bad += put(++n, len) == NULL || put(++n, 10) == NULL;
            bad += !take(n - 1, len) || !take(n, 10);
            bad += zone_sq_peek(&c, &rec, &e) != 0;
            zone_sq_release(&c);
            bad += zone_lane(&z, 0)->sq_head != zone_lane(&z, 0)->sq_tail;
            count++;
        }
    }

    is(bad, 0, "%d records around the ring's end", count);

    bad = 0;
    fits = ZONE_RECORD_MAX(z.geo.sq_size) - sizeof(struct zone_record);

    for (pos = 0; pos < z.geo.sq_size; pos += 4160) {
        start_at(pos);
        bad += put(++n, (size_t) fits) == NULL || !take(n, (size_t) fits);
    }

    is(bad, 0, "the largest record fits an empty ring wherever it stands");

    start_at(0 - (uint64_t) 4096);
    bad = 0;

    for (len = 0; len < 2000; len += 100) {
        bad += put(++n, len) == NULL || !take(n, len);
        zone_sq_release(&c);
    }

    is(bad, 0, "counters may pass 2^64");
}


static void
test_size(void)
{
    uint64_t  big;

    big = 1ull << 40;

    is(zone_record_size(1 << 18, 0), 64, "an empty record takes 64 bytes");
    is(zone_record_size(1 << 18, 8), 64, "so does one with 8 bytes");
    is(zone_record_size(1 << 18, 9), 128, "one with 9 takes 128");
    is(zone_record_size(1 << 18, 65536 - 56), 65536, "a quarter is possible");
    is(zone_record_size(1 << 18, 65536 - 55), 0, "a byte more is not");
    is(zone_record_size(big, UINT32_MAX), 0, "nor what 32 bits cannot say");
    is(zone_record_size(big, UINT64_MAX), 0, "nor what overflows");

    start_at(0);
    ok(zone_sq_reserve(&p, ZONE_RECORD_JOB, 65536) == NULL,
       "too large a record is not reserved");
    ok(!zone_sq_room(&p, 65536), "and there never is room for it");
}


static void
test_full(void)
{
    int       n, i, bad;
    size_t    len;
    uint64_t  tail;

    len = 1000;                                 /* 1088 with header */
    start_at(64);

    for (n = 0; zone_sq_room(&p, len); n++) {
        must(put((uint64_t) n, len) != NULL);
    }

    is(n, (int) (z.geo.sq_size - 64) / 1088, "records until it is full");
    tail = lane->sq_tail;
    ok(put(99, len) == NULL, "one more is refused");
    is(lane->sq_tail, tail, "and changes nothing");

    ok(take(0, len), "the first is still what it was");
    ok(!zone_sq_room(&p, len), "having looked at it makes no room");
    zone_sq_release(&c);
    ok(zone_sq_room(&p, len), "giving it back does");
    ok(put((uint64_t) n, len) != NULL, "and then one goes in");

    bad = 0;

    for (i = 1; i <= n; i++) {
        bad += !take((uint64_t) i, len);
    }

    is(bad, 0, "all others come out in order");

    /* to the last byte */

    start_at(0);

    for (n = 0; put((uint64_t) n, 8) != NULL; n++) { /* void */ }

    is(n, (int) z.geo.sq_size / 64, "64 byte records fill it entirely");
    is(lane->sq_tail - lane->sq_head, (int64_t) z.geo.sq_size, "to the brim");

    bad = 0;

    for (i = 0; i < n; i++) {
        bad += !take((uint64_t) i, 8);
    }

    is(bad, 0, "and come out");
}


static void
test_pad(void)
{
    struct zone_record  *rec, *pad;

    start_at(z.geo.sq_size - 128);

    rec = put(1, 100);                          /* 192 > 128 */
    ok((uint8_t *) rec == p.sq, "more than what is left starts at 0");
    pad = (struct zone_record *) (p.sq + z.geo.sq_size - 128);
    is(pad->type, ZONE_RECORD_PAD, "behind a pad");
    is(pad->size, 128, "that fills what was left");
    is(lane->sq_tail, (int64_t) z.geo.sq_size + 192, "published as one");
    ok(take(1, 100), "the reader does not see the pad");

    start_at(z.geo.sq_size - 128);
    rec = put(2, 72);                           /* 128 */
    ok((uint8_t *) rec == p.sq + z.geo.sq_size - 128, "what fits is not moved");
    ok(take(2, 72), "and read");

    /* fits the free bytes, but not in one piece */

    start_at(z.geo.sq_size - 1024);
    must(put(1, 60000) != NULL && put(2, 60000) != NULL
         && put(3, 60000) != NULL && put(4, 60000) != NULL);
    ok(take(1, 60000), "a long record");
    zone_sq_release(&c);
    is((int64_t) (z.geo.sq_size - (lane->sq_tail - lane->sq_head)), 81856,
       "81856 bytes are free");
    ok(put(5, 65000) == NULL, "65000 of them are not in one piece");
    ok(put(5, 65000) == NULL, "also when the head is known");
    ok(put(5, 60000) != NULL, "60000 are, to the last byte");
    is(lane->sq_tail - lane->sq_head, (int64_t) z.geo.sq_size, "of the ring");
    ok(take(2, 60000) && take(3, 60000) && take(4, 60000) && take(5, 60000),
       "and all are read");
}


static void
test_reserve(void)
{
    uint64_t             accepted;
    struct zone_record  *rec, *again;

    start_at(0);
    accepted = lane->accepted;

    rec = zone_sq_reserve(&p, ZONE_RECORD_JOB, 500);
    memset(rec, 0xff, 500);
    ok(zone_sq_peek(&c, &again, &e) == 0, "what is reserved is not visible");
    is(zone_sq_reserve(&p, ZONE_RECORD_CANCEL, 0) == rec, 1,
       "to reserve again is to forget");
    ok(rec->size == 64 && rec->type == ZONE_RECORD_CANCEL && rec->claim == 0
       && rec->flags == 0 && rec->slot == 0 && rec->token == 0
       && rec->payload == 0 && rec->id[0] == 0, "its header is zeroed");
    zone_sq_publish(&p);
    is(lane->accepted, (intmax_t) accepted, "a cancellation is no job");
    zone_sq_publish(&p);
    is(lane->sq_tail, 64, "publishing twice is publishing once");

    must(put(1, 0) && put(2, 3000));
    is(lane->accepted, (intmax_t) accepted + 2, "two jobs are");

    ok(zone_sq_peek(&c, &again, &e) == 1 && again == rec, "the cancellation");
    ok(take(1, 0) && take(2, 3000), "and both jobs");
    is(zone_sq_peek(&c, &again, &e), 0, "nothing more");
    zone_sq_rewind(&c);
    ok(zone_sq_peek(&c, &again, &e) == 1 && again == rec,
       "after a rewind all once more");
    zone_sq_release(&c);
    ok(take(1, 0), "the next");
    zone_sq_rewind(&c);
    ok(take(1, 0) && take(2, 3000), "a rewind goes back to the release");

    is(zone_producer_init(&p, &z, 1, &e), -1, "no lane 1 for a producer");
    is(zone_consumer_init(&c, &z, 1, &e), -1, "nor for a consumer");
    like(e.text, "no lane 1", "which is said");
}


/* What a consumer says of a record that somebody has written over. */

static void
test_scribbled(void)
{
    size_t               i;
    struct zone_record  *rec, *got;

    static const struct {
        const char  *text;
        int          type;                      /* -1: as it is */
        int64_t      size, payload, slot, flags;
    } bad[] = {
        { "type is 0",            0,   -1,  -1,   -1, -1 },
        { "type is 7",            7,   -1,  -1,   -1, -1 },
        { "payload is 50",        4,   -1,  -1,   -1, -1 },
        { "size is 0",           -1,    0,  -1,   -1, -1 },
        { "size is 64",          -1,   64,  -1,   -1, -1 },
        { "size is 130",         -1,  130,  -1,   -1, -1 },
        { "size is 192",         -1,  192,  -1,   -1, -1 },
        { "size is 4294967295",  -1, 0xffffffff, -1, -1, -1 },
        { "size is 128",         -1,   -1,   0,   -1, -1 },
        { "size is 128",         -1,   -1, 200,   -1, -1 },
        { "payload is 4294967295", -1, -1, 0xffffffff, -1, -1 },
        { "payload is 65481",    -1,   -1, 65481, -1, -1 },
        { "slot is 64",          -1,   -1,  -1,   64, -1 },
        { "slot is 4294967295",  -1,   -1,  -1, 0xffffffff, -1 },
        { "flags is 1",          -1,   -1,  -1,   -1,  1 },
        { "payload is 50",        3,   -1,  -1,   -1, -1 },
        { "size is 128",          1,   -1,  -1,   -1, -1 },
    };

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        start_at(4096);
        rec = put(1, 50);                       /* 128 bytes */

        if (bad[i].type != -1) {
            rec->type = (uint16_t) bad[i].type;
        }

        if (bad[i].size != -1) {
            rec->size = (uint32_t) bad[i].size;
        }

        if (bad[i].payload != -1) {
            rec->payload = (uint32_t) bad[i].payload;
        }

        if (bad[i].slot != -1) {
            rec->slot = (uint32_t) bad[i].slot;
        }

        if (bad[i].flags != -1) {
            rec->flags = (uint16_t) bad[i].flags;
        }

        is(zone_sq_peek(&c, &got, &e), -1, "refused: %s", bad[i].text);
        like(e.text, bad[i].text, "for that reason");
        like(e.text, "lane 0: record at 4096", "and where");
        is(c.pos, 4096, "and not passed over");
    }

    /* reaches over the ring's end */

    start_at(z.geo.sq_size - 64);
    must(put(1, 8) && put(2, 8));
    rec = (struct zone_record *) (c.sq + z.geo.sq_size - 64);
    rec->size = 128;
    rec->payload = 50;
    is(zone_sq_peek(&c, &got, &e), -1, "a record across the ring's end");
    like(e.text, "size is 128, at most 64", "is refused");
}


static void
test_counters(void)
{
    size_t               i;
    struct zone_record  *got;

    static const int64_t  tails[] = { -64, 1, 63, 262144 + 64, INT64_MIN };
    static const int64_t  heads[] = { 64, -1, 1, -262144 - 64, INT64_MIN };

    for (i = 0; i < 5; i++) {
        start_at(1 << 20);
        lane->sq_tail += (uint64_t) tails[i];
        is(zone_sq_peek(&c, &got, &e), -1, "sq_tail %+jd is refused",
           (intmax_t) tails[i]);
        like(e.text, "are not the positions of a ring", "with a text");
        is(zone_consumer_init(&c, &z, 0, &e), -1, "by the next one as well");
    }

    for (i = 0; i < 5; i++) {
        start_at(1 << 20);

        while (put(1, 60000) != NULL) { /* fill it, so that it must look */ }

        lane->sq_head = (1 << 20) + (uint64_t) heads[i];

        if (i == 0) {
            lane->sq_head = lane->sq_tail + 64;
        }

        ok(!zone_sq_room(&p, 60000) && put(2, 60000) == NULL,
           "sq_head %+jd makes no room", (intmax_t) heads[i]);
        is(zone_producer_init(&p, &z, 0, &e), -1, "and no new producer");
        like(e.text, "are not the positions of a ring", "with a text");
    }
}


int
main(void)
{
    tap_begin();
    unit_zone(&z, "zone", 1);
    lane = zone_lane(&z, 0);

    test_wrap();
    test_size();
    test_full();
    test_pad();
    test_reserve();
    test_scribbled();
    test_counters();

    return tap_end();
}
