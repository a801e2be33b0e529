# The master dies while it makes the zone's file anew, its jobs being in the
# store: whatever it leaves is no hindrance to the next start, and the jobs
# are found and done.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;

my @nginx;

for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode);
    my $file = "$n->{zone_dir}/zone.v1";

    push @nginx, $n;

    Crash::run('master', $mode, sub {
        my ($row) = @_;

        $n->start;

        # running when offloadd is stopped, and so waiting in the store
        my $pid = $n->by_hand;
        my $job = Crash::send_job($n, 'running');

        Crash::answer($job);
        Offload::wait_until(20, sub { Crash::sightings($job) });
        Crash::stop($pid);
        $n->stop;
        unlink $file;

        {
            local $ENV{OFFLOAD_FAILPOINT} = $row->{place};

            my ($code) = $n->run;

            is $code, 9, 'the master dies there';
        }

        $n->start;
        is_deeply [ grep { /\.(?:new|tmp)|zone\.v1./ }
                    glob "$n->{zone_dir}/*" ], [], 'nothing is left behind';

        $pid = $n->by_hand;
        Crash::backend()->open_gate($job->{gate});

        my $later = Crash::send_job($n, 'small');

        Crash::verdict("its job: $row->{job}, attempts $row->{attempts}",
                       $row, $job);
        Crash::afterwards($later);
        Crash::sound($n);
        Crash::stop($pid);
        $n->stop;
    });

    $n->start;
}

Crash::finish(@nginx);
