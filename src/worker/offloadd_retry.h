/*
 * What follows on an attempt without a good answer: retries, deadlines, dead
 * letters.  Included by offloadd.h, where policies and attempts are.
 */

#ifndef OFFLOADD_RETRY_H
#define OFFLOADD_RETRY_H


/* offloadd_retry.c */

enum retry_end {
    RETRY_END_ANSWER = 0,                       /* of the backend */
    RETRY_END_CONNECT,                          /* it could not be reached */
    RETRY_END_TIMEOUT,                          /* no answer in time */
    RETRY_END_CUT,                              /* nor will there be one */
    RETRY_END_EXEC                              /* a command wants another */
};

struct retry_failure {
    uint32_t         end;                       /* enum retry_end */
    uint32_t         status;                    /* of the answer */
    struct zone_str  method;
    uint32_t         failures;                  /* with this one */
    uint64_t         retry_after_ms;            /* 0: not said */
    uint64_t         left_ms;                   /* of the job's deadline;
                                                   UINT64_MAX: it has none */
    uint8_t          no_retry;                  /* the backend says so */
    uint8_t          at_most_once;
};

enum retry_verdict {
    RETRY_FINAL = 0,
    RETRY_AGAIN,                                /* after the delay */
    RETRY_EXHAUSTED,                            /* a dead letter */
    RETRY_TOO_LATE                              /* for its deadline: final */
};

extern const struct retry_policy  retry_default;

int retry_decide(const struct retry_policy *p, const struct retry_failure *f,
    uint64_t random, uint64_t *delay_ms);
uint64_t retry_after(const char *value, uint64_t now_ms);
/* "connect", "timeout", "503"; 0, or -1: there is no such condition. */
int retry_on(struct retry_policy *p, const char *word);


/* offloadd_failed.c */

void attempt_failed(struct offloadd *d, struct attempt *a, uint32_t end);
/* 1: its deadline has come, and it is settled. */
int attempt_overdue(struct offloadd *d, struct attempt *a);
/* The deadline of this job, whatever it is doing. */
void attempt_deadline(struct offloadd *d, uint32_t job);


/* offloadd_deadline.c (loop thread; main, in recovery) */

struct deadline {
    uint64_t  at_ms;                            /* unix time */
    uint64_t  seq;
};

struct deadlines {
    struct deadline  *heap;
    uint32_t          n;
    uint32_t          cap;
};

int deadline_add(struct offloadd *d, uint64_t seq, uint64_t at_ms);
/* Its operation is done: a deadline that came meanwhile was not heeded. */
void deadline_look_again(struct offloadd *d, const struct store_op *op);
void deadline_run(struct offloadd *d);
uint64_t deadline_next(struct offloadd *d);     /* mono ms, or UINT64_MAX */
void deadline_free(struct offloadd *d);


/* offloadd_dead.c (loop thread) */

/* A redrive is committed: STALE if it was none. */
void dead_redriven(struct offloadd *d, struct store_op *op);

#endif /* OFFLOADD_RETRY_H */
