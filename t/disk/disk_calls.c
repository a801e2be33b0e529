/*
 * The calls that are caught: each asks the rules, does what it is for, and
 * writes it down.  See disk.h.
 */

#include "disk.h"


/* ---- names */

static int
disk_open(int dir, const char *path, int flags, mode_t mode)
{
    int          fd, new;
    char         buf[PATH_MAX];
    const char  *name;
    struct stat  st;

    name = disk_at(dir, path, buf);

    if (name) {
        new = (flags & O_CREAT) && fstatat(dir, path, &st, 0) == -1;

        if (((flags & O_ACCMODE) != O_RDONLY && fault_errno(ON_OPEN, name))
            || (new && fault_errno(ON_GROW, name)))
        {
            return -1;
        }
    }

    fd = (int) syscall(SYS_openat, dir, path, flags, mode);

    if (fd == -1 || name == NULL || !(flags & (O_CREAT|O_TRUNC))
        || fstat(fd, &st) == -1)
    {
        return fd;
    }

    if (flags & O_CREAT) {
        log_name(ENTRY_OPEN, name, NULL, st.st_ino);
    }

    if (flags & O_TRUNC) {
        log_ino(ENTRY_SIZE, &st, 0, 0);
    }

    return fd;
}


#define OPEN_MODE(last)                                                       \
    mode_t   mode = 0;                                                        \
    va_list  ap;                                                              \
                                                                              \
    if (flags & (O_CREAT|__O_TMPFILE)) {                                      \
        va_start(ap, last);                                                   \
        mode = va_arg(ap, mode_t);                                            \
        va_end(ap);                                                           \
    }

int
open(const char *path, int flags, ...)
{
    OPEN_MODE(flags)

    return disk_open(AT_FDCWD, path, flags, mode);
}


int
openat(int dir, const char *path, int flags, ...)
{
    OPEN_MODE(flags)

    return disk_open(dir, path, flags, mode);
}


int
creat(const char *path, mode_t mode)
{
    return disk_open(AT_FDCWD, path, O_WRONLY|O_CREAT|O_TRUNC, mode);
}


int
mkdirat(int dir, const char *path, mode_t mode)
{
    char         buf[PATH_MAX];
    const char  *name;
    struct stat  st;

    name = disk_at(dir, path, buf);

    if (fault_errno(ON_OPEN|ON_GROW, name)) {
        return -1;
    }

    if (syscall(SYS_mkdirat, dir, path, mode) == -1) {
        return -1;
    }

    if (name && fstatat(dir, path, &st, 0) == 0) {
        log_name(ENTRY_MKDIR, name, NULL, st.st_ino);
    }

    return 0;
}


int
mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}


/* Out of the directory is gone; into it from outside no program here goes. */

int
renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    char         buf[2][PATH_MAX];
    const char  *name, *new;

    name = disk_at(from_dir, from, buf[0]);
    new = disk_at(to_dir, to, buf[1]);

    if (fault_errno(ON_RENAME, name)) {
        return -1;
    }

    if (syscall(SYS_renameat, from_dir, from, to_dir, to) == -1) {
        return -1;
    }

    if (name && new) {
        log_name(ENTRY_RENAME, name, new, 0);

    } else if (name) {
        log_name(ENTRY_UNLINK, name, NULL, 0);
    }

    return 0;
}


int
rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}


int
linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    char         buf[2][PATH_MAX];
    const char  *name, *new;

    name = disk_at(from_dir, from, buf[0]);
    new = disk_at(to_dir, to, buf[1]);

    if (fault_errno(ON_RENAME, name)) {
        return -1;
    }

    if (syscall(SYS_linkat, from_dir, from, to_dir, to, flags) == -1) {
        return -1;
    }

    if (name && new) {
        log_name(ENTRY_LINK, name, new, 0);
    }

    return 0;
}


int
link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}


int
unlinkat(int dir, const char *path, int flags)
{
    char         buf[PATH_MAX];
    const char  *name;

    name = disk_at(dir, path, buf);

    if (fault_errno(ON_UNLINK, name)) {
        return -1;
    }

    if (syscall(SYS_unlinkat, dir, path, flags) == -1) {
        return -1;
    }

    if (name) {
        log_name(ENTRY_UNLINK, name, NULL, 0);
    }

    return 0;
}


int
unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}


int
rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}


/* ---- contents */

/* The first `size` bytes of it: how many pieces. */

static int
disk_cut(struct iovec *to, const struct iovec *from, size_t size)
{
    int  n;

    for (n = 0; size > 0; n++) {
        to[n] = from[n];
        to[n].iov_len = size < to[n].iov_len ? size : to[n].iov_len;
        size -= to[n].iov_len;
    }

    return n;
}


/* With offset -1: where the file stands. */

static ssize_t
disk_do_writev(int fd, const struct iovec *data, int n, off_t offset)
{
    return offset == -1 ? syscall(SYS_writev, fd, data, n)
                        : syscall(SYS_pwritev, fd, data, n, offset, 0);
}


