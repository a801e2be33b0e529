/*
 * What a command prints to its standard error, line by line ("\r" ends one as
 * well: that is how progress is shown): into the log, so and so many in a
 * second; the last one into the message of a job that fails; and a percentage
 * if the queue's pattern finds one.  Loop thread, memory only; what is stored
 * is the current attempt's progress, by its token, as a backend reports it.
 */

#define PCRE2_CODE_UNIT_WIDTH  8

#include "offloadd.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>


#define PATTERN_STEPS         100000            /* of pcre2, for a line */


void *
exec_pattern(const char *text, char *wrong, size_t size)
{
    int          err;
    uint32_t     groups;
    PCRE2_SIZE   at;
    pcre2_code  *code;

    code = pcre2_compile((PCRE2_SPTR) text, PCRE2_ZERO_TERMINATED, 0, &err,
                         &at, NULL);
    if (code == NULL) {
        (void) pcre2_get_error_message(err, (PCRE2_UCHAR *) wrong, size);
        return NULL;
    }

    (void) pcre2_pattern_info(code, PCRE2_INFO_CAPTURECOUNT, &groups);

    if (groups != 1) {
        (void) snprintf(wrong, size, "it has %u groups in parentheses, must "
                        "have one", groups);
        pcre2_code_free(code);
        return NULL;
    }

    return code;
}


void
exec_pattern_free(void *pattern)
{
    pcre2_code_free(pattern);
}


/* 0 to 100, or -1. */

static int
pattern_percent(void *pattern, const char *line, size_t len)
{
    int                   rc, percent;
    PCRE2_SIZE           *at, i;
    pcre2_match_data     *match;
    pcre2_match_context  *context;

    match = pcre2_match_data_create(2, NULL);
    context = pcre2_match_context_create(NULL);
    percent = -1;

    if (match && context) {
        (void) pcre2_set_match_limit(context, PATTERN_STEPS);

        rc = pcre2_match(pattern, (PCRE2_SPTR) line, len, 0, 0, match,
                         context);
        at = pcre2_get_ovector_pointer(match);

        if (rc == 2 && at[2] != PCRE2_UNSET) {
            for (i = at[2]; i < at[3] && line[i] == ' '; i++) { /* void */ }

            for ( /* void */ ; i < at[3] && line[i] >= '0' && line[i] <= '9'
                  && percent <= 100; i++)
            {
                percent = (percent > 0 ? percent : 0) * 10 + line[i] - '0';
            }
        }
    }

    pcre2_match_data_free(match);
    pcre2_match_context_free(context);

    return percent > 100 ? 100 : percent;
}


static void
line_log(struct offloadd *d, const struct exec_run *r, const char *text)
{
    uint64_t          second;
    struct execs     *x = &d->execs;
    struct log_line   l;

    second = mono_ms() / 1000;

    if (second != x->log_second) {
        if (x->log_dropped) {
            log_text(LOG_NOTICE, "%llu lines of commands were left out",
                     (unsigned long long) x->log_dropped);
        }

        x->log_second = second;
        x->log_lines = 0;
        x->log_dropped = 0;
    }

    if (x->log_lines >= EXEC_LOG_LINES) {
        x->log_dropped++;
        return;
    }

    x->log_lines++;

    if (log_begin(&l, LOG_NOTICE, "stderr")) {
        log_id(&l, "job", r->id);
        log_str(&l, "line", text);
        log_end(&l);
    }
}


/* At most one a second, one at a time, and only what is new. */

static void
line_progress(struct offloadd *d, struct exec_run *r)
{
    uint64_t          now = mono_ms();
    struct store_op  *op;

    if (r->attempt == NULL || r->lines.progress == r->progress
        || now < r->progress_at || r->telling)
    {
        return;
    }

    op = calloc(1, sizeof(*op));
    if (op == NULL) {
        return;
    }

    op->type = STORE_OP_PROGRESS;
    op->seq = r->attempt->op.seq;
    memcpy(op->row.id, r->id, sizeof(op->row.id));
    memcpy(op->row.token, r->token, sizeof(op->row.token));
    op->row.progress = (uint8_t) (r->lines.progress + 1);

    r->telling = 1;
    r->progress = r->lines.progress;
    r->progress_at = now + EXEC_PROGRESS_MS;

    loop_submit(d, op);
}


static void
line_end(struct offloadd *d, struct exec_run *r)
{
    int                 percent;
    size_t              i;
    struct exec_lines  *s = &r->lines;

    if (s->len == 0) {
        return;
    }

    for (i = 0; i < s->len; i++) {
        if (s->line[i] < ' ' || s->line[i] > '~') {
            s->line[i] = s->line[i] == '\t' ? ' ' : '?';
        }
    }

    s->line[s->len] = '\0';

    if (r->policy->pattern) {
        percent = pattern_percent(r->policy->pattern, s->line, s->len);

        if (percent != -1) {
            s->progress = percent;
            s->len = 0;
            return;                             /* no news but that */
        }
    }

    (void) snprintf(s->last, sizeof(s->last), "%.*s", EXEC_LAST_MAX, s->line);
    line_log(d, r, s->line);
    s->len = 0;
}


void
exec_lines(struct offloadd *d, struct exec_run *r, const char *p, size_t n)
{
    size_t              i;
    struct exec_lines  *s = &r->lines;

    for (i = 0; i < n; i++) {

        if (p[i] == '\n' || p[i] == '\r') {
            line_end(d, r);
            s->skip = 0;

        } else if (!s->skip) {
            s->line[s->len++] = p[i];

            if (s->len == EXEC_LINE_MAX) {
                line_end(d, r);
                s->skip = 1;
            }
        }
    }

    line_progress(d, r);
}


void
exec_lines_end(struct offloadd *d, struct exec_run *r)
{
    line_end(d, r);
}
