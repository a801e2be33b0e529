/*
 * Log lines in logfmt: key=value, one write() a line, so that lines of two
 * threads never mix.  Both threads write; only the loop thread opens.  A
 * reopened file takes over the old descriptor's number by dup2(), so the
 * other thread needs no lock.  A kill leaves a whole line or none.
 *
 * Values come from anywhere: they are quoted and escaped here.  Headers and
 * bodies of requests are never given to these functions.  A job's id may be
 * all it takes to get at the job: it is written whole to a file that others
 * can not read, and cut on standard error, which is somebody else's log.
 */

#include "offloadd.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>


static const char *const  log_names[LOG_LEVELS] = {
    "debug", "info", "notice", "warn", "error"
};

#define LOG_ID_CUT  8                   /* characters that are left of an id */


static char         log_path[PATH_MAX];
static int          log_fd = STDERR_FILENO;
static _Atomic int  log_wanted = LOG_INFO;
static _Atomic int  log_starting = 1;
static _Atomic int  log_shared = 1;     /* on standard error */


int
log_level_parse(const char *name)
{
    int  i;

    for (i = 0; i < LOG_LEVELS; i++) {
        if (strcmp(name, log_names[i]) == 0) {
            return i;
        }
    }

    return -1;
}


/* From now on standard error, which may be nginx's log, has its peace. */

void
log_started(void)
{
    atomic_store(&log_starting, 0);
}


/* nginx makes its logs for all to read. */

static int
log_open_file(const char *path)
{
    int          fd;
    struct stat  st;

    fd = open(path, O_WRONLY|O_APPEND|O_CREAT|O_CLOEXEC|O_NOCTTY, 0640);

    if (fd != -1 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)
        && (st.st_mode & 07) != 0
        && fchmod(fd, st.st_mode & 07770) == -1)
    {
        log_text(LOG_WARN, "log %.300s: others can read it: %s", path,
                 strerror(errno));
    }

    return fd;
}


int
log_open(const char *path, int level)
{
    int  fd;

    atomic_store(&log_wanted, level);

    if (strcmp(path, log_path) == 0) {
        return 0;
    }

    if (path[0] == '\0') {
        fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);

    } else {
        fd = log_open_file(path);
    }

    if (fd == -1) {
        return -1;
    }

    atomic_store(&log_shared, 1);               /* while it is either */

    if (log_fd == STDERR_FILENO) {
        log_fd = fd;

    } else {
        (void) dup3(fd, log_fd, O_CLOEXEC);
        close(fd);
    }

    (void) snprintf(log_path, sizeof(log_path), "%s", path);
    atomic_store(&log_shared, path[0] == '\0');

    return 0;
}


/* The file was moved away or removed: go on in a new one. */

void
log_tick(void)
{
    int          fd;
    struct stat  now, ours;

    if (log_path[0] == '\0') {
        return;
    }

    if (stat(log_path, &now) == 0 && fstat(log_fd, &ours) == 0
        && now.st_ino == ours.st_ino && now.st_dev == ours.st_dev)
    {
        return;
    }

    fd = log_open_file(log_path);
    if (fd == -1) {
        return;                         /* the old one still takes lines */
    }

    (void) dup3(fd, log_fd, O_CLOEXEC);
    close(fd);
}


static void
log_raw(struct log_line *l, const char *p, size_t n)
{
    /* 2 bytes stay for the closing quote and the newline */

    if (n > sizeof(l->text) - 2 - l->len) {
        n = sizeof(l->text) - 2 - l->len;
    }

    memcpy(l->text + l->len, p, n);
    l->len += n;
}


static void
log_key(struct log_line *l, const char *key)
{
    log_raw(l, " ", 1);
    log_raw(l, key, strlen(key));
    log_raw(l, "=", 1);
}


static int
log_plain(const char *value)
{
    const unsigned char  *p;

    if (value[0] == '\0') {
        return 0;
    }

    for (p = (const unsigned char *) value; *p; p++) {
        if (*p <= ' ' || *p == '"' || *p == '=' || *p == '\\' || *p >= 0x7f) {
            return 0;
        }
    }

    return 1;
}


