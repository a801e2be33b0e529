# Results are kept for the zone's ttl, or as long as their location says;
# afterwards a client is told 410 (it was there) and not 404 (it never was),
# until even that is forgotten, and the space is free again.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;
use Time::HiRes qw(time);

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    zone => 'jobs 16m path=%%ZONE%% ttl=2s', http => <<'EOT')->start;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /kept/ {
        offload jobs;
        offload_result_ttl 1h;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT

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

my @kept = map { $n->submit(POST => "/kept/$_", body => 'x') }
           qw(a?size=10 b?size=100000 c?gate=k);

$n->settled($_) for @kept[0, 1];
$n->request('DELETE', $kept[2]{path});

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

ok Offload::wait_until(10, sub {
    my @blobs = glob "$n->{zone_dir}/store/blobs/*";
    "@blobs" =~ m{^\S*/\Q$kept[1]{id}\E\.1$} }),
    'the large result\'s file has gone, the one that is kept has not';
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
is_deeply [ map { $n->get($_->{path})->{status} } @kept ], [ (200) x 3 ],
    'offload_result_ttl: those of that location are still there';
is_deeply [ map { length $n->result($_)->{body} } @kept[0, 1] ],
    [ 10, 100_000 ], 'with their results';


# A shorter lifetime than the zone's, whoever settles the job; and the end of
# the tombstone too, which a worker of our own does not keep for a day.

my $o = Offload->new(backend => $b, worker => 'off', http => <<'EOT')->start;
offload_result_ttl 1s;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $policy = Offload::wait_until(10, sub { eval { $o->policy } });

is $policy->{tombstone_ms}, 24 * 60 * 60 * 1000, 'a tombstone stays for a day';
Offload::write_file("$o->{zone_dir}/policy.json", encode_json({
    %$policy, tombstone_ms => 3000 }));

my $worker = $o->by_hand;
my @brief = map { $o->submit(POST => "/$_", body => 'x') }
            qw(a?size=10 b?size=100000 c?gate=l);
my $last = $o->submit(POST => '/d?gate=m', body => 'x');
my @ask = (
    [ 'document', sub { $o->get($_[0]{path}) } ],
    [ 'result',   sub { $o->result($_[0]) } ],
    [ 'events',   sub { $o->get($_[0]{path}, headers => [
        Accept => 'text/event-stream' ]) } ],
    [ 'DELETE',   sub { $o->request(DELETE => $_[0]{path}) } ],
);
my %seen;

$o->settled($brief[$_]) for 0, 1;
$o->request('DELETE', $brief[2]{path});

# DELETE must not be what ends a result: it is asked last
ok Offload::wait_until(30, sub {
    for my $i (0 .. $#brief) {
        for (@ask) {
            my ($what, $ask) = @$_;

            next if $what eq 'DELETE' && !$seen{"$i document"}{410};
            $seen{"$i $what"}{ $ask->($brief[$i])->{status} } = 1;
        }
    }

    !grep { !$seen{"$_ DELETE"}{404} } 0 .. $#brief;
}), 'all are forgotten some day';

for my $i (0 .. $#brief) {
    for (@ask) {
        ok $seen{"$i $_->[0]"}{410}, "job $i, $_->[0]: 410";
        is $_->[1]->($brief[$i])->{status}, 404, '.. then 404';
    }
}


# a job keeps what it was accepted with: over a kill and a reload

$o->wait_status($last, 'running');
kill 'KILL', $worker;
waitpid $worker, 0;
$o->write_conf(http => $o->{http} =~ s/ttl 1s/ttl 1h/r);
ok $o->reload(drain => 0), 'another offload_result_ttl';
$worker = $o->by_hand;
$o->offloadd;
$b->open_gate('m');
ok Offload::wait_until(30, sub { $o->get($last->{path})->{status} == 410 }),
    'a job from before expires as was said then';

my $later = $o->submit(POST => '/later', body => 'x');

$o->settled($later);
is $o->get($later->{path})->{status}, 200, 'the new one counts for new jobs';

Offload::finish_all();
