package Offload;

# The harness: a real nginx with its master, workers and helper, the module
# and offloadd, in a directory of its own; what a test needs to drive them;
# and, at the end of every test, the checks that no test may forget: all
# processes have gone, all that was accepted is accounted for, and no log has
# an [alert], an [emerg] or a sanitizer's report in it.
#
#     my $b = Backend->start;
#     my $n = Offload->new(backend => $b, http => '...')->start;
#     my $job = $n->submit(POST => '/x', body => 'hello');
#     is $n->settled($job)->{status}, 'completed';
#
# Configurations may say %%PORT%%, %%PORT2%% .., %%BACKEND%%, %%PREFIX%%,
# %%ZONE%% (a directory with a short name: sockets are in it).  OFFLOAD_BUILD
# says which build is tested: build, build/asan.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Copy ();
use File::Path ();
use File::Temp ();
use JSON::PP;
use POSIX ();
use Test::More;
use Time::HiRes qw(time sleep);

use Backend;
use Http;
use Ports;
use parent qw(Counters Logs);
use Util qw(alive freeze parent pids read_file title wait_until
            write_file);

our $ROOT = abs_path(dirname(__FILE__) . '/../..');
our $USER = 'www-data';

my @all;
my $owner = $$;

$SIG{PIPE} = 'IGNORE';

# told to end, or with nobody reading any more, it still clears up
$SIG{$_} = sub { exit 1 if $$ == $owner; POSIX::_exit(1) }
    for qw(HUP INT TERM);


sub import {
    strict->import;
    warnings->import;
}


