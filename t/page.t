# The person who clicked "make the report" has a browser and nothing else.
# Only a real one says whether the page works under its own policy: what the
# policy forbids fails silently, and no test of bytes would see it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Browser;
use Digest::SHA qw(sha256_base64);
use Offload;
use Report;
use Test::More;
use Util qw(wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    zone => 'jobs 16m path=%%ZONE%% concurrency=1 ttl=1h',
    http => <<'EOT')->start;
offload_heartbeat 500ms;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
    location /short/ { offload short; proxy_pass http://%%BACKEND%%; }
    location /short/jobs/ { offload_status short; }
}
offload_zone short 16m path=%%SHM%%/s ttl=1s;
EOT

my $root = 'http://127.0.0.1:' . $n->port;
my @html = (headers => [ Accept => 'text/html,*/*;q=0.8' ]);


sub gated {
    my ($gate) = @_;

    return $n->submit(POST => "/g?gate=$gate&type=text/plain&size=8",
                      body => 'x');
}


# what is sent, to the byte

my $first = gated('first');

$n->wait_status($first, 'running');

my $job = gated('job');

wait_until(30, sub { $n->status($job)->{queue_position} });

my $r = $n->get($job->{path}, @html);

is $r->{status}, 202, 'a page of a job that waits: 202 like its document';
is $r->{h}{'content-type'}, 'text/html; charset=utf-8', 'HTML';
is $r->{h}{'cache-control'}, 'no-store', 'not to be kept';
is $r->{h}{'referrer-policy'}, 'no-referrer', 'its URL goes nowhere';
is $r->{h}{'x-content-type-options'}, 'nosniff', 'nosniff';
like $r->{h}{'retry-after'}, qr/^\d+$/, 'Retry-After like its document';
like $r->{body}, qr{http-equiv="refresh" content="5"}, 'without scripts too';
like $r->{body}, qr{>queued<}, 'it shows the state';
unlike $r->{body}, qr/[{]{2}/, 'all fields are filled in';
unlike $r->{body}, qr{(?:src|href)="(?!data:|"|$root)|url\(|\@import}i,
    'nothing comes from elsewhere';

my $policy = $r->{h}{'content-security-policy'};

like $policy, qr/^default-src 'none';/, 'nothing is allowed but';

for my $part (qw(script style)) {
    my ($text) = $r->{body} =~ m{<$part>(.*?)</$part>}s;

    like $policy, qr/$part-src 'sha256-\Q@{[ sha256_base64($text) ]}\E='/,
        "this very $part";
}

like $policy, qr/\b$_/, $_
    for "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
        "frame-ancestors 'none'";
unlike $policy, qr/unsafe|http|\*/, 'and nobody else';

my $head = $n->request(HEAD => $job->{path}, @html);

is "$head->{status} $head->{h}{'content-length'} $head->{body}",
    "202 $r->{h}{'content-length'} ", 'HEAD: the same head';


# from the queue to the result, without loading it again

my $w = eval { Browser->start };

if (!$w) {
    diag "no browser here, so the page itself is not tried: $@";
    Offload::finish_all();
    exit;
}

$w->open($root . $job->{path});
ok $w->wait_text('#state', qr/^queued$/i), 'the browser shows: queued';
like $w->text('main'), qr/Place in the queue\s+1\b/, 'its place';
like $w->text('main'), qr/Expected by\s+\d/, 'an estimate';
unlike $w->text('main'), qr/\d\dZ|Finished|Error|Answer/,
    'local times, and nothing that is not yet';
is $w->js('return document.querySelector("[data-is=created_at]").dateTime'),
    $n->status($job)->{created_at}, 'with the exact time behind it';
is $w->text('#problem'), '', 'no problem';
is_deeply [ $w->console ], [], 'nothing to complain about';
$w->js('window.here = 1');
$w->screenshot("$ENV{OFFLOAD_SHOTS}/queued.png") if $ENV{OFFLOAD_SHOTS};

$b->open_gate('first');
ok $w->wait_text('#state', qr/^running$/i), 'running';
unlike $w->text('main'), qr/Place in the queue/, 'no place any more';
is Report::progress($n, Report::place($b, $job),
    { progress => 43, message => '<reading>' })->{status}, 204,
    'the job makes progress';
ok $w->wait_text('main', qr/Progress\s+43 %/), 'which is shown';
ok $w->wait_text('main', qr/At work on\s+<reading>/), 'with its words';
is $w->js('return document.querySelector("progress").value'), 43, 'as a bar';
$w->screenshot("$ENV{OFFLOAD_SHOTS}/running.png") if $ENV{OFFLOAD_SHOTS};

$b->open_gate('job');
ok $w->wait_text('#state', qr/^completed$/i), 'completed';
like $w->text('main'), qr{Answer\s+200, 8 bytes text/plain}, 'the answer';
like $w->js('return document.title'), qr/^completed/, 'the title';
is $w->js('return window.here'), 1, 'the page was loaded once';
is $w->text('#cancel'), '', 'nothing to cancel';
$w->screenshot("$ENV{OFFLOAD_SHOTS}/completed.png") if $ENV{OFFLOAD_SHOTS};
is_deeply [ $w->console ], [], 'nothing to complain about';

$w->click('#result');
ok $w->wait_text('body', qr/^0000000$/), 'the result is one click away';
is $w->js('return location.href'), "$root$job->{path}/result", 'at its URL';
is $w->js('return document.referrer'), '', 'which is told no referrer';
$w->console;


# loaded when all is over

$w->open($root . $job->{path});
ok $w->wait_text('#state', qr/^completed$/i), 'settled: it says so';
is $w->text('#note'), '', 'and is content';
is_deeply [ $w->console ], [], 'nothing to complain about';


# canceled by hand; a reload of nginx in between is no matter

$job = gated('long');
$w->open($root . $job->{path});
ok $w->wait_text('#state', qr/^running$/i), 'another one';

my @old = $n->workers;

kill 'HUP', $n->master;
wait_until(30, sub { my %new = map { $_ => 1 } $n->workers;
                     keys %new && !grep { $new{$_} } @old });
$w->click('#cancel');
$w->ask(POST => '/alert/dismiss', {});
is $n->status($job)->{status}, 'running', 'asked, and not meant: it runs';
$w->click('#cancel');
$w->ask(POST => '/alert/accept', {});
ok $w->wait_text('#state', qr/^canceled$/i), 'canceled';
is $n->status($job)->{status}, 'canceled', 'it is';
is $w->text('#actions'), '', 'nothing is left to do';
is_deeply [ grep { !/ERR_(?:INCOMPLETE_CHUNKED|CONNECTION)/ } $w->console ],
    [], 'nothing to complain about';
$b->open_gate('long');


# a failed one; what the backend says is text, not HTML

my $nasty = 'text/<img/src=x:/onerror=alert(1)>';

(undef, undef, $job) = $n->through(
    POST => '/f?status=500&size=3&type='
            . join('', map { sprintf '%%%02x', ord } split //, $nasty),
    body => 'x');
$w->open($root . $job->{path});
ok $w->wait_text('#state', qr/^failed$/i), 'failed';
like $w->text('main'), qr/Error\s+backend_status/, 'with the reason';
$r = $n->get($job->{path}, @html);
unlike $r->{body}, qr/<img/, 'a backend can not put HTML into it';
is $w->js('return document.images.length'), 0, 'nor into what is shown';
$w->screenshot("$ENV{OFFLOAD_SHOTS}/failed.png") if $ENV{OFFLOAD_SHOTS};
is_deeply [ $w->console ], [], 'nothing to complain about';


# unknown, expired

my $wrong = $job->{id} =~ tr/0-9/1-90/r;

$r = $n->get("/jobs/$wrong", @html);
is "$r->{status} $r->{h}{'content-type'}", '404 text/html; charset=utf-8',
    'no such job: 404, for people too';
$w->open("$root/jobs/$wrong");
is $w->text('h1'), 'No such job', 'it says so';
is $w->text('#job'), '', 'and nothing of a job';
$w->console;        # a browser notes each 404

$job = $n->submit(POST => '/short/x', body => 'x');
wait_until(30, sub { $n->get($job->{path})->{status} == 410 });
$r = $n->get($job->{path}, @html);
is "$r->{status} $r->{h}{'content-type'}", '410 text/html; charset=utf-8',
    'an expired one: 410';
like $r->{body}, qr/The job has expired/, 'it says so';


# the policy is in force, and the console would have told

$w->open($root . $first->{path});
$w->wait_text('#state', qr/^completed$/i);
$w->console;
$w->js('document.body.append(Object.assign(document.createElement("img"),'
       . " { src: '$root/x.png' }))");
ok wait_until(30, sub { grep { /Content Security Policy/ } $w->console }),
    'a picture from elsewhere is refused, and the console tells';

undef $w;
Offload::finish_all();
