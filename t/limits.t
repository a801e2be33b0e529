# Limits are where promises break: a zone that is full must refuse and forget
# nothing, a request as large as nginx takes must survive its replay too, and
# thousands of slow jobs at a time are what the whole thing is for.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Report;
use Test::More;
use Time::HiRes qw(time);

# the backend holds a connection for each job

if (`sh -c 'ulimit -n'` < 6000 && !$ENV{OFFLOAD_RAISED}) {
    $ENV{OFFLOAD_RAISED} = 1;
    exec 'sh', '-c', 'ulimit -n $(ulimit -H -n); exec "$@"', 'sh', $^X, $0;
}

my $b = Backend->start;


# the zone is full: 64 slots, and nobody takes the jobs out

for my $case ([ 'slots', 'jobs 2m path=%%ZONE%% lanes=2 slots=64', 10 ],
              [ 'bytes', 'jobs 4m path=%%ZONE%% lanes=2', 50_000 ])
{
    my ($what, $zone, $size) = @$case;
    my $n = Offload->new(backend => $b, workers => 1, zone => $zone)->start;
    my $pid = $n->offloadd;
    my (@jobs, $full);

    Offload::freeze($pid);

    for my $i (1 .. 100_000) {
        my $r = $n->request('POST', "/full/$what/$i", body => 'f' x $size);

        if (my $job = Offload::job($r)) {
            push @jobs, $job;
        } else {
            $full = $r;
            last;
        }
    }

    Offload::problem($full, 503, "$what: full after " . @jobs . ' jobs: 503');
    like $full->{h}{'retry-after'} // '', qr/^[1-9]\d*$/,
        "$what: Retry-After";
    ok !exists $full->{h}{location}, "$what: no Location";
    cmp_ok scalar(@jobs), '>=', 3, "$what: not full at once";
    is scalar(grep { $n->get($_->{path})->{status} == 202 } @jobs),
        scalar @jobs, "$what: all that were accepted can be asked for";
    is $n->request('POST', "/full/$what/big",
                   body => 'f' x 5_000_000)->{status}, 503,
        "$what: a body for the spool is refused too" if $what eq 'slots';

    kill 'CONT', $pid;
    is scalar(grep { $n->settled($_)->{status} eq 'completed' } @jobs),
        scalar @jobs, "$what: all of them complete";
    is $n->settled($n->submit(POST => "/full/$what/after", body => 'x'))
        ->{status}, 'completed', "$what: and new ones are accepted again";

    my %seen;

    $seen{$_->{uri}}++ for grep { $_->{uri} =~ m{^/full/$what/} }
                           $b->journal(event => 'request');
    is scalar(keys %seen), @jobs + 1, "$what: what was refused never ran";
    is_deeply [ glob "$n->{zone_dir}/store/spool/*" ],
        [ "$n->{zone_dir}/store/spool/tmp" ], "$what: and left no file";
    $n->finish;
}


# more jobs than slots, all waiting: depth is the store's