sub build_dir { abs_path($ENV{OFFLOAD_BUILD} // "$ROOT/build") }
sub asan { build_dir() =~ m{/asan$} }

# with named places to die at
sub failpoints_dir { asan() ? build_dir() : build_dir() . '/failpoints' }


my $SERVER = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT


# Options: http (what stands in http{}), main, events, zone (the arguments
# of offload_zone; undef for none), workers, backend, worker (the value of
# offload_worker), worker_env and build (of offloadd), name, count (0: without
# the counters' server and check).

sub new {
    my ($class, %o) = @_;
    my $self = bless {
        workers => 2, zone => 'jobs 16m path=%%ZONE%%', main => '',
        events => '', http => $SERVER, extra => '', allow => [], %o }, $class;
    my $asan = asan();

    $self->{prefix} = File::Temp::tempdir('ofl-t-XXXXXX', TMPDIR => 1);
    $self->{shm} = File::Temp::tempdir('/dev/shm/ofl-XXXXXX');
    chmod 0755, @$self{qw(prefix shm)};
    $self->{zone_dir} = "$self->{shm}/z";

    # offloadd where nginx's user can reach it, wherever the tree is
    my $build = abs_path($self->{build} // build_dir());

    $self->{module} = "$build/ngx_http_offload_module.so";
    $self->{program} = "$self->{prefix}/offloadd";
    File::Copy::copy("$build/offloadd", $self->{program})
        or BAIL_OUT("$build/offloadd: $!: run make first");
    chmod 0755, $self->{program};

    my %env = %{ $self->{worker_env} // {} };

    if ($asan) {
        my $supp = "$self->{prefix}/san/offloadd";

        mkdir "$self->{prefix}/san";            # for nginx's user, too
        chmod 01777, "$self->{prefix}/san";
        $env{ASAN_OPTIONS} //= "detect_leaks=1:log_path=$supp";
        $env{UBSAN_OPTIONS} //= "print_stacktrace=1";
    }

    $self->{start_script} = $self->{program};

    if (%env) {
        my $script = "$self->{prefix}/start-offloadd";

        write_file($script, "#!/bin/sh\n"
            . join('', map { "export $_='$env{$_}'\n" } sort keys %env)
            . "exec $self->{program} \"\$@\"\n");
        chmod 0755, $script;
        $self->{start_script} = $script;
    }

    $self->{worker} //= $self->{start_script};
    $self->write_conf;
    push @all, $self;

    return $self;
}


sub port { $_[0]{ports}{ $_[1] // '' } //= Ports::pick() }


sub expand {
    my ($self, $text) = @_;

    $text =~ s/%%PORT(\d*)%%/$self->port($1)/ge;
    $text =~ s/%%BACKEND%%/$self->{backend} ? $self->{backend}{http}
                                            : '127.0.0.1:1'/ge;
    $text =~ s/%%(FASTCGI|SCGI|UWSGI)%%/$self->{backend}{lc $1}/ge;
    $text =~ s/%%PREFIX%%/$self->{prefix}/g;
    $text =~ s/%%SHM%%/$self->{shm}/g;
    $text =~ s/%%ZONE%%/$self->{zone_dir}/g;

    return $text;
}


# Writes nginx.conf anew; options replace those given to new().

sub write_conf {
    my ($self, %o) = @_;

    @$self{keys %o} = values %o;

    my $p = $self->{prefix};
    my $user = $> == 0 ? "user $USER;" : '';
    my $zone = defined $self->{zone} ? "offload_zone $self->{zone};" : '';
    my $worker = $self->{worker} eq '' ? ''
                                       : "offload_worker $self->{worker};";
    my $temp = join '', map { "    ${_}_temp_path $p/tmp-$_;\n" }
               grep { $self->{http} !~ /\b${_}_temp_path\b/ }
               qw(client_body proxy fastcgi uwsgi scgi);

    my $http = $self->expand($self->{http});
    my $counters = $self->counters_server($zone, $http);

    $self->{conf} = "$p/nginx.conf";
    write_file($self->{conf}, $self->{whole} // $self->expand(<<"EOT"));
load_module $self->{module};
$user
worker_processes $self->{workers};
error_log $p/error.log info;
pid $p/nginx.pid;
$self->{main}
events {
    worker_connections 4096;
    $self->{events}
}
http {
    access_log $p/access.log;
$temp
    $worker
    $zone
$http
$counters
}
EOT

    return $self;
}


# ---- running

sub command {
    my ($self, @args) = @_;
    my @nginx = ($self->{nginx} // 'nginx', '-p', "$self->{prefix}/",
                 '-c', $self->{conf}, '-e', "$self->{prefix}/error.log");

    if (asan()) {
        my $pre = join ':', map { chomp(my $f = `gcc -print-file-name=$_`); $f }
                  qw(libasan.so libubsan.so);

        unshift @nginx, 'env', "LD_PRELOAD=$pre", 'ASAN_OPTIONS=detect_leaks=0'
            . ":log_path=$self->{prefix}/san/nginx", 'UBSAN_OPTIONS='
            . 'print_stacktrace=1';
    }

    return (@nginx, @args);
}


# Runs nginx with these arguments: (exit code, its output).

sub run {
    my ($self, @args) = @_;
    my $out = "$self->{prefix}/command.out";
    my $pid = fork // die "fork: $!\n";

    if (!$pid) {
        open STDOUT, '>', $out;
        open STDERR, '>&', \*STDOUT;
        open STDIN, '<', '/dev/null';
        exec $self->command(@args) or POSIX::_exit(127);
    }

    waitpid $pid, 0;

    return ($? >> 8 || $? & 127, read_file($out));
}


sub start {
    my ($self, %o) = @_;
    my ($code, $out) = $self->run;

    if ($code != 0) {
        return (undef, $out) if $o{may_fail};
        diag($out, $self->log_tail);
        BAIL_OUT("nginx did not start ($code)") if !@{ $self->{allow} };
        die "nginx did not start\n";
    }

    $self->{running} = 1;
    wait_until(10, sub { $self->master }) or die "no master\n";

    for my $port (read_file($self->{conf}) =~ /listen 127\.0\.0\.1:(\d+)/g) {
        wait_until(10, sub { Http::dial($port) }) or diag("port $port: $!");
    }

    return $self;
}


sub master {
    my ($self) = @_;
    my $pid = eval { read_file("$self->{prefix}/nginx.pid") } // '';

    return $pid =~ /^(\d+)$/ && alive($1) ? $1 : undef;
}


# nginx's processes by what their title says: worker, cache manager

sub children {
    my ($self, $title, $master) = @_;

    $master //= $self->master or return;

    return grep { (parent($_) // 0) == $master && title($_) =~ /$title/ }
           pids();
}


sub workers { $_[0]->children('worker process$', $_[1]) }


# All processes of offloadd that have this zone, wherever they came from.

sub offloadds {
    my ($self) = @_;

    return grep { title($_) =~ m{offloadd -c \Q$self->{shm}\E/} } pids();
}


# The one worker of the zone, once it has taken the zone up.

sub offloadd {
    my ($self, %o) = @_;
    my $zone = $o{zone} // $self->{zone_dir};
    my $found;

    wait_until($o{deadline} // 20, sub {
        my ($fh, $raw);

        open $fh, '<:raw', "$zone/zone.v1" or return;
        seek $fh, 2048 + 4, 0;
        return if read($fh, $raw, 4) != 4;

        my $pid = unpack 'L', $raw;

        return if $o{not} && $pid == $o{not};
        ($found) = grep { $_ == $pid } $self->offloadds;
        $found;
    });

    return $found;
}


# For a zone with offload_worker off: offloadd as nginx would start it, or one
# that dies at a named place.  Its pid: a child of the test's.

sub by_hand {
    my ($self, $failpoint, %env) = @_;

    # the policy names what a worker may not run without
    wait_until(10, sub { -e "$self->{zone_dir}/policy.json" });

    my $pid = fork // die "fork: $!\n";

    if (!$pid) {
        open STDERR, '>>', "$self->{prefix}/by-hand.log";
        open STDOUT, '>&', \*STDERR;
        $ENV{OFFLOAD_FAILPOINT} = $failpoint if $failpoint;
        @ENV{keys %env} = values %env;
        exec(($> == 0 ? ('setpriv', "--reuid=$USER", "--regid=$USER",
                         '--clear-groups') : ()),
             $self->{start_script}, '-c', "$self->{zone_dir}/policy.json")
            or POSIX::_exit(127);
    }

    return $pid;
}


sub policy {
    my ($self, $zone) = @_;

    $zone //= $self->{zone_dir};

    return decode_json(read_file("$zone/policy.json"));
}


# Reloads and waits until only new workers are there and serving; false, when
# nginx refused the new configuration.

sub reload {
    my ($self, %o) = @_;
    my %old = map { $_ => 1 } $self->workers;
    my $mark = length $self->log;

    kill 'HUP', $self->master;

    return wait_until($o{deadline} // 20, sub {
        my $since = substr $self->log, $mark;

        return 1 if $since =~ /\[emerg\]/;
        return 0 if $since !~ /start worker process/;

        my @new = grep { !$old{$_} } $self->workers;

        return @new >= $self->{workers}
               && !grep { $o{drain} // 1 ? alive($_)
                                         : title($_) =~ /worker process$/ }
                  keys %old;
    }) && substr($self->log, $mark) !~ /\[emerg\]/;
}


# Stops nginx, and then offloadd unless told to leave it.

sub stop {
    my ($self, %o) = @_;

    if (my $master = $self->master) {
        my @pids = ($master, $self->children('.', $master));

        kill $o{signal} // 'QUIT', $master;

        if (!wait_until($o{deadline} // 20,
                        sub { !grep { alive($_) } @pids }))
        {
            fail("nginx stopped in time: " . join ', ',
                 map { "$_ " . title($_) } grep { alive($_) } @pids);
            kill 'KILL', @pids;
            wait_until(5, sub { !grep { alive($_) } @pids });
        }
    }

    delete $self->{running};
    return 1 if $o{keep_worker};

    return $self->stop_offloadd;
}


# One that is about to be executed is not in the list yet: none must be seen
# five times in a row.

sub stop_offloadd {
    my ($self, %o) = @_;
    my ($none, %told) = (0);
    my @pids;

    if (!wait_until(20, sub {
        @pids = $self->offloadds;
        kill $o{signal} // 'TERM', $_ for grep { !$told{$_}++ } @pids;
        $none = @pids ? 0 : $none + 1;
        $none >= 5 }))
    {
        fail("offloadd stopped in time: @pids");
        kill 'KILL', @pids;
        return 0;
    }

    return 1;
}


# ---- HTTP

sub request {
    my ($self, $method, $uri, %o) = @_;

    return Http::request(delete $o{to} // $self->port, $method, $uri, %o);
}


sub get { my ($self, $uri, %o) = @_; $self->request('GET', $uri, %o) }


# Posts a job; it must be accepted.  The job: id, path, url, doc, answer.

sub submit {
    my ($self, $method, $uri, %o) = @_;
    my $name = delete $o{name};
    my $r = $self->request($method, $uri, %o);
    my $job = job($r);

    if (!$job || $name) {
        ok($job, $name // "$method $uri is accepted")
            or diag("answer: ", ($r->{error} // ''), ($r->{head} // ''),
                    $r->{body} // '', "\n", $self->log_tail);
    }

    return $job;
}


# What a 202 says, or undef.

sub job {
    my ($r) = @_;

    return if $r->{status} != 202;

    my $url = $r->{h}{location} // return;
    my ($path, $id) = $url =~ m{^https?://[^/]+(/.*/([0-9a-z]{26}))$}
        or return;

    return { id => $id, path => $path, url => $url, answer => $r,
             doc => scalar eval { decode_json($r->{body}) } };
}


sub status {
    my ($self, $job, %o) = @_;
    my $r = $self->get(ref $job ? $job->{path} : $job, %o);

    return eval { decode_json($r->{body}) } // {};
}


# The document of the job once `status` is one of those, else the last one.

sub wait_status {
    my ($self, $job, $want, %o) = @_;
    my $doc;

    wait_until(delete $o{deadline} // 30, sub {
        $doc = $self->status($job, %o);
        ($doc->{status} // '') =~ /^(?:$want)$/;
    });

    return $doc;
}


sub settled { my ($self, $job, %o) = @_;
              $self->wait_status($job, 'completed|failed|canceled', %o) }


sub result {
    my ($self, $job, %o) = @_;

    return $self->get("$job->{path}/result", %o);
}


# Submits, waits, and returns (result, document, job).

sub through {
    my ($self, $method, $uri, %o) = @_;
    my $job = $self->submit($method, $uri, %o) or return;
    my $doc = $self->settled($job);

    return ($self->result($job), $doc, $job);
}


# The same for one that answers with what it received: the backend's view.

sub echoed {
    my ($self, $method, $uri, %o) = @_;
    my ($r, $doc, $job) = $self->through($method, $uri, %o) or return {};
    my $seen = eval { decode_json($r->{body}) }
               // do { diag("status $r->{status}: $r->{body}"); {} };

    $seen->{h} = { map { lc $_->[0] => $_->[1] } @{ $seen->{headers} // [] } };

    return wantarray ? ($seen, $doc, $job, $r) : $seen;
}


# Is this answer a problem document with that status? (RFC 9457)

sub problem {
    my ($r, $status, $name) = @_;
    my $doc = eval { decode_json($r->{body}) } // {};

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok($r->{status} == $status
       && ($r->{h}{'content-type'} // '') eq 'application/problem+json'
       && ($doc->{status} // 0) == $status && length($doc->{title} // ''),
       $name) or diag($r->{error} // '', $r->{head} // '', $r->{body});

    return $doc;
}


# ---- the end

# Call it last: stops everything and says whether it went well.

sub finish {
    my ($self) = @_;

    return if $self->{finished}++;

    $self->check_conserved;
    $self->stop;

    my @bad = $self->bad_lines;

    ok(!@bad, 'no alert and no sanitizer report in a log')
        or diag(join "\n", @bad[0 .. ($#bad > 20 ? 20 : $#bad)]);
}


sub finish_all {
    $_->finish for @all;
    done_testing();
}


END {
    if ($$ == $owner) {
        my $code = $?;

        for my $self (@all) {
            next if !$self->{prefix} || !-d $self->{prefix};

            # a test that died half-way leaves nothing running
            my @pids = $self->offloadds;

            push @pids, $_, $self->children('.', $_)
                for grep { title($_) =~ m{master .* \Q$self->{prefix}\E/} }
                    pids();

            kill 'KILL', @pids if @pids;

            if (($code || !Test::More->builder->is_passing)
                && $ENV{OFFLOAD_KEEP})
            {
                diag("kept: $self->{prefix} $self->{shm}");
                next;
            }

            diag($self->log_tail) if $code && !$self->{finished};
            wait_until(5, sub { !grep { alive($_) } @pids });
            File::Path::remove_tree($self->{prefix}, $self->{shm});
        }

        $? = $code;
    }
}

1;
