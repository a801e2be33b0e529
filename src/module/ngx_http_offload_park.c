
/*
 * Requests that wait for offloadd's answer to a record: parked under a token
 * that comes back in the lane's completion ring.  A worker process's own; when
 * the process dies its clients see the connection break, and the answers that
 * come are dropped by the lane's next owner.
 */


#include "ngx_http_offload_module.h"


static void ngx_http_offload_unpark_cleanup(void *data);
static void ngx_http_offload_park_timeout(ngx_event_t *ev);


void
ngx_http_offload_rt_completions(ngx_http_offload_rt_t *rt)
{
    int                         rc;
    uint32_t                    index;
    ngx_uint_t                  pass;
    ngx_connection_t           *c;
    ngx_http_request_t         *r;
    ngx_http_offload_ctx_t     *ctx;
    struct zone_completion      completion;
    ngx_http_offload_parked_t  *parked;
    ngx_http_offload_wakened_pt  handler;

    /* once more after arming: what came in between rings nobody */

    for (pass = 0; pass < 2; pass++) {

        while ((rc = zone_cq_pop(&rt->zone, rt->lane, &completion)) == 1) {

            index = (uint32_t) completion.token - 1;

            if (index >= rt->nplaces) {
                continue;
            }

            parked = rt->parked[index];

            /* the id: an answer to the lane's last owner may come late */

            if (parked->request == NULL
                || parked->serial != completion.token >> 32
                || (ngx_memcmp(parked->id, completion.id, ZONE_ID_SIZE) != 0
                    && !ZONE_MUTANT("answer.id")))
            {
                continue;                   /* it did not wait any longer */
            }

            r = parked->request;
            c = r->connection;
            handler = parked->handler;

            if (completion.result != ZONE_ARMED) {
                ngx_http_offload_unpark(parked);
            }

            ctx = ngx_http_offload_get_ctx(r);

            if (completion.result == ZONE_DUPLICATE && ctx) {
                ngx_memcpy(ctx->first, completion.job, ZONE_ID_SIZE);
            }

            handler(r, completion.result);

            ngx_http_run_posted_requests(c);

            if (rt->lane == NGX_HTTP_OFFLOAD_NO_LANE) {
                return;
            }
        }

        if (rc == -1) {
            ngx_http_offload_rt_set_broken(rt, "its completion ring has "
                                               "positions that can not be");
            return;
        }

        zone_sleep_arm(&rt->producer.lane->cq_sleeping);
    }
}


/* A place to wait; more are made as they are needed, and kept. */

static ngx_http_offload_parked_t *
ngx_http_offload_place(ngx_http_offload_rt_t *rt)
{
    uint32_t                    n;
    ngx_http_offload_parked_t  *parked, **places;

    parked = rt->free;

    if (parked) {
        rt->free = parked->next;
        return parked;
    }

    n = rt->nplaces;

    if (n == NGX_HTTP_OFFLOAD_PARKED) {
        return NULL;
    }

    if (n == rt->places_cap) {
        places = ngx_alloc(2 * (n + 32) * sizeof(*places), ngx_cycle->log);
        if (places == NULL) {
            return NULL;
        }

        if (n) {
            ngx_memcpy(places, rt->parked, n * sizeof(*places));
            ngx_free(rt->parked);
        }

        rt->parked = places;
        rt->places_cap = 2 * (n + 32);
    }

    parked = ngx_calloc(sizeof(ngx_http_offload_parked_t), ngx_cycle->log);
    if (parked == NULL) {
        return NULL;
    }

    parked->rt = rt;
    parked->index = n;

    rt->parked[n] = parked;
    rt->nplaces++;

    return parked;
}


/* One for each request, however often it parks: some do for hours. */

static ngx_http_cleanup_t *
ngx_http_offload_park_cleanup(ngx_http_request_t *r)
{
    ngx_http_cleanup_t  *cln;

    for (cln = r->main->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_offload_unpark_cleanup
            && cln->data == NULL)
        {
            return cln;
        }
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_http_offload_unpark_cleanup;
    cln->data = NULL;

    return cln;
}


/*
 * Sets the request aside until the completion of that job's record arrives,
 * `timeout` is over or the client is gone.  The caller has published nothing
 * yet; the token goes into its record.  With `more`, the handler is first told
 * that it is late, the request stays parked that much longer, and the handler
 * may take it out by its token.
 */

ngx_int_t
ngx_http_offload_park(ngx_http_request_t *r, ngx_http_offload_rt_t *rt,
    ngx_http_offload_wakened_pt handler, ngx_msec_t timeout, ngx_msec_t more,
    const uint8_t id[ZONE_ID_SIZE], uint64_t *token)
{
    ngx_http_cleanup_t         *cln;
    ngx_http_offload_parked_t  *parked;

    cln = ngx_http_offload_park_cleanup(r);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    parked = ngx_http_offload_place(rt);
    if (parked == NULL) {
        return NGX_BUSY;
    }

    rt->nparked++;

    parked->serial++;
    parked->request = r;
    parked->handler = handler;
    parked->more = more;
    ngx_memcpy(parked->id, id, ZONE_ID_SIZE);

    cln->data = parked;

    parked->timer.handler = ngx_http_offload_park_timeout;
    parked->timer.data = parked;
    parked->timer.log = r->connection->log;

    ngx_add_timer(&parked->timer, timeout);

    *token = ((uint64_t) parked->serial << 32) | (parked->index + 1);

    return NGX_OK;
}


void
ngx_http_offload_unpark(ngx_http_offload_parked_t *parked)
{
    ngx_http_cleanup_t     *cln;
    ngx_http_offload_rt_t  *rt;

    rt = parked->rt;

    for (cln = parked->request->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_offload_unpark_cleanup
            && cln->data == parked)
        {
            cln->data = NULL;
        }
    }

    if (parked->timer.timer_set) {
        ngx_del_timer(&parked->timer);
    }

    parked->request = NULL;
    parked->next = rt->free;
    rt->free = parked;
    rt->nparked--;
}


void
ngx_http_offload_unpark_token(ngx_http_offload_rt_t *rt, uint64_t token)
{
    ngx_http_offload_parked_t  *parked;

    parked = rt->parked[(uint32_t) token - 1];

    if (parked->request && parked->serial == token >> 32) {
        ngx_http_offload_unpark(parked);
    }
}


/* The client went away first, or what was parked for did not happen. */

static void
ngx_http_offload_unpark_cleanup(void *data)
{
    ngx_http_offload_parked_t  *parked = data;

    if (parked) {
        ngx_http_offload_unpark(parked);
    }
}


static void
ngx_http_offload_park_timeout(ngx_event_t *ev)
{
    ngx_connection_t             *c;
    ngx_http_request_t           *r;
    ngx_http_offload_parked_t    *parked;
    ngx_http_offload_wakened_pt   handler;

    parked = ev->data;
    r = parked->request;
    c = r->connection;
    handler = parked->handler;

    if (parked->more) {
        ngx_add_timer(ev, parked->more);
        parked->more = 0;

        handler(r, NGX_HTTP_OFFLOAD_LATE);

    } else {
        ngx_http_offload_unpark(parked);

        handler(r, NGX_HTTP_OFFLOAD_TIMEOUT);
    }

    ngx_http_run_posted_requests(c);
}
