# On a replay the location must see the request as it was: method, URI, Host,
# headers, and in nginx's variables the client's address, port and scheme.
# The entrance it comes through trusts its peers, so nobody else may reach it,
# and no client may forge what only offloadd says.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b);
my $cert = "$n->{prefix}/cert.pem";

system "openssl req -x509 -newkey rsa:2048 -nodes -keyout $cert.key -out $cert"
       . " -days 2 -subj /CN=localhost 2>$n->{prefix}/openssl.out";

my $set = join '', map { "proxy_set_header $_->[0] \$$_->[1];\n" } (
    [ 'X-Addr', 'remote_addr' ], [ 'X-Port', 'remote_port' ],
    [ 'X-Binary', 'binary_remote_addr' ], [ 'X-Scheme', 'scheme' ],
    [ 'X-Https', 'https' ], [ 'X-Host', 'host' ],
    [ 'X-Http-Host', 'http_host' ], [ 'X-Server', 'server_name' ],
    [ 'X-Uri', 'request_uri' ], [ 'X-Args', 'args' ],
    [ 'X-Method', 'request_method' ], [ 'X-Fwd', 'proxy_add_x_forwarded_for' ],
    [ 'X-Length', 'content_length' ], [ 'X-Type', 'content_type' ],
    [ 'X-Cookie', 'cookie_c' ], [ 'X-Arg', 'arg_q' ],
);

$set =~ s/X-Binary[^;]+;/X-Binary "x";/;

