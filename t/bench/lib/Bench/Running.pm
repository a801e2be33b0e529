package Bench::Running;

# Ten thousand slow jobs that one offloadd has running at the same time: the
# backend holds all its answers until it has all requests.  What each takes
# while it waits to be begun and while it runs, in offloadd and in nginx; CPU
# time while nothing happens; and how fast they are begun and ended.
#
# A running job is two connections in nginx, so that one process of it may
# not have descriptors enough: there are three.

use strict;
use warnings;

use IPC::Open2 ();
use Time::HiRes qw(sleep time);

use Bench qw(cpu_ns slurp wait_until);
use Bench::Build ();
use Bench::Product ();
use Bench::Wrk ();

my $JOBS = 10_000;
my $WORKERS = 3;
my $SPARE = 1000;
my $IDLE = 10;

sub run {
    my ($b, $table) = @_;

    if (my $why = $b->unbuilt) {
        $table->skip('running', $why);
        return;
    }

    my ($files, $n) = raise();

    if ($n < 1000) {
        $table->skip('running', "no descriptors for more than $n jobs");
        return;
    }

    print STDERR "running: $n jobs\n";

    my $port = $b->{port} + 22;
    my $backend = hold($b, $port, $n);
    my $product = Bench::Product->start($b, worker => 1, to => $port,
        workers => $WORKERS, connections => $files,
        zone => "64m lanes=8 concurrency=$JOBS");
    my $g = eval { measure($b, $product, $backend, $n) };
    my $error = $@;

    $product->stop;
    close $_ for @$backend{qw(in out)};
    waitpid $backend->{pid}, 0;
    die $error if $error;

    my $less = $n < $JOBS ? ", $files files" : '';

    $table->single(row => "running at the same time$less", unit => 'jobs',
                   product => $g->{running});
    $table->single(row => '  to begin them', unit => 'ms',
                   product => $g->{begin});
    $table->single(row => '  to end them, results stored', unit => 'ms',
                   product => $g->{end});
    $table->single(row => 'memory of a queued job, offloadd', unit => 'B',
                   product => $g->{queued}{worker} / $n);
    $table->single(row => 'memory of a running job, offloadd', unit => 'B',
                   product => $g->{held}{worker} / $n);
    $table->single(row => '  nginx, all processes', unit => 'B',
                   product => $g->{held}{nginx} / $n);
    $table->single(row => "  CPU in $IDLE s, offloadd", unit => 'ms',
                   product => $g->{cpu}{worker});
    $table->single(row => "  CPU in $IDLE s, nginx", unit => 'ms',
                   product => $g->{cpu}{nginx});
}

# As many descriptors as we may have, and how many jobs that makes.

sub raise {
    my ($limit) = `prlimit --pid $$ --nofile --output HARD --noheadings`
                  =~ /(\d+)/ or return (0, 0);

    system("prlimit --pid $$ --nofile=$limit:$limit") == 0 or return (0, 0);

    # of nginx's processes one may get more than its part
    my $n = int(($limit * $WORKERS * 3 / 4 - $SPARE) / 2);

    $n = $limit - $SPARE if $n > $limit - $SPARE;
    $n = $JOBS if $n > $JOBS;
    $limit = 3 * $JOBS if $limit > 3 * $JOBS;

    return ($limit, $n);
}

sub hold {
    my ($b, $port, $n) = @_;

    my $program = Bench::Build::helper($b, 'hold');
    my $self = {};

    $self->{pid} = IPC::Open2::open2($self->{out}, $self->{in}, $program,
                                     $port, $n);
    said($self, 10, 'ready');

    return $self;
}

sub said {
    my ($backend, $seconds, $what) = @_;

    local $SIG{ALRM} = sub { die "the backend does not say $what\n" };

    alarm $seconds;
    my $line = readline($backend->{out}) // '';
    alarm 0;

    die "the backend said $line, not $what\n" if $line ne "$what\n";
}

sub measure {
    my ($b, $product, $backend, $n) = @_;

    my %pids = (worker => [ $product->worker_pid ],
                nginx => [ $product->{nginx}->pids ]);
    my $empty = memory(\%pids);
    my %got;

    $product->control('POST /v1/zone/pause');

    while ((my $left = $n - $product->figures->{accepted}) > 0) {
        Bench::Wrk::run($b, port => $b->{port}, path => '/work',
                        connections => 4, seconds => 5,
                        env => { BENCH_BODY => 1024, BENCH_STOP => $left });
    }

    wait_until(60, 'all jobs are in the store', sub { $product->drained });
    $got{queued} = grown($empty, memory(\%pids));

    my $begun = time;

    $product->control('POST /v1/zone/resume');
    said($backend, 120, 'held');
    $got{begin} = 1000 * (time - $begun);
    $got{running} = wait_until(10, 'all are running', sub {
        my $f = $product->figures;
        $f->{running} >= $n && $f->{running} });
    $got{held} = grown($empty, memory(\%pids));

    my $cpu = cpu(\%pids);

    sleep $IDLE;
    $got{cpu} = grown($cpu, cpu(\%pids));

    my $told = time;

    syswrite $backend->{in}, 'x';
    wait_until(120, 'all are settled', sub {
        $product->figures->{settled} >= $n });
    $got{end} = 1000 * (time - $told);

    return \%got;
}

# The private memory of processes, by whose they are; and their CPU time.

sub memory {
    my ($pids) = @_;

    return each_of($pids, sub {
        1024 * (slurp("/proc/$_[0]/smaps_rollup")
                =~ /^Pss_Anon:\s+(\d+) kB/m)[0] });
}

sub cpu {
    my ($pids) = @_;

    return each_of($pids, sub { cpu_ns($_[0]) / 1e6 });
}

sub each_of {
    my ($pids, $what) = @_;
    my %sum;

    for my $whose (keys %$pids) {
        $sum{$whose} += $what->($_) for @{ $pids->{$whose} };
    }

    return \%sum;
}

sub grown {
    my ($from, $to) = @_;

    return { map { $_ => $to->{$_} - $from->{$_} } keys %$to };
}

1;
