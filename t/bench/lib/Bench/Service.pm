package Bench::Service;

# A program that runs beside the measurement, as a child of the benchmark's:
# started in the foreground, its output kept, ended again whatever happens.

use strict;
use warnings;

use POSIX ();

use Bench qw(slurp wait_until);

my %running;

# cmd: the command; socket: what it listens at once it is up; cpus: the ones
# it may use.

sub start {
    my ($class, $b, %opt) = @_;

    my @cmd = ('taskset', '-c', $opt{cpus}, @{ $opt{cmd} });
    my $log = "$b->{tmp}/$opt{name}.log";
    my $self = bless { name => $opt{name}, log => $log }, $class;

    $self->{pid} = fork() // die "fork: $!\n";

    if ($self->{pid} == 0) {
        POSIX::setpgid(0, 0);
        open STDOUT, '>', $log or die "$log: $!\n";
        open STDERR, '>&', \*STDOUT or die "stderr: $!\n";
        exec { $cmd[0] } @cmd or die "$cmd[0]: $!\n";
    }

    $running{ $self->{pid} } = $self;

    wait_until(10, "$opt{name} does not listen", sub {
        die "$opt{name} has gone\n" . slurp($log)
            if waitpid($self->{pid}, POSIX::WNOHANG()) != 0;
        return -S $opt{socket};
    });

    return $self;
}

sub stop {
    my ($self) = @_;

    return unless delete $running{ $self->{pid} };

    for my $signal ('TERM', 'KILL') {
        kill $signal, $self->{pid};
        return if eval {
            wait_until(10, "$self->{name} ends", sub {
                waitpid($self->{pid}, POSIX::WNOHANG()) != 0;
            });
        };
    }
}

sub stop_all {
    $_->stop for values %running;
}

1;
