/*
 * offloadd's main: arguments, and the order of starting and stopping.  One
 * process in the foreground for one zone; the lock on the zone's lock file
 * makes sure of the one, for as long as the process lives.
 *
 * Exit codes: 0 left in order, 1 could not work (the reason is in the log),
 * 2 wrong arguments, 3 another worker has the store or the zone by now: then
 * there is no use in starting this one again.
 */

#include "offloadd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>


#define STORE_LOCK_MS         5000


static const char  usage[] =
    "usage: offloadd -c policy.json [-t]\n"
    "       offloadd -V | -h\n"
    "\n"
    "Takes the jobs that nginx's offload module accepted for a zone, replays\n"
    "them through nginx and stores the answers.  nginx starts it by itself;\n"
    "with \"offload_worker off\" a service manager does.  Stays in the\n"
    "foreground.\n"
    "\n"
    "  -c file  the zone's policy, written by nginx\n"
    "  -t       check the policy and leave\n"
    "  -V       version\n"
    "  -h       this\n"
    "\n"
    "SIGTERM  hand running jobs back and leave    SIGHUP   read the policy\n"
    "SIGQUIT  finish running jobs and leave       SIGUSR1  reopen the log\n";


static int
check_directory(const struct policy *p)
{
    struct stat  st;

    if (stat(p->path, &st) == -1) {
        log_text(LOG_ERROR, "zone directory %s: %s", p->path,
                 strerror(errno));
        return -1;
    }

    if (!S_ISDIR(st.st_mode)) {
        log_text(LOG_ERROR, "zone directory %s is not a directory", p->path);
        return -1;
    }

    if (st.st_uid != geteuid() || (st.st_mode & 077)) {
        log_text(LOG_ERROR, "zone directory %s belongs to user %u with mode "
                 "%03o; it must be mode 700 and belong to the user that runs "
                 "offloadd (now %u), which is nginx's worker user", p->path,
                 (unsigned) st.st_uid, (unsigned) st.st_mode & 0777,
                 (unsigned) geteuid());
        return -1;
    }

    return 0;
}


static int
open_zone(struct offloadd *d)
{
    char               path[PATH_MAX];
    struct zone_error  e;

    if (zone_guard_install() != 0) {
        log_text(LOG_ERROR, "sigaction: %s", strerror(errno));
        return -1;
    }

    if (zone_path(d->zone_file, sizeof(d->zone_file), d->policy.path,
                  ZONE_FILE_ZONE) != 0
        || zone_path(path, sizeof(path), d->policy.path, ZONE_FILE_LOCK) != 0)
    {
        log_text(LOG_ERROR, "\"path\" is too long");
        return -1;
    }

    if (zone_open(&d->zone, d->zone_file, &e) != 0) {
        log_text(LOG_ERROR, "%s", e.text);
        return -1;
    }

    d->lock = zone_lock_open(path, &e);
    if (d->lock == -1) {
        log_text(LOG_ERROR, "%s", e.text);
        return -1;
    }

    if (zone_lock_take(d->lock, ZONE_LOCK_WORKER) != 0
        && !ZONE_MUTANT("worker.lock"))
    {
        if (errno == EAGAIN || errno == EACCES) {
            log_text(LOG_ERROR, "zone \"%s\" has its worker already, process "
                     "%u: there is one for each zone", d->policy.zone,
                     atomic_load(&d->zone.worker->pid));
        } else {
            log_text(LOG_ERROR, "lock on %s: %s", path, strerror(errno));
        }

        return -1;
    }

    atomic_store(&d->zone.worker->pid, (uint32_t) getpid());

    return 0;
}


/*
 * The store outlives zones: the worker of one whose file was replaced may
 * still be storing what was in it.  It is waited for, but not for ever.
 */

static int
lock_store(struct offloadd *d)
{
    char               path[PATH_MAX];
    uint64_t           until;
    struct timespec    pause = { 0, 20 * 1000 * 1000 };
    struct zone_error  e;

    if (zone_path(path, sizeof(path), d->policy.store, ZONE_FILE_LOCK) != 0) {
        log_text(LOG_ERROR, "\"store\" is too long");
        return -1;
    }

    d->store_lock = zone_lock_open(path, &e);
    if (d->store_lock == -1) {
        log_text(LOG_ERROR, "%s", e.text);
        return -1;
    }

    until = mono_ms() + STORE_LOCK_MS;

    while (zone_lock_take(d->store_lock, ZONE_LOCK_WORKER) != 0) {

        if (errno != EAGAIN || mono_ms() >= until) {
            log_text(LOG_WARN, "lock on %s: %s; the worker that has it is not "
                     "waited for any longer", path, strerror(errno));
            break;
        }

        (void) nanosleep(&pause, NULL);
    }

    return 0;
}


