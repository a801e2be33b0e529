/*
 * Deliveries: which is sent when, and what its end means.  Loop thread.  What
 * is known here the rows know, too, but for receivers that have asked for a
 * pause, or did not answer: a kill forgets those, and they do so again.
 *
 * A row is asked for when it is due, sent, and kept in mind until the store
 * has what came of it: only then may it be asked for again.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>


#define HOOK_LATER_MS         1000              /* the store does not answer */
#define HOOK_PAUSE_MS         5000              /* 429, 502, 504 */
#define HOOK_MONTH_MS         (24ull * 3600 * 1000)


/* Before attempt 2, 3, ... */

static const uint32_t  hook_schedule[HOOK_ATTEMPTS - 1] = {
    5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600,
    24 * 3600
};


void
hook_entry_free(struct hook_entry *e)
{
    free(e->url);
    e->url = NULL;
    buf_free(&e->trace);
    buf_free(&e->body);
}


void
hook_weigh(struct hook_outcome *o, uint32_t attempts, uint32_t status,
    uint64_t retry_after_s, uint64_t now_ms, uint64_t random)
{
    uint64_t  delay;

    o->attempts = attempts;
    o->http_status = (uint16_t) (status < 1000 ? status : 0);
    o->next_ms = 0;
    o->gone = status == 410 && !ZONE_MUTANT("hook.410");

    if (status >= 200 && status <= 299) {
        o->status = STORE_HOOK_DELIVERED;
        return;
    }

    if (o->gone) {
        o->status = STORE_HOOK_DISABLED;
        return;
    }

    if (attempts >= HOOK_ATTEMPTS) {
        o->status = STORE_HOOK_FAILED;
        return;
    }

    /* a tenth more or less: not all that failed together come together */

    delay = hook_schedule[attempts ? attempts - 1 : 0] * 1000ull;
    delay = delay - delay / 10 + random % (delay / 5 + 1);

    if (retry_after_s > HOOK_MONTH_MS / 1000) {
        retry_after_s = HOOK_MONTH_MS / 1000;
    }

    if (retry_after_s * 1000 > delay) {
        delay = retry_after_s * 1000 + random % 1000;
    }

    o->status = STORE_HOOK_PENDING;
    o->next_ms = now_ms + delay;
}


static uint64_t
hook_host_hash(const struct hook_entry *e)
{
    size_t  len;

    len = strcspn(e->url + e->row.host_at, "/?") + e->row.host_at;

    return zone_key_hash(e->url, len);          /* scheme, host and port */
}


/* What is known of a host; with `make` there is a place for it to be. */

static struct hook_host *
hook_host(struct offloadd *d, uint64_t hash, int make)
{
    struct hook_host  *h = &d->hooks.hosts[hash % HOOK_HOSTS];

    if (h->hash == hash) {
        return h;
    }

    if (!make) {
        return NULL;
    }

    memset(h, 0, sizeof(*h));
    h->hash = hash;

    return h;
}


/*
 * One that is too busy gets nothing else meanwhile; one that did not answer
 * in time does not get all places, until it answers.
 */

static void
hook_learn(struct offloadd *d, const struct hook *h, long status,
    uint64_t retry_after_s)
{
    uint64_t           pause;
    struct hook_host  *host;

    host = hook_host(d, h->host, h->late);

    if (host && (h->late || status > 0)) {
        host->slow = h->late;
    }

    if (status == 429 || status == 502 || status == 504) {
        pause = retry_after_s ? retry_after_s * 1000 : HOOK_PAUSE_MS;
        pause = pause < HOOK_MONTH_MS ? pause : HOOK_MONTH_MS;
        hook_host(d, h->host, 1)->until_ms = clock_ms() + pause;
    }
}


/* It is not sent now: what it becomes, as an outcome. */

static void
hook_unsent(struct hook *h, uint8_t status, uint64_t next_ms)
{
    h->outcome.status = status;
    h->outcome.attempts = h->e.row.attempts;
    h->outcome.http_status = h->e.row.http_status;
    h->outcome.next_ms = next_ms;
}


static uint32_t
hooks_to(const struct offloadd *d, uint64_t host)
{
    uint32_t            i, n;
    const struct hook  *h;

    for (i = 0, n = 0; i < HOOKS_MAX; i++) {
        h = &d->hooks.all[i];
        n += h->used && h->sending && h->host == host;
    }

    return n;
}


static int
hook_held_back(struct offloadd *d, struct hook *h)
{
    uint64_t           at, now = clock_ms();
    struct hook_host  *host = hook_host(d, h->host, 0);

    if (host == NULL) {
        return 0;
    }

    if (host->until_ms > now && !ZONE_MUTANT("hook.pause")) {
        at = host->until_ms;

    } else if (host->slow && hooks_to(d, h->host) >= HOOKS_SLOW) {
        at = now + HOOK_TIMEOUT_MS;

    } else {
        return 0;
    }

    hook_unsent(h, STORE_HOOK_PENDING,
                at + sched_random(&d->sched) % HOOK_PAUSE_MS);

    return 1;
}


static void
hook_submit(struct offloadd *d, struct hook *h)
{
    h->sending = 0;
    h->op.type = STORE_OP_HOOK;
    h->op.seq = h->e.seq;
    h->op.hook = &h->outcome;
    h->outcome.n = h->e.row.n;
    h->outcome.settled_ms = h->e.row.settled_ms;
    h->outcome.now_ms = clock_ms();

    loop_submit(d, &h->op);
}


