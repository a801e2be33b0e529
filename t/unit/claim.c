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


int
main(void)
{
    tap_begin();

    test_steps();
    test_race();

    return tap_end();
}
