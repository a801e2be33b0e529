/*
 * "Anything may die, at any instruction."  Each step of each side is passed
 * once by a process that is killed right there; then whoever comes next puts
 * the zone right, and: no fault is left, nothing that was published is lost,
 * nothing that was not is to be seen, and all slots come back.
 *
 * Needs the named places to die at: -DOFFLOAD_FAILPOINTS.
 */

#include <dirent.h>
#include <sched.h>
#include <sys/mman.h>

#include "unit.h"


#ifndef OFFLOAD_FAILPOINTS

int
main(void)
{
    printf("1..0 # SKIP built without -DOFFLOAD_FAILPOINTS\n");

    return 0;
}

#else

#define JOBS  5


static struct zone           z;
static struct zone_lane     *lane;
static struct zone_error     e;
static struct zone_producer  p;
static struct zone_consumer  c;

/* What the store would know: shared with the children, survives them. */

static struct store {
    _Atomic uint8_t   committed[1 << 20];
    _Atomic uint32_t  stop;
} *store;


static void
fresh(void)
{
    uint64_t  pos;

    zone_close(&z);
    unit_zone(&z, "zone", 1);
    lane = zone_lane(&z, 0);
    memset((void *) store->committed, 0, 128);

    /* So that a sixth record of 1000 bytes has to be padded. */

    pos = z.geo.sq_size - JOBS * 1088 - 512;
    lane->sq_head = pos;
    lane->sq_tail = pos;

    must(zone_producer_init(&p, &z, 0, &e) == 0);
    must(zone_consumer_init(&c, &z, 0, &e) == 0);
}


/* Runs it in a child that must be killed at that point. */

static void
die_in(void (*run)(void), const char *point)
{
    int    status;
    pid_t  pid;

    pid = tap_fork();

    if (pid == 0) {
        setenv("OFFLOAD_FAILPOINT", point, 1);
        run();
        _exit(0);
    }

    status = tap_wait(pid);
    ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "killed at %s",
       point);
}


static int
repair(struct zone_repair *r)
{
    if (zone_lane_repair(&z, 0, r, &e) == -1) {
        tap_say("%s", e.text);
        return -1;
    }

    return 0;
}


/*
 * offloadd's round for one record, as it should be done: commit (once),
 * write the slot, move the head, tell, and at last give the slot back.
 */

static int
work(struct zone_consumer *from, int settle)
{
    int                     rc;
    struct zone_job         job;
    struct zone_record     *rec;
    struct zone_completion  done;

    rc = zone_sq_peek(from, &rec, &e);

    if (rc != 1) {
        return rc;
    }

    if (!unit_pattern_ok(zone_record_payload(rec), rec->payload, rec->token)) {
        return -1;
    }

    store->committed[rec->token] = 1;

    unit_job(&job, 0, rec->slot, rec->token);
    job.seq = rec->token + 1;
    zone_slot_write(from->zone, 0, rec->slot, &job, ZONE_SLOT_QUEUED);

    memset(&done, 0, sizeof(done));
    done.type = ZONE_RECORD_JOB;
    done.token = rec->token;
    memcpy(done.id, rec->id, ZONE_ID_SIZE);

    zone_sq_release(from);
    (void) zone_cq_post(from->zone, 0, &done);

    if (settle && zone_slot_holds(from->zone, 0, rec->slot, rec->id)) {
        zone_slot_free(from->zone, 0, rec->slot);
    }

    return 1;
}


/* All that is in the ring, and all slots; returns how many are committed. */

static int
work_off(void)
{
    int                   i, n, rc;
    struct zone_consumer  next;

    must(zone_consumer_init(&next, &z, 0, &e) == 0);

    while ((rc = work(&next, 1)) == 1) { /* void */ }

    must(rc == 0);

    for (i = 0; i < UNIT_SLOTS; i++) {
        if (zone_slot(&z, 0, (uint32_t) i)->state > ZONE_SLOT_SUBMITTED) {
            zone_slot_free(&z, 0, (uint32_t) i);
        }
    }

    for (i = 0, n = 0; i < 128; i++) {
        n += store->committed[i];
    }

    return n;
}


static void
submit_one(void)
{
    (void) unit_submit(&p, JOBS, 1000);
}


static void
undo_one(void)
{
    struct zone_job  job;

    unit_job(&job, 0, JOBS, JOBS);
    zone_slot_fill(&p, JOBS, &job);
    zone_slot_undo(&p, JOBS);
}


