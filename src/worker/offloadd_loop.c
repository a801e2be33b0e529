/*
 * The loop: epoll for libcurl's sockets, signals and the store's batches;
 * timers; one tick a second.  Main thread.  It decides when the worker
 * leaves: by a signal, when nginx is gone, or when the zone is not the zone
 * any more.
 */

#include "offloadd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>


#define LOOP_EVENTS           512
#define LOOP_STOP_MS          10000             /* to hand back */
#define LOOP_LOST_MS          2000              /* nginx's workers notice that
                                                   the zone is another */


static int loop_wait(struct offloadd *d);
static void loop_fd_ready(struct offloadd *d, int fd, uint32_t events);
static void loop_batches(struct offloadd *d);
static void loop_signal(struct offloadd *d);
static void loop_tick(struct offloadd *d);
static void loop_check_zone(struct offloadd *d);
static int loop_over(struct offloadd *d, int *code);


/* To read from, until it is closed.  What is there before `fds` is low. */

int
loop_epoll_add(struct loop *l, int fd)
{
    struct epoll_event  ev;

    if (l->nfds && (uint32_t) fd >= l->nfds) {
        errno = EMFILE;
        return -1;
    }

    memset(&ev, 0, sizeof(ev));
    ev.events = EPOLLIN;
    ev.data.fd = fd;

    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev);
}


static int
loop_signals(void)
{
    sigset_t  set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCONT);

    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0) {
        return -1;
    }

    (void) signal(SIGPIPE, SIG_IGN);

    return signalfd(-1, &set, SFD_CLOEXEC|SFD_NONBLOCK);
}


static uint32_t
loop_files(struct loop *l)
{
    struct rlimit  r;

    if (getrlimit(RLIMIT_NOFILE, &r) == -1) {
        l->files = 1024;
        return 1024;
    }

    l->files = r.rlim_cur;

    if (r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        (void) setrlimit(RLIMIT_NOFILE, &r);
        (void) getrlimit(RLIMIT_NOFILE, &r);
    }

    return r.rlim_cur < 1048576 ? (uint32_t) r.rlim_cur : 1048576;
}


static void
loop_limits(struct offloadd *d)
{
    multi_limits(d);

    if (d->policy.concurrency + 64 > d->loop.nfds) {
        log_text(LOG_WARN, "concurrency is %u, but only %u files may be open: "
                 "raise the limit (worker_rlimit_nofile, LimitNOFILE=)",
                 d->policy.concurrency, d->loop.nfds);
    }
}


int
loop_init(struct offloadd *d)
{
    struct loop  *l = &d->loop;

    l->ops_last = &l->ops;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->signals = loop_signals();
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC|TFD_NONBLOCK);
    l->timer_at = UINT64_MAX;

    if (l->epoll == -1 || l->signals == -1 || l->timer == -1
        || loop_epoll_add(l, l->timer) == -1
        || loop_epoll_add(l, l->signals) == -1
        || loop_epoll_add(l, d->store.loop_event) == -1
        || multi_init(d, loop_files(l)) != 0
        || exec_init(d) != 0)
    {
        log_text(LOG_ERROR, "the event loop: %s", strerror(errno));
        return -1;
    }

    loop_limits(d);

    (void) loop_held(d);

    return 0;
}


void
loop_free(struct offloadd *d)
{
    struct loop  *l = &d->loop;

    multi_free(d);

    if (l->epoll > 0) {
        close(l->epoll);
    }

    if (l->signals > 0) {
        close(l->signals);
    }

    if (l->timer > 0) {
        close(l->timer);
    }
}


void
loop_answer(struct offloadd *d, uint32_t lane,
    const struct zone_completion *c)
{
    struct store_op  *op;

    op = calloc(1, sizeof(*op));
    if (op == NULL) {
        return;                                 /* who waits has a timeout */
    }

    op->type = STORE_OP_ANSWER;
    op->lane = lane;
    op->answer = *c;

    loop_submit(d, op);
}


/* Operations gather during a round and go to the store at its end. */

void
loop_submit(struct offloadd *d, struct store_op *op)
{
    op->next = NULL;
    *d->loop.ops_last = op;
    d->loop.ops_last = &op->next;
}


/* Is nginx up?  Its workers hold the locks of their lanes. */

int
loop_held(struct offloadd *d)
{
    int  held;

    held = zone_lock_held(d->lock, 0, d->zone.geo.lanes);

    if (held == 1) {
        d->loop.no_lane_since = 0;

    } else if (d->loop.no_lane_since == 0) {
        d->loop.no_lane_since = mono_ms();
    }

    d->loop.held = held == 1;

    return d->loop.held;
}


void
loop_fatal(struct offloadd *d)
{
    d->loop.fatal = 1;

    if (d->loop.stop != LOOP_HAND_BACK) {
        d->loop.stop = LOOP_HAND_BACK;
        d->loop.stop_at = mono_ms() + LOOP_STOP_MS;
    }
}


