# A queue's policy is named once and used by many locations: a parameter that
# is misspelled, contradicts another or is silently without effect would hold
# back or burn all their jobs.  nginx -t says what is wrong, where, and what
# would be right; what is right reaches offloadd word for word, and each job
# carries its own terms.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;
use Util qw(read_file wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b, workers => 1, worker => 'off');

$n->allow(qr/\[emerg\]/);


sub http {
    my ($queue, $location) = @_;

    return "$queue\nserver { listen 127.0.0.1:%%PORT%%;\n"
        . ($location // 'location / { offload q; '
                        . 'proxy_pass http://%%BACKEND%%; }')
        . "\nlocation /jobs/ { offload_status jobs; }\n}";
}


sub block { http("offload_queue q zone=jobs {\n$_[0]\n}", $_[1]) }


sub secret {
    my ($name, $text, $mode) = @_;

    Util::write_file("$n->{prefix}/$name", $text);
    chmod $mode, "$n->{prefix}/$name";

    return "$n->{prefix}/$name";
}


my $open = secret('open', 'whsec_' . 'A' x 32, 0644);
my $short = secret('short', 'whsec_' . 'A' x 28, 0600);
my $good = secret('good', 'whsec_' . 'A' x 32 . "\n", 0600);
my $LONG = 'x' x 65;
my $closed = "$n->{prefix}/closed";

mkdir "$n->{prefix}/closed", 0700;
mkdir "$closed/in";
Util::write_file("$closed/in/x", "#!/bin/sh\n");
chmod 0755, "$closed/in/x";

