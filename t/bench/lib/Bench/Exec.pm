package Bench::Exec;

# Commands a second: jobs whose queue runs a program that does nothing, four
# at a time, against posix_spawn() of the same program by a small process.

use strict;
use warnings;

use IO::Socket::INET ();
use Time::HiRes ();

use Bench qw(run_quiet wait_until);
use Bench::Build ();
use Bench::Product ();

my $AT_A_TIME = 4;
my $PROGRAM = '/bin/true';

sub run {
    my ($b, $table) = @_;

    my $why = $b->unbuilt;
    my $spawn = Bench::Build::helper($b, 'spawn');
    my @kinds = (spawn => sub { floor($b, $spawn) });

    push @kinds, product => sub { product($b) } unless $why;

    my $got = $b->interleave('commands', @kinds);

    if ($why) {
        $table->skip('commands / posix_spawn', $why);
        return;
    }

    $table->pair(row => 'commands / posix_spawn', unit => 'jobs/s',
                 floor => $got->{spawn}{rps},
                 product => $got->{product}{rps});
}

sub floor {
    my ($b, $spawn) = @_;

    return { rps => 0 + run_quiet("$b->{tmp}/spawn.log", 'taskset', '-c',
                                  '0,1', $spawn, $AT_A_TIME, $b->{seconds},
                                  $PROGRAM) };
}

# From the first POST until the last job is settled.

sub product {
    my ($b) = @_;

    my $jobs = 1000 * $b->{seconds};
    my $product = Bench::Product->start($b, zone => '64m lanes=2',
        worker => 1, cpus => '0,1',
        exec => "exec $PROGRAM; concurrency $AT_A_TIME;");
    my $start = Time::HiRes::time();

    submit($b->{port}, $jobs);

    my $f = wait_until(120, 'all jobs settle', sub {
        my $f = $product->drained;
        return $f && $f->{settled} == $jobs && $f;
    });

    my $seconds = Time::HiRes::time() - $start;

    $product->stop;

    return { rps => $f->{settled} / $seconds };
}

# All in one pipeline, and all accepted.

sub submit {
    my ($port, $jobs) = @_;

    my $socket = IO::Socket::INET->new("127.0.0.1:$port")
        or die "connect: $!\n";

    for my $n (1 .. $jobs) {
        my $head = '';

        $socket->print("POST /command HTTP/1.1\r\nHost: bench\r\n"
                       . "Content-Length: 4\r\n\r\nbody")
            or die "send: $!\n";

        while (defined(my $line = $socket->getline)) {
            $head .= $line;
            last if $line eq "\r\n";
        }

        my ($length) = $head =~ /^Content-Length: (\d+)/im;

        die "not accepted: $head\n"
            if $head !~ m{^HTTP/1.1 202 } || !defined $length;

        $socket->read(my $body, $length) if $length;
    }

    close $socket;
}

1;
