# A queue that has a job now and then loses it in seconds if its backend is
# being restarted and the job alone has to find that out: its attempts are over
# before there were enough to tell.  So the last of them is a probe, whether
# nginx stands between or the queue has a URL.  But a backend that is there, or
# another location of the queue that is, leaves each job its attempts.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Control;
use Offload;
use Ports;
use Test::More;
use Util qw(wait_until);

my %down = map { $_ => Ports::pick() } qw(proxied straight batch shared hasty);
my $back = Backend->start;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(), zone => 'jobs 8m path=%%ZONE%%',
    http => <<"EOT")->start;
offload_queue proxied zone=jobs { retry max=3 backoff=1s..30s; }
offload_queue straight zone=jobs {
    pass  http://127.0.0.1:$down{straight}/x; retry max=3 backoff=1s..30s;
}
offload_queue batch zone=jobs {
    batch size=2 linger=0; retry max=3 backoff=1s..30s;
}
offload_queue shared zone=jobs { retry max=3 backoff=1s..30s; }
offload_queue hasty zone=jobs { retry max=2 backoff=10ms..10ms; }
server {
    listen 127.0.0.1:%%PORT%%;
    location /proxied/ {
        offload proxied; proxy_pass http://127.0.0.1:$down{proxied};
    }
    location /straight/ { offload straight; }
    location /batch/ {
        offload batch; proxy_pass http://127.0.0.1:$down{batch};
    }
    location /shared/ {
        offload shared; proxy_pass http://127.0.0.1:$down{shared};
    }
    location /hasty/ {
        offload hasty; proxy_pass http://127.0.0.1:$down{hasty};
    }
    location /well/ { offload shared; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);

$n->offloadd;


sub circuit { control($n, GET => "/v1/queues/$_[0]")->{circuit} }


# An attempt has failed: time for the next one.

sub next_attempt {
    my ($job, $attempts) = @_;

    return wait_until(20, sub {
        my $doc = $n->status($job);

        $clock->ahead(60) if $doc->{status} eq 'queued'
                             && $doc->{attempts} < $attempts;
        $doc->{attempts} >= $attempts && $doc->{status} ne 'running' });
}


# What is under way gets no older by it.

sub ends {
    my ($job, $end) = @_;

    return wait_until(20, sub {
        my $status = $n->status($job)->{status};

        $clock->ahead(60) if $status eq 'queued';
        $status eq $end });
}


for my $queue (qw(proxied straight batch)) {
    my $job = $n->submit(POST => "/$queue/x", body => '{}');

    ok next_attempt($job, 3), "$queue: three attempts";
    is circuit($queue)->{state}, 'open', 'are enough to tell';
    ok next_attempt($job, 12), 'it is asked now and then';
    is $n->status($job)->{status}, 'queued', 'and the job waits';

    my $came = Backend->start(http_port => $down{$queue});

    ok ends($job, 'completed'), 'it is back: done';
    is scalar($came->journal(event => 'request')), 1, 'once';
    is circuit($queue)->{state}, 'closed', 'the circuit is closed';
}


# one that wants to try again a hundred times a second

my $hasty = $n->submit(POST => '/hasty/x', body => 'x');

ok wait_until(20, sub { (circuit('hasty')->{failures} // 0) >= 10 }),
    'a short backoff';
ok wait_until(20, sub { (circuit('hasty')->{probe_in_ms} // 0) > 300 }),
    'does not make it ask a backend that is down that often';
$n->request(DELETE => $hasty->{path});


# what answers says that it is there, and another location that the queue works

my $job = $n->submit(POST => '/well/?status=503', body => 'x');

ok ends($job, 'failed'),
    'a backend that says 503 has said so three times';
is $n->status($job)->{attempts}, 3, 'and no more';

$job = $n->submit(POST => '/shared/x', body => 'x');
ok next_attempt($job, 2), 'two attempts find nobody';
$n->settled($n->submit(POST => '/well/', body => 'x'));
ok ends($job, 'failed'),
    'while another location works, the third is the last';
is $n->status($job)->{attempts}, 3, 'of those it has';

Offload::finish_all();
