/*
 * policy.json: what nginx.conf says to the worker.  nginx writes it beside
 * the zone at each load (a temporary file, renamed), so a reader sees one
 * whole version or another.  Read by the loop thread (main, at the start),
 * and again whenever the file is another one.
 *
 * Strict: a key that is missing, unknown, of another type or out of range is
 * refused by name.  The module and the worker come from one build; a
 * policy this worker does not understand whole is not one to guess about.
 */

#include "offloadd_policy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>


#define POLICY_LAYOUT         1
#define POLICY_FILE_MAX       (4 * 1024 * 1024)


#define member(m)     offsetof(struct policy, m)
#define member_size(m)  sizeof(((struct policy *) 0)->m)

static const struct policy_key  policy_keys[] = {
    { "layout", POLICY_LAYOUT_KEY, 0, 0, 0, 0 },
    { "zone", POLICY_STRING, member(zone), member_size(zone), 1, 0 },
    { "path", POLICY_PATH, member(path), member_size(path), 1, 0 },
    { "store", POLICY_PATH, member(store), member_size(store) - 64, 1, 0 },
    { "durability", POLICY_DURABILITY, member(durability), 0, 0, 0 },
    { "max_bytes", POLICY_NUMBER, member(max_bytes), INT64_MAX, 0, 0 },
    { "concurrency", POLICY_COUNT, member(concurrency),
      POLICY_CONCURRENCY_MAX, 1, 0 },
    { "ttl_ms", POLICY_NUMBER, member(ttl_ms), POLICY_MS_MAX, 1, 0 },
    { "tombstone_ms", POLICY_NUMBER, member(tombstone_ms), POLICY_MS_MAX, 0,
      0 },
    { "leave_ms", POLICY_NUMBER, member(leave_ms), POLICY_MS_MAX, 0, 0 },
    { "log", POLICY_STRING, member(log), member_size(log), 0, 0 },
    { "log_level", POLICY_LEVEL, member(log_level), 0, 0, 0 },
    { "queues", POLICY_OTHER, 0, 0, 0, 1 },
    { "webhooks", POLICY_OTHER, 0, 0, 0, 1 },
};


static int policy_string(void *p, const struct policy_key *k,
    const char *text, const char *name, struct policy_error *e);
static int policy_number(void *p, const struct policy_key *k,
    const json_t *v, const char *name, struct policy_error *e);


static int
policy_value(void *p, const struct policy_key *k, const json_t *v,
    const char *name, struct policy_error *e)
{
    switch (k->type) {

    case POLICY_NUMBER:
    case POLICY_COUNT:
    case POLICY_LAYOUT_KEY:

        if (!json_is_integer(v)) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"%s\" is not an integer", name, k->name);
            return -1;
        }

        return policy_number(p, k, v, name, e);

    case POLICY_BOOL:

        if (!json_is_boolean(v)) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"%s\" is not true or false", name,
                            k->name);
            return -1;
        }

        *((uint8_t *) p + k->offset) = json_is_true(v);
        return 0;

    case POLICY_OTHER:

        return 0;

    default:

        if (!json_is_string(v)) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"%s\" is not a string", name, k->name);
            return -1;
        }

        return policy_string(p, k, json_string_value(v), name, e);
    }
}


static int
policy_number(void *p, const struct policy_key *k, const json_t *v,
    const char *name, struct policy_error *e)
{
    json_int_t  n = json_integer_value(v);

    if (k->type == POLICY_LAYOUT_KEY) {
        if (n != POLICY_LAYOUT) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"layout\" is %lld, this offloadd knows %d: "
                            "nginx's module and offloadd must be of the same "
                            "version", name, (long long) n, POLICY_LAYOUT);
            return -1;
        }

        return 0;
    }

    if (n < 0 || (uint64_t) n < k->min || (uint64_t) n > k->size) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"%s\" is %lld, must be %llu to %llu",
                        name, k->name, (long long) n,
                        (unsigned long long) k->min,
                        (unsigned long long) k->size);
        return -1;
    }

    if (k->type == POLICY_COUNT) {
        *(uint32_t *) ((char *) p + k->offset) = (uint32_t) n;

    } else {
        *(uint64_t *) ((char *) p + k->offset) = (uint64_t) n;
    }

    return 0;
}


