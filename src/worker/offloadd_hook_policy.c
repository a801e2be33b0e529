/*
 * policy.json's "webhooks": names of files with secrets and certificates, and
 * where clients may have news sent.  What is in the files is read here, by
 * the worker's user, and stays in its memory.  Loop thread; main at the start.
 */

#include "offloadd_policy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>


#define HOOK_FILES_MAX        7168
#define HOOK_FILE_MAX         256
#define HOOK_KEY_MIN          24


static const struct policy_key  hook_keys[] = {
    { "secrets", POLICY_OTHER, 0, 0, 0, 0 },
    { "cas", POLICY_OTHER, 0, 0, 0, 0 },
    { "allow", POLICY_OTHER, 0, 0, 0, 0 },
};


static int
hook_no_memory(const char *name, struct policy_error *e)
{
    (void) snprintf(e->text, sizeof(e->text), "%s: %s", name,
                    strerror(ENOMEM));
    return -1;
}


/* "whsec_" and base64: how many bytes, 0 when it is no secret. */

static uint32_t
hook_decode(uint8_t key[HOOK_SECRET_MAX], const char *text, size_t len)
{
    int      n;
    size_t   pad;
    uint8_t  out[HOOK_FILE_MAX];

    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r')) {
        len--;
    }

    if (len <= 6 || len > HOOK_FILE_MAX || memcmp(text, "whsec_", 6) != 0) {
        return 0;
    }

    text += 6;
    len -= 6;

    n = EVP_DecodeBlock(out, (const unsigned char *) text, (int) len);

    for (pad = 0; pad < 2 && pad < len && text[len - 1 - pad] == '='; ) {
        pad++;
    }

    n -= (int) pad;

    if (n < HOOK_KEY_MIN || n > HOOK_SECRET_MAX) {
        n = 0;
    }

    memcpy(key, out, (size_t) n);
    explicit_bzero(out, sizeof(out));

    return (uint32_t) n;
}


/* A secret that can not be read is missed when something is to be signed. */

static void
hook_read(struct hook_file *f)
{
    int          fd;
    char         text[HOOK_FILE_MAX];
    ssize_t      n;
    struct stat  st;

    fd = open(f->name, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);

    if (fd == -1 || fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)
        || (st.st_mode & (S_IROTH|S_IWOTH)))
    {
        log_text(LOG_ERROR, "webhooks: %.256s can not be used: %s: what is "
                 "to be signed with it waits", f->name,
                 fd == -1 ? strerror(errno)
                          : "not a file, or others may read it");
        if (fd != -1) {
            close(fd);
        }
        return;
    }

    n = read(fd, text, sizeof(text));
    close(fd);

    f->len = n > 0 ? hook_decode(f->key, text, (size_t) n) : 0;
    explicit_bzero(text, sizeof(text));

    if (f->len == 0) {
        log_text(LOG_ERROR, "webhooks: there is no \"whsec_\" and 24 to 64 "
                 "bytes in base64 in %.256s: what is to be signed with it "
                 "waits", f->name);
    }
}


static int
hook_files(struct hook_file **files, uint32_t *count, const json_t *list,
    int secret, const char *name, struct policy_error *e)
{
    size_t             i, n;
    const char        *text;
    struct hook_file  *f;

    n = json_array_size(list);

    if (!json_is_array(list) || n > HOOK_FILES_MAX) {
        (void) snprintf(e->text, sizeof(e->text), "%s: \"webhooks\" has no "
                        "array of at most %d files", name, HOOK_FILES_MAX);
        return -1;
    }

    *files = calloc(n + 1, sizeof(**files));
    if (*files == NULL) {
        return hook_no_memory(name, e);
    }

    for (i = 0; i < n; i++) {
        text = json_string_value(json_array_get(list, i));

        if (text == NULL || text[0] != '/') {
            (void) snprintf(e->text, sizeof(e->text), "%s: \"webhooks\" has "
                            "a file without an absolute path", name);
            return -1;
        }

        f = &(*files)[i];
        f->name = strdup(text);
        if (f->name == NULL) {
            return hook_no_memory(name, e);
        }

        (*count)++;
        f->hash = zone_key_hash(text, strlen(text));

        if (secret) {
            hook_read(f);
        }
    }

    return 0;
}


