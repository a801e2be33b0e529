/*
 * From the rings into the store.  Store thread only.
 *
 * drain_read() copies records into the open transaction and remembers them as
 * items, for drain_finish() after the commit.  A kill before it leaves the
 * records in the rings; they are read again, and an id the store knows is not
 * inserted twice.
 *
 * A ring that is corrupt is set aside: what follows the damage can not be
 * found.  A record that is intact but holds no request is one rejected job.
 */

#include "offloadd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>


#define DRAIN_RECORDS         1024              /* in a transaction */
#define DRAIN_BYTES           (4u * 1024 * 1024)
#define DRAIN_FULL_MS         200
#define DRAIN_LEAST           (256u * 1024)     /* less is not room */


static void drain_full(struct store *s, int full);
static int drain_record(struct store *s, uint32_t lane,
    struct zone_record *rec, struct engine_error *e);
static int drain_job(struct store *s, struct drain_item *item,
    const struct zone_record *rec, struct engine_error *e);
static int drain_requests(struct store *s, struct engine_error *e);


int
drain_init(struct store *s, struct zone_error *e)
{
    char          path[PATH_MAX];
    uint32_t      i;
    struct zone  *z = &s->daemon->zone;

    s->lanes = calloc(z->geo.lanes, sizeof(*s->lanes));
    if (s->lanes == NULL) {
        e->err = ENOMEM;
        (void) snprintf(e->text, sizeof(e->text), "no memory for %u lanes",
                        z->geo.lanes);
        return -1;
    }

    for (i = 0; i < z->geo.lanes; i++) {
        if (zone_consumer_init(&s->lanes[i].consumer, z, i, e) != 0) {
            log_text(LOG_ERROR, "lane %u is corrupt and set aside: %s", i,
                     e->text);
            s->lanes[i].consumer.lane = zone_lane(z, i);
            atomic_store(&s->lanes[i].corrupt, 1);
        }

        if (zone_lane_path(path, sizeof(path), s->daemon->policy.path, i) != 0
            || zone_bell_init(&s->lanes[i].bell, path) != 0)
        {
            e->err = ENAMETOOLONG;
            (void) snprintf(e->text, sizeof(e->text), "\"%s\" is too long for "
                            "the name of a socket", s->daemon->policy.path);
            return -1;
        }
    }

    s->bell = zone_bell_socket();
    if (s->bell == -1) {
        e->err = errno;
        (void) snprintf(e->text, sizeof(e->text), "socket: %s",
                        strerror(errno));
        return -1;
    }

    return 0;
}


/* Bytes in all rings. */

uint64_t
drain_pending(struct store *s)
{
    uint32_t            i;
    uint64_t            n;
    struct drain_lane  *l;

    for (i = 0, n = 0; i < s->daemon->zone.geo.lanes; i++) {
        l = &s->lanes[i];

        if (!atomic_load_explicit(&l->corrupt, memory_order_relaxed)) {
            n += atomic_load_explicit(&l->consumer.lane->sq_tail,
                                      memory_order_acquire)
                 - l->consumer.pos;
        }
    }

    return n;
}


/* The next record of a lane: 1, 0: none, -1: the engine failed. */

static int
drain_next(struct store *s, uint32_t lane, struct engine_error *e,
    uint64_t *bytes)
{
    int                  rc;
    uint64_t             before;
    struct zone_error    ze;
    struct drain_lane   *l = &s->lanes[lane];
    struct zone_record  *rec;

    if (atomic_load_explicit(&l->corrupt, memory_order_relaxed)) {
        return 0;
    }

    before = l->consumer.pos;
    rc = zone_sq_peek(&l->consumer, &rec, &ze);

    if (rc == 0) {
        return 0;
    }

    if (rc == -1) {
        atomic_store(&l->corrupt, 1);

        if (!zone_broken(&s->daemon->zone)) {   /* else the loop says so */
            log_text(LOG_ERROR, "lane %u is corrupt and set aside until the "
                     "worker is restarted; the jobs still in it can not be "
                     "read: %s", lane, ze.text);
        }

        return 0;
    }

    if (s->full && rec->type == ZONE_RECORD_JOB
        && (rec->token == 0
            || atomic_load(&rec->claim) != ZONE_CLAIM_WITHDRAWN))
    {
        l->consumer.pos = before;               /* only what takes no room */
        return 0;
    }

    *bytes += l->consumer.pos - before;
    l->taken++;

    if (ZONE_MUTANT("drain.head-last")) {
        zone_sq_release(&l->consumer);
    }

    return drain_record(s, lane, rec, e) == -1 ? -1 : 1;
}


