/*
 * A zone's file is shared with whoever can write it, and is the first thing a
 * process goes by.  So: the size is divided as documented, what is made can
 * be opened, and whatever is not exactly such a file is refused by name.
 */

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/statvfs.h>

#include "unit.h"


static struct zone_error  e;


static struct zone_geometry
geometry(uint64_t size, uint32_t lanes, uint32_t slots)
{
    struct zone_geometry  g;

    memset(&g, 0, sizeof(g));
    g.size = size;
    g.lanes = lanes;
    g.slots = slots;

    return g;
}


static void
test_geometry(void)
{
    uint32_t              lanes;
    uint64_t              size, needed, bad, budget;
    struct zone_geometry  g, h;

    g = geometry(64 << 20, 8, 0);
    is(zone_geometry(&g, &e), 0, "64m in 8 lanes");
    is(g.sq_size, 4 << 20, "gives each a ring of 4m");
    ok(g.slots > 30000 && g.slots <= 65536, "and %u slots", g.slots);

    g = geometry(1ull << 30, 1, 0);
    is(zone_geometry(&g, &e), 0, "1g in one lane");
    is(g.slots, 65536, "has no more than 65536 slots");
    is(g.sq_size, 512 << 20, "and a ring of 512m");

    g = geometry(8 << 20, 1, 1000);
    is(zone_geometry(&g, &e), 0, "slots that were asked for");
    is(g.slots, 1000, "are given");
    is(g.sq_size, 4 << 20, "and the ring has the rest");

    g = geometry(65536, 4, 0);
    is(zone_geometry(&g, &e), -1, "64k for 4 lanes is refused");
    like(e.text, "zone size 65536 is too small for 4 lanes: at least ",
         "with a text that says so");
    needed = strtoull(strstr(e.text, "least ") + 6, NULL, 10);

    g = geometry(needed, 4, 0);
    is(zone_geometry(&g, &e), 0, "what the text asks for is enough");
    g = geometry(needed - 1, 4, 0);
    is(zone_geometry(&g, &e), -1, "a byte less is not");

    g = geometry(1 << 20, 1, 1 << 20);
    is(zone_geometry(&g, &e), -1, "a million slots in 1m are refused");
    needed = strtoull(strstr(e.text, "least ") + 6, NULL, 10);
    g = geometry(needed, 1, 1 << 20);
    is(zone_geometry(&g, &e), 0, "what the text asks for is enough");
    g = geometry(needed - 1, 1, 1 << 20);
    is(zone_geometry(&g, &e), -1, "a byte less is not");

    g = geometry(1 << 20, 0, 0);
    is(zone_geometry(&g, &e), -1, "0 lanes are refused");
    like(e.text, "1 to 255", "with what is possible");
    g = geometry(1 << 20, 256, 0);
    is(zone_geometry(&g, &e), -1, "256 lanes are refused");
    g = geometry(1ull << 40, 1, ZONE_SLOTS_MAX + 1);
    is(zone_geometry(&g, &e), -1, "too many slots are refused");
    g = geometry(UINT64_MAX, 255, 0);
    is(zone_geometry(&g, &e), -1, "a size beyond all memory is refused");

    /* The header's numbers must lead to themselves, or no file opens. */

    bad = 0;

    for (lanes = 1; lanes <= 255; lanes += lanes < 20 ? 1 : 47) {
        for (size = 1 << 20; size < 1ull << 42; size += size / 7 + 4099) {
            g = geometry(size, lanes, 0);

            if (zone_geometry(&g, &e) == -1) {
                continue;
            }

            h = geometry(size, lanes, g.slots);
            budget = (size - ZONE_HEADER_SIZE) / lanes;

            bad += zone_geometry(&h, &e) == -1 || h.sq_size != g.sq_size
                   || h.slots != g.slots
                   || (g.sq_size & (g.sq_size - 1)) != 0
                   || g.slots < 64
                   || (g.slots < 65536 && g.slots * 128ull < budget / 8 - 4096)
                   || 4096 + (g.slots * 128ull + 4095) / 4096 * 4096 + 196608
                      + g.sq_size > budget;
        }
    }

    is(bad, 0, "all geometries fit, keep an eighth for slots, and are stable");
}


