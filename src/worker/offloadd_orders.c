/*
 * Orders of tests, in the build with failpoints only: a file in the zone's
 * directory, read and removed when SIGUSR1 comes.  Loop thread.  Each line is
 * "redrive", "purge" or "show" and a job's id, or "list"; what comes of it is
 * in the log.
 */

#include "offloadd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>


#ifdef OFFLOAD_FAILPOINTS

#define ORDERS_FILE           "orders"
#define ORDERS_PAGE           2                 /* small: pages are turned */


static const char *const  orders_results[] = { "done", "stale", "unknown" };


static void
orders_done(struct offloadd *d, struct dead_op *op)
{
    struct log_line  l;

    (void) d;

    if (log_begin(&l, LOG_INFO, "order")) {
        log_id(&l, "job", op->op.row.id);
        log_str(&l, "result", orders_results[op->op.result]);
        log_uint(&l, "request", op->op.request.len);
        log_end(&l);
    }
}


static void
orders_listed(struct offloadd *d, struct dead_op *op)
{
    uint32_t           i;
    struct log_line    l;
    struct dead_list  *list = op->op.list;

    for (i = 0; i < list->n; i++) {
        if (log_begin(&l, LOG_INFO, "dead letter")) {
            log_id(&l, "job", list->entries[i].row.id);
            log_str(&l, "reason", list->entries[i].message);
            log_end(&l);
        }
    }

    if (list->n == list->max
        && dead_submit_list(d, list, orders_listed, NULL) == 0)
    {
        return;
    }

    log_text(LOG_INFO, "no more dead letters");
    free(list->entries);
    free(list);
}


static void
orders_list(struct offloadd *d)
{
    struct dead_list  *list;

    list = calloc(1, sizeof(*list));
    if (list == NULL) {
        return;
    }

    list->max = ORDERS_PAGE;
    list->entries = calloc(ORDERS_PAGE, sizeof(*list->entries));

    if (list->entries == NULL
        || dead_submit_list(d, list, orders_listed, NULL) != 0)
    {
        free(list->entries);
        free(list);
    }
}


static void
orders_line(struct offloadd *d, const char *line)
{
    size_t    n;
    uint8_t   id[ZONE_ID_SIZE];
    uint32_t  type;

    n = strcspn(line, " ");

    type = strncmp(line, "redrive", n) == 0 ? STORE_OP_REDRIVE
           : strncmp(line, "purge", n) == 0 ? STORE_OP_PURGE
           : strncmp(line, "show", n) == 0 ? STORE_OP_SHOW : 0;

    if (strcmp(line, "list") == 0) {
        orders_list(d);

    } else if (type && line[n] == ' '
               && zone_id_parse(id, line + n + 1, strlen(line + n + 1)) == 0)
    {
        (void) dead_submit(d, type, id, orders_done, NULL);
    }
}


void
orders_read(struct offloadd *d)
{
    FILE  *f;
    char   path[PATH_MAX], line[128];

    if (zone_path(path, sizeof(path), d->policy.path, ORDERS_FILE) != 0
        || (f = fopen(path, "re")) == NULL)
    {
        return;
    }

    (void) unlink(path);

    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        orders_line(d, line);
    }

    (void) fclose(f);
}

#endif