/* "host", ".domain", "address" or "address/bits" */

static int
hook_allow(struct hook_allow *a, const char *text)
{
    char    *slash, *end;
    size_t   max;

    a->name = strdup(text);
    if (a->name == NULL) {
        return -1;
    }

    slash = strchr(a->name, '/');

    if (slash) {
        *slash = '\0';
    }

    a->family = inet_pton(AF_INET, a->name, a->addr) == 1 ? AF_INET
                : inet_pton(AF_INET6, a->name, a->addr) == 1 ? AF_INET6 : 0;
    max = a->family == AF_INET ? 32 : 128;
    a->bits = (uint32_t) max;

    if (slash) {
        if (a->family == 0 || slash[1] == '\0') {
            return -1;
        }

        a->bits = (uint32_t) strtoul(slash + 1, &end, 10);

        if (*end != '\0' || a->bits > max) {
            return -1;
        }
    }

    return 0;
}


static int
hook_allowed(struct hook_policy *p, const json_t *allow, const char *name,
    struct policy_error *e)
{
    size_t              i;
    json_t             *list, *v;
    const char         *queue, *text;
    struct hook_allow  *a;

    json_object_foreach((json_t *) (uintptr_t) allow, queue, list) {
        json_array_foreach(list, i, v) {
            a = realloc(p->allow, (p->nallow + 1) * sizeof(*a));
            if (a == NULL) {
                return hook_no_memory(name, e);
            }

            p->allow = a;
            a += p->nallow++;
            memset(a, 0, sizeof(*a));
            a->queue = zone_queue_hash(queue, strlen(queue));
            text = json_string_value(v);

            if (text == NULL || hook_allow(a, text) != 0) {
                (void) snprintf(e->text, sizeof(e->text), "%s: \"allow\" of "
                                "queue \"%.64s\" has \"%.64s\", must have "
                                "names of hosts, addresses and CIDRs", name,
                                queue, text ? text : "(not a string)");
                return -1;
            }
        }
    }

    return 0;
}


int
hook_policy(struct hook_policy *p, const json_t *o, const char *name,
    struct policy_error *e)
{
    if (o == NULL) {
        return 0;
    }

    if (policy_members(p, hook_keys, ARRAY_LENGTH(hook_keys), o, name, e)
        != 0)
    {
        return -1;
    }

    return hook_files(&p->secrets, &p->nsecrets,
                      json_object_get(o, "secrets"), 1, name, e) == 0
           && hook_files(&p->cas, &p->ncas, json_object_get(o, "cas"), 0,
                         name, e) == 0
           && hook_allowed(p, json_object_get(o, "allow"), name, e) == 0
           ? 0 : -1;
}


static void
hook_files_free(struct hook_file *f, uint32_t n)
{
    uint32_t  i;

    for (i = 0; i < n; i++) {
        explicit_bzero(f[i].key, sizeof(f[i].key));
        free(f[i].name);
    }

    free(f);
}


void
hook_policy_free(struct hook_policy *p)
{
    uint32_t  i;

    hook_files_free(p->secrets, p->nsecrets);
    hook_files_free(p->cas, p->ncas);

    for (i = 0; i < p->nallow; i++) {
        free(p->allow[i].name);
    }

    free(p->allow);
    memset(p, 0, sizeof(*p));
}


const struct hook_file *
hook_secret(const struct hook_policy *p, uint64_t hash)
{
    uint32_t  i;

    for (i = 0; i < p->nsecrets; i++) {
        if (p->secrets[i].hash == hash) {
            return p->secrets[i].len ? &p->secrets[i] : NULL;
        }
    }

    return NULL;
}


