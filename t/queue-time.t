# What a queue promises for minutes and hours (its rate, the waits between
# attempts, how long things are kept, the time of a deferred job) is watched
# here by a clock that is set; offloadd is killed and nginx reloaded where a
# promise could be forgotten by that.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Control;
use List::Util qw(max min);
use Offload;
use Report;
use Test::More;
use Util qw(wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(),
    zone => 'jobs 8m path=%%ZONE%% ttl=1h', http => <<'EOT')->start;
offload_queue even zone=jobs { rate 1r/m burst=1; }
offload_queue waits zone=jobs {
    retry max=5 backoff=10s..40s jitter=none on=500 methods=POST;
}
offload_queue spread zone=jobs {
    retry max=40 backoff=100s..100s on=500 methods=POST;
}
offload_queue kept zone=jobs { ttl 2h; }
offload_queue brief zone=jobs { timeout 1s; retry methods=POST max=1; }
offload_queue few zone=jobs {
    concurrency 2; timeout 8m; deadline 10m; retry methods=POST;
}
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /even/ { offload even; proxy_pass http://%%BACKEND%%; }
    location /waits/ { offload waits; proxy_pass http://%%BACKEND%%; }
    location /spread/ { offload spread; proxy_pass http://%%BACKEND%%; }
    location /kept/ { offload kept; proxy_pass http://%%BACKEND%%; }
    location /kept/longer/ {
        offload kept; offload_result_ttl 3h; proxy_pass http://%%BACKEND%%;
    }
    location /brief/ { offload brief; proxy_pass http://%%BACKEND%%; }
    location /brief/own/ {
        offload brief; offload_timeout 1h; proxy_pass http://%%BACKEND%%;
    }
    location /few/ { offload few; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid;


sub up {
    $pid = $n->by_hand(undef, $clock->env);
    $n->offloadd;
}


sub killed {
    kill 'KILL', $pid;
    waitpid $pid, 0;
    $clock->reset if $_[0];
    up();
}


sub seen {
    my ($part) = @_;

    return scalar(grep { $_->{uri} =~ m{^\Q$part\E} }
                  $b->journal(event => 'request'));
}


sub queue { control($n, GET => "/v1/queues/$_[0]") }


up();

# ---- rate

my @even = map { $n->submit(POST => "/even/$_", body => 'x') } 1 .. 5;

ok wait_until(20, sub { seen('/even/') == 2 }), 'one, and one by the burst';
$n->settled($_) for @even[0, 1];
ok wait_until(20, sub { queue('even')->{waiting} == 3 }), 'the others wait';
$clock->ahead(30);
ok $n->reload, 'a reload';
cmp_ok queue('even')->{rate}{next_in_ms}, '>', 5000,
    'does not make the next one come sooner';
killed();
cmp_ok queue('even')->{rate}{next_in_ms}, '>', 5000, 'nor does a kill';
is seen('/even/'), 2, 'there are two still';
$clock->ahead(32);
is $n->settled($even[2])->{status}, 'completed', 'a minute later the third';
is seen('/even/'), 3, 'and no other';
$clock->ahead(60);
$n->settled($even[3]);
$clock->ahead(60);
is $n->settled($even[4])->{status}, 'completed', 'and so on';


# ---- the waits between attempts

# Those in the log so far, in seconds.

sub waits {
    my ($job) = @_;

    return map { $_ / 1000 } $n->worker_log
           =~ /msg="attempt failed" job=$job->{id} .*again_in_ms=(\d+)/g;
}

my $job = $n->submit(POST => '/waits/x?status=500', body => 'x');

for (1 .. 4) {
    wait_until(20, sub { waits($job) == $_ && queue('waits')->{delayed} });
    killed() if $_ == 2;
    $clock->ahead(41);
}

is $n->settled($job)->{attempts}, 5, 'five attempts';
is join(' ', waits($job)), '10 20 40 40',
    'each waits twice as long as the one before, up to the most';

my @spread = map { $n->submit(POST => "/spread/$_?status=500", body => 'x') }
             1 .. 20;

wait_until(20, sub { 20 == grep { waits($_) } @spread });

my @waits = map { waits($_) } @spread;

cmp_ok min(@waits), '<', 50, 'with jitter some wait less';
cmp_ok max(@waits), '>', 50, '.. and some more';
is scalar(grep { $_ > 100 } @waits), 0, '.. but none above the most';
$n->request(DELETE => $_->{path}) for @spread;


# ---- the time of an attempt

my $own = $n->submit(POST => '/brief/own/x?gate=own', body => 'x');

$job = $n->submit(POST => '/brief/x?gate=never', body => 'x');
is $n->settled($job)->{error}{code}, 'timeout', 'timeout: a second is over';
is $n->status($own)->{status}, 'running', 'offload_timeout has its own';
$b->open_gate('own');
is $n->settled($own)->{status}, 'completed', '.. in which it is done';


# ---- deferred: it counts in its queue, and ends as others do

killed('anew');                 # deadlines count from nginx's time

my $DEFER = 'status=202&h=Offload-Defer:1';
my @few = map { $n->submit(POST => "/few/$_?$DEFER", body => 'x') } 1 .. 3;

ok wait_until(20, sub {
    2 == grep { $n->worker_log =~ /msg=deferred job=$_->{id}/ } @few }),
    'two are deferred';

my $its = Report::place($b, $few[0]);

ok wait_until(20, sub { my $q = queue('few');
                        $q->{running} == 2 && $q->{waiting} == 1 }),
    'and run, as many as may';
killed();
is join(' ', @{ queue('few') }{qw(running waiting)}), '2 1',
    'killed: they run still';
ok $n->reload, 'a reload';
is join(' ', @{ queue('few') }{qw(running waiting)}), '2 1', '.. and still';
is seen('/few/'), 2, 'the third is not begun';
$clock->ahead(8 * 60 + 1);

for (@few[0, 1]) {
    my $doc = $n->settled($_);

    is "$doc->{error}{code} $doc->{attempts}", 'timeout 1',
        'not put in time: failed, and not tried again';
}

Offload::problem(Report::put($n, $its, 'late'), 409, 'what comes now is late');
ok wait_until(20, sub {
    $n->worker_log =~ /msg=deferred job=$few[2]{id}/ }), 'the third is begun';
$clock->ahead(2 * 60);

my $doc = $n->settled($few[2]);

is "$doc->{error}{code} $doc->{attempts}", 'timeout 1',
    'its deadline ends it';
is queue('few')->{running}, 0, 'nothing runs';

killed('anew');

my $put = $n->submit(POST => "/few/put?$DEFER&now", body => 'x');
my $at = Report::place($b, $put);

wait_until(20, sub { $n->worker_log =~ /msg=deferred job=$put->{id}/ });
is Report::put($n, $at, 'no', headers => [ 'Offload-Status' => 503 ])->{status},
    204, 'a 503 is put';
$doc = $n->settled($put);
is "$doc->{status} $doc->{attempts}", 'failed 1', 'it is final';
is $n->counters->{store}{dead}, 1, 'nor a dead letter';     # that of /waits/


# ---- how long settled jobs are kept: the location, the queue, the zone

my %kept = map { $_ => $n->submit(POST => "/$_", body => 'x') }
           'zone', 'kept/queue', 'kept/longer/location';
my @left;

$n->settled($_) for values %kept;

for (1 .. 3) {
    $clock->ahead(3600 + ($_ == 1 ? 60 : 0));
    wait_until(10, sub {
        3 - $_ == grep { $n->get($_->{path})->{status} == 200 }
                  values %kept });
    push @left, join ',', map { m{(\w+)$} } grep {
        $n->get($kept{$_}{path})->{status} == 200 } sort keys %kept;
}

is_deeply \@left, [ 'location,queue', 'location', '' ],
    'the zone, the queue, the location: each for its time';

Offload::finish_all();
