/*
 * A command that does an attempt's work: it is started, its output is taken
 * in, and its end decides.  Loop thread.
 *
 * The request's body is a file for it, one in memory as well: so a command
 * that reads none, or half of it, has nobody wait for it.  Its output comes by
 * two pipes that are read as they fill.  The end is that of the process that
 * was started, however many it has left behind: what remains of its group is
 * killed then, and what is in the pipes is the end of the output.
 *
 * A command that is not wanted any more gets SIGTERM, its whole group does,
 * and SIGKILL 5 seconds later.  If the attempt was stopped, nobody waits for
 * it, but it still counts as running in its queue until it is gone.
 *
 * When the worker is killed the kernel kills the process (see
 * offloadd_exec_spawn.c), though not those that it has started.
 */

#include "offloadd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>


static struct exec_policy *
exec_policy_of(struct offloadd *d, const struct attempt *a)
{
    return queues_find(&d->sched.queues, a->queue)->conf.exec;
}


/* 0, 1 and 2 are always open, so that no pipe gets these numbers. */

int
exec_init(struct offloadd *d)
{
    int  fd;

    (void) d;
    (void) signal(SIGCHLD, SIG_DFL);            /* inherited: ends are lost */

    do {
        fd = open("/dev/null", O_RDWR|O_CLOEXEC);
    } while (fd != -1 && fd < 3);

    if (fd == -1) {
        return -1;
    }

    close(fd);

    return 0;
}


void
exec_close(struct offloadd *d, int *fd)
{
    if (*fd != -1) {
        if ((uint32_t) *fd < d->loop.nfds) {
            d->loop.fds[*fd].exec = NULL;
        }

        close(*fd);                             /* epoll forgets it, too */
        *fd = -1;
    }
}


static int
exec_watch(struct offloadd *d, struct exec_run *r, int fd)
{
    if (loop_epoll_add(&d->loop, fd) == -1) {
        return -1;
    }

    d->loop.fds[fd].exec = r;

    return 0;
}


static void
exec_free(struct offloadd *d, struct exec_run *r)
{
    exec_close(d, &r->pidfd);
    exec_close(d, &r->out);
    exec_close(d, &r->err);
    exec_policy_release(r->policy);
    buf_free(&r->head);
    free(r);
}


static void
exec_link(struct offloadd *d, struct exec_run *r)
{
    r->next = d->execs.runs;

    if (r->next) {
        r->next->prev = r;
    }

    d->execs.runs = r;
    d->execs.n++;
}


static void
exec_unlink(struct offloadd *d, struct exec_run *r)
{
    if (r->prev) {
        r->prev->next = r->next;
    } else {
        d->execs.runs = r->next;
    }

    if (r->next) {
        r->next->prev = r->prev;
    }

    d->execs.n--;
}


/* The body as a file to read: a descriptor, or -1. */

static int
exec_body(struct attempt *a)
{
    int                     fd;
    size_t                  left;
    ssize_t                 n;
    const char             *p;
    const struct zone_str  *body = &a->replay.view.body;

    if (a->replay.body_fd != -1) {
        return fcntl(a->replay.body_fd, F_DUPFD_CLOEXEC, 3);
    }

    if (body->len == 0) {
        return open("/dev/null", O_RDONLY|O_CLOEXEC);
    }

    fd = memfd_create("body", MFD_CLOEXEC);
    if (fd == -1) {
        return -1;
    }

    for (p = body->data, left = body->len; left; p += n, left -= (size_t) n) {
        n = write(fd, p, left);

        if (n <= 0) {
            close(fd);
            return -1;
        }
    }

    if (lseek(fd, 0, SEEK_SET) == -1) {
        close(fd);
        return -1;
    }

    return fd;
}


/* The process with its three files; *step says what failed, if -1. */

