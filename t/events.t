# People wait at a page, programs at a queue: both want to be told instead of
# asking.  A stream must say every change once, come back where it was cut
# off, end by itself, and cost nobody anything when its reader is slow or
# gone, or when nginx is reloaded under it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Events;
use JSON::PP;
use Offload;
use Report;
use Test::More;
use Util qw(alive read_file wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    zone => 'jobs 16m path=%%ZONE%% concurrency=1', http => <<'EOT')->start;
offload_heartbeat 10m;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
    location /beating/ { offload_status jobs; offload_heartbeat 200ms; }
    location /zipped/ {
        offload_status jobs;
        gzip on;
        gzip_types text/event-stream;
        gzip_min_length 0;
        gzip_vary on;
    }
    location /limited/ { offload_status jobs; limit_rate 200; }
    location = /stub { stub_status; }
}
server {
    listen 127.0.0.1:%%PORT2%% http2;
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT3%% sndbuf=4k;
    large_client_header_buffers 4 64k;
    location /jobs/ { offload_status jobs; send_timeout 1h; }
    location /timed/ { offload_status jobs; send_timeout 1s; }
}
EOT

sub events {
    my ($job, %o) = @_;
    my $path = $job->{path} =~ s{^/jobs/}{/$o{at}/}r if $o{at};

    return Events->open($n->port($o{port}), $path // $job->{path}, %o);
}


# A job that ends when the gate is opened.  One comes after the other, though
# they were taken by different processes.

sub gated {
    my ($gate) = @_;
    my $job = $n->submit(POST => "/g?gate=$gate", body => 'x');

    wait_until(30, sub {
        my $doc = $n->status($job);
        $doc->{status} ne 'queued' || $doc->{queue_position} });

    return $job;
}


sub connections {
    return $n->get('/stub')->{body} =~ /Active connections: (\d+)/ ? $1 : -1;
}


# from the queue to the end

my ($first, $second, $third) = map { gated($_) } qw(a b c);

my $s = events($third);

is $s->{status}, 200, 'a stream: 200';
is $s->{h}{'content-type'}, 'text/event-stream', 'its type';
is $s->{h}{'cache-control'}, 'no-store', 'not to be cached';
is $s->{h}{vary}, 'Accept', 'other representations are there';
is $s->{h}{'transfer-encoding'}, 'chunked', 'it can end and be continued';

my $e = $s->next;

is $e->{event}, 'queued', 'first what it is now: queued';
is $e->{doc}{status}, 'queued', 'with the document';
is $e->{doc}{job_id}, $third->{id}, 'of this job';
is $e->{doc}{queue_position}, 2, 'and its place';
like $s->{retry}, qr/^1\d\d\d$/, 'when to come back';

my $queued = $e->{id};

$b->open_gate('a');
$e = $s->next;
is $e->{event}, 'position', 'the queue moved';
is $e->{doc}{queue_position}, 1, 'one place on';
isnt $e->{id}, $queued, 'that is another version';

$b->open_gate('b');
$e = $s->next;
is $e->{event}, 'running', 'running';
is $e->{doc}{attempts}, 1, 'by its first attempt';

my $running = $e->{id};
my $late = events($third);
my $resumed = events($third, last => $running);
my $behind = events($third, last => $queued);

is $late->next->{event}, 'running', 'who comes late is told what it is now';
is $behind->next->{event}, 'running', 'and so is who was away';

$b->open_gate('c');
$e = $s->next;
is $e->{event}, 'completed', 'completed';
is_deeply $e->{doc}, $n->status($third), 'with the document as it stays';
is $s->next, undef, 'that is the end';
is $s->{end}, 'whole', 'a regular one';

is_deeply [ $resumed->rest ], [ 'completed' ],
    'who has seen it does not see it again';
is $resumed->{end}, 'whole', 'and sees the end';
is_deeply [ $late->rest ], [ 'completed' ], 'all others too';

my $completed = $e->{id};

$s = events($third);
is_deeply [ $s->rest ], [ 'completed' ], 'settled: one event';
is $s->{end}, 'whole', 'and the end';

$s = events($third, last => $running);
is_deeply [ $s->rest ], [ 'completed' ], 'missed the last event: it comes';

for my $id ('', '0', "$completed.1", substr($completed, 0, -1), 'x' x 3000,
            "\xff\xfe", '1.1.1.1.1', '-1', "$completed, 1")
{
    is_deeply [ events($third, last => $id)->rest ], [ 'completed' ],
        'an id that is none: ' . substr $id, 0, 20;
}

my $r = $n->get($third->{path}, headers => [
    Accept => 'text/event-stream', 'Last-Event-ID' => $completed ]);

is $r->{status}, 204, 'seen to the end: 204, browsers stop';
ok !exists $r->{h}{'content-type'}, 'which has no type';
is $r->{body}, '', 'and no body';
is $r->{h}{vary}, 'Accept', 'but says why';


# what is accepted decides

my %format = (json => 'application/json', events => 'text/event-stream',
              html => 'text/html; charset=utf-8');
my @accept = (
    [ 'json',   undef ],
    [ 'json',   '*/*' ],
    [ 'json',   '' ],
    [ 'json',   'application/json' ],
    [ 'json',   'image/png' ],
    [ 'json',   'text/plain, application/*' ],
    [ 'json',   'application/json, text/plain, */*' ],
    [ 'json',   'text/html, application/json' ],
    [ 'json',   'text/html;q=0.9, application/json;q=0.91' ],
    [ 'json',   'text/html;q=0' ],
    [ 'json',   'text/html;q=0.0, text/event-stream;q=0.000, */*;q=0.001' ],
    [ 'json',   'text/htmlx, ext/html, text' ],
    [ 'events', 'text/event-stream' ],
    [ 'events', 'Text/Event-Stream;charset=utf-8' ],
    [ 'events', 'application/json;q=0.5,text/event-stream' ],
    [ 'events', 'text/*' ],
    [ 'events', 'text/html;q=0.2, text/*;q=0.3, */*;q=0.1' ],
    [ 'html',   'text/html' ],
    [ 'html',   "text/html,\tapplication/xhtml+xml,application/xml;q=0.9,"
                . 'image/avif,image/webp,*/*;q=0.8' ],
    [ 'html',   'text/html ; level=1 ; Q=0.7, */* ;q=0.3' ],
    [ 'html',   'application/json;q=0.3;x="a,text/event-stream", text/html' ],
    [ 'html',   '*/*, application/json;q=0, text/event-stream;q=0.9' ],
);

for (@accept) {
    my ($want, $accept) = @$_;

    $r = $n->get($third->{path},
                 headers => defined $accept ? [ Accept => $accept ] : []);
    is "$r->{status} $r->{h}{'content-type'}", "200 $format{$want}",
        'Accept ' . ($accept // 'missing') . ": $want";
    like $r->{h}{vary}, qr/^Accept/, '.. which depends on Accept';
}

$r = $n->get($third->{path}, headers => [ Accept => 'application/json;q=0.1',
                                          Accept => 'text/event-stream' ]);
is $r->{h}{'content-type'}, $format{events}, 'Accept in two lines';

$r = $n->request(DELETE => $third->{path}, headers => [
    Accept => 'text/event-stream' ]);
is $r->{h}{'content-type'}, $format{json}, 'DELETE answers with JSON';

$r = $n->request(HEAD => $third->{path}, headers => [
    Accept => 'text/event-stream' ]);
is "$r->{status} $r->{h}{'content-type'} $r->{body}", "200 $format{events} ",
    'HEAD: the same head, and no stream';

my $wrong = $third->{id} =~ tr/0-9/1-90/r;

Offload::problem($n->get("/jobs/$wrong", headers => [
    Accept => 'text/event-stream' ]), 404, 'no such job: a problem');


# heartbeats, and progress between them

my $job = gated('p');

$n->wait_status($job, 'running');
$s = events($job, at => 'beating');
is $s->next->{event}, 'running', 'a stream with a heartbeat';
is $s->any->{comment}, '', 'has comments' for 1 .. 3;

is Report::progress($n, Report::place($b, $job), { progress => 43 })->{status},
    204, 'progress is reported';
$e = $s->next;
is "$e->{event} $e->{doc}{progress}", 'progress 43', 'and told';
$resumed = events($job, at => 'beating', last => $e->{id});
ok defined $resumed->any->{retry}, 'with its id: nothing';
is $resumed->any->{comment}, '', '.. but heartbeats';
$b->open_gate('p');
is_deeply [ $s->rest ], [ 'completed' ], 'to the end';
is_deeply [ $resumed->rest ], [ 'completed' ], 'both of them';


# compressed, each event at once

$job = gated('z');
$n->wait_status($job, 'running');
$s = events($job, at => 'zipped', gzip => 1);
is $s->{h}{'content-encoding'}, 'gzip', 'a compressed stream';
is $s->next->{event}, 'running', 'is not held back';
$b->open_gate('z');
is_deeply [ $s->rest ], [ 'completed' ], 'and ends';
is $s->{end}, 'whole', 'as it should';


# HTTP/2

$job = gated('h2');
$n->wait_status($job, 'running');

my $pid = open my $curl, '-|', 'curl', '-sSN', '-m', 60,
    '--http2-prior-knowledge', '-H', 'Accept: text/event-stream',
    'http://127.0.0.1:' . $n->port(2) . $job->{path} or die "curl: $!\n";

my @lines;

while (my $line = <$curl>) {
    push @lines, $line =~ /^event: (\w+)/ ? $1 : ();
    $b->open_gate('h2') if $line =~ /^data: .*"running"/;
}

is_deeply \@lines, [ 'running', 'completed' ], 'HTTP/2: event by event';
ok close $curl, 'HTTP/2: it ends by itself';

is `curl -s -m 20 -o /dev/null -w '%{http_version} %{http_code}' \\
    --http2-prior-knowledge -I -H 'Accept: text/event-stream' \\
    http://127.0.0.1:${\ $n->port(2) }$job->{path}`, '2 200', 'HTTP/2: HEAD';


# A client that does not read blocks by its first event, since that is as
# large as its Host.  What happened meanwhile is told by one event.

my $host = join '.', ('x' x 60) x 700;
my $before = connections();

my $front = gated('front');

$job = gated('slow');
$n->wait_status($front, 'running');

my @unread = (port => 3, rcvbuf => 2304, host => $host, unread => 1);
my $timed = events($job, @unread, at => 'timed');
my $slow = events($job, @unread);
my $rated = events($job, at => 'limited');

is $rated->next->{event}, 'queued', 'limit_rate: it comes, slowly';
ok wait_until(30, sub {
    read_file("$n->{prefix}/error.log") =~ m{client timed out.*/timed/} }),
    'who does not read is left after send_timeout';
ok wait_until(30, sub { connections() == $before + 2 }),
    'and has no connection any more';

$b->open_gate($_) for qw(front slow);
$n->settled($job);
$slow->head;
is_deeply [ $slow->rest ], [ 'queued', 'completed' ],
    'who reads at last is told how it is, not how it came about';
is $slow->{end}, 'whole', 'and the end';
is((grep { $_ eq 'completed' } $rated->rest), 1, 'limit_rate: to the end');

$timed->head;
$timed->rest;
is $timed->{end}, 'cut', 'the other was cut off';


# a client that leaves takes everything with it

$job = gated('leave');
$n->wait_status($job, 'running');
$before = connections();

my @many = map { events($job) } 1 .. 40;

is_deeply [ map { $_->next->{event} } @many ], [ ('running') x 40 ],
    'forty streams';
is connections(), $before + 40, 'have a connection each';
@many = ();
ok wait_until(30, sub { connections() == $before }),
    'and when the clients go they are gone, though nothing happened';


# a reload ends streams, clients come back

my @old = $n->workers;

@many = map { events($job) } 1 .. 10;
$_->next for @many;

my ($id) = map { $_->{id} } events($job)->next;

kill 'HUP', $n->master;

is_deeply [ map { join ' ', $_->rest, $_->{end} } @many ], [ ('whole') x 10 ],
    'a reload ends streams, whole';
@many = map { events($job, last => $id) } 1 .. 10;
$b->open_gate('leave');
is_deeply [ map { join ' ', $_->rest, $_->{end} } @many ],
    [ ('completed whole') x 10 ], 'and go on in the new ones';
ok wait_until(30, sub { !grep { alive($_) } @old }),
    'the old processes leave';


# offloadd dies: the job is attempted again, and watched again

$job = gated('die');
$n->wait_status($job, 'running');
$s = events($job);
is $s->next->{doc}{attempts}, 1, 'the first attempt';

my $worker = $n->offloadd;

kill 'KILL', $worker;
ok $n->offloadd(not => $worker), 'offloadd was killed and started again';
$b->wait_for(1, event => 'request', job => $job->{id}, attempt => 2);

while (($e = $s->next) && $e->{event} eq 'queued') { }

is "$e->{event} $e->{doc}{attempts}", 'running 2', 'the second attempt';
$b->open_gate('die');
is_deeply [ $s->rest ], [ 'completed' ], 'and its end';


# nginx's processes die, and with them streams and attempt

$job = gated('killed');
$n->wait_status($job, 'running');
@many = map { events($job) } 1 .. 10;
($id) = map { $_->next->{id} } @many;
@old = $n->workers;
$n->allow(qr/worker process \d+ exited on signal 9/);
kill 'KILL', @old;
is_deeply [ map { $_->rest; $_->{end} } @many ], [ ('cut') x 10 ],
    'nginx dies: streams are cut off';
ok wait_until(30, sub {
    my @new = $n->workers;
    @new == 2 && !grep { $_ == $old[0] || $_ == $old[1] } @new }),
    'there are new processes';
$b->wait_for(1, event => 'request', job => $job->{id}, attempt => 2);
$n->wait_status($job, 'running');
@many = map { events($job, last => $id) } 1 .. 10;
is_deeply [ map { my $e = $_->next; "$e->{event} $e->{doc}{attempts}" } @many ],
    [ ('running 2') x 10 ], 'who comes back is told what is new';
$b->open_gate('killed');
is_deeply [ map { join ' ', $_->rest, $_->{end} } @many ],
    [ ('completed whole') x 10 ], 'and the end';


# canceled

my ($one, $two) = (gated('cancel'), gated('cancel'));

$n->wait_status($one, 'running');
$s = events($_) for $two;
is $s->next->{event}, 'queued', 'one that waits';
$n->request(DELETE => $two->{path});
is_deeply [ $s->rest ], [ 'canceled' ], 'is canceled';
$b->open_gate('cancel');
$n->settled($one);

Offload::finish_all();
