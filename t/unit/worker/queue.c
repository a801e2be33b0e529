/*
 * Who is next.  A long random run of everything that can happen to jobs and
 * queues, against plain arrays that can not be wrong: whoever is named may
 * begin, is the oldest of its key, and nobody is named only if nobody may.
 * Then the promises one by one: turns between queues, between keys, that low
 * priorities are not forgotten, and what a new policy does to what waits.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


#define JOBS      20000
#define QUEUES    4
#define KEYS      5
#define PASSED    (FAIR_PASSED + FAIR_LEVELS - 2)

enum { OUT = 0, READY, WAITING, TAKEN };

static struct {
    int       place;
    uint64_t  at;
    uint32_t  queue;                            /* hash */
    uint64_t  fair;
    int       priority;
} model[JOBS + 1];

static struct queue_policy  conf[QUEUES];
static uint32_t             hashes[QUEUES + 1];
static struct job_table     t;
static struct queues        qs;
static uint64_t             last;


static void
configure(uint32_t n, uint32_t concurrency)
{
    uint32_t  i;

    for (i = 0; i < QUEUES; i++) {
        (void) snprintf(conf[i].name, sizeof(conf[i].name), "q%u", i);
        conf[i].retry.backoff_ms = 1000;
        conf[i].retry.backoff_max_ms = 30000;
        hashes[i] = zone_queue_hash(conf[i].name, strlen(conf[i].name));
    }

    hashes[QUEUES] = 4711;                      /* of no queue */

    must(queues_configure(&qs, &t, conf, n, concurrency) >= 0);
}


static void
begin(uint32_t concurrency)
{
    memset(&t, 0, sizeof(t));
    memset(&qs, 0, sizeof(qs));
    memset(conf, 0, sizeof(conf));
    memset(model, 0, sizeof(model));
    last = 0;
    configure(QUEUES, concurrency);
}


static void
end(void)
{
    queues_free(&qs);
    job_table_free(&t);
}


static uint32_t
add(uint32_t queue, uint64_t fair, int priority)
{
    uint32_t     i;
    uint8_t      id[ZONE_ID_SIZE] = { 0 };
    struct job  *job;

    i = job_add(&t, ++last, id);
    must(i != JOB_NONE);

    job = job_at(&t, i);
    job->queue = queue;
    job->fair = fair;
    job->priority = (uint8_t) priority;

    model[last].queue = queue;
    model[last].fair = fair;
    model[last].priority = priority;

    return i;
}


static void
push(uint32_t queue, uint64_t fair, int priority)
{
    must(queues_push(&qs, &t, add(queue, fair, priority)) == 0);
    model[last].place = READY;
}


/* The seq of who is next, which begins; 0: nobody may. */

static uint64_t
next(uint64_t now)
{
    uint32_t     i;
    struct job  *job;

    i = queues_next(&qs, &t, now);
    if (i == JOB_NONE) {
        return 0;
    }

    (void) queues_begin(&qs, &t, i);
    job = job_at(&t, i);
    job->place = JOB_ATTEMPT;
    model[job->seq].place = TAKEN;

    return job->seq;
}


/* Begins and ends: the job is gone. */

static uint64_t
serve(void)
{
    uint64_t  seq;

    seq = next(0);

    if (seq) {
        queues_ended(&qs, model[seq].queue);
        job_remove(&t, job_find(&t, seq));
        model[seq].place = OUT;
    }

    return seq;
}


static int
model_may(uint32_t index)
{
    uint64_t       seq;
    uint32_t       running;
    struct queue  *q = qs.queue[index];

    for (seq = 1, running = 0; seq <= last; seq++) {
        running += model[seq].place == TAKEN
                   && queues_index(&qs, model[seq].queue) == index;
    }

    return q->flags == 0
           && (q->conf.concurrency == 0 || running < q->conf.concurrency);
}


/* How wrong it is that `seq` is next. */

