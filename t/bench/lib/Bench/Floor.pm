package Bench::Floor;

# What the product is measured against: nginx without it.

use strict;
use warnings;

use IO::Socket::INET ();

use Bench::Build ();
use Bench::Nginx ();
use Bench::Product ();

# `return 202;`

sub return_202 {
    my ($b, %opt) = @_;

    return Bench::Nginx->start($b, name => 'return', port => $b->{port},
                               http => <<EOF, %opt);
    server {
        listen  127.0.0.1:$b->{port};

        location / {
            return 202;
        }
    }
EOF
}

# The floor module, with a ring of that many bytes; its 202 has this Location
# and this body.

sub module {
    my ($b, $ring, $answer, %opt) = @_;

    my $so = Bench::Build::floor($b);

    return Bench::Nginx->start($b, name => 'floor', port => $b->{port},
                               load => [$so], http => <<EOF, %opt);
    bench_floor_ring  $b->{shm}/ring $ring;

    server {
        listen  127.0.0.1:$b->{port};

        client_body_buffer_size  128k;

        location /work {
            bench_floor  '$answer->{url}' '$answer->{body}';
        }

        location = /empty {
            return 202;
        }
    }
EOF
}

# `return 200` with the same headers and body as the document given.

sub document {
    my ($b, $answer, %opt) = @_;

    my $headers = join '', map { "            add_header $_->[0] '$_->[1]';\n" }
                               @{ $answer->{headers} };

    return Bench::Nginx->start($b, name => 'document', port => $b->{port},
                               http => <<EOF, %opt);
    server {
        listen  127.0.0.1:$b->{port};

        location / {
            default_type  $answer->{type};
$headers
            return 200 '$answer->{body}';
        }
    }
EOF
}

# A backend that answers at once.

sub backend {
    my ($b, $port, %opt) = @_;

    return Bench::Nginx->start($b, name => 'backend', port => $port,
                               http => <<EOF, %opt);
    server {
        listen  127.0.0.1:$port;

        location / {
            return 200 "ok\\n";
        }

        location = /requests {
            stub_status;
        }
    }
EOF
}

# One that takes connections, by the kernel's hand, and is silent; to close.

sub silent {
    my ($port) = @_;

    return IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                 LocalPort => $port, Listen => 128,
                                 ReuseAddr => 1)
           // die "listen on 127.0.0.1:$port: $!\n";
}

# Plain proxy_pass to the one that answers.

sub proxy {
    my ($b, $to, %opt) = @_;

    my $upstream = Bench::Product::backend($to);

    return Bench::Nginx->start($b, name => 'proxy', port => $b->{port},
                               http => <<EOF, %opt);
$upstream
    server {
        listen  127.0.0.1:$b->{port};

        location /work {
            proxy_pass  http://backend;

            proxy_http_version  1.1;
            proxy_set_header    Connection "";
        }

        location = /empty {
            return 202;
        }
    }
EOF
}

1;
