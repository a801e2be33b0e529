package Backend;

# A slow backend to order: an event-driven server in a child process that
# does what the request's query says, and writes down everything it sees.
#
#     delay=ms      answer later            status=n      with this status
#     gate=name     answer when opened      size=n        n bytes of content
#     chunked=1     without a length        gzip=1        with an encoding
#     h=Name:value  one more header line    type=t        of the content
#     close=head    closed after the header; close=body: half-way the body
#     cut=n         attempts 1..n only: close=, status=, h=, or no answer
#     items=words   of a batch: a status for each item, see Items.pm
#
# Without size= the answer is a JSON document that says what was received.
# It speaks HTTP/1.x, FastCGI, SCGI and uwsgi, one port each.  The journal has
# a line of JSON for each event: request, abort (the client left first), done.
# The child ends with the test, whichever way that ends.

use strict;
use warnings;

use Digest::SHA;
use Errno qw(EAGAIN EINTR EINPROGRESS);
use IO::Compress::Gzip ();
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER SOMAXCONN);
use Time::HiRes qw(time sleep);

use FastCgi;
use Items;
use Ports;

my $BLOCK = join '', map { sprintf "%07d\n", $_ } 0 .. 8191;    # 64 KB
my %PARSER = (
    http    => \&_http_parse,
    fastcgi => \&_fastcgi_parse,
    scgi    => \&_scgi_parse,
    uwsgi   => \&_uwsgi_parse,
);


# What `size=` answers with.

sub content {
    my ($size) = @_;

    return substr $BLOCK x (1 + int($size / length $BLOCK)), 0, $size;
}


sub content_sha {
    my ($size) = @_;
    my $sha = Digest::SHA->new(256);

    for (my $n = $size; $n > 0; $n -= length $BLOCK) {
        $sha->add($n < length $BLOCK ? substr($BLOCK, 0, $n) : $BLOCK);
    }

    return $sha->hexdigest;
}


# ---- the test's side

sub start {
    my ($class, %opt) = @_;
    my $self = bless { journal => $opt{journal}, read => 0, events => [] },
               $class;

    $self->{dir} = $opt{dir} // File::Temp::tempdir('ofl-b-XXXXXX',
        TMPDIR => 1, CLEANUP => 1);
    $self->{journal} //= "$self->{dir}/journal";

    my %listen;

    for my $proto (sort keys %PARSER) {
        my $port = $opt{"${proto}_port"} // Ports::pick();

        $listen{$proto} = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp',
            Listen => SOMAXCONN, ReuseAddr => 1, Blocking => 0)
            or die "backend: port $port: $!\n";
        $self->{$proto} = "127.0.0.1:$port";
    }

    open my $journal, '>>', $self->{journal}
        or die "$self->{journal}: $!\n";
    pipe my $alive, $self->{alive} or die "pipe: $!\n";

    my $pid = fork // die "fork: $!\n";

    if (!$pid) {
        close $self->{alive};
        eval { _serve(\%listen, $journal, $alive); 1 } or warn $@;
        POSIX::_exit(0);
    }

    @$self{qw(pid owner)} = ($pid, $$);

    return $self;
}


sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;

    kill 'KILL', $pid;
    waitpid $pid, 0;
}


sub DESTROY {
    my ($self) = @_;

    return if ($self->{owner} // 0) != $$;

    local ($?, $!);
    $self->stop;
}


sub addr { $_[0]{http} }


# Lets go of all requests that wait at the gate, now and later.

sub open_gate {
    my ($self, $name) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => $self->{http}) or die "ctl: $!\n";

    print $s "GET /_open?gate=$name HTTP/1.0\r\n\r\n";
    local $/;
    my $answer = <$s> // '';
    die "gate $name: $answer\n" if $answer !~ m{^HTTP/1\.\d 200};
}


# All events so far, as hashes; those with these values if any are given.