/*
 * How many bytes may be read; 0: none now.  A full store takes cancels, and
 * what was withdrawn, but no job: who waits for one is told, others wait in
 * their rings.
 */

static uint64_t
drain_budget(struct store *s)
{
    uint64_t             bytes;
    struct engine_error  e;

    bytes = drain_pending(s);

    if (bytes == 0) {
        return 0;
    }

    if (bytes > DRAIN_BYTES) {
        bytes = DRAIN_BYTES + ZONE_RECORD_MAX(s->daemon->zone.geo.sq_size);
    }

    if (s->engine->room(s->self, atomic_load(&s->max_bytes), &bytes, &e) != 0)
    {
        if (!s->full) {
            log_text(LOG_ERROR, "new jobs %s: %s", s->durable
                     ? "are refused" : "stay in their rings", e.text);
        }

        drain_full(s, 1);

        return DRAIN_BYTES;
    }

    if (s->full) {
        drain_full(s, 0);
    }

    return bytes < DRAIN_BYTES ? bytes : DRAIN_BYTES;
}


static void
drain_full(struct store *s, int full)
{
    struct zone_worker  *w = s->daemon->zone.worker;

    if (full) {
        s->full = 1;
        s->full_until = mono_ms() + DRAIN_FULL_MS;
        atomic_fetch_or(&w->refusing, ZONE_REFUSING_FULL);

        claims_refuse(s, ZONE_NO_ROOM, 0);

        return;
    }

    s->full = 0;
    atomic_fetch_and(&w->refusing, ~(uint32_t) ZONE_REFUSING_FULL);
    log_text(LOG_NOTICE, "the store has room for new jobs again");
}


void
drain_look(struct store *s)
{
    uint64_t             bytes;
    struct engine_error  e;

    bytes = DRAIN_LEAST;

    if (s->engine->room(s->self, atomic_load(&s->max_bytes), &bytes, &e) == 0
        && bytes >= DRAIN_LEAST)
    {
        drain_full(s, 0);
        return;
    }

    s->full_until = mono_ms() + DRAIN_FULL_MS;
}


int
drain_read(struct store *s, uint32_t max, struct engine_error *e)
{
    int       rc, any;
    uint32_t  i, n, lane, lanes;
    uint64_t  bytes, budget;

    budget = drain_budget(s);

    if (budget == 0) {
        return 0;
    }

    lanes = s->daemon->zone.geo.lanes;
    max = max < DRAIN_RECORDS ? max : DRAIN_RECORDS;
    bytes = 0;
    n = 0;

    do {
        any = 0;

        for (i = 0; i < lanes && n < max && bytes < budget; i++) {
            lane = (s->first_lane + i) % lanes;

            rc = drain_next(s, lane, e, &bytes);
            if (rc == -1) {
                return -1;
            }

            any += rc;
            n += (uint32_t) rc;
        }

    } while (any && n < max && bytes < budget);

    s->first_lane++;

    if (drain_requests(s, e) == -1) {
        return -1;
    }

    ZONE_FAILPOINT("drain.before-commit");

    return (int) n;
}


static int
drain_record(struct store *s, uint32_t lane, struct zone_record *rec,
    struct engine_error *e)
{
    uint32_t            cap;
    struct drain_item  *item;

    if (s->nitems == s->items_cap) {
        cap = s->items_cap ? s->items_cap * 2 : 256;

        item = realloc(s->items, cap * sizeof(*item));
        if (item == NULL) {
            e->err = ENOMEM;
            (void) snprintf(e->text, sizeof(e->text),
                            "no memory for a batch of %u", cap);
            return -1;
        }

        s->items = item;
        s->items_cap = cap;
    }

    item = &s->items[s->nitems++];
    memset(item, 0, sizeof(*item));
    memcpy(&item->record, rec, sizeof(item->record));
    item->at = rec;
    item->lane = lane;

