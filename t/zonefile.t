# The zone's file is shared memory that others can touch: it may be cut short,
# written over, left from another version or by a kill -9, or claimed by two
# nginx at once.  Both programs must say clearly what is wrong with it, and
# neither may crash, whatever is in it.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;
use Time::HiRes qw(time);

my $back = Backend->start;
my $n = Offload->new(backend => $back);
my $file = "$n->{zone_dir}/zone.v1";

$n->allow(qr/\[emerg\].*(?:zone|path|"|still could not bind)/);


# offloadd as a child of this test, so that its end can be looked at

sub by_hand {
    my $pid = fork // die;

    if (!$pid) {
        open STDERR, '>>', "$n->{prefix}/by-hand.log";
        open STDOUT, '>&', \*STDERR;
        exec(($> == 0 ? ('setpriv', "--reuid=$Offload::USER",
                         "--regid=$Offload::USER", '--clear-groups') : ()),
             $n->{start_script}, '-c', "$n->{zone_dir}/policy.json")
            or POSIX::_exit(127);
    }

    return $pid;
}

sub ended {
    my ($pid, $seconds) = @_;
    my $got;

    Offload::wait_until($seconds, sub {
        $got = waitpid $pid, POSIX::WNOHANG(); $got == $pid }) or return;

    return { signal => $? & 127, code => $? >> 8 };
}

sub patch {
    my ($at, $bytes) = @_;

    open my $fh, '+<:raw', $file or die "$file: $!\n";
    seek $fh, $at, 0;
    print $fh $bytes;
    close $fh;
}


# paths that can not be

for my $path ('/proc/ofl', "$n->{prefix}/nginx.conf/z") {
    $n->write_conf(zone => "jobs 16m path=$path");
    my ($code, $out) = $n->run;
    isnt $code, 0, "path $path: refused";
    like $out, qr/\Q$path\E.*zone "jobs"|zone "jobs".*\Q$path\E/s, 'and named';
}

if ($> != 0) {
    mkdir "$n->{shm}/shut", 0500;
    $n->write_conf(zone => "jobs 16m path=$n->{shm}/shut/z");
    my ($code, $out) = $n->run;
    isnt $code, 0, 'a directory without write permission: refused';
    like $out, qr/shut/, 'and named';
}

$n->write_conf(zone => 'jobs 16m path=%%ZONE%%');
mkdir $n->{zone_dir}, 0755;
chmod 0755, $n->{zone_dir};

my ($code, $out) = $n->run;

isnt $code, 0, 'a directory open to all: refused';
like $out, qr/\Q$n->{zone_dir}\E.*0755.*0700/, 'with both modes';
rmdir $n->{zone_dir};
symlink '/tmp', $n->{zone_dir};
($code, $out) = $n->run;
isnt $code, 0, 'a symbolic link: refused';
unlink $n->{zone_dir};

SKIP: {
    skip 'needs root to be someone else', 2 if $> != 0;
    mkdir $n->{zone_dir}, 0700;
    chown 65534, 65534, $n->{zone_dir};
    ($code, $out) = $n->run;
    isnt $code, 0, 'someone else\'s directory: refused';
    like $out, qr/belongs to user 65534/, 'with the user';
    rmdir $n->{zone_dir};
}


# files that are no zone: refused by nginx and by offloadd, left as they were

$n->start;
$n->settled($n->submit(POST => '/x', body => 'x'));
$n->stop;

my $good = Offload::read_file($file);
my $size = length $good;
my %bad = (
    'empty'            => '',
    'text'             => "hello\n",
    'cut in the header' => substr($good, 0, 100),
    'header only'      => substr($good, 0, 4096),
    'cut short'        => substr($good, 0, $size - 4096),
    'longer'           => $good . "\0" x 4096,
    'zeros'            => "\0" x $size,
    'another magic'    => 'X' . substr($good, 1),
    'another layout'   => substr($good, 0, 8) . pack('L', 99)
                          . substr($good, 12),
    'not ready'        => substr($good, 0, 112) . pack('L', 0)
                          . substr($good, 116),
    'no lanes'         => substr($good, 0, 48) . pack('L', 0)
                          . substr($good, 52),
    'too many lanes'   => substr($good, 0, 48) . pack('L', 1 << 30)
                          . substr($good, 52),
    'ring of odd size' => substr($good, 0, 64) . pack('Q', 12345)
                          . substr($good, 72),
    'ring beyond'      => substr($good, 0, 64) . pack('Q', 1 << 39)
                          . substr($good, 72),
    'lanes elsewhere'  => substr($good, 0, 72) . pack('Q', ~0)
                          . substr($good, 80),
);

for my $name (sort keys %bad) {
    Offload::write_file($file, $bad{$name});

    my $before = join ' ', (stat $file)[1, 7, 9];

    ($code, $out) = $n->run('-t');
    isnt $code, 0, "$name: nginx -t refuses it";
    like $out, qr/zone "jobs".*nginx\.conf:\d+/, "$name: with the place";
    like $out, qr/\Q$file\E/, "$name: and the file";
    ($code) = $n->run;
    isnt $code, 0, "$name: nginx does not start";

    my $end = ended(by_hand(), 20);

    ok $end && $end->{signal} == 0 && $end->{code} != 0,
        "$name: offloadd refuses it" or diag explain $end;
    is join(' ', (stat $file)[1, 7, 9]), $before, "$name: it is left alone";
}

Offload::write_file($file, $good);
$n->start;
is $n->settled($n->submit(POST => '/x', body => 'x'))->{status}, 'completed',
    'the good one put back is taken again';
$n->stop;


# cut short while it is in use

unlink $file;
$n->start;

my $job = $n->submit(POST => '/x?size=10', body => 'x');

$n->settled($job);

my @workers = sort { $a <=> $b } $n->workers;

truncate $file, 8192;

for my $i (1 .. 20) {
    my $r = $n->request('POST', '/cut', body => 'x' x 5000);

    if ($i == 1 || $r->{status} != 503) {
        Offload::problem($r, 503, "cut short: $i: no job is accepted");
    }

    my $status = $n->get($job->{path})->{status};

    ok $status =~ /^(?:200|404|503)$/, 'cut short: a status is answered'
        or diag $status if $i == 1 || $status !~ /^(?:200|404|503)$/;
}

is_deeply [ sort { $a <=> $b } $n->workers ], \@workers,
    'cut short: nginx\'s workers live';
ok Offload::wait_until(15, sub {
    $n->log . $n->worker_log =~ /zone.*(?:short|cut|size|truncat|broken)/i }),
    'cut short: and it is logged';
$n->stop;
unlink $file;
$n->start;
is $n->settled($n->submit(POST => '/x', body => 'x'))->{status}, 'completed',
    'with a new file all is well';
$n->stop;


# scribbled over while it is in use: whatever happens, nothing crashes

$n->write_conf(worker => 'off');

my $stride = unpack 'x80 Q', $good;
my $lane0 = unpack 'x72 Q', $good;
my ($lanes, $slots) = unpack 'x48 L2', $good;
my ($slots_at, $cq_at, $sq_at) = unpack 'x88 Q3', $good;

srand 20260425;

my @fields = (
    # what, where in a lane, how many bytes
    [ 'the producer\'s line', 0, 48 ], [ 'the consumer\'s line', 64, 24 ],
    [ 'slots', $slots_at, 128 * 64 ], [ 'the CQ', $cq_at, 4096 ],
    [ 'the SQ', $sq_at, 65536 ],
);

for my $field (@fields) {
    my ($what, $at, $n_bytes) = @$field;

    unlink $file;
    $n->start;

    my $pid = by_hand();

    $n->settled($n->submit(POST => '/x', body => 'x' x 3000)) for 1 .. 3;
    kill 'STOP', $pid;

    my @queued = map { $n->submit(POST => '/q', body => 'x' x 3000) } 1 .. 3;

    for my $lane (0 .. $lanes - 1) {
        for (1 .. 40) {
            my $value = (0, 1, ~0, 1 << 31, 1 << 63, int rand 2 ** 32,
                         int rand 4096)[int rand 7];

            patch($lane0 + $lane * $stride + $at
                  + 8 * int(rand($n_bytes / 8)), pack 'Q', $value);
        }
    }

    kill 'CONT', $pid;
    @workers = sort { $a <=> $b } $n->workers;

    for (1 .. 20) {
        my $r = $n->request('POST', '/scribbled', body => 'x' x 2000,
                            deadline => 10);

        ok $r->{status} =~ /^(?:202|503)$/, "$what: 202 or 503, not "
            . $r->{status} if $r->{status} !~ /^(?:202|503)$/;
        $n->get($_->{path}, deadline => 10) for @queued;
    }

    $n->request('DELETE', $_->{path}, deadline => 10) for @queued;
    is_deeply [ sort { $a <=> $b } $n->workers ], \@workers,
        "$what scribbled over: nginx's workers live";

    kill 'TERM', $pid;

    my $end = ended($pid, 30);

    ok $end && $end->{signal} == 0, "$what scribbled over: offloadd ends by "
        . 'itself' or do { diag explain $end; kill 'KILL', $pid };
    $n->stop;
}

File::Path::remove_tree($n->{zone_dir});
$n->write_conf(worker => $n->{start_script});


# killed with -9: stale sockets are in the way of nobody

$n->start;
$n->offloadd;

my @all = ($n->master, $n->children('.'), $n->offloadds);

kill 'KILL', @all;
Offload::wait_until(10, sub { !grep { Offload::alive($_) } @all });
ok scalar(grep { -S } glob "$n->{zone_dir}/r.*.sock"),
    'a kill -9 leaves sockets';
unlink "$n->{prefix}/nginx.pid";
$n->start;
is $n->settled($n->submit(POST => '/x', body => 'x'))->{status}, 'completed',
    'and nginx starts and works all the same';


# two of them on one path

my $two = Offload->new(backend => $back,
                       zone => "jobs 16m path=$n->{zone_dir}");

$two->allow(qr/\[emerg\].*in use by another nginx/);
($code, $out) = $two->run;
isnt $code, 0, 'a second nginx on the same path does not start';
like $out, qr/zone "jobs".*nginx\.conf:\d+.*\Q$n->{zone_dir}\E.*in use by/,
    'and says why';
is $n->settled($n->submit(POST => '/x', body => 'x'))->{status}, 'completed',
    'the first one is not disturbed';

$n->stop(keep_worker => 1);
$two->start;
is $two->settled($two->submit(POST => '/x', body => 'x'))->{status},
    'completed', 'when the first has gone, the second can have it';
$two->stop;
$n->stop_offloadd;

Offload::finish_all();
