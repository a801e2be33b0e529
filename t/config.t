# nginx -t must find every mistake and say where it is and what would be
# right, and it must make and change nothing: people run it on live machines.
# A reload that can not be done leaves the running configuration as it was.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b);

$n->allow(qr/\[emerg\]/);        # that is what this test is about


sub server {
    my ($text) = @_;

    return "server { listen 127.0.0.1:%%PORT%%;\n$text\n}";
}


my $GOOD = 'location / { offload jobs; proxy_pass http://%%BACKEND%%; } '
           . 'location /jobs/ { offload_status jobs; }';
my $LONG = 'x' x 90;

my @wrong = (
    # what is wrong => zone's arguments, http, what is said
    'size missing' => [ 'jobs', server($GOOD),
        qr/number of arguments in "offload_zone"/ ],
    'size no size' => [ 'jobs 64q', server($GOOD),
        qr/zone size "64q".*jobs.*64m/ ],
    'size too small' => [ 'jobs 64k path=%%ZONE%%', server($GOOD),
        qr/zone "jobs".*6\d{4}/ ],
    'name of odd characters' => [ 'a/b 16m path=%%ZONE%%', server(''),
        qr{zone name "a/b"} ],
    'name "off"' => [ 'off 16m', server(''), qr/zone name "off"/ ],
    'unknown parameter' => [ 'jobs 16m pth=/x', server($GOOD),
        qr/parameter "pth=\/x".*path/ ],
    'no value' => [ 'jobs 16m path=', server($GOOD),
        qr/parameter "path=".*name=value/ ],
    'lanes out of range' => [ 'jobs 16m path=%%ZONE%% lanes=1', server($GOOD),
        qr/"lanes=1".*from 2 to 255/ ],
    'lanes no number' => [ 'jobs 16m path=%%ZONE%% lanes=x', server($GOOD),
        qr/"lanes=x".*from 2 to 255/ ],
    'slots out of range' => [ 'jobs 16m path=%%ZONE%% slots=3', server($GOOD),
        qr/"slots=3".*from 64/ ],
    'slots that do not fit' => [ 'jobs 1m path=%%ZONE%% slots=1000000',
        server($GOOD), qr/zone "jobs"/ ],
    'durability unknown' => [ 'jobs 16m path=%%ZONE%% durability=paper',
        server($GOOD), qr/"durability=paper"/ ],
    'max too small' => [ 'jobs 16m path=%%ZONE%% max=1m', server($GOOD),
        qr/"max=1m".*at least 16m/ ],
    'max no size' => [ 'jobs 16m path=%%ZONE%% max=lots', server($GOOD),
        qr/"max=lots".*at least 16m/ ],
    'store without a parent' => [
        'jobs 16m path=%%ZONE%% store=/nonexistent/z durability=disk',
        server($GOOD), qr{store "/nonexistent/z" of zone "jobs"} ],
    'concurrency of 0' => [ 'jobs 16m path=%%ZONE%% concurrency=0',
        server($GOOD), qr/"concurrency=0".*from 1/ ],
    'ttl of nothing' => [ 'jobs 16m path=%%ZONE%% ttl=0', server($GOOD),
        qr/"ttl=0".*1s/ ],
    'path too long' => [ "jobs 16m path=%%SHM%%/$LONG", server($GOOD),
        qr/path ".*$LONG".*longer than 80/ ],
    'path without a parent' => [ 'jobs 16m path=/nonexistent/z',
        server($GOOD), qr{path "/nonexistent/z" of zone "jobs"} ],
    'more than there is room for' => [ 'jobs 4000g path=%%ZONE%%',
        server($GOOD), qr/zone "jobs".*bytes/ ],
    'twice the same zone' => [ 'jobs 16m path=%%ZONE%%',
        'offload_zone jobs 16m;' . server($GOOD), qr/duplicate zone "jobs"/ ],
    'two zones with one path' => [ 'jobs 16m path=%%ZONE%%',
        'offload_zone b 16m path=%%ZONE%%;' . server($GOOD),
        qr/zone "b".*zone "jobs"/ ],
    'unknown zone' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload nojobs; } ' . $GOOD =~ s/ . / x /r
               . 'location /y/ { offload_status jobs; }'),
        qr/"nojobs"|duplicate location/ ],
    'unknown zone alone' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload nojobs; }'), qr/unknown.*zone "nojobs"/ ],
    'unknown zone of a status' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload_status nojobs; }'),
        qr/unknown.*zone "nojobs"/ ],
    'no status location' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload jobs; }'),
        qr/"offload jobs" in location "\/".*"offload_status jobs"/ ],
    'status of another server' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload jobs; }')
        . 'server { listen 127.0.0.1:%%PORT2%%; '
        . 'location /jobs/ { offload_status jobs; } }',
        qr/"offload_status jobs"/ ],
    'offload twice' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload jobs; offload jobs; }'),
        qr/"offload" directive is duplicate/ ],
    'offload and status' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload jobs; offload_status jobs; }'),
        qr/"offload_status" directive is in a location with "offload"/ ],
    'status and offload' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload_status jobs; offload jobs; }'),
        qr/"offload" directive is in a location with "offload_status"/ ],
    'status twice' => [ 'jobs 16m path=%%ZONE%%',
        server('location / { offload_status jobs; offload_status jobs; }'),
        qr/"offload_status" directive is duplicate/ ],
    'status by a regular expression' => [ 'jobs 16m path=%%ZONE%%',
        server('location ~ ^/j { offload_status jobs; }'),
        qr/needs a location given by a prefix/ ],
    'status at an exact place' => [ 'jobs 16m path=%%ZONE%%',
        server('location = /j { offload_status jobs; }'),
        qr/needs a location given by a prefix/ ],
    'status in a server' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_status jobs;'), qr/not allowed here/ ],
    'heartbeat too short' => [ 'jobs 16m path=%%ZONE%%',
        "offload_heartbeat 10ms;\n" . server($GOOD),
        qr/"offload_heartbeat" directive must be between 100ms and 1h/ ],
    'heartbeat of nothing' => [ 'jobs 16m path=%%ZONE%%',
        "offload_heartbeat often;\n" . server($GOOD),
        qr/"offload_heartbeat" directive invalid value/ ],
    'zone in a server' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_zone b 16m;'), qr/not allowed here/ ],
    'unknown zone of a zone\'s status' => [ 'jobs 16m path=%%ZONE%%',
        server('location = /z { offload_status_zone nojobs; }'),
        qr/unknown.*zone "nojobs"/ ],
    'zone\'s status without a zone' => [ 'jobs 16m path=%%ZONE%%',
        server('location = /z { offload_status_zone; }'),
        qr/number of arguments in "offload_status_zone"/ ],
    'zone\'s status twice' => [ 'jobs 16m path=%%ZONE%%',
        server('location = /z { offload_status_zone jobs; '
               . 'offload_status_zone jobs; }'),
        qr/"offload_status_zone" directive is duplicate/ ],
    'zone\'s status and offload' => [ 'jobs 16m path=%%ZONE%%',
        server('location = /z { offload_status_zone jobs; offload jobs; }'),
        qr/"offload" directive is in a location with/ ],
    'offload and zone\'s status' => [ 'jobs 16m path=%%ZONE%%',
        server('location = /z { offload jobs; offload_status_zone jobs; }'),
        qr/"offload_status_zone" directive is in a location with "offload"/ ],
    'status and zone\'s status' => [ 'jobs 16m path=%%ZONE%%',
        server('location /z/ { offload_status jobs; '
               . 'offload_status_zone jobs; }'),
        qr/"offload_status_zone" directive is in a location with/ ],
    'zone\'s status and status' => [ 'jobs 16m path=%%ZONE%%',
        server('location /z/ { offload_status_zone jobs; '
               . 'offload_status jobs; }'),
        qr/"offload_status" directive is in a location with/ ],
    'zone\'s status in a server' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_status_zone jobs;'), qr/not allowed here/ ],
    'idempotency unknown' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency maybe;' . $GOOD),
        qr/invalid value "maybe".*"on", "required" or "off"/ ],
    'idempotency twice' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency on; offload_idempotency off;' . $GOOD),
        qr/"offload_idempotency" directive is duplicate/ ],
    'idempotency off with something' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency off ttl=1h;' . $GOOD),
        qr/takes no parameters with "off"/ ],
    'idempotency with what is not' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency on tll=1h;' . $GOOD),
        qr/parameter "tll=1h".*header, ttl and scope/ ],
    'idempotency with no header' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency on header=a:b;' . $GOOD),
        qr/parameter "header=a:b".*name of a request header/ ],
    'idempotency with a header of ours' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency on header=Offload-Key;' . $GOOD),
        qr/"Offload-" headers of clients are dropped/ ],
    'idempotency with no time' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency on ttl=0;' . $GOOD),
        qr/parameter "ttl=0".*at least 1s/ ],
    'idempotency for less than the job lives' => [
        'jobs 16m path=%%ZONE%% ttl=2h',
        server('offload_idempotency on ttl=1h;' . $GOOD),
        qr/"ttl=3600".*location "\/".*"ttl=7200" of zone "jobs"/ ],
    'idempotency with one scope for all' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency on scope=all;' . $GOOD),
        qr/"scope=all".*must have a variable/ ],
    'idempotency with a scope of an unknown variable' => [
        'jobs 16m path=%%ZONE%%',
        server('offload_idempotency on scope=$no_such_thing;' . $GOOD),
        qr/unknown "no_such_thing" variable/ ],
    'idempotency without a value' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_idempotency;' . $GOOD), qr/number of arguments/ ],
    'keep without a $' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_keep user;' . $GOOD), qr/"user".*\$user/ ],
    'keep nothing' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_keep;' . $GOOD), qr/number of arguments/ ],
    'keep an unknown variable' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_keep $no_such_thing;' . $GOOD),
        qr/unknown "no_such_thing" variable/ ],
    'access unknown' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_access twice;' . $GOOD), qr/invalid value "twice"/ ],
    'accept timeout too short' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_accept_timeout 1ms;' . $GOOD),
        qr/"offload_accept_timeout".*between 100ms and 1h/ ],
    'accept timeout no time' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_accept_timeout soon;' . $GOOD),
        qr/offload_accept_timeout/ ],
    'delivery unknown' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_delivery exactly-once;' . $GOOD),
        qr/invalid value "exactly-once"/ ],
    'delivery twice' => [ 'jobs 16m path=%%ZONE%%',
        server('location /x/ { offload_delivery at-most-once; '
               . 'offload_delivery at-most-once; }' . $GOOD),
        qr/"offload_delivery" directive is duplicate/ ],
    'when neither' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_when sometimes;' . $GOOD),
        qr/"sometimes".*"always", "prefer" or a variable/ ],
    'when twice' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_when prefer; offload_when always;' . $GOOD),
        qr/"offload_when" directive is duplicate/ ],
    'wait no time' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_wait soon;' . $GOOD), qr/offload_wait/ ],
    'longest wait no time' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_wait_max soon;' . $GOOD), qr/offload_wait_max/ ],
    'timeout of 0' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_timeout 0;' . $GOOD), qr/between 1s and 24d/ ],
    'timeout no time' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_timeout soon;' . $GOOD), qr/offload_timeout/ ],
    'buffer too small' => [ 'jobs 16m path=%%ZONE%%',
        server('offload_body_buffer_size 1k;' . $GOOD), qr/at least 4k/ ],
    'worker relative' => [ 'jobs 16m path=%%ZONE%%',
        'offload_worker offloadd;' . server($GOOD),
        qr/"offloadd".*"auto", "off"/, '' ],
    'worker twice' => [ 'jobs 16m path=%%ZONE%%',
        'offload_worker off; offload_worker off;' . server($GOOD),
        qr/"offload_worker" directive is duplicate/, '' ],
    'worker missing' => [ 'jobs 16m path=%%ZONE%%',
        'offload_worker /nonexistent;' . server($GOOD),
        qr{"/nonexistent".*offload_worker}, '' ],
);

