/*
 * The header at the beginning of what a command prints, as RFC 3875 has it.
 * Pure functions of what is handed in; loop thread.
 */

#include "offloadd.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>


static int
cgi_is(const char *p, size_t len, const char *name)
{
    return strlen(name) == len && strncasecmp(p, name, len) == 0;
}


size_t
cgi_line(const char **p, const char *end, const char **line)
{
    size_t       len;
    const char  *lf;

    *line = *p;
    lf = memchr(*p, '\n', (size_t) (end - *p));

    if (lf == NULL) {
        len = (size_t) (end - *p);
        *p = end;

    } else {
        len = (size_t) (lf - *p);
        *p = lf + 1;
    }

    return len && (*line)[len - 1] == '\r' ? len - 1 : len;
}


/* "Name: value": 1, and with `status` if it is a CGI field. */

static int
cgi_field(const char *line, size_t len, uint32_t *status)
{
    size_t       i, name;
    const char  *value;

    for (name = 0; name < len && line[name] != ':'; name++) {
        if (!isalnum((unsigned char) line[name])
            && (line[name] == '\0'
                || strchr("!#$%&'*+-.^_`|~", line[name]) == NULL))
        {
            return 0;
        }
    }

    if (name == 0 || name == len) {
        return 0;
    }

    for (i = name + 1; i < len; i++) {
        if (((unsigned char) line[i] < ' ' && line[i] != '\t')
            || line[i] == 0x7f)
        {
            return 0;
        }
    }

    if (!cgi_is(line, name, "Status")) {
        return cgi_is(line, name, "Content-Type")
               || cgi_is(line, name, "Location") ? 2 : 1;
    }

    for (value = line + name + 1; value < line + len && *value == ' ';
         value++) { /* void */ }

    if (line + len - value < 3 || value[0] < '2' || value[0] > '5'
        || !isdigit((unsigned char) value[1])
        || !isdigit((unsigned char) value[2])
        || (line + len - value > 3 && value[3] != ' '))
    {
        return 0;
    }

    *status = (uint32_t) ((value[0] - '0') * 100 + (value[1] - '0') * 10
                          + value[2] - '0');

    return 2;
}


/*
 * Text may look like a header for a few lines.  One is believed that is whole
 * and has one of the three fields that CGI knows.
 */

long
cgi_header(const char *p, size_t n, int whole, uint32_t *status)
{
    int          kind, known;
    size_t       len;
    const char  *at, *end, *line;

    *status = 200;
    end = p + n;
    known = 0;

    for (at = p; at < end; /* void */ ) {

        if (memchr(at, '\n', (size_t) (end - at)) == NULL) {
            break;
        }

        len = cgi_line(&at, end, &line);

        if (len == 0) {
            return known ? at - p : 0;
        }

        kind = cgi_field(line, len, status);

        if (kind == 0 || (size_t) (at - p) > RESULT_HEADERS_MAX) {
            return 0;
        }

        known |= kind == 2;
    }

    return whole || n > RESULT_HEADERS_MAX ? 0 : -1;
}
