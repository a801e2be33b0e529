# Results are kept for the zone's ttl; afterwards a client is told 410 (it was
# there) and not 404 (it never was), and the space is free again.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;
use Time::HiRes qw(time);

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    zone => 'jobs 16m path=%%ZONE%% ttl=2s')->start;

my @jobs = (
    [ 'small', 'size=10' ], [ 'large', 'size=1000000' ],
    [ 'failed', 'status=500' ],
);
my (%job, %since);

for (@jobs) {
    my ($name, $query) = @$_;

    $job{$name} = $n->submit(POST => "/$name?$query", body => 'x');
}

$job{canceled} = $n->submit(POST => '/canceled?gate=g', body => 'x');
$n->request('DELETE', $job{canceled}{path});

my $running = $n->submit(POST => '/running?gate=h', body => 'x');

for my $name (sort keys %job) {
    $n->settled($job{$name});
    $since{$name} = time;
}

is $n->result($job{large})->{status}, 200, 'settled: there';

for my $name (sort keys %job) {
    my $r;

    ok Offload::wait_until(15, sub {
        $r = $n->get($job{$name}{path}); $r->{status} == 410 }),
        "$name: expires";
    cmp_ok time - $since{$name}, '>=', 1, "$name: not at once"
        if $name eq 'canceled';
    Offload::problem($r, 410, "$name: 410, a problem");
    Offload::problem($n->result($job{$name}), 410, "$name: its result too");
    is $n->request('DELETE', $job{$name}{path})->{status}, 410,
        "$name: there is nothing to delete";
}

ok Offload::wait_until(10, sub { !(() = glob "$n->{zone_dir}/store/blobs/*") }),
    'the large result\'s file has gone';
is $n->status($running)->{status}, 'running',
    'a job that runs longer does not expire';
$b->open_gate('h');
is $n->settled($running)->{status}, 'completed', 'and completes';

# over a restart of the worker

my $again = $n->submit(POST => '/again', body => 'x');

$n->settled($again);

my $pid = $n->offloadd;

kill 'KILL', $pid;
$n->offloadd(not => $pid);
ok Offload::wait_until(15, sub {
    $n->get($again->{path})->{status} == 410 }),
    'a job settled before a kill expires after it';
is $n->get($job{small}{path})->{status}, 410, 'and 410 stays 410';

Offload::finish_all();