static int
model_wrong(uint64_t seq)
{
    int       may[QUEUES];
    uint32_t  i;
    uint64_t  n;

    for (i = 0; i < QUEUES; i++) {
        may[i] = model_may(i);
    }

    if (seq && (model[seq].place != READY
                || !may[queues_index(&qs, model[seq].queue)]))
    {
        return 1;
    }

    for (n = 1; n <= last; n++) {
        if (model[n].place != READY) {
            continue;
        }

        i = queues_index(&qs, model[n].queue);

        if (seq == 0 ? may[i] : n < seq && model[n].fair == model[seq].fair
                                && model[n].priority == model[seq].priority
                                && i == queues_index(&qs, model[seq].queue))
        {
            return 1;
        }
    }

    return 0;
}


static uint32_t
model_lost(void)
{
    uint32_t  i, ready[QUEUES] = { 0 }, delayed[QUEUES] = { 0 };
    uint32_t  lost;
    uint64_t  seq;

    for (seq = 1, lost = 0; seq <= last; seq++) {
        i = queues_index(&qs, model[seq].queue);
        ready[i] += model[seq].place == READY;
        delayed[i] += model[seq].place == WAITING;
        lost += (job_find(&t, seq) == JOB_NONE) != (model[seq].place == OUT);
    }

    for (i = 0; i < QUEUES; i++) {
        lost += qs.queue[i] && (qs.queue[i]->ready != ready[i]
                                || qs.queue[i]->delayed != delayed[i]);
    }

    return lost;
}


/* Figures of what is not so; exact: and such as could be better. */

static uint32_t  found;


static uint32_t
model_heads(int exact)
{
    int           lags;
    uint32_t      i, n, wrong;                  /* [QUEUES]: of all */
    uint64_t      seq, low[QUEUES + 1], high[QUEUES + 1], head;
    struct head  *h;

    memset(low, 0, sizeof(low));
    memset(high, 0, sizeof(high));

    for (seq = 1; seq <= last; seq++) {
        if (model[seq].place != READY) {
            continue;
        }

        i = queues_index(&qs, model[seq].queue);

        low[i] = low[i] ? low[i] : seq;
        low[QUEUES] = low[QUEUES] ? low[QUEUES] : seq;
        high[i] = high[QUEUES] = seq;
    }

    for (i = 0, wrong = 0; i <= QUEUES; i++) {
        n = 0;

        do {
            head = i < QUEUES ? queue_head(&qs, &t, (uint16_t) i, &lags)
                              : queues_head(&qs, &t, &lags);
        } while (exact && lags && ++n < JOBS);

        h = i < QUEUES ? &qs.queue[i]->head : &qs.head;
        wrong += (head == 0) != (low[i] == 0) || head > low[i]
                 || (exact && !h->back && head != low[i]);
        wrong += head && high[i] > h->last;
        found += exact && head && head == low[i];
    }

    return wrong;
}


static void
random_end(uint64_t seq, int back, uint64_t now)
{
    uint32_t  i = job_find(&t, seq);

    if (i == JOB_NONE) {
        return;
    }

    if (model[seq].place == TAKEN) {
        queues_ended(&qs, model[seq].queue);
        job_at(&t, i)->place = JOB_FREE;

    } else if (back) {
        return;
    }

    if (!back) {                                /* settled, or canceled */
        queues_take(&qs, &t, i);
        job_remove(&t, i);
        model[seq].place = OUT;

    } else if (random() % 2) {
        must(queues_push(&qs, &t, i) == 0);
        model[seq].place = READY;

    } else {
        model[seq].place = WAITING;
        model[seq].at = now + (uint64_t) random() % 500;
        must(queues_push_at(&qs, &t, i, model[seq].at) == 0);
    }
}


static uint64_t
random_pick(void)
{
    uint64_t  n, from;

    from = last > 200 ? last - 200 : 0;         /* mostly of late */
    n = random() % 4 ? from + 1 + (uint64_t) random() % 200
                     : 1 + (uint64_t) random() % JOBS;

    return n <= last ? n : last;
}


