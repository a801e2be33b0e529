# A backend that is down for an hour must not cost its jobs their attempts: the
# queue finds out with a few, and asks now and then whether it is back.  Nor may
# one that is gone for good hold up the jobs of another location of its queue.
# And as soon as the backend is back all must be done.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Control;
use List::Util qw(max sum);
use Offload;
use Ports;
use Test::More;
use Util qw(wait_until);

my ($down, $gone) = (Ports::pick(), Ports::pick());
my $back = Backend->start;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(), zone => 'jobs 8m path=%%ZONE%%',
    http => <<"EOT")->start;
offload_queue down zone=jobs { concurrency 4; }
offload_queue shared zone=jobs { concurrency 4; }
offload_queue words zone=jobs { concurrency 4; retry off; }
offload_queue last zone=jobs { }
upstream down { server 127.0.0.1:$down max_fails=0; }
upstream gone { server 127.0.0.1:$gone max_fails=0; }
server {
    listen 127.0.0.1:%%PORT%%;
    location /down/ { offload down; proxy_pass http://down; }
    location /gone/ { offload shared; proxy_pass http://gone; }
    location /well/ { offload shared; proxy_pass http://%%BACKEND%%; }
    location /words/ {
        offload words; error_page 502 =404 /sorry;
        proxy_pass http://%%BACKEND%%;
    }
    location /sorry { internal; return 404 "sorry"; }
    location /last/ { offload last; proxy_pass http://%%BACKEND%%; }
    location /none/ { offload jobs; proxy_pass http://gone; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);

$n->offloadd;


sub post { map { $n->submit(POST => "$_[1]$_", body => 'x') } 1 .. $_[0] }
sub circuit { control($n, GET => "/v1/queues/$_[0]")->{circuit} }

sub is_open {
    my ($queue) = @_;

    return wait_until(20, sub { circuit($queue)->{state} eq 'open' });
}


# Lets so much time pass, a probe at a time or more if that is slow to look.

sub elapse {
    my ($queue, $seconds, $enough) = @_;
    my $until = $clock->{ms} + $seconds * 1000;

    while ($clock->{ms} < $until && !$enough->()) {
        my $c = circuit($queue);
        my $failures = $c->{failures};

        $clock->ahead(int($c->{probe_in_ms} / 1000) + 2)
            if $c->{state} eq 'open';

        # the next one has failed, or it is over
        wait_until(20, sub {
            $c = circuit($queue);
            $c->{state} eq 'closed'
                || ($c->{state} eq 'open' && $c->{failures} > $failures)
                || $enough->() }) or last;
        last if $c->{state} eq 'closed';
    }
}


# What waits for a time is due, but no attempt that is under way is too old.

sub later { $clock->ahead(300) if !$n->counters->{running} }


# Of all its attempts, how many of this job were none of its own?

sub probes_of {
    my ($job) = @_;
    my ($own, $probes) = (0, 0);

    for ($n->worker_log =~ /"attempt failed" job=$job->{id} .*failures=(\d+)/g)
    {
        $probes += $_ == $own;
        $own = $_;
    }

    return $probes;
}


# ---- down for two hours, and a kill in the middle

control($n, POST => '/v1/queues/down/pause');

my @jobs = post(50, '/down/');

control($n, POST => '/v1/queues/down/resume');
ok is_open('down'), 'ten attempts in a row: the circuit is open';
elapse('down', 3600, sub { 0 });

my $probes = circuit('down')->{failures} - 10;

kill 'KILL', $pid;
waitpid $pid, 0;
$pid = $n->by_hand(undef, $clock->env);
$n->offloadd;
$clock->ahead(300);                             # whatever they wait for
ok is_open('down'), 'a new worker finds out, too';
elapse('down', 3600, sub { 0 });

my @docs = map { $n->status($_) } @jobs;
my $attempts = sum map { $_->{attempts} } @docs;

$probes += circuit('down')->{failures} - 10;

is_deeply [ grep { $_->{status} ne 'queued' } @docs ], [],
    'two hours later: all are queued';
is $n->counters->{store}{dead}, 0, 'none is dead';

# each worker: ten, and with the tenth under way as many as may run besides;
# and the one that was killed perhaps a probe of which it did not tell
cmp_ok $attempts, '<=', 2 * (10 + 3) + 1 + $probes,
    'a few attempts to find out, and probes';
cmp_ok $probes, '<=', 80, 'of which there are not many';
is max(map { probes_of($_) } @jobs), 2,
    'by one job after the other: less than 50 of each worker';

my $came = Backend->start(http_port => $down);
my $settled = 0;

Offload::wait_until(40, sub {
    later();
    $settled = $n->counters->{completed};
    $settled == 50 });
is $settled, 50, 'it is back: all are done';
is scalar($came->journal(event => 'request')), 50, 'each once';
is circuit('down')->{state}, 'closed', 'the circuit is closed';


# ---- one location of two is gone

my @gone = post(14, '/gone/');

ok is_open('shared'), 'a queue of which one location is gone';

my ($well) = post(1, '/well/');

elapse('shared', 86400, sub { $n->status($well)->{status} eq 'completed' });
is $n->settled($well)->{status}, 'completed', 'does the jobs of the other';
ok Offload::wait_until(40, sub {
    later();
    $n->submit(POST => '/well/x') if circuit('shared')->{state} eq 'open';
    14 == grep { $n->status($_)->{status} eq 'failed' } @gone }),
    'which work: so what fails are attempts of the jobs';
is $n->counters->{store}{dead}, 14, 'dead in the end';


# ---- what counts

post(10, '/words/?cut=1&n=');
ok is_open('words'), 'no answer, whatever an error page makes of it';
$n->settled($_)
    for post(12, '/last/?status=503&h=Offload-No-Retry:1&n=');
is circuit('last')->{state}, 'closed',
    'not what a backend means for one job only';
ok !defined circuit('jobs'), 'a queue without a block has no circuit';

$_ = $n->submit(POST => '/none/x');
Offload::wait_until(40, sub { later();
                              $n->status($_)->{status} eq 'failed' });
is $n->status($_)->{attempts}, 5, 'there each job has its attempts';

Offload::finish_all();
