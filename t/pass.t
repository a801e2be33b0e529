# Backends that nginx does not stand in front of.  What goes to them is the
# client's request and not our bookkeeping, the certificate has to be theirs,
# and what they answer can't pretend to come from nginx.  Real TLS, real
# refusals; policies hold as for replays.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use IO::Socket::INET;
use IO::Socket::IP;
use Offload;
use Ports;
use Test::More;
use Util qw(write_file);

my $b = Backend->start;
my $down = Ports::pick();
my $deaf = Ports::pick();
my $six = IO::Socket::IP->new(LocalHost => '::1', Listen => 1)
          ? 'listen [::1]:%%PORT%%;' : '';
my $n = Offload->new(backend => $b, workers => 1, http => <<"EOT");
offload_queue straight zone=jobs {
    pass  http://%%BACKEND%%/api/v1;
    retry max=2 backoff=10ms jitter=none;
}
offload_queue down zone=jobs {
    pass  http://127.0.0.1:$down/; retry max=2 backoff=10ms jitter=none;
}
offload_queue once zone=jobs { pass http://127.0.0.1:$down/; retry off; }
offload_queue tls zone=jobs {
    pass https://localhost:%%PORT2%%/tls ca=%%PREFIX%%/ca.pem; retry off;
}
offload_queue unknown zone=jobs {
    pass https://localhost:%%PORT2%%/tls; retry off;
}
offload_queue expired zone=jobs {
    pass https://localhost:%%PORT3%%/ ca=%%PREFIX%%/expired.pem; retry off;
}
offload_queue strict zone=jobs { pass http://localhost:%%PORT%%/strict; }
offload_queue six zone=jobs { pass http://[::1]:%%PORT%%/api; }
offload_queue deaf zone=jobs { pass http://127.0.0.1:$deaf/; retry off; }
offload_queue misnamed zone=jobs {
    pass https://127.0.0.1:%%PORT2%%/tls ca=%%PREFIX%%/ca.pem; retry off;
}
server {
    listen 127.0.0.1:%%PORT%%;
    $six
    client_max_body_size 64m;
    location / { offload straight; }
    location /brief/ { offload straight; offload_timeout 1s; }
    location /small/ { offload straight; offload_max_result 1k; }
    location /down/ { offload down; }
    location /once/ { offload once; }
    location /tls/ { offload tls; }
    location /unknown/ { offload unknown; }
    location /misnamed/ { offload misnamed; }
    location /expired/ { offload expired; }
    location /six/ { offload six; }
    location /deaf/ { offload deaf; offload_timeout 1s; }
    location /cut/ { offload straight; offload_delivery at-most-once; }
    location /large/ { offload strict; }
    location = /strict {
        client_max_body_size 1k;
        proxy_pass http://%%BACKEND%%;
    }
    location /api { proxy_pass http://%%BACKEND%%; }
    location /replay/ { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT2%% ssl http2;
    ssl_certificate     %%PREFIX%%/ca.pem;
    ssl_certificate_key %%PREFIX%%/key.pem;
    location / {
        proxy_pass http://%%BACKEND%%;
        proxy_set_header X-Spoken \$server_protocol;
    }
}
server {
    listen 127.0.0.1:%%PORT3%% ssl;
    ssl_certificate     %%PREFIX%%/expired.pem;
    ssl_certificate_key %%PREFIX%%/key.pem;
    location / { proxy_pass http://%%BACKEND%%; }
}
EOT

system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
       . "-nodes -days 2 -subj /CN=localhost "
       . "-addext subjectAltName=DNS:localhost -keyout $n->{prefix}/key.pem "
       . "-out $n->{prefix}/ca.pem 2>/dev/null") == 0
    or BAIL_OUT('openssl makes no certificate');
write_file("$n->{prefix}/ext", "subjectAltName=DNS:localhost\n");
system("openssl req -new -key $n->{prefix}/key.pem -subj /CN=localhost"
       . " 2>/dev/null | openssl x509 -req -signkey $n->{prefix}/key.pem"
       . " -days -1 -extfile $n->{prefix}/ext -out $n->{prefix}/expired.pem"
       . ' 2>/dev/null') == 0
    or BAIL_OUT('openssl makes no certificate that has expired');
chmod 0644, map { "$n->{prefix}/$_.pem" } qw(ca expired);
$n->start;

my ($seen, $doc, $job, $r) = $n->echoed(PATCH => '/a/b?c=%20d&e',
    headers => [ 'X-One' => '1', Authorization => 'Bearer t', Te => 'trailers',
                 'Keep-Alive' => 'timeout=5' ], body => 'hello');

is $doc->{status}, 'completed', 'a job goes straight to its URL';
is "$seen->{method} $seen->{uri}", 'PATCH /api/v1?c=%20d&e',
    'with the stored method and query';
is $seen->{h}{host}, $b->{http}, 'the URL\'s host';
is "$seen->{h}{'x-one'} $seen->{h}{authorization}", '1 Bearer t',
    'the client\'s headers';
ok !(grep { defined $seen->{h}{$_} } qw(te keep-alive connection)),
    'but those of its connection';
is_deeply [ @{ $seen->{h} }{qw(offload-job-id offload-attempt
                               idempotency-key)} ],
    [ $job->{id}, 1, $job->{id} ], 'and which attempt it is';
ok !(grep { /token/ } keys %{ $seen->{h} }), 'without a token';

for my $size (0, 100_000, 3_000_000) {
    my ($s) = $n->echoed(POST => '/', body => 'x' x $size);

    is "$s->{length} $s->{sha}", "$size " . sha256_hex('x' x $size),
        "a body of $size bytes";
}

($r, $doc) = $n->through(GET => '/?size=200000');
is length $r->{body}, 200_000, 'a large answer';
($r, $doc) = $n->through(POST =>
    '/?status=503&size=9&h=Offload-Replay:refused&h=Retry-After:0');
is "$doc->{status} $doc->{error}{code} $doc->{attempts}",
    'failed backend_status 2', 'a backend can not speak for nginx';
($r, $doc) = $n->through(POST => '/?status=202&size=9&h=Offload-Defer:1');
is "$doc->{status} $r->{status}", 'completed 202', 'nor defer its job';
$doc = $n->settled($n->submit(POST => '/small/?size=2000'));
is $doc->{error}{code}, 'result_too_large', 'a result that is too large';
$doc = $n->settled($n->submit(POST => '/brief/?gate=never'));
is $doc->{error}{code}, 'timeout', 'none in time';

$job = $n->submit(POST => '/?gate=never');
ok $b->wait_for(1, event => 'request', job => $job->{id}), 'one that runs';
$n->request(DELETE => $job->{path});
ok $b->wait_for(1, event => 'abort', job => $job->{id}), 'is canceled';

$doc = $n->settled($n->submit(POST => '/down/'));
is "$doc->{error}{code} $doc->{attempts}", 'exhausted 2',
    'no connection: as a replay without one';
like $doc->{error}{message}, qr/could not be reached: .*refused.*2 attempts/i,
    'with the reason';
$doc = $n->settled($n->submit(POST => '/once/'));
is $doc->{error}{code}, 'unreachable', 'and at the first, without retries';

($seen, $doc) = $n->echoed(POST => '/tls/', body => 'hello');
is "$doc->{status} $seen->{uri}", 'completed /tls', 'TLS';

is $seen->{h}{'x-spoken'}, 'HTTP/1.1', 'also where HTTP/2 is to be had';

for my $wrong (qw(unknown misnamed expired)) {
    $doc = $n->settled($n->submit(POST => "/$wrong/"));
    is $doc->{error}{code}, 'unreachable', "a certificate that is $wrong";
    like $doc->{error}{message}, qr/certificate|SSL/, 'is refused as one';
}

like $doc->{error}{message}, qr/expired/, 'which is said';

# a file that offloadd can not read is no reason to believe anybody

SKIP: {
    skip 'no other user', 1 if $>;
    chmod 0600, "$n->{prefix}/ca.pem";
    $doc = $n->settled($n->submit(POST => '/tls/'));
    is $doc->{error}{code}, 'unreachable', 'certificates it may not read';
    chmod 0644, "$n->{prefix}/ca.pem";
}

SKIP: {
    skip 'no IPv6', 1 if !$six;
    ($seen, $doc) = $n->echoed(POST => '/six/?a', body => 'hello');
    is "$doc->{status} $seen->{uri}", 'completed /api?a', 'an address of IPv6';
}


# ---- a backend that does not hear one out

($r, $doc) = $n->through(POST => '/large/', body => 'x' x 3_000_000);
is "$doc->{status} $doc->{error}{code} $r->{status}",
    'failed backend_status 413', 'an answer before the body has been sent';
($r, $doc) = $n->through(POST => '/?close=body&size=200000&cut=1');
is "$doc->{status} $doc->{attempts} " . length $r->{body},
    'completed 2 200000', 'an answer that is cut off is none';
($r, $doc) = $n->through(POST => '/?close=head&size=9&cut=1');
is "$doc->{status} $doc->{attempts}", 'completed 2', 'nor is half a header';
$doc = $n->settled($n->submit(POST => '/cut/?close=body&size=9000&cut=1'));
is "$doc->{status} $doc->{error}{code} $doc->{attempts}", 'failed lost 1',
    'where it may be sent once only, it is lost';

# one that accepts nothing: connections beyond its queue are not made

my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1,
    LocalPort => $deaf, ReuseAddr => 1) or BAIL_OUT("port $deaf: $!");
my @queue = map { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$deaf",
                                        Blocking => 0) } 1 .. 8;

$doc = $n->settled($n->submit(POST => '/deaf/'));
is $doc->{error}{code}, 'unreachable', 'no connection in time';
like $doc->{error}{message}, qr/timed? ?out/i, 'in words';

($seen) = $n->echoed(POST => '/replay/x', body => 'hello');
is $seen->{uri}, '/replay/x', 'replays go on beside them';


# ---- a trace goes on

my $trace = '0af7651916cd43dd8448eb211c80319c';
my %span;

for my $way ('/', '/replay/') {
    ($seen) = $n->echoed(POST => $way, headers => [
        traceparent => "00-$trace-b7ad6b7169203331-01",
        tracestate => 'a=b,c=d' ]);
    like $seen->{h}{traceparent}, qr/^00-$trace-[0-9a-f]{16}-01$/,
        "$way: in the same trace";
    is $seen->{h}{tracestate}, 'a=b,c=d', "$way: with its state";
    $span{ $seen->{h}{traceparent} }++;
}

is keys %span, 2, 'each attempt is a span';
ok !(grep { /b7ad6b7169203331/ } keys %span), 'below the client\'s';

Offload::finish_all();
