/*
 * What a command prints to its standard output: a header, if it has one, and
 * the result, which goes where an answer does.  Loop thread.  Whoever prints
 * more than may be kept is told to end, and not read any more.
 */

#include "offloadd.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>


#define EXEC_READ             (64u * 1024)
#define EXEC_REST             (2u * 1024 * 1024)  /* more than a pipe has */


/* Its header into the result's, but for what is ours to say. */

static int
exec_header(struct result *res, const char *p, size_t n, uint32_t status)
{
    size_t       len;
    char         text[32];
    const char  *end, *line;

    (void) snprintf(text, sizeof(text), "HTTP/1.1 %u ", status);
    (void) result_header(res, text, strlen(text));

    if (n == 0) {
        line = "Content-Type: application/octet-stream";
        (void) result_header(res, line, strlen(line));
    }

    for (end = p + n; p < end; /* void */ ) {
        len = cgi_line(&p, end, &line);

        if (len == 0 || strncasecmp(line, "Status:", 7) == 0
            || (strncasecmp(line, "Offload-", 8) == 0
                && strncasecmp(line, "Offload-No-Retry:", 17) != 0))
        {
            continue;
        }

        if (result_header(res, line, len) != 0) {
            return -1;
        }
    }

    return result_header(res, "\r\n", 2);
}


int
exec_take(struct exec_run *r, const char *p, size_t n, int whole)
{
    long              head;
    size_t            len;
    uint32_t          status;
    struct attempt   *a = r->attempt;
    const char       *text;

    if (r->body) {
        return n == 0 ? 0
               : result_body(&a->result, a->daemon->policy.store,
                             a->op.row.id, p, n);
    }

    if (buf_append(&r->head, p, n) != 0) {
        a->result.err = ENOMEM;
        return -1;
    }

    text = r->head.data ? (const char *) r->head.data : "";
    len = r->head.len;
    head = cgi_header(text, len, whole, &status);

    if (head == -1) {
        return 0;
    }

    r->body = 1;
    a->op.row.http_status = (uint16_t) status;

    if (exec_header(&a->result, text, (size_t) head, status) != 0) {
        return -1;
    }

    len -= (size_t) head;

    return len == 0 ? 0
           : result_body(&a->result, a->daemon->policy.store, a->op.row.id,
                         text + head, len);
}


int
exec_read(struct offloadd *d, struct exec_run *r, int fd)
{
    char     buf[EXEC_READ];
    ssize_t  n;

    n = read(fd, buf, sizeof(buf));

    if (n == -1) {
        return errno == EINTR;
    }

    if (n == 0) {
        exec_close(d, fd == r->out ? &r->out : &r->err);
        return 0;
    }

    ZONE_FAILPOINT("exec.output");

    if (fd == r->err) {
        exec_lines(d, r, buf, (size_t) n);

    } else if (r->attempt && exec_take(r, buf, (size_t) n, 0) != 0) {
        exec_close(d, &r->out);
        exec_tell(r);
        return 0;
    }

    return 1;
}


void
exec_rest(struct offloadd *d, struct exec_run *r, int *fd)
{
    uint32_t  n;

    for (n = 0; n < EXEC_REST && *fd != -1 && exec_read(d, r, *fd);
         n += EXEC_READ) { /* void */ }

    exec_close(d, fd);
}
