package Bench::Wrk;

# wrk, run for a while, and its figures as numbers.

use strict;
use warnings;

use Bench qw(cpu_ns run_quiet);

# cpus: where it may run; env: what load.lua reads.
# Returns requests, seconds, rps, bad: answers of 400 and over, and
# connections that broke; p50 and p99 of the answers' times in milliseconds.

sub run {
    my ($b, %opt) = @_;

    my @cmd = ('wrk', '-t', 1, '-c', $opt{connections} || 64,
               '-d', ($opt{seconds} || $b->{seconds}) . 's',
               '-s', "$b->{here}/load.lua",
               "http://127.0.0.1:$opt{port}$opt{path}");

    unshift @cmd, 'taskset', '-c', $opt{cpus} if defined $opt{cpus};

    local %ENV = (%ENV, %{ $opt{env} || {} });

    return figures('wrk', run_quiet("$b->{tmp}/wrk.log", @cmd));
}

# What load.lua prints at the end, and other loads of the benchmark's own.

sub figures {
    my ($name, $out) = @_;

    my ($requests, $us, $status, $broken, $p50, $p99) =
        $out =~ /^BENCH (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$/m
        or die "$name said nothing of use:\n$out";

    return {
        requests => $requests,
        seconds  => $us / 1e6,
        rps      => $requests / ($us / 1e6),
        bad      => $status + $broken,
        p50      => $p50 / 1000,
        p99      => $p99 / 1000,
    };
}

# The same against a Bench::Nginx, with the CPU time of its worker for one
# request, in microseconds.

sub load {
    my ($b, $nginx, %opt) = @_;

    my $before = cpu_ns($nginx->{worker});
    my $r = run($b, port => $nginx->{port}, %opt);

    $r->{cpu} = (cpu_ns($nginx->{worker}) - $before) / 1000
                / ($r->{requests} || 1);

    return $r;
}

1;
