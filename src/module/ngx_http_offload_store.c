
/*
 * Reading the store from a worker process: one LMDB environment for each
 * zone, opened when first asked for, and one read-only transaction that is
 * renewed for each look and reset after it, so that no old page is pinned
 * while nginx does other things.  Everything found is copied to the
 * request's pool.
 *
 * A process killed inside a look leaves a reader's slot in the lock file;
 * offloadd clears those.  offloadd alone writes.
 */


#include "ngx_http_offload_module.h"

#include <lmdb.h>


typedef struct {
    MDB_env         *env;
    MDB_txn         *txn;
    MDB_dbi          meta;
    MDB_dbi          ids;
    MDB_dbi          jobs;
    MDB_dbi          requests;
    MDB_dbi          results;
    MDB_dbi          dead;
    MDB_dbi          hooks;
    ngx_file_uniq_t  uniq;          /* of the file that was opened */
} ngx_http_offload_store_t;


static ngx_int_t ngx_http_offload_store_open(ngx_http_offload_rt_t *rt);
static ngx_int_t ngx_http_offload_store_failed(ngx_http_offload_rt_t *rt,
    const char *what, int rc);
static int ngx_http_offload_store_hooks(ngx_http_offload_store_t *st,
    ngx_pool_t *pool, uint64_t seq, ngx_http_offload_job_t *job);
static ngx_int_t ngx_http_offload_store_copy(ngx_pool_t *pool, u_char *p,
    size_t len, ngx_str_t *out);
static ngx_int_t ngx_http_offload_store_parse(ngx_http_offload_rt_t *rt,
    ngx_pool_t *pool, const uint8_t *id, MDB_val *value,
    ngx_http_offload_job_t *job);


/*
 * NGX_OK: found.  NGX_DECLINED: there is no such job.  NGX_ERROR: the store
 * could not be asked, and the reason is in the log.
 */

ngx_int_t
ngx_http_offload_store_job(ngx_http_offload_rt_t *rt, ngx_pool_t *pool,
    const uint8_t id[ZONE_ID_SIZE], ngx_http_offload_job_t *job)
{
    int                        rc;
    MDB_val                    key, value;
    uint64_t                   seq;
    ngx_int_t                  result;
    ngx_http_offload_store_t  *st;

    result = ngx_http_offload_store_open(rt);
    if (result != NGX_OK) {
        return result;
    }

    st = rt->store;
    seq = 0;

    rc = mdb_txn_renew(st->txn);
    if (rc != 0) {
        return ngx_http_offload_store_failed(rt, "mdb_txn_renew()", rc);
    }

    key.mv_data = (void *) id;
    key.mv_size = ZONE_ID_SIZE;

    rc = mdb_get(st->txn, st->ids, &key, &value);

    if (rc == 0) {

        if (value.mv_size != sizeof(seq)) {
            rc = MDB_CORRUPTED;

        } else {
            ngx_memcpy(&seq, value.mv_data, sizeof(seq));

            key.mv_data = &seq;
            key.mv_size = sizeof(seq);

            rc = mdb_get(st->txn, st->jobs, &key, &value);
        }
    }

    if (rc == 0) {
        result = ngx_http_offload_store_parse(rt, pool, id, &value, job);
        job->seq = seq;

        if (result == NGX_OK && (job->flags & STORE_HOOKED)) {
            rc = ngx_http_offload_store_hooks(st, pool, seq, job);

            if (rc != 0) {
                result = ngx_http_offload_store_failed(rt, "mdb_get()", rc);
            }
        }

    } else if (rc == MDB_NOTFOUND) {
        result = NGX_DECLINED;

    } else {
        result = ngx_http_offload_store_failed(rt, "mdb_get()", rc);
    }

    if (rt->store) {
        mdb_txn_reset(st->txn);
    }

    return result;
}


