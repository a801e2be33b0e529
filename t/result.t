# The result is the backend's answer verbatim: status, end-to-end headers,
# body; small ones from the store, large ones from a file.  A client must be
# able to tell a backend's 404 from ours.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use IO::Uncompress::Gunzip ();
use JSON::PP ();
use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
server {
    listen 127.0.0.1:%%PORT%%;
    location / {
        offload jobs;
        proxy_pass http://%%BACKEND%%;
        proxy_http_version 1.1;
    }
    location /static/ { offload jobs; alias %%PREFIX%%/static/; }
    location /max/ {
        offload jobs;
        offload_max_result 80k;
        proxy_pass http://%%BACKEND%%;
        location /max/any/ {
            offload jobs;
            offload_max_result 0;
            proxy_pass http://%%BACKEND%%;
        }
        location /max/cut/ {
            offload jobs;
            offload_max_result 80k truncate;
            proxy_pass http://%%BACKEND%%;
        }
        location /max/cut/short/ {
            offload jobs;
            offload_max_result 1000 truncate;
            proxy_pass http://%%BACKEND%%;
        }
    }
    location /jobs/ { offload_status jobs; }
}
EOT


# sizes around the limit of what the store holds itself, and large

for my $size (0, 1, 10_000, 65_535, 65_536, 65_537, 70_000, 1_000_000) {
    for my $how ('', '&chunked=1') {
        my ($r, $doc) = $n->through(POST => "/s?size=$size$how", body => 'x');
        my $what = $how ? "$size bytes chunked" : "$size bytes";

        is $r->{status}, 200, "$what: 200";
        is sha256_hex($r->{body}), Backend::content_sha($size), "$what: whole";
        is $r->{h}{'content-length'}, $size, "$what: with its length";
        is $doc->{response}{length}, $size, "$what: as the document says";
    }
}

my ($r, $doc, $job) = $n->through(POST => '/big?size=50000000&chunked=1',
                                  body => 'x');

is sha256_hex($r->{body}), Backend::content_sha(50_000_000),
    '50 MB: whole';
is -s "$n->{zone_dir}/store/blobs/$job->{id}.1", 50_000_000,
    '50 MB: in a file';
is $n->request('HEAD', "$job->{path}/result")->{h}{'content-length'},
    50_000_000, '50 MB: HEAD';

my $peak = 0;

for my $pid ($n->offloadd, $n->workers) {
    my ($kb) = Offload::read_file("/proc/$pid/status") =~ /VmHWM:\s+(\d+)/;

    $peak = $kb if $kb > $peak;
}

SKIP: {
    skip 'a sanitizer has memory of its own', 1 if Offload::asan();
    cmp_ok $peak, '<', 48_000, "50 MB: never held in memory (peak $peak kB)";
}


# verbatim

($r, $doc, $job) = $n->through(POST => '/v?status=201&size=5'
    . '&type=application/x-thing%3b%20a%3d1&h=X-One:1&h=X-Two:a%20b'
    . '&h=Set-Cookie:a%3d1&h=Set-Cookie:b%3d2&h=ETag:%22abc%22'
    . '&h=Last-Modified:Sat,%2001%20Jan%202022%2000:00:00%20GMT'
    . '&h=Cache-Control:max-age%3d60&h=Location:/elsewhere', body => 'x');

is $r->{status}, 201, 'status code';
is $r->{h}{'content-type'}, 'application/x-thing; a=1', 'Content-Type';
is $r->{h}{'x-one'}, '1', 'a header';
is $r->{h}{'x-two'}, 'a b', 'another';
is $r->{h}{'set-cookie'}, 'a=1, b=2', 'a repeated one, in order';
is $r->{h}{etag}, '"abc"', 'ETag';
is $r->{h}{'last-modified'}, 'Sat, 01 Jan 2022 00:00:00 GMT',
    'Last-Modified';
is $r->{h}{'cache-control'}, 'max-age=60', 'Cache-Control';
is $r->{h}{location}, '/elsewhere', 'Location as the backend gave it';
is $r->{body}, Backend::content(5), 'body';
is $r->{h}{'offload-source'}, 'backend', 'Offload-Source: backend';
is scalar(grep { lc $_->[0] eq 'date' } @{ $r->{headers} }), 1, 'one Date';
is scalar(grep { lc $_->[0] eq 'server' } @{ $r->{headers} }), 1,
    'one Server';
