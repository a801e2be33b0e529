# offloadd dies at each place where it can: between two stores to shared
# memory, before and after a commit, between a file's write and its rename.
# At each with one job, so that what becomes of it is known exactly, be it for
# delivery at least or at most once; and with many in one batch.  The next
# offloadd must do what is left, each attempt counted, nothing lost, nothing
# run that was refused.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;

my $TTL = 1;
my %n;


# Jobs that a first offloadd, killed, leaves running.

sub left_running {
    my ($n, $count, %o) = @_;
    my $pid = $n->by_hand;

    $n->offloadd;

    my @jobs = map { Crash::send_job($n, 'running', %o) } 1 .. $count;

    Crash::answer($_) for @jobs;
    Offload::wait_until(20, sub {
        @jobs == grep { Crash::sightings($_) } @jobs });
    kill 'KILL', $pid;
    waitpid $pid, 0;

    return @jobs;
}


# One whose time is over when the next offloadd comes.

sub left_to_expire {
    my ($n) = @_;
    my $pid = $n->by_hand;

    $n->offloadd;

    my $job = Crash::send_job($n, 'small');

    Crash::answer($job);

    $n->settled($job);

    my $end = time + 1 + $TTL;

    Crash::stop($pid);
    Offload::wait_until(2 + $TTL, sub { time > $end });

    return $job;
}


# Dies with this job, and with nothing else.

sub alone {
    my ($n, $row, $want, %o) = @_;
    my $probe = $row->{probe};
    my @jobs = $probe eq 'running' ? left_running($n, 1, %o)
               : $probe eq 'expire' ? left_to_expire($n) : ();
    my $pid = $n->by_hand($row->{place});

    push @jobs, $probe eq 'cancel' ? Crash::send_cancel($n)
                                   : Crash::send_job($n, $probe, %o) if !@jobs;

    Crash::died($pid, $row->{place});

    my @later = $probe eq 'expire' ? ()
                : map { Crash::send_job($n, $_) } qw(small spool);

    Crash::backend()->open_gate($_->{gate}) for @jobs;
    $pid = $n->by_hand;
    Crash::verdict("its job: client $want->{client}, $want->{job}, "
                   . "attempts $want->{attempts}", $want, @jobs);
    Crash::afterwards(@later);

    return $pid;
}


sub one { my ($n, $row) = @_; alone($n, $row, $row) }


sub once {
    my ($n, $row) = @_;

    return alone($n, $row, Crash::at_most_once($row), at => '/once');
}


# On disk, nobody takes its place before the client has its answer.

sub late {
    my ($n, $row) = @_;
    my $pid = $n->by_hand($row->{place});
    my $job = Crash::send_job($n, $row->{probe}, at => '/soon');
    my $gone = $row->{late} eq 'gone';
    my $client = $gone ? 'broken' : $row->{late};

    Crash::died($pid, $row->{place});
    is Crash::answer($job), $client, "who does not wait: $client";

    my $later = Crash::send_job($n, 'small');

    $pid = $n->by_hand;
    Crash::verdict($gone ? 'and its job is not run' : 'and its job is done',
                   { %$row, client => $client,
                     $gone ? (job => 'absent') : () }, $job);
    Crash::afterwards($later);

    return $pid;
}


# With a batch: attempts that were begun are counted, no more.

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

    my $pid = $n->by_hand($row->{place});

    Crash::died($pid, $row->{place});
    Crash::backend()->open_gate($_->{gate}) for @jobs;
    $pid = $n->by_hand;

    for my $cut (0, 1) {
        Crash::verdict('a batch of them' . ($cut ? ', cut off' : ''),
                       { client => 202, job => 'completed',
                         attempts => $cut ? '2-3' : '1-2' },
                       grep { $_->{cut} == $cut } @jobs);
    }

    return $pid;
}


for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode, zone => 'ttl=1h')->start;
    my $soon = Crash::nginx($mode, zone => "ttl=${TTL}s")->start;

    Crash::run('offloadd', $mode, sub {
        my ($row) = @_;
        my $n = $row->{probe} eq 'expire' ? $soon : $n;

        my @ways = \&one;

        push @ways, \&many if $row->{probe} !~ /^(?:cancel|expire)$/;
        push @ways, \&once if $row->{probe} !~ /^(?:cancel|expire|cut)$/;
        push @ways, \&late if $mode eq 'disk' && $row->{late} ne '-';

        for my $with (@ways) {
            Crash::present($n);

            my $pid = $with->($n, $row);

            Crash::sound($n);
            Crash::stop($pid);
        }
    });

    $n{$mode} = [ $n, $soon ];
}

Crash::finish(map { @$_ } values %n);
