/*
 * Is a body one value of JSON?  Asked of each item of each batch, by the loop
 * thread, which has nothing else to do with it: jansson, which makes a tree of
 * it, took more than half of all the CPU time of an event of 1 KB.  So the
 * grammar of RFC 8259 is a pattern, which says yes about seven times as fast.
 * What it does not say yes to is jansson's: to refuse it with a reason, or
 * accept what went deeper than the pattern's stack.
 */

#define PCRE2_CODE_UNIT_WIDTH  8

#include "offloadd.h"

#include <jansson.h>
#include <pcre2.h>


#define JSON_SPACE  "[ \\t\\r\\n]*+"
#define JSON_HEX    "[[:xdigit:]]"

/*
 * Nothing in it is tried twice: all quantifiers are possessive, and no two
 * branches begin alike.  A surrogate goes with the other half.
 */

static const char  json_grammar[] =
    "(?(DEFINE)"
    "(?<string>\"(?:[^\"\\\\\\x00-\\x1f]++|\\\\(?:[\"\\\\/bfnrt]|u(?:"
        "[0-9a-cefA-CEF]" JSON_HEX "{3}|[dD](?:[0-7]" JSON_HEX "{2}"
        "|[89abAB]" JSON_HEX "{2}\\\\u[dD][c-fC-F]" JSON_HEX "{2}))))*+\")"
    "(?<number>-?+(?:0|[1-9][0-9]*+)(?:\\.[0-9]++)?+(?:[eE][-+]?+[0-9]++)?+)"
    "(?<member>" JSON_SPACE "(?&string)" JSON_SPACE ":(?&value))"
    "(?<value>" JSON_SPACE "(?:(?&string)|(?&number)|true|false|null"
        "|\\{(?:(?&member)(?:,(?&member))*+|" JSON_SPACE ")\\}"
        "|\\[(?:(?&value)(?:,(?&value))*+|" JSON_SPACE ")\\])" JSON_SPACE ")"
    ")\\A(?&value)\\z";

/* Made for the first item, and there as long as the process. */

static pcre2_code        *json_code;
static pcre2_match_data  *json_match;


static int
json_matches(const void *p, size_t n)
{
    int     err;
    size_t  at;

    if (json_code == NULL) {
        json_code = pcre2_compile((PCRE2_SPTR) json_grammar,
                                  PCRE2_ZERO_TERMINATED, PCRE2_UTF, &err, &at,
                                  NULL);
        if (json_code == NULL) {
            return 0;
        }

        /* without it, it is only slower */
        (void) pcre2_jit_compile(json_code, PCRE2_JIT_COMPLETE);
    }

    if (json_match == NULL) {
        json_match = pcre2_match_data_create(1, NULL);

        if (json_match == NULL) {
            return 0;
        }
    }

    return pcre2_match(json_code, p, n, 0, 0, json_match, NULL) > 0;
}


int
bulk_json(const void *p, size_t n, char *wrong, size_t size)
{
    json_t        *json;
    json_error_t   error;

    if (n == 0) {
        (void) snprintf(wrong, size, "the body is no JSON: it is empty");
        return REPLAY_NO_ITEM;
    }

    if (json_matches(p, n)) {
        return 0;
    }

    json = json_loadb(p, n,
                      JSON_DECODE_ANY|JSON_DECODE_INT_AS_REAL|JSON_ALLOW_NUL,
                      &error);

    if (json) {
        json_decref(json);
        return 0;
    }

    (void) snprintf(wrong, size, "the body is no JSON: %s", error.text);

    return json_error_code(&error) == json_error_out_of_memory
           ? -1 : REPLAY_NO_ITEM;
}
