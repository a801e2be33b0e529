# Bodies come in every shape nginx knows: none, in memory, in a temporary
# file, chunked, over HTTP/2 with and without a length, after a 100-continue.
# Each must reach the backend byte for byte, and what fits the ring must not
# touch a file, whatever client_body_buffer_size says: the way over a file is
# five times as slow.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Offload;
use Socket ();
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
client_max_body_size 20m;
server {
    listen 127.0.0.1:%%PORT%%;
    listen 127.0.0.1:%%PORT2%% http2;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /small/ { offload jobs; client_max_body_size 1k;
                       proxy_pass http://%%BACKEND%%; }
    location /plain/ { proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT


# Bytes that repeat nowhere near a buffer's size.

sub body {
    my ($size) = @_;
    my $x = $size + 1;
    my $block = join '', map { $x = ($x * 1103515245 + 12345) % 2 ** 31;
                               pack 'L', $x } 1 .. 2503;

    return substr $block x (1 + $size / length $block), 0, $size;
}


sub same {
    my ($seen, $body, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is "$seen->{length} $seen->{sha}", length($body) . ' ' . sha256_hex($body),
        $name;
}


# with a length

for my $size (0, 1, 1000, 16384, 16385, 65536, 200_000, 1_000_000,
              12_000_000)
{
    my $body = body($size);

    my ($seen) = $n->echoed('POST', "/length/$size", body => $body);

    same $seen, $body, "$size bytes";
    is $seen->{h}{'content-length'} // 0, $size,
        "$size bytes: with their Content-Length";
}

same scalar $n->echoed('POST', '/none'), '', 'no body and no length';


# chunked

for my $size (0, 10, 50_000, 150_000, 3_000_000) {
    my $body = body($size);
    my ($seen) = $n->echoed('POST', "/chunked/$size", body => $body,
                            chunked => 5000);

    same $seen, $body, "$size bytes chunked";
    ok !$seen->{h}{'transfer-encoding'}
        && ($seen->{h}{'content-length'} // 0) == $size,
        "$size bytes chunked: with a true Content-Length";
}


# one byte at a time: the body is assembled from many reads

{
    my $s = Http::dial($n->port);
    my $bytes = Http::bytes('POST', '/slow', body => body(300));

    setsockopt $s, Socket::IPPROTO_TCP(), Socket::TCP_NODELAY(), 1;
    Http::write_all($s, $_) for split //, $bytes;

    my $job = Offload::job(Http::response($s));

    ok $job, 'a body that comes byte by byte is accepted';
    $n->settled($job);
    my ($seen) = $b->wait_for(1, event => 'request', uri => '/slow');
    same $seen, body(300), 'and is whole';
}


# Expect: 100-continue

for my $size (5, 400_000) {
    my $s = Http::dial($n->port);
    my $body = body($size);

    Http::write_all($s, Http::bytes('POST', "/expect/$size", headers => [
        'Expect' => '100-continue', 'Content-Length' => $size ]));
    is Http::response($s, interim => 1)->{status}, 100,
        "$size bytes: 100 Continue";
    Http::write_all($s, $body);

    my $job = Offload::job(Http::response($s));

    ok $job, "$size bytes: then accepted";
    $n->settled($job);

    my ($seen) = $b->wait_for(1, event => 'request', uri => "/expect/$size");

    same $seen, $body, "$size bytes: and whole";
    ok !(grep { lc $_->[0] eq 'expect' } @{ $seen->{headers} }),
        "$size bytes: Expect is not replayed";
}


# HTTP/2, by curl

for my $size (0, 10, 100_000, 3_000_000) {
    my $file = "$n->{prefix}/body";
    my $url = 'http://127.0.0.1:' . $n->port(2);

    Offload::write_file($file, body($size));

    for my $how ('length', 'no-length') {
        my $from = $how eq 'length' ? "--data-binary \@$file"
                                    : "-X POST -T - < $file";
        my $code = `curl -sS --http2-prior-knowledge -o /dev/null \\
            -w '%{http_code} %{http_version}' $from $url/h2/$how/$size`;

        is $code, '202 2', "HTTP/2 $size bytes, $how";

        my ($seen) = $b->wait_for(1, event => 'request',
                                  uri => "/h2/$how/$size");

        same $seen, body($size), "HTTP/2 $size bytes, $how: whole";
    }
}


# limits

is $n->request('POST', '/small/x', body => body(2000))->{status}, 413,
    'client_max_body_size rules';
is $n->request('POST', '/small/x', body => body(2000),
               chunked => 1)->{status}, 413,
    'client_max_body_size rules for a chunked body';


# cut short by the client

my $before = $n->figures->{accepted};

for my $size (100, 200_000, 2_000_000) {
    my $s = Http::dial($n->port);

    Http::write_all($s, Http::bytes('POST', '/cut', headers => [
        'Content-Length' => $size ]) . body($size / 2));
    shutdown $s, 1;
    Http::response($s, deadline => 5);
    close $s;

    $s = Http::dial($n->port);
    Http::write_all($s, Http::bytes('POST', '/cut',
        headers => [ 'Transfer-Encoding' => 'chunked' ])
        . sprintf("%x\r\n", $size) . body($size / 2));
    close $s;
}

is $n->request('POST', '/cut', headers => [ 'Transfer-Encoding' =>
    'chunked' ], body => "zz\r\nxx")->{status}, 400, 'not a chunked body: 400';


# gone before the answer: the job may be there or not, but never in part

for (1 .. 40) {
    my $s = Http::dial($n->port);

    Http::write_all($s, Http::bytes('POST', '/gone', body => body(9000)));
    close $s;
}

$n->settled($n->submit(POST => '/after', body => 'x'));

my $gone = sub { $n->figures->{accepted} - $before - 1 };

ok Offload::wait_until(20, sub {
    $b->journal(event => 'request', uri => '/gone') == $gone->() }),
    'of clients that have gone, each accepted job is run once'
    or diag scalar($b->journal(uri => '/gone')), ' of ', $gone->();
is_deeply [ grep { $_->{sha} ne sha256_hex(body(9000)) }
            $b->journal(event => 'request', uri => '/gone') ], [],
    'and has all of its body';
is scalar($b->journal(uri => '/cut')), 0, 'a body cut short is never a job';
is_deeply [ glob "$n->{zone_dir}/store/spool/tmp/*/*" ], [],
    'and leaves no temporary file';
ok Offload::wait_until(10, sub {
    !grep { -f } glob "$n->{zone_dir}/store/spool/*" }),
    'spooled bodies go when their jobs have settled';


# no file: with the directories shut, one that is touched is an error

my @dirs = ("$n->{prefix}/tmp-client_body", "$n->{zone_dir}/store/spool/tmp");
my @mode = map { (stat)[2] & 07777 } @dirs;

chmod 0, @dirs;
$n->allow(qr/\[crit\].*Permission denied/);

for my $size (10_000, 65_536, 120_000) {
    is $n->request('POST', "/memory/$size", body => body($size))->{status},
        202, "$size bytes with a length touch no file";
    is $n->request('POST', "/memory/$size", body => body($size),
        chunked => 1)->{status}, 202, "$size bytes chunked touch no file";
}

cmp_ok $n->request('POST', '/file', body => body(5_000_000))->{status},
    '>=', 500, 'the check sees a file: 5 MB can not be accepted now';

chmod $mode[$_], $dirs[$_] for 0 .. $#dirs;

is $n->request('POST', '/file', body => body(5_000_000))->{status}, 202,
    'and can be when the directories are open again';

Offload::finish_all();