while (my ($what, $try) = splice @wrong, 0, 2) {
    my ($zone, $http, $said, $worker) = @$try;

    $n->write_conf(zone => $zone, http => $http,
                   worker => $worker // $n->{start_script});

    my ($code, $out) = $n->run('-t');

    isnt $code, 0, "$what: refused";
    like $out, $said, "$what: and named";
    like $out, qr{\[emerg\].*nginx\.conf:\d+}, "$what: with file and line"
        if $what !~ /variable/;     # that one is nginx's own
}

is_deeply [ glob "$n->{shm}/*" ], [], 'nothing was made by all that';


# what may be a mistake, and may be meant, is a warning

for my $try ([ 'a zone on a disk', 'jobs 16m path=%%PREFIX%%/z',
               qr{path "[^"]*/z" of zone "jobs" in \S+:\d+ is not on a tmpfs} ],
             [ 'a store in memory',
               'jobs 16m path=%%ZONE%% store=%%SHM%%/s durability=disk',
               qr{store "[^"]*/s" of zone "jobs" in \S+:\d+ is on a tmpfs} ],
             [ 'both as they should be',
               'jobs 16m path=%%ZONE%% store=%%PREFIX%%/s durability=disk',
               undef ],
             [ 'no store named', 'jobs 16m path=%%ZONE%% durability=disk',
               undef ])
{
    my ($what, $zone, $said) = @$try;

    $n->write_conf(zone => $zone, http => server($GOOD),
                   worker => $n->{start_script});

    my ($code, $out) = $n->run('-t');

    is $code, 0, "$what: is no error" or diag $out;

    if ($said) {
        like $out, qr/\[warn\].*$said/, "$what: is a warning";
    } else {
        unlike $out, qr/\[warn\].*zone "jobs"/, "$what: nothing is said";
    }
}

is_deeply [ glob "$n->{shm}/*" ], [], 'nothing was made by that either';

SKIP: {
    my $small = "$n->{prefix}/small";

    mkdir $small;
    skip 'no file system of a few MB can be mounted here', 2
        if system("unshare -m mount -t tmpfs -o size=8m none $small "
                  . '2>/dev/null') != 0;

    $n->write_conf(zone => "jobs 16m path=%%ZONE%% store=$small/s",
                   http => server($GOOD), worker => $n->{start_script});

    my $out = do {
        my @nginx = $n->command('-t');

        open my $fh, '-|', 'unshare', '-m', 'sh', '-c',
            "mount -t tmpfs -o size=8m none $small && exec \"\$@\" 2>&1",
            'sh', @nginx or die "unshare: $!";
        local $/;
        <$fh>;
    };

    like $out, qr/test is successful/, 'a store with little room is no error';
    like $out, qr{\[warn\].*store "$small/s" of zone "jobs".* bytes left},
        'but a warning';
}


# a good one under -t makes nothing either

$n->write_conf(zone => 'jobs 16m path=%%ZONE%%', http => server($GOOD),
               worker => $n->{start_script});

my ($code, $out) = $n->run('-t');

is $code, 0, 'a good configuration' or diag $out;
is_deeply [ glob "$n->{shm}/*" ], [], 'and -t makes nothing';

$n->write_conf(main => '', zone => 'jobs 16m path=%%ZONE%%',
               http => server($GOOD));
$n->{events} = '';
$n->write_conf(main => 'master_process off;');
($code, $out) = $n->run('-t');
isnt $code, 0, 'master_process off is refused';
like $out, qr/zone "jobs".*nginx\.conf:\d+.*master_process on/, 'and named';
$n->write_conf(main => '');


# -t beside a running nginx changes nothing there

$n->start;
$n->offloadd;

my $state = sub {
    join "\n", map { my @s = lstat; "$_ $s[1] $s[2] $s[4] $s[7]" }
    sort grep { !/\.wake$/ } glob "$n->{zone_dir}/* $n->{zone_dir}/store/*"
};
my $held = $n->submit(POST => '/held?gate=t', body => 'x');

$b->wait_for(1, event => 'request', job => $held->{id});

my $before = $state->();

is +($n->run('-t'))[0], 0, '-t beside a running nginx';
is $state->(), $before, 'leaves its zone alone';
is $n->settled($n->submit(POST => '/x', body => 'x'))->{status}, 'completed',
    'and it works on';


# a reload that changes the geometry is refused, with both values

for my $change ([ 'size', 'jobs 32m path=%%ZONE%%', 16 << 20, 32 << 20 ],
                [ 'slots', 'jobs 16m path=%%ZONE%% slots=99', '\d+', 99 ],
                [ 'lanes', 'jobs 16m path=%%ZONE%% lanes=3', '\d+', 3 ])
{
    my ($what, $zone, $old, $new) = @$change;

    $n->write_conf(zone => $zone);
    ($code, $out) = $n->run('-t');
    isnt $code, 0, "$what changed: -t says no already";
    like $out, qr/zone "jobs".*nginx\.conf:\d+.*$what was $old and is $new/,
        "$what changed: with both values";

    my $master = $n->master;

    ok !$n->reload, "$what changed: the reload is refused";
    like $n->log, qr/$what was $old and is $new/, "$what changed: logged";
    is $n->master, $master, "$what changed: the master is still there";
    is $n->settled($n->submit(POST => '/x', body => 'x'))->{status},
        'completed', "$what changed: the old configuration works on";
}

$n->write_conf(zone => 'jobs 16m path=%%ZONE%%', http => server(<<'EOT'));
location / { offload jobs; proxy_pass http://%%BACKEND%%/new/; }
location /jobs/ { offload_status jobs; }
EOT
ok $n->reload(drain => 0), 'a reload that keeps it is done';

my $seen = $n->echoed(POST => '/x', body => 'x');

is $seen->{uri}, '/new/x', 'and is in force';
$b->open_gate('t');
is $n->settled($held)->{status}, 'completed', 'a job from before completes';


# inheritance: http, server, location; off; nested

$n->write_conf(http => <<'EOT');
offload jobs;
offload_timeout 1s;
offload_keep $arg_a;
server {
    listen 127.0.0.1:%%PORT%%;
    proxy_set_header X-Kept "[$kept]";
    set $kept "";
    location / { proxy_pass http://%%BACKEND%%; }
    location /off/ { offload off; proxy_pass http://%%BACKEND%%;
        location /off/on/ { offload jobs; proxy_pass http://%%BACKEND%%; } }
    location /patient/ { offload_timeout 60s; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT2%%;
    offload off;
    location / { proxy_pass http://%%BACKEND%%; }
}
EOT
ok $n->reload, 'a configuration that inherits';
is $n->get('/x')->{status}, 202, 'http{} reaches a location';
is $n->get('/off/x')->{status}, 200, 'off there';
is $n->get('/off/on/x')->{status}, 202, 'and on again below';
is $n->get('/x', to => $n->port(2))->{status}, 200, 'off for a server';

my $short = $n->submit(POST => '/x?gate=never');
my $long = $n->submit(GET => '/patient/x?delay=1800');

is $n->settled($short)->{error}{code}, 'timeout', 'offload_timeout inherits';
is $n->settled($long)->{status}, 'completed', 'and is overridden';


# offload_body_buffer_size has an effect: more than it goes through a file

$n->write_conf(http => server(<<'EOT'));
location / { offload jobs; proxy_pass http://%%BACKEND%%; }
location /4k/ { offload jobs; offload_body_buffer_size 4k;
                proxy_pass http://%%BACKEND%%; }
location /jobs/ { offload_status jobs; }
EOT
ok $n->reload, 'a configuration with a small buffer';

my $tmp = "$n->{zone_dir}/store/spool/tmp";

chmod 0, $tmp;
$n->allow(qr/\[crit\]/);
is $n->request('POST', '/x', body => 'x' x 10_000)->{status}, 202,
    '10 kB without it: in memory';
cmp_ok $n->request('POST', '/4k/x', body => 'x' x 10_000)->{status}, '>=',
    500, '10 kB with offload_body_buffer_size 4k: by a file';
is $n->request('POST', '/4k/x', body => 'x' x 3_000)->{status}, 202,
    '3 kB with it: in memory';
chmod 0700, $tmp;


# offload_accept_timeout inherits and is overridden; here nobody stores a job

{
    my $n = Offload->new(backend => $b, worker => 'off',
        zone => 'jobs 16m path=%%ZONE%% store=%%PREFIX%%/s durability=disk',
        http => "offload_accept_timeout 200ms;\n" . server($GOOD
                . 'location /1h/ { offload jobs; offload_accept_timeout 1h; '
                . 'proxy_pass http://%%BACKEND%%; }'));

    $n->start;
    is $n->request(POST => '/x', body => 'x')->{status}, 503,
        'offload_accept_timeout inherits';
    is $n->request(POST => '/1h/x', body => 'x', deadline => 1)->{error},
        'too late', 'and is overridden';
    $n->finish;
}


# a zone that has gone from the configuration

$n->write_conf(zone => undef, http => server('location / { return 204; }'));
ok $n->reload, 'a reload without the zone';
is $n->get('/x')->{status}, 204, 'is in force';
ok Offload::wait_until(30, sub { !$n->offloadds }),
    'and its worker leaves after a while';

Offload::finish_all();
