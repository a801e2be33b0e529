# nginx starts offloadd and keeps it there: one for each zone, a new one when
# it dies, none lost when it is missing.  It stops when told to, handing back
# what it was running, and takes a new policy without a restart.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;

my $b = Backend->start;
my $SERVER = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
    location /two/ { offload others; proxy_pass http://%%BACKEND%%; }
    location /two/jobs/ { offload_status others; }
}
EOT
my $OTHERS = "offload_zone others 16m path=%%SHM%%/o;\n";
my $n = Offload->new(backend => $b, http => $OTHERS . $SERVER)->start;
my $o = "$n->{shm}/o";


# one each

my $first = $n->offloadd;
my $second = $n->offloadd(zone => $o);

ok $first && $second && $first != $second, 'one worker for each zone';
is scalar($n->offloadds), 2, 'and no other';
is((stat "/proc/$first")[4], (stat "/proc/" . ($n->workers)[0])[4],
    'it runs as the user of nginx\'s workers');

my @fds = map { readlink($_) // '' } glob "/proc/$first/fd/*";
my @listening = grep { /socket/ } @fds;

my %inode = map { /\[(\d+)\]/ ? ($1 => 1) : () } @listening;
my @tcp = grep { $inode{$_} }
          map { (split)[9] } grep { /^\s*\d+: .* 0A / }
          split /\n/, Offload::read_file('/proc/net/tcp');

is_deeply \@tcp, [], 'it inherited no listening socket';


# another one by hand finds the zone taken

my $as = $> == 0 ? "setpriv --reuid=$Offload::USER --regid=$Offload::USER "
                   . "--clear-groups " : '';
my $out = `$as timeout 20 $n->{program} -c $n->{zone_dir}/policy.json 2>&1`;

isnt $?, 0, 'a second one for the zone leaves at once' or diag $out;
ok Offload::alive($first), 'the first one stays';


# options

like `$n->{program} -V 2>&1`, qr/offloadd/, '-V says what it is';
is $?, 0, '-V: exit code';
like `$n->{program} -h 2>&1`, qr/-c/, '-h says how to use it';
is $?, 0, '-h: exit code';
`$as $n->{program} -t -c $n->{zone_dir}/policy.json 2>&1`;
is $?, 0, '-t: a good policy';

my $bad = "$n->{prefix}/bad.json";

for my $text ('', '{', '{"layout":1}', '[]', '{"layout":2}',
              encode_json({ %{ $n->policy }, concurrency => -1 }),
              encode_json({ %{ $n->policy }, path => 'relative' }),
              encode_json({ %{ $n->policy }, log_level => 'loud' }))
{
    Offload::write_file($bad, $text);
    $out = `$as $n->{program} -t -c $bad 2>&1`;
    isnt $?, 0, '-t: refused: ' . substr $text, 0, 20;
    like $out, qr/bad\.json/, '-t: and says which file';
    unlike $out, qr/Sanitizer|runtime error/, '-t: without harm';
}


# killed, it is started again

kill 'KILL', $first;

my $next = $n->offloadd(not => $first);

ok $next, 'killed, it is started again';
is $n->settled($n->submit(POST => '/x', body => 'x'))->{status}, 'completed',
    'and works';
ok Offload::alive($second), 'the other zone\'s did not notice';


# TERM: what is running is handed back and runs again later

my $job = $n->submit(POST => '/held?gate=g', body => 'x');

$b->wait_for(1, event => 'request', job => $job->{id});
kill 'TERM', $next;
ok Offload::wait_until(20, sub { !Offload::alive($next) }), 'TERM: it leaves';
ok $n->offloadd(not => $next), 'TERM: nginx starts another';
ok $b->wait_for(2, event => 'request', job => $job->{id}),
    'TERM: the job is attempted again';
$b->open_gate('g');

my $doc = $n->settled($job);

is $doc->{status}, 'completed', 'TERM: and completes';
is $doc->{attempts}, 2, 'TERM: both attempts are counted';


# a new policy, live

my $pid = $n->offloadd;

$n->write_conf(zone => 'jobs 16m path=%%ZONE%% concurrency=1');
ok $n->reload, 'reload with concurrency=1';
ok Offload::wait_until(10, sub { $n->policy->{concurrency} == 1 }),
    'is in the policy';

my $probe = sub {
    my ($name) = @_;
    my @jobs = map { $n->submit(POST => "/$name/$_?gate=$name", body => 'x') }
               1 .. 6;

    $b->wait_for(1, event => 'request', job => $jobs[0]{id});
    Offload::wait_until(1.5, sub {
        grep({ $_->{uri} =~ m{^/$name/} } $b->journal(event => 'request')) > 1
    });

    my $at_once = grep { $_->{uri} =~ m{^/$name/} }
                  $b->journal(event => 'request');

    $b->open_gate($name);
    $n->settled($_) for @jobs;
    return $at_once;
};

ok Offload::wait_until(10, sub {
    $n->worker_log =~ /policy read: concurrency 1\b/ }), 'and is read';
is $probe->('one'), 1, 'and one job runs at a time';
ok Offload::alive($pid), 'by the same worker';
$n->write_conf(zone => 'jobs 16m path=%%ZONE%%');
ok $n->reload, 'reload without it';
ok Offload::alive($pid), 'still the same worker';


# logfmt

my $line;

ok Offload::wait_until(5, sub {
    ($line) = grep { /$job->{id}/ && /attempt=2/ }
              split /\n/, $n->worker_log; }),
    'an attempt is logged with its job';
like $line // '', qr/status=200/, 'with its status';

my $one = qr/[A-Za-z0-9_.-]+=(?:"(?:[^"\\]|\\.)*"|[^\s"]*)/;

