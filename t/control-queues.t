# A queue is held without the others noticing, across kills and reloads; and
# what failed for good is looked at, driven again or thrown away by hand, one
# or all of it.  What an operator is shown must hold no secret of a client.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Control;
use JSON::PP;
use Offload;
use Test::More;

my $b = Backend->start;
# one worker: what was accepted first is first
my $n = Offload->new(backend => $b, workers => 1,
    zone => 'jobs 16m path=%%ZONE%% concurrency=50', http => <<'EOT')->start;
offload_queue slow zone=jobs {
    concurrency 2;
    rate 100r/s burst=50;
    adaptive on;
    deadline 3h;
    priority $arg_priority;
}
offload_queue brief zone=jobs {
    retry max=2 backoff=10ms..10ms jitter=none on=429,502,503;
    dead_ttl 2h;
}
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /slow { offload slow; proxy_pass http://%%BACKEND%%; }
    location /brief { offload brief; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $pid = $n->offloadd;


sub queue { my ($name, %o) = @_; control($n, GET => "/v1/queues/$name", %o) }


# what there is

my $doc = control($n, GET => '/v1/queues');

is_deeply [ sort map { $_->{queue} } @{ $doc->{queues} } ],
    [ qw(brief jobs slow) ], 'all queues are listed';
is_deeply [ map { $_->{queue} } grep { $_->{default} } @{ $doc->{queues} } ],
    [ 'jobs' ], 'one of them is the default one';

$doc = queue('slow');
is $doc->{state}, 'active', 'a queue is active';
is $doc->{concurrency}, 2, 'its concurrency';
is_deeply { map { $_ => $doc->{rate}{$_} } qw(count period_ms burst) },
    { count => 100, period_ms => 1000, burst => 50 }, 'its rate';
is $doc->{adaptive}{most}, 2, 'what it adapts within';
is $doc->{limit}, 2, 'what it lets run now';
is $doc->{deadline_s}, 3 * 3600, 'its deadline';
is queue('brief')->{retry}{max}, 2, 'retries';
is queue('brief')->{circuit}{state}, 'closed', 'the circuit';

control_problem($n, 404, GET => '/v1/queues/none');
control_problem($n, 404, POST => '/v1/queues/none/pause');
control_problem($n, 404, GET => '/v1/queues/' . 'x' x 65);
control_problem($n, 404, GET => '/v1/queues/%73low');
control_problem($n, 405, POST => '/v1/queues/slow');
control_problem($n, 405, GET => '/v1/queues/slow/drain');


# one is paused, the others are not

is control($n, POST => '/v1/queues/slow/pause')->{state}, 'paused', 'paused';

my @held = map { $n->submit(POST => "/slow/$_?gate=s&priority=$_",
                            body => 'x') } 1 .. 3;

is $n->settled($n->submit(POST => '/other', body => 'x'))->{status},
    'completed', 'another queue goes on';

my $waits = sub {
    my ($waiting) = @_;

    return Offload::wait_until(20, sub {
        ($doc = queue('slow'))->{waiting} == $waiting });
};

ok $waits->(3), 'its own jobs wait';
is $doc->{running}, 0, 'none is begun';

$doc = control($n, GET => "/v1/jobs/$held[2]{id}");
is $doc->{queue}, 'slow', 'a job says where it waits';
is $doc->{priority}, 3, 'and how urgent it is';

kill 'KILL', $pid;
$pid = $n->offloadd(not => $pid);
is queue('slow')->{state}, 'paused', 'killed: the next has it paused';
ok $waits->(3) && $doc->{running} == 0, 'killed: all wait';
is queue('jobs')->{state}, 'active', 'killed: another is not';
ok $n->reload, 'a reload';
is queue('slow')->{state}, 'paused', 'changes nothing';

is control($n, POST => '/v1/queues/slow/resume')->{state}, 'active', 'resumed';
ok Offload::wait_until(20, sub { ($doc = queue('slow'))->{running} == 2 }),
    'as many run as may';
$doc = control($n, POST => '/v1/queues/slow/drain');
is "$doc->{state} $doc->{running}", 'draining 2', 'it drains';
ok !$doc->{drained}, 'and has not yet';
$b->open_gate('s');
ok Offload::wait_until(20, sub { ($doc = queue('slow'))->{drained} }),
    'it has drained';
is $doc->{waiting}, 1, 'one waits';

# the rate writes the queue's row with each attempt: the flags must stay

kill 'KILL', $pid;
$pid = $n->offloadd(not => $pid);
is queue('slow')->{state}, 'draining', 'killed: it drains still';
control($n, POST => '/v1/queues/slow/resume');
is scalar(grep { $n->settled($_)->{status} eq 'completed' } @held), 3,
    'all are done';


# dead letters: two attempts fail, the third one would not

sub fail_for_good {
    my ($count, %more) = @_;
    my $query = 'cut=2' . (delete $more{query} // '');
    my @jobs = map { $n->submit(PUT => "/brief/$_?$query", body => "body $_",
                                %more) } 1 .. $count;

    is scalar(grep { ($n->settled($_)->{status} // '') eq 'failed' } @jobs),
        $count, "$count have failed for good";

    return @jobs;
}

my $secret = 'eD8sWq2nXv';
my @dead = fail_for_good(5, headers => [
    Authorization => "Bearer $secret", Cookie => "sid=$secret",
    'X-Api-Key' => $secret, 'X-Plain' => 'shown', 'X-Latin' => "caf\xe9" ]);

$doc = control($n, GET => '/v1/dead');
is_deeply [ map { $_->{job_id} } @{ $doc->{dead} } ],
    [ map { $_->{id} } @dead ], 'they are listed, the oldest first';
ok !exists $doc->{next}, 'all of them';
is $doc->{dead}[0]{attempts}, 2, 'with their attempts';
ok length $doc->{dead}[0]{error}{code}, 'and the reason';

my (@pages, $after);

do {
    $doc = control($n, GET => '/v1/dead?queue=brief&limit=2'
                              . ($after ? "&after=$after" : ''));
    push @pages, [ map { $_->{job_id} } @{ $doc->{dead} } ];
    $after = $doc->{next};
} while ($after && @pages < 10);

is_deeply \@pages, [ map { [ map { $_->{id} } @$_ ] }
                     [ @dead[0, 1] ], [ @dead[2, 3] ], [ $dead[4] ] ],
    'page by page';
is_deeply control($n, GET => '/v1/dead?queue=slow')->{dead}, [],
    'another queue has none';
control_problem($n, 400, GET => "/v1/dead?$_")
    for qw(limit=0 limit=1001 limit=x limit= after=x queue= queue=a%2fb x=1
           limit=1&limit=1);
control_problem($n, 400, GET => '/v1/dead?after=' . '0' x 26);

my ($letter, $r) = control($n, GET => "/v1/dead/$dead[0]{id}");
my %header = map { lc $_->[0] => $_->[1] } @{ $letter->{request}{headers} };

is $letter->{request}{method}, 'PUT', 'a letter has its method';
is $letter->{request}{uri}, '/brief/1?cut=2', 'its URI';
is $header{'x-plain'}, 'shown', 'its headers';
is $header{'x-latin'}, 'caf?', 'whatever bytes are in them';
is $header{$_}, '[redacted]', "but not $_"
    for qw(authorization cookie x-api-key);
ok !exists $letter->{response}, 'and no answer where there was none';
unlike $r->{body}, qr/$secret/, 'nothing secret is in it';
unlike $n->worker_log, qr/$secret/, 'nor in the log';
control_problem($n, 404, GET => "/v1/dead/$held[0]{id}");
control_problem($n, 404, GET => '/v1/dead/' . '0' x 26);

$doc = control($n, POST => "/v1/dead/$dead[0]{id}/redrive");
like $doc->{status}, qr/^(?:queued|running|completed)$/, 'driven again';
$doc = $n->settled($dead[0]);
is $doc->{status}, 'completed', 'it is done';
is $doc->{attempts}, 3, 'by a third attempt';
control_problem($n, 404, POST => "/v1/dead/$dead[0]{id}/redrive",
                'it is dead no more');
control_problem($n, 404, POST => "/v1/dead/$held[0]{id}/redrive",
                'what has not failed is not driven again');

$doc = control($n, DELETE => "/v1/dead/$dead[1]{id}");
is $doc->{status}, 'failed', 'purged, it has failed still';
control_problem($n, 404, GET => "/v1/dead/$dead[1]{id}", 'it is gone');
control_problem($n, 400, DELETE => '/v1/dead', 'all at once is no purge');

$doc = control($n, POST => '/v1/dead/redrive?queue=brief');
is_deeply [ @$doc{qw(redriven more)} ], [ 3, JSON::PP::false ],
    'the others are driven again';
is scalar(grep { $n->settled($_)->{status} eq 'completed' } @dead[2 .. 4]), 3,
    'and done';
is_deeply control($n, GET => '/v1/dead')->{dead}, [], 'no letter is left';

# the last answer, of text, of bytes, and a large one

{
    my @uri = map { "/brief/$_&h=Set-Cookie:$secret&h=X-Why:tired" }
              'text?status=503', 'bytes?status=503&gzip=1&size=100',
              'large?status=503&size=20000', 'huge?status=503&size=900000';
    my @jobs = map { $n->submit(PUT => $_, body => 'x') } @uri;

    $n->settled($_) for @jobs;

    my ($text, $bytes, $large, $huge) = map {
        scalar control($n, GET => "/v1/dead/$_->{id}")->{response} } @jobs;
    my %header = map { lc $_->[0] => $_->[1] } @{ $text->{headers} };

    is $text->{status}, 503, 'the last answer';
    is $header{'x-why'}, 'tired', 'its headers';
    is $header{'set-cookie'}, '[redacted]', 'but no cookie';
    like $text->{body}, qr/"method":"PUT"/, 'its body';
    like $bytes->{body_base64}, qr/^H4sI/, 'bytes as they are';
    is length $large->{body}, 16384, 'a large one is cut';
    ok $large->{truncated}, 'as it says';
    ok -f "$n->{zone_dir}/store/$huge->{file}", 'a huge one is a file';
    is control($n, DELETE => '/v1/dead?queue=brief')->{purged}, 4, 'purged';
}


# more than one step

# by an answer, so that it is not the backend that is down
my @many = fail_for_good(230, query => '&status=429');

$doc = control($n, POST => '/v1/dead/redrive');
is_deeply [ @$doc{qw(redriven more)} ], [ 230, JSON::PP::false ],
    'many are driven again';
is scalar(grep { $n->settled($_)->{status} eq 'completed' } @many), 230,
    'and done';

@many = fail_for_good(3);
$doc = control($n, DELETE => '/v1/dead?queue=brief');
is_deeply [ @$doc{qw(purged more)} ], [ 3, JSON::PP::false ], 'purged';
is_deeply control($n, GET => '/v1/dead')->{dead}, [], 'all of them';
is $n->status($many[0])->{status}, 'failed', 'their documents stay';
is $n->offloadd, $pid, 'all of it by one worker';

Offload::finish_all();
