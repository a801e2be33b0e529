/*
 * Receivers that have answered 410: whom the store knows as gone is bounded
 * where others choose the URLs, in number and in time, and is not where the
 * operator does.  Thousands of them are too many to be met from outside.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd_lmdb.h"


#define QUEUE   7
#define EACH    10                              /* ms between two of them */
#define MORE    20                              /* than there may be */


static struct policy         policy;
static struct engine_error   e;
static void                 *self;

static const struct engine  *en = &engine_lmdb;


static const char *
url(struct store_hook *h, uint32_t n, uint16_t flags)
{
    static char  text[64];

    memset(h, 0, sizeof(*h));
    (void) snprintf(text, sizeof(text), "http://a.example/%u", n);
    h->queue = QUEUE;
    h->hook.flags = flags;
    h->hook.url_len = (uint16_t) strlen(text);
    h->host_at = 7;
    h->host_len = 9;

    return text;
}


static int
gone(uint32_t n, uint16_t flags, uint64_t now_ms)
{
    const char        *text;
    struct store_hook  h;

    text = url(&h, n, flags);

    return lmdb_gone(self, &h, text, now_ms, &e);
}


static void
put(uint32_t n, uint16_t flags, uint64_t now_ms)
{
    const char        *text;
    struct store_hook  h;

    text = url(&h, n, flags);
    must(lmdb_gone_put(self, &h, text, now_ms, &e) == 0);
}


static size_t
rows(enum lmdb_db db)
{
    MDB_stat      st;
    struct lmdb  *m = self;

    must(mdb_stat(m->txn, m->db[db], &st) == 0);

    return st.ms_entries;
}


static void
test_number(void)
{
    uint32_t  i, n = STORE_GONE_MAX + MORE;

    must(en->begin(self, &e) == 0);
    put(0, 0, 1);

    for (i = 1; i <= n; i++) {
        put(i, ZONE_HOOK_GUARDED, i * EACH);
    }

    is(rows(LMDB_GONE_AGE), STORE_GONE_MAX, "no more than there may be");
    is(rows(LMDB_GONE), STORE_GONE_MAX + 1, "and the operator's");
    is(gone(MORE, ZONE_HOOK_GUARDED, n * EACH), 0, "the oldest are forgotten");
    is(gone(MORE + 1, ZONE_HOOK_GUARDED, n * EACH), 1, "the others not,");
    is(gone(n, ZONE_HOOK_GUARDED, n * EACH), 1, "the last one above all,");
    is(gone(0, 0, n * EACH), 1, "nor the operator's");

    put(MORE + 1, ZONE_HOOK_GUARDED, (n + 1) * EACH);
    is(rows(LMDB_GONE), STORE_GONE_MAX + 1, "one twice is one");
    put(n + 1, ZONE_HOOK_GUARDED, (n + 2) * EACH);
    is(gone(MORE + 1, ZONE_HOOK_GUARDED, n * EACH), 1, "and is a new one");
    is(gone(MORE + 2, ZONE_HOOK_GUARDED, n * EACH), 0, "the next is the "
       "oldest");
    en->abort(self);
}


static void
test_time(void)
{
    uint32_t  i;
    uint64_t  later = STORE_GONE_MS + 1000;

    must(en->begin(self, &e) == 0);
    put(0, 0, 1000);

    for (i = 1; i <= 40; i++) {
        put(i, ZONE_HOOK_GUARDED, 1000);
    }

    is(gone(1, ZONE_HOOK_GUARDED, later - 1), 1, "gone for a month");
    is(gone(1, ZONE_HOOK_GUARDED, later), 0, "then it may be asked again");
    is(gone(0, 0, later * 10), 1, "not the operator's");
    is(rows(LMDB_GONE), 41, "they are still there");

    for (i = 50; i < 53; i++) {
        put(i, ZONE_HOOK_GUARDED, later);
    }

    is(rows(LMDB_GONE), 4, "until others come, some at a time");
    is(rows(LMDB_GONE_AGE), 3, "and so is what knows their age");
    en->abort(self);
}


static void
test_forget(void)
{
    uint8_t            digest[STORE_GONE_SIZE];
    const char        *text;
    struct store_hook  h;

    must(en->begin(self, &e) == 0);
    put(1, ZONE_HOOK_GUARDED, 1);
    put(2, 0, 1);
    text = url(&h, 1, ZONE_HOOK_GUARDED);
    must(hook_receiver(digest, QUEUE, text, h.hook.url_len) == 0);
    is(en->gone_forget(self, digest, &e), 0, "the operator has it back");
    is(en->gone_forget(self, digest, &e), ENGINE_NOT_FOUND, "once");
    is(gone(1, ZONE_HOOK_GUARDED, 1), 0, "that one,");
    is(gone(2, 0, 1), 1, "no other");
    is(rows(LMDB_GONE_AGE), 0, "and nothing is left of it");

    text = url(&h, 2, 0);
    must(hook_receiver(digest, QUEUE + 1, text, h.hook.url_len) == 0);
    is(en->gone_forget(self, digest, &e), ENGINE_NOT_FOUND,
       "of another queue it is another");
    en->abort(self);
}


int
main(void)
{
    int   i;
    char  path[PATH_MAX + 16];

    static const char  *dirs[] = {
        ZONE_DIR_SPOOL_TMP, ZONE_DIR_SPOOL, ZONE_DIR_BLOBS
    };

    tap_begin();
    (void) snprintf(policy.store, sizeof(policy.store), "%s", tap_dir);
    (void) snprintf(policy.path, sizeof(policy.path), "%.60s", tap_dir);
    must(files_init(&policy, &e) == 0);
    must(en->open(&self, &policy, &e) == 0);

    test_number();
    test_time();
    test_forget();

    en->close(self);

    for (i = 0; i < 3; i++) {
        (void) snprintf(path, sizeof(path), "%.4000s/%s", tap_dir, dirs[i]);
        must(rmdir(path) == 0);
    }

    return tap_end();
}