static void
hook_log(const struct hook *h, const char *error)
{
    int              level;
    char             id[HOOK_ID_MAX], host[256];
    uint8_t          receiver[STORE_GONE_SIZE];
    struct log_line  l;

    level = h->outcome.status == STORE_HOOK_FAILED || h->outcome.gone
            ? LOG_WARN
            : h->outcome.status == STORE_HOOK_DELIVERED ? LOG_DEBUG
            : LOG_INFO;

    if (!log_begin(&l, level, "webhook")) {
        return;
    }

    hook_id(id, &h->e.row);
    (void) snprintf(host, sizeof(host), "%.*s", (int) h->e.row.host_len,
                    h->e.url + h->e.row.host_at);

    log_id(&l, "job", h->e.row.id);
    log_str(&l, "id", id);
    log_str(&l, "host", host);
    log_str(&l, "status", hook_status(h->outcome.status));
    log_uint(&l, "attempts", h->outcome.attempts);

    if (h->outcome.gone
        && hook_receiver(receiver, h->e.row.queue, h->e.url,
                         h->e.row.hook.url_len) == 0)
    {
        log_id(&l, "receiver", receiver);       /* to be enabled by */
    }

    if (h->outcome.http_status && !h->e.gone) {
        log_uint(&l, "http_status", h->outcome.http_status);

    } else {
        log_str(&l, "error", error);
    }

    log_end(&l);
}


void
hooks_ended(struct offloadd *d, struct hook *h, long status,
    uint64_t retry_after_s, const char *error)
{
    hook_weigh(&h->outcome, h->e.row.attempts + 1,
               status > 0 ? (uint32_t) status : 0, retry_after_s, clock_ms(),
               sched_random(&d->sched));

    hook_learn(d, h, status, retry_after_s);

    d->hooks.sent++;
    hook_log(h, error);
    ZONE_FAILPOINT("hook.answered");
    hook_submit(d, h);
}


static void
hook_begin(struct offloadd *d, struct hook_entry *e)
{
    uint32_t      i;
    struct hook  *h;

    for (i = 0; i < HOOKS_MAX && d->hooks.all[i].used; i++) { /* void */ }

    if (i == HOOKS_MAX) {
        hook_entry_free(e);                     /* it stays due */
        return;
    }

    h = &d->hooks.all[i];
    memset(h, 0, sizeof(*h));
    h->daemon = d;
    h->used = 1;
    h->e = *e;
    h->host = hook_host_hash(e);
    memset(e, 0, sizeof(*e));
    d->hooks.used++;

    if (h->e.gone) {
        hook_unsent(h, STORE_HOOK_DISABLED, 0);
        hook_log(h, "its receiver is gone");
        hook_submit(d, h);
        return;
    }

    if (hook_held_back(d, h)) {
        hook_submit(d, h);
        return;
    }

    h->sending = 1;
    ZONE_FAILPOINT("hook.before-send");

    if (hook_send(d, h) != 0) {
        hook_stop(d, h);
        hooks_ended(d, h, 0, 0, h->refused ? "no secret" : "no memory");
    }
}


static void
hooks_fetched(struct offloadd *d)
{
    uint32_t       i;
    struct hooks  *k = &d->hooks;

    k->fetching = 0;
    k->at_ms = k->list.next_ms;

    for (i = 0; i < k->list.n; i++) {
        hook_begin(d, &k->list.entries[i]);
    }

    k->list.n = 0;
}


/* An operation of ours is committed. */

void
hooks_stored(struct offloadd *d, struct store_op *op)
{
    struct hook  *h = (struct hook *) op;

    if (op == &d->hooks.fetch) {
        hooks_fetched(d);
        return;
    }

    if (h->outcome.status == STORE_HOOK_PENDING
        && h->outcome.next_ms < d->hooks.at_ms)
    {
        d->hooks.at_ms = h->outcome.next_ms;
    }

    if (op->result == STORE_OP_STALE) {
        d->hooks.at_ms = 0;                     /* there is a newer one */
    }

    hook_entry_free(&h->e);
    h->used = 0;
    d->hooks.used--;
}


/* Places for half of them at least: each look costs a transaction. */

static int
hooks_held(const struct offloadd *d)
{
    return d->hooks.fetching || d->loop.stop != LOOP_GO_ON
           || d->hooks.used > HOOKS_MAX / 2;
}


void
hooks_run(struct offloadd *d)
{
    uint32_t       i, filed;
    struct hooks  *k = &d->hooks;

    filed = atomic_load(&d->store.hooks_filed);

    if (filed != k->filed) {
        k->filed = filed;
        k->at_ms = 0;
    }

    if (hooks_held(d) || clock_ms() < k->at_ms) {
        return;
    }

    k->list.now_ms = clock_ms();
    k->list.max = HOOKS_MAX - k->used;
    k->list.nskip = 0;

    for (i = 0; i < HOOKS_MAX; i++) {
        if (k->all[i].used) {
            k->list.skip[k->list.nskip].seq = k->all[i].e.seq;
            k->list.skip[k->list.nskip++].n = k->all[i].e.row.n;
        }
    }

    k->fetching = 1;
    k->fetch.type = STORE_OP_HOOKS;
    k->fetch.hooks = &k->list;
    loop_submit(d, &k->fetch);
}


uint64_t
hooks_next(const struct offloadd *d)
{
    uint64_t  now, at = d->hooks.at_ms;

    if (hooks_held(d) || at == UINT64_MAX) {
        return UINT64_MAX;
    }

    now = clock_ms();

    return mono_ms() + (at > now ? at - now : 0);
}


void
hooks_free(struct offloadd *d)
{
    uint32_t  i;

    for (i = 0; i < HOOKS_MAX; i++) {
        if (d->hooks.all[i].used) {
            hook_stop(d, &d->hooks.all[i]);
            hook_entry_free(&d->hooks.all[i].e);
        }
    }

    for (i = 0; i < d->hooks.list.n; i++) {
        hook_entry_free(&d->hooks.list.entries[i]);
    }
}
