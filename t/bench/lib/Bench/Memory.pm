package Bench::Memory;

# What 100,000 queued jobs of 1 KB take: the private memory of nginx and
# offloadd, and the blocks of the files they keep, which are the zone and the
# store.  Mapped shared files count as files, not as memory: once.

use strict;
use warnings;

use File::Find ();

use Bench qw(slurp wait_until);
use Bench::Floor ();
use Bench::Product ();
use Bench::Wrk ();

my $JOBS = 100_000;
my $LIMIT = 2500;

sub run {
    my ($b, $table) = @_;

    if (my $why = $b->unbuilt) {
        $table->skip('memory', $why);
        return;
    }

    my $port = $b->{port} + 22;
    my $silent = Bench::Floor::silent($port);
    my $product = Bench::Product->start($b, worker => 1, to => $port,
                                        zone => '16m lanes=2 concurrency=1');

    print STDERR "memory: $JOBS jobs\n";

    my $before = usage($product);
    my $n = fill($b, $product);
    my $after = usage($product);

    $product->stop;
    close $silent;

    my %grown = map { $_ => $after->{$_} - $before->{$_} } keys %$after;

    $table->single(row => 'memory a job, growth', unit => 'B',
                   product => $grown{all} / $n, target => ['<', $LIMIT]);
    $table->single(row => '  of it files', unit => 'B',
                   product => $grown{files} / $n);
    $table->single(row => '  of it nginx and offloadd', unit => 'B',
                   product => $grown{processes} / $n);
    $table->single(row => 'memory a job, everything / jobs', unit => 'B',
                   product => $after->{all} / $n, target => ['<', $LIMIT]);
}

# Posts until so many are accepted, whatever is refused meanwhile; returns how
# many are held, all of them in the store.

sub fill {
    my ($b, $product) = @_;

    while ((my $left = $JOBS - $product->figures->{accepted}) > 0) {
        Bench::Wrk::run($b, port => $b->{port}, path => '/work',
                        connections => 4, seconds => 5,
                        env => { BENCH_BODY => 1024, BENCH_STOP => $left });
    }

    my $f = wait_until(60, 'all jobs are in the store',
                       sub { $product->drained });

    die "$f->{settled} jobs settled, with a backend that is silent\n"
        if $f->{settled};

    return $f->{accepted};
}

sub usage {
    my ($product) = @_;

    my %bytes = (files => 0, processes => 0);

    # PSS without the shared mappings: those are the files

    for my $pid ($product->pids) {
        my $map = slurp("/proc/$pid/smaps_rollup");

        $bytes{processes} += $_ * 1024
            for $map =~ /^Pss_(?:Anon|File):\s+(\d+) kB/mg;
    }

    File::Find::find(sub {
        my @st = lstat $_;
        $bytes{files} += $st[12] * 512 if @st;
    }, $product->{zone});

    $bytes{all} = $bytes{files} + $bytes{processes};

    return \%bytes;
}

1;
