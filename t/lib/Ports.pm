package Ports;

# TCP ports for tests that run side by side.  A port is claimed for the life
# of the process by an abstract unix socket, which the kernel frees by itself.

use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::UNIX;
use Socket qw(SOCK_DGRAM);

use constant { FIRST => 18000, COUNT => 1000 };

my @claims;


sub pick {
    my $start = int rand COUNT;

    for my $i (0 .. COUNT - 1) {
        my $port = FIRST + ($start + $i) % COUNT;
        my $claim = IO::Socket::UNIX->new(Type => SOCK_DGRAM,
            Local => "\0offload-test-port-$port") or next;
        my $free = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
            LocalPort => $port, Listen => 1, ReuseAddr => 1) or next;

        close $free;
        push @claims, $claim;

        return $port;
    }

    die 'no free port from ' . FIRST . ' on';
}

1;
