/*
 * Memory, clocks, the log.  Any thread.  Included by offloadd.h.
 */

#ifndef OFFLOADD_UTIL_H
#define OFFLOADD_UTIL_H


/* offloadd_util.c */

/* A growing piece of memory.  buf_reserve() returns -1 for want of memory. */

struct buf {
    uint8_t  *data;
    size_t    len;
    size_t    cap;
};

int buf_reserve(struct buf *b, size_t room);    /* beyond len */
int buf_append(struct buf *b, const void *p, size_t n);
void buf_trim(struct buf *b, size_t keep);      /* empty; free if over keep */
void buf_free(struct buf *b);

uint64_t clock_ms(void);                        /* unix time */
uint64_t mono_us(void);

static inline uint64_t
mono_ms(void)
{
    return mono_us() / 1000;
}


/* offloadd_log.c */

enum log_level {
    LOG_DEBUG = 0,
    LOG_INFO,
    LOG_NOTICE,
    LOG_WARN,
    LOG_ERROR,
    LOG_LEVELS
};

/* One line being made: begin, fields, end (one write()). */
struct log_line {
    int     level;
    size_t  len;
    char    text[2048];
};

int log_level_parse(const char *name);          /* -1: no such level */
int log_open(const char *path, int level);      /* "": stderr */
void log_started(void);                         /* no copies of errors to
                                                   standard error any more */
void log_tick(void);                            /* reopens a rotated file */
/* 0 when the level is not wanted: then there is no line to fill or end. */
int log_begin(struct log_line *l, int level, const char *msg);
void log_id(struct log_line *l, const char *key, const uint8_t *id);
void log_uint(struct log_line *l, const char *key, uint64_t value);
void log_str(struct log_line *l, const char *key, const char *value);
void log_end(struct log_line *l);
void log_text(int level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif /* OFFLOADD_UTIL_H */