static void
test_create(void)
{
    int                   fd;
    struct stat           st;
    struct zone           z;
    struct zone_geometry  g, p;
    struct statvfs        vfs;

    g = geometry(2 << 20, 2, 0);

    is(zone_probe(tap_file("new"), &p, &e), -1, "no file, no zone");
    is(e.err, ENOENT, "which the error code says");
    is(zone_open(&z, tap_file("new"), &e), -1, "nor can it be opened");
    is(e.err, ENOENT, "for the same reason");

    is(zone_create(tap_file("new"), &g, getuid(), getgid(), &e), 0, "create");
    must(stat(tap_file("new"), &st) == 0);
    is(st.st_mode & 07777, 0600, "its mode is 0600");
    is(st.st_size, 2 << 20, "it has the size that was asked for");
    ok((uint64_t) st.st_blocks * 512 >= 2 << 20, "and is not sparse");

    is(zone_probe(tap_file("new"), &p, &e), 0, "probe");
    ok(p.size == 2 << 20 && p.lanes == 2 && p.slots > 0
       && p.sq_size >= ZONE_SQ_MIN, "says the geometry");

    is(zone_open(&z, tap_file("new"), &e), 0, "open");
    is(z.size, 2 << 20, "the mapping is the whole file");
    ok(zone_is_current(&z, tap_file("new")), "it is the current file");
    is(unit_check(&z, 1), 0, "a new zone has no faults");

    zone_lane(&z, 1)->owner_pid = 7;
    is(zone_create(tap_file("new"), &g, (uid_t) -1, (gid_t) -1, &e), 0,
       "create again");
    ok(!zone_is_current(&z, tap_file("new")), "the old one is not current");
    is(zone_lane(&z, 1)->owner_pid, 7, "but stays whole for who has it");
    zone_close(&z);
    zone_close(&z);

    must(zone_open(&z, tap_file("new"), &e) == 0);
    ok(zone_is_current(&z, tap_file("new")), "the new one is");
    fd = open(tap_file("new"), O_RDWR);
    must(fd != -1 && ftruncate(fd, 8192) == 0);
    close(fd);
    ok(!zone_is_current(&z, tap_file("new")), "cut short it is not");
    zone_close(&z);

    is(zone_create(tap_file("none/zone"), &g, (uid_t) -1, (gid_t) -1, &e), -1,
       "no directory, no zone");
    like(e.text, "none", "the text names the directory");

    must(statvfs(tap_dir, &vfs) == 0);
    g = geometry(1ull << 45, 1, 0);
    is(zone_create(tap_file("big"), &g, (uid_t) -1, (gid_t) -1, &e), -1,
       "32 terabytes are not to be had");
    like(e.text, "35184372088832", "the text names the size");
    like(e.text, tap_dir, "and the directory");
}


/* A good file with one field changed, and what the refusal must say. */

struct change {
    const char  *name;
    size_t       offset;
    size_t       size;
    uint64_t     value;
    const char  *text;
};

#define field(name, value, text)                                              \
    { #name, offsetof(struct zone_header, name),                              \
      sizeof(((struct zone_header *) 0)->name), value, text }

static const struct change  changes[] = {
    field(magic, 0x4141414141414141, "magic"),
    field(layout, 2, "layout is 2 instead of 1"),
    field(layout, 0, "layout is 0 instead of 1"),
    field(ready, 0, "not ready"),
    field(header_size, 8192, "header_size is 8192 instead of 40960"),
    field(size, UNIT_SIZE - 1, "its header says"),
    field(size, UINT64_MAX, "its header says"),
    field(lanes, 0, "0 lanes"),
    field(lanes, 2, "too small for 2 lanes"),
    field(lanes, 256, "256 lanes"),
    field(slots, 0, "slots is 0"),
    field(slots, 65, "65 slots"),
    field(slots, UINT32_MAX, "slots per lane"),
    field(slot_size, 64, "slot_size is 64 instead of 128"),
    field(cq_entries, 4095, "cq_entries is 4095 instead of 4096"),
    field(cq_entries, 0, "cq_entries is 0 instead of 4096"),
    field(sq_size, 262143, "sq_size is 262143 instead of 262144"),
    field(sq_size, 1ull << 40, "sq_size"),
    field(sq_size, 0, "sq_size is 0"),
    field(lane_offset, UINT64_MAX, "lane_offset"),
    field(lane_offset, 0, "lane_offset is 0 instead of 40960"),
    field(lane_stride, UNIT_SIZE, "lane_stride"),
    field(slots_offset, 1ull << 63, "slots_offset"),
    field(cq_offset, 4097, "cq_offset"),
    field(sq_offset, UNIT_SIZE, "sq_offset"),
};


