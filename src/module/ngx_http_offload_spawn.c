
/*
 * Starting offloadd.  A module can not have the master spawn a process, but
 * it can have a path with a manager: then the master runs one unprivileged
 * helper ("cache manager process"), started anew by the master whenever it
 * dies and on each reload, and the helper calls ngx_http_offload_manager()
 * for each zone about once a second.
 *
 * The zone's worker is alive exactly as long as its lock is held.  When it
 * is not, the helper forks twice and executes offloadd, which is nobody's
 * child here: it outlives reloads, and its death is no alert in our log.  One
 * that leaves because another has its zone leaves that other's lock held, so
 * there is no fight between the two.
 */


#include "ngx_http_offload_module.h"


#define NGX_HTTP_OFFLOAD_RESTART_MAX  30000         /* ms */


static void ngx_http_offload_spawn(ngx_http_offload_zone_t *zone, char *path,
    char *policy);
static void ngx_http_offload_exec(char *path, char *policy, int log);


ngx_msec_t
ngx_http_offload_manager(void *data)
{
    ngx_http_offload_zone_t  *zone = data;

    char                           name[NGX_MAX_PATH];
    struct zone_bell               bell;
    struct zone_error              e;
    ngx_http_offload_main_conf_t  *omcf;

    if (ngx_quit || ngx_terminate || ngx_exiting) {
        return NGX_HTTP_OFFLOAD_TICK;
    }

    if (zone->manager_lock == -1) {
        zone_path(name, sizeof(name), (char *) zone->path.data,
                  ZONE_FILE_LOCK);

        zone->manager_lock = zone_lock_open(name, &e);
        if (zone->manager_lock == -1) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "%s", e.text);
            return NGX_HTTP_OFFLOAD_RESTART_MAX;
        }

        /* the policy may be a new one */

        zone_path(name, sizeof(name), (char *) zone->path.data,
                  ZONE_FILE_WORKER);

        if (zone_bell_init(&bell, name) == 0) {
            int  fd = zone_bell_socket();

            if (fd != -1) {
                zone_bell_ring(fd, &bell);
                (void) close(fd);
            }
        }
    }

    if (zone_lock_held(zone->manager_lock, ZONE_LOCK_WORKER, 1)) {
        zone->manager_msec = 0;
        zone->manager_next = 0;
        return NGX_HTTP_OFFLOAD_TICK;
    }

    if (zone->manager_next > 0) {
        zone->manager_next--;
        return NGX_HTTP_OFFLOAD_TICK;
    }

    omcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_http_offload_module);

    zone_path(name, sizeof(name), (char *) zone->path.data, ZONE_FILE_POLICY);

    ngx_http_offload_spawn(zone, (char *) omcf->worker_path.data, name);

    /* each start in vain doubles the pause: 0, 1, 3, 7 ... 30 ticks */

    zone->manager_msec = ngx_min(zone->manager_msec * 2
                                 + NGX_HTTP_OFFLOAD_TICK,
                                 NGX_HTTP_OFFLOAD_RESTART_MAX);
    zone->manager_next = zone->manager_msec / NGX_HTTP_OFFLOAD_TICK;

    return NGX_HTTP_OFFLOAD_TICK;
}


static void
ngx_http_offload_spawn(ngx_http_offload_zone_t *zone, char *path, char *policy)
{
    int    log;
    pid_t  pid;

    if (access(path, X_OK) == -1) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                      "zone \"%V\" has no worker: \"%s\" can not be executed",
                      &zone->name, path);
        return;
    }

    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                  "starting the worker of zone \"%V\": %s -c %s",
                  &zone->name, path, policy);

    log = ngx_cycle->log->file ? ngx_cycle->log->file->fd : STDERR_FILENO;

    pid = fork();

    if (pid == -1) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                      "fork() failed while starting the worker of zone "
                      "\"%V\"", &zone->name);
        return;
    }

    if (pid == 0) {
        pid = fork();

        if (pid == 0) {
            ngx_http_offload_exec(path, policy, log);
        }

        _exit(pid == -1);
    }

    /* nginx's own handler may be faster; either way it is gone at once */

    while (waitpid(pid, NULL, 0) == -1 && errno == EINTR) { /* void */ }
}


/* In the grandchild: nothing of nginx may live on in it. */

static void
ngx_http_offload_exec(char *path, char *policy, int log)
{
    int       null, i;
    char     *argv[4], *error;
    sigset_t  set;

    (void) setsid();

    null = open("/dev/null", O_RDWR);
    if (null != -1) {
        (void) dup2(null, STDIN_FILENO);
        (void) dup2(null, STDOUT_FILENO);
    }

    (void) dup2(log, STDERR_FILENO);

    /* listening sockets, connections, epoll, lock files */

    if (close_range(3, ~0U, 0) == -1) {
        for (i = 3; i < 65536; i++) {
            (void) close(i);
        }
    }

    for (i = 1; i < NSIG; i++) {
        (void) signal(i, SIG_DFL);
    }

    sigemptyset(&set);
    (void) sigprocmask(SIG_SETMASK, &set, NULL);
    (void) umask(077);

    if (chdir("/") == -1) {
        /* it would only pin a directory */
    }

    argv[0] = path;
    argv[1] = "-c";
    argv[2] = policy;
    argv[3] = NULL;

    (void) execv(path, argv);

    error = strerror(errno);

    if (write(STDERR_FILENO, "offloadd: exec failed: ", 23) == -1
        || write(STDERR_FILENO, error, strlen(error)) == -1
        || write(STDERR_FILENO, "\n", 1) == -1)
    {
        _exit(2);
    }

    _exit(1);
}
