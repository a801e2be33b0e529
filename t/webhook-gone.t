# A receiver that answers 410 wants to be left alone: by later jobs, too, by
# what is pending for it, and after the worker was killed.  That goes for this
# URL and queue alone.  The operator sees who it is, and has it sent to again.
# Clients choose URLs as they like, so what is known of those must not grow.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Control;
use JSON::PP;
use Offload;
use Receiver;
use Test::More;

my $DAY = 24 * 3600;

my $back = Backend->start;
my $to = Receiver->start;
my $url = $to->url;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(),
    zone => 'jobs 8m path=%%ZONE%% ttl=90d', http => <<"EOT")->start;
offload_queue fixed zone=jobs { webhook $url/fixed?secret=1; }
offload_queue other zone=jobs { webhook $url/fixed?secret=1; }
offload_queue given zone=jobs { webhook_allow 127.0.0.1; }
server {
    listen 127.0.0.1:%%PORT%%;
    location /fixed/ { offload fixed; proxy_pass http://%%BACKEND%%; }
    location /other/ { offload other; proxy_pass http://%%BACKEND%%; }
    location /given/ { offload given; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);


sub again {
    kill 'KILL', $pid;
    waitpid $pid, 0;
    $pid = $n->by_hand(undef, $clock->env);
    is $n->offloadd, $pid, 'killed, and there again';
}


sub job {
    my ($at, $url) = @_;

    return $n->submit(POST => $at, body => 'x', headers => [
        $url ? ('Offload-Callback-Url' => $url) : () ]);
}


# The delivery of a job, once its status is this.

sub hook {
    my ($job, $status, $attempts, $name) = @_;
    my $hook;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok Offload::wait_until(20, sub {
        ($hook) = @{ $n->status($job)->{webhooks} // [] };
        $hook && $hook->{status} eq $status
              && $hook->{attempts} == $attempts }), $name
        or diag encode_json($hook // {});

    return $hook;
}


sub receivers {
    my ($args) = @_;

    return @{ control($n, GET => '/v1/receivers' . ($args // ''))
              ->{receivers} };
}


# What the operator sees of a job's delivery.

sub listed {
    my ($job) = @_;

    return (grep { $_->{job_id} eq $job->{id} }
            @{ control($n, GET => '/v1/webhooks?limit=1000')->{webhooks} })[0];
}


sub count { scalar(() = $to->seen($_[0])) }


# ---- the operator's own URL

is_deeply [ receivers() ], [], 'nobody is disabled';
$to->says('/fixed', 503);

my $waits = job('/fixed/');

hook($waits, 'pending', 1, 'one is to be tried again');
$to->says('/fixed', 410);

my $gone = job('/fixed/');
my $doc = hook($gone, 'disabled', 1, 'another is answered 410');

ok !exists $doc->{next_attempt_at}, 'and is not sent again';
again();
$to->says('/fixed', 200);

my $count = count('/fixed');
my $later = job('/fixed/');

hook($later, 'disabled', 0, 'a later job: its news are not sent');
is $n->status($later)->{status}, 'completed', 'which changes nothing of it';
$clock->ahead(10);
hook($waits, 'disabled', 1, 'nor are those that were pending');
is count('/fixed'), $count, 'nothing came';

my $fine = job('/other/');

hook($fine, 'delivered', 1, 'the same URL in another queue is another one');
$count = count('/fixed');

my ($r) = receivers();

is scalar(receivers()), 1, 'the operator sees it';
is "$r->{queue} $r->{url_host}", 'fixed 127.0.0.1', 'of which queue, where';
is $r->{webhook_id}, listed($gone)->{webhook_id}, 'which message it refused';
is $r->{receiver_id}, listed($later)->{receiver_id}, 'whom it concerns';
like $r->{disabled_at}, qr/^\d{4}-\d\d-\d\dT[\d:]+Z$/, 'since when';
ok !exists $r->{until}, 'for ever';
unlike encode_json($r), qr/secret/, 'without paths and queries';
like $n->worker_log, qr/level=warn\ msg=webhook\ .*status=disabled\ .*
                        receiver=$r->{receiver_id}/x, 'the log has it, too';

$clock->ahead(60 * $DAY);
hook(job('/fixed/'), 'disabled', 0, 'two months later it is as it was');

# ---- enabled by the operator

is control($n, POST => "/v1/receivers/$r->{receiver_id}/enable")->{status},
    'enabled', 'the operator enables it';
is_deeply [ receivers() ], [], 'it is disabled no more';
again();
hook(job('/fixed/'), 'delivered', 1, 'and is sent to again');
is $n->status($later)->{webhooks}[0]{status}, 'disabled',
    'what was not sent is not sent by that';
control($n, POST => "/v1/webhooks/" . listed($later)->{webhook_id} . '/retry');
hook($later, 'delivered', 1, 'but may be');
like $n->worker_log,
    qr/a receiver is enabled" receiver=$r->{receiver_id} by_user/,
    'who did it is in the log';
control_problem($n, 404, POST => "/v1/receivers/$r->{receiver_id}/enable");
control_problem($n, 404, POST => '/v1/receivers/no/enable');
control_problem($n, 405, DELETE => '/v1/receivers');

# ---- enabled by one that is sent again and arrives

$to->says('/fixed', 410);
$gone = job('/fixed/');
hook($gone, 'disabled', 1, 'disabled once more');
$later = job('/fixed/');
hook($later, 'disabled', 0, 'and nothing is sent');

my $retry = '/v1/webhooks/' . listed($later)->{webhook_id} . '/retry';

control($n, POST => $retry);
hook($later, 'disabled', 1, 'the operator has one sent: 410 again');
is scalar(receivers()), 1, 'it stays disabled';
$to->says('/fixed', 500);
control($n, POST => $retry);
hook($later, 'pending', 2, 'then an error');
$to->says('/fixed', 200);
$clock->ahead(600);
hook($later, 'delivered', 3, 'then it arrives, by the schedule');
is_deeply [ receivers() ], [], 'so it is back';
hook(job('/fixed/'), 'delivered', 1, 'for all');

# ---- clients' URLs

$to->says('/given', 410);
hook(job('/given/', "$url/given?a"), 'disabled', 1, "a client's URL");
again();
hook(job('/given/', "$url/given?a"), 'disabled', 0, 'is not asked again');
hook(job('/given/', "$url/given?b"), 'disabled', 1, 'another is');
is scalar(receivers()), 2, 'each is one';
ok !(grep { !$_->{until} } receivers()), 'for a while';

my ($page) = receivers('?limit=1');
my ($next) = receivers("?limit=1&after=$page->{receiver_id}");

is_deeply [ map { $_->{receiver_id} } $page, $next ],
          [ map { $_->{receiver_id} } receivers() ], 'page by page';
is control($n, GET => '/v1/receivers?limit=1')->{next}, $page->{receiver_id},
    'with where to go on';
control_problem($n, 400, GET => '/v1/receivers?after=x');

$clock->ahead(31 * $DAY);
is_deeply [ receivers() ], [], 'a month later they are forgotten';
hook(job('/given/', "$url/given?a"), 'disabled', 1, 'and asked once more');
is scalar(receivers()), 1, 'which is known';

kill 'TERM', $pid;
waitpid $pid, 0;
Offload::finish_all();