is_deeply [ grep { !/^$one(?: $one)*$/ }
            grep { /\S/ } split /\n/, $n->worker_log ], [],
    'all lines are logfmt';


# nginx gone: the worker leaves by itself

$n->stop(keep_worker => 1);
ok Offload::wait_until(30, sub { !$n->offloadds }),
    'without nginx it leaves after a while';


# missing at the start: refused by name; gone later: nginx serves on

$n->write_conf(worker => '/nonexistent/offloadd');
$n->allow(qr{\[emerg\].*/nonexistent/offloadd});

my ($code, $text) = $n->run('-t');

isnt $code, 0, 'a missing offloadd is an error of the configuration';
like $text, qr{/nonexistent/offloadd}, 'and named';

$n->write_conf(worker => $n->{start_script});
rename $n->{program}, "$n->{program}.away";
rename $n->{start_script}, "$n->{start_script}.away"
    if $n->{start_script} ne $n->{program};
Offload::write_file($n->{start_script}, "#!/bin/sh\nexit 3\n");
chmod 0755, $n->{start_script};
$n->start;

$job = $n->submit(POST => '/early', body => 'x');
ok $job, 'with an offloadd that does not start, jobs are accepted';
is $n->status($job)->{status}, 'queued', 'and can be asked for';
unlink $n->{start_script};
ok $n->wait_log(qr/can not be executed/, 20), 'that it is missing is logged';
is $n->status($n->submit(POST => '/early2', body => 'x'))->{status}, 'queued',
    'nginx serves on';
rename "$n->{program}.away", $n->{program};
rename "$n->{start_script}.away", $n->{start_script}
    if $n->{start_script} ne $n->{program};
is $n->settled($job, deadline => 60)->{status}, 'completed',
    'when it is there again the job runs';


# off: a service manager's business

$n->stop;
$n->write_conf(worker => 'off', http => $SERVER =~ s/^.*two.*\n//mgr);
$n->start;
$job = $n->submit(POST => '/off', body => 'x');
Offload::wait_until(2.5, sub { scalar $n->offloadds });
is scalar($n->offloadds), 0, 'offload_worker off: nginx starts none';

my $child = fork // die;

if (!$child) {
    open STDERR, '>', "$n->{prefix}/by-hand.log";
    exec split(' ', $as), $n->{start_script}, '-c',
        "$n->{zone_dir}/policy.json" or POSIX::_exit(127);
}

is $n->settled($job)->{status}, 'completed', 'one started by hand does it';
kill 'TERM', $child;
waitpid $child, 0;
is $?, 0, 'and its exit code after TERM is 0';

Offload::finish_all();
