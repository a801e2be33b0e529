# A job's end is told to its receivers, signed, at least once and under one
# id, by a schedule of hours: here by real receivers that answer, do not, say
# so much that nobody could read it, or want to be left alone.  What they do
# changes nothing of the job; and no URL makes the worker talk to a network
# nobody has allowed.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Control;
use JSON::PP;
use MIME::Base64 qw(decode_base64 encode_base64);
use Offload;
use Receiver;
use Test::More;

my $back = Backend->start;
my $to = Receiver->start;
my $url = $to->url;
my $secret = 'whsec_' . encode_base64(join('', map { chr } 1 .. 32), '');
my $dir = File::Temp::tempdir('ofl-w-XXXXXX', TMPDIR => 1, CLEANUP => 1);

sub file {
    my ($name, $text) = @_;

    Offload::write_file("$dir/$name", $text);
    chmod 0640, "$dir/$name";
    chown 0, (getgrnam $Offload::USER)[2] // 0, "$dir/$name" if $> == 0;

    return "$dir/$name";
}

chmod 0755, $dir;
my $key = file('secret', "$secret\n");

system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
       . " -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
       . " -keyout $dir/tls.key -out $dir/tls.pem >$dir/openssl.log 2>&1") == 0
    or BAIL_OUT('openssl: ' . Offload::read_file("$dir/openssl.log"));
chmod 0644, "$dir/tls.pem";

my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(),
    zone => 'jobs 8m path=%%ZONE%% ttl=2h', http => <<"EOT")->start;
