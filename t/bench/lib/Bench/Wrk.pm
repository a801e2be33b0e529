package Bench::Wrk;

# wrk, run for a while, and its figures as numbers.

use strict;
use warnings;

use Bench qw(cpu_ns run_quiet);

# cpus: where it may run; env: what load.lua reads.
# Returns requests, seconds, rps and bad: answers of 400 and over, and
# connections that broke.

sub run {
    my ($b, %opt) = @_;

    my @cmd = ('wrk', '-t', 1, '-c', $opt{connections} || 64,
               '-d', ($opt{seconds} || $b->{seconds}) . 's',
               '-s', "$b->{here}/load.lua",
               "http://127.0.0.1:$opt{port}$opt{path}");

    unshift @cmd, 'taskset', '-c', $opt{cpus} if defined $opt{cpus};

    local %ENV = (%ENV, %{ $opt{env} || {} });

    my $out = run_quiet("$b->{tmp}/wrk.log", @cmd);
    my ($requests, $us, $status, $broken) =
        $out =~ /^BENCH (\d+) (\d+) (\d+) (\d+)$/m
        or die "wrk said nothing of use:\n$out";

    return {
        requests => $requests,
        seconds  => $us / 1e6,
        rps      => $requests / ($us / 1e6),
        bad      => $status + $broken,
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