ngx_int_t
ngx_http_offload_store_result(ngx_http_offload_rt_t *rt, ngx_pool_t *pool,
    uint64_t seq, ngx_http_offload_result_t *result)
{
    int                        rc;
    u_char                    *p;
    MDB_val                    key, value;
    ngx_int_t                  found;
    struct store_result        sr;
    ngx_http_offload_store_t  *st;

    found = ngx_http_offload_store_open(rt);
    if (found != NGX_OK) {
        return found;
    }

    st = rt->store;

    rc = mdb_txn_renew(st->txn);
    if (rc != 0) {
        return ngx_http_offload_store_failed(rt, "mdb_txn_renew()", rc);
    }

    key.mv_data = &seq;
    key.mv_size = sizeof(seq);

    rc = mdb_get(st->txn, st->results, &key, &value);

    if (rc == MDB_NOTFOUND) {
        mdb_txn_reset(st->txn);
        return NGX_DECLINED;
    }

    if (rc != 0) {
        return ngx_http_offload_store_failed(rt, "mdb_get()", rc);
    }

    found = NGX_ERROR;

    if (value.mv_size < sizeof(sr)) {
        goto corrupt;
    }

    ngx_memcpy(&sr, value.mv_data, sizeof(sr));

    result->status = sr.http_status;
    result->blob = (sr.flags & STORE_RESULT_BLOB) != 0;
    result->size = (off_t) sr.body_size;

    if (sr.layout != STORE_LAYOUT
        || sr.http_status < 200 || sr.http_status > 999
        || sr.headers_len > value.mv_size - sizeof(sr)
        || (!result->blob
            && sr.body_size != value.mv_size - sizeof(sr) - sr.headers_len))
    {
        goto corrupt;
    }

    p = (u_char *) value.mv_data + sizeof(sr);

    if (ngx_http_offload_store_copy(pool, p, sr.headers_len, &result->headers)
        == NGX_OK
        && ngx_http_offload_store_copy(pool, p + sr.headers_len,
                                       result->blob ? 0 : sr.body_size,
                                       &result->body)
           == NGX_OK)
    {
        found = NGX_OK;
    }

    mdb_txn_reset(st->txn);

    return found;

corrupt:

    mdb_txn_reset(st->txn);

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "store of zone \"%V\": the result of job %uL is damaged",
                  &rt->conf->name, seq);

    return NGX_ERROR;
}


/* The deliveries of a settled job, as JSON. */

static int
ngx_http_offload_store_hooks(ngx_http_offload_store_t *st, ngx_pool_t *pool,
    uint64_t seq, ngx_http_offload_job_t *job)
{
    int                     rc;
    u_char                 *p;
    uint64_t                n;
    MDB_val                 key, value;
    struct store_hook       row;
    struct store_hook_key   k;

    for (n = 0; n < ZONE_HOOKS_MAX; n++) {
        store_hook_key(&k, seq, n);
        key.mv_data = &k;
        key.mv_size = sizeof(k);

        rc = mdb_get(st->txn, st->hooks, &key, &value);

        if (rc == MDB_NOTFOUND) {
            continue;
        }

        if (rc != 0) {
            return rc;
        }

        if (value.mv_size < sizeof(row)) {
            return MDB_CORRUPTED;
        }

        ngx_memcpy(&row, value.mv_data, sizeof(row));
        p = (u_char *) value.mv_data + sizeof(row);

        if ((size_t) row.host_at + row.host_len > row.hook.url_len
            || row.hook.url_len > value.mv_size - sizeof(row)
            || ngx_http_offload_hook_json(pool, &row, p + row.host_at, job)
               != NGX_OK)
        {
            return MDB_CORRUPTED;
        }
    }

    return 0;
}


/* A row of `meta`, if it has that size: an older store has none. */

static int
ngx_http_offload_store_meta(ngx_http_offload_store_t *st, const char *name,
    size_t size, MDB_val *value)
{
    int      rc;
    MDB_val  key;

    key.mv_data = (void *) name;
    key.mv_size = ngx_strlen(name);

    rc = mdb_get(st->txn, st->meta, &key, value);

    if (rc == MDB_NOTFOUND || (rc == 0 && value->mv_size != size)) {
        value->mv_data = NULL;
        rc = 0;
    }

    return rc;
}


static int
ngx_http_offload_store_rows(ngx_http_offload_store_t *st, MDB_dbi dbi,
    uint64_t *n)
{
    int       rc;
    MDB_stat  stat;

    rc = mdb_stat(st->txn, dbi, &stat);
    *n = rc == 0 ? stat.ms_entries : 0;

    return rc;
}