static int
exec_begin(struct offloadd *d, struct attempt *a, struct exec_run *r,
    const char **step)
{
    int                 out[2], err[2];
    struct cgi_env      env;
    struct cgi_request  rq;
    struct exec_spawn   s;

    memset(&s, 0, sizeof(s));
    memset(&env, 0, sizeof(env));
    out[0] = out[1] = err[0] = err[1] = -1;
    *step = "its pipes";
    r->pid = -1;

    rq.view = &a->replay.view;
    rq.id = a->op.row.id;
    rq.attempt = a->op.row.attempts;
    rq.extra = r->policy->env;

    s.in = exec_body(a);

    if (s.in != -1 && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0
        && fcntl(out[0], F_SETFL, O_NONBLOCK) == 0
        && fcntl(err[0], F_SETFL, O_NONBLOCK) == 0
        && exec_watch(d, r, out[0]) == 0 && exec_watch(d, r, err[0]) == 0)
    {
        s.policy = r->policy;
        s.out = out[1];
        s.err = err[1];
        s.files = d->loop.files;
        errno = ENOMEM;

        if (cgi_environment(&env, &rq) == 0) {
            s.envp = env.envp;
            r->pid = exec_spawn(&s);
            *step = s.step;
        }
    }

    a->replay.connect_errno = errno;
    r->out = out[0];                            /* exec_free() closes them */
    r->err = err[0];
    cgi_free(&env);

    if (s.in != -1) {
        close(s.in);
    }

    if (out[1] != -1) {
        close(out[1]);
    }

    if (err[1] != -1) {
        close(err[1]);
    }

    if (r->pid == -1) {
        return -1;
    }

    a->replay.connect_errno = 0;

    return 0;
}


/* Of a script there are two that may be missing. */

static const char *
exec_why(const char *step, int err)
{
    return err == ENOENT && access(step, F_OK) == 0
           ? "the interpreter in its first line is not there" : strerror(err);
}


static int
exec_start(struct offloadd *d, struct attempt *a)
{
    const char       *step;
    struct exec_run  *r;

    if (replay_open(d, a) != 0) {
        return -1;
    }

    r = calloc(1, sizeof(*r));
    if (r == NULL) {
        a->replay.connect_errno = ENOMEM;
        return -1;
    }

    r->pidfd = -1;
    r->policy = exec_policy_of(d, a);
    r->policy->refs++;
    r->queue = a->queue;
    r->progress = -1;
    r->lines.progress = -1;
    r->at = mono_ms() + a->replay.view.fixed.timeout_s * 1000ull;
    memcpy(r->id, a->op.row.id, sizeof(r->id));
    memcpy(r->token, a->op.row.token, sizeof(r->token));

    if (exec_begin(d, a, r, &step) != 0) {
        (void) snprintf(a->replay.error, sizeof(a->replay.error), "the "
                        "command was not started: %.150s: %s", step,
                        exec_why(step, a->replay.connect_errno));
        exec_free(d, r);
        return -1;
    }

    a->replay.begun = 1;
    exec_link(d, r);

    r->pidfd = pidfd_open(r->pid, 0);

    if (r->pidfd == -1 || exec_watch(d, r, r->pidfd) != 0) {

        /* its end could not be seen: it has not begun */

        a->replay.connect_errno = errno;
        (void) snprintf(a->replay.error, sizeof(a->replay.error), "the "
                        "command was not started: pidfd: %s",
                        strerror(errno));
        (void) kill(-r->pid, SIGKILL);
        (void) waitpid(r->pid, NULL, 0);
        exec_unlink(d, r);
        exec_free(d, r);
        return -1;
    }

    r->attempt = a;
    a->exec = r;

    ZONE_FAILPOINT("attempt.sent");

    return 0;
}


void
exec_tell(struct exec_run *r)
{
    if (!r->told) {
        r->told = 1;
        r->at = mono_ms() + EXEC_KILL_MS;
        (void) kill(ZONE_MUTANT("exec.told") ? r->pid : -r->pid, SIGTERM);
        (void) kill(-r->pid, SIGCONT);          /* one that is stopped */
    }
}


static void
exec_stop(struct offloadd *d, struct attempt *a)
{
    struct exec_run  *r = a->exec;

    if (a->replay.body_fd != -1) {
        close(a->replay.body_fd);
        a->replay.body_fd = -1;
    }

    if (r == NULL) {
        return;
    }

    a->exec = NULL;
    r->attempt = NULL;

    if (!r->ended) {
        exec_tell(r);
        d->execs.leaving++;
        queues_ran(&d->sched.queues, r->queue);
    }
}