    if (rec->type != ZONE_RECORD_JOB) {
        item->kind = rec->type == ZONE_RECORD_CANCEL ? DRAIN_CANCEL
                                                     : DRAIN_WATCH;
        return 0;
    }

    if (rec->token != 0 && !zone_claim_take(rec)) {
        item->kind = DRAIN_WITHDRAWN;
        return claim_withdrawn(s, rec, e);
    }

    ZONE_FAILPOINT("drain.taken");

    return drain_job(s, item, rec, e);
}


/*
 * With capacity lent by the loop a job is inserted as running at once, which
 * saves a transaction and the way there and back.
 */

void
drain_give_back(struct store *s, struct attempt *a)
{
    pthread_mutex_lock(&s->mutex);
    a->next = s->lent;
    s->lent = a;
    pthread_mutex_unlock(&s->mutex);
}


/* With the mutex: a queue that the policy has not is the default queue. */

static int
drain_may_start(struct store *s, const struct zone_request_view *view)
{
    uint32_t  i, hash;

    if (view->fixed.delay_s) {
        return 0;
    }

    hash = zone_queue_hash(view->queue.data, view->queue.len);

    for (i = 0; i < s->nrules; i++) {
        if (s->rules[i].hash == hash) {
            return s->rules[i].plain;
        }
    }

    return s->nrules && s->rules[0].plain;
}


static struct attempt *
drain_borrow(struct store *s, const struct zone_request_view *view,
    const void *request, size_t size)
{
    struct attempt  *a;

    pthread_mutex_lock(&s->mutex);

    a = s->lent;

    if (a && !drain_may_start(s, view)) {
        a = NULL;
    }

    if (a) {
        s->lent = a->next;
    }

    pthread_mutex_unlock(&s->mutex);

    if (a) {
        a->op.request.len = 0;

        if (buf_append(&a->op.request, request, size) != 0) {
            drain_give_back(s, a);
            return NULL;                        /* then it waits its turn */
        }
    }

    return a;
}


static void
drain_reject(struct drain_item *item, const char *wrong)
{
    struct log_line  l;

    item->kind = DRAIN_REJECT;

    if (log_begin(&l, LOG_ERROR, "a record is not a request and is skipped")) {
        log_id(&l, "job", item->record.id);
        log_uint(&l, "lane", item->lane);
        log_str(&l, "error", wrong);
        log_end(&l);
    }
}


static int
drain_job(struct store *s, struct drain_item *item,
    const struct zone_record *rec, struct engine_error *e)
{
    int                       rc;
    const char               *wrong;
    struct attempt           *a;
    struct engine_insert      in;
    struct zone_request_view  view;

    wrong = zone_request_parse(&view, zone_record_payload(rec),
                               item->record.payload);
    if (wrong) {
        drain_reject(item, wrong);
        return 0;
    }

    if ((view.fixed.flags & ZONE_REQUEST_BODY_FILE) && s->durable) {
        rc = files_sync(s, FILES_SPOOL, rec->id, 0, e);

        if (rc == -1 || rc == FILES_LOST) {
            return -1;                          /* refused: not read again */
        }

        /* one that is met again may be settled by now, its body removed */

        if (rc == FILES_ABSENT) {
            rc = s->engine->knows(s->self, rec->id, &in.seq, e);

            if (rc == -1) {
                return -1;
            }

            if (rc == 0) {
                drain_reject(item, "its body is not in the spool");
                return 0;
            }
        }
    }

    a = drain_borrow(s, &view, zone_record_payload(rec),
                     item->record.payload);

    memset(&in, 0, sizeof(in));
    in.record = &item->record;
    in.view = &view;
    in.payload = zone_record_payload(rec);
    in.size = item->record.payload;
    in.now_ms = clock_ms();
    in.start = a != NULL;

    rc = s->engine->insert(s->self, &in, e);

    if (rc != 0 && a) {
        drain_give_back(s, a);
        a = NULL;
    }

    if (rc == -1) {
        return -1;
    }

    if (rc == ENGINE_DUPLICATE || rc == ENGINE_CONFLICT) {
        item->kind = DRAIN_DUPLICATE;
        item->result = rc == ENGINE_DUPLICATE ? ZONE_DUPLICATE
                                              : ZONE_CONFLICT;
        memcpy(item->first, in.first, ZONE_ID_SIZE);
        return 0;
    }

    if (rc == ENGINE_LIMITED || rc == ENGINE_LIMITED_KEY) {
        item->kind = DRAIN_LIMITED;
        item->result = rc == ENGINE_LIMITED ? ZONE_LIMITED : ZONE_LIMITED_KEY;
        return 0;
    }

    item->kind = rc == ENGINE_KNOWN ? DRAIN_KNOWN : DRAIN_JOB;
    item->seq = in.seq;
    item->row = in.row;
    item->attempt = a;

    if (a) {
        a->op.type = STORE_OP_START;
        a->op.result = STORE_OP_DONE;
        a->op.seq = in.seq;
        a->op.row = in.row;
    }

    return 0;
}


