# Clients poll the job's Location; many look at the code alone, so 202 must
# mean pending and 200 settled.  What is asked for below the status location
# comes from anyone: garbage, wrong ids and ids of other zones are 404s with a
# problem document and never more.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    http => <<'EOT')->start;
offload_zone others 16m path=%%SHM%%/o;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
    location /two/ { offload others; proxy_pass http://%%BACKEND%%; }
    location /two/jobs/ { offload_status others; }
}
EOT

my $TIME = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;


# queued, running, settled

my $job = $n->submit(POST => '/r?gate=g&type=text/csv&size=7', body => 'x');

$b->wait_for(1, event => 'request', job => $job->{id});

my $doc = $n->wait_status($job, 'running');
my $r = $n->get($job->{path});

is $r->{status}, 202, 'running: 202';
like $r->{h}{'retry-after'}, qr/^[1-9]\d*$/, 'running: Retry-After';
is $r->{h}{'content-type'}, 'application/json', 'running: JSON';
is $r->{h}{'cache-control'}, 'no-store', 'running: not to be cached';
is $doc->{status}, 'running', 'running: status';
is $doc->{job_id}, $job->{id}, 'running: job_id';
is $doc->{status_url}, $job->{url}, 'running: status_url';
is $doc->{attempts}, 1, 'running: attempts';
like $doc->{created_at}, $TIME, 'running: created_at';
like $doc->{started_at}, $TIME, 'running: started_at';
ok !exists $doc->{finished_at} && !exists $doc->{response}
    && !exists $doc->{result_url} && !exists $doc->{error},
    'running: nothing that only a settled job has';

my $head = $n->request('HEAD', $job->{path});

is $head->{status}, 202, 'HEAD: the same code';
is $head->{body}, '', 'HEAD: no body';
is $head->{h}{'content-type'}, 'application/json', 'HEAD: the same headers';

$b->open_gate('g');
$doc = $n->settled($job);
$r = $n->get($job->{path});

is $r->{status}, 200, 'settled: 200';
ok !exists $r->{h}{'retry-after'}, 'settled: no Retry-After';
is $doc->{status}, 'completed', 'settled: completed';
like $doc->{finished_at}, $TIME, 'settled: finished_at';
is $doc->{result_url}, "$job->{url}/result", 'settled: result_url';
is_deeply $doc->{response},
    { status => 200, content_type => 'text/csv', length => 7 },
    'settled: response';
ok !exists $doc->{queue_position} && !exists $doc->{estimated_completion},
    'settled: no estimate';
ok !exists $doc->{error}, 'settled: no error';
is $n->request('HEAD', $job->{path})->{status}, 200, 'settled: HEAD';


# failed

(undef, $doc) = $n->through(POST => '/f?status=500&size=3', body => 'x');
is $doc->{status}, 'failed', 'a backend that answers 500: failed';
is $doc->{error}{code}, 'backend_status', 'with error.code';
ok length $doc->{error}{message}, 'and error.message';
is $doc->{response}{status}, 500, 'and its status';
is $doc->{attempts}, 1, 'its answer is not retried';

for my $status (200, 201, 204, 302, 399) {
    (undef, $doc) = $n->through(POST => "/s?status=$status", body => 'x');
    is $doc->{status}, 'completed', "$status is completed";
}

for my $status (400, 404, 500) {
    (undef, $doc) = $n->through(POST => "/s?status=$status", body => 'x');
    is $doc->{status}, 'failed', "$status is failed";
}


# the queue's order is shown: with offloadd held, three are waiting

my $pid = $n->offloadd;

Offload::freeze($pid);

my @waiting = map { $n->submit(POST => "/w/$_", body => 'x') } 1 .. 3;

is_deeply [ map { $n->status($_)->{status} } @waiting ], [ ('queued') x 3 ],
    'without a worker jobs are queued, and can be asked for';

my @at = map { $n->status($_)->{queue_position} } @waiting;

ok !(grep { defined && $_ !~ /^\d+$/ } @at), 'queue_position is a number';
kill 'CONT', $pid;
is $n->settled($_)->{status}, 'completed', 'and run later' for @waiting;


# another Host gets its own URLs, and a query is no part of the id

$r = $n->get($job->{path}, host => 'other.example:8080');
is decode_json($r->{body})->{status_url},
    "http://other.example:8080$job->{path}", 'status_url by the Host asked';
is $n->get("$job->{path}?x=1")->{status}, 200, 'a query does not matter';


# garbage

my ($id, $path) = @$job{qw(id path)};
my $wrong = $id;

substr $wrong, 20, 1, substr($wrong, 20, 1) eq '7' ? '8' : '7';

my %garbage = (
    'nothing'            => '',
    'a wrong id'         => $wrong,
    'one character less' => substr($id, 0, 25),
    'one more'           => $id . '0',
    'upper case'         => uc $id eq $id ? "A$id" : uc $id,
    'letters that are no digits' => substr($id, 0, 25) . 'u',
    'all zeros'          => '0' x 26,
    'all ones'           => 'z' x 26,
    'over 128 bits'      => 'z' . substr($id, 1),
    'escaped bytes'      => '%ff%fe%fd',
    'a long one'         => 'a' x 4000,
    'dots'               => '....',
    'something below'    => "$id/else",
    'below the result'   => "$id/result/else",
    'result of nothing'  => '/result',
    'a wrong result'     => "$wrong/result",
    'a double slash'     => "$id//result/",
);

for my $name (sort keys %garbage) {
    for my $method (qw(GET DELETE)) {
        # what can be done is the same for all that could be a result
        my $want = "$method $name" eq 'DELETE a wrong result' ? 405 : 404;

        $r = $n->request($method, "/jobs/$garbage{$name}");
        Offload::problem($r, $want, "$name: $want to $method");
    }
}

is $n->get("/jobs/$id%00")->{status}, 400, 'an escaped NUL: nginx says no';
is $n->get('/jobs/%2e%2e/x')->{status}, 202, 'dots lead out of the location';

my $two = $n->submit(POST => '/two/x', body => 'x');

like $two->{path}, qr{^/two/jobs/}, 'another zone has its own location';
$n->settled($two);
Offload::problem($n->get("/jobs/$two->{id}"), 404, 'a foreign id: 404');
Offload::problem($n->get("/two/jobs/$id"), 404, 'the other way round: 404');
Offload::problem($n->request(DELETE => "/jobs/$two->{id}"), 404,
    'a foreign id can not be deleted');
is $n->get($two->{path})->{status}, 200, 'and is still there';

for my $method (qw(POST PUT LOCK)) {
    $r = $n->request($method, $path, body => 'x');
    Offload::problem($r, 405, "$method: 405");
    like $r->{h}{allow} // '', qr/GET.*DELETE/, "$method: Allow";
}

is $n->get($path)->{status}, 200, 'after all that the job is as it was';

Offload::finish_all();
