
/*
 * Commands: exec and what belongs to it in an offload_queue block, the check
 * that the program can be executed, and the policy's part.  Runs while nginx
 * reads its configuration (in the master for the policy); looks at the
 * program's file and directories, touches only memory.
 */


#include "ngx_http_offload_module.h"

#include <grp.h>
#include <jansson.h>


struct ngx_http_offload_exec_s {
    ngx_array_t     *argv;              /* u_char * */
    ngx_array_t     *env;
    ngx_str_t        dir;
    ngx_str_t        pattern;
    off_t            memory;
    time_t           cpu;
    ngx_int_t        processes;
    ngx_int_t        files;
};


static ngx_http_offload_exec_t *
ngx_http_offload_exec(ngx_conf_t *cf, ngx_http_offload_queue_t *queue)
{
    if (queue->exec == NULL) {
        queue->exec = ngx_pcalloc(cf->pool, sizeof(ngx_http_offload_exec_t));
    }

    return queue->exec;
}


/* Into the policy they go as JSON: UTF-8. */

static char *
ngx_http_offload_exec_words(ngx_conf_t *cf, ngx_str_t *value, ngx_uint_t n,
    ngx_array_t **words, ngx_uint_t *bad)
{
    json_t      *text;
    u_char     **word;
    ngx_uint_t   i;

    *words = ngx_array_create(cf->pool, n, sizeof(u_char *));
    if (*words == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < n; i++) {
        *bad = i;
        text = json_string((char *) value[i].data);

        if (text == NULL || ngx_strlen(value[i].data) != value[i].len) {
            json_decref(text);
            return "it must be UTF-8";
        }

        json_decref(text);

        word = ngx_array_push(*words);
        if (word == NULL) {
            return NGX_CONF_ERROR;
        }

        *word = value[i].data;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_offload_exec_file(ngx_str_t *name, ngx_uint_t dir)
{
    ngx_file_info_t  fi;

    if (name->data[0] != '/') {
        return "it must be an absolute path";
    }

    if (name->len >= NGX_MAX_PATH) {
        return "it is too long";
    }

    if (ngx_file_info(name->data, &fi) == NGX_FILE_ERROR) {
        return ngx_errno == NGX_ENOENT || ngx_errno == NGX_ENOTDIR
               ? "there is no such file" : "it can not be looked at";
    }

    if (dir) {
        return ngx_is_dir(&fi) ? NGX_CONF_OK : "it must be a directory";
    }

    return ngx_is_file(&fi) ? NGX_CONF_OK : "it must be a regular file";
}


char *
ngx_http_offload_queue_exec(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value, ngx_uint_t n, ngx_uint_t *bad)
{
    char                     *rv;
    ngx_http_offload_exec_t  *exec;

    exec = ngx_http_offload_exec(cf, queue);
    if (exec == NULL) {
        return NGX_CONF_ERROR;
    }

    rv = ngx_http_offload_exec_file(&value[1], 0);

    return rv != NGX_CONF_OK ? rv
           : ngx_http_offload_exec_words(cf, value, n, &exec->argv, bad);
}


char *
ngx_http_offload_queue_exec_dir(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    ngx_array_t              *words;
    ngx_http_offload_exec_t  *exec;

    exec = ngx_http_offload_exec(cf, queue);
    if (exec == NULL) {
        return NGX_CONF_ERROR;
    }

    exec->dir = value[1];

    return ngx_http_offload_exec_words(cf, value, n, &words, bad)
           != NGX_CONF_OK
           ? "it must be UTF-8" : ngx_http_offload_exec_file(&value[1], 1);
}


char *
ngx_http_offload_queue_exec_env(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    u_char                    c;
    ngx_uint_t                i, k;
    ngx_http_offload_exec_t  *exec;

    exec = ngx_http_offload_exec(cf, queue);
    if (exec == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < n; i++) {
        *bad = i;

        for (k = 0; k < value[i].len && value[i].data[k] != '='; k++) {
            c = value[i].data[k];

            if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
                  || c == '_' || (k && c >= '0' && c <= '9')))
            {
                k = 0;
                break;
            }
        }

        if (k == 0) {
            return "it must be a name of letters, digits and \"_\", or such "
                   "a name, \"=\" and a value";
        }
    }

    return ngx_http_offload_exec_words(cf, value, n, &exec->env, bad);
}