/*
 * nginx's steps.  `seen`: zone_check() must find what is left behind; `more`:
 * the sixth job was published.
 */

static const struct {
    const char  *point;
    void       (*run)(void);
    int          seen;
    int          more;
} nginx_steps[] = {
    { "slot.fill.before",   submit_one, 0, 0 },
    { "slot.put.mid",       submit_one, 1, 0 },
    { "slot.put.copied",    submit_one, 1, 0 },
    { "slot.put.state",     submit_one, 1, 0 },
    { "slot.fill.mid",      submit_one, 1, 0 },
    { "slot.fill.done",     submit_one, 1, 0 },
    { "sq.reserve.pad",     submit_one, 1, 0 },
    { "sq.reserve.done",    submit_one, 1, 0 },
    { "sq.publish.noted",   submit_one, 1, 0 },
    { "sq.publish.before",  submit_one, 1, 0 },
    { "sq.publish.after",   submit_one, 0, 1 },
    { "sq.publish.done",    submit_one, 0, 1 },
    { "slot.undo.before",   undo_one,   1, 0 },
    { "slot.undo.mid",      undo_one,   1, 0 },
    { "slot.undo.done",     undo_one,   0, 0 },
};


static void
test_nginx(void)
{
    size_t              i;
    int                 k, n;
    struct zone_counts  counts;
    struct zone_repair  r;

    for (i = 0; i < sizeof(nginx_steps) / sizeof(nginx_steps[0]); i++) {
        fresh();
        n = JOBS + nginx_steps[i].more;

        for (k = 0; k < JOBS; k++) {
            must(unit_submit(&p, (uint64_t) k, 1000) == k);
        }

        die_in(nginx_steps[i].run, nginx_steps[i].point);

        is(unit_check(&z, 0) > 0, nginx_steps[i].seen, "leaves %s",
           nginx_steps[i].seen ? "something" : "nothing");
        ok(zone_count(&z, 0, &counts) && counts.accepted == (uint64_t) n,
           "whoever counts finds %d accepted already", n);
        is(repair(&r), 0, "repaired");
        is(unit_check(&z, 1), 0, "no fault is left");
        is(r.pending, n, "%d jobs wait", n);
        is(lane->accepted, n, "as many were accepted");
        is(zone_slots_used(&z, 0), n, "as many slots are used");

        must(zone_producer_init(&p, &z, 0, &e) == 0);
        ok(unit_submit(&p, 20, 1000) != -1, "the next owner submits one");
        is(work_off(), n + 1, "all are done");
        is(zone_slots_used(&z, 0), 0, "all slots are free");
        is(unit_check(&z, 1), 0, "no fault");
    }
}


/* offloadd's: killed at its third job. */

static void
work_all(void)
{
    while (work(&c, 1) == 1) { /* void */ }
}


static const char  *worker_steps[] = {
    "slot.write.before:3", "slot.put.mid:3", "slot.put.copied:3",
    "slot.put.state:3", "slot.write.done:3", "sq.release.before:3",
    "sq.release.after:3", "cq.post.mid:3", "cq.post.done:3",
    "slot.free.before:3", "slot.free.noted:3", "slot.free.mid:3",
    "slot.free.done:3"
};


/*
 * `nginx`: 0: lives on; 1: dies as well and comes back before offloadd; 2:
 * and comes back after it; 3: lives on and fills all slots there are.
 */

static void
test_worker(int nginx)
{
    size_t              i;
    int                 k, more;
    struct zone_repair  r;

    for (i = 0; i < sizeof(worker_steps) / sizeof(worker_steps[0]); i++) {
        fresh();
        more = 0;

        for (k = 0; k < JOBS; k++) {
            must(unit_submit(&p, (uint64_t) k, 1000) == k);
        }

        die_in(work_all, worker_steps[i]);

        if (nginx == 1) {
            is(repair(&r), 0, "nginx's lane is repaired");
            is(r.undone, 0, "nothing of it was unpublished");
        }

        while (nginx == 3 && unit_submit(&p, (uint64_t) (JOBS + more), 0)
                             != -1)
        {
            more++;
        }

        must(zone_consumer_init(&c, &z, 0, &e) == 0);

        if (nginx == 2) {
            is(repair(&r), 0, "nginx's lane is repaired");
            is(r.undone, 0, "nothing of it was unpublished");
        }

        /* A slot may wait, half written, for its record to come again. */

        if (strcmp(worker_steps[i], "slot.put.mid:3") != 0
            && strcmp(worker_steps[i], "slot.put.copied:3") != 0)
        {
            is(unit_check(&z, 1), 0, "no fault is left");
        }

        is(work_off(), JOBS + more, "all jobs are known to the store");
        is(lane->sq_tail - lane->sq_head, 0, "the ring is empty");
        is(zone_slots_used(&z, 0), 0, "all slots are free");
        is(unit_check(&z, 1), 0, "no fault");
    }
}


