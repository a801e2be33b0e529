# The lane of a dead worker process is put right by the next one: which may
# die at that, as may its successors.  The lane it finds has all there is to
# repair: jobs that offloadd has not read yet, and one that was not published.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;

my $JOBS = 3;
my @nginx;


# nginx as it is after the loss of power, but for the zone: nobody has had
# the time to start a process in place of another.

sub kill_all {
    my ($n) = @_;
    my $master = $n->master;

    Offload::freeze($master);     # it shall not start another
    kill 'KILL', $n->children('.', $master);
    kill 'KILL', $master;

    return Offload::wait_until(20, sub {
        !Offload::alive($master) && !grep { Offload::alive($_) }
                                     $n->children('.', $master) });
}


for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode);

    push @nginx, $n;

    Crash::run('repair', $mode, sub {
        my ($row) = @_;
        my $at = $JOBS + 1;

        $n->write_conf(main => "env OFFLOAD_FAILPOINT=slot.fill.done:$at;");
        $n->start;

        my $worker;

        Offload::wait_until(20, sub { ($worker) = $n->workers });
        kill 'STOP', $n->master;

        my @jobs = map { Crash::send_job($n, 'small') } 1 .. $JOBS;

        Offload::wait_until(20, sub {
            $n->figures->{accepted} - ($n->{accepted} // 0) == $JOBS });

        my $victim = Crash::send_job($n, $row->{probe});

        ok Offload::wait_until(20, sub { !Offload::alive($worker) }),
            'a worker dies with something to repair';
        ok kill_all($n), 'and all of nginx';

        my $deaths = sub { () = $n->log =~ /exited on signal 9/g };
        my $before = $deaths->();

        $n->write_conf(main => "env OFFLOAD_FAILPOINT=$row->{place};");
        $n->start;
        ok Offload::wait_until(20, sub { $deaths->() > $before }),
            'the next dies at repairing';
        ok kill_all($n), 'and all of nginx';

        $n->write_conf(main => '');
        $n->start;

        my $pid = $n->by_hand;
        my @later = map { Crash::send_job($n, $_) } qw(small spool);

        Crash::verdict("its job: client $row->{client}, $row->{job}", $row,
                       $victim);
        Crash::verdict('those in the ring are done',
            { client => '202|broken', job => 'completed', attempts => 1 },
            @jobs);
        Crash::afterwards(@later);
        Crash::sound($n);
        ok Offload::wait_until(20, sub { !$n->figures->{slots} }),
            'no slot is lost';
        Crash::stop($pid);
        $n->{accepted} = $n->figures->{accepted};
        $n->stop;
    });

    $n->start;
}

Crash::finish(@nginx);
