# Caches, browsers and command line tools go by HTTP's rules, not by ours: a
# HEAD that differs from its GET, a range of the wrong bytes, a 405 without
# Allow or a problem that a script of another origin may not read are the
# kinds of mistakes nobody finds in a log.  And a browser's preflight must not
# become a job nobody knows of.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Events;
use JSON::PP;
use Offload;
use Test::More;
use Util qw(wait_until);

my $DATE = 'Sat, 01 Jan 2022 00:00:00 GMT';
my $b = Backend->start;
my $n = Offload->new(backend => $b, workers => 1,
    zone => 'jobs 2m path=%%ZONE%% lanes=2 slots=64', http => <<'EOT')->start;
map $arg_cc $cc { default "public, max-age=9"; none ""; }
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 100k;
    add_header Access-Control-Allow-Origin "https://app.example" always;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /brief/ {
        offload jobs;
        offload_result_ttl 1s;
        proxy_pass http://%%BACKEND%%;
    }
    location /asked/ {
        if ($request_method = OPTIONS) { return 204; }
        offload jobs;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
    location /off/ {
        offload_status jobs; offload_result_cache_control off;
    }
    location /set/ {
        offload_status jobs; offload_result_cache_control $cc;
    }
}
server {
    listen 127.0.0.1:%%PORT2%% http2;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT


# a job whose result is of this size, in the store or in a file

sub result {
    my ($size, @headers) = @_;
    my $query = join '', map { s{ }{%20}gr } map { "&h=$_" } @headers;
    my $job = $n->submit(POST => "/r?size=$size$query", body => 'x');

    $n->settled($job);
    return $job;
}


sub unlike_by {
    my ($r) = @_;

    return { map { $_ => $r->{h}{$_} } grep { $_ ne 'date' }
             keys %{ $r->{h} } };
}


my %job = (
    memory => result(100, 'ETag:"e1"', "Last-Modified:$DATE"),
    file   => result(1_000_000, 'ETag:"e1"', "Last-Modified:$DATE"),
);
my %size = (memory => 100, file => 1_000_000);
my $pending = $n->submit(POST => '/p?gate=p', body => 'x');
my $none = '/jobs/' . $pending->{id} =~ tr/0-9/1-90/r;
my $path = $job{memory}{path};

$n->wait_status($pending, 'running');


# methods

my @allow = ([ $path, 'GET, HEAD, PATCH, DELETE, OPTIONS' ],
             [ $pending->{path}, 'GET, HEAD, PATCH, DELETE, OPTIONS' ],
             [ $none, 'GET, HEAD, PATCH, DELETE, OPTIONS' ],
             [ "$path/result", 'GET, HEAD, PUT, OPTIONS' ],
             [ "$none/result", 'GET, HEAD, PUT, OPTIONS' ]);

for (@allow) {
    my ($url, $allow) = @$_;
    my $what = $url =~ s/[0-9a-z]{26}/<id>/r
               . ($url =~ /$none/ ? ' of nobody' : '');
    my $r = $n->request('OPTIONS', $url);

    is "$r->{status} $r->{h}{allow}", "204 $allow", "OPTIONS $what";
    is $r->{body}, '', '.. without a body';

    for my $method (qw(POST LOCK TRACK MKCOL), $allow =~ /DELETE/ ? ()
                                                                  : 'DELETE')
    {
        $r = $n->request($method, $url, body => 'x' x 1000);
        Offload::problem($r, 405, "$method $what: 405");
        is $r->{h}{allow}, $allow, '.. Allow';
        is $r->{h}{'cache-control'}, 'no-store', '.. no-store';
    }
}

Offload::problem($n->request('OPTIONS', '/jobs/x'), 404,
    'OPTIONS of what can not be a job: 404');


# HEAD is GET without its body

for my $url ($path, $pending->{path}, $none, "$path/result",
             "$pending->{path}/result", "$none/result",
             "$job{file}{path}/result")
{
    my ($get, $head);

    # but that a second passed between the two
    ok wait_until(10, sub {
        $get = $n->get($url);
        $head = $n->request('HEAD', $url);
        JSON::PP->new->canonical->encode(unlike_by($get))
            eq JSON::PP->new->canonical->encode(unlike_by($head)) }),
        'HEAD is like GET: ' . $url =~ s/[0-9a-z]{26}/<id>/r
        or is_deeply unlike_by($head), unlike_by($get);
    is $head->{status}, $get->{status}, '.. its status too';
    is $head->{body}, '', '.. without a body';
}


# conditional requests

my @conditional = (
    # what              header                        status
    [ 'the same ETag',  'If-None-Match' => '"e1"',       304 ],
    [ 'a weak one',     'If-None-Match' => 'W/"e1"',     304 ],
    [ 'one of several', 'If-None-Match' => '"x", "e1"',  304 ],
    [ 'any',            'If-None-Match' => '*',          304 ],
    [ 'another',        'If-None-Match' => '"e2"',       200 ],
    [ 'the same date',  'If-Modified-Since' => $DATE,    304 ],
    [ 'an older date',
      'If-Modified-Since' => 'Fri, 31 Dec 2021 00:00:00 GMT', 200 ],
    [ 'no date',        'If-Modified-Since' => 'today',  200 ],
    [ 'if the same',    'If-Match' => '"e1"',            200 ],
    [ 'if another',     'If-Match' => '"e2"',            412 ],
    [ 'if not newer',   'If-Unmodified-Since' => $DATE,  200 ],
    [ 'if newer',
      'If-Unmodified-Since' => 'Fri, 31 Dec 2021 00:00:00 GMT', 412 ],
);

for my $form (sort keys %job) {
    my $url = "$job{$form}{path}/result";

    for (@conditional) {
        my ($what, $name, $value, $status) = @$_;
        my $r = $n->get($url, headers => [ $name => $value ]);

        is $r->{status}, $status, "$form, $what: $status";
        is length $r->{body}, $size{$form}, '.. whole' if $status == 200;
        is_deeply [ $r->{body}, @{ $r->{h} }{qw(etag cache-control)} ],
            [ '', '"e1"', 'private, no-cache' ], '.. as RFC 9110 wants it'
            if $status == 304;
    }
}


# ranges

my @ranges = (
    # of        gives             as a part of n bytes
    [ '0-0',    sub { (0, 0) } ],
    [ '10-19',  sub { (10, 19) } ],
    [ '90-',    sub { (90, $_[0] - 1) } ],
    [ '-5',     sub { ($_[0] - 5, $_[0] - 1) } ],
    [ '-9999999', sub { (0, $_[0] - 1) } ],
    [ '50-9999999', sub { (50, $_[0] - 1) } ],
);

for my $form (sort keys %job) {
    my ($url, $size) = ("$job{$form}{path}/result", $size{$form});
    my $all = Backend::content($size);
    my $get = sub { $n->get($url, headers => [ @_ ]) };
    my $r = $get->();

    is $r->{h}{'accept-ranges'}, 'bytes', "$form: Accept-Ranges";

    for (@ranges) {
        my ($range, $want) = @$_;
        my ($from, $to) = $want->($size);

        $r = $get->(Range => "bytes=$range");
        is "$r->{status} $r->{h}{'content-range'}",
            "206 bytes $from-$to/$size", "$form, $range: 206";
        ok $r->{body} eq substr($all, $from, $to - $from + 1),
            '.. these bytes';
        is $n->request('HEAD', $url,
                       headers => [ Range => "bytes=$range" ])->{h}
              {'content-length'}, $to - $from + 1, '.. HEAD: as many';
    }

    $r = $get->(Range => "bytes=$size-");
    is "$r->{status} $r->{h}{'content-range'}", "416 bytes */$size",
        "$form: beyond the end: 416";
    is $get->(Range => 'lines=1-2')->{status}, 200,
        "$form: of another unit: all";

    $r = $get->(Range => 'bytes=1-3,50-59,-2');
    is $r->{status}, 206, "$form: several ranges";

    my ($mark) = $r->{h}{'content-type'}
                 =~ m{^multipart/byteranges; boundary=(\S+)$};
    my @parts = split /\r\n--\Q$mark\E(?:\r\n|--\r\n)/, $r->{body};

    shift @parts;                                   # before the first
    is_deeply [ map { m{\r\nContent-Range:\ (\S+\ \S+)\r\n\r\n(.*)}s } @parts ],
        [ map { ("bytes $_->[0]-$_->[1]/$size",
                 substr $all, $_->[0], $_->[1] - $_->[0] + 1) }
          [ 1, 3 ], [ 50, 59 ], [ $size - 2, $size - 1 ] ],
        '.. all parts, in order';

    for ([ '"e1"', 206 ], [ '"e2"', 200 ], [ $DATE, 206 ],
         [ 'Fri, 31 Dec 2021 00:00:00 GMT', 200 ])
    {
        my ($if, $status) = @$_;

        is $get->(Range => 'bytes=1-2', 'If-Range' => $if)->{status}, $status,
            "$form: If-Range: $if: $status";
    }
}

my $failed = $n->submit(POST => '/f?status=404&size=50', body => 'x');

$n->settled($failed);

my $r = $n->get("$failed->{path}/result",
                headers => [ Range => 'bytes=0-1', 'If-None-Match' => '*' ]);

is "$r->{status} " . length $r->{body}, '404 50', 'a 404 has no ranges';
is $r->{h}{'accept-ranges'}, undef, '.. and says so';
is $n->get($path, headers => [ Range => 'bytes=0-1' ])->{status}, 200,
    'nor has a document';


# whoever waited for the answer gets it as if it came from the backend

$r = $n->request(POST => '/w?size=100&h=Accept-Ranges:none', body => 'x',
                 headers => [ Prefer => 'wait=30', Range => 'bytes=0-1' ]);
is "$r->{status} $r->{h}{'content-length'}", '200 100', 'a POST has no ranges';
is $r->{h}{'accept-ranges'}, 'none', '.. as the backend said';
is $r->{h}{'cache-control'}, undef, '.. who said nothing of caches';


# caches

my $cached = result(10, 'Cache-Control:max-age=60', 'Expires:now');

for ([ $job{memory}, 'jobs', '',         'private, no-cache', undef ],
     [ $job{file},   'jobs', '',         'private, no-cache', undef ],
     [ $cached,      'jobs', '',         'max-age=60', 'now' ],
     [ $job{memory}, 'off',  '',         undef, undef ],
     [ $cached,      'off',  '',         'max-age=60', 'now' ],
     [ $job{memory}, 'set',  '',         'public, max-age=9', undef ],
     [ $cached,      'set',  '',         'public, max-age=9', undef ],
     [ $job{memory}, 'set',  '?cc=none', undef, undef ],
     [ $cached,      'set',  '?cc=none', 'max-age=60', 'now' ])
{
    my ($job, $at, $args, $cc, $expires) = @$_;

    $r = $n->get("/$at/$job->{id}/result$args");
    is_deeply [ @{ $r->{h} }{qw(cache-control expires)} ], [ $cc, $expires ],
        "/$at/$args, " . ($job eq $cached ? 'with' : 'without')
        . ' a Cache-Control of its own';
}


# what is ours is not to be stored; and leads to the job

my $accepted = $n->request(POST => '/l', body => 'x');

is $accepted->{h}{link}, "<$accepted->{h}{location}>; rel=\"monitor\"",
    'Link: rel=monitor';

my $large = $n->request(POST => '/l', body => 'x' x 200_000);

Offload::problem($large, 413, 'a body too large');

for ([ '202', $accepted ], [ 'document', $n->get($path) ],
     [ 'pending document', $n->get($pending->{path}) ],
     [ '404', $n->get($none) ], [ '413', $large ],
     [ '404 of a result', $n->get("$pending->{path}/result") ])
{
    is $_->[1]{h}{'cache-control'}, 'no-store', "$_->[0]: no-store";
}


# scripts of other origins: what add_header says is on every answer

my $brief = $n->submit(POST => '/brief/b', body => 'x');

$n->settled($brief);
ok wait_until(30, sub { $n->get($brief->{path})->{status} == 410 }),
    'offload_result_ttl: over';

my @cors = (
    [ '202',        202, sub { $n->request(POST => '/c', body => 'x') } ],
    [ 'document',   200, sub { $n->get($path) } ],
    [ 'result',     200, sub { $n->get("$path/result") } ],
    [ 'range',      206, sub { $n->get("$path/result",
                                   headers => [ Range => 'bytes=0-1' ]) } ],
    [ 'no news',    304, sub { $n->get("$path/result",
                                   headers => [ 'If-None-Match' => '*' ]) } ],
    [ 'bad result', 404, sub { $n->get("$failed->{path}/result") } ],
    [ 'page',       200, sub { $n->get($path,
                                   headers => [ Accept => 'text/html' ]) } ],
    [ 'nobody',     404, sub { $n->get($none) } ],
    [ 'expired',    410, sub { $n->get($brief->{path}) } ],
    [ 'method',     405, sub { $n->request(LOCK => $path) } ],
    [ 'options',    204, sub { $n->request(OPTIONS => $path) } ],
    [ 'too large',  413, sub { $n->request(POST => '/c',
                                           body => 'x' x 200_000) } ],
    [ 'waited for', 200, sub { $n->request(POST => '/c', body => 'x',
                                   headers => [ Prefer => 'wait=30' ]) } ],
    [ 'cancel',     200, sub { $n->request(DELETE => $accepted->{h}{location}
                                           =~ s{^http://[^/]+}{}r) } ],
    [ 'preflight',  200, sub { $n->request(OPTIONS => '/c?size=1',
        headers => [ Origin => 'https://app.example',
                     'Access-Control-Request-Method' => 'PUT' ]) } ],
    [ 'return',     204, sub { $n->request(OPTIONS => '/asked/c') } ],
);
my $origin = 'https://app.example';

for (@cors) {
    my ($what, $status, $ask) = @$_;

    $r = $ask->();
    is "$r->{status} " . ($r->{h}{'access-control-allow-origin'} // 'none'),
        "$status $origin", "other origins: $what";
}

my $s = Events->open($n->port, $path);

is $s->{h}{'access-control-allow-origin'}, $origin, 'other origins: events';
$s->rest;


# a preflight is asked of the location at once, any other OPTIONS is a job

my @preflights = $b->wait_for(1, event => 'request', method => 'OPTIONS');

is_deeply [ map { $_->{job} } @preflights ], [ undef ],
    'the backend was asked, and it was no job';
is $n->request(OPTIONS => '/c')->{status}, 202, 'any other OPTIONS is one';


# HTTP/2

sub h2 {
    my ($method, $url, @more) = @_;

    open my $curl, '-|', 'curl', '-sS', '-m', 60, '--http2-prior-knowledge',
        '-X', $method, '-D', '-', $method eq 'HEAD' ? '-I' : (), @more,
        'http://127.0.0.1:' . $n->port(2) . $url or die "curl: $!\n";
    local $/;
    my ($head, $body) = split /\r\n\r\n/, <$curl>, 2;

    close $curl;

    my ($status) = $head =~ m{\AHTTP/2 (\d+)};

    return { status => $status // $head, body => $body,
             h => { $head =~ /^([\w-]+): (.*?)\r?$/mg } };
}

my $big = 'b' x 90_000;

Offload::write_file("$n->{prefix}/body", $big);
$r = h2(POST => '/2', '--data-binary', "\@$n->{prefix}/body");
is $r->{status}, 202, 'HTTP/2: accepted';

my ($two) = $r->{h}{location} =~ m{(/jobs/\w+)$};

is $r->{h}{link}, "<$r->{h}{location}>; rel=\"monitor\"", 'HTTP/2: Link';
$n->settled({ path => $two });
is decode_json(h2(GET => "$two/result")->{body})->{length}, length $big,
    'HTTP/2: its body arrived';
is decode_json(h2(GET => $two)->{body})->{status}, 'completed',
    'HTTP/2: its document';
$r = h2(HEAD => $two);
is "$r->{status} $r->{h}{'cache-control'}", '200 no-store', 'HTTP/2: HEAD';
$r = h2(OPTIONS => $two);
is "$r->{status} $r->{h}{allow}", "204 $allow[0][1]", 'HTTP/2: OPTIONS';
$r = h2(LOCK => "$two/result");
is "$r->{status} $r->{h}{allow}", "405 $allow[3][1]", 'HTTP/2: 405';

for my $form (sort keys %job) {
    my ($url, $all) = ("$job{$form}{path}/result",
                       Backend::content($size{$form}));

    ok h2(GET => $url)->{body} eq $all, "HTTP/2: $form: whole";
    $r = h2(GET => $url, '-r', '50-98');
    is "$r->{status} $r->{body}", '206 ' . substr($all, 50, 49),
        "HTTP/2: $form: a range";
    is h2(GET => $url, '-H', 'If-None-Match: "e1"')->{status}, 304,
        "HTTP/2: $form: 304";
}

$r = h2(DELETE => $pending->{path});
is decode_json($r->{body})->{status}, 'canceled', 'HTTP/2: canceled';
$r = h2(GET => $pending->{path}, '-H', 'Accept: text/event-stream');
like $r->{body}, qr/^event: canceled$/m, 'HTTP/2: events';


# a full zone's refusal can be read by scripts as well

my $pid = $n->offloadd;

Util::freeze($pid);

for (1 .. 200) {
    $r = $n->request(POST => '/full', body => 'x');
    last if $r->{status} != 202;
}

kill 'CONT', $pid;
Offload::problem($r, 503, 'a full zone: 503');
is $r->{h}{'access-control-allow-origin'}, $origin, '.. for other origins';
is $r->{h}{'cache-control'}, 'no-store', '.. not to be stored';

Offload::finish_all();
