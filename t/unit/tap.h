/*
 * TAP for C: a counted "ok" or "not ok" line for each check, a plan at the
 * end, exit code 1 if a check failed or the program did not reach its end.
 * Each program is one file, so all of this is static.
 */

#ifndef OFFLOAD_TAP_H
#define OFFLOAD_TAP_H

#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>


#define TAP_LIMIT  180                          /* s, should something hang */

static int    tap_count, tap_failed;
static pid_t  tap_pid;
static char   tap_dir[PATH_MAX];


static inline void tap_say(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));
static inline int tap_ok(int good, const char *file, int line,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#define ok(good, ...)    tap_ok(!!(good), __FILE__, __LINE__, __VA_ARGS__)
#define is(got, want, ...)                                                    \
    tap_is((intmax_t) (got), (intmax_t) (want), __FILE__, __LINE__,           \
           __VA_ARGS__)
#define like(text, part, ...)                                                 \
    tap_like(text, part, __FILE__, __LINE__, __VA_ARGS__)
#define must(done)                                                            \
    do {                                                                      \
        if (!(done)) {                                                        \
            tap_bail(#done, __FILE__, __LINE__);                              \
        }                                                                     \
    } while (0)


static inline void
tap_say(const char *fmt, ...)
{
    va_list  args;

    printf("# ");
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}


static inline int
tap_vok(int good, const char *file, int line, const char *fmt, va_list args)
{
    printf("%sok %d - ", good ? "" : "not ", ++tap_count);
    vprintf(fmt, args);
    printf("\n");

    if (!good) {
        tap_failed++;
        tap_say("failed at %s:%d", file, line);
    }

    fflush(stdout);

    return good;
}


static inline int
tap_ok(int good, const char *file, int line, const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    tap_vok(good, file, line, fmt, args);
    va_end(args);

    return good;
}


__attribute__((format(printf, 5, 6))) static inline int
tap_is(intmax_t got, intmax_t want, const char *file, int line,
    const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    tap_vok(got == want, file, line, fmt, args);
    va_end(args);

    if (got != want) {
        tap_say("got %jd, expected %jd", got, want);
    }

    return got == want;
}


__attribute__((format(printf, 5, 6))) static inline int
tap_like(const char *text, const char *part, const char *file, int line,
    const char *fmt, ...)
{
    int      good;
    va_list  args;

    good = text != NULL && strstr(text, part) != NULL;

    va_start(args, fmt);
    tap_vok(good, file, line, fmt, args);
    va_end(args);

    if (!good) {
        tap_say("\"%s\" has no \"%s\" in it", text ? text : "(null)", part);
    }

    return good;
}


/* Children end by _exit(): this is for the program's own end alone. */

static inline void
tap_clean(void)
{
    DIR            *d;
    char            path[PATH_MAX * 2];
    struct dirent  *ent;

    if (tap_pid != getpid() || tap_dir[0] == '\0') {
        return;
    }

    d = opendir(tap_dir);

    while (d != NULL && (ent = readdir(d)) != NULL) {
        snprintf(path, sizeof(path), "%s/%s", tap_dir, ent->d_name);

        if (unlink(path) == -1) {
            (void) rmdir(path);
        }
    }

    if (d != NULL) {
        closedir(d);
    }

    (void) rmdir(tap_dir);
}


__attribute__((noreturn)) static inline void
tap_bail(const char *what, const char *file, int line)
{
    printf("Bail out!  %s:%d: %s\n", file, line, what);
    fflush(stdout);
    tap_clean();
    _exit(1);
}


static inline void
tap_late(int signo)
{
    static const char  hangs[] = "Bail out!  it hangs\n";
    static const char  ended[] = "Bail out!  somebody ended it\n";

    (void) !write(STDOUT_FILENO, signo == SIGALRM ? hangs : ended,
                  signo == SIGALRM ? sizeof(hangs) - 1 : sizeof(ended) - 1);
    tap_clean();
    _exit(1);
}


/* A directory of one's own for the test's files, removed at the end. */

static inline void
tap_begin(void)
{
    const char   *base;
    struct stat   st;

    base = getenv("TMPDIR");

    if (base == NULL || base[0] == '\0') {
        base = stat("/dev/shm", &st) == 0 && access("/dev/shm", W_OK) == 0
               ? "/dev/shm" : "/tmp";
    }

    tap_pid = getpid();
    snprintf(tap_dir, sizeof(tap_dir), "%s/ofl-unit-XXXXXX", base);

    if (mkdtemp(tap_dir) == NULL) {
        tap_dir[0] = '\0';
        tap_bail("mkdtemp", __FILE__, __LINE__);
    }

    atexit(tap_clean);
    signal(SIGALRM, tap_late);
    signal(SIGTERM, tap_late);
    signal(SIGINT, tap_late);
    alarm(TAP_LIMIT);
}


static inline int
tap_end(void)
{
    printf("1..%d\n", tap_count);
    fflush(stdout);

    return tap_failed || tap_count == 0;
}


static inline const char *
tap_file(const char *name)
{
    static int   i;
    static char  path[8][PATH_MAX + 256];

    i = (i + 1) % 8;
    snprintf(path[i], sizeof(path[i]), "%s/%s", tap_dir, name);

    return path[i];
}


/* The child's wait status, as waitpid() has it. */

static inline int
tap_wait(pid_t pid)
{
    int  status;

    status = -1;
    must(waitpid(pid, &status, 0) == pid);

    return status;
}


static inline pid_t
tap_fork(void)
{
    pid_t  pid;

    fflush(stdout);
    pid = fork();
    must(pid != -1);

    if (pid == 0) {
        alarm(TAP_LIMIT);                       /* not inherited */
    }

    return pid;
}


/* Numbers that are the same in each run. */

static inline uint64_t
tap_random(uint64_t *state)
{
    uint64_t  x;

    x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;

    return x * 0x2545f4914f6cdd1dull;
}

#endif /* OFFLOAD_TAP_H */