static int
open_sockets(struct offloadd *d)
{
    char               path[PATH_MAX];
    struct zone_error  e;

    if (zone_path(path, sizeof(path), d->policy.path, ZONE_FILE_WORKER) != 0) {
        log_text(LOG_ERROR, "\"path\" is too long");
        return -1;
    }

    d->store.wake = zone_wake_bind(path, &e);
    if (d->store.wake == -1) {
        log_text(LOG_ERROR, "%s", e.text);
        return -1;
    }

    if (drain_init(&d->store, &e) != 0) {
        log_text(LOG_ERROR, "%s", e.text);
        return -1;
    }

    return 0;
}


/* Who wants a log reopened, or a policy read, does not mean to end a worker
 * that is still starting: the loop hears of it later. */

static void
keep_signals(void)
{
    sigset_t  set;

    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);

    (void) pthread_sigmask(SIG_BLOCK, &set, NULL);
}


static int
start(struct offloadd *d)
{
    struct log_line      l;
    struct engine_error  e;

    keep_signals();

    if (check_directory(&d->policy) != 0 || open_zone(d) != 0
        || lock_store(d) != 0)
    {
        return -1;
    }

    if (store_init(&d->store, d, &e) != 0) {
        log_text(LOG_ERROR, "%s", e.text);
        return -1;
    }

    if (sched_init(&d->sched) != 0 || sched_configure(d) != 0) {
        log_text(LOG_ERROR, "no memory for %u queues", d->policy.nqueues);
        return -1;
    }

    if (open_sockets(d) != 0) {
        return -1;
    }

    if (recover(d, &e) != 0) {
        log_text(LOG_ERROR, "recovery: %s", e.text);
        return -1;
    }

    if (loop_init(d) != 0) {
        return -1;
    }

    (void) control_init(d);

    if (store_start(&d->store) != 0) {
        return -1;
    }

    if (log_begin(&l, LOG_NOTICE, "started")) {
        log_str(&l, "version", OFFLOADD_VERSION);
        log_str(&l, "zone", d->policy.zone);
        log_uint(&l, "pid", (uint64_t) getpid());
        log_uint(&l, "lanes", d->zone.geo.lanes);
        log_uint(&l, "concurrency", d->policy.concurrency);
        log_uint(&l, "waiting", d->sched.queues.ready
                               + d->sched.queues.delayed);
        log_end(&l);
    }

    log_started();

    return 0;
}


static void
stop(struct offloadd *d)
{
    struct store_op     *op, *after;
    struct store_batch  *b, *next;

    control_stop(d);
    store_stop(&d->store);

    for (b = store_take(&d->store); b; b = next) {
        uint32_t  i;

        for (i = 0; i < b->n; i++) {
            if (b->events[i].attempt) {
                attempt_put(d, b->events[i].attempt);
            }
        }

        for (op = b->ops; op; op = after) {
            after = op->next;

            if (op->type == STORE_OP_QUEUE || op->type == STORE_OP_PROGRESS) {
                free(op);
            }
        }

        next = b->next;
        store_batch_free(b);
    }

    atomic_store(&d->zone.worker->pid, 0);
    atomic_store(&d->zone.worker->running, 0);

    control_free(d);
    attempt_free_all(d);
    exec_free_all(d);
    replay_free_handles(d);
    hooks_free(d);
    loop_free(d);
    sched_free(&d->sched);
    watch_free(&d->watches);
    deadline_free(d);
    free(d->store.lanes);
    free(d->store.items);
    free(d->store.rings);
    free(d->store.pending);
    free(d->store.rules);
    policy_free(&d->policy);
    zone_close(&d->zone);
    close(d->store_lock);
    close(d->lock);                             /* last: now another may */

    log_text(LOG_NOTICE, "left");
}


static int
arguments(int argc, char **argv, struct offloadd *d, int *test)
{
    int  c;

    while ((c = getopt(argc, argv, "c:tVh")) != -1) {
        switch (c) {

        case 'c':
            d->policy_file = optarg;
            break;

        case 't':
            *test = 1;
            break;

        case 'V':
            (void) printf("offloadd %s\n", OFFLOADD_VERSION);
            exit(0);

        case 'h':
            (void) fputs(usage, stdout);
            exit(0);

        default:
            return -1;
        }
    }

    return d->policy_file && optind == argc ? 0 : -1;
}


int
main(int argc, char **argv)
{
    int                     code, test;
    struct policy_error     e;
    static struct offloadd  d;

    test = 0;

    if (arguments(argc, argv, &d, &test) != 0) {
        (void) fputs(usage, stderr);
        return 2;
    }

    if (policy_load(&d.policy, d.policy_file, &e) != 0) {
        log_text(LOG_ERROR, "%s", e.text);
        return 1;
    }

    if (test) {
        (void) printf("%s is good: zone \"%s\"\n", d.policy_file,
                      d.policy.zone);
        return 0;
    }

    policy_note(&d);

    if (log_open(d.policy.log, d.policy.log_level) != 0) {
        log_text(LOG_ERROR, "log %s: %s", d.policy.log, strerror(errno));
        return 1;
    }

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        log_text(LOG_ERROR, "libcurl could not be initialized");
        return 1;
    }

    if (start(&d) != 0) {
        return 1;
    }

    code = loop_run(&d);
    stop(&d);
    curl_global_cleanup();

    return code;
}