sub journal {
    my ($self, %want) = @_;

    open my $fh, '<', $self->{journal} or die "$self->{journal}: $!\n";
    seek $fh, $self->{read}, 0;

    while (my $line = <$fh>) {
        last if $line !~ /\n\z/;
        $self->{read} += length $line;
        push @{ $self->{events} }, decode_json($line);
    }

    return grep {
        my $e = $_;
        !grep { ($e->{$_} // '') ne $want{$_} } keys %want;
    } @{ $self->{events} };
}


# Waits for at least n such events.

sub wait_for {
    my ($self, $n, %want) = @_;
    my $deadline = time + (delete $want{deadline} // 30);
    my @found;

    while (time < $deadline) {
        @found = $self->journal(%want);
        return @found if @found >= $n;
        sleep 0.02;
    }

    return;
}


# ---- the child

my (%conn, %gate, %open, @timers, $journal_fh, $rvec, $wvec);


sub _serve {
    my ($listen, $journal, $alive) = @_;
    my %accept = map { fileno $listen->{$_} => $_ } keys %$listen;

    $journal_fh = $journal;
    $journal->autoflush(1);
    $SIG{PIPE} = 'IGNORE';
    ($rvec, $wvec) = ('', '');
    vec($rvec, fileno $alive, 1) = 1;
    vec($rvec, $_, 1) = 1 for keys %accept;

    while (1) {
        my $wait = @timers ? $timers[0][0] - time : 60;

        $wait = 0 if $wait < 0;

        my ($r, $w) = ($rvec, $wvec);

        next if select($r, $w, undef, $wait) < 0 && $! == EINTR;

        for my $fd (_bits($r)) {
            return if $fd == fileno $alive;

            if (my $proto = $accept{$fd}) {
                _accept($listen->{$proto}, $proto);

            } elsif ($conn{$fd}) {
                _readable($conn{$fd});
            }
        }

        for my $fd (_bits($w)) {
            _flush($conn{$fd}) if $conn{$fd} && length $conn{$fd}{out};
        }

        while (@timers && $timers[0][0] <= time) {
            my (undef, $c, $reply) = @{ shift @timers };

            _answer($c, $reply) if !$c->{dead};
        }
    }
}


sub _bits {
    my $bits = unpack 'b*', $_[0];
    my ($at, @fds) = (-1);

    push @fds, $at while ($at = index $bits, '1', $at + 1) >= 0;

    return @fds;
}


sub _accept {
    my ($listen, $proto) = @_;

    while (my $sock = $listen->accept) {
        $sock->blocking(0);
        my $fd = fileno $sock;

        $conn{$fd} = { sock => $sock, fd => $fd, in => '', out => '',
                       proto => $proto, parse => $PARSER{$proto} };
        vec($rvec, $fd, 1) = 1;
    }
}


sub _close {
    my ($c) = @_;

    return if $c->{dead}++;

    _note('abort', $c->{req}) if $c->{req} && !$c->{cut};
    vec($rvec, $c->{fd}, 1) = 0;
    vec($wvec, $c->{fd}, 1) = 0;
    delete $conn{$c->{fd}};
    close $c->{sock};
}


sub _note {
    my ($event, $req, %more) = @_;
    my %h;

    $h{lc $_->[0]} //= $_->[1] for @{ $req->{headers} // [] };

    syswrite $journal_fh, encode_json({
        event => $event, time => time, proto => $req->{proto},
        method => $req->{method}, uri => $req->{uri},
        job => $h{'offload-job-id'}, attempt => $h{'offload-attempt'},
        key => $h{'idempotency-key'}, headers => $req->{headers},
        length => $req->{length}, sha => $req->{sha},
        Items::seen($req->{text}),
        params => $req->{params}, %more }) . "\n";
}


sub _readable {
    my ($c) = @_;
    my $n = sysread $c->{sock}, my $buf, 262144;

    return if !defined $n && ($! == EAGAIN || $! == EINTR);
    return _close($c) if !$n;

    $c->{in} .= $buf;
    _feed($c);
}


# The parser takes what it can use out of {in}, and says so by its value.

sub _feed {
    my ($c) = @_;

    while (!$c->{req} && length $c->{in}) {
        $c->{new} //= { proto => $c->{proto}, sha_ctx => Digest::SHA->new(256),
                        length => 0 };

        my $done = eval { $c->{parse}->($c, $c->{new}) };

        if ($@) {
            warn "backend: $@";
            return _close($c);
        }

        last if !$done;

        my $req = $c->{req} = delete $c->{new};

        $req->{sha} = (delete $req->{sha_ctx})->hexdigest;
        _request($c, $req);
    }
}


sub _body {
    my ($c, $req, $n) = @_;
    my $part = substr $c->{in}, 0, $n, '';

    $req->{sha_ctx}->add($part);
    $req->{length} += length $part;
    $req->{text} .= $part if $req->{batch};

    return length $part;
}


sub _http_parse {
    my ($c, $req) = @_;

    if (!$req->{method}) {
        $c->{in} =~ s/\A(\S+) (\S+) HTTP\/1\.([01])\r\n(.*?\r\n)?\r\n//s
            or return 0;
        @$req{qw(method uri minor)} = ($1, $2, $3);
        $req->{headers} = [ map { [ /^([^:]+):\s*(.*?)\s*$/ ] }
                            split /\r\n/, $4 // '' ];

        my %h = map { lc $_->[0] => $_->[1] } @{ $req->{headers} };

        $req->{left} = $h{'content-length'} // 0;
        $req->{batch} = $h{'offload-batch'};
        $req->{chunked} = lc($h{'transfer-encoding'} // '') eq 'chunked';
        $req->{keep} = $req->{minor} && lc($h{connection} // '') ne 'close';
    }

    if ($req->{chunked}) {
        while (1) {
            if (!$req->{left}) {
                $c->{in} =~ s/\A(?:\r\n)?([0-9a-fA-F]+)[^\n]*\n//
                    or return 0;
                $req->{left} = hex $1;

                if (!$req->{left}) {
                    $c->{in} =~ s/\A\r\n//;
                    return 1;
                }
            }

            $req->{left} -= _body($c, $req, $req->{left});
            return 0 if $req->{left};
        }
    }

    $req->{left} -= _body($c, $req, $req->{left});

    return $req->{left} == 0;
}


sub _cgi {
    my ($req, $params) = @_;

    $req->{params} = $params;
    $req->{method} = $params->{REQUEST_METHOD} // 'GET';
    $req->{uri} = $params->{REQUEST_URI}
                  // '/?' . ($params->{QUERY_STRING} // '');
    $req->{headers} = [ map { my $k = $_; $k =~ s/^HTTP_//; $k =~ tr/_/-/;
                              [ $k, $params->{$_} ] }
                        sort grep { /^HTTP_/ } keys %$params ];
}


sub _fastcgi_parse {
    my ($c, $req) = @_;

    while (length $c->{in} >= 8) {
        my (undef, $type, $id, $len, $pad) = unpack 'CCnnC', $c->{in};

        return 0 if length $c->{in} < 8 + $len + $pad;

        substr $c->{in}, 0, 8, '';
        $req->{id} = $id;

        if ($type == 1) {
            $req->{keep} = ord(substr $c->{in}, 2, 1) & 1;

        } elsif ($type == 4) {
            $req->{raw} .= substr $c->{in}, 0, $len;
            _cgi($req, FastCgi::params($req->{raw})) if !$len;

        } elsif ($type == 5 && $len) {
            _body($c, $req, $len);
            $len = 0;
        } elsif ($type == 5) {
            return 1;
        }

        substr $c->{in}, 0, $len + $pad, '';
    }

    return 0;
}


sub _scgi_parse {
    my ($c, $req) = @_;

    if (!$req->{params}) {
        my ($n) = $c->{in} =~ /\A(\d+):/ or return 0;
        my $at = 1 + length $n;

        return 0 if length $c->{in} < $at + $n + 1;

        my $block = substr $c->{in}, $at, $n;

        substr $c->{in}, 0, $at + $n + 1, '';

        my @params = split /\0/, $block, -1;

        pop @params;
        _cgi($req, { @params });
        $req->{left} = $req->{params}{CONTENT_LENGTH} || 0;
    }

    $req->{left} -= _body($c, $req, $req->{left});

    return $req->{left} == 0;
}


sub _uwsgi_parse {
    my ($c, $req) = @_;

    if (!$req->{params}) {
        return 0 if length $c->{in} < 4;

        my (undef, $n) = unpack 'Cv', $c->{in};

        return 0 if length $c->{in} < 4 + $n;

        _cgi($req, { unpack '(v/a)*', substr $c->{in}, 4, $n });
        substr $c->{in}, 0, 4 + $n, '';
        $req->{left} = $req->{params}{CONTENT_LENGTH} || 0;
    }

    $req->{left} -= _body($c, $req, $req->{left});

    return $req->{left} == 0;
}


# The request is complete: what does its query want?

sub _request {
    my ($c, $req) = @_;
    my ($path, $query) = split /\?/, $req->{uri}, 2;
    my (%q, @more);

    for (split /&/, $query // '') {
        my ($k, $v) = split /=/, $_, 2;

        ($v //= '') =~ s/%([0-9a-fA-F]{2})/chr hex $1/ge;

        if ($k eq 'h') {
            push @more, [ $v =~ /^([^:]+):\s*(.*)$/ ];
        } else {
            $q{$k} = $v;
        }
    }

    if ($path eq '/_open') {
        $open{$q{gate}} = 1;
        _answer(@$_) for grep { !$_->[0]{dead} }
                         @{ delete $gate{$q{gate}} // [] };
        return _answer($c, { %q, body => "open\n", quiet => 1 });
    }

    _note('request', $req);
    my ($attempt) = map { $_->[1] } grep { lc $_->[0] eq 'offload-attempt' }
                    @{ $req->{headers} };

    if ($q{cut} && ($attempt // 1) > $q{cut}) {
        delete @q{qw(close status)};
        @more = ();

    } elsif ($q{cut} && !$q{close} && !$q{status}) {
        $c->{cut} = 1;
        return _close($c);
    }

    my $reply = { %q, more => \@more };

    if (defined $q{gate} && !$open{$q{gate}}) {
        push @{ $gate{$q{gate}} }, [ $c, $reply ];

    } elsif ($q{delay}) {
        @timers = sort { $a->[0] <=> $b->[0] }
                  @timers, [ time + $q{delay} / 1000, $c, $reply ];
    } else {
        _answer($c, $reply);
    }
}


sub _answer {
    my ($c, $q) = @_;
    my $req = $c->{req};
    my $type = $q->{type} // 'text/plain';
    my $body = $q->{body};

    if (!defined $body && defined $q->{items}) {
        $type = $q->{type} // 'application/json';
        $body = Items::statuses($req->{text}, $q->{items});

    } elsif (!defined $body && defined $q->{size}) {
        $body = content($q->{size});

    } elsif (!defined $body) {
        $type = $q->{type} // 'application/json';
        $body = JSON::PP->new->canonical->encode({
            map { $_ => $req->{$_} }
            qw(proto method uri headers length sha params) });
    }

    my @headers = ([ 'Content-Type', $type ], @{ $q->{more} // [] });

    if ($q->{gzip}) {
        IO::Compress::Gzip::gzip(\(my $plain = $body) => \$body);
        push @headers, [ 'Content-Encoding', 'gzip' ];
    }

    my $status = $q->{status} // 200;
    my $empty = $req->{method} eq 'HEAD' || $status =~ /^(?:204|304)$/;

    $c->{cut} = $q->{close};
    push @headers, [ 'Content-Length', length $body ]
        if !$q->{chunked} && $status != 204;
    $body = '' if $empty;

    _note('done', $req, status => $status) if !$q->{quiet};

    if ($q->{close}) {
        $body = $q->{close} eq 'head' ? '' : substr $body, 0, length($body) / 2;
    }

    $c->{out} .= $c->{proto} eq 'http'
                 ? _http_answer($req, $status, \@headers, $body, $q)
                 : _cgi_answer($c, $req, $status, \@headers, $body);
    $c->{last} = $q->{close} || !$req->{keep};
    delete $c->{req};
    _flush($c);
}


sub _http_answer {
    my ($req, $status, $headers, $body, $q) = @_;
    my $chunked = $q->{chunked} && $req->{minor};
    my $out = "HTTP/1.1 $status Answer\r\n";

    push @$headers, [ 'Transfer-Encoding', 'chunked' ] if $chunked;
    push @$headers, [ 'Connection', 'close' ] if !$req->{keep};
    $out .= "$_->[0]: $_->[1]\r\n" for @$headers;
    $out .= "\r\n";

    return $out . $body if !$chunked || $req->{method} eq 'HEAD';

    for (my $at = 0; $at < length $body; $at += 30000) {
        my $part = substr $body, $at, 30000;

        $out .= sprintf "%x\r\n%s\r\n", length $part, $part;
    }

    return $out . ($q->{close} ? '' : "0\r\n\r\n");
}


sub _cgi_answer {
    my ($c, $req, $status, $headers, $body) = @_;
    my $text = "Status: $status Answer\r\n"
               . join('', map { "$_->[0]: $_->[1]\r\n" } @$headers) . "\r\n"
               . $body;

    return $text if $c->{proto} ne 'fastcgi';

    return FastCgi::answer($req->{id}, $text);
}


sub _flush {
    my ($c) = @_;

    while (length $c->{out}) {
        my $n = syswrite $c->{sock}, $c->{out}, 262144;

        if (!defined $n) {
            next if $! == EINTR;
            return vec($wvec, $c->{fd}, 1) = 1 if $! == EAGAIN;
            return _close($c);
        }

        substr $c->{out}, 0, $n, '';
    }

    vec($wvec, $c->{fd}, 1) = 0;

    return _close($c) if $c->{last};

    _feed($c);
}

1;
