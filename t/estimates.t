# A client plans by what it is told: when a job should be done, and when to ask
# again.  Told wrong, it comes too early and costs, or too late and waits for
# what has been there for long.  So a known load goes through the real thing:
# jobs of several locations at once, constant, exponential and of two kinds,
# with everybody asking while they wait and run; what was said is held against
# what came of it.  (t/unit/estimate.c plays many more, by a clock of its own.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Control;
use Events;
use JSON::PP;
use Offload;
use POSIX qw(floor);
use Test::More;
use Time::HiRes qw(sleep time);
use Time::Local qw(timegm);
use Util qw(wait_until);

my $back = Backend->start;
my $HTTP = 'server { listen 127.0.0.1:%%PORT%%; '
    . join(' ', map { "location /$_/ { offload jobs; "
                      . 'proxy_pass http://%%BACKEND%%; }' }
           qw(quick slow two constant exponential new))
    . ' location /jobs/ { offload_status jobs; offload_heartbeat 200ms; } } '
    . 'server { listen 127.0.0.1:%%PORT2%%; '
    . 'location /quick/ { offload jobs; proxy_pass http://%%BACKEND%%; } '
    . 'location /jobs/ { offload_status jobs; } }';


sub unix_time {
    my @t = ($_[0] // '') =~ /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z$/
        or return;

    return timegm(@t[5, 4, 3, 2], $t[1] - 1, $t[0]);
}


# What a job's document says now: how much is left, and when to ask again.

sub told {
    my ($r) = @_;
    my $doc = eval { decode_json($r->{body}) } // {};
    my $at = unix_time($doc->{estimated_completion}) // return;

    return { at => $at, left => $at - time, doc => $doc,
             retry => $r->{h}{'retry-after'} };
}


sub percentile {
    my ($p, @v) = @_;

    @v = sort { $a <=> $b } @v;

    return $v[floor($p * $#v)] // 'none';
}


# ---- each location has its own times, and so has each of its two kinds

my $n = Offload->new(backend => $back, http => $HTTP,
                     zone => 'jobs 16m path=%%ZONE%% concurrency=64')->start;

my $first = $n->request(POST => '/slow/?delay=3000', body => 'x');

cmp_ok told($first)->{left}, '>', 250,
    'nothing measured: the time by which the first attempt is over';
is told($first)->{retry}, 1, 'and who knows nothing asks soon';

my @jobs = (Offload::job($first),
            (map { $n->submit(POST => '/slow/?delay=3000', body => 'x') }
             1 .. 3),
            (map { $n->submit(POST => '/two/?delay=3000', body => 'x') }
             1 .. 4),
            (map { $n->submit(POST => '/two/?delay=50', body => 'x') }
             1 .. 16),
            (map { $n->submit(POST => '/quick/?delay=50', body => 'x') }
             1 .. 4));

is scalar(grep { $n->settled($_)->{status} ne 'completed' } @jobs), 0,
    'jobs to measure';

sub check_locations {
    my ($when) = @_;
    my $quick = told($n->request(POST => '/quick/?delay=50', body => 'x'));
    my $slow = told($n->request(POST => '/slow/?delay=3000', body => 'x'));

    ok $quick->{left} > -1 && $quick->{left} < 1.6, "$when: a quick one"
        or diag $quick->{left};
    is $quick->{retry}, 1, "$when: is asked for in a second";
    ok $slow->{left} > 2.5 && $slow->{left} < 4.6, "$when: a slow one"
        or diag $slow->{left};
    ok $slow->{retry} >= 2 && $slow->{retry} <= 4,
        "$when: is not asked for before" or diag $slow->{retry};
}

check_locations('at once');

my $job = $n->submit(POST => '/two/?delay=3000', body => 'x');
my $two = told($job->{answer});
my $stream = Events->open($n->port, $job->{path}, estimates => 1);

ok $two->{left} > -1 && $two->{left} < 1.6, 'of two kinds: the likelier'
    or diag $two->{left};

my @events;

do { push @events, scalar $stream->next } while $events[-1]
    && $events[-1]{event} ne 'estimate';

ok $events[-1] && @events <= 4, 'when that is over, an event says so'
    or diag map { "$_->{event} $_->{data}\n" } grep { $_ } @events;

$two = told($n->get($job->{path}));

ok $two->{left} > 0.9 && $two->{left} < 4, 'it is a slow one'
    or diag $two->{left};
is $two->{doc}{status}, 'running', 'which runs';

my $r = $n->get("$job->{path}/result");

is $r->{status}, 404, 'its result is not there';
ok $r->{h}{'retry-after'} >= 1 && $r->{h}{'retry-after'} <= 3,
    'and is to be asked for when the job is' or diag $r->{h}{'retry-after'};

my $mixed = told($n->request(POST => '/new/?delay=50', body => 'x'));

ok $mixed->{left} < 5, 'a new location: by what is usual in the zone'
    or diag $mixed->{left};

$n->settled($_)
    for map { $n->submit(POST => '/quick/?delay=2000', body => 'x',
                         to => $n->port('2')) } 1 .. 20;
ok told($n->request(POST => '/quick/?delay=50', body => 'x'))->{left} < 1.6,
    'a location of that name in another server is another';

my $pid = $n->offloadd;

kill 'KILL', $pid;
ok $n->offloadd(not => $pid), 'another worker';
check_locations('measured by the one before');
$n->finish;


# ---- a queue

srand 20260425;

my %delay = (
    constant    => sub { 150 },
    exponential => sub { my $ms = -150 * log(1 - rand);
                         $ms > 1200 ? 1200 : 10 + int $ms },
    two         => sub { rand() < 0.8 ? 60 : 500 },
);
my @names = sort keys %delay;

$n = Offload->new(backend => $back, http => $HTTP,
                  zone => 'jobs 16m path=%%ZONE%% concurrency=3')->start;

sub burst {
    my ($count) = @_;

    return map {
        my $name = $names[$_ % 3];
        my $at = time;
        my $r = $n->request(POST => "/$name/?delay=" . $delay{$name}->(),
                            body => 'x');
        my $job = Offload::job($r) or die "not accepted: $r->{status}\n";

        +{ %$job, name => $name, accepted => $at, said => [] };
    } 1 .. $count;
}

$n->settled($_) for burst(45);

my @burst = burst(210);
my @open = @burst;
my $deadline = time + 90;

while (@open && time < $deadline) {
    my $i = int rand @open;
    my $job = $open[$i];
    my $asked = time;
    my $r = $n->get($job->{path});

    if ($r->{status} != 202) {
        splice @open, $i, 1;
        next;
    }

    push @{ $job->{said} }, { %{ told($r) }, time => $asked };
    sleep 0.01;
}

is scalar @open, 0, 'all are done';
ok $n->settled($_)->{status} eq 'completed', 'the last as well'
    for $burst[-1];

my %end = map { $_->{job} => $_->{time} } $back->journal(event => 'done');
my (%error, %alone, @late, @lazy, @positions);

for my $job (@burst) {
    my $end = $end{ $job->{id} };
    my $total = $end - $job->{accepted};

    for my $s (@{ $job->{said} }) {
        next if $s->{time} > $end;      # the store had not heard of it yet

        my $over = $s->{time} + $s->{retry} - $end;
        my $most = $total / 5 > 1 ? $total / 5 : 1;

        push @late, sprintf '%.2f of %.2f', $over, $total if $over > $most;

        push @lazy, $s->{retry} / ($end - $s->{time})
            if $end - $s->{time} > 4;

        # documents have whole seconds, the later ones: half a one too much

        next if $total < 3;

        push @{ $error{ $job->{name} } },
            abs($s->{at} - 0.5 - $end) / $total;
        push @{ $alone{ $job->{name} } },
            abs($s->{time} + 0.15 - $end) / $total;

        push @positions, $s->{doc}{queue_position}
            if $s->{doc}{status} eq 'queued'
               && ($s->{doc}{queue_position} // 0) < 1;
    }
}

for my $name (@names) {
    my @errors = @{ $error{$name} // [] };
    my @alone = @{ $alone{$name} // [] };

    note sprintf '%s: %d estimates, error: median %.3f, p90 %.3f; without '
        . 'those ahead %.3f, %.3f', $name, scalar @errors,
        map { percentile($_->[0], @{ $_->[1] }) }
            [ 0.5, \@errors ], [ 0.9, \@errors ],
            [ 0.5, \@alone ], [ 0.9, \@alone ];

    cmp_ok scalar @errors, '>=', 30, "$name: enough to judge";
    cmp_ok percentile(0.5, @errors), '<', 0.2,
        "$name: half of the estimates are right within a fifth";
    cmp_ok percentile(0.9, @errors), '<', 0.45, "$name: nine of ten nearly";
    cmp_ok percentile(0.9, @alone), '>', 0.45,
        "$name: without those ahead they would not be";
}

is_deeply \@positions, [], 'who waits has a place in the queue';

# three in a hundred: a moment in which this machine stood still is no lie

my $said = map { @{ $_->{said} } } @burst;

cmp_ok scalar @late, '<=', 0.03 * $said, 'nobody was told to sleep past the '
    . 'end by more than a fifth, or a second' or diag join ', ', @late;
cmp_ok scalar @lazy, '>=', 30, 'many had more than four seconds to wait';
cmp_ok percentile(0.5, @lazy), '>', 0.4,
    'and were not sent to ask again and again';

$n->finish;


# ---- several queues: each job by its own

$n = Offload->new(backend => $back, workers => 1,
    zone => 'jobs 16m path=%%ZONE%% concurrency=64', http => <<'EOT')->start;
offload_queue narrow zone=jobs { concurrency 1; limit queued=40; }
offload_queue wide zone=jobs { concurrency 4; }
offload_queue rated zone=jobs { rate 5r/s; }
offload_queue late zone=jobs { delay 60s; }
offload_queue down zone=jobs {
    retry max=20 backoff=90s..90s jitter=none on=503 methods=POST;
}
server {
    listen 127.0.0.1:%%PORT%%;
    location /narrow { offload narrow; proxy_pass http://%%BACKEND%%; }
    location /wide { offload wide; proxy_pass http://%%BACKEND%%; }
    location /rated { offload rated; proxy_pass http://%%BACKEND%%; }
    location /late { offload late; proxy_pass http://%%BACKEND%%; }
    location /down { offload down; proxy_pass http://%%BACKEND%%; }
    location /other { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; offload_heartbeat 200ms; }
}
EOT

my %many = (narrow => 16, wide => 64, rated => 16);
my %ms = (narrow => 200, wide => 200, rated => 20);

sub queued {
    my ($queue, $more) = @_;
    my $r = $n->request(POST => "/$queue?delay=$ms{$queue}" . ($more // ''),
                        body => 'x');

    return { %{ Offload::job($r) // die "not accepted: $r->{status}\n" },
             answer => $r };
}

$n->settled($_) for map { queued($_) } map { ($_) x 4 } sort keys %many;

my %queue = map { $_ => [] } keys %many;

for my $i (1 .. 64) {
    push @{ $queue{$_} }, queued($_)
        for grep { $i * $many{$_} % 64 == 0 } sort keys %many;
}

my %last = map { $_ => $queue{$_}[-1] } keys %many;
my %told = map { $_ => told($n->get($last{$_}{path})) } keys %many;

$n->settled($_) for values %last;
%end = map { $_->{job} => $_->{time} } $back->journal(event => 'done');

for my $name (sort keys %many) {
    my $place = $told{$name}{doc}{queue_position} // 0;
    my $late = $told{$name}{at} - 0.5 - $end{ $last{$name}{id} };

    # those who ran when it was asked for are no more in the queue

    cmp_ok $place, '<=', $many{$name}, "$name: others' jobs are not before it";
    cmp_ok $place, '>', $many{$name} / 3, "$name: its own are";
    cmp_ok abs $late, '<', 2, "$name: when it is done by its own pace"
        or diag "left $told{$name}{left}, late $late, place $place";
    cmp_ok $told{$name}{left}, '>', 1.7, "$name: which takes time";
}

# what starts later ends later

$r = $n->request(POST => '/late', body => 'x');
cmp_ok told($r)->{left}, '>', 59, 'a delayed job is not said to be quick';
cmp_ok told($r)->{retry}, '>=', 60, 'and not to be asked for';
$r = $n->get(Offload::job($r)->{path});
cmp_ok told($r)->{left}, '>', 57, 'nor later';

my @down = $n->submit(POST => '/down?status=503', body => 'x');

ok wait_until(20, sub {
    my $t = told($n->get($down[0]{path})) or return;

    $t->{doc}{attempts} == 1 && $t->{doc}{status} eq 'queued'
        && $t->{left} > 80 }), 'after a failure: the next attempt';

push @down, map { $n->submit(POST => '/down?status=503', body => 'x') } 2 .. 10;

ok wait_until(20, sub { !told($n->get($down[0]{path})) }),
    'ten in a row: who knows when the backend is back';


# nobody knows when a queue that is held goes on

sub untold {
    my ($r, $name) = @_;
    my $doc = eval { decode_json($r->{body}) } // {};

    ok $r->{status} == 202 && $doc->{status} eq 'queued'
        && !exists $doc->{estimated_completion}, $name
        or diag "$r->{status} $r->{body}";
    is $r->{h}{'retry-after'}, 30, "$name: ask in half a minute";
}

my @held = map { queued('narrow', '&gate=held') } 1 .. 3;

ok wait_until(20, sub {
    my $t = told($n->get($held[0]{path}));

    $t && $t->{doc}{status} eq 'running' }), 'one runs';
ok told($n->get($held[2]{path})), 'of those that wait something is known';

my $watch = Events->open($n->port, $held[2]{path}, estimates => 1);

sub event {
    my ($known) = @_;
    my $e;

    do { $e = $watch->next or return } until
        $e->{event} eq 'estimate'
        && $known == exists decode_json($e->{data})->{estimated_completion};

    return 1;
}

ok $watch->next, 'one is watched';

control($n, POST => '/v1/queues/narrow/pause');
ok wait_until(20, sub { !told($n->get($held[2]{path})) }), 'a queue is paused';
untold($n->get($held[2]{path}), 'who waits in it');
untold(queued('narrow')->{answer}, 'who comes');
ok event(0), 'and who watches is told that';
ok told($n->get($held[0]{path})), 'what runs is finished';
ok told($n->request(POST => '/other', body => 'x')), 'another queue goes on';
like $n->get($held[2]{path}, headers => [ Accept => 'text/html' ])->{body},
    qr/<div hidden>\s*<dt>Expected by/, 'the page says nothing of it';

1 while $n->request(POST => '/narrow', body => 'x')->{status} == 202;
$r = $n->request(POST => '/narrow', body => 'x');
is "$r->{status} $r->{h}{'retry-after'}", '429 30',
    'nor when a place will be free';

control($n, POST => '/v1/queues/narrow/resume');
ok wait_until(20, sub { told($n->get($held[2]{path})) }), 'it goes on';
ok event(1), 'and who watches is told when';

control($n, POST => '/v1/zone/drain');
ok wait_until(20, sub { !told($n->get($held[2]{path})) }),
    'nor does anybody when the zone goes on';
untold($n->request(POST => '/wide', body => 'x'), 'in any queue');
control($n, POST => '/v1/zone/resume');
$back->open_gate('held');
is $n->settled($held[2])->{status}, 'completed', 'in the end it is done';

Offload::finish_all();
