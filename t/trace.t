# A trace that a client has begun goes on through a job's end: what its
# receivers are told is in the same trace, each try a span of its own, though
# the client, the worker and the job may be gone by then.  Who has begun none,
# or sends what is none, has nothing made up for it.  (Replays and direct URLs
# are in pass.t, commands in exec.t.)

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Offload;
use Receiver;
use Test::More;

my $TRACE = '0af7651916cd43dd8448eb211c80319c';
my $SPAN = 'b7ad6b7169203331';

my $back = Backend->start;
my $to = Receiver->start;
my $url = $to->url;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(),
    zone => 'jobs 8m path=%%ZONE%% ttl=2h', http => <<"EOT")->start;
offload_queue told zone=jobs {
    webhook \$arg_to; webhook $url/other on=failed,completed;
    webhook_allow 127.0.0.1;
}
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload told; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);
my $serial = 0;


# A job, and the path its receiver is told at.

sub begin {
    my ($plan, @headers) = @_;
    my $path = '/told' . $serial++;
    my $job = $n->submit(POST => "/x?to=$url$path?plan=$plan", body => 'x',
                         headers => \@headers);

    return ($path, $job);
}


sub tries {
    my ($path, $count) = @_;
    my @seen = $to->wait_for($count, $path);

    is scalar @seen, $count, "$path: tried $count times";

    return @seen;
}


# Each as the span it is in; that it is in the trace is looked at.

sub spans {
    return map {
        my ($span) = ($_->{h}{traceparent} // '')
                     =~ /^00-$TRACE-([0-9a-f]{16})-01$/;

        ok defined $span, 'in the trace' or diag $_->{h}{traceparent} // '-';
        isnt $span, $SPAN, 'in a span of its own';
        $span // '' } @_;
}


sub pending {
    my ($job, $attempts) = @_;

    ok Offload::wait_until(20, sub {
        my ($hook) = @{ $n->status($job)->{webhooks} // [] };
        $hook && $hook->{status} eq 'pending'
              && $hook->{attempts} == $attempts }), 'it is to be tried again';
}


# ---- a trace, two receivers, and tries

my ($path, $job) = begin('503,503', traceparent => "00-$TRACE-$SPAN-01",
                         tracestate => 'a=b,c=d');
my ($first) = tries($path, 1);
my ($other) = tries('/other', 1);

pending($job, 1);
$clock->ahead(6);

my (undef, $second) = tries($path, 2);

pending($job, 2);

# pending, it outlives the worker, and its job
kill 'KILL', $pid;
waitpid $pid, 0;
$clock->ahead(3 * 3600);
$pid = $n->by_hand(undef, $clock->env);

my (undef, undef, $third) = tries($path, 3);
my @spans = spans($first, $second, $third, $other);

is scalar(keys %{ { map { $_ => 1 } @spans } }), 4,
    'each try, and each receiver, is another';
is $_->{h}{tracestate}, 'a=b,c=d', 'with its state'
    for $first, $second, $third, $other;
is scalar(keys %{ { map { $_->{h}{'webhook-id'} => 1 }
                    $first, $second, $third } }), 1, 'of one message';
ok Offload::wait_until(20, sub {
    $n->get($job->{path})->{status} =~ /^4/ }), 'the job had expired';

# ---- a try that a kill cuts off is made again: the same message, and span

($path, $job) = begin('never', traceparent => "00-$TRACE-$SPAN-01");
tries($path, 1);
kill 'KILL', $pid;
waitpid $pid, 0;
$pid = $n->by_hand(undef, $clock->env);

my @seen = tries($path, 2);

@spans = spans(@seen);
is $spans[0], $spans[1], 'killed meanwhile: the same span';
ok !exists $seen[0]{h}{tracestate}, 'without a state there is none';

# ---- no trace, and none that is one

for my $bad ([ ], [ tracestate => 'a=b' ],
             [ traceparent => "00-$TRACE-$SPAN" ],
             [ traceparent => "00-$TRACE-0000000000000000-01" ],
             [ traceparent => "00-\U$TRACE-$SPAN-01", tracestate => 'a=b' ],
             [ traceparent => "00-$TRACE-$SPAN-01",
               traceparent => "00-$TRACE-$SPAN-00" ])
{
    ($path) = begin('', @$bad);

    my ($m) = tries($path, 1);

    ok !exists $m->{h}{traceparent} && !exists $m->{h}{tracestate},
        'nothing is made up for "' . join(' ', @$bad) . '"';
}

kill 'TERM', $pid;
waitpid $pid, 0;
Offload::finish_all();
