
/*
 * A job as it is now: from its slot or from the store.  Runs in worker
 * processes and only reads; a crash leaves nothing behind.
 */


#include "ngx_http_offload_module.h"


static ngx_uint_t ngx_http_offload_position(ngx_http_offload_rt_t *rt,
    ngx_http_offload_job_t *job);


/* NGX_DECLINED: there is no such job, or it is another owner's. */

ngx_int_t
ngx_http_offload_find(ngx_http_request_t *r, ngx_http_offload_zone_t *zone,
    uint8_t id[ZONE_ID_SIZE], ngx_http_offload_job_t *job)
{
    ngx_int_t  rc;

    rc = ngx_http_offload_find_any(r, zone, id, job);

    return rc == NGX_OK ? ngx_http_offload_owner_allows(r, job) : rc;
}


/*
 * From the slot while the job is active, otherwise from the store.  In this
 * order: a slot is given up only after the store has what it said.
 */

ngx_int_t
ngx_http_offload_find_any(ngx_http_request_t *r,
    ngx_http_offload_zone_t *zone, uint8_t id[ZONE_ID_SIZE],
    ngx_http_offload_job_t *job)
{
    int                     state;
    char                    name[NGX_MAX_PATH];
    ngx_int_t               rc;
    struct zone_job         zj;
    ngx_http_offload_rt_t  *rt;

    rt = zone->rt;

    if (rt == NULL || !rt->mapped || rt->broken || zone_broken(&rt->zone)) {
        return NGX_ERROR;
    }

    ngx_memzero(job, sizeof(ngx_http_offload_job_t));

    state = zone_slot_read(&rt->zone, id, &zj);

    switch (state) {

    case ZONE_SLOT_SUBMITTED:
    case ZONE_SLOT_QUEUED:
    case ZONE_SLOT_RUNNING:

        ngx_memcpy(job->id, id, ZONE_ID_SIZE);
        ngx_memcpy(job->owner, zj.owner, ZONE_DIGEST_SIZE);
        job->state = state == ZONE_SLOT_RUNNING ? STORE_RUNNING
                                                : STORE_QUEUED;
        job->seq = zj.seq;
        job->created_ms = zj.created_ms;
        job->started_ms = zj.started_ms;
        job->attempts = zj.attempts;
        job->timeout_s = zj.timeout_s;
        job->location = zj.location;
        job->queue = zj.queue;
        job->not_before_ms = zj.delay_s ? zj.created_ms + zj.delay_s * 1000ull
                                        : 0;
        job->position = ngx_http_offload_position(rt, job);

        return NGX_OK;

    default:
        break;
    }

    rc = ngx_http_offload_store_job(rt, r->pool, id, job);

    if (rc == NGX_OK) {
        job->position = ngx_http_offload_position(rt, job);
    }

    /*
     * A slot that could not be read is not proof of anything, nor is a zone
     * that another has taken the place of, nor a store before its worker has
     * taken it up: in a new zone no job has a number.
     */

    if (rc != NGX_DECLINED) {
        return rc;
    }

    zone_path(name, sizeof(name), (char *) zone->path.data, ZONE_FILE_ZONE);

    if (state < 0 || !zone_is_current(&rt->zone, name)
        || atomic_load_explicit(&rt->zone.worker->next_seq,
                                memory_order_relaxed) == 0)
    {
        return NGX_ERROR;
    }

    return NGX_DECLINED;
}


/* 1: the next of its queue; 0: it does not wait, or is not stored yet. */

static ngx_uint_t
ngx_http_offload_position(ngx_http_offload_rt_t *rt,
    ngx_http_offload_job_t *job)
{
    struct zone_turns  turns;

    if (job->state != STORE_QUEUED || job->seq == 0) {
        return 0;
    }

    zone_turns_read(&turns, &rt->zone, job->queue);

    return zone_turns_position(&turns, job->seq);
}
