package Bench;

# What the parts of the benchmark share: where things are, what is built, how
# often and how long to measure, and the interleaving of the rounds.

use strict;
use warnings;

use Cwd ();
use Exporter 'import';
use File::Basename ();
use File::Path ();
use File::Temp ();
use List::Util ();
use Time::HiRes ();

our @EXPORT_OK = qw(cpu_ns median percentile run_quiet slurp spew wait_until);

my $HERE = Cwd::realpath(File::Basename::dirname(__FILE__) . '/..');

sub new {
    my ($class, %opt) = @_;

    my $root = Cwd::realpath("$HERE/../..");
    my $build = $ENV{OFFLOAD_BUILD} || "$root/build";

    File::Path::make_path("$build/bench");

    my $self = bless {
        here    => $HERE,
        root    => $root,
        build   => Cwd::realpath($build),
        port    => $ENV{OFFLOAD_BENCH_PORT} || 19000,
        rounds  => $opt{rounds},
        seconds => $opt{seconds},
        tmp     => File::Temp::tempdir('offload-bench-XXXXXX',
                                       TMPDIR => 1, CLEANUP => 1),
        shm     => File::Temp::tempdir('offload-bench-XXXXXX',
                                       DIR => '/dev/shm', CLEANUP => 1),
        disk    => File::Temp::tempdir('offload-bench-XXXXXX',
                                       DIR => $ENV{OFFLOAD_BENCH_DISK}
                                              || "$build/bench",
                                       CLEANUP => 1),
        dirs    => 0,
    }, $class;

    $self->{module} = "$self->{build}/ngx_http_offload_module.so";
    $self->{worker} = "$self->{build}/offloadd";

    return $self;
}

# Why the product can't be measured, or undef.

sub unbuilt {
    my ($self, @files) = @_;

    @files = ($self->{module}, $self->{worker}) unless @files;

    my @missing = grep { !-e } @files;

    return @missing ? "not built: @missing" : undef;
}

# A zone directory that does not exist yet: an empty zone for each round.

sub fresh_zone {
    my ($self) = @_;

    return "$self->{shm}/z" . ++$self->{dirs};
}

# The same for what is to be on a disk.

sub fresh_disk {
    my ($self) = @_;

    return "$self->{disk}/d" . ++$self->{dirs};
}

# Bytes of shared memory one server of the benchmark may take: half of what is
# free, as the file system and as the machine see it.

sub shm_budget {
    my ($self) = @_;

    my ($mem) = slurp('/proc/meminfo') =~ /^MemAvailable:\s+(\d+) kB/m;
    my ($shm) = (split ' ', (split /\n/, `df -Pk $self->{shm}`)[1])[3];

    return int(List::Util::min($mem, $shm) * 1024 / 2);
}

# Runs every candidate once a round, in the given order.  Each returns its
# figures as a hash; what comes back has an array of each: {name}{figure}.

sub interleave {
    my ($self, $what, @candidates) = @_;

    my %got;

    for my $round (1 .. $self->{rounds}) {
        for (my $i = 0; $i < @candidates; $i += 2) {
            my ($name, $run) = @candidates[$i, $i + 1];

            print STDERR "$what: round $round of $self->{rounds}, $name\n";

            my $figures = $run->();

            push @{ $got{$name}{$_} }, $figures->{$_} for keys %$figures;
        }
    }

    return \%got;
}

sub median {
    return percentile(0.5, @_);
}

sub percentile {
    my ($p, @v) = @_;

    @v = sort { $a <=> $b } @v;

    if ($p == 0.5 && @v % 2 == 0) {
        return ($v[@v / 2 - 1] + $v[@v / 2]) / 2;
    }

    return $v[List::Util::min($#v, int($p * @v))];
}

# CPU time of processes, all their threads, in nanoseconds: utime + stime
# without the rounding to ticks that /proc/<pid>/stat has.

sub cpu_ns {
    my (@pids) = @_;

    return List::Util::sum0(map { (split ' ', slurp($_))[0] }
                            map { glob "/proc/$_/task/*/schedstat" } @pids);
}

# Polls for a condition; dies with `what` when the deadline has passed.

sub wait_until {
    my ($seconds, $what, $condition) = @_;

    my $deadline = Time::HiRes::time() + $seconds;

    while (Time::HiRes::time() < $deadline) {
        my $value = $condition->();
        return $value if $value;
        Time::HiRes::sleep(0.01);
    }

    die "gave up after $seconds s: $what\n";
}

# Runs a command with its output kept for the case that it fails.

sub run_quiet {
    my ($log, @cmd) = @_;

    my $pid = fork() // die "fork: $!\n";

    if ($pid == 0) {
        open STDOUT, '>', $log or die "$log: $!\n";
        open STDERR, '>&', \*STDOUT or die "stderr: $!\n";
        exec { $cmd[0] } @cmd or die "$cmd[0]: $!\n";
    }

    waitpid $pid, 0;

    die "failed: @cmd\n", slurp($log) if $?;

    return slurp($log);
}

sub slurp {
    my ($path) = @_;

    open my $fh, '<', $path or die "$path: $!\n";
    local $/;

    return scalar <$fh> // '';
}

sub spew {
    my ($path, $text) = @_;

    open my $fh, '>', $path or die "$path: $!\n";
    print $fh $text;
    close $fh or die "$path: $!\n";

    return $path;
}

1;
