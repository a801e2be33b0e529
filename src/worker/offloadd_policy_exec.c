/*
 * policy.json's "exec" and "pass": a queue's command, or URL.  nginx -t has
 * looked at it;
 * here only its form counts, and a program that is gone is seen when it is to
 * be started.  Loop thread; main at the start.
 */

#include "offloadd_policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>


#define EXEC_WORDS_MAX        256

#define member(m)     offsetof(struct exec_policy, m)
#define member_size(m)  sizeof(((struct exec_policy *) 0)->m)

static const struct policy_key  exec_keys[] = {
    { "argv", POLICY_OTHER, 0, 0, 0, 0 },
    { "env", POLICY_OTHER, 0, 0, 0, 1 },
    { "dir", POLICY_PATH, member(dir), member_size(dir), 1, 1 },
    { "memory", POLICY_NUMBER, member(memory), INT64_MAX, 0, 1 },
    { "cpu_s", POLICY_COUNT, member(cpu_s), INT32_MAX, 0, 1 },
    { "processes", POLICY_COUNT, member(processes), INT32_MAX, 0, 1 },
    { "files", POLICY_COUNT, member(files), INT32_MAX, 0, 1 },
    { "progress_pattern", POLICY_OTHER, 0, 0, 0, 1 },
};


static void
exec_words_free(char **words)
{
    char  **p;

    for (p = words; p && *p; p++) {
        free(*p);
    }

    free(words);
}


void
exec_policy_release(struct exec_policy *p)
{
    if (p == NULL || --p->refs > 0) {
        return;
    }

    exec_words_free(p->argv);
    exec_words_free(p->env);
    exec_pattern_free(p->pattern);
    free(p);
}


static char **
exec_words(const json_t *list, const char *what, size_t min, const char *name,
    struct policy_error *e)
{
    char        **words;
    size_t        i, n;
    const char   *text;

    n = json_array_size(list);

    if (!json_is_array(list) || n < min || n > EXEC_WORDS_MAX) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"%s\" is not an array of %zu to %d strings",
                        name, what, min, EXEC_WORDS_MAX);
        return NULL;
    }

    words = calloc(n + 1, sizeof(*words));

    for (i = 0; words && i < n; i++) {
        text = json_string_value(json_array_get(list, i));

        if (text == NULL) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"%s\" has what is no string", name, what);
            exec_words_free(words);
            return NULL;
        }

        words[i] = strdup(text);

        if (words[i] == NULL) {
            exec_words_free(words);
            words = NULL;
        }
    }

    if (words == NULL) {
        (void) snprintf(e->text, sizeof(e->text), "%s: %s", name,
                        strerror(ENOMEM));
    }

    return words;
}


static int
exec_policy_read(struct exec_policy *p, const json_t *object, const char *name,
    struct policy_error *e)
{
    char     wrong[128];
    json_t  *env, *pattern;

    if (policy_members(p, exec_keys, ARRAY_LENGTH(exec_keys), object, name, e)
        != 0)
    {
        return -1;
    }

    p->argv = exec_words(json_object_get(object, "argv"), "argv", 1, name, e);
    if (p->argv == NULL) {
        return -1;
    }

    if (p->argv[0][0] != '/') {
        (void) snprintf(e->text, sizeof(e->text), "%s: \"argv\" begins with "
                        "\"%.128s\", must begin with an absolute path", name,
                        p->argv[0]);
        return -1;
    }

    env = json_object_get(object, "env");

    if (env) {
        p->env = exec_words(env, "env", 0, name, e);
        if (p->env == NULL) {
            return -1;
        }
    }

    pattern = json_object_get(object, "progress_pattern");

    if (pattern == NULL) {
        return 0;
    }

    (void) snprintf(wrong, sizeof(wrong), "it is no string");

    p->pattern = json_is_string(pattern)
                 ? exec_pattern(json_string_value(pattern), wrong,
                                sizeof(wrong))
                 : NULL;

    if (p->pattern == NULL) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"progress_pattern\" is not good: %s", name,
                        wrong);
        return -1;
    }

    return 0;
}


struct exec_policy *
policy_exec(const json_t *object, const char *name, struct policy_error *e)
{
    struct exec_policy  *p;

    p = calloc(1, sizeof(*p));
    if (p == NULL) {
        (void) snprintf(e->text, sizeof(e->text), "%s: %s", name,
                        strerror(ENOMEM));
        return NULL;
    }

    p->refs = 1;

    if (exec_policy_read(p, object, name, e) != 0) {
        exec_policy_release(p);
        return NULL;
    }

    return p;
}


#define url(m)        offsetof(struct pass_policy, m)
#define url_size(m)   sizeof(((struct pass_policy *) 0)->m)

static const struct policy_key  pass_keys[] = {
    { "url", POLICY_STRING, url(url), url_size(url), 1, 0 },
    { "ca", POLICY_PATH, url(ca), url_size(ca), 1, 1 },
};


struct pass_policy *
policy_pass(const json_t *object, const char *name, struct policy_error *e)
{
    struct pass_policy  *p;

    p = calloc(1, sizeof(*p));
    if (p == NULL) {
        (void) snprintf(e->text, sizeof(e->text), "%s: %s", name,
                        strerror(ENOMEM));
        return NULL;
    }

    if (policy_members(p, pass_keys, ARRAY_LENGTH(pass_keys), object, name, e)
        != 0)
    {
        free(p);
        return NULL;
    }

    if ((strncmp(p->url, "http://", 7) != 0
         && strncmp(p->url, "https://", 8) != 0)
        || strpbrk(p->url, " ?#@") != NULL)
    {
        (void) snprintf(e->text, sizeof(e->text), "%s: \"url\" is \"%.128s\", "
                        "must be http://host/path or https://host/path", name,
                        p->url);
        free(p);
        return NULL;
    }

    return p;
}
