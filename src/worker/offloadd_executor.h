/*
 * How attempts are made: replays through nginx, requests straight to a URL, and
 * commands.  Loop thread.
 * Included by offloadd.h.
 *
 * An executor begins an attempt's work, and calls attempt_ended() once when
 * that is over.  A stop ends it before, without that call.  Until the end, or
 * the stop, all that the attempt is made of stays as it is.
 */

#ifndef OFFLOADD_EXECUTOR_H
#define OFFLOADD_EXECUTOR_H


struct executor {
    /* 0: under way.  -1: not even begun; outcome() says what that means. */
    int         (*start)(struct offloadd *d, struct attempt *a);
    void        (*stop)(struct offloadd *d, struct attempt *a);
    /* enum replay_outcome; code: as given to attempt_ended(), or
     * EXECUTOR_UNBEGUN */
    int         (*outcome)(struct attempt *a, int code);
    const char *(*reason)(const struct attempt *a, int code);
};

#define EXECUTOR_UNBEGUN      CURLE_FAILED_INIT

extern const struct executor  executor_replay;
extern const struct executor  executor_exec;
extern const struct executor  executor_pass;


/* offloadd_replay.c: one request by libcurl */

#define REPLAY_HANDLES        256               /* kept when free */
#define REPLAY_POSTFIELDS_MAX  (64u * 1024)     /* larger: read by callback */

enum replay_outcome {
    REPLAY_ANSWERED = 0,
    REPLAY_REFUSED,                             /* by the module: not begun */
    REPLAY_UNREACHED,                           /* nothing was sent */
    REPLAY_CUT_OFF,                             /* sent, no whole answer */
    REPLAY_TIMEOUT,
    REPLAY_NOT_STORED,                          /* the answer */
    REPLAY_TOO_LARGE,                           /* the answer's body */
    REPLAY_LOST,                                /* the request's body */
    REPLAY_CONNECT,                             /* no connection to a URL */
    REPLAY_BUSY,                                /* no command could be begun */
    REPLAY_EXEC_AGAIN,                          /* the command says so */
    REPLAY_EXEC_FAILED,
    REPLAY_NO_ITEM,                             /* it can't go with others */
    REPLAY_BAD_BATCH                            /* the answer to all of them */
};

/* libcurl's handle, lent to one replay after another. */
struct replay_handle {
    struct replay_handle      *next;
    CURL                      *easy;
    uint32_t                   number;
    char                       entrance[17];    /* as set on it */
    uint8_t                    private_ca;
};

struct replay {
    struct replay_handle      *handle;          /* NULL: not under way */
    struct zone_request_view   view;            /* into the op's request */
    struct curl_slist         *lines;
    uint32_t                   lines_cap;
    struct buf                 text;            /* our own header lines */
    struct buf                 head;            /* see request_split() */
    char                       error[CURL_ERROR_SIZE];
    uint64_t                   body_sent;
    int                        body_fd;         /* -1: from memory */
    int                        fd;              /* opened for it; -1: none */
    int                        connect_errno;
    uint8_t                    begun;           /* its request was sent */
    uint8_t                    resend;          /* libcurl tried again */
    uint8_t                    body_lost;
    const struct pass_policy  *pass;            /* NULL: through nginx */
};


/* offloadd_policy_exec.c: a URL, or a command, as its queue has it */

struct pass_policy {
    char       url[2048];
    char       ca[PATH_MAX];                    /* "": the system's */
};

struct exec_policy {
    uint32_t   refs;                            /* policy, runs: see below */
    char     **argv;                            /* [0]: the program */
    char     **env;                             /* "NAME=value"; "NAME": as
                                                   ours */
    void      *pattern;                         /* NULL: none */
    char       dir[PATH_MAX];
    uint64_t   memory;                          /* bytes; 0: no limit of it */
    uint32_t   cpu_s;
    uint32_t   processes;
    uint32_t   files;
};

/* A reload drops its own reference; a command that runs keeps one. */
void exec_policy_release(struct exec_policy *p);


/* offloadd_cgi.c: RFC 3875.  Pure functions. */

struct cgi_env {
    struct buf   text;                          /* "NAME=value", with NULs */
    struct buf   list;                          /* size_t: where each is */
    char       **envp;                          /* when it is complete */
};

struct cgi_request {
    const struct zone_request_view *view;
    const uint8_t                  *id;
    uint32_t                        attempt;
    char                          **extra;      /* as exec_policy's */
};

