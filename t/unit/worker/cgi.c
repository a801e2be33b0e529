/*
 * What of a command's output is its header decides what a client gets as its
 * result; what of a request becomes its environment decides what a client can
 * make it do.  Output comes in pieces of any length, from programs that have
 * never heard of CGI.
 */

#include "../tap.h"
#include "../../../src/worker/offloadd.h"


/* "200 35": status and length of the header; "0": none; "-1": not yet. */

static const char *
header(const char *text, int whole)
{
    long         n;
    uint32_t     status;
    static char  say[64];

    n = cgi_header(text, strlen(text), whole, &status);

    if (n <= 0) {
        (void) snprintf(say, sizeof(say), "%ld", n);
    } else {
        (void) snprintf(say, sizeof(say), "%u %ld", status, n);
    }

    return say;
}


#define same(got, want, ...)                                                 \
    do {                                                                     \
        const char  *got_ = (got), *want_ = (want);                          \
                                                                             \
        is(strcmp(got_, want_), 0, __VA_ARGS__);                             \
                                                                             \
        if (strcmp(got_, want_) != 0) {                                      \
            (void) printf("# \"%s\", not \"%s\"\n", got_, want_);           \
        }                                                                    \
    } while (0)


static void
test_headers(void)
{
    int   i;
    char  cut[64];

    static const struct {
        const char  *text, *is;
    } some[] = {
        { "Content-Type: a/b\n\nx", "200 19" },
        { "Content-Type: a/b\r\n\r\nx", "200 21" },
        { "content-type:a/b\nX-A: 1\n\n", "200 25" },
        { "Status: 404 Not Found\n\n", "404 23" },
        { "Status:503\n\n", "503 12" },
        { "Location: /x\n\n", "200 14" },
        { "X-A: 1\n\nx", "0" },
        { "Dear all: hello\n\nx", "0" },
        { "\n\nx", "0" },
        { "no header\n\n", "0" },
        { "Content-Type : a/b\n\n", "0" },
        { "Content-Type: a/b\n folded\n\n", "0" },
        { "Content-Type: a\rX: b\n\n", "0" },
        { "Content-Type: a\x7f\n\n", "0" },
        { ": a\n\n", "0" },
        { "Status: 100\n\n", "0" },
        { "Status: 600\n\n", "0" },
        { "Status: 20\n\n", "0" },
        { "Status: 2000\n\n", "0" },
        { "Status: fine\n\n", "0" },
        { "", "-1" },
        { "Content-Type: a/b\n", "-1" },
        { "Content-Type: a/b", "-1" },
    };

    for (i = 0; i < (int) ARRAY_LENGTH(some); i++) {
        same(header(some[i].text, 0), some[i].is, "header %d", i);
    }

    same(header("", 1), "0", "no output has none");
    same(header("Content-Type: a/b\n", 1), "0", "nor has half a one");

    for (i = 0; i < 18; i++) {
        (void) snprintf(cut, sizeof(cut), "%.*s", i, "Content-Type: a/b\n\n");

        if (strcmp(header(cut, 0), "-1") != 0) {
            break;
        }
    }

    is(i, 18, "a header in pieces is waited for");
}


static void
test_long(void)
{
    size_t       i;
    uint32_t     status;
    static char  text[RESULT_HEADERS_MAX + 4096];

    memset(text, 'a', sizeof(text));
    is(cgi_header(text, sizeof(text), 0, &status), 0, "a line without end");

    for (i = 0; i + 8 < sizeof(text); i += 8) {
        memcpy(text + i, "X-A: 12\n", 8);
    }

    is(cgi_header(text, i, 0, &status), 0, "lines without end");
}


static const char *
get(const struct cgi_env *env, const char *name)
{
    char  **p;

    for (p = env->envp; *p; p++) {
        if (strncmp(*p, name, strlen(name)) == 0
            && (*p)[strlen(name)] == '=')
        {
            return *p + strlen(name) + 1;
        }
    }

    return "(none)";
}


#define str(s, text)  (s).data = text, (s).len = sizeof(text) - 1