static int
policy_string(void *p, const struct policy_key *k, const char *text,
    const char *name, struct policy_error *e)
{
    int     level;
    char   *to = (char *) p + k->offset;
    size_t  len = strlen(text);

    switch (k->type) {

    case POLICY_DURABILITY:

        if (strcmp(text, "memory") == 0) {
            *(int *) to = DURABILITY_MEMORY;

        } else if (strcmp(text, "disk") == 0) {
            *(int *) to = DURABILITY_DISK;

        } else {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"durability\" is \"%.64s\", must be "
                            "\"memory\" or \"disk\"", name, text);
            return -1;
        }

        return 0;

    case POLICY_LEVEL:

        level = log_level_parse(text);
        if (level == -1) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"log_level\" is \"%.64s\", must be debug, "
                            "info, notice, warn or error", name, text);
            return -1;
        }

        *(int *) to = level;
        return 0;

    case POLICY_JITTER:

        if (strcmp(text, "full") != 0 && strcmp(text, "none") != 0) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"%s\" is \"%.64s\", must be \"full\" or "
                            "\"none\"", name, k->name, text);
            return -1;
        }

        *(uint32_t *) to = text[0] == 'f';
        return 0;

    default:
        break;
    }

    if (len < k->min || len >= k->size) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"%s\" has %zu characters, must have %zu to %zu",
                        name, k->name, len, (size_t) k->min, k->size - 1);
        return -1;
    }

    if (k->type == POLICY_PATH && text[0] != '/') {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: \"%s\" is \"%.128s\", must be an absolute path",
                        name, k->name, text);
        return -1;
    }

    memcpy(to, text, len + 1);

    return 0;
}


int
policy_members(void *to, const struct policy_key *keys, size_t n,
    const json_t *object, const char *name, struct policy_error *e)
{
    size_t       i;
    json_t      *v;
    const char  *key;

    if (!json_is_object(object)) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: not a JSON object", name);
        return -1;
    }

    for (i = 0; i < n; i++) {
        v = json_object_get(object, keys[i].name);

        if (v == NULL && keys[i].optional) {
            continue;
        }

        if (v == NULL) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: \"%s\" is missing", name, keys[i].name);
            return -1;
        }

        if (policy_value(to, &keys[i], v, name, e) != 0) {
            return -1;
        }
    }

    json_object_foreach((json_t *) (uintptr_t) object, key, v) {
        for (i = 0; i < n; i++) {
            if (strcmp(key, keys[i].name) == 0) {
                break;
            }
        }

        if (i == n) {
            (void) snprintf(e->text, sizeof(e->text),
                            "%s: unknown key \"%.64s\"", name, key);
            return -1;
        }
    }

    return 0;
}


int
policy_parse(struct policy *p, const char *text, size_t len, const char *name,
    struct policy_error *e)
{
    int            rc;
    json_t        *root;
    json_error_t   err;

    memset(p, 0, sizeof(*p));

    root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &err);
    if (root == NULL) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s:%d:%d: %s", name, err.line, err.column, err.text);
        return -1;
    }

    rc = policy_members(p, policy_keys, ARRAY_LENGTH(policy_keys), root, name,
                        e);

    if (rc == 0) {
        rc = policy_queues(p, json_object_get(root, "queues"), name, e);
    }

    if (rc == 0) {
        rc = hook_policy(&p->hooks, json_object_get(root, "webhooks"), name,
                         e);
    }

    json_decref(root);

    if (rc != 0) {
        policy_free(p);
    }

    return rc;
}


void
policy_free(struct policy *p)
{
    uint32_t  i;

    for (i = 0; i < p->nqueues; i++) {
        exec_policy_release(p->queues[i].exec);
        free(p->queues[i].pass);
    }

    hook_policy_free(&p->hooks);
    free(p->queues);
    p->queues = NULL;
    p->nqueues = 0;
}


