/*
 * Which files are meant, what rules say of them, and the log: see disk.h.
 * All processes of a test run it, any thread of them.
 */

#include "disk.h"


static char             disk_dir[PATH_MAX];
static size_t           disk_dir_len;
static const char      *disk_log;
struct control         *disk;

static pthread_mutex_t  log_mutex = PTHREAD_MUTEX_INITIALIZER;
static int              log_fd = -1;
static pid_t            log_pid;


__attribute__((constructor))
static void
disk_init(void)
{
    int          fd;
    void        *p;
    const char  *dir, *control;

    dir = getenv("DISK_DIR");
    control = getenv("DISK_CONTROL");

    if (dir == NULL || control == NULL || strlen(dir) >= sizeof(disk_dir)) {
        return;
    }

    fd = (int) syscall(SYS_openat, AT_FDCWD, control, O_RDWR|O_CLOEXEC, 0);

    if (fd == -1) {
        return;                                 /* a program of another user */
    }

    p = mmap(NULL, sizeof(struct control), PROT_READ|PROT_WRITE, MAP_SHARED,
             fd, 0);
    (void) syscall(SYS_close, fd);

    if (p == MAP_FAILED) {
        return;
    }

    strcpy(disk_dir, dir);
    disk_dir_len = strlen(dir);
    disk_log = getenv("DISK_LOG");

    if (disk_log) {
        disk_log = strdup(disk_log);            /* nginx drops its environ */
    }

    disk = p;
}


/* The name below the directory, or NULL. */

static const char *
disk_below(const char *path)
{
    if (disk == NULL || strncmp(path, disk_dir, disk_dir_len) != 0) {
        return NULL;
    }

    path += disk_dir_len;

    if (*path == '\0') {
        return path;
    }

    return *path == '/' ? path + 1 : NULL;
}


const char *
disk_at(int dir, const char *path, char buf[PATH_MAX])
{
    char     link[32];
    ssize_t  n;

    if (disk == NULL || path == NULL) {
        return NULL;
    }

    if (dir != AT_FDCWD && path[0] != '/') {
        (void) snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);

        n = readlink(link, buf, PATH_MAX / 2);

        if (n <= 0 || strlen(path) >= PATH_MAX / 2) {
            return NULL;
        }

        buf[n++] = '/';
        strcpy(buf + n, path);
        path = buf;
    }

    return disk_below(path);
}


/* What an open file is called now; sockets and the like are not asked for. */

const char *
disk_of(int fd, char buf[PATH_MAX], struct stat *st)
{
    char     link[32];
    ssize_t  n;

    if (disk == NULL || fstat(fd, st) == -1
        || !(S_ISREG(st->st_mode) || S_ISDIR(st->st_mode)))
    {
        return NULL;
    }

    (void) snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);

    n = readlink(link, buf, PATH_MAX - 1);
    if (n <= 0) {
        return NULL;
    }

    buf[n] = '\0';

    return disk_below(buf);
}


/* ---- faults */

int
fault(uint32_t on, const char *name, struct rule *what)
{
    int              i;
    uint32_t         n;
    struct rule     *r;
    struct timespec  ts;

    for (i = 0; i < DISK_RULES; i++) {
        r = &disk->rules[i];

        if (!(atomic_load(&r->on) & on) || strstr(name, r->path) == NULL) {
            continue;
        }

        n = atomic_fetch_add(&r->seen, 1);

        if (n < r->after || (r->times && n - r->after >= r->times)) {
            continue;
        }

        (void) atomic_fetch_add(&r->hit, 1);

        if (r->delay_ms) {
            ts.tv_sec = r->delay_ms / 1000;
            ts.tv_nsec = (long) (r->delay_ms % 1000) * 1000000;
            (void) nanosleep(&ts, NULL);
        }

        if (r->err || r->part) {
            what->err = r->err;
            what->part = r->part;
            return 1;
        }
    }

    return 0;
}


int
fault_errno(uint32_t on, const char *name)
{
    struct rule  r;

    if (name && fault(on, name, &r) && r.err) {
        errno = (int) r.err;
        return 1;
    }

    return 0;
}


/* ---- the log */

uint64_t
log_number(void)
{
    return atomic_load(&disk->number);
}


void
log_entry(struct entry *e, const char *name, const char *to,
    const struct iovec *data, int n)
{
    int              i, saved;
    char             path[PATH_MAX];
    struct iovec     iov[3 + DISK_PIECES];
    struct timespec  ts;

    if (disk_log == NULL) {
        return;
    }

    saved = errno;

    e->magic = DISK_MAGIC;
    e->name_len = name ? (uint32_t) strlen(name) : 0;
    e->to_len = to ? (uint32_t) strlen(to) : 0;

    iov[0] = (struct iovec) { e, sizeof(*e) };
    iov[1] = (struct iovec) { (void *) name, e->name_len };
    iov[2] = (struct iovec) { (void *) to, e->to_len };

    for (i = 0; i < n; i++) {
        iov[3 + i] = data[i];
        e->data_len += data[i].iov_len;
    }

    pthread_mutex_lock(&log_mutex);

    if (log_pid != getpid()) {                  /* forked: nginx's workers */
        log_pid = getpid();
        (void) snprintf(path, sizeof(path), "%s/%d", disk_log, (int) log_pid);
        log_fd = (int) syscall(SYS_openat, AT_FDCWD, path,
                               O_WRONLY|O_CREAT|O_APPEND|O_CLOEXEC, 0644);
    }

    clock_gettime(CLOCK_REALTIME, &ts);
    e->time_us = (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
    e->number = atomic_fetch_add(&disk->number, 1) + 1;

    if (syscall(SYS_writev, log_fd, iov, 3 + n)
        != (long) (sizeof(*e) + e->name_len + e->to_len + e->data_len))
    {
        abort();                                /* a record with a hole in it
                                                   proves nothing */
    }

    pthread_mutex_unlock(&log_mutex);

    errno = saved;
}


void
log_name(enum entry_type type, const char *name, const char *to, uint64_t ino)
{
    struct entry  e = { .type = type, .ino = ino };

    log_entry(&e, name, to, NULL, 0);
}


void
log_ino(enum entry_type type, const struct stat *st, uint64_t offset,
    uint64_t upto)
{
    struct entry  e = { .type = type, .ino = st->st_ino, .offset = offset,
                        .upto = upto };

    log_entry(&e, NULL, NULL, NULL, 0);
}
