# Anything may die at any moment: offloadd, nginx's workers, all of nginx.
# What was accepted must still be done, each attempt counted, nothing lost and
# nothing invented.  The backend's journal is the witness.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Offload;
use Test::More;
use Time::HiRes qw(time sleep);

my $back = Backend->start;
my $n = Offload->new(backend => $back)->start;
my $serial = 0;


sub post {
    my ($count, $query) = @_;

    return map {
        my $body = "job $serial " . 'x' x ($serial % 9 ? 100 : 700_000);
        my $job = $n->submit(POST => '/job/' . $serial++ . "?$query",
                             body => $body);

        $job->{sha} = sha256_hex($body) if $job;
        $job // ();
    } 1 .. $count;
}


# All are done; the backend has seen each, whole, and as often as it says.

sub all_done {
    my ($name, @jobs) = @_;
    my (%seen, @wrong);

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my @docs = map { $n->settled($_, deadline => 90) } @jobs;

    for ($back->journal(event => 'request')) {
        push @{ $seen{ $_->{job} // '' } }, $_;
    }

    for my $i (0 .. $#jobs) {
        my ($job, $doc) = ($jobs[$i], $docs[$i]);
        my @requests = @{ $seen{$job->{id}} // [] };
        my @attempts = map { $_->{attempt} } @requests;
        my $last = $attempts[-1] // 0;

        push @wrong, "$job->{id}: " . ($doc->{status} // 'none')
            if ($doc->{status} // '') ne 'completed';
        push @wrong, "$job->{id}: never at the backend" if !@requests;
        push @wrong, "$job->{id}: attempts $doc->{attempts}, seen @attempts"
            if $last > ($doc->{attempts} // 0)
               || join(' ', @attempts) ne join ' ', sort { $a <=> $b }
                  keys %{{ map { $_ => 1 } @attempts }};
        push @wrong, "$job->{id}: another body"
            if grep { $_->{sha} ne $job->{sha} } @requests;
    }

    ok !@wrong, "$name: all " . @jobs . ' jobs completed, every attempt '
        . 'counted' or diag join "\n", @wrong[0 .. ($#wrong > 9 ? 9 : $#wrong)];
}


# offloadd killed, again and again, while jobs come in and run

{
    my @jobs;
    my $pid = $n->offloadd;

    for my $round (1 .. 4) {
        push @jobs, post(40, 'delay=30');
        kill 'KILL', $pid;
        push @jobs, post(20, 'delay=5');
        $pid = $n->offloadd(not => $pid) or last;
    }

    ok $pid, 'offloadd comes back after each kill';
    all_done('offloadd killed', @jobs);

    my $held = $n->submit(POST => '/held?gate=a', body => 'x');

    $back->wait_for(1, event => 'request', job => $held->{id});
    kill 'KILL', $pid;
    $pid = $n->offloadd(not => $pid);
    $back->wait_for(2, event => 'request', job => $held->{id});
    $back->open_gate('a');
    is $n->settled($held)->{attempts}, 2,
        'the attempt that the kill ended is counted';
}


# an nginx worker killed while it serves replays

{
    $n->allow(qr/worker process \d+ exited on signal 9/);

    my @jobs = post(30, 'delay=300');
    my ($victim) = $n->workers;

    $back->wait_for(5, event => 'request');
    kill 'KILL', $victim;
    push @jobs, grep { $_ } map {
        Offload::job($n->request('POST', '/job/during?delay=10', body => 'x'))
    } 1 .. 20;
    $_->{sha} //= sha256_hex('x') for @jobs;

    ok Offload::wait_until(10, sub { $n->workers == 2 }), 'nginx has a new one';
    all_done('an nginx worker killed', @jobs);
}


# reloads under load: no request fails

{
    my $log = "$n->{prefix}/load";
    my $port = $n->port;
    my $parent = $$;
    my $child = fork // die;

    if (!$child) {
        open my $fh, '>', $log;
        $SIG{TERM} = sub { close $fh; POSIX::_exit(0) };
        $fh->autoflush(1);

        while (getppid == $parent) {
            my $r = Http::request($port, 'POST', '/load?delay=20',
                                  body => 'load');
            my $job = Offload::job($r);

            print $fh $job ? "$job->{id} $job->{path}\n"
                           : 'failed: ' . ($r->{error} // $r->{status}) . "\n";
        }
    }

    my $ok = 0;

    for (1 .. 4) {
        $ok++ if $n->reload;
    }

    Offload::wait_until(10, sub { -s $log && `wc -l < $log` > 100 });
    kill 'TERM', $child;
    waitpid $child, 0;
    is $ok, 4, 'four reloads under load';

    my @lines = split /\n/, Offload::read_file($log);
    my @failed = grep { /^failed/ } @lines;

    is_deeply \@failed, [], 'no request failed of ' . @lines;
    all_done('reloads', map { /^(\S+) (\S+)$/ ? { id => $1, path => $2,
                              sha => sha256_hex('load') } : () } @lines);
}


# a reload with replays running: they are finished by the old workers, or
# attempted again

{
    my @jobs = post(8, 'gate=r');

    Offload::wait_until(10, sub {
        8 == grep { $_->{uri} =~ /gate=r$/ } $back->journal(event => 'request')
    });
    ok $n->reload(drain => 0), 'reload while jobs run';
    $back->open_gate('r');
    all_done('running over a reload', @jobs);
    ok Offload::wait_until(20, sub { $n->workers == 2 }), 'old workers go';
}


# everything stopped with jobs queued and running, and started again

for my $signal ('QUIT', 'TERM', 'KILL') {
    my @jobs = post(30, "gate=$signal");
    my @pids = ($n->master, $n->workers, $n->children('manager'));

    $back->wait_for(1, event => 'request');

    if ($signal eq 'KILL') {
        kill 'KILL', @pids, $n->offloadds;
        Offload::wait_until(10, sub {
            !grep { Offload::alive($_) } @pids, $n->offloadds });
        unlink "$n->{prefix}/nginx.pid";

    } else {
        # a graceful stop waits for requests: offloadd's end them first
        kill 'TERM', $n->offloadds if $signal eq 'TERM';
        kill $signal, $n->master;
        $n->stop_offloadd;
        ok Offload::wait_until(30, sub {
            !grep { Offload::alive($_) } @pids }), "$signal: nginx stops";
        $n->stop_offloadd;
    }

    ok -e "$n->{zone_dir}/zone.v1", "$signal: the zone stays";
    $n->start;

    my @states = map { $n->status($_)->{status} // 'none' } @jobs;

    is scalar(grep { /^(?:queued|running)$/ } @states), 30,
        "$signal: after the start all jobs are known";
    $back->open_gate($signal);
    all_done("stopped by $signal", @jobs);
}


# a backend that hangs up is tried again, and in the end given up on

my $cut = $n->submit(POST => '/cut?cut=2', body => 'x');
my $doc = $n->settled($cut, deadline => 60);

is $doc->{status}, 'completed', 'nginx\'s 502 is no cut: '
    . ($doc->{error}{code} // 'completed')
    if $doc->{status} eq 'completed';
ok $doc->{status} eq 'completed' || $doc->{error}{code} eq 'backend_status',
    'a backend that hangs up: nginx answers for it, or it is tried again'
    or diag explain $doc;

for my $how ('body', 'head') {
    my $job = $n->submit(POST => "/half?close=$how&size=200000", body => 'x');

    $doc = $n->settled($job, deadline => 90);
    is $doc->{status}, 'failed', "an answer cut in its $how: failed";
    is $doc->{error}{code}, 'cut_off', 'as cut_off';
    is $doc->{attempts}, 5, 'after five attempts';
    is scalar($back->journal(event => 'request', job => $job->{id})), 5,
        'that the backend saw';
}

Offload::finish_all();
