package Bench::Durable;

# Accepting for good: how many 202s a second there are when each of them
# leaves only after an fsync, against the product's own memory mode and what
# people have today.  Everything runs on the same two cores and writes to the
# same disk; the backend is silent, so that jobs only pile up.

use strict;
use warnings;

use File::Path ();
use List::Util qw(max sum);

use Bench qw(median run_quiet);
use Bench::Build ();
use Bench::Floor ();
use Bench::Product ();
use Bench::Queues ();
use Bench::Table ();
use Bench::Wrk ();

my $CPUS = '0,1';

my @SIZES = (['200 B', 200], ['4 KB', 4096]);

# Connections, and what of memory mode's rate disk has to reach with so many.
my @CONNECTIONS = ([64, 0.4], [512, 0.6]);

my $ZONE = '64m lanes=2 concurrency=1';

# A second of appending, by the fastest of them, takes less of the disk.
my $DISK_A_SECOND = 2 * 1024 ** 3;

my @HEAD = ('who', 'connections', 'size', 'accepts/s', 'p50 ms', 'p99 ms',
            'half load', 'p50 ms', 'p99 ms', 'jobs/commit', 'commit ms');

sub run {
    my ($b, $table) = @_;

    if (my $why = $b->unbuilt || no_disk($b)) {
        $table->skip('durable', $why);
        return;
    }

    my %missing = (redis => Bench::Queues::missing_redis(),
                   beanstalkd => Bench::Queues::missing_beanstalkd());
    my @details;

    for my $size (@SIZES) {
        for my $connections (@CONNECTIONS) {
            push @details, rows($b, $table, \%missing, @$size, @$connections);
        }
    }

    $table->note("\n" . Bench::Table::align([0], \@HEAD, @details,
                                             appending($b)));
}

# The disk has to be one: tmpfs has nothing to sync.

sub no_disk {
    my ($b) = @_;

    my $dir = $b->{disk};
    my ($type) = run_quiet("$b->{tmp}/stat.log", 'stat', '-f', '-c', '%T',
                           $dir) =~ /^(\S+)/;
    my $room = (split ' ', (split /\n/, `df -Pk $dir`)[1])[3] * 1024;
    my $wanted = $DISK_A_SECOND * $b->{seconds};

    return "$dir is on $type: OFFLOAD_BENCH_DISK=dir"
        if $type =~ /^(?:tmpfs|ramfs)$/;
    return sprintf('%s has %.0f GB free, %.0f are needed', $dir,
                   $room / 1024 ** 3, $wanted / 1024 ** 3)
        if $room < $wanted;

    return undef;
}

# One size, so many connections: all contenders in turn, in each round.

sub rows {
    my ($b, $table, $missing, $name, $size, $connections, $share) = @_;

    my $row = "durable $name, $connections";
    my @load = ($connections, $size, $CPUS);

    my %contender = (
        disk => sub { disk($b, shift, @load) },
        memory => sub { memory($b, @load) },
        redis => sub { Bench::Queues::redis($b, shift, @load) },
        beanstalkd => sub { Bench::Queues::beanstalkd($b, shift, @load) },
    );

    my @names = grep { !$missing->{$_} } qw(disk memory redis beanstalkd);
    my $got = $b->interleave($row, map {
        my $run = $contender{$_};
        ($_ => sub { on_disk($b, $run) });
    } @names);

    ratio($table, $missing, $got, $row, 'redis', 2);
    ratio($table, $missing, $got, $row, 'beanstalkd', 5);
    ratio($table, $missing, $got, $row, 'memory', $share);

    $table->pair(row => "$row, p99 / commit", unit => 'ms',
                 floor => $got->{disk}{commit}, product => $got->{disk}{p99});
    $table->pair(row => "  at half that load", unit => 'ms',
                 floor => $got->{disk}{half_commit},
                 product => $got->{disk}{half_p99}, target => ['<', 3]);

    return map { detail($_, $connections, $name, $got->{$_}) } @names;
}

