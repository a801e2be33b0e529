# DELETE means stop: a queued job never starts, a running one ends for the
# backend as if its client had hung up, a settled one loses its result.  The
# backend, not the document, is what these are checked against.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    zone => 'jobs 16m path=%%ZONE%% concurrency=2')->start;


sub cancel {
    my ($job, $name) = @_;
    my $r = $n->request('DELETE', $job->{path});

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is $r->{status}, 200, "$name: 200";
    is $r->{h}{'content-type'}, 'application/json', "$name: the document";

    return eval { decode_json($r->{body}) } // {};
}


# running

my $run = $n->submit(POST => '/run?gate=g', body => 'x');

ok $b->wait_for(1, event => 'request', job => $run->{id}), 'it is running';
cancel($run, 'running');
ok $b->wait_for(1, event => 'abort', job => $run->{id}),
    'running: the backend sees its client hang up';

my $doc = $n->settled($run);

is $doc->{status}, 'canceled', 'running: canceled';
ok $doc->{finished_at}, 'running: finished_at';
is $n->get($run->{path})->{status}, 200, 'running: settled';
ok !exists $doc->{response}, 'running: no response';


# queued, behind two that run

my @busy = map { $n->submit(POST => '/busy?gate=h', body => 'x') } 1, 2;

$b->wait_for(1, event => 'request', job => $_->{id}) for @busy;

my @queued = map { $n->submit(POST => "/queued/$_", body => 'x' x 100) } 1 .. 4;
my $large = $n->submit(POST => '/queued/large', body => 'x' x 3_000_000);

$doc = cancel($queued[1], 'queued');
is $doc->{status}, 'canceled', 'queued: canceled at once';
$doc = cancel($large, 'queued, large');
is $n->settled($large)->{status}, 'canceled', 'queued, large: canceled';
cancel($queued[1], 'canceled already');

$b->open_gate('h');
is $n->settled($_)->{status}, 'completed', 'the others go on'
    for @busy, @queued[0, 2, 3];
is $n->settled($queued[1])->{status}, 'canceled', 'queued: stays canceled';
is scalar($b->journal(job => $queued[1]{id})), 0,
    'queued: the backend never saw it';
is scalar($b->journal(job => $large->{id})), 0,
    'queued, large: the backend never saw it';
is scalar($b->journal(event => 'request', job => $run->{id})), 1,
    'running: it was not attempted again';
ok Offload::wait_until(10, sub {
    !-e "$n->{zone_dir}/store/spool/$large->{id}" }),
    'queued, large: its file has gone';


# settled: the result is discarded

for my $size (100, 2_000_000) {
    my ($r, undef, $job) = $n->through(POST => "/done?size=$size",
                                       body => 'x');

    is length $r->{body}, $size, "settled, $size bytes: has a result";
    cancel($job, "settled, $size bytes");
    Offload::wait_until(10, sub { $n->result($job)->{status} != 200 });

    my $gone = $n->result($job);

    like $gone->{status}, qr/^(?:404|410)$/,
        "settled, $size bytes: the result has gone";
    like $gone->{h}{'content-type'}, qr/problem/, 'with a problem';
    ok Offload::wait_until(10, sub {
        !(() = glob "$n->{zone_dir}/store/blobs/$job->{id}*") }),
        "settled, $size bytes: no file is left";
}


# many at once, running and queued: all end, none is run afterwards

my @many = map { $n->submit(POST => '/many?gate=i', body => 'x') } 1 .. 40;

$b->wait_for(2, event => 'request', uri => '/many?gate=i');
$n->request('DELETE', $_->{path}) for @many;
is scalar(grep { $n->settled($_)->{status} eq 'canceled' } @many), 40,
    'forty canceled';
$b->open_gate('i');
$n->through(POST => '/last', body => 'x');
is scalar($b->journal(event => 'done', uri => '/many?gate=i')), 0,
    'and none of them was answered';

# at once after the 202: the job may be in the ring, in the store, about to
# run or running, and two of them may be asking

{
    $n->write_conf(zone => 'jobs 16m path=%%ZONE%% concurrency=500');
    $n->reload;

    my (@jobs, @odd);

    for my $i (1 .. 200) {
        my $job = $n->submit(POST => "/quick/$i?gate=j", body => 'x');
        my $r = $n->request('DELETE', $job->{path});

        push @jobs, $job;
        push @odd, "$i: $r->{status} $r->{body}" if $r->{status} != 200;
    }

    is_deeply \@odd, [], 'two hundred deleted at once after their 202';

    my @alive = grep { $n->settled($_, deadline => 3)->{status}
                       ne 'canceled' } @jobs;

    is scalar(@alive), 0, 'all of them end as canceled'
        or diag explain $n->status($alive[0]);
    $b->open_gate('j');
    is scalar(grep { $_->{uri} =~ m{^/quick/} } $b->journal(event => 'done')),
        0, 'none is answered by the backend';
}

# offloadd dies between the commit and the answer: it is canceled all the same

{
    my $n = Offload->new(backend => $b, worker => 'off',
                         build => Offload::failpoints_dir())->start;
    my $pid = $n->by_hand('drain.after-head:2');
    my $job = $n->submit(POST => '/answer?gate=k', body => 'x');

    $b->wait_for(1, event => 'request', job => $job->{id});

    my $r = $n->request('DELETE', $job->{path}, deadline => 15);

    waitpid $pid, 0;
    is $? & 127, 9, 'offloadd dies after a cancel was committed';
    is $r->{status}, 200, 'and the client is told that it was';
    like $r->{body}, qr/"status":"canceled"/, 'by the document';
    $b->open_gate('k');
    $n->finish;
}

Offload::finish_all();