offload_queue told zone=jobs {
    webhook $url/told secret=file:$key inline=1k;
    webhook $url/failed on=failed,canceled;
}
offload_queue plan zone=jobs {
    webhook $url/plan?\$args; webhook_allow 127.0.0.1;
}
offload_queue kept zone=jobs {
    webhook $url/plan?\$args; webhook_allow 127.0.0.1; ttl 30d;
}
offload_queue own zone=jobs {
    webhook \$arg_hook;
    webhook_allow 127.0.0.1/32 .example.com secret=file:$key;
}
offload_queue guarded zone=jobs { webhook \$arg_hook; }
offload_queue tls zone=jobs {
    webhook https://localhost:%%PORT2%%/tls ca=$dir/tls.pem;
    webhook https://localhost:%%PORT2%%/unknown;
}
server {
    listen 127.0.0.1:%%PORT2%% ssl;
    ssl_certificate $dir/tls.pem;
    ssl_certificate_key $dir/tls.key;
    location / { proxy_pass $url; }
}
server {
    listen 127.0.0.1:%%PORT%%;
    offload_idempotency on;
    location /told/ { offload told; proxy_pass http://%%BACKEND%%; }
    location /plan/ { offload plan; proxy_pass http://%%BACKEND%%; }
    location /kept/ { offload kept; proxy_pass http://%%BACKEND%%; }
    location /own/ { offload own; proxy_pass http://%%BACKEND%%; }
    location /guarded/ { offload guarded; proxy_pass http://%%BACKEND%%; }
    location /tls/ { offload tls; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);

$n->offloadd;


# The webhooks of a job's document, once all are as the pattern says.

sub hooks {
    my ($job, $status) = @_;
    my $doc;

    Offload::wait_until(20, sub {
        $doc = $n->status($job);
        $doc->{webhooks}
            && !grep { $_->{status} !~ /^(?:$status)$/ } @{ $doc->{webhooks} }
    });

    return @{ $doc->{webhooks} // [] };
}


sub planned {
    my ($plan) = @_;

    return $n->submit(POST => "/plan/?size=5&plan=$plan", body => 'x');
}


# ---- what is sent

my $job = $n->submit(POST => '/told/?size=900&type=text/plain', body => 'x');
my ($m) = $to->wait_for(1, '/told');
my $doc = $n->status($job);

is $m->{method}, 'POST', 'a receiver is told';
is $m->{h}{'content-type'}, 'application/json', 'in JSON';
ok Receiver::verified($m, $secret), 'with a signature that is right';
ok !Receiver::verified({ %$m, body => "$m->{body} " }, $secret),
    'for this text alone';
cmp_ok abs($m->{h}{'webhook-timestamp'} - time), '<', 60,
    'and a time that is right';

my $text = decode_json($m->{body});

is $text->{type}, 'job.completed', 'its type';
is $text->{timestamp}, $doc->{finished_at}, 'its time';
is delete $text->{data}{result}, Backend::content(900), 'the result';

my ($hook) = hooks($job, 'delivered');
delete $doc->{webhooks};
is_deeply $text->{data}, $doc, 'and the document as a client sees it';
is_deeply $hook, { url_host => '127.0.0.1', status => 'delivered',
                   attempts => 1 }, 'the document says that it was';
is scalar(() = hooks($job, '.*')), 1, 'who wants failures is not told';

$job = $n->submit(POST => '/told/?size=600&type=image/x&h=X-Y:1&status=404');
($m) = $to->wait_for(1, '/failed');
$text = decode_json($m->{body});
is $text->{type}, 'job.failed', 'who wants failures is told';
is $text->{data}{error}{code}, 'backend_status', 'why';
ok !exists $text->{data}{result}, 'without the result, as it wants none';
ok !$m->{h}{'webhook-signature'}, 'not signed without a secret';

$job = $n->submit(POST => '/told/?size=3000');
($m) = grep { decode_json($_->{body})->{data}{job_id} eq $job->{id} }
       $to->wait_for(3, '/told');
ok !exists decode_json($m->{body})->{data}{result}, 'a large result is not in';

$job = $n->submit(POST => '/told/?size=300&gzip=1', body => 'x');
($m) = grep { decode_json($_->{body})->{data}{job_id} eq $job->{id} }
       $to->wait_for(4, '/told');
is decode_base64(decode_json($m->{body})->{data}{result_base64}),
    $n->result($job)->{body}, 'one that is no text is in base64';

$job = $n->submit(POST => '/told/?gate=held', body => 'x');
$n->wait_status($job, 'running');
$n->request(DELETE => $job->{path});
($m) = grep { decode_json($_->{body})->{data}{job_id} eq $job->{id} }
       $to->wait_for(2, '/failed');
is decode_json($m->{body})->{type}, 'job.canceled', 'a job that is canceled';


# ---- retries, by hours

$job = planned('500,301,never,503');

for my $step ([ 1, 5 ], [ 2, 300 ]) {
    my ($count, $gap) = @$step;

    is scalar($to->wait_for($count, '/plan')), $count, "attempt $count";
    ok Offload::wait_until(20, sub {
        (hooks($job, 'pending'))[0]{attempts} == $count }),
        'it did not go well, and is tried again';
    is $n->status($job)->{status}, 'completed', 'the job stays completed';
    $clock->ahead($gap * 1.2);
}

is scalar(grep { $_->{uri} eq '/moved' } $to->seen), 0, 'nobody is redirected';
is scalar($to->wait_for(3, '/plan')), 3, 'attempt 3';

# while one does not answer: the next worker sends it again
kill 'KILL', $pid;
waitpid $pid, 0;
$pid = $n->by_hand(undef, $clock->env);
is scalar($to->wait_for(4, '/plan')), 4, 'killed meanwhile: again';
ok Offload::wait_until(20, sub {
    (hooks($job, 'pending'))[0]{attempts} == 3 }), 'refused';

my ($wait) = $n->status($job)->{webhooks}[0]{next_attempt_at}
             =~ /^(\d{4}-.*Z)$/;

ok $wait, 'and the document says when it is next';
$clock->ahead(1800 * 1.2);
is scalar(my @seen = $to->wait_for(5, '/plan')), 5, 'and half an hour later';
is((hooks($job, 'delivered'))[0]{status}, 'delivered', 'it is delivered');
is scalar(keys %{ { map { $_->{h}{'webhook-id'} => 1 } @seen } }), 1,
    'all under one id';
is scalar(keys %{ { map { $_->{body} => 1 } @seen } }), 1, 'all with one text';
cmp_ok $seen[-1]{h}{'webhook-timestamp'} - $seen[0]{h}{'webhook-timestamp'},
    '>', 1800, 'each with its own time';

$job = planned('410');
is((hooks($job, 'disabled'))[0]{status}, 'disabled', 'who is gone is left');

$job = planned('huge');
is((hooks($job, 'delivered'))[0]{attempts}, 1,
    'of an answer without end no more is read than needed');

$job = planned('429+40');
ok Offload::wait_until(20, sub {
    (hooks($job, 'pending'))[0]{attempts} == 1 }), 'who is too busy';
my $before = () = $to->seen('/plan');
my $other = planned('');

is((hooks($other, 'pending'))[0]{attempts}, 0,
    'is sent nothing else, either');
ok Offload::wait_until(10, sub {
    my $at = $n->status($other)->{webhooks}[0]{next_attempt_at} // '';
    $at gt ($n->status($other)->{finished_at} // '~') }), 'and not yet';
is scalar(() = $to->seen('/plan')), $before, 'for as long as it said';
$clock->ahead(60);
is((hooks($_, 'delivered'))[0]{status}, 'delivered', 'then all of it')
    for $job, $other;


# ---- the control interface

sub listed {
    my ($job) = @_;

    return grep { $_->{job_id} eq $job->{id} }
           @{ control($n, GET => '/v1/webhooks?limit=1000')->{webhooks} };
}


# Its last attempts, days later, if it fails each time until then.

sub last_attempts {
    my ($job) = @_;

    Offload::wait_until(20, sub { listed($job) });

    # an attempt that is under way when the clock moves is planned from there
    for (1 .. 30) {
        my ($hook) = listed($job);

        last if !$hook || $hook->{status} ne 'pending';

        $clock->ahead(27 * 3600);
        Offload::wait_until(20, sub {
            my ($now) = listed($job);

            !$now || $now->{status} ne 'pending'
            || $now->{attempts} > $hook->{attempts} });
    }
}

$job = planned(join ',', (500) x 9);
last_attempts($job);
is scalar(grep { decode_json($_->{body})->{data}{job_id} eq $job->{id} }
          $to->seen('/plan')), 10,
    'ten attempts, though the job has expired';
is $n->get($job->{path})->{status}, 404, 'and is forgotten';
ok Offload::wait_until(10, sub { !listed($job) }), 'now its delivery is, too';

$job = $n->submit(POST => '/kept/?size=5&plan=' . join(',', (500) x 10),
                  body => 'x');
last_attempts($job);
my ($failed) = hooks($job, 'failed');

is $failed->{attempts}, 10, 'after the last one it has failed';
ok !exists $failed->{next_attempt_at}, 'and is not sent again';
is $n->status($job)->{status}, 'completed', 'the job has not';

$job = planned('410,200');
hooks($job, 'disabled');
($failed) = listed($job);
is $failed->{status}, 'disabled', 'a list of them';
is $failed->{http_status}, 410, 'why';
unlike encode_json($failed), qr/plan=/, 'without queries';
is control($n, POST => "/v1/webhooks/$failed->{webhook_id}/retry")->{status},
    'pending', 'an operator has it sent again';
is((hooks($job, 'delivered'))[0]{attempts}, 2, 'and it is');
control_problem($n, 409, POST => "/v1/webhooks/$failed->{webhook_id}/retry");
control_problem($n, 404, POST => '/v1/webhooks/msg_no/retry');


# ---- URLs of others

my $mine = '/own/?hook=';

$n->submit(POST => "${mine}$url/mine", body => 'x');
is scalar($to->wait_for(1, '/mine')), 1, 'a URL with a variable, allowed';

$n->submit(POST => $mine, body => 'x',
           headers => [ 'Offload-Callback-Url' => "$url/callback" ]);
($m) = $to->wait_for(1, '/callback');
ok $m && Receiver::verified($m, $secret), "a client's own URL, signed";

for my $bad ([ '', 400 ], [ 'ftp://127.0.0.1/', 400 ],
             [ 'http://u:p@127.0.0.1/', 400 ], [ 'http://10.0.0.1/', 403 ],
             [ 'http://[::1]/', 403 ], [ 'http://127.0.0.1:99999/', 400 ])
{
    my $r = $n->request(POST => $mine, body => 'x', headers => [
        'Offload-Callback-Url' => $bad->[0] ]);

    is $r->{status}, $bad->[1], "$bad->[1] for \"$bad->[0]\"";
}

is $n->request(POST => '/told/', headers => [
    'Offload-Callback-Url' => $url ])->{status}, 403,
    'and where none is allowed';

for my $to (qw(http://127.0.0.1 http://localhost http://[::1]
               http://[::ffff:127.0.0.1]))
{
    $job = $n->submit(POST => "/guarded/?hook=$to:" . ($url =~ /(\d+)$/)[0]
                              . '/inside', body => 'x');
    is((hooks($job, 'pending'))[0]{status}, 'pending', "nothing for $to");
    ok Offload::wait_until(10, sub {
        ($n->status($job)->{webhooks}[0]{attempts} // 0) == 1 }), 'it failed';
}

is scalar(() = $to->seen('/inside')), 0,
    'no URL of others leads inside';
like $n->worker_log, qr/error="its address is not allowed"/,
    'and the log says so';


# ---- TLS

$job = $n->submit(POST => '/tls/', body => 'x');
is scalar($to->wait_for(1, '/tls')), 1, 'a certificate that is known';
ok Offload::wait_until(20, sub {
    my @hooks = @{ $n->status($job)->{webhooks} // [] };
    @hooks == 2 && $hooks[0]{status} eq 'delivered'
        && $hooks[1]{attempts} == 1 }), 'and one that is not';
is scalar(() = $to->seen('/unknown')), 0, 'which is told nothing';


# ---- secrets

unlike $n->worker_log . $n->log, qr/\Q$secret\E/, 'no secret is in a log';
unlike encode_json($n->policy), qr/\Q$secret\E/, 'nor in the policy';
file('secret', 'whsec_' . encode_base64('y' x 24, ''));
kill 'HUP', $n->offloadd;
Offload::wait_until(10, sub { $n->worker_log =~ /policy read/ });
$job = $n->submit(POST => '/told/?size=4', body => 'x');
($m) = grep { decode_json($_->{body})->{data}{job_id} eq $job->{id} }
       $to->wait_for(6, '/told');
ok $m && Receiver::verified($m, 'whsec_' . encode_base64('y' x 24, '')),
    'a new one is used from the next reload on';

kill 'TERM', $pid;
waitpid $pid, 0;
Offload::finish_all();
