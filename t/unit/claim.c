/*
 * The claim on a record decides between a 202 and a 503 when the commit and
 * the time limit come at the same instant: exactly one side may win, however
 * they race, and nobody may change what was decided.
 */

#include "unit.h"

#include <pthread.h>


#define ROUNDS                20000


static struct zone_record     record;
static pthread_barrier_t      barrier;
static int                    withdrew;


static void *
withdraw(void *arg)
{
    int  i;

    (void) arg;

    for (i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&barrier);
        withdrew = zone_claim_withdraw(&record);
        pthread_barrier_wait(&barrier);
    }

    return NULL;
}


static void
test_race(void)
{
    int        i, taken, committed, both, none, wrong;
    pthread_t  thread;

    both = 0;
    none = 0;
    wrong = 0;

    pthread_barrier_init(&barrier, NULL, 2);

    if (pthread_create(&thread, NULL, withdraw, NULL) != 0) {
        ok(0, "a thread");
        return;
    }

    for (i = 0; i < ROUNDS; i++) {
        atomic_store(&record.claim, ZONE_CLAIM_NONE);

        pthread_barrier_wait(&barrier);
        taken = zone_claim_take(&record);
        committed = taken && zone_claim_commit(&record);
        pthread_barrier_wait(&barrier);

        both += committed && withdrew;
        none += !committed && !withdrew;
        wrong += atomic_load(&record.claim)
                 != (uint32_t) (committed ? ZONE_CLAIM_COMMITTED
                                          : ZONE_CLAIM_WITHDRAWN);
    }

    pthread_join(thread, NULL);

    is(both, 0, "never both");
    is(none, 0, "never neither");
    is(wrong, 0, "the claim says who it was");
}


static void
test_steps(void)
{
    static const struct {
        uint32_t  from;
        int       take, commit, withdraw;
    } steps[] = {
        { ZONE_CLAIM_NONE, 1, 1, 1 },
        { ZONE_CLAIM_TAKEN, 1, 1, 1 },
        { ZONE_CLAIM_WITHDRAWN, 0, 0, 1 },
        { ZONE_CLAIM_COMMITTED, 1, 1, 0 },
    };

    size_t  i;

    for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        atomic_store(&record.claim, steps[i].from);
        is(zone_claim_take(&record), steps[i].take, "take from %u",
           steps[i].from);

        atomic_store(&record.claim, steps[i].from);
        is(zone_claim_commit(&record), steps[i].commit, "commit from %u",
           steps[i].from);

        atomic_store(&record.claim, steps[i].from);
        is(zone_claim_withdraw(&record), steps[i].withdraw,
           "withdraw from %u", steps[i].from);
    }
}


/* What has left the ring is the store's: its place may be another's. */

static void
test_consumed(void)
{
    uint64_t              end;
    struct zone           z;
    struct zone_error     e;
    struct zone_record   *rec, *read;
    struct zone_producer  p;
    struct zone_consumer  c;

    unit_zone(&z, "zone", 1);
    must(zone_producer_init(&p, &z, 0, &e) == 0);
    must(zone_consumer_init(&c, &z, 0, &e) == 0);

    rec = zone_sq_reserve(&p, ZONE_RECORD_JOB, 100);
    must(rec != NULL);
    zone_sq_publish(&p);
    end = p.tail;

    must(zone_sq_peek(&c, &read, &e) == 1 && read == rec);
    must(zone_claim_take(read));
    zone_sq_release(&c);
    is(zone_sq_withdraw(&p, rec, end), ZONE_WITHDRAW_CONSUMED,
       "too late when the head has passed it");
    is(rec->claim, ZONE_CLAIM_TAKEN, "and nothing is written there");

    rec = zone_sq_reserve(&p, ZONE_RECORD_JOB, 100);
    must(rec != NULL);
    zone_sq_publish(&p);
    is(zone_sq_withdraw(&p, rec, p.tail), ZONE_WITHDRAWN,
       "one that is in the ring is withdrawn");
    must(zone_sq_peek(&c, &read, &e) == 1 && read == rec);
    is(zone_claim_take(read), 0, "and not taken");

    rec = zone_sq_reserve(&p, ZONE_RECORD_JOB, 100);
    must(rec != NULL);
    zone_sq_publish(&p);
    must(zone_sq_peek(&c, &read, &e) == 1 && zone_claim_commit(read));
    is(zone_sq_withdraw(&p, rec, p.tail), ZONE_WITHDRAW_COMMITTED,
       "one that is committed is not");
    zone_close(&z);
}


int
main(void)
{
    tap_begin();

    test_steps();
    test_consumed();
    test_race();

    return tap_end();
}