const struct hook_file *
hook_ca(const struct hook_policy *p, uint64_t hash)
{
    uint32_t  i;

    for (i = 0; i < p->ncas; i++) {
        if (p->cas[i].hash == hash) {
            return &p->cas[i];
        }
    }

    return NULL;
}


static int
hook_in(const uint8_t *addr, const uint8_t *net, uint32_t bits)
{
    uint8_t  mask;

    if (memcmp(addr, net, bits / 8) != 0) {
        return 0;
    }

    mask = (uint8_t) (0xff00 >> (bits % 8));

    return bits % 8 == 0 || ((addr[bits / 8] ^ net[bits / 8]) & mask) == 0;
}


/*
 * All that is not a public unicast address: what the network itself, this
 * machine, and the neighbourhood use, and addresses that stand for IPv4 ones
 * that do.
 */

static int
hook_is_private(int family, const uint8_t *addr)
{
    size_t  i;

    static const struct {
        int      family;
        uint8_t  bits;
        uint8_t  net[16];
    } nets[] = {
        { AF_INET, 8, { 0 } },
        { AF_INET, 8, { 10 } },
        { AF_INET, 10, { 100, 64 } },
        { AF_INET, 8, { 127 } },
        { AF_INET, 16, { 169, 254 } },
        { AF_INET, 12, { 172, 16 } },
        { AF_INET, 24, { 192, 0, 0 } },
        { AF_INET, 24, { 192, 0, 2 } },
        { AF_INET, 24, { 192, 88, 99 } },
        { AF_INET, 16, { 192, 168 } },
        { AF_INET, 15, { 198, 18 } },
        { AF_INET, 24, { 198, 51, 100 } },
        { AF_INET, 24, { 203, 0, 113 } },
        { AF_INET, 3, { 224 } },                /* multicast, reserved */
        { AF_INET6, 16, { 0x20, 0x02 } },       /* 6to4 */
        { AF_INET6, 32, { 0x20, 0x01 } },       /* Teredo */
        { AF_INET6, 32, { 0x20, 0x01, 0x0d, 0xb8 } },
    };

    static const uint8_t  mapped[12] = { [10] = 0xff, [11] = 0xff };
    static const uint8_t  nat64[12] = { 0, 0x64, 0xff, 0x9b };

    if (family == AF_INET6 && (memcmp(addr, mapped, 12) == 0
                               || memcmp(addr, nat64, 12) == 0))
    {
        return hook_is_private(AF_INET, addr + 12);
    }

    if (family == AF_INET6 && (addr[0] & 0xe0) != 0x20) {
        return 1;                               /* not global unicast */
    }

    for (i = 0; i < ARRAY_LENGTH(nets); i++) {
        if (nets[i].family == family
            && hook_in(addr, nets[i].net, nets[i].bits))
        {
            return 1;
        }
    }

    return family != AF_INET && family != AF_INET6;
}


int
hook_permits(const struct hook_policy *p, uint32_t queue, uint32_t flags,
    const struct zone_str *host, int family, const uint8_t *addr)
{
    int                       named;
    uint32_t                  i;
    const struct hook_allow  *a;

    static const uint8_t  mapped[12] = { [10] = 0xff, [11] = 0xff };

    if (!(flags & ZONE_HOOK_GUARDED)) {
        return 1;                               /* the operator's own */
    }

    if (family == AF_INET6 && memcmp(addr, mapped, 12) == 0) {
        family = AF_INET;
        addr += 12;
    }

    named = !(flags & ZONE_HOOK_CLIENT);

    for (i = 0; i < p->nallow; i++) {
        a = &p->allow[i];

        if (a->queue != queue) {
            continue;
        }

        if (a->family == family && hook_in(addr, a->addr, a->bits)) {
            return 1;
        }

        if (a->family == 0
            && zone_hook_host_allowed(a->name, strlen(a->name), host))
        {
            named = 1;
        }
    }

    return named && !hook_is_private(family, addr);
}