/* A repair that is killed is done again. */

static void
repair_one(void)
{
    struct zone_repair  r;

    (void) zone_lane_repair(&z, 0, &r, &e);
}


static void
test_repair(void)
{
    size_t              i;
    struct zone_job     job;
    struct zone_repair  r;

    static const char  *steps[] = {
        "lane.repair.walked", "lane.repair.undone", "lane.repair.undone:2",
        "lane.repair.freed", "lane.repair.counted", "lane.repair.dropped",
        "lane.repair.done"
    };

    for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        fresh();
        must(unit_submit(&p, 0, 1000) == 0 && unit_submit(&p, 1, 0) == 1);
        must(work(&c, 0) == 1);

        unit_job(&job, 0, 2, 2);
        zone_slot_fill(&p, 2, &job);
        unit_job(&job, 0, 3, 3);
        zone_slot_fill(&p, 3, &job);
        zone_slot(&z, 0, 4)->version = 1;
        lane->slots_taken = 17;
        lane->cq_sleeping = 1;

        die_in(repair_one, steps[i]);

        is(repair(&r), 0, "repaired again");
        is(unit_check(&z, 1), 0, "no fault is left");
        ok(r.pending == 1 && zone_slots_used(&z, 0) == 2
           && lane->cq_sleeping == 0 && lane->cq_head == lane->cq_tail
           && lane->owner_pid == (uint32_t) getpid(), "all is as it should be");
        is(work_off(), 2, "both jobs are known to the store");
        is(unit_check(&z, 1), 0, "no fault");
    }

    fresh();
    must(unit_submit(&p, 0, 1000) == 0 && work(&c, 0) == 1);
    unit_job(&job, 0, 7, 2);
    zone_slot_fill(&p, 7, &job);
    must(repair(&r) == 0);
    ok(r.undone == 1 && r.pending == 0 && r.completions == 1,
       "it says what it did");
    must(repair(&r) == 0);
    ok(r.undone == 0 && r.pending == 0 && r.completions == 0,
       "and the second time, that there was nothing to do");

    /* A slot given away while the record of its first job is still there. */

    fresh();
    must(unit_submit(&p, 0, 10) == 0);
    zone_slot_free(&z, 0, 0);
    unit_job(&job, 0, 0, 9);
    zone_slot_fill(&p, 0, &job);
    must(repair(&r) == 0);
    is(r.undone, 1, "a record does not hold a slot for another job");
    is(unit_check(&z, 1), 0, "no fault");

    is(zone_lane_repair(&z, 1, &r, &e), -1, "there is no lane 1");
    lane->sq_tail++;
    is(zone_lane_repair(&z, 0, &r, &e), -1, "a corrupt ring is not repaired");
    like(e.text, "lane 0: sq_head", "and named");
}


static void
create_one(void)
{
    struct zone_geometry  g;

    memset(&g, 0, sizeof(g));
    g.size = UNIT_SIZE;
    g.lanes = 1;
    g.slots = UNIT_SLOTS;

    (void) zone_create(tap_file("made/zone"), &g, (uid_t) -1, (gid_t) -1, &e);
}


static int
files(const char *dir)
{
    int             n;
    DIR            *d;
    struct dirent  *ent;

    d = opendir(dir);
    must(d != NULL);

    for (n = 0; (ent = readdir(d)) != NULL; /* void */ ) {
        n += ent->d_name[0] != '.';
    }

    closedir(d);

    return n;
}


