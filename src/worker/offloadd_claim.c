/*
 * The promise of durability=disk, and of an idempotency key: nginx waits with
 * its 202 until offloadd has committed the job, and may give up.  Which of the
 * two was first is decided by the record's claim, in the ring.  Store thread,
 * or main before it.
 *
 *      read            NONE -> TAKEN
 *      commit
 *      claim           TAKEN -> COMMITTED, and only then the job is scheduled
 *                      TAKEN -> WITHDRAWN, by nginx, which goes on waiting:
 *                      the job leaves the store again, before the record
 *                      leaves the ring, and then nginx is told
 *
 * A kill anywhere in between leaves the record where it is.  The next
 * offloadd finds it in claims_recover(), before anything is scheduled: what
 * the store has is COMMITTED now, or WITHDRAWN and removed.
 */

#include "offloadd.h"

#include <string.h>
#include <time.h>


static int
claim_waited_for(const struct zone_record *rec)
{
    return rec->type == ZONE_RECORD_JOB && rec->token != 0;
}


/* The body of a job that will not be, unless its row says so itself. */

void
claim_unlink_body(struct store *s, const struct zone_record *rec)
{
    struct zone_request_view  view;

    if (zone_request_parse(&view, zone_record_payload(rec), rec->payload)
        == NULL
        && (view.fixed.flags & ZONE_REQUEST_BODY_FILE))
    {
        files_unlink(s->daemon->policy.store, ZONE_DIR_SPOOL, rec->id, 0);
    }
}


/*
 * Inside the open transaction: a withdrawn record.  The store knows it when
 * an offloadd died, or its commit failed half-way, after it had taken it.
 */

int
claim_withdrawn(struct store *s, const struct zone_record *rec,
    struct engine_error *e)
{
    if (!ZONE_MUTANT("claim.withdraw")
        && s->engine->withdraw(s->self, rec->id, e) == -1)
    {
        return -1;
    }

    claim_unlink_body(s, rec);

    return 0;
}


/* After the commit: what it promised, and what nobody wants any more. */

static uint32_t
claims_settle(struct store *s)
{
    uint32_t            i, n;
    struct drain_item  *item;

    for (i = 0, n = 0; i < s->nitems; i++) {
        item = &s->items[i];

        if (item->record.token == 0
            || (item->kind != DRAIN_JOB && item->kind != DRAIN_KNOWN))
        {
            continue;
        }

        if (zone_claim_commit(item->at) || ZONE_MUTANT("claim.settle")) {
            ZONE_FAILPOINT("claim.committed");
            continue;
        }

        if (item->attempt) {
            drain_give_back(s, item->attempt);
            item->attempt = NULL;
        }

        item->kind = DRAIN_WITHDRAWN;
        n++;
    }

    return n;
}


/*
 * What has the key of a job of the same batch that is withdrawn now is the
 * duplicate of nothing: its client is to try again.
 */

static void
claims_orphans(struct store *s)
{
    uint32_t            i, k;
    struct drain_item  *item;

    for (i = 0; i < s->nitems; i++) {
        item = &s->items[i];

        for (k = 0; item->kind == DRAIN_DUPLICATE && k < s->nitems; k++) {

            if (s->items[k].kind == DRAIN_WITHDRAWN
                && memcmp(s->items[k].record.id, item->first, ZONE_ID_SIZE)
                   == 0)
            {
                item->result = ZONE_NOT_FOUND;
            }
        }
    }
}


static int
claims_remove(struct store *s, struct engine_error *e)
{
    uint32_t  i;

    if (s->engine->begin(s->self, e) != 0) {
        return -1;
    }

    for (i = 0; i < s->nitems; i++) {
        if (s->items[i].kind == DRAIN_WITHDRAWN
            && claim_withdrawn(s, s->items[i].at, e) != 0)
        {
            s->engine->abort(s->self);
            return -1;
        }
    }

    ZONE_FAILPOINT("claim.remove.before-commit");

    return s->engine->commit(s->self, e);
}


