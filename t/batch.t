# A backend that takes events by the hundred is sent them by the hundred, and
# every client still has a job of its own: with the status the backend gave to
# its item, tried again by itself, cancelled by itself.  What must not happen
# is that one client's bad JSON, or credentials, become everybody's.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Control;
use JSON::PP;
use Offload;
use Test::More;
use Util qw(wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(), zone => 'jobs 8m path=%%ZONE%%',
    http => <<'EOT')->start;
offload_queue lines zone=jobs {
    batch size=5 linger=1m;
    concurrency 1;
    retry max=3 backoff=10ms..10ms;
}
offload_queue array zone=jobs {
    batch size=3 linger=1m format=json-array item=envelope;
}
offload_queue soon zone=jobs {
    batch size=100 linger=50ms max=64k;
    retry max=3 backoff=10ms..10ms;
}
offload_queue fair zone=jobs {
    batch size=4 linger=1m;
    fair  $http_x_tenant;
}
offload_queue bound zone=jobs { batch size=4 linger=1m; }
offload_queue straight zone=jobs {
    batch size=2 linger=1m;
    pass  http://%%BACKEND%%/straight;
}
offload_queue command zone=jobs {
    batch size=3 linger=1m;
    exec  /bin/sh -c 'n=$HTTP_OFFLOAD_BATCH; echo "Status: 207";
                      echo; echo "[200,$n$n$n,200]"; cat >&2';
}
map $http_x_user $user { default $http_x_user; }
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 1m;
    location /bound/ {
        offload bound; client_max_body_size 1k;
        proxy_pass http://%%BACKEND%%;
    }
    location /lines/ { offload lines; proxy_pass http://%%BACKEND%%; }
    location /array/ { offload array; proxy_pass http://%%BACKEND%%; }
    location /soon/  {
        offload soon; offload_max_result 2k;
        proxy_pass http://%%BACKEND%%;
    }
    location /cut/  {
        offload soon; offload_max_result 2k truncate;
        proxy_pass http://%%BACKEND%%;
    }
    location /kept/  {
        offload fair; offload_keep $user; proxy_set_header X-User $user;
        proxy_pass http://%%BACKEND%%;
    }
    location /once/ {
        offload soon; offload_delivery at-most-once;
        proxy_pass http://%%BACKEND%%;
    }
    location /fair/  { offload fair; proxy_pass http://%%BACKEND%%; }
    location /straight/ { offload straight; }
    location /command/ { offload command; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $pid = $n->by_hand;

$n->offloadd;

my $json = JSON::PP->new->canonical;


sub post {
    my ($uri, $body, @headers) = @_;

    return $n->submit(POST => $uri, body => ref $body ? $json->encode($body)
                                                      : $body,
                      headers => [ 'Content-Type', 'application/json',
                                   @headers ]);
}


# They wait all together, however long it takes to send them.

sub together {
    my ($queue, @posts) = @_;

    control($n, POST => "/v1/queues/$queue/pause");

    my @jobs = map { post(@$_) } @posts;

    control($n, POST => "/v1/queues/$queue/resume");

    return @jobs;
}


# The requests a URI has got, as they came.

sub seen {
    my ($uri) = @_;

    return grep { $_->{uri} =~ /^\Q$uri\E/ } $b->journal(event => 'request');
}


sub one {
    my ($uri, $count) = @_;

    ok wait_until(20, sub { seen($uri) >= ($count // 1) }), "$uri is sent"
        or return {};

    return (seen($uri))[($count // 1) - 1];
}


sub header {
    my ($request, $name) = @_;

    return join ', ', map { $_->[1] } grep { lc $_->[0] eq lc $name }
                      @{ $request->{headers} };
}


sub doc { $n->settled($_[0]) }

sub result {
    my $r = $n->result($_[0]);

    return wantarray ? ($r->{body}, $r) : $r->{body};
}



# Killed and started again.

sub again {
    kill 'KILL', $pid;
    waitpid $pid, 0;
    $pid = $n->by_hand;
    $n->offloadd;
}


# ---- what is sent

my @jobs = map { post('/lines/all?q=1', { n => $_ }, 'User-Agent', "agent-$_",
                      'X-Kind', 'event', 'Idempotency-Key', "key-$_",
                      'Traceparent', '00-' . 'a' x 32 . '-' . 'b' x 16 . '-01')
               } 1 .. 5;
my $r = one('/lines/all');

is $r->{text}, join('', map { "{\"n\":$_}\n" } 1 .. 5), 'five lines of JSON';
is header($r, 'Content-Type'), 'application/x-ndjson', 'said to be that';
is header($r, 'Offload-Batch'), 5, 'how many there are';
is $r->{method}, 'POST', 'by their method';
is $r->{uri}, '/lines/all?q=1', 'and their URI';
is header($r, 'X-Kind'), 'event', 'headers that all have';
is header($r, $_), '', "no $_"
    for qw(User-Agent Idempotency-Key Traceparent Offload-Job-Token);
is $r->{job}, $jobs[0]{id}, 'the id of the first one';

my @docs = map { doc($_) } @jobs;

is_deeply [ map { $_->{status} } @docs ], [ ('completed') x 5 ],
    'all are done by one answer';
is_deeply [ map { $_->{attempts} } @docs ], [ (1) x 5 ], 'in one attempt each';
is scalar(() = seen('/lines/')), 1, 'and one request';
is decode_json(result($_))->{sha}, $r->{sha}, 'each has the whole of it'
    for @jobs[0, 4];

@jobs = map { post('/array/all', $_) } '{"n" : 1}', "[2,\r\n 3]", ' "four" ';
$r = one('/array/all');

my @want = ('{"n" : 1}', '[2,   3]', ' "four" ');

is $r->{text}, '[' . join(',', map {
    "{\"job_id\":\"$jobs[$_]{id}\",\"attempt\":1,\"body\":$want[$_]}" } 0 .. 2)
    . ']', 'an array of envelopes: bodies as they came, but on one line';
is header($r, 'Content-Type'), 'application/json', 'it is JSON';
doc($_) for @jobs;

my ($trace, $parent) = ('4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7');
my @traced = map { post('/array/trace', { n => 1 }, 'Traceparent', $_) }
             "00-$trace-$parent-01", "00-$trace-$parent-00", '00-"bad';
my ($one, $two, $bad) = map { $_->{traceparent} }
                        @{ one('/array/trace')->{items} };

like $one, qr/^00-$trace-(?!$parent)[0-9a-f]{16}-01$/,
    'in an envelope each has its place in its trace';
like $two, qr/^00-$trace-(?!$parent)[0-9a-f]{16}-00$/, 'and the next one';
isnt substr($one, 36, 16), substr($two, 36, 16), 'as a span of its own';
is $bad, undef, 'if it has a good one';
doc($_) for @traced;


# ---- a status for each

@jobs = map { post('/lines/own?items=objects', $_) }
    { n => 1, said => 'fine' }, { n => 2, status => 422, said => 'no' },
    { n => 3, status => 503 }, { n => 4 }, { n => 5, status => 404 };
one('/lines/own');
ok wait_until(20, sub { !grep { $n->status($_)->{status} =~ /queued|running/ }
                        @jobs[0, 1, 3, 4] }), 'four of them are settled';
@docs = map { $n->status($_) } @jobs;
is_deeply [ map { $_->{status} } @docs ],
    [ qw(completed failed queued completed failed) ],
    'each by its own status, the one with 503 is to be tried again';
is_deeply [ map { $_->{response}{status} // 0 } @docs ],
    [ 200, 422, 0, 200, 404 ], 'which it has';
is $docs[1]{error}{code}, 'backend_status', 'an error like any other';
is result($jobs[0]), '{"said":"fine"}', 'what was said to it is its result';
is result($jobs[3]), '{"status":200}', 'or all there is about it';

my ($body, $answer) = result($jobs[1]);

is $body, '{"said":"no"}', 'of one that failed, too';
is $answer->{status}, 422, 'with its status';
is $answer->{h}{'content-type'}, 'application/json', 'as JSON';

my @more = map { post('/lines/own?items=objects', { n => $_ }) } 6 .. 9;

$r = one('/lines/own', 2);
is_deeply [ map { $_->{n} } @{ $r->{items} } ], [ 3, 6 .. 9 ],
    'the one goes with the next batch, the oldest first';
doc($_) for @more;
@more = map { post('/lines/own?items=objects', { n => $_ }) } 10 .. 13;
is doc($jobs[2])->{status}, 'failed', 'until its attempts are used up';
is $n->status($jobs[2])->{attempts}, 3, 'of which it had three';
is $n->counters->{store}{dead}, 1, 'a dead letter, by itself';
doc($_) for @more;

for (['wrap,objects', 'in an object'], ['ints', 'as numbers']) {
    my ($how, $name) = @$_;

    @jobs = map { post("/array/$how?items=$how", { n => $_,
                       status => $_ == 2 ? 409 : 201 }) } 1 .. 3;
    is_deeply [ map { doc($_)->{response}{status} } @jobs ], [ 201, 409, 201 ],
        "statuses $name";
}

is result($jobs[0]), '', 'a number says nothing more';

@jobs = map { post('/array/after?items=objects',
                   { status => $_, after => 3600 }) } 503, 200, 200;
ok wait_until(20, sub {
    $n->worker_log =~ /job=$jobs[0]{id} .*again_in_ms=(3[67]\d{5})/ }),
    'an item says when to come again';
$n->request(DELETE => $_->{path}) for @jobs;


# ---- answers that are none

@jobs = map { post('/array/short?items=short', { n => $_ }) } 1 .. 3;
@docs = map { doc($_) } @jobs;
is_deeply [ map { "$_->{status} $_->{error}{code}" } @docs ],
    [ ('failed invalid_batch_answer') x 3 ],
    'an array that is too short says nothing of anyone';
is $docs[0]{error}{message}, "the backend's answer has 2 statuses for 3 items",
    'which everyone is told';
is scalar(() = seen('/array/short')), 1, 'it is not sent again';

@jobs = map { post('/array/bad?items=bad', { n => $_ }) } 1 .. 3;
@docs = map { doc($_) } @jobs;
is_deeply [ map { $_->{status} } @docs ], [ qw(failed completed completed) ],
    'an entry without a status is a loss for its job only';
like $docs[0]{error}{message}, qr/no status from 200 to 599 for item 0/,
    'and says so';

@jobs = map { post('/array/207?status=207', { n => $_ }) } 1 .. 3;
like doc($_)->{error}{message} // '', qr/answered 207 without an array/,
    '207 has to have statuses' for @jobs;

# an array of something else, and an error for all

@jobs = map { post('/array/error?status=400&items=ints', { n => $_ }) } 1 .. 3;
is doc($_)->{response}{status}, 400, 'an error is everyone\'s' for @jobs;
@jobs = map { post('/soon/large?size=3000', { n => $_ }) } 1 .. 2;
is doc($_)->{error}{code}, 'result_too_large', 'offload_max_result holds'
    for @jobs;
@jobs = map { post('/cut/large?size=3000', { n => $_ }) } 1 .. 2;
is doc($_)->{response}{truncated}, JSON::PP::true, 'as does its truncate'
    for @jobs;
is length result($jobs[0]), 2048, 'so many bytes';
@jobs = map { post('/fair/large?size=70000', { n => $_ }) } 1 .. 4;
is doc($_)->{error}{code}, 'result_too_large',
    'of a large answer there are not hundreds of copies' for @jobs[0, 3];
@jobs = map { post('/array/defer?status=202&h=Offload-Defer:1', { n => $_ }) }
        1 .. 3;
is doc($_)->{status}, 'completed', 'it can not be deferred' for @jobs;


# ---- items that are none

@jobs = map { post('/lines/json', $_) }
    '{"n":1}', '{"n":2', '', "{\"n\":\xff}", '{"n":5}{"n":6}';
@docs = map { doc($_) } @jobs[1 .. 4];
is_deeply [ map { "$_->{status} $_->{error}{code}" } @docs ],
    [ ('failed invalid_item') x 4 ], 'no JSON, no batch';
like $docs[0]{error}{message}, qr/^the body is no JSON: ./, 'why';
is doc($jobs[0])->{status}, 'completed', 'which is no loss for the others';
is +(seen('/lines/json'))[0]{text}, "{\"n\":1}\n", 'nobody is sent it';
is scalar(() = seen('/lines/json')), 1, 'once';

@jobs = map { post('/lines/none', '{') } 1 .. 5;
is doc($_)->{error}{code}, 'invalid_item', 'no item at all' for @jobs;
is scalar(() = seen('/lines/none')), 0, 'no request';

# numbers are not touched

@jobs = map { post('/array/num', "[1.10,12345678901234567890123,1e2,$_]") }
        1 .. 3;
like one('/array/num')->{text}, qr/\[1\.10,12345678901234567890123,1e2,1\]/,
    'numbers are not touched';
doc($_) for @jobs;


# ---- what does not go together

my @apart = (
    [ '/fair/a', 'Authorization', 'Bearer one' ],
    [ '/fair/a', 'Authorization', 'Bearer two' ],
    [ '/fair/a', 'X-Api-Key', 'k' ],
    [ '/fair/a', 'Cookie', 'c=1' ],
    [ '/fair/a?q', 'X-Nothing', '' ],
    [ '/fair/a', 'X-Tenant', 't' ],
    [ '/kept/a', 'X-User', 'me' ],
    [ '/kept/a', 'X-User', 'you' ],
);

for my $count (1 .. 4) {
    post($_->[0], { own => "@$_" }, @$_[1, 2]) for @apart;
}

ok wait_until(20, sub { @apart == grep { $_->{uri} =~ m{^/(fair|kept)/a} }
                        $b->journal(event => 'request') }),
    'as many requests as kinds';

for my $r (grep { $_->{uri} =~ m{^/(fair|kept)/a} }
           $b->journal(event => 'request'))
{
    my %own = map { $_->{own} => 1 } @{ $r->{items} };
    my ($own) = keys %own;
    my (undef, $name, $value) = split / /, $own, 3;

    is scalar(keys %own), 1, "$own: with its like only";
    is header($r, $name), $value // '', 'and says so'
        if $name !~ /nothing/i;
}


# ---- sizes

my @large = together('soon', map { [ '/soon/size',
                                     { n => $_, x => 'y' x 30_000 } ] } 1 .. 4);

doc($_) for @large;
is_deeply [ map { scalar @{ $_->{items} } } seen('/soon/size') ], [ 2, 2 ],
    'no more than fit into max go together';
is $n->request(POST => '/soon/', body => 'x' x 70_000)->{status}, 413,
    'a body that does not fit is refused';
is $n->request(POST => '/soon/', chunked => 1, body => 'x' x 70_000)->{status},
    413, 'of unknown length as well';
is doc(post('/soon/one', { n => 1 }))->{status}, 'completed',
    'one that nobody comes to join goes alone';
is +(seen('/soon/one'))[0]{text}, "{\"n\":1}\n", 'as a batch of one';
is $n->request(POST => '/lines/', body => 'x' x 1_100_000)->{status}, 413,
    'client_max_body_size holds as well';


# a batch is not one client's request

@jobs = map { post('/bound/x', { n => $_, x => 'y' x 900 }) } 1 .. 4;
$r = one('/bound/x');
is $r->{length}, 4 * length($json->encode({ n => 1, x => 'y' x 900 })) + 4,
    'together they may be larger than client_max_body_size';
is header($r, 'Content-Length'), $r->{length}, 'and the backend knows how long';
is doc($_)->{status}, 'completed', 'all is well' for @jobs;
is $n->request(POST => '/bound/x', body => 'x' x 1025)->{status}, 413,
    'what one sends may not';
@jobs = map { post('/fair/files', { n => $_, x => 'y' x 300_000 }) } 1 .. 4;
is_deeply [ map { length $_->{x} } @{ one('/fair/files')->{items} } ],
    [ (300_000) x 4 ], 'bodies that came by files';
is doc($_)->{status}, 'completed', 'are as good' for @jobs;


# ---- the others go on

@jobs = map { post('/lines/cancel?gate=cancel', { n => $_ }) } 1 .. 5;
one('/lines/cancel');
is $n->request(DELETE => $jobs[0]{path})->{status}, 200, 'one is canceled';
is $n->status($jobs[0])->{status}, 'canceled', 'it is';
my @wait = map { post('/lines/wait', { n => $_ }) } 1 .. 5;
is $n->status($jobs[1])->{status}, 'running', 'the others run';
my $queue = control($n, GET => '/v1/queues/lines');

is "$queue->{running} of $queue->{limit} by $queue->{batch}", '1 of 1 by 5',
    'in the one place there is';
is scalar(() = $b->journal(event => 'abort')), 0, 'the request is not cut';
$b->open_gate('cancel');
is doc($_)->{status}, 'completed', 'and are done' for @jobs[1 .. 4];
is doc($_)->{status}, 'completed', 'then come the next' for @wait;

@jobs = map { post('/lines/cut?gate=never', { n => $_ }) } 1 .. 5;
one('/lines/cut');
$n->request(DELETE => $_->{path}) for @jobs;
ok $b->wait_for(1, event => 'abort'), 'nobody is left: the request is cut';
ok wait_until(20, sub {
    control($n, GET => '/v1/queues/lines')->{running} == 0 }),
    'its place is free';


# ---- killed in between

@jobs = map { post('/lines/kill?gate=kill&items=objects',
                   { n => $_, said => $_ }) } 1 .. 5;
one('/lines/kill');
again();
$b->open_gate('kill');
is doc($_)->{attempts}, 2, 'after a kill all are sent again, and say so'
    for @jobs;
is_deeply [ map { decode_json(result($_))->{said} } @jobs ], [ 1 .. 5 ],
    'each has its own answer';

@jobs = map { post('/lines/term?gate=term', { n => $_ }) } 1 .. 5;
one('/lines/term');
kill 'TERM', $pid;
waitpid $pid, 0;
is $?, 0, 'told to stop, it hands them back';
is $n->status($jobs[4])->{status}, 'queued', 'all of them';
$b->open_gate('term');
$pid = $n->by_hand;
is doc($_)->{attempts}, 2, 'for the next worker' for @jobs;

@jobs = together('soon', map { [ '/once/kill?gate=once', { n => $_ } ] }
                         1 .. 3);
one('/once/kill');
again();
is doc($_)->{error}{code}, 'lost', 'at most once: not again' for @jobs;
$b->open_gate('once');

# a connection that is cut costs each of them a strike

@jobs = map { post('/soon/close?close=head&cut=1', { n => $_ }) } 1 .. 3;
is doc($_)->{status}, 'completed', 'cut off: sent again' for @jobs;
is $n->status($jobs[0])->{attempts}, 2, 'the second time';


# ---- other ways

@jobs = map { post('/straight/?items=objects', { n => $_, said => $_ }) } 1, 2;
$r = one('/straight?');
is $r->{text}, "{\"n\":1,\"said\":1}\n{\"n\":2,\"said\":2}\n", 'to a URL';
is header($r, 'Offload-Batch'), 2, 'which is told';
is_deeply [ map { doc($_); decode_json(result($_))->{said} } @jobs ], [ 1, 2 ],
    'and answers each';

@jobs = map { post('/command/', { n => $_ }) } 1 .. 3;
is_deeply [ map { doc($_)->{response}{status} } @jobs ], [ 200, 333, 200 ],
    'by a command';
like $n->worker_log, qr/\{\\?"n\\?":3\}/, 'that reads all of them';


# ---- the configuration changes while jobs wait

@jobs = map { post('/fair/reload', { n => $_ }) } 1 .. 3;
ok wait_until(20, sub {
    control($n, GET => '/v1/queues/fair')->{waiting} == 3 }), 'three wait';
$n->write_conf(http => $n->{http} =~ s/(queue fair .*?size=)4/${1}3/sr);
ok $n->reload, 'a reload makes three enough';
is doc($_)->{status}, 'completed', 'and they go' for @jobs;
is scalar(() = seen('/fair/reload')), 1, 'together';
@jobs = map { post('/fair/off', { n => $_ }) } 1 .. 2;
ok wait_until(20, sub {
    control($n, GET => '/v1/queues/fair')->{waiting} == 2 }), 'two wait';
$n->write_conf(http => $n->{http} =~ s/(queue fair .*?)batch[^;]*;/$1/sr);
ok $n->reload, 'no batches any more';
is doc($_)->{status}, 'completed', 'they go' for @jobs;
is_deeply [ map { header($_, 'Offload-Batch') } seen('/fair/off') ], [ '', '' ],
    'each by itself';

# what was accepted before there were batches may have nothing in common

control($n, POST => '/v1/queues/fair/pause');
@jobs = map { post("/fair/on/$_", { n => $_ }, 'Authorization', "user $_") }
        1, 2, 1;
ok wait_until(20, sub {
    control($n, GET => '/v1/queues/fair')->{waiting} == 3 }), 'three wait';
$n->write_conf(http => $n->{http}
               =~ s/(queue fair [^{]*\{)/$1 batch size=3 linger=1s;/r);
ok $n->reload && wait_until(20, sub {
    (control($n, GET => '/v1/queues/fair')->{batch} // 0) == 3 }),
    'batches again';
control($n, POST => '/v1/queues/fair/resume');
is doc($_)->{status}, 'completed', 'they go' for @jobs;
is_deeply [ sort map { $_->{uri} . ' ' . header($_, 'Authorization') . ' '
                       . header($_, 'Offload-Batch') } seen('/fair/on') ],
    [ '/fair/on/1 user 1 2', '/fair/on/2 user 2 1' ],
    'with their like, if they have any';

Offload::finish_all();