ngx_int_t
ngx_http_offload_store_counters(ngx_http_offload_rt_t *rt,
    ngx_http_offload_counters_t *counters)
{
    int                        rc;
    size_t                     size;
    MDB_val                    jobs, rings;
    MDB_stat                   stat;
    ngx_int_t                  result;
    MDB_envinfo                info;
    ngx_http_offload_store_t  *st;

    result = ngx_http_offload_store_open(rt);
    if (result != NGX_OK) {
        return result;
    }

    st = rt->store;
    size = rt->zone.geo.lanes * sizeof(struct store_ring);

    rc = mdb_txn_renew(st->txn);

    if (rc == 0) {
        rc = ngx_http_offload_store_meta(st, STORE_ROW_COUNTERS,
                                         sizeof(counters->jobs), &jobs);
    }

    if (rc == 0) {
        rc = ngx_http_offload_store_meta(st, STORE_ROW_RINGS,
                                         sizeof(counters->rings) + size,
                                         &rings);
    }

    if (rc == 0) {
        rc = ngx_http_offload_store_rows(st, st->jobs, &counters->rows);
    }

    if (rc == 0) {
        rc = ngx_http_offload_store_rows(st, st->requests,
                                         &counters->requests);
    }

    if (rc == 0) {
        rc = ngx_http_offload_store_rows(st, st->results,
                                         &counters->results);
    }

    if (rc == 0) {
        rc = ngx_http_offload_store_rows(st, st->dead, &counters->dead);
    }

    if (rc != 0) {
        return ngx_http_offload_store_failed(rt, "reading the counters", rc);
    }

    if (jobs.mv_data) {
        ngx_memcpy(&counters->jobs, jobs.mv_data, sizeof(counters->jobs));
    }

    if (rings.mv_data) {
        ngx_memcpy(&counters->rings, rings.mv_data, sizeof(counters->rings));
        ngx_memcpy(counters->ring,
                   (u_char *) rings.mv_data + sizeof(counters->rings), size);
    }

    (void) mdb_env_info(st->env, &info);
    (void) mdb_env_stat(st->env, &stat);

    counters->size = ((uint64_t) info.me_last_pgno + 1) * stat.ms_psize;

    mdb_txn_reset(st->txn);

    return NGX_OK;
}


/* Once a second: a store that was moved away is no longer the store. */

void
ngx_http_offload_store_check(ngx_http_offload_rt_t *rt)
{
    char                       name[NGX_MAX_PATH];
    ngx_file_info_t            fi;
    ngx_http_offload_store_t  *st;

    st = rt->store;

    if (st == NULL
        || zone_path(name, sizeof(name), (char *) rt->conf->store.data,
                     STORE_FILE)
           != 0)
    {
        return;
    }

    if (ngx_file_info(name, &fi) == NGX_FILE_ERROR
        || ngx_file_uniq(&fi) != st->uniq)
    {
        ngx_http_offload_store_close(rt);
    }
}


void
ngx_http_offload_store_close(ngx_http_offload_rt_t *rt)
{
    ngx_http_offload_store_t  *st;

    st = rt->store;

    if (st == NULL) {
        return;
    }

    rt->store = NULL;

    if (st->txn) {
        mdb_txn_abort(st->txn);
    }

    mdb_env_close(st->env);
    ngx_free(st);
}


static ngx_int_t
ngx_http_offload_store_open(ngx_http_offload_rt_t *rt)
{
    int                        rc;
    char                       name[NGX_MAX_PATH];
    const char                *what;
    ngx_file_info_t            fi;
    ngx_http_offload_store_t  *st;

    if (rt->store) {
        return NGX_OK;
    }

    if (zone_path(name, sizeof(name), (char *) rt->conf->store.data,
                  STORE_FILE)
        != 0)
    {
        return NGX_ERROR;
    }

    if (ngx_file_info(name, &fi) == NGX_FILE_ERROR) {
        if (ngx_errno == NGX_ENOENT) {
            return NGX_HTTP_OFFLOAD_STORE_ABSENT;
        }

        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                      ngx_file_info_n " \"%s\" failed", name);
        return NGX_ERROR;
    }

    st = ngx_calloc(sizeof(ngx_http_offload_store_t), ngx_cycle->log);
    if (st == NULL) {
        return NGX_ERROR;
    }

    what = "mdb_env_create()";

    rc = mdb_env_create(&st->env);
    if (rc != 0) {
        ngx_free(st);
        return ngx_http_offload_store_failed(rt, what, rc);
    }

    rt->store = st;
    st->uniq = ngx_file_uniq(&fi);

    (void) mdb_env_set_maxdbs(st->env, STORE_DBS);
    (void) mdb_env_set_maxreaders(st->env, STORE_READERS);

    what = "mdb_env_open()";

    rc = mdb_env_open(st->env, name, MDB_RDONLY|MDB_NOSUBDIR|MDB_NOTLS, 0600);

    if (rc == 0) {
        what = "mdb_txn_begin()";
        rc = mdb_txn_begin(st->env, NULL, MDB_RDONLY, &st->txn);
    }

    if (rc == 0) {
        what = "mdb_dbi_open()";
        rc = mdb_dbi_open(st->txn, STORE_DB_META, 0, &st->meta);
    }

    if (rc == 0) {
        rc = mdb_dbi_open(st->txn, STORE_DB_IDS, 0, &st->ids);
    }

    if (rc == 0) {
        rc = mdb_dbi_open(st->txn, STORE_DB_JOBS, MDB_INTEGERKEY, &st->jobs);
    }

    if (rc == 0) {
        rc = mdb_dbi_open(st->txn, STORE_DB_REQUESTS, MDB_INTEGERKEY,
                          &st->requests);
    }

    if (rc == 0) {
        rc = mdb_dbi_open(st->txn, STORE_DB_RESULTS, MDB_INTEGERKEY,
                          &st->results);
    }

    if (rc == 0) {
        rc = mdb_dbi_open(st->txn, STORE_DB_DEAD, 0, &st->dead);
    }

    if (rc == 0) {
        rc = mdb_dbi_open(st->txn, STORE_DB_HOOKS, 0, &st->hooks);
    }

    if (rc == MDB_NOTFOUND) {
        ngx_http_offload_store_close(rt);
        return NGX_HTTP_OFFLOAD_STORE_ABSENT;
    }

    if (rc != 0) {
        return ngx_http_offload_store_failed(rt, what, rc);
    }

    /* the handles live on; a reset of a fresh transaction keeps them */

    (void) mdb_txn_commit(st->txn);
    st->txn = NULL;

    rc = mdb_txn_begin(st->env, NULL, MDB_RDONLY, &st->txn);
    if (rc != 0) {
        return ngx_http_offload_store_failed(rt, "mdb_txn_begin()", rc);
    }

    mdb_txn_reset(st->txn);

    return NGX_OK;
}


