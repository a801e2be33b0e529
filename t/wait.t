# A 202 must not be given when the answer is there in a moment: clients that
# can wait a little get the real thing, and those who ask for it are told when
# something has changed instead of asking again and again.  Nobody may wait
# longer than agreed, miss a change, or be forgotten when a worker or offloadd
# goes away.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Offload;
use Test::More;
use Time::HiRes qw(time);

my $b = Backend->start;
my $HTTP = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /held/ { offload jobs; offload_wait 20s; offload_wait_max 25s;
                      proxy_pass http://%%BACKEND%%; }
    location /brief/ { offload jobs; offload_wait 2s;
                       proxy_pass http://%%BACKEND%%; }
    location /asked/ { offload jobs; offload_when prefer;
                       proxy_pass http://%%BACKEND%%; }
    location /some/ { offload jobs; offload_when $arg_async;
                      proxy_pass http://%%BACKEND%%; }
    location /short/ { offload jobs; offload_wait 20s; offload_timeout 1s;
                       proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; offload_wait_max 25s; }
}
EOT


sub begin {
    my ($n, $method, $uri, %o) = @_;
    my $s = Http::dial($n->port) or die "dial: $!";

    Http::write_all($s, Http::bytes($method, $uri, %o));

    return $s;
}


for my $zone ('jobs 16m path=%%ZONE%%',
              'jobs 16m path=%%ZONE%% store=%%PREFIX%%/s durability=disk')
{
    my ($mode) = $zone =~ /durability=(\w+)/ ? $1 : 'memory';
    my $n = Offload->new(backend => $b, zone => $zone, http => $HTTP)->start;

    # ---- offload_wait: the backend's answer in place of the 202

    my $r = $n->request(POST => '/held/x?status=201&h=X-Own:yes&type=text/x'
                                . '&size=1000', body => 'hello');

    is $r->{status}, 201, "$mode: a quick job's answer, with its status";
    is $r->{h}{'x-own'}, 'yes', "$mode: its headers";
    is $r->{h}{'content-type'}, 'text/x', "$mode: its type";
    is $r->{body}, Backend::content(1000), "$mode: its body";
    ok !$r->{h}{location} && !$r->{h}{'retry-after'},
        "$mode: and nothing of a job";

    $r = $n->request(GET => '/held/large?size=900000');
    is sha256_hex($r->{body}), Backend::content_sha(900_000),
        "$mode: a large one whole";
    is $n->request(HEAD => '/held/head')->{status}, 200, "$mode: HEAD";
    is $n->request(GET => '/held/x?status=404')->{status}, 404,
        "$mode: a refusal is the backend's answer, too";
    Offload::problem($n->request(POST => '/short/x?gate=never'), 504,
                     "$mode: a backend that is too late is 504");

    my $from = time;

    $r = $n->request(POST => "/brief/x?gate=brief-$mode", body => 'x');

    my $job = Offload::job($r);

    ok $job, "$mode: a slow job's 202";
    cmp_ok time - $from, '>=', 1.98, "$mode: not before the time is over";
    is $job->{doc}{status}, 'running', "$mode: it says what the job does";
    ok $r->{h}{'retry-after'}, "$mode: and when to ask";
    $b->open_gate("brief-$mode");
    is $n->settled($job)->{status}, 'completed', "$mode: it goes on";

    # ---- Prefer (RFC 7240)

    $r = $n->request(POST => "/held/x?gate=async-$mode",
                     headers => [ Prefer => 'respond-async' ]);
    is $r->{status}, 202, "$mode: respond-async does not wait";
    is $r->{h}{'preference-applied'}, 'respond-async', "$mode: and is told so";
    is $r->{h}{vary}, 'Prefer', "$mode: Vary";
    $b->open_gate("async-$mode");

    $r = $n->request(POST => '/x', body => 'y',
                     headers => [ Prefer => 'foo; bar="a,b", wait=20' ]);
    is $r->{status}, 200, "$mode: wait=20 waits where nothing is configured";
    is $r->{h}{'preference-applied'}, 'wait=20', "$mode: and is told so";

    $from = time;
    $r = $n->request(POST => "/held/x?gate=one-$mode",
                     headers => [ Prefer => 'respond-async, wait=1' ]);
    is $r->{status}, 202, "$mode: respond-async, wait=1: a second, then 202";
    cmp_ok time - $from, '<', 15, "$mode: not the location's 20";
    $b->open_gate("one-$mode");

    $r = $n->request(POST => "/held/x?gate=two-$mode",
                     headers => [ Prefer => 'wait=0' ]);
    is $r->{status}, 202, "$mode: wait=0";
    $b->open_gate("two-$mode");

    my $s = begin($n, POST => "/held/x?gate=max-$mode",
                  headers => [ Prefer => 'wait=99999' ]);

    $b->wait_for(1, event => 'request', uri => "/held/x?gate=max-$mode");
    $b->open_gate("max-$mode");
    is Http::response($s)->{h}{'preference-applied'}, 'wait=25',
        "$mode: offload_wait_max";

    # ---- offload_when

    $r = $n->request(POST => '/asked/x?status=203', body => 'x');
    is $r->{status}, 203, "$mode: offload_when prefer: not asked for";
    ok !$r->{h}{'offload-source'}, "$mode: and served as if we were absent";
    like $r->{h}{vary}, qr/Prefer/, "$mode: with Vary";
    is $n->request(POST => '/asked/x', headers => [ Prefer =>
                   'respond-async' ])->{status}, 202, "$mode: asked for";
    is $n->request(POST => '/some/x')->{status}, 200, "$mode: \$variable: no";
    is $n->request(POST => '/some/x?async=0')->{status}, 200, "$mode: 0: no";
    is $n->request(POST => '/some/x?async=1')->{status}, 202, "$mode: 1: yes";

    # ---- long polls

    $job = $n->submit(POST => "/x?gate=poll-$mode", body => 'x');
    $n->wait_status($job, 'running');

    my @polls = (begin($n, GET => "$job->{path}?wait=24"),
                 begin($n, GET => $job->{path},
                       headers => [ Prefer => 'wait=24' ]),
                 begin($n, HEAD => "$job->{path}?wait=24"));

    is $n->get("$job->{path}?wait=1")->{status}, 202,
        "$mode: a poll that waited in vain gets what there is";
    $b->open_gate("poll-$mode");
    $from = time;
    is Http::response($polls[0])->{status}, 200, "$mode: ?wait= is woken";
    $r = Http::response($polls[1]);
    is $r->{status}, 200, "$mode: Prefer: wait is woken";
    is $r->{h}{'preference-applied'}, 'wait=24', "$mode: and told so";
    is Http::response($polls[2], head => 1)->{status}, 200, "$mode: HEAD";
    cmp_ok time - $from, '<', 10, "$mode: by the change, not by their time";
    is $n->get("$job->{path}?wait=24")->{status}, 200,
        "$mode: what is settled is not waited for";
    is $n->get("/jobs/$job->{id}x?wait=24")->{status}, 404,
        "$mode: nor what does not exist";

    # a change of any kind, and a cancellation
    $job = $n->submit(POST => "/x?gate=cancel-$mode", body => 'x');
    $n->wait_status($job, 'running');
    $s = begin($n, GET => "$job->{path}?wait=24");
    $n->get("$job->{path}?wait=1");
    $n->request(DELETE => $job->{path});
    like Http::response($s)->{body}, qr/"canceled"/, "$mode: canceled";

    # ---- those who wait, and the processes they wait for

    my $dead = $n->submit(POST => "/x?gate=dead-$mode", body => 'x');

    $n->wait_status($dead, 'running');
    $s = begin($n, GET => "$dead->{path}?wait=24");

    my $pid = $n->offloadd;

    kill 'KILL', $pid;
    $n->offloadd(not => $pid);
    $b->wait_for(2, event => 'request', job => $dead->{id});
    $r = Http::response($s, deadline => 24);
    like $r->{body}, qr/"attempts":2|"queued"/,
        "$mode: a poll outlives offloadd";

    $s = begin($n, GET => "$dead->{path}?wait=24");
    ok $n->reload(drain => 0), "$mode: a reload is not held up";
    is Http::response($s, deadline => 5)->{status}, 202,
        "$mode: and answers who waits";

    $b->open_gate("dead-$mode");
    is $n->settled($dead)->{status}, 'completed', "$mode: the job is done";

    # clients that leave take their places with them
    close begin($n, POST => "/held/x?gate=leave-$mode") for 1 .. 20;
    ok Offload::wait_until(20, sub {
        20 == (() = $b->journal(event => 'request',
                                uri => "/held/x?gate=leave-$mode")) }),
        "$mode: twenty who left have submitted";
    $b->open_gate("leave-$mode");
    $n->finish;
}

# while offloadd is away, who waits asks once, and leaves the ring to jobs

{
    my $n = Offload->new(backend => $b, workers => 1, http => $HTTP)->start;
    my $job = $n->submit(POST => '/x?gate=away', body => 'x');

    $n->wait_status($job, 'running');

    my $pid = $n->offloadd;

    Offload::wait_until(10, sub { !$n->figures->{bytes} });
    Offload::freeze($pid);
    is $n->get("$job->{path}?wait=13")->{status}, 202, 'nobody answers';
    is $n->figures->{bytes}, 64, 'one record is in the ring';
    kill 'CONT', $pid;
    $b->open_gate('away');
    is $n->settled($job)->{status}, 'completed', 'and it goes on';
    $n->finish;
}

Offload::finish_all();
