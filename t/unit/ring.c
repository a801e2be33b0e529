/*
 * The submission ring between two processes, and between two threads (which
 * is what ThreadSanitizer can see): a hundred thousand records of all sizes
 * arrive whole, once and in order, on one lane and on two.
 */

#include <pthread.h>
#include <sched.h>

#include "unit.h"


#define RECORDS  120000


static struct zone        z;
static struct zone_error  e;

struct side {
    uint32_t  lane;
    uint64_t  records;
    uint64_t  bad;                              /* the consumer's verdict */
    uint64_t  pads;
    int       corrupt;
};


/* Mostly small ones, some of all sizes up to a quarter of the ring. */

static size_t
payload_size(uint64_t *random)
{
    uint64_t  x;

    x = tap_random(random);

    return x % 64 == 0 ? (x >> 8) % 65000
         : x % 8 == 0 ? (x >> 8) % 4096 : (x >> 8) % 300;
}


/* FNV-1a, eight bytes at a time where there are eight */

static uint64_t
checksum(const uint8_t *p, size_t n, uint64_t seed)
{
    size_t    i;
    uint64_t  sum, word;

    sum = 0xcbf29ce484222325ull ^ seed;

    for (i = 0; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        sum = (sum ^ word) * 0x100000001b3ull;
    }

    for ( /* void */ ; i < n; i++) {
        sum = (sum ^ p[i]) * 0x100000001b3ull;
    }

    return sum;
}


static void *
produce(void *arg)
{
    size_t                i, len;
    uint64_t              n, random, word;
    uint8_t              *to;
    struct side          *s;
    struct zone_record   *rec;
    struct zone_producer  p;

    s = arg;
    random = s->lane + 1;
    must(zone_producer_init(&p, &z, s->lane, &e) == 0);

    for (n = 0; n < s->records; n++) {
        len = payload_size(&random);

        while ((rec = zone_sq_reserve(&p, ZONE_RECORD_JOB, len)) == NULL) {
            sched_yield();
        }

        to = zone_record_payload(rec);
        word = n * 0x9e3779b97f4a7c15ull + s->lane;

        for (i = 0; i + 8 <= len; i += 8) {
            memcpy(to + i, &word, 8);
            word += len;
        }

        memset(to + i, (int) n, len - i);

        rec->slot = (uint32_t) (n % UNIT_SLOTS);
        rec->token = n;
        rec->created_ms = checksum(to, len, n);
        zone_sq_publish(&p);
    }

    return NULL;
}


/* Takes them in batches, as offloadd does: peek some, then release. */

static int
consume(struct side *s, struct zone_consumer *c, uint64_t *n,
    uint64_t *random)
{
    int                  rc, got;
    struct zone_record  *rec;

    for (got = 0; got < 20; got++) {
        rc = zone_sq_peek(c, &rec, &e);

        if (rc != 1) {
            s->corrupt |= rc == -1;
            break;
        }

        s->bad += rec->token != *n
                  || rec->payload != payload_size(random)
                  || rec->created_ms
                     != checksum(zone_record_payload(rec), rec->payload, *n);
        (*n)++;
    }

    if (got) {
        zone_sq_release(c);
    }

    return got;
}


static void
consume_all(struct side *s)
{
    uint64_t              n, random;
    struct zone_consumer  c;

    n = 0;
    random = s->lane + 1;
    must(zone_consumer_init(&c, &z, s->lane, &e) == 0);

    while (n < s->records && !s->corrupt) {
        if (consume(s, &c, &n, &random) == 0) {
            sched_yield();
        }
    }
}


static void
verdict(const struct side *s, const char *who)
{
    ok(!s->corrupt, "%s: no corruption seen", who);

    if (s->corrupt) {
        tap_say("%s", e.text);
    }

    is(s->bad, 0, "%s: %ju records, whole and in order", who,
       (uintmax_t) s->records);
    is(zone_lane(&z, s->lane)->sq_head,
       (intmax_t) zone_lane(&z, s->lane)->sq_tail, "%s: nothing is left", who);
}


static void
test_processes(void)
{
    pid_t        pid;
    struct side  s;

    memset(&s, 0, sizeof(s));
    s.records = RECORDS;

    pid = tap_fork();

    if (pid == 0) {
        (void) produce(&s);
        _exit(0);
    }

    consume_all(&s);
    is(tap_wait(pid), 0, "the producing process ends");
    verdict(&s, "two processes");
    is(zone_lane(&z, 0)->accepted, RECORDS, "all were counted");
}


static void
test_threads(void)
{
    pthread_t    thread;
    struct side  s;

    memset(&s, 0, sizeof(s));
    s.records = RECORDS / 4;

    must(pthread_create(&thread, NULL, produce, &s) == 0);
    consume_all(&s);
    must(pthread_join(thread, NULL) == 0);
    verdict(&s, "two threads");
}


static void
test_lanes(void)
{
    int                   i, got;
    pid_t                 pid[2];
    uint64_t              n[2], random[2];
    struct side           s[2];
    struct zone_consumer  c[2];

    memset(s, 0, sizeof(s));

    for (i = 0; i < 2; i++) {
        s[i].lane = (uint32_t) i;
        s[i].records = RECORDS / 4;
        n[i] = 0;
        random[i] = (uint64_t) i + 1;
        must(zone_consumer_init(&c[i], &z, (uint32_t) i, &e) == 0);

        pid[i] = tap_fork();

        if (pid[i] == 0) {
            (void) produce(&s[i]);
            _exit(0);
        }
    }

    while ((n[0] < s[0].records || n[1] < s[1].records)
           && !s[0].corrupt && !s[1].corrupt)
    {
        got = consume(&s[0], &c[0], &n[0], &random[0]);
        got += consume(&s[1], &c[1], &n[1], &random[1]);

        if (got == 0) {
            sched_yield();
        }
    }

    is(tap_wait(pid[0]) | tap_wait(pid[1]), 0, "both processes end");
    verdict(&s[0], "lane 0 of two");
    verdict(&s[1], "lane 1 of two");
}


int
main(void)
{
    tap_begin();
    unit_zone(&z, "zone", 2);

    test_processes();
    test_threads();
    test_lanes();

    return tap_end();
}