$n->write_conf(http => <<"EOT")->start;
$set
set_real_ip_from 127.0.0.0/8;
real_ip_header X-Real-Ip;
server {
    listen 127.0.0.1:%%PORT%% default_server;
    listen 127.0.0.1:%%PORT2%% ssl;
    ssl_certificate $cert;
    ssl_certificate_key $cert.key;
    server_name first.example;
    location /direct/ { proxy_pass http://%%BACKEND%%/; }
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT%%;
    server_name second.example *.third.example;
    location / { offload jobs; proxy_pass http://%%BACKEND%%;
                 add_header X-From second; }
    location ~ ^/re/(.*)\$ { offload jobs;
                 proxy_pass http://%%BACKEND%%/captured/\$1\$is_args\$args; }
    location /jobs/ { offload_status jobs; }
}
EOT


# what a location sees directly and on a replay

my %request = (
    host => 'First.Example', body => 'q=1', headers => [
        'User-Agent' => 'agent/1.0', 'Accept' => 'text/x, */*;q=0.1',
        'Cookie' => 'c=chip; d=2', 'X-Twice' => 'one', 'X-Twice' => 'two',
        'Content-Type' => 'application/x-www-form-urlencoded',
        'Authorization' => 'Bearer secret-token', 'X-Empty' => '',
        'Referer' => 'http://r/', 'traceparent' => '00-11-22-01' ]);
my $direct = decode_json($n->request(
    'POST', '/direct/a%2Fb/c?q=%20x&y', %request)->{body});
my ($seen, $doc, $job) = $n->echoed('POST', '/a%2Fb/c?q=%20x&y', %request);
my %direct = map { lc $_->[0] => $_->[1] } @{ $direct->{headers} };

for my $name (sort keys %direct) {
    next if $name =~ /^x-(?:port|uri)$/;
    is $seen->{h}{$name}, $direct{$name}, "$name is as without offload";
}

is $seen->{uri}, '/a%2Fb/c?q=%20x&y', 'the URI is as the client wrote it';
is $seen->{h}{'x-uri'}, '/a%2Fb/c?q=%20x&y', '$request_uri';
like $seen->{h}{'x-port'}, qr/^[1-9]\d*$/, '$remote_port';
is $seen->{h}{'x-addr'}, '127.0.0.1', '$remote_addr';
is $seen->{h}{'x-scheme'}, 'http', '$scheme';
is $seen->{h}{'x-server'}, 'first.example', '$server_name';

is_deeply [ map { $_->[1] } grep { lc $_->[0] eq 'x-twice' }
            @{ $seen->{headers} } ], [ 'one', 'two' ],
    'repeated headers stay apart and in order';

my %extra = map { $_ => 1 } grep { !exists $direct{$_} } keys %{ $seen->{h} };

is_deeply [ sort keys %extra ],
    [ qw(idempotency-key offload-attempt offload-depth offload-job-id) ],
    'four headers are added, no other';
is $seen->{h}{'offload-job-id'}, $job->{id}, 'Offload-Job-Id: the id alone';
is $seen->{h}{'offload-attempt'}, 1, 'Offload-Attempt';
is $seen->{h}{'idempotency-key'}, $job->{id}, 'Idempotency-Key: the job id';


# nothing that the client did not send

($seen) = $n->echoed('POST', '/bare', host => 'first.example', body => 'x');
ok !exists $seen->{h}{$_}, "no $_ is made up"
    for qw(accept user-agent content-type expect accept-encoding);


# another server, by name; wildcard names; a regular expression

for my $host ('second.example', 'www.third.example') {
    ($seen, undef, undef, my $r) =
        $n->echoed('POST', '/x', host => $host, body => 'x');
    is $seen->{h}{'x-host'}, $host, "$host: \$host";
    is $r->{h}{'x-from'}, 'second', "$host: the server that accepted it";
}

($seen) = $n->echoed('POST', '/re/a/b?c', host => 'second.example',
                     body => 'x');
is $seen->{uri}, '/captured/a/b?c', 'a location by regular expression';


# the real client, by the realip module

($seen) = $n->echoed('POST', '/real', body => 'x',
                     headers => [ 'X-Real-Ip' => '192.0.2.7' ]);
is $seen->{h}{'x-addr'}, '192.0.2.7', '$remote_addr by realip';
like $seen->{h}{'x-fwd'}, qr/192\.0\.2\.7$/, '$proxy_add_x_forwarded_for';
($seen) = $n->echoed('POST', '/real6', body => 'x',
                     headers => [ 'X-Real-Ip' => '2001:db8::1' ]);
is $seen->{h}{'x-addr'}, '2001:db8::1', 'an IPv6 client';


# https

my $url = 'https://127.0.0.1:' . $n->port(2);
my $location = `curl -sk -D - -o /dev/null -d x '$url/tls'`;

like $location, qr{^Location: https://127\.0\.0\.1:\d+/jobs/}mi,
    'https: Location';
($seen) = $b->wait_for(1, event => 'request', uri => '/tls');

my %tls = map { lc $_->[0] => $_->[1] } @{ $seen->{headers} };

is $tls{'x-scheme'}, 'https', 'https: $scheme on the replay';
is $tls{'x-https'}, 'on', 'https: $https on the replay';


# from outside

my $forged = '0123456789abcdefghjkmnpqrs';

($seen, undef, $job) = $n->echoed('POST', '/forged', body => 'x', headers => [
    'Offload-Job-Id' => $forged, 'offload-attempt' => 77,
    'OFFLOAD-JOB-ID' => "$forged 192.0.2.66 1 https",
    'Offload-Anything' => 'else', 'Offloaded' => 'stays' ]);
is $seen->{h}{'offload-job-id'}, $job->{id},
    'a forged Offload-Job-Id is dropped';
is scalar(grep { /^offload-job-id$/i } map { $_->[0] } @{ $seen->{headers} }),
    1, 'there is one of it';
is $seen->{h}{'offload-attempt'}, 1, 'a forged attempt is dropped';
ok !exists $seen->{h}{'offload-anything'}, 'any other Offload-* too';
is $seen->{h}{offloaded}, 'stays', 'but only those';
is $seen->{h}{'x-addr'}, '127.0.0.1', 'the address is the true one';

($seen) = $n->echoed('POST', '/key', body => 'x',
                     headers => [ 'Idempotency-Key' => '"mine"' ]);
is $seen->{h}{'idempotency-key'}, '"mine"', 'the client\'s own key is kept';

($seen) = $n->echoed('POST', '/hop', body => 'xy', headers => [
    'Connection' => 'close, X-Hop', 'X-Hop' => '1', 'TE' => 'trailers',
    'Keep-Alive' => '5', 'Proxy-Connection' => 'close', 'Upgrade' => 'x/1' ]);
ok !exists $seen->{h}{$_}, "hop-by-hop: $_ is not replayed"
    for qw(te keep-alive proxy-connection upgrade);


# secrets

unlike $n->log . $n->worker_log, qr/secret-token/, 'no secret in a log';

my @open = grep { (lstat)[2] & 077 } "$n->{zone_dir}",
           grep { !-S } glob "$n->{zone_dir}/*";

is_deeply [ map { m{([^/]*)$} } grep { !m{/store$} } @open ], [],
    'nothing in the zone\'s directory is open to others';


# the entrance

my ($entrance) = glob "$n->{zone_dir}/r.*.sock";

ok -S $entrance, 'there is an entrance';

sub as_nobody {
    my ($code) = @_;
    my @as = $> == 0 ? ('setpriv', '--reuid=65534', '--regid=65534',
                        '--clear-groups') : ();

    open my $out, '-|', @as, $^X, '-MIO::Socket::UNIX', '-e', $code, $entrance;
    local $/;

    return <$out> // '';
}

my $knock = 'my $s = IO::Socket::UNIX->new(Peer => $ARGV[0])'
    . ' or print("$!\n"), exit; print $s "POST /evil HTTP/1.1\r\nHost: x\r\n'
    . "Offload-Job-Id: $forged 192.0.2.66 1 https\\r\\n"
    . 'Content-Length: 0\r\nConnection: close\r\n\r\n"; print <$s>';

SKIP: {
    skip 'needs root to be someone else', 4 if $> != 0;

    like as_nobody($knock), qr/Permission denied/,
        'another user can not reach the entrance';

    my $mode = (stat $n->{zone_dir})[2] & 07777;

    chmod 0777, $entrance;
    chmod 0755, $n->{zone_dir};
    like as_nobody($knock), qr{^HTTP/1\.1 403 },
        'and with an open directory is answered 403';
    ok $n->wait_log(qr/\[(?:error|warn)\].*65534/), 'and logged, by its uid';
    chmod $mode, $n->{zone_dir};
    is scalar(grep { $_->{uri} eq '/evil' } $b->journal), 0,
        'and the backend never hears of it';
}


# a peer with the right user that says nonsense

for my $line ('', "Offload-Job-Id: \r\n", "Offload-Job-Id: x\r\n",
              "Offload-Job-Id: $forged\r\n",
              "Offload-Job-Id: $forged 999.1.1.1 99999999 gopher\r\n",
              "Offload-Job-Id: $forged " . 'a ' x 500 . "\r\n")
{
    my $s = Http::dial($entrance);

    Http::write_all($s, "POST /nonsense HTTP/1.1\r\nHost: x\r\n$line"
                        . "Content-Length: 0\r\nConnection: close\r\n\r\n");

    my $r = Http::response($s);

    like $r->{status}, qr/^4\d\d$/, 'nonsense at the entrance: ' .
        (length $line ? substr $line =~ s/\r\n//r, 0, 60 : 'no header');
}

is scalar(grep { $_->{uri} eq '/nonsense' } $b->journal), 0,
    'and the backend never hears of it';

Offload::finish_all();
