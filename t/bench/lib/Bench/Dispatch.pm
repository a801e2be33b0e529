package Bench::Dispatch;

# Whose turn it is, by the scheduler alone: 100,000 jobs in one fair key, and
# in 1,000.  Many keys must cost no more than a little; what a queued job takes
# in offloadd's memory is a figure of the same run.

use strict;
use warnings;

use Bench qw(median run_quiet);
use Bench::Build ();

my $JOBS = 100_000;

sub run {
    my ($b, $table) = @_;

    my $program = Bench::Build::helper($b, 'dispatch',
        map { "$b->{root}/src/worker/offloadd_$_.c" }
            qw(jobs fair rate adapt head queue queues));
    my $got = $b->interleave('dispatch',
        map { my $keys = $_; $keys => sub { once($b, $program, $keys) } }
            1, 1000);

    $table->single(row => "a turn, $JOBS jobs, 1 key", unit => 'ns',
                   product => median(@{ $got->{1}{turn_ns} }));
    $table->single(row => '  the same in 1,000 keys', unit => 'ns',
                   product => median(@{ $got->{1000}{turn_ns} }),
                   target => ['<', 2000]);
    $table->single(row => "  putting one in, 1,000 keys", unit => 'ns',
                   product => median(@{ $got->{1000}{queue_ns} }));
    $table->single(row => 'memory of a queued job, 1,000 keys', unit => 'B',
                   product => median(@{ $got->{1000}{bytes} }),
                   target => ['<', 100]);
}

sub once {
    my ($b, $program, $keys) = @_;

    my $out = run_quiet("$b->{tmp}/dispatch.log", $program, $JOBS, $keys);

    return { $out =~ /(\w+)=([\d.]+)/g };
}

1;
