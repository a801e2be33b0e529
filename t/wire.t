# Requests that nginx takes and few clients send: an absolute request target,
# one without a path, HTTP/1.0 without a Host, header names that only
# "ignore_invalid_headers off" lets through.  A record that offloadd would
# refuse is a 202 without a job, so that each of these must be carried over or
# refused before the 202.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
ignore_invalid_headers off;
server {
    listen 127.0.0.1:%%PORT%%;
    server_name named.example;
    location / { offload jobs; proxy_pass http://%%BACKEND%%;
                 proxy_set_header X-Host $http_host; }
    location /jobs/ { offload_status jobs; }
}
EOT


# Sends exactly these lines; the job as the backend saw it, and the answer.

sub exact {
    my ($body, @lines) = @_;
    my $s = Http::dial($n->port);

    Http::write_all($s, join("\r\n", @lines, '', '') . $body);

    my $r = Http::response($s);
    my $job = Offload::job($r);

    return ($r) if !$job;

    my $doc = $n->settled($job);

    is $doc->{status}, 'completed', "$lines[0]: completes";

    my ($seen) = $b->journal(event => 'request', job => $job->{id});

    return ($r, $job, $seen);
}


my ($r, $job, $seen) = exact('', 'GET http://other.example:99/a?b=c HTTP/1.1',
                             'Host: ignored.example');

is $r->{status}, 202, 'an absolute request target is accepted';
like $job->{url}, qr{^http://other\.example:99/jobs/}, 'its host rules';
is $seen->{uri}, '/a?b=c', 'and its path is replayed';

($r, $job, $seen) = exact('', 'GET http://other.example?b=c HTTP/1.1',
                          'Host: ignored.example');
is $r->{status}, 202, 'an absolute target without a path is accepted';
is $seen->{uri}, '/?b=c', 'the path is /';

($r, $job, $seen) = exact('hi', 'POST /old HTTP/1.0', 'Content-Length: 2');
is $r->{status}, 202, 'HTTP/1.0 without a Host is accepted';
like $job->{url}, qr{^http://named\.example:\d+/jobs/},
    'by the server\'s name and port';

($r, $job, $seen) = exact('', 'GET /q HTTP/1.1', 'Host: a"b\\c.example');
is $r->{status}, 202, 'a Host with quotes is accepted';
ok $job->{doc}{job_id}, 'and the document is JSON all the same';

($r, $job, $seen) = exact('', 'GET /names HTTP/1.1', 'Host: x',
                          'X(odd): 1', 'X-Good: 2', '"quoted": 3');
is $r->{status}, 202, 'odd header names are accepted';
ok $seen, 'and the job gets to the backend';

($r, $job, $seen) = exact('', 'GET /bytes HTTP/1.1', 'Host: x',
                          "X-Bytes: \x01\x7f\xff\t end");
is $r->{status}, 202, 'odd bytes in a value are accepted';
ok $seen, 'and get to the backend';

($r) = exact('', 'M' x 33 . ' / HTTP/1.1', 'Host: x');
is $r->{status}, 501, 'a method too long to carry is refused';

unlike $n->worker_log, qr/not a request/, 'offloadd had to skip nothing';

$n->stop;
done_testing;