static void
test_random(void)
{
    int       i, wrong, late;
    uint32_t  n, lost, passed, heads;
    uint64_t  now, seq, pick;

    begin(1000);
    srandom(7);
    conf[1].concurrency = 3;
    conf[3].concurrency = 1;
    configure(QUEUES, 1000);

    now = 0;
    wrong = late = 0;
    lost = passed = heads = 0;

    for (n = 0; n < 60000; n++) {

        switch (random() % 8) {

        case 0:
        case 1:
            if (last < JOBS / 10 || random() % 50 == 0) {
                push(hashes[random() % (QUEUES + 1)],
                     (uint64_t) random() % KEYS, (int) (random() % 10));
            }
            break;

        case 2:
        case 3:
            pick = (uint64_t) queues_next(&qs, &t, now);
            pick = pick == JOB_NONE ? 0 : job_at(&t, (uint32_t) pick)->seq;
            wrong += n % 16 == 0 && model_wrong(pick);
            wrong += next(now) != pick;
            break;

        case 4:
            random_end(last ? random_pick() : 0, 0, now);
            break;

        case 5:
            random_end(last ? random_pick() : 0, 1, now);
            break;

        case 6:
            if (random() % 20 == 0) {
                i = (int) (random() % QUEUES);
                queues_flags(&qs, hashes[i], random() % 2);
            }
            break;

        default:
            now += (uint64_t) random() % 20;
            must(queues_due(&qs, &t, now) == 0);

            for (seq = 1; seq <= last; seq++) {
                if (model[seq].place == WAITING && model[seq].at <= now) {
                    model[seq].place = READY;
                }
            }

            late += queues_wake(&qs) <= now;
            break;
        }

        for (i = 0; i < QUEUES * FAIR_LEVELS; i++) {
            seq = qs.queue[i / FAIR_LEVELS]
                      ->fair.levels[i % FAIR_LEVELS].passed;
            passed = seq > passed ? (uint32_t) seq : passed;
        }

        lost += n % 1000 == 0 ? model_lost() : 0;
        heads += n % 64 == 0 ? model_heads(n % 256 == 0) : 0;
    }

    tap_say("%d jobs, a level passed over at most %u times", (int) last,
            passed);
    ok(last > 2000, "many jobs were in it");
    is(wrong, 0, "who is next may begin and is the oldest of its key");
    is(lost, 0, "every job is found, and counted where it waits");
    is(late, 0, "none waits longer than it has to");
    tap_say("the oldest: %u times", found);
    is(heads, 0, "none that is ready is older than is said");
    ok(found > 200, "and mostly that is so old");
    ok(passed > FAIR_PASSED / 2 && passed <= PASSED,
       "no priority is passed over more than %d times", PASSED);

    end();
}


static void
test_queues(void)
{
    int       i, bad;
    uint64_t  seq;

    begin(1000);

    for (i = 0; i < 1000; i++) {
        push(hashes[0], 0, 5);
    }

    for (i = 0; i < 10; i++) {
        push(hashes[1], 0, 5);
        push(hashes[2], 0, 0);
    }

    for (i = 0, bad = 0; i < 30; i++) {
        seq = serve();
        bad += model[seq].queue != hashes[i % 3];
    }

    is(bad, 0, "queues that have work take turns, however much they have");

    for (i = 0, bad = 0; i < 990; i++) {
        bad += serve() == 0;
    }

    is(bad + (serve() != 0), 0, "and all is served");
    end();
}


/* One key's thousands, and another's one. */

static void
test_keys(void)
{
    int       i, n, bad;
    uint64_t  seq, seen[KEYS] = { 0 };

    begin(1000);

    for (i = 0; i < 10000; i++) {
        push(hashes[0], 1, 5);
    }

    push(hashes[0], 2, 5);

    (void) serve();
    is(serve(), last, "one of another key waits for one turn, not for 10000");

    for (i = 0; i < 200; i++) {
        for (n = 2; n < KEYS; n++) {
            push(hashes[0], (uint64_t) n, 5);
        }
    }

    for (i = 0, bad = 0; i < 4 * 200; i++) {
        seq = serve();
        bad += seq <= seen[model[seq].fair];
        seen[model[seq].fair] = seq;
        bad += i % 4 == 3 && qs.flows.count != (i < 4 * 199 ? 4u : 1u);
    }

    is(bad, 0, "keys take turns, each in its order");
    is(qs.queue[0]->ready, 9999 - 200, "each had as many");
    end();
}


/* What goes behind those that wait takes turns with them, and comes behind who
 * is new. */