sub ratio {
    my ($table, $missing, $got, $row, $than, $limit) = @_;

    if ($missing->{$than}) {
        $table->skip("$row / $than", $missing->{$than});
        return;
    }

    my $bad = sum(@{ $got->{disk}{bad} });

    $table->pair(row => "$row / $than", unit => 'accepts/s',
                 floor => $got->{$than}{rps}, product => $got->{disk}{rps},
                 bad => $bad && "$bad answers were no 202",
                 target => ['>=', $limit]);
}

sub detail {
    my ($who, $connections, $name, $got) = @_;

    return [$who, $connections, $name,
            cell('%.0f', $got->{rps}),
            cell('%.2f', $got->{p50}), cell('%.2f', $got->{p99}),
            cell('%.0f', $got->{half}),
            cell('%.2f', $got->{half_p50}), cell('%.2f', $got->{half_p99}),
            cell('%.0f', $got->{batch}), cell('%.2f', $got->{commit})];
}

sub cell {
    my ($format, $rounds) = @_;

    return $rounds ? sprintf($format, median(@$rounds)) : '-';
}

# Runs one with a new directory on the disk.  What it leaves there is gone
# before the next begins, from the journal too.

sub on_disk {
    my ($b, $run) = @_;

    my $dir = $b->fresh_disk;

    mkdir $dir or die "$dir: $!\n";

    my $r = $run->($dir);

    File::Path::remove_tree($dir);
    run_quiet("$b->{tmp}/sync.log", 'sync', '-f', $b->{disk});

    return $r;
}

sub disk {
    my ($b, $dir, @load) = @_;

    return product($b, "$ZONE durability=disk store=$dir/store", @load);
}

# 202s alone count: a ring that is full is answered 503.

sub memory {
    my ($b, @load) = @_;

    my $r = product($b, $ZONE, @load);

    $r->{rps} *= 1 - $r->{bad} / ($r->{requests} || 1);

    return $r;
}

# The whole load first, then half of it: at the whole everybody waits for the
# processors, and that is what the times say.  commit: milliseconds, as
# offloadd saw it; batch: jobs in one.

sub product {
    my ($b, $zone, $connections, $size, $cpus) = @_;

    my $port = $b->{port} + 22;
    my $silent = Bench::Floor::silent($port);
    my $product = Bench::Product->start($b, zone => $zone, worker => 1,
                                        to => $port, cpus => $cpus);

    my @load = (path => '/work', cpus => $cpus, connections => $connections);
    my $commits = $product->commits;
    my $r = Bench::Wrk::load($b, $product->{nginx}, @load,
                             env => { BENCH_BODY => $size });

    $commits = max(1, $product->commits - $commits);

    $r->{batch} = ($r->{requests} - $r->{bad}) / $commits;
    $r->{commit} = $product->figures->{commit_us} / 1000;

    my $pause = 2000 * $connections / $r->{rps} - $r->{p50} / 2;
    my $half = Bench::Wrk::load($b, $product->{nginx}, @load,
        env => { BENCH_BODY => $size, BENCH_PAUSE => max(1, $pause) });

    @$r{qw(half half_p50 half_p99)} = @$half{qw(rps p50 p99)};
    $r->{half_commit} = $product->figures->{commit_us} / 1000;

    $product->stop;
    close $silent;

    return $r;
}

# What the disk itself does, 64 records at a time.

sub appending {
    my ($b) = @_;

    my @how = ('append + fdatasync' => [], 'preallocated' => ['prealloc']);
    my $program = Bench::Build::helper($b, 'append');

    my $got = $b->interleave('append', map {
        my $how = $_;

        ref $how ? sub { append($b, $program, @$how) } : $how;
    } @how);

    return map { detail($_, 64, '4 KB', $got->{$_}) } grep { !ref } @how;
}

sub append {
    my ($b, $program, @how) = @_;

    my $out = run_quiet("$b->{tmp}/append.log", $program,
                        "$b->{disk}/append", 64, 4096, $b->{seconds}, @how);
    my ($rps, $p50, $p99) = $out =~ /^APPEND (\S+) (\S+) (\S+)$/m
        or die "append said nothing of use:\n$out";

    return { rps => $rps, p50 => $p50, p99 => $p99 };
}

1;