static void
test_environment(void)
{
    static char               *extra[] = {
        (char *) "PATH=/x", (char *) "UNIT_TEST", (char *) "NONE_SUCH",
        (char *) "HTTP_X=ours", NULL
    };
    struct cgi_env             env;
    struct cgi_request         rq;
    struct zone_request_view   v;

    static const uint8_t  id[ZONE_ID_SIZE] = { 1 };

    memset(&v, 0, sizeof(v));
    str(v.method, "PUT");
    str(v.uri, "/a%2fb%zz%?x=%20&y");
    str(v.queue, "q");
    str(v.context, "67f000001000000000000000000000001abcd 47f0000011f90 s - "
                   "https://b");
    str(v.headers, "Host: [::1]:80\0X: client\0x-a: 1\0X-A:2\0Cookie: a\0"
                   "cookie: b\0proxy: p\0Authorization: s\0x_a: u\0"
                   "Content-Length: 9\0content-type: t/t\0");
    v.headers.len++;
    setenv("UNIT_TEST", "given", 1);

    rq.view = &v;
    rq.id = id;
    rq.attempt = 7;
    rq.extra = extra;

    is(cgi_environment(&env, &rq), 0, "an environment");
    same(get(&env, "PATH"), "/x", "exec_env comes first");
    same(get(&env, "HTTP_X"), "ours", "also before a client's header");
    same(get(&env, "UNIT_TEST"), "given", "a variable of ours");
    same(get(&env, "NONE_SUCH"), "(none)", "one that is not set");
    same(get(&env, "HOME"), "(none)", "and nothing else of ours");
    same(get(&env, "HTTP_X_A"), "1, 2", "two lines are one list");
    same(get(&env, "HTTP_COOKIE"), "a; b", "of cookies in their way");
    same(get(&env, "HTTP_PROXY"), "(none)", "no HTTP_PROXY");
    same(get(&env, "HTTP_AUTHORIZATION"), "(none)", "no credentials");
    same(get(&env, "CONTENT_LENGTH"), "(none)", "no length of no body");
    same(get(&env, "CONTENT_TYPE"), "t/t", "the content's type");
    same(get(&env, "PATH_INFO"), "/a/b%zz%", "the path, decoded");
    same(get(&env, "SCRIPT_NAME"), "", "all of it");
    same(get(&env, "REQUEST_URI"), "/a%2fb%zz%?x=%20&y", "and as it was sent");
    same(get(&env, "HTTPS"), "on", "by TLS");
    same(get(&env, "QUERY_STRING"), "x=%20&y", "the query, as it is");
    same(get(&env, "SERVER_NAME"), "[::1]", "the server's name");
    same(get(&env, "SERVER_PORT"), "8080", "the port the client came to");
    same(get(&env, "REMOTE_ADDR"), "7f00:1::1", "its address");
    same(get(&env, "OFFLOAD_ATTEMPT"), "7", "the attempt");
    cgi_free(&env);

    str(v.uri, "/a%00b");
    str(v.context, "u u h - x");
    v.headers.len = 0;
    v.fixed.body_size = 5;
    rq.extra = NULL;

    is(cgi_environment(&env, &rq), 0, "another one");
    same(get(&env, "PATH_INFO"), "/a%00b", "a NUL stays encoded");
    same(get(&env, "REMOTE_ADDR"), "", "a client without an address");
    same(get(&env, "SERVER_PORT"), "0", "or port");
    same(get(&env, "SERVER_PROTOCOL"), "HTTP/1.0", "without a Host");
    same(get(&env, "CONTENT_LENGTH"), "5", "the body's length");
    same(get(&env, "HTTPS"), "(none)", "without TLS");
    cgi_free(&env);
}


/* "script path query" of a context's last word, or of the uri without one. */

static const char *
target(const char *context)
{
    struct cgi_env             env;
    struct cgi_request         rq;
    struct zone_request_view   v;

    static char                say[128];
    static const uint8_t       id[ZONE_ID_SIZE] = { 1 };

    memset(&v, 0, sizeof(v));
    memset(&rq, 0, sizeof(rq));
    str(v.method, "GET");
    str(v.uri, "/u?q");
    v.context.data = context;
    v.context.len = strlen(context);
    rq.view = &v;
    rq.id = id;

    if (cgi_environment(&env, &rq) != 0) {
        return "(no memory)";
    }

    (void) snprintf(say, sizeof(say), "%s %s %s", get(&env, "SCRIPT_NAME"),
                    get(&env, "PATH_INFO"), get(&env, "QUERY_STRING"));
    cgi_free(&env);

    return say;
}


static void
test_target(void)
{
    int  i;

    static const struct {
        const char  *context, *is;
    } some[] = {
        { "u u h - b %2Fs:%2Fa%3Ab:c%3Dd%2526", "/s /a:b c=d%26" },
        { "u u h - b ::", "  " },
        { "u u h - b %2Fs:%2Fa:q more", "/s /a q" },
        { "u u h - b", " /u q" },
        { "u u h - b ", " /u q" },
        { "u u h - b %2Fs:%2Fa", " /u q" },
        { "u u h - b %2Fs", " /u q" },
        { "u", " /u q" },
        { "", " /u q" },
        { "     ", " /u q" },
        { "      a:b:c", " /u q" },
        { "     a:b:c", "a b c" },
    };

    for (i = 0; i < (int) ARRAY_LENGTH(some); i++) {
        same(target(some[i].context), some[i].is, "target %d", i);
    }
}


int
main(void)
{
    tap_begin();

    test_headers();
    test_long();
    test_environment();
    test_target();

    return tap_end();
}
