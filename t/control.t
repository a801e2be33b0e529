# Operators stop and start work through a socket of the worker's.  What it
# answers must be true (nothing is begun after "paused"), must survive a kill,
# and nobody at the socket, not even one who is slow or sends rubbish, may
# hold up jobs.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Control;
use JSON::PP;
use Offload;
use Test::More;
use Time::HiRes qw(time);

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    zone => 'jobs 16m path=%%ZONE%% concurrency=2')->start;
my $pid = $n->offloadd;
my $sock = control_socket($n);


# the zone

my ($doc, $r) = control($n, GET => '/v1/zone');

is $r->{status}, 200, 'the zone is shown';
is $r->{h}{'content-type'}, 'application/json', 'as JSON';
is $r->{h}{'cache-control'}, 'no-store', 'that is not kept';
is $doc->{zone}, 'jobs', 'its name';
is $doc->{pid}, $pid, 'its worker';
is $doc->{concurrency}, 2, 'its concurrency';
is $doc->{state}, 'active', 'it is active';
is_deeply $doc->{refusing}, [], 'it refuses nothing';
is $doc->{jobs}{accepted}, 0, 'it has its counters';
is $doc->{jobs}{drift}, 0, 'and the drift';
is((stat $sock)[2] & 0777, 0600, 'the socket is its user\'s');
is((stat $sock)[4], (stat $n->{zone_dir})[4], 'as the directory');

(undef, $r) = control($n, HEAD => '/v1/zone');
is $r->{status}, 200, 'HEAD is answered';
cmp_ok $r->{h}{'content-length'}, '>', 100, 'with the length';


# Clients who cost nothing: more of them than are accepted, silent; and one
# who sends a byte at a time.  They are looked after at the end.

my $since = time;
my @silent = map { Http::dial($sock) } 1 .. 70;
my $trickle = fork // die "fork: $!\n";

if (!$trickle) {
    my $s = Http::dial($sock);
    my $bits = '';

    vec($bits, fileno $s, 1) = 1;
    Http::write_all($s, "GET /v1/zone HTTP/1.1\r\nX: ");

    while (time - $since < 60) {
        my $ready = $bits;

        Http::write_all($s, 'x') or last;
        last if select($ready, undef, undef, 0.5) && !sysread $s, my $x, 1;
    }

    POSIX::_exit(time - $since < 60 ? 0 : 1);
}

$n->through(POST => '/meanwhile', body => 'x');
pass 'a job is done while the socket is besieged';


# requests that are none of ours

control_problem($n, 404, GET => '/v1/nothing');
control_problem($n, 404, GET => '/v2/zone');
control_problem($n, 404, GET => '/');
control_problem($n, 404, GET => '/v1/zone/');
control_problem($n, 404, GET => '/v1/jobs/');
control_problem($n, 404, GET => '/v1/jobs/x');
control_problem($n, 404, GET => '/v1/jobs/%00');
control_problem($n, 404, GET => '/v1/jobs/' . '0' x 26);
control_problem($n, 404, DELETE => '/v1/jobs/' . '0' x 26);
control_problem($n, 404, GET => '/v1/jobs/' . 'x' x 5000, 'a long path: 404');
control_problem($n, 400, GET => '/v1/zone?a=b');
control_problem($n, 400, GET => '/v1/zone?queue=x');
(undef, $r) = control_problem($n, 405, DELETE => '/v1/zone');
is $r->{h}{allow}, 'GET, HEAD', '405 says what is allowed';
(undef, $r) = control_problem($n, 405, GET => '/v1/zone/pause');
is $r->{h}{allow}, 'POST', 'also where something is changed';
(undef, $r) = control_problem($n, 405, PUT => '/v1/jobs/x');
is $r->{h}{allow}, 'GET, HEAD, DELETE', 'and all that is';

control_problem($n, 413, POST => '/v1/zone/pause', 'a body of 100 KB: 413',
                body => 'x' x 100_000);
control_problem($n, 413, POST => '/v1/zone/pause', 'in pieces: 413',
                body => 'x' x 100_000, chunked => 1);

{
    my $s = Http::dial($sock);

    Http::write_all($s, "POST /v1/zone/pause HTTP/1.1\r\nHost: o\r\n"
                        . "Content-Length: 1000000000000\r\n\r\n");
    is Http::response($s)->{status}, 413, 'a huge one is refused unread';
}

is control($n, GET => '/v1/zone')->{state}, 'active', 'none paused the zone';


# anybody else is sent away