int
policy_load(struct policy *p, const char *file, struct policy_error *e)
{
    int          fd, rc;
    char        *text;
    ssize_t      n;
    struct stat  st;

    fd = open(file, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
    if (fd == -1 || fstat(fd, &st) == -1) {
        (void) snprintf(e->text, sizeof(e->text), "%s: %s (nginx writes it "
                        "when it loads its configuration)", file,
                        strerror(errno));
        if (fd != -1) {
            close(fd);
        }
        return -1;
    }

    if (!S_ISREG(st.st_mode) || st.st_size > POLICY_FILE_MAX) {
        (void) snprintf(e->text, sizeof(e->text),
                        "%s: not a file of at most %d bytes", file,
                        POLICY_FILE_MAX);
        close(fd);
        return -1;
    }

    text = malloc((size_t) st.st_size + 1);
    n = text ? read(fd, text, (size_t) st.st_size) : -1;
    if (n == -1) {
        (void) snprintf(e->text, sizeof(e->text), "%s: %s", file,
                        strerror(errno));
        rc = -1;

    } else {
        rc = policy_parse(p, text, (size_t) n, file, e);
    }

    free(text);
    close(fd);

    return rc;
}


const char *
policy_fixed_differs(const struct policy *a, const struct policy *b)
{
    if (strcmp(a->zone, b->zone) != 0) {
        return "zone";
    }

    if (strcmp(a->path, b->path) != 0) {
        return "path";
    }

    if (strcmp(a->store, b->store) != 0) {
        return "store";
    }

    if (a->durability != b->durability) {
        return "durability";
    }

    return NULL;
}


void
policy_note(struct offloadd *d)
{
    struct stat  st;

    if (stat(d->policy_file, &st) == 0) {
        d->policy_ino = st.st_ino;
        d->policy_mtime = st.st_mtim;
    }
}


/* 1 if the file is not the one that was read last. */

static int
policy_is_new(const struct offloadd *d)
{
    struct stat  st;

    return stat(d->policy_file, &st) == 0
           && (st.st_ino != d->policy_ino
               || st.st_mtim.tv_sec != d->policy_mtime.tv_sec
               || st.st_mtim.tv_nsec != d->policy_mtime.tv_nsec);
}


void
policy_reload(struct offloadd *d, int forced)
{
    const char           *differs;
    struct policy         p, old;
    struct policy_error   e;

    if (!forced && !policy_is_new(d)) {
        return;
    }

    policy_note(d);

    if (policy_load(&p, d->policy_file, &e) != 0) {
        log_text(LOG_ERROR, "the policy is kept as it was: %s", e.text);
        return;
    }

    differs = policy_fixed_differs(&d->policy, &p);

    if (differs) {
        log_text(LOG_WARN, "\"%s\" of the policy has changed: that takes a "
                 "restart of the worker (SIGTERM)", differs);
    }

    d->policy.concurrency = p.concurrency;
    d->policy.ttl_ms = p.ttl_ms;
    d->policy.tombstone_ms = p.tombstone_ms;
    d->policy.max_bytes = p.max_bytes;
    d->policy.leave_ms = p.leave_ms;
    d->policy.log_level = p.log_level;
    memcpy(d->policy.log, p.log, sizeof(p.log));

    old = d->policy;                            /* queues look into it */
    d->policy.queues = p.queues;
    d->policy.nqueues = p.nqueues;
    d->policy.hooks = p.hooks;

    if (sched_configure(d) != 0) {
        log_text(LOG_ERROR, "no memory for the policy's queues: the worker "
                 "leaves, to be started again");
        loop_fatal(d);

    } else {
        policy_free(&old);
    }

    atomic_store(&d->store.ttl_ms, p.ttl_ms);
    atomic_store(&d->store.tombstone_ms, p.tombstone_ms);
    atomic_store(&d->store.max_bytes, p.max_bytes);

    if (log_open(p.log, p.log_level) != 0) {
        log_text(LOG_ERROR, "log %s: %s", p.log, strerror(errno));
    }

    log_text(LOG_NOTICE, "policy read: concurrency %u, %u queue%s",
             p.concurrency, p.nqueues, p.nqueues == 1 ? "" : "s");
}