static void
test_behind(void)
{
    int       i, bad;
    uint32_t  job;
    uint64_t  seq;

    begin(1000);

    for (i = 0; i < 3; i++) {
        push(hashes[0], 0, 5);
    }

    for (i = 0, bad = 0; i < 9; i++) {
        seq = next(0);
        bad += seq != (uint64_t) i % 3 + 1;
        job = job_find(&t, seq);
        queues_ended(&qs, hashes[0]);
        job_at(&t, job)->behind = 1;
        must(queues_push(&qs, &t, job) == 0);
        model[seq].place = READY;
    }

    is(bad, 0, "what goes behind the others comes back after them");
    push(hashes[0], 0, 5);
    is(serve(), last, "and after one that is new");
    is(serve(), 1, "but then");
    end();
}


static void
test_priority(void)
{
    int       i, top, low;
    uint64_t  first;

    begin(1000);

    for (i = 0; i < 100; i++) {
        push(hashes[0], 0, 0);
    }

    for (i = 0; i < 10; i++) {
        push(hashes[0], 0, 9);
    }

    for (i = 0, top = 0; i < 10; i++) {
        top += model[serve()].priority == 9;
    }

    is(top, 10, "the higher priority goes first");
    is(model[serve()].priority, 0, "then the lower");

    for (i = 0; i < 1000; i++) {
        push(hashes[0], 0, 9);
    }

    for (i = 0, low = 0; i < 10 * (FAIR_PASSED + 1); i++) {
        low += model[serve()].priority == 0;
    }

    is(low, 10, "of %d turns the lower has one, always", FAIR_PASSED + 1);

    for (i = 1; i < 9; i++) {
        push(hashes[0], 0, i);
    }

    first = last;

    for (i = 0; i < PASSED + 1; i++) {
        first -= model[serve()].priority % 9 != 0;
    }

    is(first, last - 8, "all ten in use, each has had its turn after %d",
       PASSED + 1);
    end();
}


static void
test_concurrency(void)
{
    int       i, n;
    uint64_t  seq;

    begin(1000);
    conf[1].concurrency = 4;
    configure(QUEUES, 1000);

    for (i = 0; i < 10; i++) {
        push(hashes[1], 0, 5);
    }

    for (n = 0; next(0) != 0; n++) { /* void */ }
    is(n, 4, "a queue has its number running");
    is(queues_wake(&qs), UINT64_MAX, "and no time changes that");

    queues_ended(&qs, hashes[1]);
    is(next(0), 5, "an end lets the next one begin");
    is(next(0), 0, "just one");

    conf[1].concurrency = 6;
    configure(QUEUES, 1000);
    for (n = 0; (seq = next(0)) != 0; n++) { /* void */ }
    is(n, 2, "raised, it has as many more");

    conf[1].concurrency = 2;
    configure(QUEUES, 1000);

    for (i = 0; i < 4; i++) {
        queues_ended(&qs, hashes[1]);
        n += next(0) != 0;
    }

    is(n, 2, "lowered, it begins none until it is below");
    queues_ended(&qs, hashes[1]);
    ok(next(0) != 0, "and then again");

    push(hashes[2], 0, 5);
    queues_flags(&qs, hashes[2], STORE_QUEUE_PAUSED);
    is(next(0), 0, "a paused queue begins nothing");
    queues_flags(&qs, hashes[2], STORE_QUEUE_DRAINING);
    is(next(0), 0, "nor does one that drains");
    queues_flags(&qs, hashes[2], 0);
    is(next(0), last, "until it goes on");
    end();
}


