/*
 * Starting a command.  Loop thread; in the child until execve().
 *
 * The child is made by vfork(): nothing of the worker's memory is copied, and
 * what posix_spawn() can't do (limits, a directory, the signal at the worker's
 * death) is done between the two calls, without a helper program that would
 * have to be started and linked first.  The child runs on our stack while this
 * thread is stopped: it calls the system and nothing else, and what fails is
 * in our memory when we go on.  No shell ever sees anything.
 */

#include "offloadd.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>


static int
spawn_limit(int resource, uint64_t soft, uint64_t more)
{
    struct rlimit  r;

    if (getrlimit(resource, &r) == -1) {
        return -1;
    }

    if (r.rlim_max > soft + more) {
        r.rlim_max = soft + more;
    }

    r.rlim_cur = soft < r.rlim_max ? soft : r.rlim_max;

    return setrlimit(resource, &r);
}


/* Past its time a program gets SIGXCPU, and 5 s later SIGKILL. */

static int
spawn_limits(struct exec_spawn *s)
{
    struct rlimit              r;
    const struct exec_policy  *p = s->policy;

    s->step = "its limits";

    if (ZONE_MUTANT("exec.limits")) {
        return 0;
    }

    if (p->files) {
        if (spawn_limit(RLIMIT_NOFILE, p->files, 0) == -1) {
            return -1;
        }

    } else if (getrlimit(RLIMIT_NOFILE, &r) == 0 && s->files < r.rlim_cur) {
        r.rlim_cur = s->files;                  /* we have raised ours */
        (void) setrlimit(RLIMIT_NOFILE, &r);
    }

    return (p->memory && spawn_limit(RLIMIT_AS, p->memory, 0) == -1)
           || (p->cpu_s && spawn_limit(RLIMIT_CPU, p->cpu_s, 5) == -1)
           || (p->processes && spawn_limit(RLIMIT_NPROC, p->processes, 0)
                               == -1)
           ? -1 : 0;
}


static int
spawn_files(struct exec_spawn *s)
{
    s->step = "its files";

    if (dup2(s->in, 0) == -1 || dup2(s->out, 1) == -1
        || dup2(s->err, 2) == -1)
    {
        return -1;
    }

    /* ours close at execve(), what we were started with may not */

    if (!ZONE_MUTANT("exec.files")) {
        (void) close_range(3, ~0u, 0);
    }

    return 0;
}


/* What we handle or ignore is not the program's affair. */

static void
spawn_signals(void)
{
    int               i;
    sigset_t          none;
    struct sigaction  sa;

    if (ZONE_MUTANT("exec.signals")) {
        return;
    }

    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = SIG_DFL;

    for (i = 1; i < NSIG; i++) {
        (void) sigaction(i, &sa, NULL);
    }

    sigemptyset(&none);
    (void) sigprocmask(SIG_SETMASK, &none, NULL);
}


/* -1 only: with errno, and step. */

static int
spawn_child(struct exec_spawn *s, pid_t parent)
{
    s->step = "a session of its own";

    if (setsid() == -1) {
        return -1;
    }

    ZONE_FAILPOINT("exec.session");
    s->step = "the worker";

    if (!ZONE_MUTANT("exec.death") && prctl(PR_SET_PDEATHSIG, SIGKILL) == -1) {
        return -1;
    }

    /* killed just before that */

    if (getppid() != parent && !ZONE_MUTANT("exec.orphan")) {
        errno = ESRCH;
        return -1;
    }

    ZONE_FAILPOINT("exec.child");

    s->step = s->policy->dir[0] ? s->policy->dir : "/";

    if (chdir(s->step) == -1 || spawn_files(s) == -1
        || spawn_limits(s) == -1)
    {
        return -1;
    }

    spawn_signals();

    s->step = s->policy->argv[0];

    return execve(s->policy->argv[0], s->policy->argv, s->envp);
}


pid_t
exec_spawn(struct exec_spawn *s)
{
    pid_t         pid, parent;
    sigset_t      all, old;
    volatile int  err;

    parent = getpid();
    err = 0;

    ZONE_FAILPOINT("exec.begin");

    sigfillset(&all);
    (void) pthread_sigmask(SIG_SETMASK, &all, &old);

    pid = vfork();

    if (pid == 0) {
        (void) spawn_child(s, parent);
        err = errno;
        _exit(127);
    }

    if (pid == -1) {
        s->step = "vfork";
        err = errno;
    }

    (void) pthread_sigmask(SIG_SETMASK, &old, NULL);

    if (err == 0) {
        return pid;
    }

    if (pid > 0) {
        while (waitpid(pid, NULL, 0) == -1 && errno == EINTR) { /* void */ }
    }

    errno = err;

    return -1;
}
