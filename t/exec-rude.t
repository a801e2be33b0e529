# A command need not be wrong to be rude: it has no use for its input, leaves a
# daemon behind that prints on, does not want to end, or has a gigabyte to say.
# The worker has one thread for all of them and nginx's own user: nothing may
# make it wait, grow, or take a process for gone that is there still.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Command;
use Offload;
use POSIX qw(SIGSTOP);
use Test::More;
use Util qw(alive read_file stopped wait_until write_file);

my $n = Offload->new(workers => 1, worker => 'off',
    build => Offload::failpoints_dir(),
    zone => 'jobs 16m path=%%ZONE%% store=%%PREFIX%%/store', http => <<'EOT');
offload_queue rude zone=jobs {
    exec %%PREFIX%%/do; exec_env MARKS=%%PREFIX%%/marks;
}
offload_queue one zone=jobs {
    exec %%PREFIX%%/do; exec_env MARKS=%%PREFIX%%/marks;
    concurrency 1;
}
offload_queue script zone=jobs { exec %%PREFIX%%/script; }
offload_queue text zone=jobs { exec %%PREFIX%%/text; }
offload_queue nowhere zone=jobs {
    exec %%PREFIX%%/do; exec_dir %%PREFIX%%/dir;
}
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    offload_body_buffer_size 64k;
    location / { offload rude; }
    location /small/ { offload rude; offload_max_result 1m; }
    location /one/ { offload one; }
    location /script/ { offload script; }
    location /text/ { offload text; }
    location /nowhere/ { offload nowhere; }
    location /jobs/ { offload_status jobs; }
}
EOT

Command::install($n, 'do');
write_file("$n->{prefix}/script", "#!/nonexistent/perl\n");
write_file("$n->{prefix}/text", "no program at all\n");
chmod 0755, map { "$n->{prefix}/$_" } qw(script text);
mkdir "$n->{prefix}/dir";
$n->start;

my $clock = Clock->new($n);
my $daemon = $n->by_hand(undef, $clock->env);

$n->offloadd;

sub mark { Command::mark($n, @_) }
sub gone { Command::gone(@_) }


# ---- no use for its input: in memory, in a memfd, in a file

for my $size (1, 5, 40_000, 3_000_000, 20_000_000) {
    my ($r, $doc) = $n->through(POST => '/?do=text', body => 'b' x $size);

    is "$doc->{status} $doc->{attempts} $r->{body}",
        "completed 1 plain: text\nand more",
        "$size bytes that nobody reads are nobody's affair";
}


# ---- a process that leaves its session with the output open

my ($r, $doc) = $n->through(POST => '/?do=daemon&mark=daemon');

is $doc->{status}, 'completed', 'the end is the command\'s, not its child\'s';
ok gone(mark('daemon.child')), 'whose output nobody takes any more';


# ---- what does not want to end

my $job = $n->submit(POST => '/one/?do=wait&deaf=1&mark=deaf');
my $pid = mark('deaf.ready');
my $next = $n->submit(POST => '/one/?do=wait&gate=next&mark=next');

is $n->request(DELETE => $job->{path})->{status}, 200, 'one is canceled';
is $n->status($job)->{status}, 'canceled', 'and its job is, at once';

# another queue's job has come and gone meanwhile

$n->through(POST => '/?do=text');
ok alive($pid), 'but the process does not want to end';
is $n->status($next)->{status}, 'queued', 'and keeps its place in the queue';
$clock->ahead(6);
ok gone($pid), 'until it has to';
ok mark('next.ready'), 'then the next one begins';
Command::open_gate($n, 'next');
is $n->settled($next)->{status}, 'completed', 'and ends';

$job = $n->submit(POST => '/?do=signal&mark=stopped&signal=' . SIGSTOP);
$pid = mark('stopped.run');
ok wait_until(20, sub { stopped($pid) }), 'one that has stopped itself';
$n->request(DELETE => $job->{path});
ok gone($pid), 'is woken to hear that it has to end';


# ---- what can't be started

for my $case ([ script => qr{/script: the interpreter in its first line} ],
              [ text => qr{/text: Exec format error} ])
{
    $doc = $n->settled($n->submit(POST => "/$case->[0]/"));
    is $doc->{error}{code}, 'exec_failed', "no program: $case->[0]";
    like $doc->{error}{message}, $case->[1], 'in words';
}

rmdir "$n->{prefix}/dir";
$doc = $n->settled($n->submit(POST => '/nowhere/?do=text'));
is $doc->{error}{code}, 'exec_failed', 'a directory that is gone';
like $doc->{error}{message}, qr{not started: \S+/dir: No such file},
    'is named';

# one that may be executed some day: the reload's check is nginx's

chmod 0644, "$n->{prefix}/script";
$doc = $n->settled($n->submit(POST => '/script/'));
like $doc->{error}{message}, qr{/script: Permission denied},
    'one that may be executed no more';


# ---- a gigabyte

sub most { my ($kb) = read_file("/proc/$daemon/status") =~ /VmHWM:\s+(\d+)/;
           return $kb }

my $before = most();
my $log = length $n->worker_log;
my $mb = Offload::asan() ? 128 : 1024;

$job = $n->submit(POST => "/?do=print&mb=$mb");
$doc = $n->settled($job, deadline => 120);
is "$doc->{status} " . ($doc->{response}{length} // 0),
    'completed ' . ($mb << 20), 'a gigabyte is a result';
is $n->request(HEAD => "$job->{path}/result")->{h}{'content-length'},
    $mb << 20, 'whole';
$r = $n->get("$job->{path}/result",
             headers => [ Range => 'bytes=' . (($mb << 20) - 5) . '-' ]);
is "$r->{status} $r->{body}", '206 xxxxx', 'up to its end';
is $n->request(DELETE => $job->{path})->{status}, 200, 'and is thrown away';

$doc = $n->settled($n->submit(POST => "/small/?do=print&mb=$mb"));
is $doc->{error}{code}, 'result_too_large', 'one that is too much is cut off';

$doc = $n->settled($n->submit(POST => "/?do=print&mb=$mb&to=err"),
                   deadline => 120);
is $doc->{status}, 'completed', 'a gigabyte of complaints';
cmp_ok length($n->worker_log) - $log, '<', 4 << 20, 'is not all logged';
like $n->worker_log, qr/\d+ lines of commands were left out/, 'as the log says';

SKIP: {
    skip 'a sanitizer keeps what was freed', 1 if Offload::asan();
    cmp_ok most() - $before, '<', 32 << 10, 'none of it is kept in memory';
}

kill 'TERM', $daemon;
waitpid $daemon, 0;
is $? >> 8, 0, 'and it leaves in order';

Offload::finish_all();