SKIP: {
    skip 'only root can be somebody else', 3 if $>;

    my @dir = stat $n->{zone_dir};
    my @nobody = getpwnam 'nobody' or skip 'there is no nobody', 3;
    my $ask = sub {
        my $out = "$n->{prefix}/nobody.out";
        my $child = fork // die "fork: $!\n";

        if (!$child) {
            open my $fh, '>', $out;
            ($(, $)) = ($nobody[3], "$nobody[3] $nobody[3]");
            ($<, $>) = ($nobody[2], $nobody[2]);
            print $fh Http::request($sock, GET => '/v1/zone')->{status};
            close $fh;
            POSIX::_exit(0);
        }

        waitpid $child, 0;
        return Offload::read_file($out);
    };

    is $ask->(), 0, 'others can not connect';
    chmod 0711, $n->{zone_dir};
    chmod 0666, $sock;
    is $ask->(), 403, 'and where the modes are lost they are refused';
    like $n->worker_log, qr/user $nobody[2], process \d+, was refused/,
        'which is logged';
    chmod 0700, $n->{zone_dir};
    chmod 0600, $sock;
}


# a job

my $run = $n->submit(POST => '/run?gate=g', body => 'hello');

$b->wait_for(1, event => 'request', job => $run->{id});
$doc = control($n, GET => "/v1/jobs/$run->{id}");
is $doc->{job_id}, $run->{id}, 'a job is shown';
is $doc->{status}, 'running', 'it is running';
is $doc->{attempts}, 1, 'for the first time';
is $doc->{request}{length}, 5, 'with its content\'s length';
like $doc->{$_}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, $_
    for qw(created_at started_at);


# paused: what runs goes on, what comes is accepted and not begun

$doc = control($n, POST => '/v1/zone/pause');
is $doc->{state}, 'paused', 'the zone is paused';
is $doc->{running}, 1, 'and says what still runs';

my @held = map { $n->submit(POST => "/held/$_?gate=h", body => 'x') } 1 .. 3;
my $stored = sub {
    my ($waiting) = @_;

    return Offload::wait_until(20, sub {
        ($doc = control($n, GET => '/v1/zone'))->{waiting} == $waiting });
};

ok $stored->(3), 'paused: jobs are accepted, and wait';
is $doc->{running}, 1, 'paused: none of them is begun';
is control($n, GET => "/v1/jobs/$held[0]{id}")->{status}, 'queued', 'as said';
$b->open_gate('g');
is $n->settled($run)->{status}, 'completed', 'paused: what runs is finished';
$doc = control($n, GET => "/v1/jobs/$run->{id}");
is $doc->{response}{status}, 200, 'a settled job is shown';
ok $doc->{expires_at}, 'with the time it is kept to';


# kept across a kill and a reload; a drain says when nothing runs any more

kill 'KILL', $pid;
$pid = $n->offloadd(not => $pid);
$doc = control($n, GET => '/v1/zone');
is "$doc->{state} $doc->{pid}", "paused $pid", 'killed: the next is paused';
is $doc->{running}, 0, 'killed: nothing was begun';
is $doc->{waiting}, 3, 'killed: all are there';

$n->write_conf(zone => 'jobs 16m path=%%ZONE%% concurrency=3');
ok $n->reload, 'a reload';
ok Offload::wait_until(20, sub {
    ($doc = control($n, GET => '/v1/zone'))->{concurrency} == 3 }),
    'is noticed';
is $doc->{state}, 'paused', 'and leaves it paused';
is $doc->{waiting}, 3, 'with nothing begun';

is control($n, POST => '/v1/zone/resume')->{state}, 'active', 'it goes on';
is scalar(grep { $b->wait_for(1, event => 'request', job => $_->{id}) }
          @held), 3, 'and they run';

$doc = control($n, POST => '/v1/zone/drain');
is $doc->{state}, 'draining', 'a zone that drains';
is $doc->{running}, 3, 'finishes three';
ok !$doc->{drained}, 'and has not yet';
is control($n, POST => '/v1/zone/drain')->{state}, 'draining',
    'asked twice it drains once';

my $late = $n->submit(POST => '/late', body => 'x');

kill 'KILL', $pid;
$pid = $n->offloadd(not => $pid);
$doc = control($n, GET => '/v1/zone');
is $doc->{state}, 'draining', 'killed: the next drains';
ok $stored->(4), 'killed: what it ran waits again';
is $doc->{running}, 0, 'nothing runs';
ok $doc->{drained}, 'so it has drained';
$b->open_gate('h');
control($n, POST => '/v1/zone/resume');
is $n->settled($_)->{status}, 'completed', 'resumed, all are done'
    for @held, $late;


