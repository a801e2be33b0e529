package Bench::EndToEnd;

# From a client's POST to a settled job: jobs a second with a backend that
# answers at once, against plain proxy_pass to the same backend, everything
# on the same two cores.

use strict;
use warnings;

use Time::HiRes ();

use Bench qw(cpu_ns wait_until);
use Bench::Floor ();
use Bench::Product ();
use Bench::Wrk ();

my $CPUS = '0,1';

sub run {
    my ($b, $table) = @_;

    my $why = $b->unbuilt;
    my $port = $b->{port} + 20;
    my $backend = Bench::Floor::backend($b, $port, cpus => $CPUS);
    my @load = (path => '/work', cpus => $CPUS, env => { BENCH_BODY => 200 });
    my @servers = ('proxy_pass', sub { proxy($b, $backend, @load) });

    push @servers, 'product', sub { product($b, $backend, @load) }
        unless $why;

    my $got = $b->interleave('end to end', @servers);
    $backend->stop;

    if ($why) {
        $table->single(row => 'end to end, proxy_pass', unit => 'req/s',
                       floor => Bench::median(@{ $got->{proxy_pass}{rps} }));
        $table->skip('end to end', $why);
        return;
    }

    $table->pair(row => 'end to end / proxy_pass', unit => 'jobs/s',
                 floor => $got->{proxy_pass}{rps},
                 product => $got->{product}{rps},
                 target => ['>=', 0.35]);
    $table->pair(row => 'end to end / proxy_pass', unit => 'us CPU/job',
                 floor => $got->{proxy_pass}{cpu},
                 product => $got->{product}{cpu});
}

# cpu: of nginx, the backend, and offloadd where there is one.

sub proxy {
    my ($b, $backend, @load) = @_;

    my $nginx = Bench::Floor::proxy($b, $backend->{port}, cpus => $CPUS);
    my @pids = ($nginx->pids, $backend->pids);
    my $before = cpu_ns(@pids);
    my $r = Bench::Wrk::load($b, $nginx, @load);

    $r->{cpu} = (cpu_ns(@pids) - $before) / 1000 / $r->{requests};

    $nginx->stop;

    die "wrk met $r->{bad} errors\n" if $r->{bad};

    return $r;
}

# Jobs settled over the time from the first POST until the last is settled.
# The backend's own count says whether it saw them all.

sub product {
    my ($b, $backend, @load) = @_;

    my $product = Bench::Product->start($b, zone => '64m lanes=2',
                                        worker => 1, to => $backend->{port},
                                        cpus => $CPUS);
    my @pids = ($product->pids, $backend->pids);
    my $before = cpu_ns(@pids);
    my $seen = requests($backend);
    my $start = Time::HiRes::time();

    Bench::Wrk::load($b, $product->{nginx}, @load);

    my $f = wait_until(120, 'all jobs settle', sub {
        my $f = $product->drained;
        return $f && $f->{settled} == $f->{accepted} && $f;
    });

    my $seconds = Time::HiRes::time() - $start;
    my $cpu = cpu_ns(@pids) - $before;

    $seen = requests($backend) - $seen;
    $product->stop;

    die "$f->{settled} jobs settled, but the backend saw $seen requests\n"
        if $seen < $f->{settled};

    return {
        rps => $f->{settled} / $seconds,
        cpu => $cpu / 1000 / $f->{settled},
    };
}

sub requests {
    my ($backend) = @_;

    my ($n) = $backend->get('/requests')->{body} =~ /^ \d+ \d+ (\d+)/m;

    return $n;
}

1;
