# A backend that says it has too much must get less at once, and when it is
# well again as much as before, or `adaptive` is a word in a file.  What it has
# taught the queue is not forgotten by a reload; after a kill the queue begins
# as carefully as at first, never with all it may.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Control;
use Offload;
use Test::More;
use Util qw(wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b, workers => 1, http => <<'EOT')->start;
offload_queue bears zone=jobs { concurrency 40; adaptive on; retry off; }
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload bears; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $serial = 0;


sub limit { control($n, GET => '/v1/queues/bears')->{adaptive}{limit} }


# More than may run wait at a gate: how many do run?

sub at_once {
    my ($count, $query) = @_;
    my $gate = 'g' . ++$serial;
    my @jobs = map { $n->submit(POST => "/$_?gate=$gate$query", body => 'x') }
               1 .. $count;
    my $limit = limit();
    my $seen = sub { scalar(grep { $_->{uri} =~ /gate=$gate\b/ }
                            $b->journal(event => 'request')) };

    wait_until(20, sub { $seen->() >= $limit });
    wait_until(20, sub {
        my $q = control($n, GET => '/v1/queues/bears');
        $q->{running} == $limit && $q->{waiting} == $count - $limit });

    my $running = $seen->();

    return ($running, sub {
        $b->open_gate($gate);
        $n->settled($_, deadline => 60) for @jobs;
    });
}


my ($running, $end) = at_once(12, '');

is $running, 8, 'it begins with 8 at a time';
$end->();
ok wait_until(10, sub { limit() > 8 }), 'answers that are good let more run';

my $before = limit();


# of refusals that are meant for the job alone no circuit opens

($running, $end) = at_once($before, '&status=503&h=Offload-No-Retry:1');
is $running, $before, "$before do";
$end->();
is limit(), int($before / 2), 'they are refused, all of them: half as many';

($running, $end) = at_once($before, '');
is $running, int($before / 2), '.. run at a time';
ok $n->reload(drain => 0), 'a reload';
is limit(), int($before / 2), '.. does not change that';
$end->();

# that come quickly: latency that climbs is a complaint as well

for (1 .. 20) {
    last if limit() > $before;
    control($n, POST => '/v1/queues/bears/pause');

    my @jobs = map { $n->submit(POST => "/$_?delay=20", body => 'x') } 1 .. 40;

    control($n, POST => '/v1/queues/bears/resume');
    $n->settled($_) for @jobs;
}

cmp_ok limit(), '>', $before, 'and as many as before, with good answers';

my $pid = $n->offloadd;

kill 'KILL', $pid;
$n->offloadd(not => $pid);
($running, $end) = at_once(20, '');
is $running, 8, 'killed: the next one begins with 8';
$end->();

Offload::finish_all();
