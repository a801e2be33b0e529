package Http;

# A small HTTP/1.1 client that sends exactly the bytes it was told to.
#
#     my $r = Http::request($port, 'POST', '/x', body => '..', headers => [..]);
#     $r->{status}  $r->{headers}  (pairs)  $r->{h}{'lower-case'}  $r->{body}
#
# An answer that does not come whole within the deadline has `error` set.

use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes qw(time);


sub dial {
    my ($to) = @_;

    return $to =~ m{^/}
           ? IO::Socket::UNIX->new(Peer => $to)
           : IO::Socket::INET->new(
                PeerAddr => $to =~ /:/ ? $to : "127.0.0.1:$to", Timeout => 5);
}


# The bytes of a request.  Options: headers (pairs, flat), body, chunked
# (sizes the body is cut into), version, and host => undef to have none.

sub bytes {
    my ($method, $uri, %o) = @_;
    my @headers = @{ $o{headers} // [] };
    my %has = map { lc $headers[$_] => 1 } grep { $_ % 2 == 0 } 0 .. $#headers;
    my $body = $o{body} // '';
    my $out = "$method $uri HTTP/" . ($o{version} // '1.1') . "\r\n";

    if (!$has{host} && (!exists $o{host} || defined $o{host})) {
        unshift @headers, Host => $o{host} // 'localhost';
    }

    if ($o{chunked}) {
        push @headers, 'Transfer-Encoding' => 'chunked';

        my $size = $o{chunked} > 1 ? $o{chunked} : 8192;
        my $all = '';

        for (my $at = 0; $at < length $body; $at += $size) {
            my $part = substr $body, $at, $size;

            $all .= sprintf "%x\r\n%s\r\n", length $part, $part;
        }

        $body = "${all}0\r\n\r\n";

    } elsif (defined $o{body} && !$has{'content-length'}) {
        push @headers, 'Content-Length' => length $body;
    }

    while (my ($name, $value) = splice @headers, 0, 2) {
        $out .= "$name: $value\r\n";
    }

    return "$out\r\n$body";
}


sub request {
    my ($to, $method, $uri, %o) = @_;
    my $s = dial($to) or return { error => "connect: $!", status => 0 };

    write_all($s, bytes($method, $uri, %o));

    return response($s, head => $method eq 'HEAD', deadline => $o{deadline});
}


sub write_all {
    my ($s, $data) = @_;

    local $SIG{PIPE} = 'IGNORE';

    for (my $at = 0; $at < length $data;) {
        my $n = syswrite $s, $data, 1 << 20, $at;

        return 0 if !defined $n;
        $at += $n;
    }

    return 1;
}


# Reads one response; what was read too much waits in ${*$s}{rest}.

sub response {
    my ($s, %o) = @_;
    my $until = time + ($o{deadline} // 30);
    my $r = { status => 0, headers => [], h => {}, body => '' };
    my $buf = delete ${*$s}{rest} // '';
    my $eof = 0;
    my $more = sub {
        my $left = $until - time;
        my $bits = '';

        vec($bits, fileno $s, 1) = 1;
        return 0 if $eof || $left <= 0
                    || select($bits, undef, undef, $left) < 1;

        my $n = sysread $s, $buf, 1 << 18, length $buf;

        $eof = 1 if !$n;
        return $n;
    };

    while ($buf !~ /\r\n\r\n/) {
        if (!$more->()) {
            $r->{error} = $eof ? "closed after \"$buf\"" : 'too late';
            return $r;
        }
    }

    my ($head) = $buf =~ /\A(.*?\r\n)\r\n/s;

    substr $buf, 0, 2 + length $head, '';
    ($r->{status}) = $head =~ /\AHTTP\/1\.[01] (\d{3})/
        or return { %$r, status => 0, error => "not HTTP: \"$head\"" };
    $r->{head} = $head;

    for (split /\r\n/, $head) {
        my ($name, $value) = /^([^:\s]+):\s*(.*?)\s*$/ or next;

        push @{ $r->{headers} }, [ $name, $value ];
        $r->{h}{lc $name} = defined $r->{h}{lc $name}
                            ? "$r->{h}{lc $name}, $value" : $value;
    }

    if ($r->{status} == 100 && !$o{interim}) {
        ${*$s}{rest} = $buf;
        return response($s, %o, deadline => $until - time);
    }

    if ($o{head} || $r->{status} =~ /^(?:1..|204|304)$/) {
        # no body

    } elsif (($r->{h}{'transfer-encoding'} // '') eq 'chunked') {
        while (1) {
            if ($buf =~ /\A([0-9a-fA-F]+)[^\n]*\n/) {
                my ($at, $n) = ($+[0], hex $1);

                while (length $buf < $at + $n + 2) {
                    $more->() or last;
                }

                if (length $buf < $at + $n + 2) {
                    $r->{body} .= substr $buf, $at;
                    $r->{error} = 'cut short';
                    return $r;
                }

                $r->{body} .= substr $buf, $at, $n;
                substr $buf, 0, $at + $n + 2, '';
                last if $n == 0;

            } elsif (!$more->()) {
                $r->{error} = 'cut short';
                return $r;
            }
        }

    } elsif (defined(my $n = $r->{h}{'content-length'})) {
        while (length $buf < $n) {
            $more->() or last;
        }

        $r->{error} = 'cut short' if length $buf < $n;
        $r->{body} = substr $buf, 0, $n, '';

    } else {
        1 while $more->();
        $r->{error} = 'not closed' if !$eof;
        $r->{body} = $buf;
        $buf = '';
    }

    ${*$s}{rest} = $buf if length $buf;

    return $r;
}

1;
