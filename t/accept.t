# A 202 is a promise, and clients work from its headers and its document: a
# field that is missing or wrong (a relative Location, a Retry-After that is
# not a number, an id given twice, a Location that answers 404 for the first
# millisecond) breaks real pollers.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use POSIX qw(strftime);
use Test::More;
use Time::Local qw(timegm);

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
log_format jobs '$request_method $request_uri id=$offload_job_id '
                'attempt=$offload_attempt status=$status';
access_log %%PREFIX%%/jobs.log jobs;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /old/ { rewrite ^/old/(.*)$ /new/$1?from=old last; }
    location /closed/ { deny all; offload jobs;
                        proxy_pass http://%%BACKEND%%; }
    location /plain/ { proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT


sub unix_time {
    my ($text) = @_;

    my @t = ($text // '') =~ /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z$/
        or return;

    return timegm(@t[5, 4, 3, 2], $t[1] - 1, $t[0]);
}


# the answer

my $before = time;
my $r = $n->request('POST', '/report?gate=a', body => 'hello',
                    host => 'api.example.com');
my $doc = eval { decode_json($r->{body}) } // {};
my ($id) = ($r->{h}{location} // '') =~ m{/jobs/([0-9a-hjkmnp-tv-z]{26})$};

is $r->{status}, 202, 'a POST is accepted';
ok $id, 'the Location ends in a job id' or diag $r->{head};
is $r->{h}{location}, "http://api.example.com/jobs/$id",
    'Location is absolute, by the Host of the request';
is $r->{h}{'content-location'}, $r->{h}{location}, 'Content-Location as well';
like $r->{h}{'retry-after'}, qr/^[1-9]\d*$/, 'Retry-After in whole seconds';
is $r->{h}{'cache-control'}, 'no-store', 'Cache-Control: no-store';
is $r->{h}{'content-type'}, 'application/json', 'Content-Type';
is $doc->{job_id}, $id, 'job_id';
is $doc->{status}, 'queued', 'status is "queued"';
is $doc->{status_url}, $r->{h}{location}, 'status_url is the Location';

my $created = unix_time($doc->{created_at});
my $estimated = unix_time($doc->{estimated_completion});

ok $created && $created >= $before - 1 && $created <= time + 1,
    'created_at is now, RFC 3339 UTC' or diag $doc->{created_at};
ok !exists $doc->{estimated_completion}
    || $estimated && $estimated >= $created,
    'estimated_completion, where there is one, is not in the past';
is_deeply [ grep { !defined $doc->{$_} } keys %$doc ], [], 'no null in it';

$b->open_gate('a');
is $n->settled(Offload::job($r))->{status}, 'completed', 'and it is run';


# methods

for my $method (qw(GET POST PUT PATCH DELETE OPTIONS PROPFIND)) {
    my @body = $method =~ /^P/ ? (body => "body of $method") : ();
    my ($seen, $doc) = $n->echoed($method, "/m/$method?a=b%20c&d", @body);

    is $seen->{method}, $method, "$method reaches the backend as itself";
    is $seen->{uri}, "/m/$method?a=b%20c&d", "$method: with its URI";
    is $seen->{length}, @body ? length $body[1] : 0, "$method: and body";
}

$r = $n->request('HEAD', '/m/HEAD');
is $r->{status}, 202, 'HEAD is accepted';
is $r->{body}, '', 'HEAD: without a body in the answer';

my $head = Offload::job($r);

is $n->settled($head)->{status}, 'completed', 'HEAD: the job completes';
is scalar($b->journal(event => 'request', job => $head->{id},
                      method => 'HEAD')), 1, 'HEAD: at the backend';


# ids, and that they can be read at once

my (%ids, @unreadable);

for (1 .. 300) {
    my $job = $n->submit(POST => '/many', body => 'x') or last;
    my $status = $n->get($job->{path})->{status};

    $ids{$job->{id}}++;
    push @unreadable, "$job->{id} $status" if $status !~ /^20[02]$/;
}

is scalar(keys %ids), 300, 'ids are unique';
is_deeply \@unreadable, [], 'a job can be read as soon as its 202 is there';


# one connection, many jobs

my $s = Http::dial($n->port);
my @answers;

for my $i (1 .. 3) {
    Http::write_all($s, Http::bytes('POST', "/keep/$i", body => "k$i"));
    push @answers, Http::response($s);
}

Http::write_all($s, join '', map { Http::bytes('POST', "/pipe/$_",
                                               body => "p$_") } 1 .. 5);
push @answers, Http::response($s) for 1 .. 5;

is scalar(grep { $_->{status} == 202 } @answers), 8,
    'a connection is kept and may be pipelined';
$n->settled(Offload::job($_)) for @answers;

my %seen = map { $_->{uri} => $_->{length} }
           grep { $_->{uri} =~ m{^/(?:keep|pipe)/} }
           $b->journal(event => 'request');

is_deeply \%seen, { (map { ("/keep/$_" => 2) } 1 .. 3),
                    (map { ("/pipe/$_" => 2) } 1 .. 5) },
    'each of its requests is one job with its own body';

my $old = $n->request('POST', '/v10', version => '1.0', body => 'x');

is $old->{status}, 202, 'HTTP/1.0 is accepted';


# where it does not apply

is $n->request('POST', '/closed/x', body => 'x')->{status}, 403,
    'access control comes first';
is $n->get('/plain/x')->{status}, 200, 'other locations are as they were';
is scalar(grep { $_->{uri} eq '/closed/x' } $b->journal), 0,
    'a refused request is no job';

my ($seen) = $n->echoed('POST', '/old/report', body => 'x');

is $seen->{uri}, '/new/report?from=old',
    'a rewritten request becomes one job, rewritten the same way';


# variables

my $job = $n->submit(POST => '/logged', body => 'x');

$n->settled($job);

my $log = sub { Offload::read_file("$n->{prefix}/jobs.log") };

ok Offload::wait_until(5, sub {
    $log->() =~ m{POST /logged id=$job->{id} attempt=- status=202} }),
    '$offload_job_id is the new job where it is accepted';
ok Offload::wait_until(5, sub {
    $log->() =~ m{POST /logged id=$job->{id} attempt=1 status=200} }),
    '$offload_job_id and $offload_attempt on the replay' or diag $log->();

Offload::finish_all();