static void
test_reload(void)
{
    int       i, n;
    uint32_t  at;

    begin(1000);
    conf[3].rate_count = 1;
    conf[3].rate_period_ms = 1000;
    configure(QUEUES, 1000);

    for (i = 0; i < 4; i++) {
        push(hashes[3], (uint64_t) i % 2, 5);
    }

    at = add(hashes[3], 0, 5);
    must(queues_push_at(&qs, &t, at, 100) == 0);

    is(next(0), 1, "the first of a queue with a rate");
    rate_sent(&queues_find(&qs, hashes[3])->rate, 0);
    queues_touch(&qs, queues_index(&qs, hashes[3]));
    is(next(0), 0, "the second not yet");
    is(queues_wake(&qs), 100, "what is to happen next is a job's time");
    queues_flags(&qs, hashes[3], STORE_QUEUE_PAUSED);

    is(queues_configure(&qs, &t, conf, 3, 1000), 1, "a queue is gone");
    is(qs.queue[0]->ready, 3, "its jobs wait in the default queue");
    is(qs.queue[0]->delayed, 1, "that with a time as well");
    is(next(0), 2, "which lets them begin");

    is(queues_configure(&qs, &t, conf, 4, 1000), 1, "it comes again");
    is(queues_find(&qs, hashes[3])->ready, 2, "its jobs go back");
    is(queues_find(&qs, hashes[3])->delayed, 1, "all of them");
    is(next(0), 0, "it is paused as it was");
    queues_flags(&qs, hashes[3], 0);
    is(next(0), 0, "and its rate is what it was");
    must(queues_due(&qs, &t, 999999) == 0);
    is(queues_next(&qs, &t, 999999), JOB_NONE, "not a microsecond early");
    is(queues_wake(&qs), 1000000, "which is known");
    is(next(1000000), 3, "nor late");

    for (i = 0, n = 0; i < 1000; i++) {
        n += queues_configure(&qs, &t, conf, (uint32_t) (1 + i % 4), 1000);
    }

    is(qs.queue[0]->ready + queues_find(&qs, hashes[3])->ready,
       2, "after a thousand policies they are still there");
    ok(n > 900 && qs.n <= 2 * QUEUES, "in no more room");
    is(queues_configure(&qs, &t, conf, 4, 1000), 0, "the same one again");
    end();
}


/* What the store has of queues at a start, and what ran when it was written. */

static void
test_restore(void)
{
    begin(1000);
    conf[1].rate_count = 1;
    conf[1].rate_period_ms = 1000;
    conf[3].rate_count = 1;
    conf[3].rate_period_ms = 1000;
    configure(3, 1000);

    must(queues_restore(&qs, hashes[1], 0, 500, 100) == 0);
    must(queues_restore(&qs, hashes[2], STORE_QUEUE_PAUSED|0x80, 0, 100) == 0);
    must(queues_restore(&qs, hashes[3], STORE_QUEUE_PAUSED, 700, 100) == 0);

    push(hashes[1], 0, 5);
    push(hashes[1], 0, 5);
    push(hashes[2], 0, 5);
    is(next(499), 0, "before its time nothing begins, nor in a paused queue");
    is(queues_wake(&qs), 500, "the time is known");
    is(next(500), 1, "then it does");
    is(queues_find(&qs, hashes[2])->flags, STORE_QUEUE_PAUSED,
       "of the flags only those that exist");

    queues_find(&qs, hashes[1])->restarted = 1;
    rate_undo(&queues_find(&qs, hashes[1])->rate);
    queues_restarted(&qs, 2000);
    is(next(999999), 0, "one that was running counts at the restart");

    configure(4, 1000);
    push(hashes[3], 0, 5);
    is(queues_find(&qs, hashes[3])->flags, STORE_QUEUE_PAUSED,
       "a queue that comes later is as it was stored");
    queues_flags(&qs, hashes[3], 0);
    is(next(1000), 4, "its rate as well");
    end();
}


/*
 * Where an attempt takes several jobs a key waits until it has as many, or for
 * so long, and no other key's jobs go with it.
 */

static uint32_t
batch(uint64_t now, uint32_t size, uint64_t room)
{
    uint32_t  first, i, n;

    first = queues_next(&qs, &t, now);
    if (first == JOB_NONE) {
        return 0;
    }

    (void) queues_begin(&qs, &t, first);
    job_at(&t, first)->place = JOB_ATTEMPT;

    for (n = 1, i = first; n < size; n++) {
        room -= 1ull << job_at(&t, i)->size;
        i = queues_more(&qs, &t, first, room);
        if (i == JOB_NONE) {
            break;
        }

        must(job_at(&t, i)->fair == job_at(&t, first)->fair
             && job_at(&t, i)->priority == job_at(&t, first)->priority);
        job_at(&t, i)->place = JOB_ATTEMPT;
    }

    return n;
}


