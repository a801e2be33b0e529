/*
 * A disk that fails, and that loses power: a library for LD_PRELOAD under
 * nginx and offloadd, used by tests only (t/lib/Disk.pm is their side of it).
 * It stands in front of the calls that change files below one directory:
 *
 *      DISK_DIR       that directory, as realpath() gives it
 *      DISK_CONTROL   a file, mapped shared: faults, and a clock
 *      DISK_LOG       a directory for what was done; not set: nothing is kept
 *
 * Faults.  The control file has rules: which calls, on which paths, fail with
 * which errno, from which call on and how often.  The test writes them while
 * the programs run.
 *
 * Power loss.  Each change and each sync is appended to a log, after it was
 * done and before its caller goes on, so that nothing that followed from it
 * can be in any log without it.  Every process has a log of its own; numbers
 * from one counter put the entries of all in order.  A sync names the last
 * number given out before it began: only what came before is durable by it.
 * After one that failed no later sync makes up for it, as it is with Linux.
 * A process killed between a change and its entry has told nobody of the
 * change.  Killed while it writes an entry it leaves half of one at the end,
 * which the reader drops.  What the disk would hold after a cut is the
 * reader's business: there is no model in here.
 *
 * Writes through a shared mapping are not seen (LMDB's lock file is written
 * so; it holds nothing that outlives a machine).  System calls are made
 * directly, so that it does not matter what else is preloaded.
 */

#ifndef DISK_H
#define DISK_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>


#define DISK_RULES            8
#define DISK_MAGIC            0x6b736964        /* "disk" */
#define DISK_PIECES           256               /* of a writev(): more than
                                                   nginx and LMDB have */

/* What a call does, for the rules. */
#define ON_WRITE              0x01
#define ON_SYNC               0x02              /* and writes with O_DSYNC */
#define ON_RENAME             0x04
#define ON_GROW               0x08              /* needs room: a new file, a
                                                   write beyond the end */
#define ON_OPEN               0x10              /* for writing */
#define ON_UNLINK             0x20

struct rule {
    _Atomic uint32_t  on;                       /* ON_*; 0: no rule */
    uint32_t          err;                      /* 0: none, only the rest */
    uint32_t          after;                    /* calls that pass first */
    uint32_t          times;                    /* 0: from then on all */
    uint32_t          part;                     /* write so many bytes first:
                                                   short, or torn with err */
    uint32_t          delay_ms;
    _Atomic uint32_t  seen;                     /* calls it was asked about */
    _Atomic uint32_t  hit;
    char              path[96];                 /* a part of the name */
};

struct control {
    _Atomic uint64_t  number;                   /* the last one given out */
    uint64_t          pad[7];
    struct rule       rules[DISK_RULES];
};

enum entry_type {
    ENTRY_OPEN = 1,                             /* with O_CREAT: name, ino */
    ENTRY_MKDIR,                                /* name, ino */
    ENTRY_WRITE,                                /* ino, offset, data */
    ENTRY_SIZE,                                 /* ino, size: made so long */
    ENTRY_GROW,                                 /* ino, size: at least */
    ENTRY_SYNC,                                 /* ino, upto */
    ENTRY_LOST,                                 /* ino: a sync failed */
    ENTRY_RENAME,                               /* name, to */
    ENTRY_LINK,                                 /* name, to */
    ENTRY_UNLINK                                /* name */
};

/* Names are relative to DISK_DIR; its own is "". */
struct entry {
    uint32_t  magic;
    uint32_t  type;
    uint64_t  number;
    uint64_t  time_us;                          /* unix time */
    uint64_t  upto;                             /* SYNC, WRITE: durable; 0 */
    uint64_t  ino;
    uint64_t  offset;                           /* or size */
    uint32_t  name_len;
    uint32_t  to_len;
    uint64_t  data_len;
};

_Static_assert(sizeof(struct rule) == 128, "rule");
_Static_assert(sizeof(struct entry) == 64, "entry");


#pragma GCC visibility push(hidden)             /* programs have names, too */

extern struct control  *disk;                   /* NULL: stay out of it */

/* disk.c: the name below DISK_DIR, or NULL: none of ours */
const char *disk_at(int dir, const char *path, char buf[PATH_MAX]);
const char *disk_of(int fd, char buf[PATH_MAX], struct stat *st);

/* Does a rule want this call?  Then 1; the caller does what it says. */
int fault(uint32_t on, const char *name, struct rule *what);
int fault_errno(uint32_t on, const char *name);

uint64_t log_number(void);                      /* the last given out */
void log_entry(struct entry *e, const char *name, const char *to,
    const struct iovec *data, int n);
void log_name(enum entry_type type, const char *name, const char *to,
    uint64_t ino);
void log_ino(enum entry_type type, const struct stat *st, uint64_t offset,
    uint64_t upto);

#pragma GCC visibility pop

#endif /* DISK_H */