/*
 * A withdrawn job leaves the store before its record leaves the ring and the
 * batch reaches the loop.  As long as the store refuses, this waits: -1 when
 * offloadd is to stop, and then the ring keeps what there is to know.
 */

int
claims_committed(struct store *s)
{
    struct timespec      pause = { 0, 20000000 };
    struct engine_error  e;

    if (claims_settle(s) == 0) {
        return 0;
    }

    memset(&e, 0, sizeof(e));

    ZONE_FAILPOINT("claim.remove.begin");

    claims_orphans(s);

    while (claims_remove(s, &e) != 0) {
        store_failed(s, &e);

        if (store_stopping(s)) {
            return -1;
        }

        (void) nanosleep(&pause, NULL);
    }

    s->failures = 0;
    s->retry_at = 0;

    return 0;
}


/*
 * What cannot be stored now nobody shall wait for.  The records stay: their
 * jobs may be in the store, after a commit that failed on its last page.
 * Those are removed from it when it can be written again, and only then is
 * nginx told: a 503 now would be a lie if the zone were lost before that.
 */

void
claims_refuse(struct store *s, uint32_t result, int uncertain)
{
    uint32_t                i, claim;
    struct zone_error       e;
    struct zone_record     *rec;
    struct zone_consumer    c;
    struct zone_completion  answer;

    for (i = 0; i < s->daemon->zone.geo.lanes; i++) {

        if (atomic_load(&s->lanes[i].corrupt)) {
            continue;
        }

        c = s->lanes[i].consumer;               /* a copy: it reads ahead */
        zone_sq_rewind(&c);

        while (zone_sq_peek(&c, &rec, &e) == 1) {

            claim = atomic_load(&rec->claim);

            if (!claim_waited_for(rec) || claim == ZONE_CLAIM_WITHDRAWN
                || !zone_claim_withdraw(rec))
            {
                continue;
            }

            if (uncertain && claim == ZONE_CLAIM_TAKEN) {
                continue;                       /* answered when removed */
            }

            ZONE_FAILPOINT("claim.refused");

            memset(&answer, 0, sizeof(answer));
            answer.token = rec->token;
            answer.type = rec->type;
            answer.result = result;
            memcpy(answer.id, rec->id, ZONE_ID_SIZE);

            answer_post(s, i, &answer);
        }
    }

    answer_bells(s);
}


/* One record that is in a ring when offloadd starts, or starts over. */

static int
claim_recover(struct store *s, struct zone_record *rec,
    struct engine_error *e)
{
    int       known;
    uint64_t  seq;

    if (!claim_waited_for(rec)) {
        return 0;
    }

    known = s->engine->knows(s->self, rec->id, &seq, e);

    if (known == -1) {
        return -1;
    }

    if (known && !zone_claim_commit(rec)) {
        return claim_withdrawn(s, rec, e);
    }

    return 0;
}


/*
 * Inside the open transaction, with nothing read from the rings: also after a
 * commit that failed, and may have stored what was refused then.  Or others
 * would find its keys taken, by jobs that will not be.
 */

int
claims_review(struct store *s, struct engine_error *e)
{
    int                   rc;
    uint32_t              i;
    struct zone_error     ze;
    struct zone_record   *rec;
    struct zone_consumer  c;

    rc = 0;

    for (i = 0; rc == 0 && i < s->daemon->zone.geo.lanes; i++) {

        if (atomic_load(&s->lanes[i].corrupt)) {
            continue;
        }

        c = s->lanes[i].consumer;

        while (rc == 0 && zone_sq_peek(&c, &rec, &ze) == 1) {
            rc = claim_recover(s, rec, e);
        }
    }

    return rc;
}


int
claims_recover(struct store *s, struct engine_error *e)
{
    if (s->engine->begin(s->self, e) != 0) {
        return -1;
    }

    if (claims_review(s, e) != 0) {
        s->engine->abort(s->self);
        return -1;
    }

    ZONE_FAILPOINT("claim.recover.before-commit");

    return s->engine->commit(s->self, e);
}