# nothing slips through: capacity that was lent to the drain comes back first

{
    my @slipped;

    for my $i (1 .. 20) {
        control($n, POST => '/v1/zone/pause');

        my @jobs = map { $n->submit(POST => "/slip?gate=s$i", body => 'x') }
                   1, 2;

        $stored->(2);
        push @slipped, $i if $doc->{running};
        $b->open_gate("s$i");
        control($n, POST => '/v1/zone/resume');
        $n->settled($_) for @jobs;
    }

    is_deeply \@slipped, [], 'twenty times paused, and nothing slips through';
}


# a job is canceled: running, queued, twice; its client sees it at once

{
    my ($run, $wait) = map { $n->submit(POST => "/cancel/$_?gate=c",
                                        body => 'x') } 1, 2;

    $b->wait_for(1, event => 'request', job => $_->{id}) for $run, $wait;

    ($doc, $r) = control($n, DELETE => "/v1/jobs/$run->{id}");
    is $doc->{status}, 'canceled', 'a running job is canceled';
    is $n->status($run)->{status}, 'canceled', 'as its own URL says';
    ok $b->wait_for(1, event => 'abort', job => $run->{id}),
        'the backend sees its client hang up';
    is control($n, DELETE => "/v1/jobs/$run->{id}")->{status}, 'canceled',
        'again: it stays canceled';
    $b->open_gate('c');
    $n->settled($wait);
    is control($n, DELETE => "/v1/jobs/$wait->{id}")->{status}, 'completed',
        'a settled one stays what it is';
    is control($n, GET => "/v1/jobs/$wait->{id}")->{response}{stored},
        JSON::PP::false, 'without its result';
    is $n->result($wait)->{status}, 410, 'for its client, too';
    like $n->worker_log, qr/a job was canceled" job=$run->{id} by_user=$>/,
        'the log says who did it';
}


# several requests at once on one connection, and the end of it between two

{
    my $s = Http::dial($sock);

    Http::write_all($s, join '', map { Http::bytes(@$_) }
        [ GET => '/v1/zone' ], [ POST => '/v1/zone/pause' ],
        [ GET => '/v1/zone' ], [ POST => '/v1/zone/resume' ]);

    my @states = map {
        (eval { decode_json(Http::response($s)->{body}) } // {})->{state}
            // 'none' } 1 .. 4;

    is "@states", 'active paused paused active',
        'four requests in one piece are answered in order';

    for (1 .. 20) {
        $s = Http::dial($sock);
        Http::write_all($s, Http::bytes(POST => '/v1/zone/pause') x 3);
        close $s;
    }

    is control($n, POST => '/v1/zone/resume')->{state}, 'active',
        'who leaves without waiting disturbs nobody';
}


# rubbish

{
    my $seed = $ENV{OFFLOAD_SEED} // int rand 1e9;
    my @whole = map { Http::bytes(@$_) }
        [ GET => '/v1/zone' ], [ POST => '/v1/nothing', body => 'x' ],
        [ DELETE => '/v1/jobs/' . '0' x 26 ], [ GET => '/v1/zone?a=%' ];

    srand $seed;

    for my $i (1 .. 400) {
        my $s = Http::dial($sock) or next;
        my $text = $i % 2 ? $whole[rand @whole]
                          : join '', map { chr rand 256 } 1 .. rand 3000;

        substr $text, rand length $text, 1, chr rand 256
            for 1 .. rand 6;
        $s->blocking(0);
        Http::write_all($s, $text);
    }

    ($doc, $r) = control($n, GET => '/v1/zone');
    is $r->{status}, 200, "rubbish is survived (OFFLOAD_SEED=$seed)";
    is $doc->{pid}, $pid, 'by the same worker';
    is $doc->{state}, 'active', 'which does what it did';
    $n->through(POST => '/after', body => 'x');
}


# those who cost nothing were cut off

waitpid $trickle, 0;
is $?, 0, 'who sends a byte at a time is cut off';

my @open = grep {
    my $bits = '';

    vec($bits, fileno $_, 1) = 1;
    !select($bits, undef, undef, 10) || sysread $_, my $x, 1;
} @silent;

is scalar(@open), 0, 'and who says nothing';
cmp_ok time - $since, '>', 4, 'not at once';

Offload::finish_all();
