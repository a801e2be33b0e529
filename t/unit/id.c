/*
 * A job id is a URL that clients keep and send back.  One id has one text,
 * everything else is refused before any lookup, and no two are the same.
 */

#include "unit.h"


static struct zone_random  entropy;


static void
test_known(void)
{
    int       i;
    char      text[ZONE_ID_TEXT];
    uint8_t   id[ZONE_ID_SIZE], back[ZONE_ID_SIZE];

    static const struct {
        const char  *text;
        uint8_t      first, all, last;
    } known[] = {
        { "00000000000000000000000000", 0, 0, 0 },
        { "7zzzzzzzzzzzzzzzzzzzzzzzzz", 0xff, 0xff, 0xff },
        { "00000000000000000000000001", 0, 0, 1 },
        { "0000000000000000000000000z", 0, 0, 31 },
        { "00000000000000000000000010", 0, 0, 32 },
        { "40000000000000000000000000", 0x80, 0, 0 },
    };

    for (i = 0; i < 6; i++) {
        memset(id, known[i].all, sizeof(id));
        id[0] = known[i].first;
        id[15] = known[i].last;

        zone_id_format(text, id);
        ok(memcmp(text, known[i].text, ZONE_ID_TEXT) == 0, "%s is written",
           known[i].text);
        ok(zone_id_parse(back, known[i].text, ZONE_ID_TEXT) == 0
           && memcmp(back, id, sizeof(id)) == 0, "and read");
    }
}


static void
test_round_trip(void)
{
    int       i, bad;
    char      text[ZONE_ID_TEXT];
    uint8_t   id[ZONE_ID_SIZE], back[ZONE_ID_SIZE];
    uint32_t  lane, slot;

    bad = 0;

    for (i = 0; i < 20000; i++) {
        bad += zone_id_make(id, (uint32_t) i % 256, (uint32_t) i * 839
                            % (1u << 24), &entropy) == -1;
        zone_id_format(text, id);
        memset(back, 0xaa, sizeof(back));
        bad += zone_id_parse(back, text, sizeof(text)) == -1;
        bad += memcmp(id, back, sizeof(id)) != 0;
        zone_id_hint(back, &lane, &slot);
        bad += lane != (uint32_t) i % 256;
        bad += slot != (uint32_t) i * 839 % (1u << 24);
    }

    is(bad, 0, "20000 ids come back as they were, with their hints");

    is(zone_id_make(id, 255, (1u << 24) - 1, &entropy), 0, "the largest hint");
    is(zone_id_make(id, 256, 0, &entropy), -1, "a lane too large");
    is(zone_id_make(id, 0, 1u << 24, &entropy), -1, "a slot too large");
}


static void
test_refused(void)
{
    int       i, c, bad;
    char      text[ZONE_ID_TEXT + 2];
    uint8_t   id[ZONE_ID_SIZE];

    static const char  good[] = "0123456789abcdefghjkmnpqrs";
    static const char  alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

    is(zone_id_parse(id, good, 26), 0, "%s is good", good);
    is(zone_id_parse(id, good, 25), -1, "25 characters are not");
    memcpy(text, good, sizeof(good));
    text[26] = '0';
    is(zone_id_parse(id, text, 27), -1, "nor are 27");
    is(zone_id_parse(id, "", 0), -1, "nor is none");

    bad = 0;

    for (i = 0; i < ZONE_ID_TEXT; i++) {
        for (c = 0; c < 256; c++) {
            memcpy(text, good, sizeof(good));
            text[i] = (char) c;

            if (zone_id_parse(id, text, 26)
                != (c != 0 && strchr(alphabet, c) != NULL
                    && (i > 0 || c <= '7') ? 0 : -1))
            {
                bad++;
            }
        }
    }

    is(bad, 0, "each byte at each place is taken or refused rightly");
}


static int
compare(const void *a, const void *b)
{
    return memcmp(a, b, ZONE_ID_SIZE);
}


static void
test_unique(void)
{
    int                 i, same;
    uint8_t             id[ZONE_ID_SIZE], other[ZONE_ID_SIZE];
    static uint8_t      many[20000][ZONE_ID_SIZE];
    struct zone_random  fresh;

    same = 0;

    for (i = 0; i < 20000; i++) {
        must(zone_id_make(many[i], 0, 0, &entropy) == 0);
    }

    qsort(many, 20000, sizeof(many[0]), compare);

    for (i = 1; i < 20000; i++) {
        same += memcmp(many[i - 1], many[i], ZONE_ID_SIZE) == 0;
    }

    is(same, 0, "no two of 20000 are the same");

    memset(&fresh, 0, sizeof(fresh));

    must(zone_id_make(id, 0, 0, &entropy) == 0);
    must(zone_id_make(other, 0, 0, &fresh) == 0);
    ok(memcmp(id, other, sizeof(id)) != 0, "nor those of two processes");
}


int
main(void)
{
    tap_begin();

    test_known();
    test_round_trip();
    test_refused();
    test_unique();

    return tap_end();
}