int cgi_environment(struct cgi_env *env, const struct cgi_request *rq);
void cgi_free(struct cgi_env *env);


/* offloadd_cgi_output.c */

/*
 * How long is the header at the beginning of a command's output, its empty
 * line included?  0: it has none, all is its body; -1: that can't be said
 * before there is more, which never happens with `whole`.
 */
long cgi_header(const char *p, size_t n, int whole, uint32_t *status);
/* The next line of a header that was found good; `p` moves behind it. */
size_t cgi_line(const char **p, const char *end, const char **line);


/* offloadd_trace.c: the request's traceparent becomes that of an attempt */

#define TRACE_LEN             55                /* 00-<32>-<16>-<2> */

/* The value of the one traceparent; NULL when there is none to go by. */
const char *trace_parent(const struct zone_str *headers);

void trace_child(const struct zone_request_view *v, const uint8_t *id,
    uint32_t attempt);


/* offloadd_exec_spawn.c */

struct exec_spawn {
    const struct exec_policy *policy;
    char                    **envp;
    int                       in;               /* these become 0, 1, 2 */
    int                       out;
    int                       err;
    uint64_t                  files;            /* limit, if it has none */
    const char               *step;             /* out: what failed */
};

/* The process, which leads a group and session of its own; -1: errno. */
pid_t exec_spawn(struct exec_spawn *s);


/* offloadd_exec_line.c */

#define EXEC_LINE_MAX         1024              /* the rest is dropped */
#define EXEC_LAST_MAX         200

struct exec_lines {
    size_t    len;
    int       skip;                             /* it was too long */
    int       progress;                         /* -1: none yet */
    char      line[EXEC_LINE_MAX + 1];
    char      last[EXEC_LAST_MAX + 1];          /* that is not empty */
};

void *exec_pattern(const char *text, char *wrong, size_t size);
void exec_pattern_free(void *pattern);
void exec_lines(struct offloadd *d, struct exec_run *r, const char *p,
    size_t n);
void exec_lines_end(struct offloadd *d, struct exec_run *r);


/* a command under way */

#define EXEC_KILL_MS          5000              /* from SIGTERM to SIGKILL */
#define EXEC_PROGRESS_MS      1000              /* at most so often */
#define EXEC_LOG_LINES        50                /* in a second, of all */

struct exec_run {
    struct exec_run     *next;
    struct exec_run     *prev;
    struct attempt      *attempt;               /* NULL: it was stopped */
    struct exec_policy  *policy;
    uint32_t             queue;
    uint8_t              id[ZONE_ID_SIZE];
    uint8_t              token[ZONE_TOKEN_SIZE];
    pid_t                pid;
    int                  pidfd;
    int                  out;                   /* -1: closed */
    int                  err;
    int                  status;                /* waitpid()'s, at the end */
    uint8_t              ended;
    uint8_t              told;                  /* SIGTERM was sent */
    uint8_t              timed_out;
    uint8_t              body;                  /* its header is over */
    uint8_t              telling;               /* progress is on its way */
    uint64_t             at;                    /* mono ms: timeout, SIGKILL */
    uint64_t             progress_at;           /* mono ms: not before */
    int                  progress;              /* as stored; -1: none */
    struct buf           head;                  /* its output so far */
    struct exec_lines    lines;
};

struct execs {
    struct exec_run  *runs;
    uint32_t          n;
    uint32_t          leaving;                  /* stopped, not yet ended */
    uint64_t          log_second;
    uint32_t          log_lines;
    uint64_t          log_dropped;
};

/* offloadd_exec_output.c */

/* Output as it comes, and with `whole` its end: -1: enough, or too much. */
int exec_take(struct exec_run *r, const char *p, size_t n, int whole);
/* What is there of a pipe: 1: more may come. */
int exec_read(struct offloadd *d, struct exec_run *r, int fd);
/* All that is left in it, and no more than a pipe can have. */
void exec_rest(struct offloadd *d, struct exec_run *r, int *fd);


/* offloadd_exec.c */

void exec_close(struct offloadd *d, int *fd);
void exec_tell(struct exec_run *r);             /* that it has to end */
int exec_init(struct offloadd *d);
int exec_ready(struct offloadd *d, int fd);     /* 1: it is a command's */
void exec_tick(struct offloadd *d);             /* timers */
uint64_t exec_next(const struct offloadd *d);   /* mono ms, or UINT64_MAX */
void exec_free_all(struct offloadd *d);

#endif /* OFFLOADD_EXECUTOR_H */
