package Bench::Nginx;

# One nginx of the benchmark: master, a worker process unless there are more,
# everything in a directory of its own.

use strict;
use warnings;

use IO::Socket::INET ();
use POSIX ();

use Bench qw(slurp spew wait_until);

my %running;

# http: the text inside http{}; port: what answers when it is up.  cpu: the
# cpu its worker is pinned to; cpus: the ones all of it may use; connections:
# as many as it may have; workers: processes, 1 if it isn't given.

sub start {
    my ($class, $b, %opt) = @_;

    my $dir = "$b->{tmp}/$opt{name}";
    mkdir $dir;
    mkdir "$dir/logs";

    my $self = bless { dir => $dir, port => $opt{port} }, $class;

    die "something listens on 127.0.0.1:$opt{port} already\n"
        if IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                 PeerPort => $opt{port}, Timeout => 5);

    spew("$dir/error.log", '');
    spew("$dir/nginx.conf", conf($dir, %opt));

    my @cmd = ('nginx', '-p', "$dir/", '-c', "$dir/nginx.conf",
               '-e', "$dir/error.log");

    unshift @cmd, 'taskset', '-c', $opt{cpus} if defined $opt{cpus};

    $self->{pid} = fork() // die "fork: $!\n";

    if ($self->{pid} == 0) {
        POSIX::setpgid(0, 0);
        open STDOUT, '>', "$dir/out.log" or die "$dir/out.log: $!\n";
        open STDERR, '>&', \*STDOUT or die "stderr: $!\n";
        exec { $cmd[0] } @cmd or die "$cmd[0]: $!\n";
    }

    $running{ $self->{pid} } = $self;

    # the worker is up when it has answered something: a large ring takes it
    # a second or two

    wait_until(60, "$opt{name} does not answer\n" . $self->log, sub {
        die "$opt{name} has gone\n" . slurp("$dir/out.log") . $self->log
            if waitpid($self->{pid}, POSIX::WNOHANG()) != 0;
        return eval { $self->get('/empty')->{code} };
    });

    ($self->{worker}) = grep { cmdline($_) =~ /^nginx: worker process/ }
                             children($self->{pid});

    die "$opt{name} has no worker process\n" unless $self->{worker};

    return $self;
}

sub conf {
    my ($dir, %opt) = @_;

    my $connections = $opt{connections} || 4096;
    my $workers = $opt{workers} || 1;
    my $main = join '', map { "load_module $_;\n" } @{ $opt{load} || [] };

    $main .= "worker_rlimit_nofile $connections;\n" if $opt{connections};
    $main .= "user root;\n" if $> == 0;
    $main .= 'worker_cpu_affinity ' . '1' . '0' x $opt{cpu} . ";\n"
        if defined $opt{cpu};

    return <<EOF;
$main
daemon            off;
pid               $dir/nginx.pid;
worker_processes  $workers;

events {
    worker_connections  $connections;
}

http {
    access_log                 off;
    error_log                  $dir/error.log warn;
    keepalive_requests         1000000000;
    client_body_temp_path      $dir/body;
    proxy_temp_path            $dir/proxy;
    fastcgi_temp_path          $dir/fastcgi;
    uwsgi_temp_path            $dir/uwsgi;
    scgi_temp_path             $dir/scgi;
$opt{http}
}
EOF
}

sub log {
    my ($self) = @_;

    return slurp("$self->{dir}/error.log");
}

# A request on a connection of its own: code, head and body as they came.

sub request {
    my ($self, $method, $path, $body) = @_;

    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                  PeerPort => $self->{port}, Timeout => 5)
        or die "connect to 127.0.0.1:$self->{port}: $!\n";

    my $length = defined $body ? 'Content-Length: ' . length($body) . "\r\n"
                               : '';

    print $s "$method $path HTTP/1.1\r\nHost: 127.0.0.1:$self->{port}\r\n",
             "Connection: close\r\n$length\r\n", $body // '';

    local $/;
    my ($head, $text) = split /\r\n\r\n/, scalar <$s> // '', 2;
    my ($code) = ($head // '') =~ m{^HTTP/1\.1 (\d{3})};

    die "no answer to $method $path\n" unless $code;

    return { code => $code, head => $head, body => $text // '' };
}

sub get {
    my ($self, $path) = @_;

    return $self->request('GET', $path);
}

# A worker process that has seen nothing yet; the old one may have to stay.

sub renew {
    my ($self) = @_;

    my $old = $self->{worker};

    kill 'HUP', $self->{pid};

    $self->{worker} = wait_until(60, 'there is a new worker', sub {
        my ($new) = grep { $_ != $old
                           && cmdline($_) =~ /^nginx: worker process(?! is)/ }
                    children($self->{pid});

        return cmdline($old) !~ /^nginx: worker process(?! is)/ && $new;
    });
}

# All processes that came of this nginx and are still its children.

sub pids {
    my ($self) = @_;

    return ($self->{pid}, children($self->{pid}));
}

sub stop {
    my ($self) = @_;

    return unless delete $running{ $self->{pid} };

    for my $signal ('TERM', 'KILL') {
        kill $signal, $self->{pid};
        return if eval {
            wait_until(10, 'nginx ends', sub {
                waitpid($self->{pid}, POSIX::WNOHANG()) != 0;
            });
        };
    }
}

sub stop_all {
    $_->stop for values %running;
}

sub children {
    my ($pid) = @_;

    return split ' ', eval { slurp("/proc/$pid/task/$pid/children") } // '';
}

sub cmdline {
    my ($pid) = @_;

    return eval { slurp("/proc/$pid/cmdline") } // '';
}

1;
