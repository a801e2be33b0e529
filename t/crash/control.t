# offloadd dies while it writes down that the zone is paused.  Who asked gets
# no answer, and may ask the next one: before the commit nothing was done,
# after it all of it, and a job that waits is begun in the one case only.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Control;
use Crash;
use Test::More;

for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode)->start;

    Crash::run('control', $mode, sub {
        my ($row) = @_;
        my $pid = $n->by_hand($row->{place});

        is $n->offloadd, $pid, 'offloadd is there';

        my (undef, $r) = control($n, POST => '/v1/zone/pause');

        Crash::died($pid, $row->{place});
        ok $r->{error}, 'who asked has no answer';

        $pid = $n->by_hand;
        is $n->offloadd, $pid, 'the next one is there';
        is control($n, GET => '/v1/zone')->{state}, $row->{job}, $row->{job};

        my $job = Crash::send_job($n, $row->{probe});

        Crash::answer($job);

        if ($row->{job} eq 'paused') {
            ok Offload::wait_until(20, sub {
                control($n, GET => '/v1/zone')->{waiting} == 1 }),
                'a job waits';
            is scalar(Crash::sightings($job)), 0, 'and is not begun';
            control($n, POST => '/v1/zone/resume');
        }

        is $n->settled($job)->{status}, 'completed', 'a job is done';
        Crash::stop($pid);
    });

    $n->finish;
}

Offload::finish_all();