static char *
ngx_http_offload_exec_number(ngx_str_t *v, ngx_int_t *number)
{
    *number = ngx_atoi(v->data, v->len);

    return *number < 1 || *number > 1000000
           ? "it must be a number from 1 to 1000000" : NGX_CONF_OK;
}


static char *
ngx_http_offload_exec_limit(ngx_conf_t *cf, ngx_http_offload_queue_t *queue,
    ngx_str_t *value)
{
    ngx_str_t                 v;
    ngx_http_offload_exec_t  *exec;

    exec = queue->exec;

    if (ngx_http_offload_queue_param(value, "memory=", &v)) {
        exec->memory = ngx_parse_offset(&v);

        return exec->memory < 1024 * 1024
               ? "it must be a size of at least 1m" : NGX_CONF_OK;
    }

    if (ngx_http_offload_queue_param(value, "cpu=", &v)) {
        exec->cpu = ngx_parse_time(&v, 1);

        return exec->cpu < 1 || exec->cpu > 24 * 24 * 60 * 60
               ? "it must be a time between 1s and 24d" : NGX_CONF_OK;
    }

    if (ngx_http_offload_queue_param(value, "processes=", &v)) {
        return ngx_http_offload_exec_number(&v, &exec->processes);
    }

    if (ngx_http_offload_queue_param(value, "files=", &v)) {
        return ngx_http_offload_exec_number(&v, &exec->files);
    }

    return "there is no such parameter; memory, cpu, processes and files are";
}


char *
ngx_http_offload_queue_exec_limit(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
    if (ngx_http_offload_exec(cf, queue) == NULL) {
        return NGX_CONF_ERROR;
    }

    return ngx_http_offload_queue_params(cf, queue, value, n, bad,
                                         ngx_http_offload_exec_limit);
}


char *
ngx_http_offload_queue_pattern(ngx_conf_t *cf,
    ngx_http_offload_queue_t *queue, ngx_str_t *value, ngx_uint_t n,
    ngx_uint_t *bad)
{
#if (NGX_PCRE)

    u_char                   *text, errstr[NGX_MAX_CONF_ERRSTR];
    ngx_array_t              *words;
    ngx_regex_compile_t       rc;
    ngx_http_offload_exec_t  *exec;

    exec = ngx_http_offload_exec(cf, queue);
    if (exec == NULL) {
        return NGX_CONF_ERROR;
    }

    exec->pattern = value[1];

    if (ngx_http_offload_exec_words(cf, value, n, &words, bad)
        != NGX_CONF_OK)
    {
        return "it must be UTF-8";
    }

    ngx_memzero(&rc, sizeof(ngx_regex_compile_t));

    rc.pattern = value[1];
    rc.pool = cf->pool;
    rc.err.len = NGX_MAX_CONF_ERRSTR;
    rc.err.data = errstr;

    if (ngx_regex_compile(&rc) != NGX_OK) {
        text = ngx_pnalloc(cf->pool, rc.err.len + 1);
        if (text == NULL) {
            return NGX_CONF_ERROR;
        }

        *ngx_cpymem(text, rc.err.data, rc.err.len) = '\0';

        return (char *) text;
    }

    return rc.captures == 1 ? NGX_CONF_OK
           : "it must have one group in parentheses: the percentage";

#else

    return "it needs nginx with PCRE";

#endif
}


const char *
ngx_http_offload_exec_wrong(ngx_http_offload_queue_t *queue)
{
    if (queue->exec && queue->pass) {
        return "\"exec\" and \"pass\": its jobs can go one way only";
    }

    return queue->exec && queue->exec->argv == NULL
           ? "\"exec_limit\", \"exec_dir\", \"exec_env\" and "
             "\"progress_pattern\" need an \"exec\""
           : NULL;
}


/* Does it tell how far it is? */

ngx_uint_t
ngx_http_offload_exec_reports(ngx_http_offload_exec_t *exec)
{
    return exec->pattern.len != 0;
}