static void
loop_fd_ready(struct offloadd *d, int fd, uint32_t events)
{
    uint64_t  count;

    if (fd == d->store.loop_event) {
        (void) !read(fd, &count, sizeof(count));
        return;
    }

    if (fd == d->loop.timer) {
        (void) !read(fd, &count, sizeof(count));
        d->loop.timer_at = UINT64_MAX;
        return;
    }

    if (fd == d->loop.signals) {
        return;                                 /* they came first */
    }

    if (control_ready(d, fd) || exec_ready(d, fd)) {
        return;
    }

    multi_ready(d, fd, events);
}


static void
loop_batches(struct offloadd *d)
{
    struct store_batch  *b, *next;

    b = store_take(&d->store);

    if (b && !d->loop.held) {
        (void) loop_held(d);                    /* nginx is back, it seems */
    }

    for ( /* void */ ; b; b = next) {
        next = b->next;
        sched_batch(d, b);
        store_batch_free(b);
    }
}


static void
loop_signal(struct offloadd *d)
{
    struct signalfd_siginfo  info;

    while (read(d->loop.signals, &info, sizeof(info)) == sizeof(info)) {

        switch (info.ssi_signo) {

        case SIGHUP:
            policy_reload(d, 1);
            log_tick();
            break;

        case SIGUSR1:
            log_tick();
            break;

        case SIGCONT:
            d->loop.tick_at = 0;
            break;

        case SIGQUIT:
            if (d->loop.stop == LOOP_GO_ON) {
                log_text(LOG_NOTICE, "SIGQUIT: no new attempts, finishing %u",
                         d->sched.running);
                d->loop.stop = LOOP_FINISH;
                break;
            }

            /* the second time it means now */

            /* fall through */

        default:
            if (d->loop.stop != LOOP_HAND_BACK) {
                log_text(LOG_NOTICE, "%s: handing back %u running jobs",
                         strsignal((int) info.ssi_signo), d->sched.running);
                d->loop.stop = LOOP_HAND_BACK;
                d->loop.stop_at = mono_ms() + LOOP_STOP_MS;
            }

            break;
        }
    }
}


static void
loop_tick(struct offloadd *d)
{
    uint32_t  before;

    d->loop.tick_at = mono_ms() + LOOP_TICK_MS;

    loop_check_zone(d);
    log_tick();
    (void) loop_held(d);

    before = d->policy.concurrency;
    policy_reload(d, 0);

    if (d->policy.concurrency != before) {
        loop_limits(d);
    }

    atomic_store_explicit(&d->zone.worker->beat_ms, clock_ms(),
                          memory_order_relaxed);

    watch_tick(d);
    control_tick(d);
}


/*
 * Has the zone's directory, with another lock file, another worker?  Then
 * what that finds in the store is its own, and this one is in its way.
 */

static int
loop_replaced(struct offloadd *d)
{
    int          fd, held;
    char         path[PATH_MAX];
    struct stat  mine, st;

    if (zone_path(path, sizeof(path), d->policy.path, ZONE_FILE_LOCK) != 0
        || fstat(d->lock, &mine) == -1 || stat(path, &st) == -1
        || (st.st_dev == mine.st_dev && st.st_ino == mine.st_ino))
    {
        return 0;
    }

    fd = open(path, O_RDWR|O_CLOEXEC|O_NOFOLLOW|O_NONBLOCK);
    if (fd == -1) {
        return 0;
    }

    held = zone_lock_held(fd, ZONE_LOCK_WORKER, 1) == 1;
    (void) close(fd);

    return held;
}


/*
 * A zone that is not to be trusted is left at once.  One without a name is
 * what nginx's workers still have mapped: until they notice they put jobs
 * into it, and nobody else can read them.  They are stored first; once
 * another worker has the store, that one's fence ends this process.
 */

static void
loop_check_zone(struct offloadd *d)
{
    if (zone_broken(&d->zone)) {
        log_text(LOG_ERROR, "%s was cut short under the running worker, which "
                 "therefore leaves; jobs in the store are kept, those still "
                 "in the lost part are not: do not touch the files in the "
                 "zone's directory, restart nginx if it reports the same",
                 d->zone_file);
        _exit(1);
    }

    if (ZONE_MUTANT("loop.replaced") || d->loop.lost_at) {
        return;
    }

    if (zone_is_current(&d->zone, d->zone_file)) {

        if (loop_replaced(d)) {
            log_text(LOG_NOTICE, "the lock in %s was made anew, and another "
                     "worker has it: this one leaves", d->policy.path);
            _exit(OFFLOADD_OVERTAKEN);
        }

        return;
    }

    log_text(LOG_ERROR, "%s was removed, or made anew, under the running "
             "worker, which stores what is in it and leaves: reload nginx, "
             "and do not touch the files in the zone's directory",
             d->zone_file);

    d->loop.lost_at = mono_ms();
    loop_fatal(d);

    if (access(d->zone_file, F_OK) == 0) {
        d->loop.fatal = OFFLOADD_OVERTAKEN;     /* or soon will be */
    }
}


static int
loop_expects(struct offloadd *d, uint64_t now)
{
    return d->loop.lost_at != 0
           && (!store_drained(&d->store)
               || (loop_held(d) && now - d->loop.lost_at < LOOP_LOST_MS));
}


