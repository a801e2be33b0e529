/*
 * Where a webhook may go is a question of security, when it goes again one of
 * hours: both are decided by pure functions, looked at here case by case.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"

#include <arpa/inet.h>
#include <jansson.h>


static int
permits(const struct hook_policy *p, uint32_t flags, const char *name,
    const char *addr)
{
    int              family;
    uint8_t          a[16];
    struct zone_str  host = { name, strlen(name) };

    family = strchr(addr, ':') ? AF_INET6 : AF_INET;

    if (inet_pton(family, addr, a) != 1) {
        return -1;
    }

    return hook_permits(p, zone_queue_hash("q", 1), flags, &host, family, a);
}


static void
test_addresses(void)
{
    size_t               i;
    int                  own, guarded, client;
    json_t              *o;
    struct hook_policy   p;
    struct policy_error  e;

    static const struct {
        const char  *host;
        const char  *addr;
        int          guarded;
        int          client;
    } cases[] = {
        { "a.example", "127.0.0.1", 0, 0 },
        { "a.example", "10.9.9.9", 0, 0 },
        { "a.example", "172.31.0.1", 0, 0 },
        { "a.example", "192.168.1.1", 0, 0 },
        { "a.example", "169.254.169.254", 0, 0 },
        { "a.example", "100.64.0.1", 0, 0 },
        { "a.example", "0.0.0.0", 0, 0 },
        { "a.example", "224.0.0.1", 0, 0 },
        { "a.example", "::1", 0, 0 },
        { "a.example", "::", 0, 0 },
        { "a.example", "fe80::1", 0, 0 },
        { "a.example", "fd00::1", 0, 0 },
        { "a.example", "::ffff:127.0.0.1", 0, 0 },
        { "a.example", "64:ff9b::7f00:1", 0, 0 },
        { "a.example", "2002:7f00:1::", 0, 0 },
        { "a.example", "8.8.8.8", 1, 1 },
        { "a.example", "2a00::1", 1, 1 },
        { "b.sub.example", "8.8.8.8", 1, 1 },
        { "sub.example", "8.8.8.8", 1, 1 },
        { "xsub.example", "8.8.8.8", 1, 0 },
        { "other.example", "8.8.8.8", 1, 0 },
        { "other.example", "10.1.2.3", 1, 1 },
        { "other.example", "::ffff:10.1.2.3", 1, 1 },
        { "other.example", "10.2.0.0", 0, 0 },
        { "other.example", "fd01::1", 1, 1 },
    };

    o = json_loads("{\"secrets\":[],\"cas\":[],\"allow\":{\"q\":[\"A.example\","
                   "\".sub.example\",\"10.1.0.0/16\",\"fd01::/16\"]}}", 0,
                   NULL);
    memset(&p, 0, sizeof(p));
    is(hook_policy(&p, o, "test", &e), 0, "a policy");
    json_decref(o);

    for (i = 0; i < ARRAY_LENGTH(cases); i++) {
        own = permits(&p, 0, cases[i].host, cases[i].addr);
        guarded = permits(&p, ZONE_HOOK_GUARDED, cases[i].host,
                          cases[i].addr);
        client = permits(&p, ZONE_HOOK_GUARDED|ZONE_HOOK_CLIENT,
                         cases[i].host, cases[i].addr);

        ok(own == 1 && guarded == cases[i].guarded
           && client == cases[i].client, "%s at %s", cases[i].host,
           cases[i].addr);
    }

    hook_policy_free(&p);
}


static void
test_schedule(void)
{
    uint32_t             i;
    struct hook_outcome  a, b;

    static const uint32_t  delays[] = {
        5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400
    };

    for (i = 1; i <= 9; i++) {
        hook_weigh(&a, i, 500, 0, 1000000, 0);
        hook_weigh(&b, i, 0, 0, 1000000, delays[i - 1] * 200);

        ok(a.status == STORE_HOOK_PENDING
           && a.next_ms == 1000000 + delays[i - 1] * 900
           && b.next_ms == 1000000 + delays[i - 1] * 1100,
           "after attempt %u: %u s, a tenth more or less", i, delays[i - 1]);
    }

    hook_weigh(&a, 10, 500, 0, 0, 0);
    is(a.status, STORE_HOOK_FAILED, "the tenth is the last");
    hook_weigh(&a, 10, 204, 0, 0, 0);
    is(a.status, STORE_HOOK_DELIVERED, "if it is not delivered");
    hook_weigh(&a, 1, 410, 0, 0, 0);
    is(a.status, STORE_HOOK_DISABLED, "410: no more");
    hook_weigh(&a, 1, 301, 0, 0, 0);
    is(a.status, STORE_HOOK_PENDING, "a redirect is a failure");
    hook_weigh(&a, 1, 503, 100, 0, 0);
    is(a.next_ms, 100000, "Retry-After counts when it is later,");
    hook_weigh(&a, 2, 503, 100, 0, 0);
    is(a.next_ms, 270000, "not when it is sooner,");
    hook_weigh(&a, 1, 503, UINT64_MAX, 0, 0);
    is(a.next_ms, 86400000, "and at most a day");
}


static void
test_urls(void)
{
    size_t           i;
    struct zone_str  host;

    static const char *const  good[] = {
        "http://a.example", "https://a.example:8443/b?c=%20", "http://a/?x",
        "http://[::1]:80/", "https://127.0.0.1"
    };
    static const char *const  bad[] = {
        "", "http://", "ftp://a/", "http://a@b/", "http://a:b@c/",
        "http://a:0/", "http://a:65536/", "http://a:/", "http://a b/",
        "http://a/\r\nX: y", "http://a/#f", "http://[::1", "http://[]/",
        "http://a\\@b/", "HTTP://a/", "//a/", "http:///a"
    };

    for (i = 0; i < ARRAY_LENGTH(good); i++) {
        is(zone_hook_url(good[i], strlen(good[i]), &host), 0, "a URL");
    }

    for (i = 0; i < ARRAY_LENGTH(bad); i++) {
        is(zone_hook_url(bad[i], strlen(bad[i]), &host), -1, "none");
    }
}


static void
test_parse(void)
{
    size_t                  n, len;
    uint8_t                 text[256];
    struct zone_str         s;
    struct zone_hook        hook;
    struct zone_hooks       head = { 1, 10 };
    struct zone_hooks_view  v;

    memset(&hook, 0, sizeof(hook));
    hook.flags = ZONE_HOOK_FAILED;
    hook.url_len = 8;
    memcpy(text, &head, sizeof(head));
    memcpy(text + 4, "http://a/j", 10);
    memcpy(text + 14, &hook, sizeof(hook));
    memcpy(text + 38, "http://b", 8);
    len = 46;

    s.data = (const char *) text;

    for (n = 0; n < len; n++) {
        s.len = n;

        if (zone_hooks_parse(&v, &s) == NULL) {
            break;
        }
    }

    is(n, len, "no shorter than it is");

    s.len = len;
    ok(zone_hooks_parse(&v, &s) == NULL && v.count == 1, "whole");
    s.len = len + 1;
    ok(zone_hooks_parse(&v, &s) != NULL, "and no longer");
    s.len = len;
    text[14 + 22] = 0x80;
    ok(zone_hooks_parse(&v, &s) != NULL, "unknown flags");
}


int
main(void)
{
    tap_begin();

    test_addresses();
    test_schedule();
    test_urls();
    test_parse();

    return tap_end();
}
