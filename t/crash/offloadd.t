# offloadd dies at each place where it can: between two stores to shared
# memory, before and after a commit, between a file's write and its rename.
# Twice at each: with one job, so that what becomes of it is known exactly,
# and with many in one batch.  The next offloadd must do what is left, each
# attempt counted, nothing lost, nothing run that was refused.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;

my %n;


# Jobs that a first offloadd, killed, leaves running.

sub left_running {
    my ($n, $count) = @_;
    my $pid = Crash::offloadd($n);
    my @jobs = map { Crash::send_job($n, 'running') } 1 .. $count;

    Crash::answer($_) for @jobs;
    Offload::wait_until(20, sub {
        @jobs == grep { Crash::sightings($_) } @jobs });
    kill 'KILL', $pid;
    waitpid $pid, 0;

    return @jobs;
}


sub one {
    my ($n, $row) = @_;
    my $probe = $row->{probe};
    my @jobs = $probe eq 'running' ? left_running($n, 1) : ();
    my $pid = Crash::offloadd($n, $row->{place});

    push @jobs, $probe eq 'cancel' ? Crash::send_cancel($n)
                                   : Crash::send_job($n, $probe) if !@jobs;

    Crash::died($pid, $row->{place});

    my @later = $probe eq 'expire' ? ()
                : map { Crash::send_job($n, $_) } qw(small spool);

    Crash::backend()->open_gate($_->{gate}) for @jobs;
    $pid = Crash::offloadd($n);
    Crash::verdict("its job: client $row->{client}, $row->{job}, "
                   . "attempts $row->{attempts}", $row, @jobs);
    Crash::afterwards(@later);

    return $pid;
}


# The same with a batch: attempts that were begun are counted, no more.

sub many {
    my ($n, $row) = @_;
    my $before = $n->figures->{accepted};
    my @jobs = $row->{probe} eq 'running'
               ? left_running($n, 4)
               : map { Crash::send_job($n, $_) }
                 qw(small blob spool cut small small);

    # all of them are in the ring when it starts
    Offload::wait_until(20, sub {
        $n->figures->{accepted} == $before + @jobs });

    my $pid = Crash::offloadd($n, $row->{place});

    Crash::died($pid, $row->{place});
    Crash::backend()->open_gate($_->{gate}) for @jobs;
    $pid = Crash::offloadd($n);

    for my $cut (0, 1) {
        Crash::verdict('a batch of them' . ($cut ? ', cut off' : ''),
                       { client => 202, job => 'completed',
                         attempts => $cut ? '2-3' : '1-2' },
                       grep { $_->{cut} == $cut } @jobs);
    }

    return $pid;
}


for my $mode ('memory') {
    my $n = Crash::nginx($mode, zone => 'ttl=1h')->start;
    my $soon = Crash::nginx($mode, zone => 'ttl=1s')->start;

    Crash::run('offloadd', $mode, sub {
        my ($row) = @_;
        my $n = $row->{probe} eq 'expire' ? $soon : $n;

        for my $with ($row->{probe} =~ /^(?:cancel|expire)$/ ? \&one
                                                             : (\&one, \&many))
        {
            my $pid = $with->($n, $row);

            Crash::sound($n);
            Crash::stop($pid);
        }
    });

    $n{$mode} = [ $n, $soon ];
}

Crash::finish(map { @$_ } values %n);
