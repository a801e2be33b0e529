# A long job that says nothing is taken for a dead one.  Its backend reports
# how far it is, to the URL it was given, and everyone who looks or waits must
# see it; nobody else may say such things, so that the token is the attempt's
# alone and stands nowhere it could be read.

use strict;
use warnings;
use utf8;
use FindBin;
use lib "$FindBin::Bin/lib";

use Events;
use JSON::PP;
use Offload;
use Report;
use Test::More;
use Util qw(read_file wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b, zone => 'jobs 16m path=%%ZONE%%',
                     http => <<'EOT')->start;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /fcgi/ { offload jobs; fastcgi_pass %%FASTCGI%%;
                      fastcgi_param REQUEST_METHOD $request_method;
                      fastcgi_param REQUEST_URI $request_uri; }
    location /mine/ {
        offload jobs;
        proxy_pass http://%%BACKEND%%;
        proxy_set_header Offload-Job-Url "";
    }
    location /tries/ {
        offload jobs;
        try_files /none @there;
    }
    location @there { proxy_pass http://%%BACKEND%%; }
    location /owned/ {
        offload jobs;
        offload_owner $http_x_user;
        offload_base_url https://api.example.com/v1;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; offload_owner $http_x_user; }
}
server {
    listen 127.0.0.1:%%PORT2%% http2;
    location /jobs/ { offload_status jobs; }
}
EOT

my $gates = 0;
my @tokens;


# A job that runs until its gate is opened, and what its backend was given.

sub running {
    my (%o) = @_;
    my $gate = 'g' . $gates++;
    my $job = $n->submit(POST => ($o{at} // '') . "/x?gate=$gate",
                         body => 'x', headers => $o{headers} // []);
    my $at = Report::place($b, $job, attempt => 1);

    push @tokens, $at->{token};

    return ($job, $at, $gate);
}


sub code { my ($r) = @_; $r->{status} . ($r->{error} // '') }


# what the backend is given

my ($job, $at, $gate) = running(headers => [
    Host => 'api.example.com:8080', 'Offload-Job-Url' => 'http://evil/',
    'Offload-Job-Token' => 'x' x 26 ]);
my @seen = $b->journal(event => 'request', job => $job->{id});

is $at->{url}, $job->{url}, 'the URL is that of the Location';
like $at->{token}, qr/^[0-7][0-9a-hjkmnp-tv-z]{25}$/, 'a token of 128 bits';
is_deeply [ sort grep { /^offload-/ } map { lc $_->[0] }
            @{ $seen[0]{headers} } ],
    [ qw(offload-attempt offload-depth offload-job-id offload-job-token
         offload-job-url) ],
    'each of ours once, none of the client';

my ($other, $there) = running();

isnt $there->{token}, $at->{token}, 'another job has another token';

for my $where ('/fcgi', '/tries') {
    my ($job, $at, $gate) = running(at => $where);

    is $at->{url}, $job->{url}, "$where: it has the URL, too";
    $b->open_gate($gate);
    $n->settled($job);
}

my (undef, $mine, $open) = running(at => '/mine');

is $mine->{url}, '', 'proxy_set_header rules';
$b->open_gate($open);


my ($owned, $his, $done) = running(at => '/owned',
                                   headers => [ 'X-User' => 'me' ]);

is $his->{url}, "https://api.example.com/v1/jobs/$owned->{id}",
    'offload_base_url rules the URL';
$his->{path} = "/jobs/$owned->{id}";
is code(Report::progress($n, $his, { progress => 12 })), 204,
    'the token is the right to report, whoever the owner is';
is code($n->get($his->{path})), 404, '.. and to nothing else';
is $n->status($his->{path}, headers => [ 'X-User' => 'me' ])->{progress}, 12,
    'who sees it';
$b->open_gate($done);


# progress is seen

my $s = Events->open($n->port, $job->{path});

is $s->next->{event}, 'running', 'a stream';

my $r = Report::progress($n, $at, { progress => 42,
                                    message => "r\x{e9}ading \"a\"\n\t<b>" });

is code($r), 204, 'a report: 204';
is $r->{body}, '', 'with nothing in it';

my $doc = $n->status($job);

is $doc->{progress}, 42, 'the document has it at once';
is $doc->{progress_message}, "r\x{e9}ading \"a\"\n\t<b>", 'word for word';
is $doc->{status}, 'running', 'and runs';

my $e = $s->next;

is $e->{event}, 'progress', 'an event';
is_deeply $e->{doc}, $doc, 'with the document';

is code(Report::progress($n, $at, { progress => 43.9 })), 204, 'a part of it';
$e = $s->next;
is "$e->{doc}{progress} $e->{doc}{progress_message}",
    "43 $doc->{progress_message}", 'the message stays, percent are whole';

my $sock = Http::dial($n->port);

Http::write_all($sock, Http::bytes('GET', "$job->{path}?wait=30"));
is code(Report::progress($n, $at, { message => 'writing', more => [1] })), 204,
    'the message alone, and what is not known';
$e = $s->next;
is "$e->{event} $e->{doc}{progress} $e->{doc}{progress_message}",
    'progress 43 writing', 'is an event, too';

my $page = $n->get($job->{path}, headers => [ Accept => 'text/html' ])->{body};

like $page, qr/value="43"/, 'the page shows both';
like $page, qr/>writing</, '.. the message as well';

is code(Report::progress($n, $at, { progress => 50, message => 'writing' })),
    204, 'more of it';

my $polled = Http::response($sock);

like decode_json($polled->{body})->{progress_message}, qr/^writing$/,
    'a long poll is answered by progress';

is code(Report::progress($n, $at, { progress => 50 })), 204, 'the same again';
is code(Report::progress($n, $at, { message => '' })), 204, 'no message';
ok !exists $n->status($job)->{progress_message}, 'there is none then';

is code(Report::progress($n, $at, { progress => 60 },
        with => 'Offload-Job-Token',
        headers => [ Authorization => 'Basic eDp5' ])), 204,
    'the token in a header of its own, where Authorization is needed';
is $n->status($job)->{progress}, 60, 'counts as well';

for my $percent (0, 100, 1e-3) {
    is code(Report::progress($n, $at, { progress => $percent })), 204,
        "$percent percent";
}

is $n->status($job)->{progress}, 0, 'of which none is nothing';
is code(Report::progress($n, $at, { message => "\x{20ac}" x 66 . 'xx' })), 204,
    'a message of 200 bytes';
is length $n->status($job)->{progress_message}, 68, '.. is kept';
is code(Report::progress($n, $at, ' ' x 4063 . '{"progress":1,"message":"ab"}'
        . ' ' x 4)), 204, 'a report of 4096 bytes';
is code(Report::progress($n, $at, '{"progress":7}', chunked => 3)), 204,
    'in chunks';
is $n->status($job)->{progress}, 7, '.. is read';
is code(Report::progress($n, $at, { progress => 8 },
        type => 'Application/JSON ; charset=utf-8')), 204, 'a type with more';


# HTTP/2, as a backend would by curl

my $curl = `curl -s -m 20 -o /dev/null -w '%{http_version} %{http_code}' \\
    --http2-prior-knowledge -X PATCH -H 'Content-Type: application/json' \\
    -H 'Authorization: Bearer $at->{token}' -d '{"progress":71}' \\
    http://127.0.0.1:${\ $n->port(2) }$job->{path}`;

is $curl, '2 204', 'HTTP/2';
is $n->status($job)->{progress}, 71, '.. is seen';


# many in a row

my @socks = map { Http::dial($n->port) } 1 .. 40;
my $bytes = sub { Http::bytes('PATCH', $at->{path}, body => $_[0], headers => [
    Authorization => "Bearer $at->{token}",
    'Content-Type' => 'application/json' ]) };

Http::write_all($socks[$_], $bytes->("{\"progress\":$_}")) for 0 .. $#socks;
is_deeply [ map { code(Http::response($_)) } @socks ], [ (204) x 40 ],
    'forty at once';
cmp_ok $n->status($job)->{progress}, '<', 40, 'one of them was the last';


# what is no report

for ([ '{"progress":101}',        400, 'over 100' ],
     [ '{"progress":-1}',         400, 'below 0' ],
     [ '{"progress":"42"}',       400, 'a string for a number' ],
     [ '{"progress":null}',       400, 'null for a number' ],
     [ '{"progress":1e999}',      400, 'no number at all' ],
     [ '{"message":42}',          400, 'a number for a string' ],
     [ '{"message":"' . 'x' x 201 . '"}', 400, 'a message too long' ],
     [ '{"message":"a\u0000b"}',  400, 'a NUL' ],
     [ "{\"message\":\"\xff\"}",  400, 'not UTF-8' ],
     [ '{"message":"\ud800"}',    400, 'half a character' ],
     [ '{}',                      400, 'neither of them' ],
     [ '{"more":1}',              400, 'something else alone' ],
     [ '[42]',                    400, 'a list' ],
     [ '42',                      400, 'a number' ],
     [ '',                        400, 'nothing' ],
     [ '{"progress":1',           400, 'half of it' ],
     [ '{"progress":1}{}',        400, 'one and a half' ],
     [ '{"progress":1,"progress":2}', 400, 'twice' ],
     [ '[' x 4000,                400, 'deep' ],
     [ '{"progress":1}' . ' ' x 4083, 413, 'more than 4 KB' ],
     [ '{"progress":1}' . ' ' x 90000, 413, 'much more', chunked => 8000 ],
     [ '{"progress":1}',          415, 'another type', type => 'text/plain' ],
     [ '{"progress":1}',          415, 'no type', type => undef ],
     [ '{"progress":1}',          415, 'almost one',
       type => 'application/jsonp' ],
     [ '{"progress":1}',          401, 'no token', token => undef ],
     [ '{"progress":1}',          401, 'another scheme', token => undef,
       headers => [ Authorization => "Basic $at->{token}" ] ],
     [ '{"progress":1}',          403, 'no such token', token => '0' x 26 ],
     [ '{"progress":1}',          403, 'a token cut short',
       token => substr $at->{token}, 0, 25 ],
     [ '{"progress":1}',          401, 'no token but the scheme',
       token => '' ],
     [ '{"progress":1}',          403, 'the token of another job',
       token => $there->{token} ],
     [ '{"progress":1}',          403, 'the wrong one of two',
       headers => [ 'Offload-Job-Token' => $there->{token} ] ])
{
    my ($body, $status, $name, %o) = @$_;
    my $before = $n->status($job);

    $r = Report::progress($n, $at, $body, %o);
    Offload::problem($r, $status, "$name: $status");

    my $after = $n->status($job);

    # which is anew each time
    delete $_->{estimated_completion} for $before, $after;
    is_deeply $after, $before, '.. changes nothing';
    is $r->{h}{'www-authenticate'}, $status == 401 ? 'Bearer' : undef,
        '.. asks for what it needs' if $status =~ /^40[13]$/;
    is $r->{h}{'accept-patch'}, 'application/json', '.. says what it takes'
        if $status == 415;
}

my $wrong = { %$at, path => '/jobs/' . ($job->{id} =~ tr/0-9/1-90/r) };

Offload::problem(Report::progress($n, $wrong, { progress => 1 }), 404,
                 'no such job: 404');
Offload::problem(Report::progress($n, { %$at, path => '/jobs/x' },
                                  { progress => 1 }), 404, 'no URL: 404');

for my $method (qw(POST PUT)) {
    $r = $n->request($method => $job->{path}, body => 'x');
    Offload::problem($r, 405, "$method of a job: 405");
    is $r->{h}{allow}, 'GET, HEAD, PATCH, DELETE, OPTIONS',
        '.. and what is allowed';
}

for my $method (qw(PATCH POST DELETE)) {
    $r = $n->request($method => "$job->{path}/result", body => 'x');
    Offload::problem($r, 405, "$method of a result: 405");
    is $r->{h}{allow}, 'GET, HEAD, PUT, OPTIONS', '.. and what is allowed';
}


# one that waits has no token yet, and one whose attempt is over none more

my $worker = $n->offloadd;

kill 'KILL', $worker;
ok $n->offloadd(not => $worker), 'offloadd is killed';

my $again = Report::place($b, $job, attempt => 2);

$there = Report::place($b, $other, attempt => 2);
push @tokens, map { $_->{token} } $again, $there;
isnt $again->{token}, $at->{token}, 'another attempt has another token';
is $again->{url}, $at->{url}, 'and the same URL';
ok !exists $n->status($job)->{progress}, 'its progress starts anew';
Offload::problem(Report::progress($n, $at, { progress => 99 }), 403,
                 'the first attempt has nothing to say any more');
is code(Report::progress($n, $again, { progress => 5 })), 204,
    'the second one has';

my $deaf = $n->offloadd;

Util::freeze($deaf);
$sock = Http::dial($n->port);
$at = $again;
Http::write_all($sock, $bytes->('{"progress":6}'));
Offload::problem(Http::response($sock), 503, 'a worker that is stuck: 503');
kill 'CONT', $deaf;
ok wait_until(20, sub { $n->status($job)->{progress} == 6 }),
    '.. and it is told all the same';

$b->open_gate($gate);
is $n->settled($job)->{status}, 'completed', 'settled';
$doc = $n->status($job);
ok !exists $doc->{progress} && !exists $doc->{progress_message},
    'which has no progress';
Offload::problem(Report::progress($n, $again, { progress => 9 }), 409,
                 'and takes no reports');
is(($s->rest)[-1], 'completed', 'nor has the stream, to its end');

$n->request(DELETE => $other->{path});
Offload::problem(Report::progress($n, $there, { progress => 1 }), 409,
                 'canceled: none either');


# the token is nowhere

$n->stop;

my $logs = join '', map { read_file($_) } glob("$n->{prefix}/*log*"),
           glob("$n->{zone_dir}/*.log");

ok length $logs, 'there are logs';
ok !(grep { index($logs, $_) >= 0 } @tokens), 'and no token in them';

Offload::finish_all();
