/*
 * What it costs to say whose turn it is: so many jobs in so many fair keys,
 * queued, and then begun and ended one after the other.  The scheduler alone,
 * without store or network; `bytes` is what the process grew by.
 *
 *      dispatch jobs keys    ->    queue_ns=.. turn_ns=.. bytes=..
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../src/worker/offloadd.h"


#define RUNNING  128


static double
ns(void)
{
    struct timespec  t;

    clock_gettime(CLOCK_MONOTONIC, &t);

    return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}


static long
resident(void)
{
    long   pages, all;
    FILE  *f;

    f = fopen("/proc/self/statm", "r");

    if (f == NULL || fscanf(f, "%ld %ld", &all, &pages) != 2) {
        exit(1);
    }

    (void) fclose(f);

    return pages * sysconf(_SC_PAGESIZE);
}


static void
push(struct queues *qs, struct job_table *t, uint64_t seq, uint32_t keys)
{
    uint32_t     i;
    uint8_t      id[ZONE_ID_SIZE] = { 0 };
    struct job  *job;

    i = job_add(t, seq, id);
    if (i == JOB_NONE) {
        exit(1);
    }

    job = job_at(t, i);
    job->fair = keys > 1 ? 1 + (seq * 2654435761u) % keys : 0;
    job->priority = ZONE_PRIORITY_DEFAULT;

    if (queues_push(qs, t, i) != 0) {
        exit(1);
    }
}


int
main(int argc, char **argv)
{
    long                 before, after;
    double               start, queued, done;
    uint32_t             i, n, jobs, keys, running[RUNNING];
    uint64_t             seq;
    struct queues        qs;
    struct job_table     t;
    struct queue_policy  conf;

    if (argc != 3) {
        (void) fprintf(stderr, "usage: dispatch jobs keys\n");
        return 2;
    }

    jobs = (uint32_t) atoi(argv[1]);
    keys = (uint32_t) atoi(argv[2]);

    memset(&qs, 0, sizeof(qs));
    memset(&t, 0, sizeof(t));
    memset(&conf, 0, sizeof(conf));
    strcpy(conf.name, "bench");

    if (queues_configure(&qs, &t, &conf, 1, RUNNING) != 1) {
        return 1;
    }

    before = resident();
    start = ns();

    for (seq = 1; seq <= jobs; seq++) {
        push(&qs, &t, seq, keys);
    }

    queued = ns();
    after = resident();

    for (n = 0; n < jobs; n++) {
        if (n >= RUNNING) {
            queues_ended(&qs, 0);
            job_remove(&t, running[n % RUNNING]);
        }

        i = queues_next(&qs, &t, n);
        if (i == JOB_NONE) {
            return 1;
        }

        (void) queues_begin(&qs, &t, i);
        job_at(&t, i)->place = JOB_ATTEMPT;
        running[n % RUNNING] = i;
    }

    done = ns();

    printf("queue_ns=%.1f turn_ns=%.1f bytes=%.1f job=%zu\n",
           (queued - start) / jobs, (done - queued) / jobs,
           (double) (after - before) / jobs, sizeof(struct job));

    queues_free(&qs);
    job_table_free(&t);

    return 0;
}