static void
log_quoted(struct log_line *l, const char *value)
{
    int                   n;
    char                  esc[8];
    const unsigned char  *p;

    log_raw(l, "\"", 1);

    for (p = (const unsigned char *) value; *p; p++) {

        if (*p == '"' || *p == '\\') {
            n = snprintf(esc, sizeof(esc), "\\%c", *p);

        } else if (*p < ' ' || *p == 0x7f) {
            n = snprintf(esc, sizeof(esc), "\\x%02x", *p);

        } else {
            esc[0] = (char) *p;
            n = 1;
        }

        if (l->len + (size_t) n > sizeof(l->text) - 2) {
            break;                      /* never half an escape */
        }

        log_raw(l, esc, (size_t) n);
    }

    l->text[l->len++] = '"';
}


int
log_begin(struct log_line *l, int level, const char *msg)
{
    int              n;
    struct tm        tm;
    struct timespec  ts;

    if (level < atomic_load_explicit(&log_wanted, memory_order_relaxed)) {
        return 0;
    }

    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);

    n = snprintf(l->text, sizeof(l->text),
                 "ts=%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ level=%s",
                 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
                 tm.tm_min, tm.tm_sec, ts.tv_nsec / 1000000,
                 log_names[level]);

    l->len = (size_t) n;
    l->level = level;
    log_str(l, "msg", msg);

    return 1;
}


void
log_id(struct log_line *l, const char *key, const uint8_t *id)
{
    char  text[ZONE_ID_TEXT];

    zone_id_format(text, id);
    log_key(l, key);
    log_raw(l, text, sizeof(text));
}


void
log_uint(struct log_line *l, const char *key, uint64_t value)
{
    int   n;
    char  text[24];

    n = snprintf(text, sizeof(text), "%llu", (unsigned long long) value);
    log_key(l, key);
    log_raw(l, text, (size_t) n);
}


void
log_str(struct log_line *l, const char *key, const char *value)
{
    /* a field without room for itself is left out, not cut in its name */

    if (l->len + strlen(key) + 8 > sizeof(l->text)) {
        return;
    }

    log_key(l, key);

    if (log_plain(value)) {
        log_raw(l, value, strlen(value));

    } else {
        log_quoted(l, value);
    }
}


/* Wherever it stands: file names are made of ids, too. */

static void
log_cut_ids(struct log_line *l)
{
    char     *p, *end, *last;
    uint8_t   id[ZONE_ID_SIZE];

    last = l->text + l->len;

    for (p = l->text; p < last; p = end + 1) {
        for (end = p; end < last && isalnum((unsigned char) *end); end++) {
            /* void */
        }

        if (zone_id_parse(id, p, (size_t) (end - p)) != 0) {
            continue;
        }

        p += LOG_ID_CUT;
        memmove(p, end, (size_t) (last - end));
        last -= end - p;
        l->len = (size_t) (last - l->text);
        end = p;
    }
}


void
log_end(struct log_line *l)
{
    ssize_t  n;

    if (atomic_load_explicit(&log_shared, memory_order_relaxed)) {
        log_cut_ids(l);
    }

    l->text[l->len++] = '\n';

    do {
        n = write(log_fd, l->text, l->len);
    } while (n == -1 && errno == EINTR);

    /* why it does not even start should not be looked for */

    if (l->level == LOG_ERROR && log_path[0] != '\0'
        && atomic_load_explicit(&log_starting, memory_order_relaxed))
    {
        log_cut_ids(l);
        (void) !write(STDERR_FILENO, l->text, l->len);
    }
}


void
log_text(int level, const char *fmt, ...)
{
    char             text[1024];
    va_list          args;
    struct log_line  l;

    va_start(args, fmt);
    (void) vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);

    if (log_begin(&l, level, text)) {
        log_end(&l);
    }
}
