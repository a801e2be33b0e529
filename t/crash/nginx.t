# A worker process of nginx dies while it accepts: before the record is
# published there is no job, afterwards there is one, whatever the client saw
# of it; and never half of one.  What was accepted before must not notice.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;

my @nginx;


# Requests one after the other until one breaks: (that one, those before it).

sub until_broken {
    my ($n, $probe) = @_;
    my @jobs;

    for (1 .. 30) {
        my $job = Crash::send_job($n, $probe);

        return $job, @jobs if Crash::answer($job) eq 'broken';
        push @jobs, $job;
    }

    return undef, @jobs;
}


# One that is withdrawn, since offloadd does nothing meanwhile.

sub while_stopped {
    my ($n, $pid, $probe) = @_;

    Offload::freeze($pid);

    my $job = Crash::send_job($n, $probe, at => '/soon');

    Crash::answer($job);
    kill 'CONT', $pid;

    return $job;
}


# One that is withdrawn while offloadd has it in its hands.

sub while_taken {
    my ($n, $pid, $probe) = @_;

    Crash::stop($$pid);
    $$pid = $n->by_hand('claim.commit.before:1s');

    my $job = Crash::send_job($n, $probe, at => '/soon');

    Crash::answer($job);
    kill 'CONT', $$pid;

    return $job;
}


sub victim {
    my ($n, $pid, $probe) = @_;

    return while_taken($n, $pid, $probe) if $probe eq 'taken';

    return $probe eq 'cancel' ? Crash::send_cancel($n)
           : $probe eq 'stopped' ? while_stopped($n, $$pid, $probe)
           : until_broken($n, $probe);
}


for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode)->start;
    my $pid = $n->by_hand;

    push @nginx, $n;

    Crash::run('nginx', $mode, sub {
        my ($row) = @_;

        $n->write_conf(main => "env OFFLOAD_FAILPOINT=$row->{place};");
        ok $n->reload, 'workers that will die there';

        my ($worker) = $n->workers;
        my ($victim, @before) = victim($n, \$pid, $row->{probe});

        ok Offload::wait_until(20, sub {
            !Offload::alive($worker) && $n->workers }),
            'one dies, and has a successor';

        $n->write_conf(main => '');
        ok $n->reload, 'others take over';

        my @later = map { Crash::send_job($n, $_) } qw(small spool);

        Crash::verdict("its job: client $row->{client}, $row->{job}, "
                       . "attempts $row->{attempts}", $row, $victim);
        Crash::verdict('those before it may have lost an attempt with it',
            { client => 202, job => 'completed', attempts => '1-2' },
            @before);
        Crash::afterwards(@later);
        Crash::sound($n);
    });

    Crash::stop($pid);
}

Crash::finish(@nginx);
