# A client that can not reach the URL it was given has lost its job.  Behind a
# proxy nginx's own notion of scheme, host and port is wrong: then the proxy's
# word counts, but of a proxy that is trusted only, since whoever chooses the
# URLs in an answer may lead others to a host of his own.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Events;
use JSON::PP;
use Offload;
use Test::More;
use Util qw(read_file);

my $back = Backend->start;
my $IN = <<'EOT';
    server_name named.example;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /own/ { server_name_in_redirect on;
                     offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
EOT
my $n = Offload->new(backend => $back, http => <<"EOT")->start;
server {
    listen 127.0.0.1:%%PORT%%;
    location /bare/ { server_name_in_redirect on; port_in_redirect off;
                      offload jobs; proxy_pass http://%%BACKEND%%; }
    $IN
}
server {
    listen 127.0.0.1:%%PORT2%%;
    listen unix:%%PREFIX%%/u.sock;
    set_real_ip_from 127.0.0.1;
    set_real_ip_from unix:;
    real_ip_header X-Forwarded-For;
    $IN
}
server {
    listen 127.0.0.1:%%PORT3%%;
    set_real_ip_from 192.0.2.1;
    real_ip_header X-Forwarded-For;
    $IN
}
server {
    listen 127.0.0.1:%%PORT4%% proxy_protocol;
    set_real_ip_from 127.0.0.1;
    real_ip_header proxy_protocol;
    $IN
}
server {
    listen 127.0.0.1:%%PORT5%%;
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;
    offload_base_url https://api.example.com:8443/v1//;
    location /asked/ { offload jobs; offload_base_url \$arg_base;
                       proxy_pass http://%%BACKEND%%; }
    location /host/ { offload jobs; offload_base_url https://\$host/in;
                      proxy_pass http://%%BACKEND%%; }
    location /none/ { offload jobs; offload_base_url "";
                      proxy_pass http://%%BACKEND%%; }
    $IN
}
EOT
my ($plain, $trusted, $stranger, $pp, $base) = map { $n->port($_) }
                                               '', 2 .. 5;
my $unix = "$n->{prefix}/u.sock";


# What the URLs of a job begin with, by the 202; all of it must agree.

sub begins {
    my ($to, $uri, %o) = @_;
    my $r = $n->request(POST => $uri, to => $to, body => 'x', %o);
    my $doc = eval { decode_json($r->{body}) } // {};
    my ($begin, $id) = ($r->{h}{location} // '')
                       =~ m{^(.*)/jobs/([0-9a-z]{26})$};

    return "$r->{status} $r->{body}" if !$id;
    return "Content-Location: $r->{h}{'content-location'}"
        if $r->{h}{'content-location'} ne $r->{h}{location};
    return "status_url: $doc->{status_url}"
        if $doc->{status_url} ne $r->{h}{location};

    return wantarray ? ($begin, $id) : $begin;
}


# ---- as the client asks

is begins($plain, '/'), 'http://localhost', 'the Host of the request';
is begins($plain, '/', host => 'x.example:8080'), 'http://x.example:8080',
    'with its port';
is begins($plain, '/', host => '[2001:db8::1]:81'), 'http://[2001:db8::1]:81',
    'an address';

my $own = "http://named.example:$plain";

is begins($plain, '/', host => undef, version => '1.0'), $own,
    'no Host: the server\'s name and port';

for my $host ('a"b', 'a\\b', "\xc3\xa9.example", 'x:y', 'x:70000', 'a<b>') {
    is begins($plain, '/', host => $host), $own, "as with the Host $host";
}

is begins($plain, '/own/'), $own, 'server_name_in_redirect';
is begins($plain, '/bare/'), 'http://named.example', 'port_in_redirect off';


# ---- what a proxy says

my @says = ('X-Forwarded-For' => '198.51.100.7',
            'X-Forwarded-Proto' => 'https',
            'X-Forwarded-Host' => 'api.example.com',
            'X-Forwarded-Port' => 8443);
my $SAID = 'https://api.example.com:8443';

is begins($plain, '/', headers => \@says), 'http://localhost',
    'anyone\'s word does not count';
is begins($stranger, '/', headers => \@says), 'http://localhost',
    'nor that of one who is not set_real_ip_from';
is begins($trusted, '/', headers => [ @says[2 .. 7] ]), 'http://localhost',
    'nor without the client\'s address, which realip replaces';
is begins($trusted, '/', headers => \@says), $SAID, 'that of a proxy does';
is begins($unix, '/', headers => \@says), $SAID, 'by a unix socket as well';
is begins($trusted, '/own/', headers => \@says),
    'https://named.example:8443', 'but for server_name_in_redirect';

my $s = Http::dial($pp);

Http::write_all($s, "PROXY TCP4 198.51.100.7 192.0.2.9 4711 443\r\n"
    . Http::bytes(POST => '/', body => 'x', headers => [ @says[2 .. 7] ]));
like Http::response($s)->{h}{location}, qr{^$SAID/jobs/},
    'with the PROXY protocol, too';

for my $try ([ 'https', 'https://localhost', Proto => 'https' ],
             [ 'the first of two', 'https://localhost',
               Proto => 'HTTPS , http' ],
             [ 'no scheme', 'http://localhost', Proto => 'gopher' ],
             [ 'a host', 'http://a.example', Host => 'a.example' ],
             [ 'a host with a port', 'http://a.example:81',
               Host => 'a.example:81', Port => 82 ],
             [ 'two hosts', 'http://a.example',
               Host => 'a.example, b.example' ],
             [ 'an address', 'http://[::1]:82', Host => '[::1]', Port => 82 ],
             [ 'a port', 'http://localhost:82', Port => '82,83' ],
             [ 'the usual port', 'https://localhost',
               Proto => 'https', Port => 443 ],
             [ 'the usual port of the other', 'https://localhost:80',
               Proto => 'https', Port => 80 ],
             (map { [ "no port: $_", 'http://localhost', Port => $_ ] }
              '0', '-1', '65536', 'x', '80"'),
             (map { [ "no host: $_", 'http://localhost', Host => $_ ] }
              'a"b', 'u@evil.example', 'a/b', '/', ':80', 'a:', 'a:0', '[::1',
              'a b', "a\xff", '[a"]', 'a]', '[]:1x'))
{
    my ($what, $want, %say) = @$try;

    is begins($trusted, '/', headers => [ @says[0, 1],
            map { ("X-Forwarded-$_" => $say{$_}) } sort keys %say ]),
        $want, "a proxy says $what";
}


# ---- every URL there is

my ($begin, $id) = begins($trusted, '/?gate=g', headers => \@says);
my $path = "/jobs/$id";
my $e = Events->open($trusted, $path, headers => \@says);

is $e->next->{doc}{status_url}, "$SAID$path", 'events';
$back->wait_for(1, event => 'request', job => $id);
$back->open_gate('g');

my $doc = $n->wait_status($path, 'completed', to => $trusted,
                          headers => \@says);

is $doc->{status_url}, "$SAID$path", 'the document: status_url';
is $doc->{result_url}, "$SAID$path/result", 'result_url';
like $n->get($path, to => $trusted,
             headers => [ @says, Accept => 'text/html' ])->{body},
    qr{href="$SAID$path/result"}, 'the page';
is $n->wait_status($path, 'completed', to => $plain)->{status_url},
    "http://localhost$path", 'and for others what is right for them';


# ---- offload_base_url

my $BASE = 'https://api.example.com:8443/v1';

($begin, $id) = begins($base, '/?gate=base');
is $begin, $BASE, 'offload_base_url, without its last slashes';
$back->wait_for(1, event => 'request', job => $id);
ok index(read_file("$n->{zone_dir}/store/store.mdb"), " $BASE") > 0,
    'goes with the job';
$back->open_gate('base');
is $n->wait_status("/jobs/$id", 'completed', to => $base)->{result_url},
    "$BASE/jobs/$id/result", 'in the document, too';
is begins($base, '/', headers => \@says), $BASE, 'whatever a proxy says';
is begins($base, '/none/', host => 'x.example'), 'http://x.example',
    'an empty one is none';
is begins($base, '/host/', host => 'X.example:81'), 'https://x.example/in',
    'with variables';

for my $try ([ 'http://a.example', 'http://a.example' ],
             [ 'HTTPS://a.example/b/', 'HTTPS://a.example/b' ],
             map { [ $_, 'http://localhost' ] } 'a.example', 'ftp://a.example',
             'http://', 'http:///a', 'https://u@a.example', 'http://a"b',
             'http://a/b"c', 'http://a/b?c', 'http://a/b\\c',
             'http://a/<b>', "http://a/b\xff", 'http://a:0/', 'http://a:b')
{
    my ($given, $want) = @$try;

    is begins($base, "/asked/?base=$given"), $want, "a base of $given";
}

like $n->log, qr/\[warn\].*"offload_base_url" is "ftp:\/\/a\.example"/,
    'what is no URL is in the log';
is begins($base, '/asked/'), 'http://localhost', 'nothing given';

my @lines = grep { /"offload_base_url" is ""/ } split /\n/, $n->log;

is scalar(@lines), 0, 'and that is not';

Offload::finish_all();