static ssize_t
disk_writev(int fd, const struct iovec *data, int n, off_t offset)
{
    int           i, flags;
    char          buf[PATH_MAX];
    off_t         at;
    size_t        size;
    ssize_t       done;
    const char   *name;
    struct stat   st;
    struct rule   rule;
    struct entry  e = { .type = ENTRY_WRITE };
    struct iovec  iov[DISK_PIECES];

    name = n <= DISK_PIECES ? disk_of(fd, buf, &st) : NULL;

    if (name == NULL) {
        return disk_do_writev(fd, data, n, offset);
    }

    for (i = 0, size = 0; i < n; i++) {
        size += data[i].iov_len;
    }

    flags = fcntl(fd, F_GETFL);
    at = offset != -1 ? offset
         : flags & O_APPEND ? st.st_size : lseek(fd, 0, SEEK_CUR);
    rule.err = 0;

    if (fault(ON_WRITE | (flags & O_DSYNC ? ON_SYNC : 0)
              | (at + (off_t) size > st.st_size ? ON_GROW : 0), name, &rule))
    {
        size = rule.part < size ? rule.part : size;
    }

    done = 0;

    if (size > 0) {
        n = disk_cut(iov, data, size);

        done = disk_do_writev(fd, iov, n, offset);
        if (done == -1) {
            return -1;
        }

        e.ino = st.st_ino;
        e.offset = (uint64_t) at;
        e.upto = (flags & O_DSYNC) && rule.err == 0;
        log_entry(&e, NULL, NULL, iov, disk_cut(iov, iov, (size_t) done));
    }

    if (rule.err) {
        errno = (int) rule.err;
        return -1;
    }

    return done;
}


ssize_t
writev(int fd, const struct iovec *data, int n)
{
    return disk_writev(fd, data, n, -1);
}


ssize_t
pwritev(int fd, const struct iovec *data, int n, off_t offset)
{
    return disk_writev(fd, data, n, offset);
}


ssize_t
write(int fd, const void *p, size_t size)
{
    struct iovec  iov = { (void *) p, size };

    return disk_writev(fd, &iov, 1, -1);
}


ssize_t
pwrite(int fd, const void *p, size_t size, off_t offset)
{
    struct iovec  iov = { (void *) p, size };

    return disk_writev(fd, &iov, 1, offset);
}


int
ftruncate(int fd, off_t size)
{
    char         buf[PATH_MAX];
    const char  *name;
    struct stat  st;

    name = disk_of(fd, buf, &st);

    if (name && fault_errno(ON_WRITE | (size > st.st_size ? ON_GROW : 0),
                            name))
    {
        return -1;
    }

    if (syscall(SYS_ftruncate, fd, size) == -1) {
        return -1;
    }

    if (name) {
        log_ino(ENTRY_SIZE, &st, (uint64_t) size, 0);
    }

    return 0;
}


int
fallocate(int fd, int mode, off_t offset, off_t size)
{
    char         buf[PATH_MAX];
    const char  *name;
    struct stat  st;

    name = disk_of(fd, buf, &st);

    if (fault_errno(ON_WRITE|ON_GROW, name)) {
        return -1;
    }

    if (syscall(SYS_fallocate, fd, mode, offset, size) == -1) {
        return -1;
    }

    if (name && mode == 0) {
        log_ino(ENTRY_GROW, &st, (uint64_t) (offset + size), 0);
    }

    return 0;
}


/* Its error is its value. */

int
posix_fallocate(int fd, off_t offset, off_t size)
{
    int  rc, saved = errno;

    rc = fallocate(fd, 0, offset, size) == -1 ? errno : 0;
    errno = saved;

    return rc;
}


static int
disk_sync(long call, int fd)
{
    char         buf[PATH_MAX];
    uint64_t     upto;
    const char  *name;
    struct stat  st;

    name = disk_of(fd, buf, &st);

    if (fault_errno(ON_SYNC, name)) {
        log_ino(ENTRY_LOST, &st, 0, 0);
        return -1;
    }

    upto = name ? log_number() : 0;

    if (syscall(call, fd) == -1) {
        return -1;
    }

    if (name) {
        log_ino(ENTRY_SYNC, &st, 0, upto);
    }

    return 0;
}


int
fsync(int fd)
{
    return disk_sync(SYS_fsync, fd);
}


int
fdatasync(int fd)
{
    return disk_sync(SYS_fdatasync, fd);
}


/* The same with files of any size, which they are anyway. */

#define ALIAS(name)  __attribute__((alias(name)))

int open64(const char *path, int flags, ...) ALIAS("open");
int openat64(int dir, const char *path, int flags, ...) ALIAS("openat");
int creat64(const char *path, mode_t mode) ALIAS("creat");
ssize_t pwrite64(int fd, const void *p, size_t size, off64_t offset)
    ALIAS("pwrite");
ssize_t pwritev64(int fd, const struct iovec *data, int n, off64_t offset)
    ALIAS("pwritev");
int ftruncate64(int fd, off64_t size) ALIAS("ftruncate");
int fallocate64(int fd, int mode, off64_t offset, off64_t size)
    ALIAS("fallocate");
int posix_fallocate64(int fd, off64_t offset, off64_t size)
    ALIAS("posix_fallocate");