my @wrong = (
    # what is wrong => the configuration, what is said
    'no zone' => [ http('offload_queue q jobs { }'),
        qr/parameter "jobs" of queue "q".*"zone="/ ],
    'no block' => [ http('offload_queue q zone=jobs;'), qr/has no opening/ ],
    'unknown zone' => [ http('offload_queue q zone=nojobs { }'),
        qr/unknown zone "nojobs" of queue "q"/ ],
    'unknown queue' => [ http(''),
        qr/unknown offload queue or zone "q".*no "offload_queue q".*_zone q"/ ],
    'name of odd characters' => [ http('offload_queue a/b zone=jobs { }'),
        qr{queue name "a/b".*1 to 64 letters} ],
    'name "off"' => [ http('offload_queue off zone=jobs { }'),
        qr/queue name "off"/ ],
    'name too long' => [ http("offload_queue $LONG zone=jobs { }"),
        qr/queue name "x+".*1 to 64/ ],
    'twice the same' => [ http('offload_queue q zone=jobs { }' x 2),
        qr/duplicate queue "q", first defined in/ ],
    'name of another zone' => [
        http('offload_zone q 16m path=%%SHM%%/q;'
             . 'offload_queue q zone=jobs { }'),
        qr/queue "q".*name of a zone and "zone=jobs".*must be "zone=q"/ ],
    'names with one checksum' => [
        http('offload_queue liquid zone=jobs { }'
             . 'offload_queue costarring zone=jobs { } '
             . 'offload_queue q zone=jobs { }'),
        qr/queue "costarring".*queue "liquid".*same checksum/ ],
    'one too many' => [
        http(join('', map { "offload_queue q$_ zone=jobs { }\n" } 1 .. 1023)
             . 'offload_queue q zone=jobs { }'),
        qr/one more than the 1024 that zone "jobs"/ ],
    'elsewhere' => [ http('', 'offload_queue q zone=jobs { }'),
        qr/"offload_queue" directive is not allowed here/ ],

    'unknown directive' => [ block('weight 5;'),
        qr/unknown directive "weight" in queue "q": concurrency, rate,/ ],
    'exec without a path' => [ block('exec perl -v;'),
        qr/value "perl" in "exec" of queue "q": it must be an absolute path/ ],
    'exec of nothing' => [ block('exec /nonexistent/x;'),
        qr{value "/nonexistent/x" in "exec".*there is no such file} ],
    'exec of a directory' => [ block('exec /usr;'),
        qr{value "/usr" in "exec".*it must be a regular file} ],
    'exec of a text' => [ block('exec /etc/passwd;'),
        qr{queue "q" in .*"/etc/passwd", but .*may not execute "/etc/passwd"} ],
    $> ? () : (
    'exec in a closed directory' => [ block("exec $closed/in/x;"),
        qr{"exec" has "$closed/in/x", but .*user may not enter "$closed"} ],
    'exec_dir that is closed' => [
        block("exec /usr/bin/perl; exec_dir $closed;"),
        qr{"exec_dir" has "$closed", but .*user may not enter "$closed"} ],
    'exec by nobody there is' => [ block('exec /usr/bin/perl;'),
        qr/getpwnam\("no-such-user"\) failed.* in .*nginx\.conf:/,
        'no-such-user' ]),
    'exec by another user' => [ block('exec user=games /usr/bin/perl;'),
        qr/value "user=games" in "exec".*must be an absolute path/ ],
    'exec not UTF-8' => [ block("exec /usr/bin/perl \xff;"),
        qr/in "exec".*it must be UTF-8/ ],
    'exec_limit unknown' => [ block('exec /usr/bin/perl; exec_limit ram=1g;'),
        qr/"ram=1g" in "exec_limit".*memory, cpu, processes and files are/ ],
    'exec_limit twice' => [ block('exec_limit files=9 files=8;'),
        qr/"files=8" in "exec_limit".*duplicate/ ],
    'exec_limit too small' => [ block('exec_limit memory=1k;'),
        qr/"memory=1k" in "exec_limit".*at least 1m/ ],
    'exec_limit no time' => [ block('exec_limit cpu=soon;'),
        qr/"cpu=soon" in "exec_limit".*between 1s and 24d/ ],
    'exec_limit of 0' => [ block('exec_limit processes=0;'),
        qr/"processes=0" in "exec_limit".*from 1 to 1000000/ ],
    'exec_dir relative' => [ block('exec_dir tmp;'),
        qr/"tmp" in "exec_dir".*absolute/ ],
    'exec_dir of a file' => [ block('exec_dir /etc/passwd;'),
        qr{"/etc/passwd" in "exec_dir".*must be a directory} ],
    'exec_env of no name' => [ block('exec_env A=1 =2;'),
        qr/"=2" in "exec_env".*a name of letters/ ],
    'exec_env of an odd name' => [ block('exec_env 1A;'),
        qr/"1A" in "exec_env".*a name of letters/ ],
    'pattern wrong' => [ block('progress_pattern "(";'),
        qr/value "\(" in "progress_pattern".*pcre2?_compile\(\) failed/ ],
    'pattern without a group' => [ block('progress_pattern "a";'),
        qr/"a" in "progress_pattern".*must have one group/ ],
    'pattern with two' => [ block('progress_pattern "(a)(b)";'),
        qr/in "progress_pattern".*must have one group/ ],
    'no exec' => [ block('exec_limit files=9;'),
        qr/queue "q" in .*"exec_limit".*need an "exec"/ ],
    'batch of nothing' => [ block('batch linger=1s;'),
        qr/"linger=1s" in "batch" of queue "q".*must be a "size="/ ],
    'batch of one' => [ block('batch size=1;'),
        qr/"size=1" in "batch".*from 2 to 10000/ ],
    'batch that lingers' => [ block('batch size=2 linger=61s;'),
        qr/"linger=61s" in "batch".*from 0 to 1m/ ],
    'batch of no size' => [ block('batch size=2 max=1023;'),
        qr/"max=1023" in "batch".*from 1k to 1024m/ ],
    'batch as XML' => [ block('batch size=2 format=xml;'),
        qr/"format=xml" in "batch".*"ndjson" or "json-array"/ ],
    'batch of letters' => [ block('batch size=2 item=letter;'),
        qr/"item=letter" in "batch".*"body" or "envelope"/ ],
    'batch twice' => [ block('batch size=2 size=3;'),
        qr/"size=3" in "batch".*duplicate/ ],
    'batch with more' => [ block('batch size=2 more=1;'),
        qr/"more=1" in "batch".*no such parameter; size, linger/ ],
    'batch beyond its deadline' => [
        block('batch size=2 linger=10s; deadline 10s; timeout 5s;'),
        qr/"linger" of "batch" is not shorter than "deadline"/ ],
    'batch with progress' => [
        block('batch size=2; exec /usr/bin/perl; progress_pattern "([0-9]+)";'),
        qr/"progress_pattern" and "batch": progress is one job's/ ],
    'pass nowhere' => [ block('pass backend;'),
        qr{value "backend" in "pass" of queue "q".*like "https://host:8443/} ],
    'pass of no path' => [ block('pass http://a;'), qr/"pass".*must be like/ ],
    'pass with a query' => [ block('pass http://a/b?c;'), qr/without a query/ ],
    'pass with a password' => [ block('pass http://a:b@c/;'),
        qr/must be like/ ],
    'pass of an open bracket' => [ block('pass http://[::1/;'),
        qr/must be like/ ],
    'pass by a socket' => [ block('pass http://unix:/run/x:/;'),
        qr/must be like/ ],
    'pass of a long URL' => [ block('pass http://a/' . 'x' x 2048 . ';'),
        qr{invalid value "http://a/x+} ],
    'pass of no port' => [ block('pass http://a:99999/;'), qr/must be like/ ],
    'pass by ftp' => [ block('pass ftp://a/;'), qr/must be like/ ],
    'pass with an odd parameter' => [ block('pass http://a/ cert=/x;'),
        qr/"cert=\/x" in "pass".*must be "ca="/ ],
    'pass without its file' => [ block('pass http://a/ ca=/nonexistent;'),
        qr{"ca=/nonexistent" in "pass".*no such file} ],
    'pass and exec' => [ block('pass http://a/; exec /usr/bin/perl;'),
        qr/queue "q" in .*"exec" and "pass".*one way only/ ],
    'a block in it' => [ block('retry { }'), qr/unexpected "\{"/ ],
    'duplicate' => [ block('concurrency 1; concurrency 2;'),
        qr/"concurrency" is duplicate in queue "q"/ ],
    'nothing said' => [ block('rate;'), qr/number of arguments in "rate"/ ],
    'too much said' => [ block('concurrency 1 2;'),
        qr/number of arguments in "concurrency" of queue "q"/ ],
    'concurrency of 0' => [ block('concurrency 0;'),
        qr/value "0" in "concurrency" of queue "q".*from 1 to 1000000/ ],
    'concurrency beyond numbers' => [
        block('concurrency 99999999999999999999;'), qr/from 1 to 1000000/ ],
    'rate without a unit' => [ block('rate 10;'),
        qr{value "10" in "rate".*"10r/s"} ],
    'rate of 0' => [ block('rate 0r/s;'), qr{value "0r/s".*from 1} ],
    'burst without a rate' => [ block('rate burst=5;'),
        qr{value "burst=5" in "rate".*"10r/s"} ],
    'burst of 0' => [ block('rate 10r/s burst=0;'),
        qr/value "burst=0".*"burst=" and a number from 1/ ],
    'not a burst' => [ block('rate 10r/s bust=5;'),
        qr/value "bust=5" in "rate".*"burst="/ ],
    'adaptive maybe' => [ block('adaptive maybe;'),
        qr/value "maybe" in "adaptive".*"on" or "off"/ ],
    'retry unknown' => [ block('retry times=5;'),
        qr/value "times=5" in "retry".*max, backoff, jitter, on and methods/ ],
    'retry off, and more' => [ block('retry max=2 off;'),
        qr/value "off" in "retry".*"off" alone/ ],
    'retry max of 0' => [ block('retry max=0;'),
        qr/value "max=0".*attempts from 1 to 1000/ ],
    'retry max twice' => [ block('retry max=2 max=3;'),
        qr/value "max=3" in "retry".*duplicate/ ],
    'backoff reversed' => [ block('retry backoff=5m..1s;'),
        qr/value "backoff=5m..1s".*shorter one first/ ],
    'backoff of 0' => [ block('retry backoff=0..1s;'), qr/from 10ms to 1d/ ],
    'backoff no time' => [ block('retry backoff=soon;'),
        qr/value "backoff=soon".*"1s..5m"/ ],
    'jitter unknown' => [ block('retry jitter=half;'),
        qr/value "jitter=half".*"full" or "none"/ ],
    'condition unknown' => [ block('retry on=connect,refused;'),
        qr/value "on=connect,refused".*"connect", "timeout" and statuses/ ],
    'status out of range' => [ block('retry on=600;'),
        qr/value "on=600".*from 400 to 599/ ],
    'status that is a success' => [ block('retry on=200;'),
        qr/value "on=200".*from 400 to 599/ ],
    'condition twice' => [ block('retry on=502,502;'), qr/each one once/ ],
    'empty condition' => [ block('retry on=502,;'), qr/value "on=502,"/ ],
    'method unknown' => [ block('retry methods=GET,FETCH;'),
        qr/value "methods=GET,FETCH".*list of methods/ ],
    'timeout of 0' => [ block('timeout 0;'),
        qr/value "0" in "timeout".*between 1s and 24d/ ],
    'deadline of 0' => [ block('deadline 0;'),
        qr/value "0" in "deadline".*at least 1s/ ],
    'ttl no time' => [ block('ttl long;'), qr/value "long" in "ttl"/ ],
    'dead_ttl beyond all' => [ block('dead_ttl 99y;'),
        qr/value "99y" in "dead_ttl".*at most 10 years/ ],
    'delay with what is not' => [ block('delay $arg_d min=1s;'),
        qr/value "min=1s" in "delay".*"max="/ ],
    'delay max of 0' => [ block('delay $arg_d max=0;'),
        qr/value "max=0" in "delay".*at least 1s/ ],
    'delay of an unknown variable' => [ block('delay $no_such_thing;'),
        qr/unknown "no_such_thing" variable/ ],
    'priority of 10' => [ block('priority 10;'),
        qr/value "10" in "priority".*a digit, 9 first/ ],
    'fair to all' => [ block('fair all;'),
        qr/value "all" in "fair".*variable/ ],
    'limit of 0' => [ block('limit queued=0;'),
        qr/value "queued=0" in "limit".*from 1/ ],
    'limit unknown' => [ block('limit running=1;'),
        qr/value "running=1" in "limit".*queued, key, per_key and status/ ],
    'limit twice' => [ block('limit queued=1 queued=2;'),
        qr/value "queued=2" in "limit".*duplicate/ ],
    'limit with one key for all' => [ block('limit key=all per_key=1;'),
        qr/value "key=all" in "limit".*variable/ ],
    'limit with a status of its own' => [ block('limit queued=1 status=500;'),
        qr/value "status=500" in "limit".*429 or 503/ ],
    'webhook without a URL' => [ block('webhook example.com;'),
        qr/value "example.com" in "webhook".*"https:/ ],
    'webhook with a password' => [ block('webhook http://u:p@a.example/;'),
        qr/in "webhook".*without user/ ],
    'webhook for an unknown event' => [
        block('webhook http://a.example/ on=completed,done;'),
        qr/value "on=completed,done".*"completed", "failed" and "canceled"/ ],
    'webhook with too much inline' => [
        block('webhook http://a.example/ inline=65k;'), qr/at most 64k/ ],
    'webhook with an unknown parameter' => [
        block('webhook http://a.example/ retry=1;'), qr/no such parameter/ ],
    'webhook said twice' => [
        block('webhook http://a.example/ on=failed on=failed;'),
        qr/duplicate/ ],
    'webhook without a file' => [
        block('webhook http://a.example/ secret=whsec_x;'),
        qr/"secret=file:"/ ],
    'webhook with a file that is not there' => [
        block('webhook http://a.example/ secret=file:%%PREFIX%%/none;'),
        qr/not there/ ],
    'webhook with a secret all can read' => [
        block("webhook http://a.example/ secret=file:$open;"),
        qr/others may read/ ],
    'webhook with a secret that is too short' => [
        block("webhook http://a.example/ secret=file:$short;"),
        qr/24 to 64 bytes/ ],
    'webhook with a ca that is not there' => [
        block('webhook http://a.example/ ca=/no/such/file;'), qr/not there/ ],
    'webhook_allow without a host' => [
        block("webhook_allow secret=file:$good;"), qr/a host or a CIDR/ ],
    'webhook_allow with a URL' => [ block('webhook_allow http://a/;'),
        qr/a host's name/ ],
    'webhook_allow with bits' => [ block('webhook_allow 10.1.2.3/8;'),
        qr/bits behind/ ],
    'on_full unknown' => [ block('limit queued=1; on_full wait;'),
        qr/value "wait" in "on_full".*"refuse" or "bypass"/ ],

    # what is right alone
    'deadline before timeout' => [ block('timeout 10m; deadline 5m;'),
        qr/queue "q" in .*"deadline" of 300 s is shorter than "timeout" of 6/ ],
    'deadline before offload_timeout' => [
        block('deadline 5m;', 'location /x/ { offload q; '
              . 'offload_timeout 10m; proxy_pass http://%%BACKEND%%; }'),
        qr{"deadline" of 300 s.*"offload_timeout" of 600 s in location "/x/"} ],
    'deadline before a retry' => [
        block('timeout 1s; deadline 5s; retry backoff=5s..1m;'),
        qr/"deadline" of 5 s is not longer than the "retry" backoff of 5000/ ],
    'deadline before the delay' => [
        block('deadline 1h; delay $arg_d max=1h;'),
        qr/"deadline" of 3600 s is not longer than the "delay" max of 3600/ ],
    'dead_ttl before ttl' => [ block('ttl 2h; dead_ttl 1h;'),
        qr/"dead_ttl" of 3600 s is shorter than "ttl" of 7200 s/ ],
    "dead_ttl before the zone's ttl" => [ block('dead_ttl 30m;'),
        qr/"dead_ttl" of 1800 s is shorter than "ttl" of 3600 s/ ],
    'dead_ttl before offload_result_ttl' => [
        block('dead_ttl 2h;', 'location /x/ { offload q; '
              . 'offload_result_ttl 3h; proxy_pass http://%%BACKEND%%; }'),
        qr{"dead_ttl" of 7200 s.*"offload_result_ttl" of 10800 s in loc} ],
    'key without per_key' => [ block('limit queued=5 key=$arg_k;'),
        qr/"limit" has "key" and no "per_key"/ ],
    'per_key without key' => [ block('limit per_key=5;'),
        qr/"limit" has "per_key" and no "key"/ ],
    'per_key above queued' => [ block('limit queued=2 key=$arg_k per_key=3;'),
        qr/"per_key" of "limit" is more than "queued"/ ],
    'status of no limit' => [ block('limit status=503;'),
        qr/"limit" has "status" alone/ ],
    'bypass without a limit' => [ block('on_full bypass;'),
        qr/"on_full" needs a "limit"/ ],
    'bypass with a status' => [
        block('limit queued=1 status=429; on_full bypass;'),
        qr/"on_full bypass" refuses nothing/ ],

    'depth of 0' => [ http('', 'offload_max_depth 0; '
                           . 'location / { offload jobs; }'),
        qr/"offload_max_depth" directive must be between 1 and 255/ ],
    'depth beyond all' => [ http('', 'offload_max_depth 256; '
                                 . 'location / { offload jobs; }'),
        qr/"offload_max_depth" directive must be between 1 and 255/ ],
);

while (my ($what, $try) = splice @wrong, 0, 2) {
    my ($http, $said, $user) = @$try;

    {
        local $Offload::USER = $user // $Offload::USER;
        $n->write_conf(http => $http);
    }

    my ($code, $out) = $n->run('-t');

    isnt $code, 0, "$what: refused";
    like $out, $said, "$what: and named";
    like $out, qr/nginx\.conf:\d+/, "$what: with its place"
        if $out !~ /unknown ".*" variable/;     # nginx's own, without
}


# all of it, where the queues stand behind the locations, and by an include

Util::write_file("$n->{prefix}/fair.conf", 'fair $http_x_tenant;');

my $ALL = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /full/ { offload full.queue-1; proxy_pass http://%%BACKEND%%; }
    location /own/ { offload full.queue-1; offload_timeout 90s;
                     proxy_pass http://%%BACKEND%%; }
    location /short/ { offload short; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
offload_queue full.queue-1 zone=jobs {
    concurrency 10;
    rate        600r/m burst=5;
    adaptive    on;
    retry       max=7 backoff=250ms..2m jitter=none on=connect,429,599
                methods=GET,PUT;
    timeout     2m;
    deadline    3h;
    ttl         90m;
    dead_ttl    30d;
    delay       $http_offload_delay max=1h;
    priority    $http_x_priority;
    limit       queued=1000 key=$http_x_tenant per_key=10 status=503;
    on_full     refuse;
    webhook     https://a.example/b?c on=failed inline=1k secret=file:%%GOOD%%;
    webhook     $arg_hook;
    webhook_allow  10.0.0.0/8 .example.com secret=file:%%GOOD%%;
    include     %%PREFIX%%/fair.conf;
}
offload_queue once zone=jobs { retry off; rate 3r/s; }
offload_queue usual zone=jobs { retry jitter=full; }
offload_queue events zone=jobs {
    batch size=500 linger=1s format=json-array max=64k item=envelope;
}
offload_queue lines zone=jobs { batch size=2; }
offload_queue short zone=jobs { deadline 10m; }
EOT

$ALL =~ s/%%GOOD%%/$good/g;
$n->write_conf(http => $ALL);

my ($code, $out) = $n->run('-t');

is $code, 0, 'a good one' or diag $out;
$n->start;
ok wait_until(10, sub { -e "$n->{zone_dir}/policy.json" }), 'a policy';

my $policy = $n->policy;
my %queue = map { $_->{name} => $_ } @{ $policy->{queues} };
my %retry = (max => 5, backoff_ms => 1000, backoff_max_ms => 300_000,
             jitter => 'full', on => [ qw(connect timeout 429 502 503 504) ]);

is_deeply [ sort map { $_->{name} } @{ $policy->{queues} } ],
    [ sort qw(full.queue-1 once usual short events lines jobs) ],
    'each queue once, and the one of the zone';
is_deeply $queue{'full.queue-1'}, {
    name => 'full.queue-1', concurrency => 10, adaptive => JSON::PP::true,
    circuit => JSON::PP::true,
    circuit => JSON::PP::true,
    rate => { count => 600, period_ms => 60_000, burst => 5 },
    retry => { max => 7, backoff_ms => 250, backoff_max_ms => 120_000,
               jitter => 'none', on => [ qw(connect 429 599) ],
               methods => [ qw(GET PUT) ] },
    deadline_s => 3 * 3600, dead_ttl_s => 30 * 86400 },
    'all that can be said';
is_deeply $queue{once}, {
    name => 'once', concurrency => 0, adaptive => JSON::PP::false,
    circuit => JSON::PP::true,
    rate => { count => 3, period_ms => 1000, burst => 0 },
    retry => { %retry, max => 1 }, deadline_s => 0, dead_ttl_s => 7 * 86400 },
    'no second attempt';
is_deeply $queue{usual}{retry}, \%retry, 'what retry says by default';
is_deeply $queue{events}{batch}, { size => 500, linger_ms => 1000,
    max => 65536, array => JSON::PP::true, envelope => JSON::PP::true },
    'what batch says';
is_deeply $queue{lines}{batch}, { size => 2, linger_ms => 200,
    max => 8 << 20, array => JSON::PP::false, envelope => JSON::PP::false },
    'and what it says by default';
is_deeply $queue{jobs}, {
    name => 'jobs', concurrency => 0, adaptive => JSON::PP::false,
    circuit => JSON::PP::false,
    deadline_s => 0, dead_ttl_s => 7 * 86400 }, 'and a queue without a block';


# What requests carry.  Nobody takes them out of the rings: they are read
# there.  Of the fixed part the fields named here are the last.

sub requests {
    my $raw = read_file("$n->{zone_dir}/zone.v1");
    my %found;

    while ($raw =~ m{(?=(.{40})GET[0-9a-f]{16}
                     (/(?:full|own|short|plain)/\w+)(full\.queue-1|short|jobs)
                     )}gsx)
    {
        my ($fixed, $uri, $queue) = ($1, $2, $3);
        my %f = (queue => $queue);

        @f{qw(fair delay priority depth limit_key queued per_key
              deadline)} =
            unpack 'Q L C C x2 Q L L L x4', $fixed;
        $found{$uri} = \%f;
    }

    return \%found;
}


sub fnv {
    my ($text) = @_;
    my ($hi, $lo) = (0xcbf29ce4, 0x84222325);

    # by halves: the product has 104 bits
    for my $c (unpack 'C*', $text) {
        $lo ^= $c;
        my $low = $lo * 0x1b3;
        $hi = ($hi * 0x1b3 + ($low >> 32) + ($lo << 8)) & 0xffffffff;
        $lo = $low & 0xffffffff;
    }

    return $hi << 32 | $lo;
}


my %send = (
    # uri => headers, terms
    '/plain/a' => [ [], [ 'jobs', 0, 0, 5, 1, 0, 0, 0 ] ],
    '/plain/deep' => [ [ 'Offload-Depth' => 2, 'Offload-Delay' => 'what',
                         'X-Priority' => 9 ],
                       [ 'jobs', 0, 0, 5, 3, 0, 0, 0 ] ],
    '/plain/several' => [ [ 'Offload-Depth' => '0, 1', 'Offload-Depth' => 0 ],
                          [ 'jobs', 0, 0, 5, 2, 0, 0, 0 ] ],
    '/short/a' => [ [], [ 'short', 0, 0, 5, 1, 0, 0, 0 ] ],
);
my %parked = (
    '/full/a' => [ [], [ 0, 0, 5, 1, 0 ] ],
    '/full/tenant' => [ [ 'X-Tenant' => 'a' ],
                        [ fnv('a'), 0, 5, 1, fnv('a') ] ],
    '/full/tenant2' => [ [ 'X-Tenant' => 'bank of b' ],
                         [ fnv('bank of b'), 0, 5, 1, fnv('bank of b') ] ],
    '/full/first' => [ [ 'X-Priority' => 9 ], [ 0, 0, 9, 1, 0 ] ],
    '/full/last' => [ [ 'X-Priority' => 0 ], [ 0, 0, 0, 1, 0 ] ],
    '/full/ten' => [ [ 'X-Priority' => 10 ], [ 0, 0, 5, 1, 0 ] ],
    '/full/minus' => [ [ 'X-Priority' => '-1' ], [ 0, 0, 5, 1, 0 ] ],
    '/full/later' => [ [ 'Offload-Delay' => 10 ], [ 0, 10, 5, 1, 0 ] ],
    '/full/minutes' => [ [ 'Offload-Delay' => '5m' ], [ 0, 300, 5, 1, 0 ] ],
    '/full/now' => [ [ 'Offload-Delay' => '0' ], [ 0, 0, 5, 1, 0 ] ],
    '/full/capped' => [ [ 'Offload-Delay' => '2d' ], [ 0, 3600, 5, 1, 0 ] ],
    '/own/a' => [ [], [ 0, 0, 5, 1, 0 ] ],
);

for my $uri (sort keys %send) {
    is $n->get($uri, headers => $send{$uri}[0])->{status}, 202, $uri;
}

my @open = map {
    my $s = Http::dial($n->port);

    Http::write_all($s, Http::bytes('GET', $_, headers => $parked{$_}[0]));
    $s;
} sort keys %parked;

ok wait_until(20, sub { keys %{ requests() } == keys(%send) + keys %parked }),
    'all of them are in a ring' or diag explain requests();

my $found = requests();
my @TERMS = qw(queue fair delay priority depth limit_key queued per_key);

for my $uri (sort keys %send) {
    is_deeply [ @{ $found->{$uri} }{@TERMS} ], $send{$uri}[1],
        "$uri: its terms";
}

for my $uri (sort keys %parked) {
    is_deeply [ @{ $found->{$uri} }{@TERMS} ],
        [ 'full.queue-1', @{ $parked{$uri}[1] }, 1000, 10 ],
        "$uri: its terms";
}

like $n->log, qr/\[info\].*the priority "10" for queue "full.queue-1"/,
    'a priority that is none is logged';

for my $bad ('soon', '-1', '1.5', '10 s x', '9' x 30) {
    my $doc = Offload::problem(
        $n->get('/full/x', headers => [ 'Offload-Delay' => $bad ]), 400,
        "a delay of \"$bad\" is refused");

    is $doc->{type}, 'urn:problem-type:offload:delay-invalid', 'by its name';
}


is $found->{'/full/a'}{deadline}, 3 * 3600, "a queue's deadline";
is $found->{'/short/a'}{deadline}, 600, "another's";
is $found->{'/plain/a'}{deadline}, 0, 'none';


# the timeouts: the location's, the queue's, the deadline, one hour

sub timeout_of {
    my ($uri) = @_;
    my $raw = read_file("$n->{zone_dir}/zone.v1");

    # layout and flags, then timeout_s: method_len and entrance_len follow
    my ($fixed) = $raw =~ m{(.{8,256})GET[0-9a-f]{16}\Q$uri\E}s or return;
    my ($t) = $fixed =~ m{\x01\0.\0(....).{12}\x03\0\x10\0}s or return;

    return unpack 'L', $t;
}

is timeout_of('/plain/a'), 3600, 'an hour by default';
is timeout_of('/full/a'), 120, "a queue's timeout";
is timeout_of('/own/a'), 90, 'offload_timeout rules over it';
is timeout_of('/short/a'), 600, 'no longer than the deadline';


# a reload changes the policy

$n->write_conf(http => $ALL =~ s/concurrency 10;/concurrency 20;/r);
ok $n->reload(drain => 0), 'a reload';
ok wait_until(10, sub { grep { $_->{concurrency} == 20 }
                        @{ $n->policy->{queues} } }), 'is in the policy';

close $_ for @open;
Offload::finish_all();