/* 1: leave, with that code. */

static int
loop_over(struct offloadd *d, int *code)
{
    int       idle;
    uint64_t  now = mono_ms();

    if (zone_broken(&d->zone)) {
        loop_check_zone(d);
    }

    *code = d->loop.fatal;
    idle = d->sched.running == 0 && d->sched.lent == 0 && d->execs.n == 0;

    if (d->loop.stop == LOOP_HAND_BACK) {
        if (idle && !loop_expects(d, now)) {
            return 1;
        }

        if (now >= d->loop.stop_at) {
            log_text(LOG_ERROR, "%u jobs could not be handed back: the next "
                     "worker recovers them", d->sched.running);
            *code = 1;
            return 1;
        }

        return 0;
    }

    if (d->loop.stop == LOOP_FINISH) {
        return idle;
    }

    if (d->loop.no_lane_since != 0
        && now - d->loop.no_lane_since >= d->policy.leave_ms
        && idle && store_drained(&d->store) && !loop_held(d))
    {
        log_text(LOG_NOTICE, "nginx is gone, so the worker leaves; %llu jobs "
                 "wait in the store",
                 (unsigned long long) (d->sched.queues.ready
                                       + d->sched.queues.delayed));
        return 1;
    }

    return 0;
}


static void
loop_flush(struct offloadd *d)
{
    if (d->loop.ops) {
        store_submit(&d->store, d->loop.ops, d->loop.ops_last);
        d->loop.ops = NULL;
        d->loop.ops_last = &d->loop.ops;
    }
}


static int
loop_timeout(struct offloadd *d)
{
    uint64_t  now, at;

    now = mono_ms();
    at = d->loop.tick_at;

    if (multi_next(d) < at) {
        at = multi_next(d);
    }

    if (control_next(d) < at) {
        at = control_next(d);
    }

    if (d->sched.paced_until < at) {
        at = d->sched.paced_until;
    }

    if (d->loop.stop != LOOP_HAND_BACK && defer_next(d) < at) {
        at = defer_next(d);
    }

    if (hooks_next(d) < at) {
        at = hooks_next(d);
    }

    if (deadline_next(d) < at) {
        at = deadline_next(d);
    }

    if (exec_next(d) < at) {
        at = exec_next(d);
    }

    return at > now ? (int) (at - now) : 0;
}


/* A rate is a matter of microseconds, epoll's timeout one of milliseconds. */

static void
loop_arm(struct offloadd *d)
{
    uint64_t           at, now;
    struct itimerspec  t;

    at = queues_wake(&d->sched.queues);

    if (at == d->loop.timer_at) {
        return;
    }

    memset(&t, 0, sizeof(t));

    if (at != UINT64_MAX) {
        now = mono_us();                        /* ours may be a test's */
        now = at > now ? at - now : 1;
        t.it_value.tv_sec = (time_t) (now / 1000000);
        t.it_value.tv_nsec = (long) (now % 1000000) * 1000;
    }

    if (timerfd_settime(d->loop.timer, 0, &t, NULL) == 0) {
        d->loop.timer_at = at;
    }
}


/*
 * 0: do nothing before another round.  A worker that was stopped finds SIGCONT
 * here, if not a wait that was interrupted, and looks whether it is still
 * wanted before it sends or reads anything; what is ready now will be so then.
 */

static int
loop_wait(struct offloadd *d)
{
    int                 i, n, timeout;
    struct epoll_event  events[LOOP_EVENTS];

    timeout = loop_timeout(d);
    loop_arm(d);

    if (timeout > 0) {
        zone_sleep_arm(&d->store.loop_sleeping);

        pthread_mutex_lock(&d->store.mutex);
        timeout = d->store.batches ? 0 : timeout;
        pthread_mutex_unlock(&d->store.mutex);
    }

    n = epoll_wait(d->loop.epoll, events, LOOP_EVENTS, timeout);

    zone_sleep_disarm(&d->store.loop_sleeping);

    for (i = 0; i < n; i++) {
        if (events[i].data.fd == d->loop.signals) {
            loop_signal(d);
        }
    }

    if (n == -1 || mono_ms() >= d->loop.tick_at) {
        return 0;
    }

    for (i = 0; i < n; i++) {
        loop_fd_ready(d, events[i].data.fd, events[i].events);
    }

    return 1;
}


int
loop_run(struct offloadd *d)
{
    int  code;

    for ( ;; ) {
        if (mono_ms() >= d->loop.tick_at) {
            loop_tick(d);
        }

        if (d->loop.stop == LOOP_HAND_BACK) {
            attempt_hand_back(d);

        } else {
            defer_due(d);
        }

        deadline_run(d);
        hooks_run(d);
        exec_tick(d);
        sched_dispatch(d);
        loop_flush(d);
        sched_publish(d);

        if (loop_over(d, &code)) {
            break;
        }

        if (loop_wait(d)) {
            loop_batches(d);
            multi_run(d);
            control_run(d);
        }
    }

    return code;
}
