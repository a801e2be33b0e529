package Bench::Latency;

# The time from a 202 to the backend seeing the request, at low load: one
# client, one job at a time, everything asleep between two.

use strict;
use warnings;

use Bench qw(percentile run_quiet);
use Bench::Build ();
use Bench::Product ();

my $PAUSE_MS = 10;

sub run {
    my ($b, $table) = @_;

    my $latency = Bench::Build::helper($b, 'latency');

    if (my $why = $b->unbuilt) {
        $table->skip('202 to backend', $why);
        return;
    }

    my $port = $b->{port} + 21;
    my $jobs = 100 * $b->{rounds} * $b->{seconds};
    my $product = Bench::Product->start($b, zone => '16m lanes=2',
                                        worker => 1, to => $port,
                                        cpus => '0,1');

    print STDERR "latency: $jobs jobs\n";

    my @us = split ' ', run_quiet("$b->{tmp}/latency.log", 'taskset', '-c',
                                  '0,1', $latency, $b->{port}, '/work',
                                  $port, $jobs, $PAUSE_MS);

    $product->stop;

    $table->single(row => '202 to backend, median', unit => 'us',
                   product => percentile(0.5, @us), target => ['<', 1000]);
    $table->single(row => '202 to backend, p99', unit => 'us',
                   product => percentile(0.99, @us));
}

1;
