# What is tried again, and what is not: a POST that was done twice is an order
# delivered twice, a job given up because its backend was restarted is an order
# lost.  A real backend refuses, answers, hangs and comes back; the time
# between attempts passes by a clock that is set.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Offload;
use Ports;
use POSIX ();
use Test::More;

my $down = Ports::pick();
my $back = Backend->start;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(), zone => 'jobs 8m path=%%ZONE%%',
    http => <<"EOT")->start;
upstream two { server 127.0.0.1:$down; server %%BACKEND%% backup; }
upstream none { server 127.0.0.1:$down max_fails=0; }
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /down/ { offload jobs; proxy_pass http://none; }
    location /page/ {
        offload jobs; proxy_pass http://none; error_page 502 =503 /sorry;
    }
    location /sorry { internal; return 503 "sorry"; }
    location /cut/ {
        offload jobs; proxy_pass http://%%BACKEND%%; error_page 502 =503 /sorry;
    }
    location /two/ { offload jobs; proxy_pass http://two; }
    location /brief/ {
        offload jobs; offload_timeout 1s; proxy_pass http://%%BACKEND%%;
    }
    location /once/ {
        offload jobs; offload_delivery at-most-once;
        proxy_pass http://%%BACKEND%%;
    }
    location /once/down/ {
        offload jobs; offload_delivery at-most-once; proxy_pass http://none;
    }
    location /never/ { offload never; proxy_pass http://%%BACKEND%%; }
    location /never/down/ { offload never; proxy_pass http://none; }
    location /own/ { offload own; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
offload_queue never zone=jobs { retry off; }
offload_queue own zone=jobs {
    retry max=2 backoff=100s..100s jitter=none on=500 methods=POST;
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);

$n->offloadd;


# Runs a job to its end, however far that is; (its document, when it was seen
# at the backend, the job).

sub end_of {
    my ($method, $uri, %o) = @_;
    my $job = $n->submit($method, $uri, body => 'x', %o) or return {};
    my $doc;

    Offload::wait_until(40, sub {
        $clock->ahead(60);
        $doc = $n->wait_status($job, 'completed|failed', deadline => 0.2);
        ($doc->{status} // '') =~ /^(?:completed|failed)$/;
    });

    return ($doc, scalar $back->journal(event => 'request',
                                        job => $job->{id}), $job);
}


sub seen {
    my ($job) = @_;

    return scalar(my @seen = $back->journal(event => 'request',
                                            job => $job->{id}));
}


sub is_end {
    my ($what, $method, $uri, $attempts, $end, %o) = @_;
    my ($doc, undef, $job) = end_of($method, $uri, %o);
    my $is = join ' ', $doc->{status} // 'pending', $doc->{attempts} // 0,
             $doc->{error} ? $doc->{error}{code} : ();

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is $is, ($end eq 'completed' ? "completed $attempts"
                                 : "failed $attempts $end"), $what
        or diag $n->log_tail;

    return ($doc, $job);
}


# ---- answers

for my $status (429, 503) {
    my ($doc, $job) = is_end("POST, $status twice, then 200", POST =>
        "/a?status=$status&cut=2", 3, 'completed');

    is seen($job), 3, '... and the backend saw each attempt';
    is $n->result($job)->{status}, 200, '... and the last answer is the result';
}

is_end('PUT, 502 once', PUT => '/a?status=502&cut=1', 2, 'completed');
is_end('GET, 504 once', GET => '/a?status=504&cut=1', 2, 'completed');
is_end('POST, 502', POST => '/a?status=502&cut=1', 1, 'backend_status');
is_end('POST, 504', POST => '/a?status=504&cut=1', 1, 'backend_status');
is_end('GET, 500', GET => '/a?status=500&cut=1', 1, 'backend_status');
is_end('GET, 404', GET => '/a?status=404&cut=1', 1, 'backend_status');
is_end('at most once, 503', POST => '/once/a?status=503&cut=1', 1,
       'backend_status');

my ($doc, $job) = is_end('Offload-No-Retry', POST =>
    '/a?status=503&h=Offload-No-Retry:1', 1, 'backend_status');

ok !exists $n->result($job)->{h}{'offload-no-retry'}, '... is not passed on';

# a large answer goes into a file: those of attempts that failed do not stay
($doc, $job) = is_end('503 for ever, and large', POST =>
    '/a?status=503&size=200000', 5, 'backend_status');
like $doc->{error}{message}, qr/answered 503, and 5 attempts/, '... says so';
is $n->result($job)->{status}, 503, '... and has the last answer';
is_deeply [ map { s{.*/}{}r } glob $n->policy->{store} . '/blobs/*' ],
    [ "$job->{id}.5" ], '... and no other is kept';


# ---- connections

is_end('POST, nobody there', POST => '/down/x', 5, 'exhausted');
is_end('nobody there, and an error page of another status', POST =>
       '/page/x', 5, 'exhausted');
is_end('at most once, nobody there', POST => '/once/down/x', 5, 'exhausted');
is_end('one is not there, another is', POST => '/two/x', 1, 'completed');
is_end('cut, POST', POST => '/a?cut=1', 1, 'backend_status');
is_end('cut, POST, and an error page that says 503', POST => '/cut/a?cut=1',
       1, 'backend_status');
is_end('cut, PUT', PUT => '/a?cut=1', 2, 'completed');
is_end('a forged word', POST =>
       '/a?status=502&h=Offload-Upstream:connect&cut=1', 1, 'backend_status');
is_end('a forged word that would take an answer away', POST =>
       '/a?status=500&h=Offload-Upstream:cut', 1, 'backend_status');

# one of two has had the request, the other has not
$n->write_conf(http => $n->{http} =~
    s/upstream two \{.*?\}/upstream two { server %%BACKEND%% max_fails=0;
                                    server 127.0.0.1:$down backup; }/rs);
$n->reload;
is_end('PUT: cut by the first, refused by the second', PUT => '/two/x?cut=1',
       2, 'completed');


# ---- time

is_end('POST, no answer in time', POST => '/brief/x?gate=never', 1, 'timeout');

$job = $n->submit(GET => '/brief/x?gate=later');
Offload::wait_until(20, sub { $clock->ahead(60);
                              $n->status($job)->{attempts} > 1 });
$back->open_gate('later');
$doc = $n->settled($job);
is $doc->{status}, 'completed', 'GET, no answer in time: another attempt';


# ---- as configured

is_end('retry off, 503', POST => '/never/a?status=503', 1, 'backend_status');
is_end('retry off, nobody there', POST => '/never/down/a', 1,
       'backend_status');
is_end('on=500 methods=POST, 500', POST => '/own/a?status=500&cut=1', 2,
       'completed');
is_end('... GET', GET => '/own/a?status=500&cut=1', 1, 'backend_status');
is_end('... 503', POST => '/own/a?status=503&cut=1', 1, 'backend_status');
is_end('max=2', POST => '/own/a?status=500', 2, 'backend_status');


# ---- when

sub again_in_ms {
    my ($job) = @_;
    my $ms;

    Offload::wait_until(20, sub {
        ($ms) = $n->worker_log
                =~ /msg="attempt failed" job=$job->{id} .*again_in_ms=(\d+)/;
        defined $ms });

    # logged before it is committed
    $n->wait_status($job, 'queued') if ($ms // 0) > 5000;

    return $ms;
}

sub waits {
    my ($what, $value, $from, $to) = @_;
    my $job = $n->submit(POST => "/a?status=503&h=Retry-After:$value",
                         body => 'x');
    my $ms = again_in_ms($job) // -1;

    ok $ms >= $from * 1000 && $ms <= $to * 1000,
        "$what: again in $from to $to s" or diag "$ms ms";
    is $n->status($job)->{status}, 'queued', '... and it is queued till then'
        if $from > 5;
    is $n->status($job)->{attempts}, 1, '... with its attempt counted';
    $n->request(DELETE => $job->{path});
}

waits('Retry-After: 40', 40, 40, 41);
waits('Retry-After: a day', 86400, 3600, 3601);
$job = $n->submit(POST => '/own/a?status=500');
is again_in_ms($job), 100_000, 'backoff=100s jitter=none: again in 100 s';
$n->request(DELETE => $job->{path});

waits('Retry-After: nonsense', 'nonsense', 0, 1);

my $date = POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT',
                           gmtime(time + $clock->{ms} / 1000 + 200));

waits('Retry-After: a date', $date =~ s/ /%20/gr, 190, 202);


# ---- killed while it waits: it waits on

$job = $n->submit(POST => '/a?status=503&h=Retry-After:600&cut=1');
again_in_ms($job);
kill 'KILL', $pid;
waitpid $pid, 0;
$pid = $n->by_hand(undef, $clock->env);
$n->offloadd;
is $n->status($job)->{status}, 'queued', 'killed meanwhile: queued';
$clock->ahead(590);
is seen($job), 1, 'and not sent before its time';
$clock->ahead(12);
is $n->settled($job)->{status}, 'completed', 'but then';

Offload::finish_all();
