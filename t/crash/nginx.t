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


for my $mode ('memory') {
    my $n = Crash::nginx($mode)->start;
    my $pid = Crash::offloadd($n);

    push @nginx, $n;

    Crash::run('nginx', $mode, sub {
        my ($row) = @_;

        $n->write_conf(main => "env OFFLOAD_FAILPOINT=$row->{place};");
        ok $n->reload, 'workers that will die there';

        my ($worker) = $n->workers;
        my ($victim, @before) = $row->{probe} eq 'cancel'
                                ? Crash::send_cancel($n)
                                : until_broken($n, $row->{probe});

        ok Offload::wait_until(20, sub {
            !Offload::alive($worker) && $n->workers }),
            'one dies, and has a successor';

        $n->write_conf(main => '');
        ok $n->reload, 'others take over';

        my @later = map { Crash::send_job($n, $_) } qw(small spool);

        Crash::verdict("its job: client $row->{client}, $row->{job}, "
                       . "attempts $row->{attempts}", $row, $victim);
        Crash::afterwards(@before, @later);
        Crash::sound($n);
    });

    Crash::stop($pid);
}

Crash::finish(@nginx);
