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
    my $before = $n->figures->{accepted};

    Crash::present($n);

    my @jobs = map { Crash::send_job($n, $_, at => '/while') }
               $row->{probe}, 'spool';

    # both are there when it comes: it takes them together
    Offload::wait_until(20, sub { $n->figures->{accepted} == $before + 2 });

    my $pid = $n->by_hand($recovers ? $WORST : "$WORST:1s,$row->{place}");

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
