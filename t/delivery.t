# Some work must not be done twice, whatever happens: for such a location a
# job whose attempt was sent and has no answer is lost, and says so.  Here
# attempts are cut off in every way there is, side by side with jobs that are
# to be delivered at least once; the backend's journal is the witness.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;

my $back = Backend->start;
my $zone = 'jobs 16m path=%%ZONE%% concurrency=3 ttl=';
my $n = Offload->new(backend => $back, zone => "${zone}1h",
                     http => <<'EOT')->start;
log_format pids '$pid $offload_attempt $request_uri';
access_log %%PREFIX%%/pids.log pids;
client_max_body_size 8m;
offload_delivery at-most-once;

server {
    listen 127.0.0.1:%%PORT%%;
    offload jobs;
    location / { proxy_pass http://%%BACKEND%%; }
    location /many/ {
        offload_delivery at-least-once;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}

server {
    listen 127.0.0.1:%%PORT2%%;
    offload jobs;
    offload_delivery at-least-once;
    location / { proxy_pass http://%%BACKEND%%; }
    location /once/ {
        offload_delivery at-most-once;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT

$n->allow(qr/worker process \d+ exited on signal 9/);

my $done = $n->submit(POST => '/done?size=200000', body => 'x');
my $result = $n->settled($done) && $n->result($done);

is $result->{status}, 200, 'a job that has an answer completes';


# A job of each kind, at the backend and waiting there: what becomes of them?
# Where nginx's two processes end one after the other, each may cut an attempt.

sub cut_off {
    my ($how, $cut, $attempts) = @_;
    my $gate = $how =~ s/\W+/-/gr;
    my %jobs;

    for my $kind ('/once', '/many/x') {
        $jobs{$kind} = $n->submit(POST => "$kind?gate=$gate",
                                  body => 'y' x 600_000) or return;
        $back->wait_for(1, event => 'request', job => $jobs{$kind}{id});
    }

    my $other = $n->submit(POST => "/once/x?gate=$gate", body => 'z',
                           to => $n->port(2));

    $back->wait_for(1, event => 'request', job => $other->{id});
    $cut->();

    my $doc = $n->settled($jobs{'/once'});

    is $doc->{status}, 'failed', "$how: at most once: the job has failed";
    is $doc->{error}{code}, 'lost', 'as lost';
    like $doc->{error}{message}, qr/attempt 1\b.*not repeated/,
        'in words: ' . ($doc->{error}{message} // '');
    is $doc->{attempts}, 1, 'after one attempt';
    ok $doc->{finished_at} && !$doc->{response} && !$doc->{result_url},
        'with an end and no result';
    is $n->settled($other)->{error}{code}, 'lost', 'inherited or not';

    ok $back->wait_for(2, event => 'request', job => $jobs{'/many/x'}{id}),
        "$how: at least once: there is another attempt";
    $back->open_gate($gate);
    $doc = $n->settled($jobs{'/many/x'});
    is $doc->{status}, 'completed', 'the job completes';
    cmp_ok $doc->{attempts}, '<=', $attempts // 2, 'after two, or one more';

    my @seen = map { $_->{attempt} }
               $back->journal(event => 'request', job => $doc->{job_id});

    is "$seen[0] $seen[-1]", "1 $doc->{attempts}", 'from the first to the last';

    is scalar($back->journal(event => 'request', job => $_->{id})), 1,
        "$how: at most once: the backend has seen one request"
        for $jobs{'/once'}, $other;
    is_deeply [ grep { -e } map { "$n->{zone_dir}/store/spool/$_->{id}" }
                values %jobs ], [], "$how: no body is left behind";
}


my $pid = $n->offloadd;

cut_off('offloadd killed', sub {
    kill 'KILL', $pid;
    $pid = $n->offloadd(not => $pid);
});

cut_off('offloadd told to stop', sub {
    kill 'TERM', $pid;
    $pid = $n->offloadd(not => $pid);
});

cut_off('nginx\'s workers killed', sub {
    my @old = $n->workers;

    kill 'KILL', @old;
    Offload::wait_until(10, sub {
        my %now = map { $_ => 1 } $n->workers;

        keys %now == 2 && !grep { $now{$_} } @old;
    });
}, 3);

cut_off('all of it stopped and started', sub {
    ok $n->stop(signal => 'TERM'), 'everything stops';
    $n->start;
    $pid = $n->offloadd;
}, 3);

cut_off('all of it killed and started', sub {
    my @pids = ($n->master, $n->workers, $n->children('manager'),
                $n->offloadds);

    kill 'KILL', @pids;
    Offload::wait_until(10, sub { !grep { Offload::alive($_) } @pids });
    unlink "$n->{prefix}/nginx.pid";
    $n->start;
    $pid = $n->offloadd;
}, 3);


# the connection alone

my $doc = $n->settled($n->submit(POST => '/half?close=body&size=200000'));

is $doc->{error}{code}, 'lost', 'an answer cut in two is none';
is $doc->{attempts}, 1, 'and not asked for again';

$doc = $n->settled($n->submit(POST => '/bad?status=500'));
is $doc->{error}{code}, 'backend_status', 'a bad answer is one';

my $http = $n->{http};

$n->write_conf(http => "offload_timeout 1s;\n$http");
ok $n->reload, 'a reload: attempts may take a second';
$doc = $n->settled($n->submit(POST => '/slow?gate=slow'));
is $doc->{error}{code}, 'timeout', 'a timeout stays a timeout';
$n->write_conf(http => $http);
$n->reload;


# Not begun, not lost: a kept connection whose other end does not listen any
# more may not be what such a request is sent on.

{
    my $first = $n->submit(POST => '/first');

    is $n->settled($first)->{status}, 'completed', 'a connection is kept';

    my $worker;

    Offload::wait_until(10, sub {
        ($worker) = Offload::read_file("$n->{prefix}/pids.log")
                    =~ m{^(\d+) 1 /first$}m });
    kill 'STOP', $worker;

    my $second = $n->submit(POST => '/second');
    my $doc = $n->settled($second, deadline => 10);

    kill 'CONT', $worker;
    is $doc->{status}, 'completed', 'and not relied on';
    is $doc->{attempts}, 1, 'the first time';
}


# what waits is not lost

{
    my @jobs = map { $n->submit(POST => "/wait/$_?gate=wait") } 1 .. 3;

    $back->wait_for(1, event => 'request', job => $_->{id}) for @jobs;

    my $held = $n->submit(POST => '/held');

    kill 'KILL', $pid;
    $pid = $n->offloadd(not => $pid);
    is $n->settled($held)->{status}, 'completed',
        'a job that was waiting completes';
    is $_->{error}{code}, 'lost', 'those that ran are lost'
        for map { $n->settled($_) } @jobs;
}


# and it ends like any other

is $n->result($done)->{body}, $result->{body},
    'a result that was there is there after all this';

$n->write_conf(zone => "${zone}1s");
$n->reload;
Offload::wait_until(10, sub { $n->policy->{ttl_ms} == 1000 });

my $last = $n->submit(POST => '/last?gate=last');

$back->wait_for(1, event => 'request', job => $last->{id});
kill 'KILL', $pid;
$pid = $n->offloadd(not => $pid);
ok Offload::wait_until(15, sub { $n->get($last->{path})->{status} == 410 }),
    'a lost job expires';
like $n->worker_log, qr/job=$last->{id} attempt=1 state=failed error=lost/,
    'and the log has said that it was lost';

Offload::finish_all();