/* Closed, so that the next look starts from the file that is there then. */

static ngx_int_t
ngx_http_offload_store_failed(ngx_http_offload_rt_t *rt, const char *what,
    int rc)
{
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "store of zone \"%V\" in \"%V\": %s failed: %s",
                  &rt->conf->name, &rt->conf->store, what, mdb_strerror(rc));

    ngx_http_offload_store_close(rt);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_offload_store_copy(ngx_pool_t *pool, u_char *p, size_t len,
    ngx_str_t *out)
{
    out->len = len;

    if (len == 0) {
        out->data = NULL;
        return NGX_OK;
    }

    out->data = ngx_pnalloc(pool, len);
    if (out->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(out->data, p, len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_offload_store_parse(ngx_http_offload_rt_t *rt, ngx_pool_t *pool,
    const uint8_t *id, MDB_val *value, ngx_http_offload_job_t *job)
{
    u_char            *p;
    struct store_job   sj;

    if (value->mv_size < sizeof(sj)) {
        goto corrupt;
    }

    ngx_memcpy(&sj, value->mv_data, sizeof(sj));

    if (sj.layout != STORE_LAYOUT
        || sj.state < STORE_QUEUED || sj.state > STORE_EXPIRED
        || sj.error >= STORE_ERRORS
        || value->mv_size < sizeof(sj) + (size_t) sj.type_len + sj.message_len
                            + sj.progress_len
        || ngx_memcmp(sj.id, id, ZONE_ID_SIZE) != 0)
    {
        goto corrupt;
    }

    ngx_memcpy(job->id, sj.id, ZONE_ID_SIZE);
    ngx_memcpy(job->owner, sj.owner, ZONE_DIGEST_SIZE);

    job->state = sj.state;
    job->flags = sj.flags;
    job->error = sj.error;
    job->created_ms = sj.created_ms;
    job->started_ms = sj.started_ms;
    job->finished_ms = sj.finished_ms;
    job->result_size = sj.result_size;
    job->attempts = sj.attempts;
    job->timeout_s = sj.timeout_s;
    job->location = sj.location;
    job->queue = sj.queue;
    job->not_before_ms = sj.state == STORE_QUEUED ? sj.not_before_ms : 0;
    job->progress = ngx_min(sj.progress, 101);
    job->reports = sj.reports;
    job->http_status = sj.http_status;

    p = (u_char *) value->mv_data + sizeof(sj);

    if (ngx_http_offload_store_copy(pool, p, sj.type_len, &job->type)
        != NGX_OK
        || ngx_http_offload_store_copy(pool, p + sj.type_len, sj.message_len,
                                       &job->message)
           != NGX_OK
        || ngx_http_offload_store_copy(pool, p + sj.type_len + sj.message_len,
                                       sj.progress_len,
                                       &job->progress_message)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;

corrupt:

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "store of zone \"%V\": a job's row is damaged",
                  &rt->conf->name);

    return NGX_ERROR;
}