static void
test_linger(void)
{
    int       i;
    uint32_t  at;

    begin(1000);
    conf[1].batch.size = 4;
    conf[1].batch.linger_ms = 1;
    conf[1].batch.max = 1000;
    configure(QUEUES, 1000);

    ok(!queue_plain(&qs, qs.queue[1]), "a queue with batches is not plain");

    for (i = 0; i < 3; i++) {
        push(hashes[1], 7, 5);
    }

    is(batch(100, 4, 1000), 0, "three of four wait for another");
    is(queues_wake(&qs), 1100, "for so long");
    is(batch(1099, 4, 1000), 0, "not a microsecond less");
    push(hashes[1], 8, 5);
    is(batch(1099, 4, 1000), 0, "what is another key's does not count");
    is(batch(1100, 4, 1000), 3, "nor more: three go");
    is(batch(1100, 4, 1000), 0, "the other key's has its own time");
    is(queues_wake(&qs), 2099, "which is known");
    push(hashes[1], 8, 9);
    push(hashes[1], 8, 5);
    is(batch(2000, 4, 1000), 0, "another priority is another batch");

    for (i = 0; i < 5; i++) {
        push(hashes[1], 8, 5);
    }

    is(batch(2000, 4, 1000), 4, "as many as it takes go at once");
    is(batch(2000, 4, 1000), 0, "what is left lingers");
    is(batch(2999, 4, 1000), 0, "from then on");
    is(batch(3000, 4, 1000), 1, "each of two priorities");
    is(batch(3000, 4, 1000), 3, "when its time has come");
    is(batch(9000, 4, 1000), 0, "no one is left");
    is(queues_wake(&qs), UINT64_MAX, "and nothing to wait for");

    for (i = 0; i < 4; i++) {
        at = add(hashes[1], 7, 5);
        job_at(&t, at)->size = job_size(400);   /* counts as 512 */
        must(queues_push(&qs, &t, at) == 0);
    }

    is(batch(9000, 4, 1100), 2, "no more than there is room for");
    is(batch(9000, 4, 1100), 0, "the rest is less than a batch: it lingers");
    is(batch(10000, 4, 1100), 2, "and goes");

    push(hashes[1], 7, 5);
    push(hashes[1], 7, 5);
    is(batch(11000, 4, 1000), 0, "two wait");
    conf[1].batch.size = 2;
    configure(QUEUES, 1000);
    is(batch(11000, 2, 1000), 2, "a smaller size lets them go");

    push(hashes[1], 7, 5);
    is(batch(12000, 2, 1000), 0, "one waits");
    conf[1].batch.size = 0;
    configure(QUEUES, 1000);
    ok(next(12000) != 0, "without batches it goes");

    is(job_size(0), 0, "sizes in a byte: nothing");
    is(job_size(512), 9, "a power of two is itself");
    is(job_size(513), 10, "more is the next");
    end();
}


static void
test_plain(void)
{
    begin(10);
    ok(queue_plain(&qs, qs.queue[1]), "a queue without limits is plain");

    conf[1].concurrency = 9;
    conf[2].adaptive = 1;
    conf[3].rate_count = 1;
    conf[3].rate_period_ms = 1;
    configure(QUEUES, 10);

    ok(!queue_plain(&qs, qs.queue[1]), "with a number of its own it is not");
    ok(!queue_plain(&qs, qs.queue[2]), "nor an adaptive one");
    ok(!queue_plain(&qs, qs.queue[3]), "nor one with a rate");
    queues_flags(&qs, hashes[0], STORE_QUEUE_PAUSED);
    ok(!queue_plain(&qs, qs.queue[0]), "nor a paused one");

    configure(QUEUES, 9);
    ok(queue_plain(&qs, qs.queue[1]), "a number the zone can't exceed is none");
    is(queues_index(&qs, hashes[QUEUES]), QUEUE_DEFAULT,
       "a name of no queue is the default queue's");
    end();
}


int
main(void)
{
    tap_begin();

    test_random();
    test_queues();
    test_keys();
    test_behind();
    test_priority();
    test_concurrency();
    test_reload();
    test_restore();
    test_linger();
    test_plain();

    return tap_end();
}
