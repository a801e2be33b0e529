# nginx gives up on a job that offloadd has committed, a moment before that
# is promised: the client is told 503, and so the job leaves the store again.
# offloadd dies at that, or at finding out afterwards that it is so.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;

my $n = Crash::nginx('disk')->start;
my $WORST = 'claim.commit.before';


Crash::run('withdrawn', 'disk', sub {
    my ($row) = @_;
    my $recovers = $row->{place} !~ /^claim\.remove/;
    my $pid = $recovers ? $n->by_hand($WORST)
              : $n->by_hand("$WORST:1s,$row->{place}");
    my @jobs = map { Crash::send_job($n, $_, at => '/soon') }
               $row->{probe}, 'spool';

    Crash::died($pid, $WORST) if $recovers;
    Crash::answer($_) for @jobs;

    if ($recovers) {
        $pid = $n->by_hand($row->{place});
    } else {
        kill 'CONT', $pid;
    }

    Crash::died($pid, $row->{place});

    my $later = Crash::send_job($n, 'small');

    $pid = $n->by_hand;
    Crash::verdict("its job: client $row->{client}, $row->{job}", $row, @jobs);
    Crash::afterwards($later);
    ok Offload::wait_until(20, sub { !$n->figures->{slots} }),
        'no slot is lost';
    is_deeply [ grep { /\w{26}$/ } glob "$n->{prefix}/store/spool/*" ], [],
        'no body is left over';
    Crash::sound($n);
    Crash::stop($pid);
});

Crash::finish($n);
