# Most configurations reach their proxy_pass by a way: try_files into a named
# location, an index, a rewrite.  A job must be accepted at the end of that
# way and replayed along it, once; and a request that a backend or an error
# page has had its part in must not start over as a job.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
server {
    listen 127.0.0.1:%%PORT%%;
    root %%PREFIX%%/none;

    location /try/ { try_files $uri @app; }
    location @app { offload jobs; proxy_pass http://%%BACKEND%%; }

    location /rewritten/ { rewrite ^/rewritten/(.*)$ /app/$1 last; }
    location /app/ { offload jobs; offload_keep $kept; set $kept "";
                     proxy_set_header X-Way $uri;
                     proxy_pass http://%%BACKEND%%; }

    location = /failing { proxy_pass http://%%BACKEND%%/sync?status=502;
                         proxy_intercept_errors on;
                         error_page 502 /fallback; }
    location /fallback { offload jobs;
                         proxy_pass http://%%BACKEND%%/fallback; }

    location /jobs/ { offload_status jobs; }
}
EOT


my ($seen, $doc) = $n->echoed(POST => '/try/x?a=1', body => 'hello');

is $doc->{status}, 'completed', 'try_files into a named location: a job';
is $seen->{uri}, '/try/x?a=1', 'replayed by its own URI';
is $seen->{length}, 5, 'with its body';
is $doc->{attempts}, 1, 'in one attempt';

is scalar(grep { $_->{uri} =~ m{^/try/x} } $b->journal(event => 'request')),
    1, 'and the backend saw it once';

my $big = 'b' x 600_000;
($seen, $doc) = $n->echoed(POST => '/try/big', body => $big);
is $seen->{length}, length $big, 'a body by way of the spool as well';

($seen, $doc) = $n->echoed(POST => '/rewritten/y', body => 'x');
is $doc->{status}, 'completed', 'a rewrite: a job';
is $seen->{uri}, '/app/y', 'replayed through the same rewrite';
is $seen->{h}{'x-way'}, '/app/y', 'to the same location';


# an error page is not an entrance

my $r = $n->request('POST', '/failing', body => 'x');

isnt $r->{status}, 202, 'an offloaded error page answers in place';
is scalar(grep { $_->{uri} =~ m{^/fallback} } $b->journal(event => 'request')),
    1, 'from its backend, once';

$n->stop;
done_testing;
