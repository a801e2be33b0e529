package Events;

# A client of server-sent events on a raw socket: what it was sent, event by
# event, as it comes.
#
#     my $s = Events->open($port, $job->{path}, last => $id);
#     my $e = $s->next;       # { event, id, data, doc }, or a comment alone
#
# next() gives undef at the end of the stream; then $s->{end} says which:
# 'whole' (the last chunk was there), 'cut' or 'late'.  Options: last
# (Last-Event-ID), headers (pairs), host, rcvbuf, gzip, deadline, estimates:
# without it events of that name are left out, as they come when time passes.

use strict;
use warnings;

use Compress::Raw::Zlib ();
use IO::Socket::INET;
use JSON::PP;
use Socket qw(AF_INET IPPROTO_TCP SOCK_STREAM SOL_SOCKET SO_RCVBUF
              inet_aton pack_sockaddr_in);
use Time::HiRes qw(time);

use Http;


sub open {
    my ($class, $port, $path, %o) = @_;
    my @headers = (Accept => 'text/event-stream', @{ $o{headers} // [] });

    push @headers, 'Last-Event-ID' => $o{last} if defined $o{last};
    push @headers, 'Accept-Encoding' => 'gzip' if $o{gzip};

    socket my $sock, AF_INET, SOCK_STREAM, IPPROTO_TCP or die "socket: $!\n";
    setsockopt $sock, SOL_SOCKET, SO_RCVBUF, pack 'l', $o{rcvbuf}
        if $o{rcvbuf};
    connect $sock, pack_sockaddr_in($port, inet_aton('127.0.0.1'))
        or die "connect: $!\n";

    Http::write_all($sock, Http::bytes('GET', $path, headers => \@headers,
                                       host => $o{host} // 'localhost'));

    my $self = bless { sock => $sock, raw => '', text => '', end => '',
                       deadline => $o{deadline} // 30,
                       estimates => $o{estimates} }, $class;

    return $o{unread} ? $self : $self->head;
}


# Reads the answer's head: status, h.

sub head {
    my ($self) = @_;
    my $until = time + $self->{deadline};

    while ($self->{raw} !~ /\r\n\r\n/) {
        $self->more($until) or last;
    }

    $self->{raw} =~ s/\A(HTTP\S+ (\d+).*?\r\n)\r\n//s or return $self;
    @$self{qw(head status)} = ($1, $2);
    $self->{h} = { map { /^([^:\s]+):\s*(.*?)\s*$/ ? (lc $1 => $2) : () }
                   split /\r\n/, $self->{head} };
    $self->{inflate} = Compress::Raw::Zlib::Inflate->new(
        -WindowBits => Compress::Raw::Zlib::WANT_GZIP())
        if ($self->{h}{'content-encoding'} // '') eq 'gzip';

    return $self;
}


sub more {
    my ($self, $until) = @_;
    my ($left, $bits) = ($until - time, '');

    vec($bits, fileno $self->{sock}, 1) = 1;

    if ($left <= 0 || select($bits, undef, undef, $left) < 1) {
        $self->{end} = 'late';
        return 0;
    }

    my $n = sysread $self->{sock}, $self->{raw}, 65536, length $self->{raw};

    $self->{end} = 'cut' if !$n;
    return $n;
}


# Takes whole chunks out of {raw}.

sub dechunk {
    my ($self) = @_;

    while ($self->{raw} =~ /\A([0-9a-f]+)\r\n/i) {
        my ($at, $n) = ($+[0], hex $1);

        last if length $self->{raw} < $at + $n + 2;

        my $part = substr $self->{raw}, $at, $n;

        substr $self->{raw}, 0, $at + $n + 2, '';
        $self->{end} = 'whole' if $n == 0;

        if ($self->{inflate}) {
            $self->{inflate}->inflate($part, my $plain);
            $part = $plain;
        }

        $self->{text} .= $part;
    }
}


# The next event, comment ({comment}) or retry ({retry}).

sub any {
    my ($self, $until) = @_;

    $until //= time + $self->{deadline};

    $self->dechunk;

    while ($self->{text} !~ /\n\n/) {
        return if $self->{end} || time > $until || !$self->more($until);
        $self->dechunk;
    }

    $self->{text} =~ s/\A(.*?)\n\n//s;

    my %e;

    for (split /\n/, $1) {
        /^(\w*):\s?(.*)$/ or next;
        $e{$1 eq '' ? 'comment' : $1} = $2;
    }

    return $self->any($until)
        if ($e{event} // '') eq 'estimate' && !$self->{estimates};

    $e{doc} = decode_json($e{data}) if defined $e{data};

    return \%e;
}


sub next {
    my ($self) = @_;
    my $until = time + $self->{deadline};       # heartbeats or not

    while (my $e = $self->any($until)) {
        $self->{retry} = $e->{retry} if defined $e->{retry};
        return $e if defined $e->{data};
    }

    return;
}


# The names of all events to the end.

sub rest {
    my ($self) = @_;
    my @names;

    while (my $e = $self->next) {
        push @names, $e->{event};
    }

    return @names;
}

1;
