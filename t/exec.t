# Jobs that are done by a command: somebody else's program, which leaves its
# children behind, prints without end, ignores signals or has been removed.
# None of that may hold up the worker, leak into a result or go on unseen, and
# nothing that a client sends may become more than a value of the environment.
# A real typesetter makes a real document; the others are written to misbehave.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Command;
use Digest::SHA qw(sha256_hex);
use JSON::PP;
use Offload;
use Test::More;
use Util qw(alive wait_until write_file);

my $b = Backend->start;
my $n = Offload->new(backend => $b, workers => 1, worker => 'off',
    build => Offload::failpoints_dir(), zone => 'jobs 16m path=%%ZONE%%',
    http => <<'EOT');
offload_queue do zone=jobs {
    exec     %%PREFIX%%/do one "two three" "$PATH;`id`";
    exec_env MARKS=%%PREFIX%%/marks HOME;
    retry    max=2 backoff=10ms jitter=none;
    progress_pattern "done= *([0-9]+)";
}
offload_queue typeset zone=jobs { exec /usr/bin/groff -Tpdf -ms; }
offload_queue limited zone=jobs {
    exec       %%PREFIX%%/do;
    exec_limit memory=300m cpu=1s processes=4000 files=32;
    exec_dir   /usr;
    exec_env   MARKS=%%PREFIX%%/marks;
}
offload_queue gone zone=jobs { exec %%PREFIX%%/gone; }
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    offload_body_buffer_size 64k;
    location / { offload do; }
    location /small/ { offload do; offload_max_result 100k; }
    location /cut/ { offload do; offload_max_result 100k truncate; }
    location /brief/ { offload do; offload_timeout 1m; }
    location /typeset/ { offload typeset; }
    location /limited/ { offload limited; }
    location /gone/ { offload gone; }
    location /script/ { offload do; }
    location /word { offload do; }
    location = /exact { offload do; }
    location ~ \.pdf$ { offload do; }
    location /was/ { rewrite ^/was/(.*)$ /script/$1?do=look&was=$1 last; }
    location /broken/ { rewrite ^/broken(/.*)$ $1 break; offload do; }
    location /both/ { offload do; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT

my $marks = Command::install($n, qw(do gone));

$n->start;

my $clock = Clock->new($n);
my $daemon = $n->by_hand(undef, $clock->env);

$n->offloadd;

sub mark { Command::mark($n, @_) }
sub gone { Command::gone(@_) }
sub failed { my ($doc) = @_; join ' ', $doc->{status} // '',
             $doc->{error}{code} // '' }


# ---- what it is told, what it says

my $body = 'b' x 3_000_000;
my @headers = ('Content-Type' => 'a/b', 'X-One' => '1', 'X-One' => '2',
    'X_Under' => 'smuggled', Proxy => 'evil:1', Authorization => 'Basic eDp5',
    'OFFLOAD-JOB-ID' => 'mine', 'LD-PRELOAD' => '/tmp/x.so', Cookie => 'a=1',
    Tracestate => 'a=b', Traceparent =>
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01');

for my $size (0, 5, 40_000, length $body) {
    my ($r, $doc, $job) = $n->through(POST => "/a%20b/c?do=look",
        headers => \@headers, body => substr $body, 0, $size);
    my $seen = eval { decode_json($r->{body}) } // {};
    my $env = $seen->{env} // {};

    is $doc->{status}, 'completed', "$size bytes: completed";
    is $seen->{stdin}, sha256_hex(substr $body, 0, $size),
        "$size bytes: it has read them all";
    is $env->{CONTENT_LENGTH} // 0, $size, "$size bytes: and knew how many";
    next if $size != 5;

    is $r->{status}, 201, 'the status it printed';
    is "$r->{h}{'x-made'} $r->{h}{'content-type'}", 'here application/json',
        'its headers';
    ok $r->{h}{server} ne 'me' && !$r->{h}{'offload-replay'},
        'but for those it has no say in';
    is_deeply $seen->{argv}, [ 'one', 'two three', '$PATH;`id`' ],
        'its arguments, which no shell has seen';
    is_deeply [ @$env{qw(REQUEST_METHOD SCRIPT_NAME PATH_INFO QUERY_STRING
                         CONTENT_TYPE REMOTE_ADDR SERVER_NAME SERVER_PORT
                         GATEWAY_INTERFACE SERVER_PROTOCOL OFFLOAD_JOB_ID
                         OFFLOAD_ATTEMPT OFFLOAD_QUEUE HTTP_X_ONE
                         HTTP_COOKIE PATH)} ],
        [ 'POST', '', '/a b/c', 'do=look', 'a/b', '127.0.0.1', 'localhost',
          $n->port, 'CGI/1.1', 'HTTP/1.1', $job->{id}, 1, 'do', '1, 2',
          'a=1', '/usr/local/bin:/usr/bin:/bin' ], 'its environment';
    ok !(grep { /UNDER|PROXY|AUTHORIZATION|^LD_|TOKEN|TEST_CLOCK/ }
         keys %$env), 'and nothing that it is not to have'
        or diag join ' ', sort keys %$env;
    ok $env->{TRACEPARENT} =~ /^00-0af7\w{28}-(\w{16})-01$/
       && $1 ne 'b7ad6b7169203331' && $env->{TRACESTATE} eq 'a=b',
        'its span in the trace' or diag $env->{TRACEPARENT};
    is_deeply [ sort keys %{ $seen->{fds} } ], [ 0, 1, 2 ],
        'no descriptor of the worker';
    ok $seen->{own}, 'a group and a session of its own';

    # but for SIGFPE, perl's own, and 32 and 33, which libc keeps to itself
    ok hex($seen->{sig}{SigBlk}) == 0
       && ($seen->{sig}{SigIgn} =~ /^0{7}[01][08]0{5}[08]0$/),
        'no signal blocked or ignored'
        or diag join ' ', %{ $seen->{sig} };
}

# location, rest and arguments are what nginx went by

for my $case (
    [ '/script/a%20b/c?do=look&x=%20', '/script', '/a b/c', 'do=look&x=%20' ],
    [ '/script/?do=look', '/script', '/', 'do=look' ],
    [ '/x/../script//%2e%2e%2fscript/y?do=look', '/script', '/y', 'do=look' ],
    [ '/exact?do=look', '/exact', '', 'do=look' ],
    [ '/a/b.pdf?do=look', '', '/a/b.pdf', 'do=look' ],
    [ '/word/x?do=look', '/word', '/x', 'do=look' ],
    [ '/words?do=look', '', '/words', 'do=look' ],
    [ '/was/q:r?z=%3a', '/script', '/q:r', 'do=look&was=q:r&z=%3a' ],
    [ '/broken/t?do=look', '', '/t', 'do=look' ],
) {
    my ($uri, @want) = @$case;
    my $said = ($n->through(POST => $uri))[0]{body};
    my $env = (eval { decode_json($said) } // {})->{env} // {};

    is_deeply [ @$env{qw(REQUEST_URI SCRIPT_NAME PATH_INFO QUERY_STRING)} ],
        [ $uri, @want ], "$uri: is taken apart" or diag $said;
}

# no span to be below

for my $parent ('00-;`id`-0-1', '$(id)') {
    my $said = ($n->through(POST => '/?do=look', headers => [
        traceparent => $parent ]))[0]{body};

    is eval { decode_json($said)->{env}{TRACEPARENT} }, $parent,
        'what is no traceparent is handed on as it is';
}

my ($r, $doc) = $n->through(POST => '/?do=text');

is "$r->{status} $r->{h}{'content-type'}", '200 application/octet-stream',
    'text without a header';
is $r->{body}, "plain: text\nand more", 'is the result as it is';
($r, $doc) = $n->through(POST => '/?do=status');
is failed($doc), 'failed backend_status', 'an error\'s status fails the job';
is "$r->{status} $r->{body}", '404 not here', 'and is its result';
is_deeply [ ($n->through(POST => '/?do=nothing'))[0]{body} ], [ '' ],
    'nothing is a result, too';


# ---- how it ends

$doc = $n->settled(my $job = $n->submit(POST => '/?do=exit&code=3'));
is failed($doc), 'failed exec_failed', 'exit code 3';
like $doc->{error}{message}, qr/exit code is 3: a \?\[31mbad\?\[0m thing$/,
    'with the last line of what it complained';
is $n->result($job)->{status}, 404, 'and without a result';
ok !$doc->{response}, 'nor a word of one';
like $n->worker_log, qr/msg=stderr job=$job->{id} line="first line"/,
    'the log has all it complained';

$doc = $n->settled($n->submit(POST => '/?do=signal&signal=SEGV'));
is failed($doc), 'failed exec_failed', 'a signal';
like $doc->{error}{message}, qr/signal 11/, 'which is named';

($r, $doc) = $n->through(POST => '/?do=again&until=2');
is "$doc->{status} $doc->{attempts} $r->{body}", 'completed 2 after 2',
    'exit code 75: another attempt';
$doc = $n->settled($n->submit(POST => '/?do=again&until=9'));
is failed($doc) . " $doc->{attempts}", 'failed exhausted 2',
    'but no more than there are';
like $doc->{error}{message}, qr/exit code is 75, and 2 attempts/, 'in words';

rename "$n->{prefix}/gone", "$n->{prefix}/gone.away";
$doc = $n->settled($n->submit(POST => '/gone/'));
is failed($doc), 'failed exec_failed', 'a program that is gone';
like $doc->{error}{message}, qr{not started: \S+/gone: No such file},
    'is named';
rename "$n->{prefix}/gone.away", "$n->{prefix}/gone";


# ---- a real one

my $text = ".TL\nOffloaded\n.PP\n" . "Typeset behind a 202. " x 300 . "\n";

($r, $doc) = $n->through(POST => '/typeset/', body => $text);
is $doc->{status}, 'completed', 'a document is typeset';
ok $r->{body} =~ /^%PDF-/ && $r->{body} =~ /%%EOF\s*$/, 'to a whole PDF';
ok $r->{body} =~ m{/Count ([1-9])}, 'with pages';


# ---- misbehaving

($r, $doc) = $n->through(POST => '/?do=child&mark=c');
is $r->{body}, 'done', 'a child that keeps its output open';
ok gone(mark('c.child')), 'is ended';

for my $deaf (0, 1) {
    $doc = $n->settled($n->submit(
        POST => "/small/?do=flood&deaf=$deaf&mark=flood$deaf"),
        deadline => 60);
    is failed($doc), 'failed result_too_large', "output without end ($deaf)";
    ok gone(mark("flood$deaf.run")), 'is ended';
}

($r, $doc) = $n->through(POST => '/cut/?do=flood');
is "$doc->{status} " . length($r->{body}), 'completed 102400',
    'or cut, if that is wanted';
($r, $doc) = $n->through(POST => '/?do=flood&once=1', body => $body);
is length $r->{body}, 65536, 'a body that nobody reads holds up nothing';

$job = $n->submit(POST => '/?do=wait&fork=1&mark=cancel');
my @pids = map { mark("cancel.$_") } qw(run child);
is $n->request(DELETE => $job->{path})->{status}, 200, 'one that is canceled';
ok gone($pids[0]) && gone($pids[1]), 'is ended with all its children';
is $n->status($job)->{status}, 'canceled', 'and its job is';

$job = $n->submit(POST => '/brief/?do=wait&deaf=1&fork=1&mark=deaf');
@pids = map { mark("deaf.$_") } qw(run ready child);
$clock->ahead(61);
ok gone($pids[2]), 'one without time left gets SIGTERM with its children';
ok alive($pids[0]), 'SIGTERM alone does not end one that ignores it';
is $n->status($job)->{status}, 'running', 'whose job is not over';
$clock->ahead(6);
is failed($n->settled($job)), 'failed timeout', 'SIGKILL does';
ok gone($pids[0]), 'and it is gone';


# ---- progress

$job = $n->submit(POST => '/?do=progress&gate=half&last=whole');

sub progress { my ($want) = @_;
    wait_until(30, sub { $clock->ahead(1);
                         ($n->status($job)->{progress} // -1) == $want }) }

ok progress(42), 'a percentage on standard error is the job\'s progress';
write_file("$marks/half", '');
ok progress(100), 'up to the end';
write_file("$marks/whole", '');
is $n->settled($job)->{status}, 'completed', 'which is another matter';


# ---- limits

$r = ($n->through(POST => '/limited/?do=limits'))[0];
my $limits = eval { decode_json($r->{body}) } // {};

is_deeply [ @$limits{'Max address space', 'Max cpu time', 'Max processes',
                     'Max open files'} ],
    [ 300 << 20, 1, 4000, 32 ], 'its limits are set';
is(($n->through(POST => '/limited/?do=look'))[0]{body} =~ m{"cwd":"/usr\\n"},
   1, 'and its directory');
like $n->settled($n->submit(POST => '/limited/?do=burn'))->{error}{message},
    qr/signal 24 /, 'CPU time that is up';

$doc = $n->settled($n->submit(POST => '/limited/?do=eat&n=1000000000'));
is failed($doc), 'failed exec_failed', 'memory that is not there';
like $doc->{error}{message}, qr/Out of memory/i, 'as it says itself';


# ---- a reload: what runs goes on as it was, what comes is new

$job = $n->submit(POST => '/?do=wait&gate=reloaded&mark=reload');
ok mark('reload.ready'), 'one that runs';
$n->write_conf(http => $n->{http} =~ s/one "two three"/another/r);
ok $n->reload, 'a reload with other arguments';
kill 'HUP', $daemon;
ok wait_until(30, sub {
    ($n->through(POST => '/?do=look'))[0]{body} =~ /"another"/ }),
    'a new job has them';
write_file("$marks/reloaded", '');
is $n->settled($job)->{status}, 'completed', 'and the old one ends as it would';


# ---- the worker goes: in order, and not; to memory, and to disk

$job = $n->submit(POST => '/?do=wait&mark=term');
my $pid = mark('term.ready');
kill 'TERM', $daemon;
waitpid $daemon, 0;
ok !alive($pid), 'a worker that leaves leaves no command behind';
is $? >> 8, 0, 'and leaves in order';
unlink "$marks/term.run";
$daemon = $n->by_hand(undef, $clock->env);
$n->offloadd;
my $second = mark('term.run');
ok $second && $second != $pid, 'the next one attempts it again';
$n->request(DELETE => $job->{path});
ok gone($second), 'until it is canceled';
kill 'TERM', $daemon;
waitpid $daemon, 0;

for my $durability ('memory', 'disk') {
    my $gate = "kill-$durability";

    if ($durability eq 'disk') {
        $n->stop;
        $clock->reset;
        $n->write_conf(zone => 'jobs 16m path=%%SHM%%/d store=%%PREFIX%%/store'
                               . ' durability=disk');
        $n->{zone_dir} = "$n->{shm}/d";
        $n->start;
    }

    $daemon = $n->by_hand(undef, $clock->env);
    $n->offloadd;

    $job = $n->submit(POST => "/?do=wait&gate=$gate&mark=$gate");
    $pid = mark("$gate.ready");
    kill 'KILL', $daemon;
    waitpid $daemon, 0;
    ok gone($pid), "$durability: with a worker that is killed goes the command";
    unlink "$marks/$gate.ready";        # before the next one
    $daemon = $n->by_hand(undef, $clock->env);
    $n->offloadd;
    ok mark("$gate.ready") != $pid, "$durability: the next attempts it again";
    write_file("$marks/$gate", '');
    $doc = $n->settled($job);
    is "$doc->{status} " . $n->result($job)->{body}, 'completed waited 2',
        "$durability: which is the second attempt";
}


# ---- a queue that has a command no more: its jobs are replayed

$job = $n->submit(POST => '/both/x?do=wait&mark=both', body => 'hello');
ok mark('both.ready'), 'one that runs';
kill 'TERM', $daemon;
waitpid $daemon, 0;
$n->write_conf(http => $n->{http} =~ s/exec +%%PREFIX%%\/do.*?pattern.*?;//sr);
ok $n->reload, 'a reload without the command';
$daemon = $n->by_hand;
$n->offloadd;
$doc = $n->settled($job);
is "$doc->{status} $doc->{attempts}", 'completed 2', 'it is replayed';
is eval { decode_json($n->result($job)->{body})->{uri} },
    '/both/x?do=wait&mark=both', 'to the location\'s backend';
kill 'TERM', $daemon;
waitpid $daemon, 0;

Offload::finish_all();
