/*
 * What a client gets as its result is what the backend sent, end to end: no
 * header of the connection, none of ours, nothing of an interim answer or a
 * trailer; and a body whole, in memory or in a file under its job's name.
 */

#include <errno.h>

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


static struct result  r;
static uint8_t        id[ZONE_ID_SIZE] = { 1, 2, 3 };
static char           store[PATH_MAX];


static void
begin(void)
{
    result_reset(&r, store, id);
}


static int
line(const char *text)
{
    char  buf[4096];

    (void) snprintf(buf, sizeof(buf), "%s\r\n", text);

    return result_header(&r, buf, strlen(buf));
}


/* The kept lines, joined by "|". */

static const char *
kept(uint32_t status)
{
    size_t       i;
    static char  text[8192];

    if (result_finish(&r, status) != 0) {
        return "failed";
    }

    for (i = 0; i < r.headers.len; i++) {
        text[i] = (char) r.headers.data[i];

        if (text[i] == '\0') {
            text[i] = '|';
        }
    }

    text[i] = '\0';

    return text;
}


static void
test_headers(void)
{
    static const char *const  gone[] = {
        "Connection: close, X-Hop", "Keep-Alive: timeout=5", "TE: trailers",
        "Transfer-Encoding: chunked", "Trailer: X", "Upgrade: h2c",
        "Proxy-Authenticate: Basic", "proxy-anything: x", "Date: now",
        "SERVER: s", "Content-Length: 5", "Offload-Job-Id: forged",
        "offload-no-retry: 1", "x-hop: named by Connection", "no colon",
        ": no name"
    };
    size_t                    i;

    begin();
    (void) line("HTTP/1.1 200 OK");
    (void) line("Content-Type:   text/plain; charset=utf-8");
    (void) line("X-Empty:");

    for (i = 0; i < ARRAY_LENGTH(gone); i++) {
        (void) line(gone[i]);
    }

    (void) line("X-Hopper: stays");
    (void) line("Set-Cookie: a=1");
    (void) line("Set-Cookie: b=2");
    (void) line("");

    ok(r.complete, "the empty line ends the header");
    ok(strcmp(kept(200), "Content-Type: text/plain; charset=utf-8|X-Empty: |"
                         "X-Hopper: stays|Set-Cookie: a=1|Set-Cookie: b=2|")
       == 0, "end-to-end headers are kept, as they are");
    ok(r.type_len == 25
       && memcmp(r.headers.data + r.type_at, "text/plain; charset=utf-8", 25)
          == 0, "the type is found");
}


static void
test_course(void)
{
    begin();
    (void) line("HTTP/1.1 103 Early Hints");
    (void) line("Link: early");
    (void) line("");
    ok(r.complete, "an interim answer looks complete");
    (void) line("HTTP/1.1 200 OK");
    ok(!r.complete, "until the next begins");
    (void) line("X-A: final");
    (void) line("");
    (void) line("X-Trailer: late");
    ok(strcmp(kept(200), "X-A: final|") == 0,
       "neither the interim answer's headers nor trailers are kept");

    begin();
    (void) line("HTTP/1.1 200 OK");
    (void) line(" leading");
    (void) line("X-Long: one");
    (void) line("\ttwo");
    (void) line("");
    ok(strcmp(kept(200), "X-Long: one \ttwo|") == 0,
       "a folded line is one line");

    begin();
    (void) line("HTTP/1.1 200 OK");
    is(result_header(&r, "X-Nul: a\0b\r\n", 12), 0, "a line with a NUL");
    (void) line("");
    ok(strcmp(kept(200), "") == 0, "is not kept");
}


static void
test_refused(void)
{
    begin();
    (void) line("HTTP/1.1 503 Busy");
    (void) line("Offload-Replay: refused");
    (void) line("");
    (void) kept(503);
    ok(r.refused, "nginx's own refusal is seen");

    begin();
    (void) line("HTTP/1.1 200 OK");
    (void) line("Offload-Replay: refused");
    (void) line("");
    (void) kept(200);
    ok(!r.refused, "but only as a 503");

    begin();
    (void) line("HTTP/1.1 200 OK");
    (void) line("X-Own: 1");
    (void) line("Offload-Replay: added");
    (void) line("X-Added: 1");
    (void) line("Content-Encoding: gzip");
    (void) line("");
    ok(strcmp(kept(200), "X-Own: 1|Content-Encoding: gzip|") == 0,
       "what nginx adds is not the backend's");
}


static void
test_limit(void)
{
    int   i, rc;
    char  text[1100];

    memset(text, 'x', sizeof(text));
    memcpy(text, "X: ", 3);
    text[1022] = '\0';                          /* 1023 with its NUL */

    begin();
    (void) line("HTTP/1.1 200 OK");

    for (i = 0, rc = 0; i < 64 && rc == 0; i++) {
        rc = line(text);
    }

    is(rc, 0, "64 lines of 1023 bytes fit into 64 KB");
    is(line(text), -1, "one more does not");
    ok(r.too_large, "which is said");
}