{
    my $n = Offload->new(backend => $b, workers => 1,
        zone => 'jobs 2m path=%%ZONE%% lanes=2 slots=64 concurrency=1')
        ->start;

    my $first = $n->submit(POST => '/deep/0?gate=deep', body => 'x');

    $b->wait_for(1, event => 'request', job => $first->{id});

    my @jobs;

    for my $i (1 .. 500) {
        my $job;

        Offload::wait_until(10, sub {
            $job = Offload::job($n->request('POST', "/deep/$i",
                                            body => 'x')) }) or last;
        push @jobs, $job;
    }

    is scalar(@jobs), 500, 'more jobs wait than there are slots';
    is scalar(grep { $n->get($_->{path})->{status} == 202 } @jobs), 500,
        'and each can be asked for';
    is $n->request('DELETE', $jobs[250]{path})->{status}, 200,
        'and canceled';

    my @at = map { $n->status($_)->{queue_position} // 0 } @jobs[10, 400];

    ok $at[0] < $at[1], "queue_position: @at" if $at[0] && $at[1];
    $b->open_gate('deep');
    is $n->settled($jobs[-1], deadline => 60)->{status}, 'completed',
        'the last one completes';
    is scalar(grep { $n->settled($_)->{status} eq 'completed' } @jobs), 499,
        'and all others but the canceled one';

    my @order = map { $_->{uri} =~ m{^/deep/(\d+)} ? $1 : () }
                $b->journal(event => 'request');

    is_deeply \@order, [ grep { $_ != 251 } 0 .. 500 ],
        'in the order they came';
    $n->finish;
}


# headers that nginx takes, and the rings of a small zone do not

{
    my $n = Offload->new(backend => $b, zone => 'jobs 2m lanes=2 path=%%ZONE%%',
        http => <<'EOT')->start;
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 4m;
    large_client_header_buffers 8 64k;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
    my @large = map { ("Offload-Header-X-$_" => 'v' x 60_000) } 1 .. 4;
    my $r = $n->request(POST => '/431', body => 'x', headers => [
        map { s/^Offload-Header-//r } @large ]);
    my $doc = Offload::problem($r, 431, 'headers too large for the zone: 431');

    like $doc->{type}, qr/:header-fields-too-large$/, '.. by its type';
    is $n->counters->{accepted}, 0, '.. there is no job';

    my $job = $n->submit(POST => '/431?status=202&h=Offload-Defer:1',
                         body => 'x');
    my $at = Report::place($b, $job);

    ok Offload::wait_until(20, sub {
        $n->worker_log =~ /msg=deferred job=$job->{id}/ }), 'deferred';

    for my $size (10, 2_000_000) {
        $r = Report::put($n, $at, 'y' x $size, headers => [ @large ]);
        $doc = Offload::problem($r, 431,
            "the same with a result of $size bytes that is put: 431");
        like $doc->{type}, qr/:header-fields-too-large$/, '.. by its type';
    }

    is $n->status($job)->{status}, 'running', '.. the job runs on';
    is_deeply [ glob "$n->{zone_dir}/store/{spool/tmp,blobs}/*" ], [],
        '.. no file is left';
    is Report::put($n, $at, 'end', headers => [ @large[0, 1] ])->{status}, 204,
        'with less it is put';
    is length $n->result($job)->{h}{'x-1'}, 60_000, '.. as it was';
    $n->finish;
}


# headers as large as nginx takes them

{
    my $n = Offload->new(backend => $b, zone => 'jobs 32m path=%%ZONE%%',
        http => <<'EOT')->start;
proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT2%%;
    client_header_buffer_size 256;
    large_client_header_buffers 2 512;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
    my $probe = sub {
        my ($name, $port, @make) = @_;
        my ($accepted, @failed) = (0);

        for my $make (@make) {
            my ($uri, @headers) = @$make;
            my $r = $n->request('POST', $uri, headers => \@headers,
                                body => 'x', to => $port);

            if ($r->{status} != 202) {
                push @failed, "refused with $r->{status}"
                    if $r->{status} !~ /^(?:400|414|431|494)$/;
                next;
            }

            $accepted++;

            my $job = Offload::job($r);
            my $doc = $n->settled($job, to => $port);
            my ($seen) = $b->journal(event => 'request', job => $job->{id});
            my %have = map { ("$_->[0]: $_->[1]" => 1) }
                       @{ $seen->{headers} // [] };

            push @failed, "$doc->{status} " . ($doc->{error}{message} // '')
                if ($doc->{status} // '') ne 'completed';
            push @failed, 'another URI' if ($seen->{uri} // '') ne $uri;

            while (my ($k, $v) = splice @headers, 0, 2) {
                push @failed, "lost $k of " . length $v if !$have{"$k: $v"};
            }
        }

        ok $accepted && !@failed, "$name: what is accepted ($accepted of "
            . @make . ') also survives its replay' or diag "@failed";
        cmp_ok $accepted, '<', scalar @make, "$name: up to nginx's limit";
    };

    $probe->('a long URI', $n->port,
             map { [ '/' . 'u' x $_ ] } 1000, 8000, 8160 .. 8180, 9000);
    $probe->('a long header', $n->port,
             map { [ '/l', 'X-Long' => 'v' x $_ ] }
             1000, 8000, 8170 .. 8190, 9000);
    $probe->('long headers', $n->port,
             map { my $n = $_; [ '/ll', map { ("X-Long-$_" => 'v' x 8000) }
                                        1 .. $n ] } 1 .. 6);
    $probe->('many headers', $n->port,
             map { my $n = $_; [ '/m', map { ("X-$_" => $_) } 1 .. $n ] }
             100, 1000, 2000, 20_000);
    $probe->('all of it', $n->port,
             map { [ '/' . 'u' x 8100, 'X-A' => 'a' x 8100,
                     'X-B' => 'b' x 8100, 'X-C' => 'c' x $_ ] }
             100, 7000, 7900 .. 7910, 8100, 9000);
    $probe->('small buffers', $n->port(2),
             map { [ '/s' . 'u' x $_, 'X-A' => 'a' x $_ ] }
             10, 100, 200, 300, 400, 450 .. 520);
    $n->finish;
}


# thousands at a time

{
    my $count = Offload::asan() ? 600 : 2000;
    my $n = Offload->new(backend => $b,
        zone => "jobs 64m path=%%ZONE%% concurrency=$count",
        main => 'worker_rlimit_nofile ' . (`sh -c 'ulimit -H -n'` =~ /^(\d+)/
                && $1 < 16384 ? $1 : 16384) . ';')->start;
    my $from = time;
    my $s = Http::dial($n->port);
    my @jobs;

    # over kept connections, a hundred requests each as nginx allows
    while (@jobs < $count) {
        $s = Http::dial($n->port) if @jobs % 500 == 0;
        Http::write_all($s, Http::bytes('POST', '/slow?gate=slow',
                                        body => 'x' x 100));

        my $job = Offload::job(Http::response($s)) or last;

        push @jobs, $job;
    }

    is scalar(@jobs), $count, "$count jobs accepted";
    ok $b->wait_for($count, event => 'request', uri => '/slow?gate=slow',
                    deadline => 60),
        "$count are with the backend at the same time"
        or diag scalar $b->journal(event => 'request',
                                   uri => '/slow?gate=slow');
    cmp_ok scalar($n->offloadds), '==', 1, 'by one process';

    my ($threads) = Offload::read_file('/proc/' . $n->offloadd . '/status')
                    =~ /^Threads:\s+(\d+)/m;

    cmp_ok $threads, '<=', 3, "with $threads threads";
    $b->open_gate('slow');
    is scalar(grep { $n->settled($_, deadline => 60)->{status} eq
                     'completed' } @jobs), $count, 'and all complete';
    note sprintf '%d jobs in %.1f s', $count, time - $from;
    is scalar($b->journal(event => 'request', uri => '/slow?gate=slow')),
        $count, 'each was run once';
    $n->finish;
}

# an answer that can not be kept now is worth another attempt

SKIP: {
    skip 'the directory must not belong to root', 3 if $> != 0;

    my $n = Offload->new(backend => $b)->start;

    $n->offloadd;

    my $blobs = "$n->{zone_dir}/store/blobs";
    my $job = $n->submit(GET => '/large?size=300000&gate=room');

    $b->wait_for(1, event => 'request', job => $job->{id});
    chmod 0, $blobs;
    $b->open_gate('room');
    ok Offload::wait_until(20, sub {
        $n->worker_log =~ /attempt=1 .*could not be kept: Permission/ }),
        'an answer that finds no room is logged';
    chmod 0700, $blobs;

    my $doc = $n->settled($job);

    is "$doc->{status} $doc->{attempts}", 'completed 2', 'asked for again';
    is length($n->result($job)->{body}), 300_000, 'and kept';
    $n->finish;
}

Offload::finish_all();