static void
exec_ended(struct offloadd *d, struct exec_run *r)
{
    pid_t            pid;
    siginfo_t        info;
    struct attempt  *a;

    memset(&info, 0, sizeof(info));

    if (waitid(P_PID, (id_t) r->pid, &info, WEXITED|WNOHANG|WNOWAIT) == -1
        || info.si_pid == 0)
    {
        return;
    }

    /* while it is not waited for its number is nobody else's */

    if (!ZONE_MUTANT("exec.group")) {
        (void) kill(-r->pid, SIGKILL);
    }

    r->ended = 1;

    exec_rest(d, r, &r->out);
    exec_rest(d, r, &r->err);
    exec_lines_end(d, r);

    do {
        pid = waitpid(r->pid, &r->status, 0);
    } while (pid == -1 && errno == EINTR);

    exec_unlink(d, r);
    a = r->attempt;

    ZONE_FAILPOINT("exec.ended");

    if (a) {
        if (!a->result.over && a->result.err == 0) {
            (void) exec_take(r, "", 0, 1);
        }

        attempt_ended(d, a, 0);

    } else {
        d->execs.leaving--;
        queues_ended(&d->sched.queues, r->queue);
    }

    exec_free(d, r);
}


int
exec_ready(struct offloadd *d, int fd)
{
    struct exec_run  *r;

    r = (uint32_t) fd < d->loop.nfds ? d->loop.fds[fd].exec : NULL;

    if (r == NULL) {
        return 0;
    }

    if (fd == r->pidfd) {
        exec_ended(d, r);

    } else {
        (void) exec_read(d, r, fd);
    }

    return 1;
}


void
exec_tick(struct offloadd *d)
{
    uint64_t          now = mono_ms();
    struct exec_run  *r;

    for (r = d->execs.runs; r; r = r->next) {
        if (r->at > now) {
            continue;
        }

        if (!r->told) {
            r->timed_out = 1;
            exec_tell(r);

        } else {
            if (!ZONE_MUTANT("exec.kill")) {
                (void) kill(-r->pid, SIGKILL);
            }

            r->at = now + EXEC_KILL_MS;
        }
    }
}


uint64_t
exec_next(const struct offloadd *d)
{
    uint64_t                at = UINT64_MAX;
    const struct exec_run  *r;

    for (r = d->execs.runs; r; r = r->next) {
        if (r->at < at) {
            at = r->at;
        }
    }

    return at;
}


void
exec_free_all(struct offloadd *d)
{
    struct exec_run  *r;

    while (d->execs.runs) {
        r = d->execs.runs;
        (void) kill(-r->pid, SIGKILL);
        exec_unlink(d, r);
        exec_free(d, r);
    }
}


/* Could it be otherwise the next time? */

static int
exec_transient(int err)
{
    return err == EAGAIN || err == ENOMEM || err == EMFILE || err == ENFILE
           || err == ETXTBSY || err == EINTR || err == ENOSPC || err == EIO;
}


static int
exec_outcome(struct attempt *a, int code)
{
    struct exec_run  *r = a->exec;

    (void) code;

    if (a->replay.body_lost) {
        return REPLAY_LOST;
    }

    if (r == NULL) {
        return exec_transient(a->replay.connect_errno) ? REPLAY_BUSY
                                                       : REPLAY_EXEC_FAILED;
    }

    if (a->result.err || a->result.too_large) {
        return REPLAY_NOT_STORED;
    }

    if (a->result.over) {
        return a->result.truncate ? REPLAY_ANSWERED : REPLAY_TOO_LARGE;
    }

    if (r->timed_out) {
        a->op.row.http_status = 0;
        return REPLAY_TIMEOUT;
    }

    if (WIFEXITED(r->status)
        && (WEXITSTATUS(r->status) == 0 || ZONE_MUTANT("exec.code")))
    {
        return REPLAY_ANSWERED;
    }

    a->op.row.http_status = 0;

    return WIFEXITED(r->status) && WEXITSTATUS(r->status) == EX_TEMPFAIL
           ? REPLAY_EXEC_AGAIN : REPLAY_EXEC_FAILED;
}


static const char *
exec_reason(const struct attempt *a, int code)
{
    int                     n;
    static char             text[STORE_MESSAGE_MAX];    /* one thread */
    const struct exec_run  *r = a->exec;

    (void) code;

    if (r == NULL) {
        return a->replay.error[0] ? a->replay.error
                                  : strerror(a->replay.connect_errno);
    }

    if (WIFSIGNALED(r->status)) {
        n = snprintf(text, sizeof(text), "the command was ended by signal %d "
                     "(%s)", WTERMSIG(r->status),
                     strsignal(WTERMSIG(r->status)));
    } else {
        n = snprintf(text, sizeof(text), "the command's exit code is %d",
                     WEXITSTATUS(r->status));
    }

    if (r->lines.last[0]) {
        (void) snprintf(text + n, sizeof(text) - (size_t) n, ": %s",
                        r->lines.last);
    }

    return text;
}


const struct executor  executor_exec = {
    exec_start, exec_stop, exec_outcome, exec_reason
};