/*
 * A cancel's (or a watch's) job may still be in the ring of another lane, the
 * one its id names: that ring is first read up to where it ends now, which is
 * after the cancel was read.
 */

static int
drain_up_to(struct store *s, uint32_t lane, struct engine_error *e)
{
    int                 rc;
    uint64_t            tail, bytes;
    struct drain_lane  *l;

    l = &s->lanes[lane];
    tail = atomic_load_explicit(&l->consumer.lane->sq_tail,
                                memory_order_acquire);
    bytes = 0;

    while (l->consumer.pos < tail) {
        rc = drain_next(s, lane, e, &bytes);
        if (rc != 1) {
            return rc;
        }
    }

    return 0;
}


static int
drain_left(struct store *s, uint32_t lane)
{
    struct drain_lane  *l = &s->lanes[lane];

    return l->consumer.pos < atomic_load_explicit(&l->consumer.lane->sq_tail,
                                                  memory_order_acquire);
}


static int
drain_cancel(struct store *s, struct drain_item *item, uint32_t lane,
    struct engine_error *e)
{
    int                   rc;
    struct engine_cancel  c;

    memset(&c, 0, sizeof(c));
    c.id = item->record.id;
    c.now_ms = clock_ms();
    c.ttl_ms = atomic_load(&s->ttl_ms);

    ZONE_FAILPOINT("cancel.before-commit");

    rc = s->engine->cancel(s->self, &c, e);
    if (rc == -1) {
        return -1;
    }

    item->seq = c.seq;
    item->result = rc == ENGINE_NOT_FOUND ? ZONE_NOT_FOUND : ZONE_DONE;

    if (rc == ENGINE_NOT_FOUND && s->full
        && lane < s->daemon->zone.geo.lanes && drain_left(s, lane))
    {
        item->result = ZONE_FAILED;             /* it may be in the ring */
    }

    return 0;
}


/* Cancels and watches, when all that may come before them has been read. */

static int
drain_requests(struct store *s, struct engine_error *e)
{
    int                 rc;
    uint32_t            i, lane, slot;
    struct drain_item  *item;

    for (i = 0; i < s->nitems; i++) {

        if (s->items[i].record.type == ZONE_RECORD_JOB) {
            continue;
        }

        zone_id_hint(s->items[i].record.id, &lane, &slot);

        if (lane < s->daemon->zone.geo.lanes && drain_up_to(s, lane, e) == -1)
        {
            return -1;
        }

        item = &s->items[i];                    /* the array may have moved */

        if (item->kind == DRAIN_CANCEL) {
            rc = drain_cancel(s, item, lane, e);

        } else {
            rc = s->engine->knows(s->self, item->record.id, &item->seq, e);

            if (rc == 0) {
                item->seq = 0;
            }
        }

        if (rc == -1) {
            return -1;
        }
    }

    return 0;
}


/* After an abort: as if nothing had been read. */

void
drain_undo(struct store *s)
{
    uint32_t  i;

    for (i = 0; i < s->nitems; i++) {
        if (s->items[i].attempt) {
            drain_give_back(s, s->items[i].attempt);
        }
    }

    for (i = 0; i < s->daemon->zone.geo.lanes; i++) {
        if (s->lanes[i].taken && !ZONE_MUTANT("drain.rewind")) {
            zone_sq_rewind(&s->lanes[i].consumer);
            s->lanes[i].taken = 0;
        }
    }

    s->nitems = 0;
}
