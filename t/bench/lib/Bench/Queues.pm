package Bench::Queues;

# What people have today: nginx that puts requests into a Redis stream, and
# beanstalkd, both told to sync before they answer.  Each function measures
# one of them once, with its data in the directory given.

use strict;
use warnings;

use Bench qw(run_quiet);
use Bench::Build ();
use Bench::Nginx ();
use Bench::Service ();
use Bench::Wrk ();

my @REDIS_MODULES = map { "/usr/lib/nginx/modules/$_" }
                        qw(ndk_http_module.so ngx_http_lua_module.so);

# Why one can't be measured, or undef.

sub missing_redis {
    return program('redis-server') // file(@REDIS_MODULES);
}

sub missing_beanstalkd {
    return program('beanstalkd');
}

# Redis syncs once for all that came in one turn of its loop.  No snapshots
# and no rewriting of the log beside: both would cost it.

sub redis {
    my ($b, $dir, $connections, $size, $cpus) = @_;

    my $redis = redis_server($b, $dir, 'always', $cpus);
    my $nginx = redis_client($b, $b->{port}, 'enqueue.lua', $cpus);

    my $r = Bench::Wrk::load($b, $nginx, path => '/work', cpus => $cpus,
                             connections => $connections,
                             env => { BENCH_BODY => $size });
    my $log = $nginx->log;

    $nginx->stop;
    $redis->stop;

    die "the Redis path failed $r->{bad} times\n$log" if $r->{bad};

    return $r;
}

sub redis_server {
    my ($b, $dir, $sync, $cpus) = @_;

    my $socket = "$b->{tmp}/redis.sock";

    return Bench::Service->start($b, name => 'redis', cpus => $cpus,
        socket => $socket, cmd => ['redis-server', '--port', 0,
            '--unixsocket', $socket, '--dir', $dir, '--daemonize', 'no',
            '--appendonly', 'yes', '--appendfsync', $sync, '--save', '',
            '--auto-aof-rewrite-percentage', 0]);
}

# nginx whose /work is that script, which talks to it.

sub redis_client {
    my ($b, $port, $script, $cpus) = @_;

    return Bench::Nginx->start($b, name => 'lua', port => $port,
        load => \@REDIS_MODULES, cpus => $cpus, http => <<EOF);
    server {
        listen  127.0.0.1:$port;

        client_body_buffer_size  16m;
        client_max_body_size     16m;

        location /work {
            set                  \$redis $b->{tmp}/redis.sock;
            content_by_lua_file  $b->{here}/$script;
        }

        location = /empty {
            return 202;
        }
    }
EOF
}

# beanstalkd syncs for each job.  No HTTP here: bodies of the same size.

sub beanstalkd {
    my ($b, $dir, $connections, $size, $cpus) = @_;

    my $load = Bench::Build::helper($b, 'beanstalk');
    my $socket = "$b->{tmp}/beanstalkd.sock";
    my $service = Bench::Service->start($b, name => 'beanstalkd',
        cpus => $cpus, socket => $socket,
        cmd => ['beanstalkd', '-l', "unix:$socket", '-b', $dir, '-f0',
                '-z', 1024 * 1024]);

    my $r = Bench::Wrk::figures('beanstalk',
        run_quiet("$b->{tmp}/beanstalk.log", 'taskset', '-c', $cpus, $load,
                  $socket, $connections, $size, $b->{seconds}));

    $service->stop;

    # its socket stays
    unlink $socket;

    die "beanstalkd failed $r->{bad} times\n" if $r->{bad};

    return $r;
}

sub program {
    my ($name) = @_;

    return undef if grep { -x "$_/$name" } split /:/, $ENV{PATH};
    return "$name is not installed";
}

sub file {
    my @missing = grep { !-e } @_;

    return @missing ? "no @missing" : undef;
}

1;