is scalar(grep { lc $_->[0] eq 'content-length' } @{ $r->{headers} }), 1,
    'one Content-Length';
is $n->result($job)->{body}, $r->{body}, 'a result can be read again';

my $head = $n->request('HEAD', "$job->{path}/result");

is $head->{status}, 201, 'HEAD: status code';
is $head->{h}{'content-length'}, 5, 'HEAD: length';
is $head->{body}, '', 'HEAD: no body';


# encoded: as the backend sent it

my $plain = Backend::content(20_000);

for my $size (20_000, 20_000_000) {
    ($r) = $n->through(POST => "/z?gzip=1&size=$size", body => 'x',
                       headers => [ 'Accept-Encoding' => 'gzip' ]);
    is $r->{h}{'content-encoding'}, 'gzip', "$size bytes with gzip: encoded";
    IO::Uncompress::Gunzip::gunzip(\$r->{body} => \my $out);
    is sha256_hex($out // ''), Backend::content_sha($size),
        "$size bytes with gzip: whole";
}


# without a body

for my $status (204, 304) {
    ($r) = $n->through(POST => "/e?status=$status", body => 'x');
    is $r->{status}, $status, "status $status";
    is $r->{body}, '', "status $status: no body";
}

($r, undef, $job) = $n->through(HEAD => '/h?size=1234');
is $r->{status}, 200, 'the result of a HEAD';
is length $r->{body}, 0, 'has no body';


# the backend's errors are results too

($r, $doc) = $n->through(POST => '/n?status=404&size=9', body => 'x');
is $doc->{status}, 'failed', 'a 404 of the backend: the job failed';
is $r->{status}, 404, 'and its result is the 404';
is $r->{body}, Backend::content(9), 'with its body';
is $r->{h}{'offload-source'}, 'backend', 'marked as the backend\'s';

$job = $n->submit(POST => '/x?gate=g', body => 'x');
$r = $n->result($job);
Offload::problem($r, 404, 'not ready: a problem, 404');
like $r->{body}, qr/result-not-ready/, 'not ready: named';
like $r->{h}{'retry-after'}, qr/^[1-9]\d*$/, 'not ready: Retry-After';
is $r->{h}{'offload-source'}, 'offload', 'not ready: ours';
is $n->request('HEAD', "$job->{path}/result")->{status}, 404,
    'not ready: HEAD';
$b->open_gate('g');
is $n->settled($job)->{status}, 'completed', 'then ready';
is $n->result($job)->{status}, 200, 'and there';


# any content handler: a file, and nothing

mkdir "$n->{prefix}/static";
Offload::write_file("$n->{prefix}/static/f.txt", 'f' x 100_000);
($r, $doc) = $n->through(GET => '/static/f.txt');
is length $r->{body}, 100_000, 'a static file';
is $r->{h}{'content-type'}, 'text/plain', 'with the type nginx gave it';
($r, $doc) = $n->through(GET => '/static/none');
is $r->{status}, 404, 'nginx\'s own 404 is a result';
is $doc->{status}, 'failed', 'of a failed job';


# offload_max_result: up to that it is as ever

my $said = join '&', 'h=ETag:%22a%22', 'h=Content-MD5:x', 'h=Digest:x',
    'h=Repr-Digest:x', 'h=Content-Digest:x', 'h=Accept-Ranges:bytes',
    'h=X-Other:1';

for my $how ('', '&chunked=1') {
    for my $uri ("/max/x?size=81920$how", "/max/any/x?size=90000$how",
                 "/max/cut/x?size=81920$how&$said",
                 "/max/cut/short/x?size=1000$how&$said")
    {
        my ($size) = $uri =~ /size=(\d+)/;

        ($r, $doc) = $n->through(POST => $uri, body => 'x');
        is sha256_hex($r->{body}), Backend::content_sha($size),
            "$uri: whole";
        is $doc->{response}{truncated}, undef, '.. and not said to be cut';
        is $r->{h}{'accept-ranges'}, 'bytes', '.. with ranges';
        is $r->{h}{etag}, '"a"', '.. and its ETag' if $uri =~ /ETag/;
    }
}

# more is refused, once and for all, and as soon as it is known

for my $uri ('/max/x?size=81921', '/max/x?size=81921&chunked=1',
             '/max/x?size=30000000', '/max/x?size=30000000&chunked=1',
             '/max/x?size=30000000&status=500')
{
    $job = $n->submit(POST => $uri, body => 'x');
    $doc = $n->settled($job);
    is "$doc->{status} $doc->{error}{code}", 'failed result_too_large',
        "$uri: too large";
    like $doc->{error}{message}, qr/larger than 81920 bytes/, '.. it says';
    is $doc->{attempts}, 1, '.. by one attempt';
    ok !exists $doc->{response}, '.. without an answer';
    Offload::problem($n->result($job), 404, '.. and no result');
}

# a replay's line has what nginx sent before the connection was closed
my @sent;

ok Offload::wait_until(10, sub {
    @sent = Offload::read_file("$n->{prefix}/access.log")
            =~ m{"POST /max/x\?size=30000000\S* HTTP/1.1" [25]00 (\d+)}g;
    @sent == 3 }), 'each was attempted once';
is_deeply [ grep { $_ >= 30_000_000 } @sent ], [],
    'and nobody waited for 30 MB';
is_deeply [ grep { !-s } glob "$n->{zone_dir}/store/blobs/*" ], [],
    'nothing is left of them';

# or the first bytes are kept, and nothing is said of the whole

for my $short ('', 'short/') {
    for my $how ('', '&chunked=1') {
        my $size = $short ? 1000 : 81920;
        my $uri = "/max/cut/${short}x?size=2000000$how&$said&status=201";

        ($r, $doc, $job) = $n->through(POST => $uri, body => 'x');
        is "$r->{status} $doc->{status}", '201 completed', "$uri: is cut";
        ok $r->{body} eq Backend::content($size), '.. to its first bytes';
        is $r->{h}{'content-length'}, $size, '.. with the length of these';
        is $r->{h}{'offload-truncated'}, 1, '.. Offload-Truncated';
        is_deeply $doc->{response}, { status => 201, length => $size,
            content_type => 'text/plain', truncated => JSON::PP::true },
            '.. as the document says';
        is_deeply [ grep { exists $r->{h}{$_} }
                    qw(etag content-md5 digest repr-digest content-digest
                       accept-ranges) ], [], '.. nothing of the whole';
        is $r->{h}{'x-other'}, 1, '.. the rest is as it was';
    }
}

(undef, undef, $job) = $n->through(POST => '/max/cut/x?size=2000000',
                                   body => 'x');
$r = $n->get("$job->{path}/result", headers => [ Range => 'bytes=0-1' ]);
is "$r->{status} $r->{h}{'content-length'}", '200 81920', 'no ranges of it';
ok !exists $r->{h}{'accept-ranges'}, '.. which it says';
is $n->request(POST => '/max/cut/x?size=2000000', body => 'x',
               headers => [ Prefer => 'wait=30' ])->{h}{'offload-truncated'},
    1, 'who waits for it is told, too';
($r) = $n->through(HEAD => '/max/x?size=90000');
is $r->{status}, 200, 'a HEAD has no body that could be too large';
($r, $doc) = $n->through(POST => '/max/cut/x?size=2000000&cut=1&close=body',
                         body => 'x');
is "$doc->{status} $doc->{attempts}", 'completed 1',
    'cut off behind what is kept: not missed';


# two readers of a large one, one of them gone half-way

{
    ($r, $doc, $job) = $n->through(POST => '/big?size=8000000', body => 'x');
    my $s = Http::dial($n->port);

    Http::write_all($s, Http::bytes('GET', "$job->{path}/result"));
    sysread $s, my $some, 1000;
    close $s;
    is sha256_hex($n->result($job)->{body}), Backend::content_sha(8_000_000),
        'a reader that leaves does not bother the next';
}

Offload::finish_all();