static void
test_create(void)
{
    int                   rc;
    size_t                i;
    struct zone           made;
    struct zone_geometry  g;

    static const char  *steps[] = {
        "zone.create.opened", "zone.create.locked", "zone.create.owned",
        "zone.create.allocated", "zone.create.written", "zone.create.ready",
        "zone.create.renamed"
    };

    must(mkdir(tap_file("made"), 0700) == 0);

    for (i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        die_in(create_one, steps[i]);

        rc = zone_probe(tap_file("made/zone"), &g, &e);
        is(rc, i == 6 ? 0 : -1, "a zone is there once it is renamed");
        is(files(tap_file("made")), 1, "and one file");

        create_one();
        is(zone_open(&made, tap_file("made/zone"), &e), 0, "made again");
        is(unit_check(&made, 1), 0, "it is good");
        is(files(tap_file("made")), 1, "and the dead one's file is gone");
        zone_close(&made);
        must(unlink(tap_file("made/zone")) == 0);
    }

    must(rmdir(tap_file("made")) == 0);
}


/*
 * Owners of the lane come and are killed anywhere while offloadd works on,
 * and so does offloadd: repairs next to a living other side.
 */

#define ROUNDS  150

/* An offloadd that is killed at some step of one of its next jobs. */

static pid_t
offloadd(uint64_t *random)
{
    int                   rc;
    char                  point[64];
    pid_t                 pid;
    uint64_t              x;
    struct zone_consumer  mine;

    static const char  *points[] = {
        "slot.put.mid", "slot.put.state", "slot.free.noted", "slot.free.mid",
        "sq.release.before", "cq.post.mid"
    };

    x = tap_random(random);
    pid = tap_fork();

    if (pid != 0) {
        return pid;
    }

    snprintf(point, sizeof(point), "%s:%d", points[x % 6],
             (int) (x >> 8) % 400 + 401);
    setenv("OFFLOAD_FAILPOINT", point, 1);

    must(zone_consumer_init(&mine, &z, 0, &e) == 0);

    do {
        rc = work(&mine, 1);
    } while (rc != -1 && !store->stop);

    _exit(rc == -1);
}


static void
owner(uint64_t n)
{
    must(zone_producer_init(&p, &z, 0, &e) == 0);

    for ( ;; ) {
        if (unit_submit(&p, n, n % 700) != -1) {
            n++;
        } else {
            sched_yield();
        }
    }
}


static void
test_crowd(void)
{
    int                 i, status, ended;
    char                point[64];
    pid_t               nginx, worker;
    uint64_t            random, n, lost;
    struct zone_repair  r;

    static const char  *points[] = {
        "slot.put.mid", "slot.put.state", "slot.fill.mid", "slot.fill.done",
        "sq.reserve.pad", "sq.publish.noted", "sq.publish.before",
        "sq.publish.after", "slot.fill.before"
    };

    fresh();
    random = 42;
    ended = 0;
    worker = offloadd(&random);

    for (i = 0; i < ROUNDS; i++) {
        snprintf(point, sizeof(point), "%s:%d", points[i % 9],
                 i % 9 == 4 ? 1 : (int) (tap_random(&random) % 300) + 1);

        n = lane->accepted;
        nginx = tap_fork();

        if (nginx == 0) {
            setenv("OFFLOAD_FAILPOINT", point, 1);
            owner(n);
        }

        /* Without an offloadd the ring fills up, and no point is passed. */

        while (waitpid(nginx, &status, WNOHANG) == 0) {
            if (waitpid(worker, &status, WNOHANG) == worker) {
                must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
                worker = offloadd(&random);
                ended++;
            }

            sched_yield();
        }

        must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        must(repair(&r) == 0);
    }

    store->stop = 1;
    status = tap_wait(worker);
    ok(status == 0 || WIFSIGNALED(status), "offloadd ends");
    ok(ended > 5, "%d owners and %d offloadds were killed", ROUNDS, ended);

    (void) work_off();

    for (n = 0, lost = 0; n < lane->accepted; n++) {
        lost += !store->committed[n];
    }

    is(lost, 0, "none of %ju jobs is lost", (uintmax_t) lane->accepted);
    is(store->committed[lane->accepted], 0, "and none is there too many");
    is(zone_slots_used(&z, 0), 0, "all slots are free");
    is(unit_check(&z, 1), 0, "no fault");
}


int
main(void)
{
    tap_begin();

    store = mmap(NULL, sizeof(*store), PROT_READ|PROT_WRITE,
                 MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    must(store != MAP_FAILED);

    test_nginx();
    test_worker(0);
    test_worker(1);
    test_worker(2);
    test_worker(3);
    test_repair();
    test_create();
    test_crowd();

    return tap_end();
}

#endif
