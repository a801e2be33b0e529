/*
 * Whose turn comes when, by the figures of several queues.  A job that is told
 * the other queues' order, or promised their places, is told wrong.  So each
 * figure is set by hand, good ones and such as nobody would write, and what
 * is made of them is looked at.
 */

#include "unit.h"
#include "zone_queue.h"


static struct zone         z;
static struct zone_queues  *qs;


static void
fresh(uint32_t n)
{
    uint32_t  i;

    memset(qs, 0, sizeof(*qs));
    memset(z.worker, 0, sizeof(*z.worker));

    qs->n = n;
    z.worker->concurrency = 12;

    for (i = 0; i < n && i < ZONE_QUEUES; i++) {
        qs->hash[i] = 100 + i;
        qs->queue[i].flags = ZONE_QUEUE_USED;
        qs->queue[i].concurrency = 12;
    }
}


static struct zone_turns
turns(uint32_t queue)
{
    struct zone_turns  t;

    zone_turns_read(&t, &z, queue);

    return t;
}


static void
waits(uint32_t i, uint64_t waiting, uint64_t head, uint64_t last)
{
    qs->queue[i].waiting = waiting;
    qs->queue[i].head_seq = head;
    qs->queue[i].last_seq = last;
    qs->busy += waiting != 0;
}


static void
test_which(void)
{
    fresh(0);
    z.worker->waiting = 7;
    z.worker->running = 3;
    is(turns(100).waiting, 7, "nothing published: the zone's");
    is(turns(100).busy, 3, "and its places,");
    is(turns(100).concurrency, 12, "all of them");

    fresh(3);
    z.worker->waiting = 7;
    qs->queue[0].waiting = 1;
    qs->queue[2].waiting = 5;
    is(turns(102).waiting, 5, "a queue's own");
    is(turns(102).queue, 102, "by its own times");
    is(turns(9999).waiting, 1, "one that is not there: the default queue's");
    is(turns(9999).queue, 100, "and its times");
    qs->queue[2].flags = 0;
    is(turns(102).waiting, 1, "nor is one that has gone");
    is(turns(0).waiting, 1, "an entry that is nobody's is no queue's");

    fresh(ZONE_QUEUES + 1);
    z.worker->waiting = 7;
    qs->queue[ZONE_QUEUES - 1].waiting = 6;
    is(turns(100 + ZONE_QUEUES - 1).waiting, 6, "the last that has an entry");
    is(turns(100 + ZONE_QUEUES).waiting, 7, "one that has none: the zone's");

    fresh(2);
    qs->queue[1].flags |= ZONE_QUEUE_HELD;
    is(turns(101).flags & ZONE_QUEUE_HELD, ZONE_QUEUE_HELD, "it is held");
    is(turns(100).flags & ZONE_QUEUE_HELD, 0, "the other is not");
    qs->flags = ZONE_QUEUE_HELD;
    is(turns(100).flags & ZONE_QUEUE_HELD, ZONE_QUEUE_HELD, "all are");
}


static void
test_places(void)
{
    fresh(2);
    qs->queue[1].concurrency = 2;
    is(turns(101).concurrency, 2, "no more than the queue's own,");
    z.worker->concurrency = 1;
    is(turns(101).concurrency, 1, "nor than the zone's");

    fresh(2);
    qs->queue[1].concurrency = 2;
    qs->queue[1].running = 2;
    z.worker->running = 2;
    waits(1, 50, 1, 50);
    is(turns(100).concurrency, 10, "what another has is not to be had,");
    is(turns(100).busy, 0, "and the rest is free");
    is(turns(101).busy, 2, "the other has all of its own");

    fresh(3);
    qs->queue[1].running = 12;
    z.worker->running = 12;
    waits(1, 50, 1, 50);
    is(turns(100).concurrency, 6, "two take turns");
    is(turns(100).busy, 6, "and no place is free");
    waits(2, 50, 51, 100);
    is(turns(100).concurrency, 4, "three do");
    is(turns(101).concurrency, 12, "who has them keeps them for a while");

    qs->busy = 400;
    is(turns(100).concurrency, 1, "there is a turn for everyone");
    z.worker->concurrency = 0;
    is(turns(100).concurrency, 0, "unless nothing is known");
}