static size_t
blob(uint32_t attempt)
{
    char         path[PATH_MAX];
    struct stat  st;

    must(files_path(path, sizeof(path), store, ZONE_DIR_BLOBS, id, attempt)
         == 0);

    return stat(path, &st) == 0 ? (size_t) st.st_size : 0;
}


static void
test_body(void)
{
    static uint8_t  data[STORE_INLINE_MAX];

    memset(data, 'b', sizeof(data));

    begin();
    is(result_body(&r, store, id, data, sizeof(data)), 0, "64 KB");
    ok(r.fd == -1 && r.body.len == sizeof(data), "stay in memory");
    is(result_body(&r, store, id, "c", 1), 0, "one byte more");
    ok(r.fd != -1 && r.body.len == 0, "goes to a file with the rest");
    is(r.size, sizeof(data) + 1, "all counted");
    is(blob(3), sizeof(data) + 1, "and written, by the attempt's number");

    begin();
    is(blob(3), 0, "an attempt that comes to nothing takes it along");

    (void) result_body(&r, store, id, data, sizeof(data));
    (void) result_body(&r, store, id, data, 5);
    is(result_finish(&r, 200), 0, "a whole answer");
    begin();
    is(blob(3), sizeof(data) + 5, "keeps it");

    (void) snprintf(store + strlen(store), 8, "/none");
    (void) result_body(&r, store, id, data, sizeof(data));
    is(result_body(&r, store, id, "c", 1), -1, "a file that can not be made");
    is(r.err, ENOENT, "is an error with a reason");
}


/* An answer of n bytes, told of before or not, of which max may be kept. */

static int
answer(const char *method, const char *status, size_t n, int told,
    uint64_t max, int flags)
{
    int                       rc;
    char                      text[64];
    static uint8_t            data[100];
    struct zone_request_view  v;

    memset(&v, 0, sizeof(v));
    v.method.data = method;
    v.method.len = strlen(method);
    v.fixed.result_max = max;
    v.fixed.flags = (uint16_t) flags;

    begin();
    result_limit(&r, &v);

    (void) line("HTTP/1.1 103 Early Hints");
    (void) line("Content-Length: 1000");
    (void) line("");
    (void) line(status);
    (void) line("ETag: \"a\"");
    (void) line("Digest: b");
    (void) line("Accept-Ranges: bytes");

    if (told) {
        (void) snprintf(text, sizeof(text), "Content-Length: %zu", n);
        (void) line(text);
    }

    rc = line("");

    if (rc == 0 && n > 0 && strcmp(method, "HEAD") != 0) {
        rc = result_body(&r, store, id, data, n / 2);
        rc = rc ? rc : result_body(&r, store, id, data, n - n / 2);
    }

    return rc;
}


static void
test_size(void)
{
    const char *const  fine = "HTTP/1.1 200 OK";

    is(answer("GET", fine, 10, 1, 10, 0), 0, "as large as it may be");
    ok(!r.over, "is not over");
    is(answer("GET", fine, 11, 1, 10, 0), -1, "a byte more, by its length");
    ok(r.over && r.size == 0, "is over before its body");
    is(answer("GET", fine, 11, 0, 10, 0), -1, "and without a length");
    ok(r.over && r.size == 5, "in its body");
    is(answer("GET", fine, 100, 1, 0, 0), 0, "without a limit none is");
    is(answer("HEAD", fine, 99, 1, 10, 0), 0, "an answer to HEAD has no body");
    is(answer("GET", "HTTP/1.1 304 Not Modified", 99, 1, 10, 0), -1,
       "a body that is there all the same");
    is(r.size, 0, "is not kept");

    is(answer("GET", fine, 10, 1, 10, ZONE_REQUEST_TRUNCATE), 0,
       "to be cut, but not too large");
    ok(strstr(kept(200), "ETag") != NULL, "it is as it was");
    is(answer("GET", fine, 99, 1, 60, ZONE_REQUEST_TRUNCATE), -1,
       "one that is ends when there is enough");
    ok(r.over && r.size == 60 && r.body.len == 60, "of exactly that size");
    is(strlen(kept(200)), 0, "and nothing is said of the whole");
}


int
main(void)
{
    char  path[PATH_MAX];

    tap_begin();

    (void) snprintf(store, sizeof(store), "%s", tap_file("store"));
    must(mkdir(store, 0700) == 0);
    must(zone_path(path, sizeof(path), store, ZONE_DIR_BLOBS) == 0);
    must(mkdir(path, 0700) == 0);

    result_init(&r);
    r.attempt = 3;

    test_headers();
    test_course();
    test_refused();
    test_limit();
    test_size();
    test_body();

    result_free(&r);

    files_unlink(tap_file("store"), ZONE_DIR_BLOBS, id, r.attempt);
    must(rmdir(path) == 0);
    must(rmdir(tap_file("store")) == 0);

    return tap_end();
}