static void
test_refused(void)
{
    int                   fd;
    size_t                i;
    uint8_t               good[sizeof(struct zone_header)];
    struct zone           z;
    const char           *path;
    struct zone_geometry  g;

    path = tap_file("bad");
    unit_zone(&z, "bad", 1);
    zone_close(&z);

    fd = open(path, O_RDWR);
    must(fd != -1);
    must(pread(fd, good, sizeof(good), 0) == sizeof(good));

    for (i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        must(pwrite(fd, &changes[i].value, changes[i].size,
                    (off_t) changes[i].offset)
             == (ssize_t) changes[i].size);

        is(zone_open(&z, path, &e), -1, "%s %ju is refused", changes[i].name,
           (uintmax_t) changes[i].value);
        like(e.text, changes[i].text, "for that reason");
        ok(strstr(e.text, path) != NULL && zone_probe(path, &g, &e) == -1,
           "the text names the file, and the probe refuses it too");

        must(pwrite(fd, good, sizeof(good), 0) == sizeof(good));
    }

    is(zone_probe(path, &g, &e), 0, "unchanged it is good");

    must(ftruncate(fd, UNIT_SIZE + 1) == 0);
    is(zone_probe(path, &g, &e), -1, "a byte too long");
    like(e.text, "its size is 512001 bytes", "says the size it has");
    must(ftruncate(fd, UNIT_SIZE - 4096) == 0);
    is(zone_probe(path, &g, &e), -1, "truncated by a page");
    must(ftruncate(fd, 100) == 0);
    is(zone_probe(path, &g, &e), -1, "truncated in the header");
    like(e.text, "too short", "says so");
    must(ftruncate(fd, 0) == 0);
    is(zone_probe(path, &g, &e), -1, "empty");
    close(fd);

    unit_zone(&z, "good", 1);
    zone_close(&z);
    must(symlink(tap_file("good"), tap_file("link")) == 0);
    is(zone_probe(tap_file("link"), &g, &e), -1, "a symbolic link");
    like(e.text, "symbolic link", "says so");

    must(mkdir(tap_file("dir"), 0700) == 0);
    is(zone_probe(tap_file("dir"), &g, &e), -1, "a directory");
    like(e.text, "regular file", "says so");
    is(zone_open(&z, tap_file("dir"), &e), -1, "nor can it be opened");
    like(e.text, "regular file", "says so");

    must(mkfifo(tap_file("fifo"), 0600) == 0);
    is(zone_open(&z, tap_file("fifo"), &e), -1, "a fifo, without waiting");
    like(e.text, "regular file", "says so");
}


static void
test_path(void)
{
    char  buf[24];

    is(zone_path(buf, sizeof(buf), "/dev/shm/x", "zone.v1"), 0, "a path");
    ok(strcmp(buf, "/dev/shm/x/zone.v1") == 0, "is dir/name");
    is(zone_path(buf, 19, "/dev/shm/x", "zone.v1"), 0, "an exact fit");
    is(zone_path(buf, 18, "/dev/shm/x", "zone.v1"), -1, "one byte short");
    is(zone_lane_path(buf, sizeof(buf), "/tmp", 254), 0, "a lane's bell");
    ok(strcmp(buf, "/tmp/lane.254.wake") == 0, "is lane.N.wake");
}


int
main(void)
{
    tap_begin();

    test_geometry();
    test_create();
    test_refused();
    test_path();

    return tap_end();
}
