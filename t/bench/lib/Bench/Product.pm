package Bench::Product;

# The product under measurement: an nginx with one zone, made anew at each
# start and removed at each stop, and its offloadd unless that is left out.

use strict;
use warnings;

use File::Path ();
use IO::Socket::UNIX ();

use Bench qw(run_quiet slurp wait_until);
use Bench::Build ();
use Bench::Nginx ();

my %running;

# zone: offload_zone's size and parameters; worker: run offloadd; to: where
# /work is passed; exec, queue: a queue's directives, for /command, and for
# /queued, which is passed as /work.  cpu, cpus, connections, workers: as
# Bench::Nginx has them.

sub start {
    my ($class, $b, %opt) = @_;

    my $dir = $b->fresh_zone;
    my $worker = $opt{worker} ? $b->{worker} : 'off';
    my $port = $b->{port};

    my $self = bless { b => $b, zone => $dir }, $class;

    $running{$dir} = $self;

    my $http = <<EOF;
    offload_zone    bench $opt{zone} path=$dir;
    offload_worker  $worker;
EOF

    my $more = '';

    if ($opt{exec}) {
        $http .= "    offload_queue command zone=bench { $opt{exec} }\n";
        $more = 'location /command { offload command; }';
    }

    if ($opt{queue}) {
        $http .= "    offload_queue queued zone=bench { $opt{queue} }\n";
        $more .= <<'EOF';
        location /queued {
            offload     queued;
            proxy_pass  http://backend/work;

            proxy_http_version  1.1;
            proxy_set_header    Connection "";
        }
EOF
    }

    $http .= backend($opt{to}) . <<EOF;

    server {
        listen  127.0.0.1:$port;

        location /work {
            offload     bench;
            proxy_pass  http://backend;

            proxy_http_version  1.1;
            proxy_set_header    Connection "";
        }

        location /held {
            offload       bench;
            offload_wait  1h;
            proxy_pass    http://backend;
        }

        location /jobs/ {
            offload_status    bench;
            offload_wait_max  1h;
        }

        $more

        location = /empty {
            return 202;
        }
    }
EOF

    $self->{nginx} = Bench::Nginx->start($b,
        name => $opt{name} || 'product', port => $port, http => $http,
        load => [$b->{module}], cpu => $opt{cpu}, cpus => $opt{cpus},
        connections => $opt{connections}, workers => $opt{workers});

    if ($opt{worker}) {
        wait_until(10, "offloadd does not start\n" . $self->{nginx}->log,
                   sub { $self->figures->{worker} });
    }

    return $self;
}

sub backend {
    my ($port) = @_;

    $port ||= 1;

    return <<EOF;

    upstream backend {
        server              127.0.0.1:$port;
        keepalive           512;
        keepalive_requests  1000000000;
    }
EOF
}

# The zone's own figures, by name.

sub figures {
    my ($self) = @_;

    my $program = $self->{figures} ||= Bench::Build::helper($self->{b},
                                                            'figures');

    return { run_quiet("$self->{b}{tmp}/figures.log", $program,
                       "$self->{zone}/zone.v1") =~ /^(\w+) (\d+)$/mg };
}

# By its control interface: "POST /v1/zone/pause".

sub control {
    my ($self, $what) = @_;

    # it comes a moment after offloadd has the zone

    my $s = wait_until(10, 'control.sock is there', sub {
        IO::Socket::UNIX->new(Peer => "$self->{zone}/control.sock") });

    print $s "$what HTTP/1.1\r\nHost: offload\r\nConnection: close\r\n\r\n";

    my $head = readline($s) // '';

    die "$what: $head\n" if $head !~ / 200 /;
}

# How many transactions its store has seen.

sub commits {
    my ($self) = @_;

    my $program = $self->{commits} ||= Bench::Build::helper($self->{b},
                                                            'commits');
    my ($store) = slurp("$self->{zone}/policy.json")
                  =~ /"store"\s*:\s*"([^"]+)"/;

    return 0 + run_quiet("$self->{b}{tmp}/commits.log", $program,
                         "$store/store.mdb");
}

# Every accepted job is where it belongs: in the store, waiting, running or
# settled.

sub drained {
    my ($self) = @_;

    my $f = $self->figures;

    return $f->{ring} == 0
           && $f->{accepted} == $f->{waiting} + $f->{running} + $f->{settled}
           && $f;
}

# nginx's own processes and offloadd.

sub pids {
    my ($self) = @_;

    return ($self->{nginx}->pids, $self->worker_pid || ());
}

# A pid read from shared memory is believed if it runs our program.

sub worker_pid {
    my ($self) = @_;

    return 0 unless -e "$self->{zone}/zone.v1";

    my $pid = eval { $self->figures->{worker} } or return 0;
    my $exe = readlink("/proc/$pid/exe") // '';

    return $exe eq $self->{b}{worker} ? $pid : 0;
}

sub stop {
    my ($self) = @_;

    return unless delete $running{ $self->{zone} };

    my $worker = $self->worker_pid;

    # nginx first: it would start a worker that has gone again

    $self->{nginx}->stop if $self->{nginx};

    if ($worker) {
        kill 'TERM', $worker;

        eval { wait_until(10, 'offloadd ends', sub { !kill 0, $worker }) }
            or kill 'KILL', $worker;
    }

    File::Path::remove_tree($self->{zone});
}

sub stop_all {
    $_->stop for values %running;
}

1;
