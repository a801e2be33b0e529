package Receiver;

# A receiver of webhooks in a child process: it writes down what it is sent,
# and answers as the URL's query says, `plan=503,200`: the first time a message
# (by its webhook-id) comes, the second, and so on; 200 where the plan ends.
#
#     a status           `never`: no answer      `huge`: 200, and no end of it
#                        `header`: 200, 90 KB of header, and no end of it
#     429+7              with a Retry-After of 7 seconds
#
# What a path was given by says() comes before all that.
#
# The signature is checked here by the words of Standard Webhooks, by core
# Perl, without anything of offloadd's.  The child ends with the test.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_base64);
use File::Temp;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use POSIX ();
use Socket qw(SOMAXCONN);
use Time::HiRes qw(time sleep);

use Ports;


sub start {
    my ($class) = @_;
    my $dir = File::Temp::tempdir('ofl-r-XXXXXX', TMPDIR => 1, CLEANUP => 1);
    my $port = Ports::pick();
    my $self = bless { journal => "$dir/journal", port => $port, owner => $$,
                       says => "$dir/says" }, $class;
    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $port, Listen => SOMAXCONN,
        ReuseAddr => 1) or die "receiver: port $port: $!\n";

    open my $journal, '>>', $self->{journal} or die "$self->{journal}: $!\n";
    pipe my $alive, $self->{alive} or die "pipe: $!\n";
    $self->{pid} = fork // die "fork: $!\n";

    if (!$self->{pid}) {
        close $self->{alive};
        eval { _serve($listen, $journal, $alive, $self->{says}); 1 }
            or warn $@;
        POSIX::_exit(0);
    }

    return $self;
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($?, $!);
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
}


sub url { "http://127.0.0.1:$_[0]{port}" }


# From now on this is the answer at this path; undef: as it was.

sub says {
    my ($self, $path, $do) = @_;

    $self->{said}{$path} = $do;
    open my $fh, '>', "$self->{says}.new" or die "$self->{says}: $!\n";
    print $fh encode_json($self->{said});
    close $fh;
    rename "$self->{says}.new", $self->{says} or die "$self->{says}: $!\n";
}


# All that came to this path, or all.

sub seen {
    my ($self, $path) = @_;

    open my $fh, '<', $self->{journal} or die "$self->{journal}: $!\n";

    return grep { !defined $path || $_->{uri} =~ /^\Q$path\E(?:\?|$)/ }
           map { decode_json($_) } grep { /\n\z/ } <$fh>;
}


sub wait_for {
    my ($self, $n, $path, $deadline) = @_;
    my $until = time + ($deadline // 30);
    my @seen;

    while ((@seen = $self->seen($path)) < $n && time < $until) {
        sleep 0.02;
    }

    return @seen;
}


# Standard Webhooks 1.0.0: one of the signatures is that of id.timestamp.body.

sub verified {
    my ($message, $secret) = @_;
    my $h = $message->{h};
    my ($base64) = $secret =~ /^whsec_(.+)$/ or return 0;
    my $mac = hmac_sha256_base64(
        join('.', @$h{qw(webhook-id webhook-timestamp)}, $message->{body}),
        decode_base64($base64));

    $mac .= '=' while length($mac) % 4;

    return scalar grep { $_ eq "v1,$mac" }
                  split / /, $h->{'webhook-signature'} // '';
}


# ---- the child

sub _serve {
    my ($listen, $journal, $alive, $says) = @_;
    my %count;

    $journal->autoflush;
    local $SIG{CHLD} = 'IGNORE';
    local $SIG{PIPE} = 'IGNORE';

    for (;;) {
        vec(my $ready = '', fileno $listen, 1) = 1;
        vec($ready, fileno $alive, 1) = 1;
        select $ready, undef, undef, undef;
        return if vec $ready, fileno $alive, 1;

        my $s = $listen->accept or next;
        my $message = _read($s) or next;
        my $n = $count{$message->{h}{'webhook-id'} // ''}++;
        my ($plan) = $message->{uri} =~ /plan=([^&]*)/;
        my $do = _said($says, $message->{uri})
                 // (split /,/, $plan // '')[$n] // 200;

        print $journal encode_json($message), "\n";

        if ($do =~ /^(\d+)(?:\+(\d+))?$/) {
            _answer($s, $1, $2);

        } elsif (!fork) {
            if ($do eq 'never') {
                _hang($alive, $says, $message->{uri});
                POSIX::_exit(0);
            }

            print $s "HTTP/1.1 200 Fine\r\n",
                     $do eq 'header' ? "X-More: xxxxxxxxx\r\n" x 4700 : "\r\n";
            $s->flush;
            _hang($alive, $says, $message->{uri}) if $do eq 'header';
            1 while syswrite $s, 'x' x 65536;
            POSIX::_exit(0);
        }

        close $s;
    }
}


# Until the test is over, or this path is given another answer.

sub _hang {
    my ($alive, $says, $uri) = @_;

    until ((_said($says, $uri) // 'never') ne 'never') {
        vec(my $over = '', fileno $alive, 1) = 1;
        return if select($over, undef, undef, 0.1) > 0;
    }
}


sub _said {
    my ($file, $uri) = @_;

    open my $fh, '<', $file or return;

    return decode_json(join '', <$fh>)->{ $uri =~ s/\?.*//r };
}


sub _read {
    my ($s) = @_;
    my $in = '';
    my ($head, $body);

    while (sysread $s, $in, 65536, length $in) {
        next if ($head, $body) = $in =~ /^(.*?\r\n)\r\n(.*)$/s
            and length $body < ($head =~ /^content-length: (\d+)/mi)[0];
        last if defined $head;
    }

    defined $head or return;

    my ($method, $uri) = $head =~ /^(\S+) (\S+)/;

    return { method => $method, uri => $uri, body => $body, time => time,
             h => { map { lc $_->[0] => $_->[1] }
                    map { [ /^([^:]+): (.*)\r$/ ] } grep { /^[^:\s]+: / }
                    split /\n/, $head } };
}


sub _answer {
    my ($s, $status, $after) = @_;

    print $s "HTTP/1.1 $status Answer\r\nContent-Length: 0\r\n",
             defined $after ? "Retry-After: $after\r\n" : '',
             $status =~ /^3/ ? "Location: /moved\r\n" : '',
             "Connection: close\r\n\r\n";
}

1;
