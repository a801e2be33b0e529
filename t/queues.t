# What a queue promises is somebody else's limit: how many at a time a backend
# bears, how many a minute an API allows.  A limit that is held until offloadd
# dies is not held.  So the backend counts, while offloadd is killed and
# started again at once, over and over.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;
use Time::HiRes qw(time sleep);
use Util qw(read_file wait_until write_file);

my $back = Backend->start;

# one nginx worker: what it was told first it does first
my $n = Offload->new(backend => $back, worker => 'off', workers => 1)->start;
my $pid;


# The zone's policy with these queues, as nginx would have written it.

sub policy {
    my (@queues) = @_;
    my $file = "$n->{zone_dir}/policy.json";

    wait_until(10, sub { -e $file });

    my $policy = $n->policy;
    my ($uid, $gid) = (stat $file)[4, 5];

    write_file("$file.test", encode_json({ %$policy, queues => \@queues }));
    chown $uid, $gid, "$file.test";
    rename "$file.test", $file or die "$file: $!\n";
}


sub worker { $pid = $n->by_hand }


sub kill_worker {
    my ($signal) = @_;

    kill $signal // 'KILL', $pid;
    waitpid $pid, 0;
}


sub post {
    my ($count, $path) = @_;

    return map { $n->submit(POST => "$path&n=$_", body => 'x') } 1 .. $count;
}


sub requests {
    my ($part) = @_;

    return grep { $_->{uri} =~ /\Q$part\E/ } $back->journal(event => 'request');
}


# The most that were at the backend at one time.

sub most {
    my ($part) = @_;
    my ($now, $most) = (0, 0);

    for (grep { $_->{uri} =~ /\Q$part\E/ } $back->journal) {
        $now += $_->{event} eq 'request' ? 1 : -1;
        $most = $now if $now > $most;
    }

    return $most;
}


sub all_completed {
    my ($name, @jobs) = @_;
    my @docs = map { $n->settled($_, deadline => 60) } @jobs;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is scalar(grep { ($_->{status} // '') eq 'completed' } @docs),
       scalar(@jobs), $name;

    return @docs;
}


sub log_has {
    my ($what) = @_;

    return wait_until(20, sub {
        (eval { read_file($n->policy->{log}) } // '') =~ $what });
}


# concurrency, over kills: never more, and as many

{
    policy({ name => 'jobs', concurrency => 3 });

    my @jobs = post(40, '/many?delay=60');

    worker();

    for my $done (4, 11, 18, 25) {
        $back->wait_for($done, event => 'done') or last;
        kill_worker();
        worker();
    }

    my @docs = all_completed('40 jobs, 4 kills, all done', @jobs);

    ok +(grep { $_->{attempts} > 1 } @docs) >= 4, 'some were running then';
    is most('/many'), 3, 'there were 3 at a time, and never more';
}


# a new policy counts at once

{
    my @jobs = post(6, '/gate?gate=six');

    ok wait_until(20, sub { requests('/gate') == 3 }), '3 of 6 are running';

    policy({ name => 'jobs', concurrency => 5 });
    kill 'HUP', $pid;
    ok wait_until(20, sub { requests('/gate') == 5 }), 'with 5 it is 5';

    policy({ name => 'jobs', concurrency => -5 });
    kill 'HUP', $pid;
    ok log_has(qr/kept as it was.*queue 1 \\"jobs\\": \\"concurrency\\" is -5/),
       'one that is wrong is refused';

    policy({ name => 'jobs', concurrency => 2 });
    kill 'HUP', $pid;
    ok log_has(qr/policy read.*policy read/s), 'a lower one is read';
    is scalar(requests('/gate')), 5, 'and stops nothing';

    $back->open_gate('six');
    all_completed('all are done', @jobs);
}


# rate, over kills: whoever was running is sent again, and counts

{
    my ($each, $burst) = (0.4, 1);

    kill_worker('TERM');
    policy({ name => 'jobs', rate => { count => 1, period_ms => 400,
                                       burst => $burst } });

    my @jobs = post(9, '/rate?delay=100');

    worker();

    for my $sent (2, 3, 5, 6) {
        ok wait_until(20, sub { requests('/rate') >= $sent }), "$sent are sent";
        kill_worker();
        worker();
    }

    all_completed('9 jobs, 4 kills, all done', @jobs);

    my @at = map { $_->{time} } requests('/rate');
    my $least = 9;

    for my $from (0 .. $#at) {
        for my $k (1 .. $#at - $burst - $from) {
            my $early = $at[$from + $burst + $k] - $at[$from] - $k * $each;

            $least = $early if $early < $least;
        }
    }

    ok @at > 9, 'some were sent again: ' . @at . ' in all';
    cmp_ok $least, '>', -$each / 2, 'none came before its time'
        or diag join ' ', map { sprintf '%.3f', $_ - $at[0] } @at;
    cmp_ok $at[1] - $at[0], '<', $each, 'the burst was there';
}


# a backend that is down: one probe, then all go on

{
    kill_worker('TERM');
    policy({ name => 'jobs', concurrency => 1,
             retry => { max => 1, backoff_ms => 4000, backoff_max_ms => 4000,
                        jitter => 'none', on => ['503'] } });

    my @bad = post(10, '/down?status=503');
    my @good = post(20, '/up?size=1');

    worker();
    all_completed('what came behind is done', @good);
    is scalar(grep { $n->status($_)->{status} eq 'failed' } @bad), 10,
       '10 have failed';

    my $last = (requests('/down'))[-1]{time};
    my @up = map { $_->{time} } requests('/up');

    cmp_ok $up[0] - $last, '>', 1.5, 'then the others waited';
    cmp_ok $up[-1] - $up[0], '<', 1.5, 'for one probe, not each for itself';
    ok log_has(qr/queue \\"jobs\\": its backend has failed 10 times/),
       'the log says so';
    ok log_has(qr/queue \\"jobs\\": its backend works again/), 'both times';
}

kill_worker('TERM');

Offload::finish_all();