static void
test_position(void)
{
    struct zone_turns  t;

    fresh(2);
    waits(1, 10, 100, 109);
    t = turns(101);
    is(zone_turns_position(&t, 100), 1, "the first,");
    is(zone_turns_position(&t, 99), 1, "one that came back before it,");
    is(zone_turns_position(&t, 105), 6, "the sixth,");
    is(zone_turns_ahead(&t, 105), 5, "five are ahead of it,");
    is(zone_turns_position(&t, 109), 10, "the last");
    is(zone_turns_position(&t, 500), 10, "and one that is not yet counted");

    waits(1, 10, 100, 190);
    t = turns(101);
    is(zone_turns_position(&t, 103), 4, "numbers of others count at first,");
    is(zone_turns_position(&t, 150), 10, "but not beyond those that wait");
    is(zone_turns_ahead(&t, 150), 5, "half-way, half of them are ahead");
    is(zone_turns_ahead(&t, 190), 9, "the last has all others ahead");
    is(zone_turns_ahead(&t, 9999), 9, "and so has one after it");
    is(zone_turns_ahead(&t, 100), 0, "the first has none");

    waits(1, 10, 0, 0);
    t = turns(101);
    is(zone_turns_position(&t, 100), 1, "none is ready");
    waits(1, 0, 100, 200);
    t = turns(101);
    is(zone_turns_position(&t, 150), 1, "none waits, as it seems");
    is(zone_turns_ahead(&t, 150), 0, "and none is ahead");
    waits(1, UINT64_MAX, 1, UINT64_MAX);
    t = turns(101);
    is(zone_turns_position(&t, UINT64_MAX), UINT64_MAX - 1 + 1,
       "whatever the figures say");
    ok(zone_turns_ahead(&t, UINT64_MAX) <= UINT64_MAX - 1, "it ends there");
    waits(1, 5, 200, 100);
    t = turns(101);
    is(zone_turns_position(&t, 300), 5, "in whatever order");
    is(zone_turns_ahead(&t, 300), 4, "they are");
}


static void
test_rate(void)
{
    struct zone_turns  t;

    fresh(2);
    t = turns(101);
    is(zone_turns_rate(&t, 1000, 5000), 0, "no rate holds nobody up");

    qs->queue[1].interval_us = 200000;
    t = turns(101);
    is(zone_turns_rate(&t, 0, 5000), 0, "the first may begin");
    is(zone_turns_rate(&t, 10, 5000), 2000, "the eleventh in 2 s");
    qs->queue[1].due_ms = 5500;
    t = turns(101);
    is(zone_turns_rate(&t, 0, 5000), 500, "not yet");
    is(zone_turns_rate(&t, 10, 5000), 2500, "and the others after that");
    is(zone_turns_rate(&t, 0, 6000), 0, "by now");
    qs->queue[1].burst_us = 1000000;
    t = turns(101);
    is(zone_turns_rate(&t, 2, 5000), 0, "some may be early");
    is(zone_turns_rate(&t, 10, 5000), 1500, "others have to wait");

    qs->queue[1].interval_us = UINT64_MAX;
    qs->queue[1].due_ms = UINT64_MAX;
    t = turns(101);
    is(zone_turns_rate(&t, UINT64_MAX, 0), ZONE_ESTIMATE_MAX, "never is 400 "
       "days");
    qs->queue[1].burst_us = UINT64_MAX;
    qs->queue[1].due_ms = 0;
    t = turns(101);
    is(zone_turns_rate(&t, 0, UINT64_MAX), 0, "and any time is now");
}


int
main(void)
{
    tap_begin();

    unit_zone(&z, "turns", 1);
    qs = zone_queues(&z);

    test_which();
    test_places();
    test_position();
    test_rate();

    zone_close(&z);

    return tap_end();
}
