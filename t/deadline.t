# A deadline is a promise to whoever waits: by then it is known how the job
# ended.  It must come true for a job that runs, that waits for its turn or its
# next attempt, that nobody dispatches, and while no worker was there; and no
# attempt may begin behind it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Control;
use Offload;
use Test::More;

my $back = Backend->start;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(), zone => 'jobs 8m path=%%ZONE%%',
    http => <<'EOT')->start;
offload_queue hurry zone=jobs { deadline 10m; timeout 8m; }
offload_queue line  zone=jobs { deadline 10m; timeout 8m; concurrency 1; }
offload_queue patient zone=jobs { deadline 2h; timeout 10m; }
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /hurry/ { offload hurry; proxy_pass http://%%BACKEND%%; }
    location /once/ {
        offload hurry; offload_delivery at-most-once;
        proxy_pass http://%%BACKEND%%;
    }
    location /line/ { offload line; proxy_pass http://%%BACKEND%%; }
    location /patient/ { offload patient; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid;


sub up {
    my ($old) = @_;

    $pid = $n->by_hand(undef, $clock->env);
    $n->offloadd(not => $old);
}


sub killed {
    kill 'KILL', $pid;
    waitpid $pid, 0;
}


# A deadline counts from nginx's time, so that offloadd's must be the same
# when a job is accepted.

sub anew {
    killed();
    $clock->reset;
    up($pid);
}


sub seen {
    my ($job) = @_;

    return scalar(my @seen = $back->journal(event => 'request',
                                            job => $job->{id}));
}


sub is_over {
    my ($job, $end, $what) = @_;
    my $doc = $n->settled($job, deadline => 20);

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is join(' ', $doc->{status}, $doc->{error} ? $doc->{error}{code} : ()),
        $end, $what or diag $n->log_tail;

    return $doc;
}


# Accepted, and at the backend.

sub running {
    my ($uri, %o) = @_;
    my $job = $n->submit($o{method} // 'POST', $uri, body => 'x');

    $n->wait_status($job, 'running');
    Offload::wait_until(20, sub { seen($job) });

    return $job;
}


up();

# ---- one that runs, others that wait for their turn

my $run = running('/hurry/a?gate=never');
my $once = running('/once/a?gate=never');
my $first = running('/line/a?gate=never');
my @wait = map { $n->submit(POST => "/line/$_", body => 'x') } 1 .. 300;
my $free = running('/free?gate=free');
my $patient = running('/patient/a?gate=patient');

$clock->ahead(580);
is $n->status($wait[-1])->{status}, 'queued', 'before it: queued';
is $n->status($run)->{status}, 'running', 'or running';
$clock->ahead(40);

is_over($run, 'failed timeout', 'one that runs: ended');
is_over($once, 'failed timeout', 'at most once: likewise');
is_over($first, 'failed timeout', 'the first in a queue: likewise');
is_over($wait[$_], 'failed expired', 'one that waits: expired')
    for 0, -1;
is_deeply [ grep { $n->settled($_)->{error}{code} ne 'expired' } @wait ], [],
    'all that wait are';
is_deeply [ grep { seen($_) } @wait ], [], 'none of them was begun';
ok $back->wait_for(1, event => 'abort', job => $run->{id}),
    'the backend sees that nobody waits any more';
is $n->status($free)->{status}, 'running', 'one without a deadline runs on';
is $n->status($patient)->{status}, 'running', 'so does one that has time';
$back->open_gate($_) for 'free', 'patient';
is_over($free, 'completed', 'and is done');
is_over($patient, 'completed', 'as is that');
is $n->counters->{store}{dead}, 0, 'nobody is a dead letter';


# ---- between attempts

anew();

my $job = $n->submit(POST => '/hurry/b?status=503&h=Retry-After:1200');

is_over($job, 'failed backend_status', 'no attempt is planned behind it');
like $n->status($job)->{error}{message}, qr/after the deadline/, 'as it says';

$job = $n->submit(POST => '/hurry/b?status=503&h=Retry-After:500');
Offload::wait_until(20, sub {
    my $doc = $n->status($job);

    $doc->{attempts} && $doc->{status} eq 'queued' });
killed();
$clock->ahead(700);
up($pid);
is_over($job, 'failed expired', 'over while it waited for another attempt');
is seen($job), 1, 'which was not made';


# ---- while nobody was there

anew();

$run = running('/hurry/c?gate=never');
killed();

my $stored = $n->submit(POST => '/hurry/d', body => 'x');

$clock->ahead(700);
up($pid);
is_over($run, 'failed expired', 'over while its worker was dead');
is seen($run), 1, 'and not begun again';
is_over($stored, 'failed expired', 'over while it was in its ring');
is seen($stored), 0, 'and not begun at all';


# ---- done again, it has all its time

anew();

$job = $n->submit(POST => '/hurry/e?status=503&cut=5', body => 'x');

for my $attempt (1 .. 4) {                      # and 8 s at most to the next
    Offload::wait_until(20, sub {
        my $doc = $n->status($job);

        $doc->{status} eq 'queued' && ($doc->{attempts} // 0) == $attempt });
    $clock->ahead(10);
}

is_over($job, 'failed backend_status', 'it has had its attempts');
is $n->counters->{store}{dead}, 1, 'a dead letter';
$clock->ahead(700);
control($n, POST => "/v1/dead/$job->{id}/redrive");
is $n->wait_status($job, 'completed')->{status}, 'completed',
    'done again when its deadline is over: it has another';

Offload::finish_all();