static ngx_uint_t
ngx_http_offload_exec_group(ngx_core_conf_t *ccf, gid_t gid, gid_t group)
{
    int         i, n;
    gid_t       groups[256];
    ngx_uint_t  found;

    if (gid == group) {
        return 1;
    }

    n = sizeof(groups) / sizeof(gid_t);

    if (geteuid() == 0) {
        if (ccf->username == NULL
            || getgrouplist(ccf->username, gid, groups, &n) == -1)
        {
            return 0;
        }

    } else {
        n = getgroups(n, groups);
    }

    for (i = 0, found = 0; i < n; i++) {
        found |= groups[i] == group;
    }

    return found;
}


/*
 * As the kernel would decide for nginx's worker user, who runs offloadd: may
 * it go through the directories, and execute what is there?  What is wrong
 * with what: `file` is cut to that.
 */

static const char *
ngx_http_offload_exec_denied(ngx_core_conf_t *ccf, uid_t uid, gid_t gid,
    u_char *file)
{
    u_char       *p;
    mode_t        bit, end;
    struct stat   st;

    for (p = file + 1; /* void */; p++) {

        if (*p != '/' && *p != '\0') {
            continue;
        }

        end = *p;
        *p = '\0';

        if (stat((char *) file, &st) == -1) {
            return NULL;                    /* it was there just now */
        }

        bit = uid == 0 ? S_IXUSR|S_IXGRP|S_IXOTH
              : st.st_uid == uid ? S_IXUSR
              : ngx_http_offload_exec_group(ccf, gid, st.st_gid) ? S_IXGRP
                                                                 : S_IXOTH;

        if (!(st.st_mode & bit) && (uid || !S_ISDIR(st.st_mode))) {
            return S_ISDIR(st.st_mode) ? "enter" : "execute";
        }

        if (end == '\0') {
            return NULL;
        }

        *p = '/';
    }
}


static ngx_int_t
ngx_http_offload_exec_allowed(ngx_cycle_t *cycle,
    ngx_http_offload_queue_t *queue, const char *directive, u_char *path)
{
    gid_t             gid;
    uid_t             uid;
    u_char            file[NGX_MAX_PATH];
    const char       *denied;
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);
    ngx_http_offload_zone_user(cycle, &uid, &gid);

    (void) ngx_cpystrn(file, path, sizeof(file));
    denied = ngx_http_offload_exec_denied(ccf, uid, gid, file);

    if (denied == NULL) {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                  "queue \"%V\" in %s:%ui: \"%s\" has \"%s\", but nginx's "
                  "worker user may not %s \"%s\"",
                  &queue->name, queue->conf_file, queue->line, directive,
                  path, denied, file);

    return NGX_ERROR;
}


ngx_int_t
ngx_http_offload_exec_check(ngx_cycle_t *cycle,
    ngx_http_offload_main_conf_t *omcf)
{
    u_char                    **argv;
    ngx_uint_t                  i;
    ngx_http_offload_exec_t    *exec;
    ngx_http_offload_queue_t  **queue;

    queue = omcf->queues.elts;

    for (i = 0; i < omcf->queues.nelts; i++) {
        exec = queue[i]->exec;

        if (exec == NULL) {
            continue;
        }

        argv = exec->argv->elts;

        if (ngx_http_offload_exec_allowed(cycle, queue[i], "exec", argv[0])
            != NGX_OK
            || (exec->dir.len
                && ngx_http_offload_exec_allowed(cycle, queue[i], "exec_dir",
                                                 exec->dir.data)
                   != NGX_OK))
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* NULL: no memory */

json_t *
ngx_http_offload_exec_json(ngx_http_offload_exec_t *exec)
{
    json_t  *json;

    json = json_pack("{s:o, s:I, s:I, s:I, s:I}",
                     "argv", ngx_http_offload_words_json(exec->argv),
                     "memory", (json_int_t) exec->memory,
                     "cpu_s", (json_int_t) exec->cpu,
                     "processes", (json_int_t) exec->processes,
                     "files", (json_int_t) exec->files);

    if (json == NULL
        || (exec->env
            && json_object_set_new(json, "env",
                                   ngx_http_offload_words_json(exec->env))
               != 0)
        || (exec->dir.len
            && json_object_set_new(json, "dir",
                                   json_string((char *) exec->dir.data)) != 0)
        || (exec->pattern.len
            && json_object_set_new(json, "progress_pattern",
                                   json_string((char *) exec->pattern.data))
               != 0))
    {
        json_decref(json);
        return NULL;
    }

    return json;
}
