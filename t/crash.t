# Killed at a random moment, a process is nearly always asleep.  The moments
# that matter are between two stores to shared memory, before and after a
# commit, between a file's write and its rename: each has a name in the code
# (ZONE_FAILPOINT), and here offloadd, nginx's workers and its master die at
# each of them.  Afterwards nothing that was accepted may be lost, torn, or
# run more often than its attempts say.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Offload;
use Test::More;

my $back = Backend->start;
my $build = Offload::failpoints_dir();

plan skip_all => "$build: run make failpoints first"
    if !-e "$build/offloadd" && !$ENV{OFFLOAD_BUILD};

my $serial = 0;


sub offloadd {
    my ($n, $failpoint) = @_;

    # the policy names what a worker may not run without
    Offload::wait_until(10, sub { -e "$n->{zone_dir}/policy.json" });

    my $pid = fork // die;

    if (!$pid) {
        open STDERR, '>>', "$n->{prefix}/by-hand.log";
        open STDOUT, '>&', \*STDERR;
        $ENV{OFFLOAD_FAILPOINT} = $failpoint if $failpoint;
        exec(($> == 0 ? ('setpriv', "--reuid=$Offload::USER",
                         "--regid=$Offload::USER", '--clear-groups') : ()),
             $n->{start_script}, '-c', "$n->{zone_dir}/policy.json")
            or POSIX::_exit(127);
    }

    return $pid;
}


sub ended {
    my ($pid, $seconds) = @_;
    my $got = Offload::wait_until($seconds, sub {
        waitpid($pid, POSIX::WNOHANG()) == $pid });

    return $got ? $? & 127 : -1;
}


sub post {
    my ($n, $count, %o) = @_;

    return map {
        my $i = $serial++;
        my $body = "job $i " . 'y' x ($o{large} ? 900_000 : 200);
        my $uri = "/crash/$i?" . ($o{query} // '');
        my $job = Offload::job($n->request('POST', $uri, body => $body,
                                           deadline => 15));

        $job ? { %$job, uri => $uri, sha => sha256_hex($body) } : ();
    } 1 .. $count;
}


# What is wrong with these jobs, in the end?

sub wrong {
    my ($n, $want, @jobs) = @_;
    my (@wrong, %seen);

    my %doc = map { $_->{id} => $n->settled($_, deadline => 30) } @jobs;

    push @{ $seen{$_->{job} // ''} }, $_
        for $back->journal(event => 'request');

    for my $job (@jobs) {
        my $doc = $doc{$job->{id}};
        my @attempts = map { $_->{attempt} } @{ $seen{$job->{id}} // [] };

        push @wrong, "$job->{uri} is " . ($doc->{status} // 'lost')
                     . ' ' . ($doc->{error}{code} // '')
            if ($doc->{status} // '') !~ /^(?:$want)$/;
        push @wrong, "$job->{uri}: seen @attempts of " .
                     ($doc->{attempts} // 0)
            if grep({ $_ > ($doc->{attempts} // 0) } @attempts)
               || @attempts > ($doc->{attempts} // 0);
        push @wrong, "$job->{uri}: another body"
            if grep { $_->{sha} ne $job->{sha} } @{ $seen{$job->{id}} // [] };
        push @wrong, "$job->{uri}: never run"
            if !@attempts && ($doc->{status} // '') eq 'completed';
    }

    my $c = $n->counters;

    return @wrong, $c ? Counters::unaccounted($c) : 'no counters';
}


# ---- offloadd

my @places = map { /ZONE_FAILPOINT\("([^"]+)"\)/g }
             map { Offload::read_file($_) }
             glob "$Offload::ROOT/src/worker/*.c";

push @places, qw(slot.write.before slot.write.done slot.put.mid slot.put.state
                 slot.free.before slot.free.noted slot.free.mid slot.free.done
                 cq.post.mid cq.post.done sq.release.before sq.release.after);

my %done;

@places = grep { !$done{$_}++ } @places;

{
    my $n = Offload->new(backend => $back, build => $build, worker => 'off',
        zone => 'jobs 16m path=%%ZONE%% ttl=1h')->start;
    my $soon = Offload->new(backend => $back, build => $build, workers => 1,
        worker => 'off', zone => 'jobs 16m path=%%ZONE%% ttl=1s')->start;

    for my $place (@places) {
        my $expire = $place =~ /^expire/;
        my $n = $expire ? $soon : $n;

        # some wait in the ring when it starts, or in the store
        my @jobs = post($n, 3);

        if ($place =~ /^recover/) {
            my $pid = offloadd($n);

            push @jobs, post($n, 3, query => "gate=$place");
            $back->wait_for(1, event => 'request', job => $jobs[-1]{id});
            kill 'KILL', $pid;
            waitpid $pid, 0;
        }

        my $pid = offloadd($n, "$place:"
                           . ($place =~ /^recover|after-commit$/ ? 1 : 2));

        # what comes now comes in a batch of its own
        Offload::wait_until(5, sub {
            !$n->figures->{bytes} || !Offload::alive($pid) });

        push @jobs, post($n, 2);
        push @jobs, post($n, 2, large => 1);
        push @jobs, post($n, 2, query => 'size=300000&chunked=1');
        push @jobs, post($n, 2, query => 'close=body&size=9000&cut=1');

        my @doomed = post($n, 2, query => "gate=never-$place");

        for my $job (@doomed) {
            # it may die at this: then there is no answer
            $n->request('DELETE', $job->{path}, deadline => 8)
                if $place =~ /^(?:cancel|cq)/;
        }

        my $signal = ended($pid, 8);

        is $signal, 9, "$place: offloadd dies there";
        kill 'KILL', $pid if $signal == -1;
        waitpid $pid, 0 if $signal == -1;
        $back->open_gate($place) if $place =~ /^recover/;

        $pid = offloadd($n);

        for my $job (@doomed) {
            Offload::wait_until(10, sub {
                $n->request('DELETE', $job->{path})->{status}
                    =~ /^(?:200|410)$/ });
        }

        my @wrong = $expire ? () : (wrong($n, 'completed', @jobs),
                                    wrong($n, 'canceled', @doomed));

        ok !@wrong, "$place: and the next one finishes everything"
            or diag join "\n", @wrong;

        if ($expire) {
            my @left = grep { !Offload::wait_until(15, sub {
                $n->get($_->{path})->{status} == 410 }) } @jobs;

            is scalar(@left), 0, "$place: and all of them expire";
        }

        kill 'TERM', $pid;
        is ended($pid, 20), 0, "$place: and stops";
    }

    $n->finish;
    $soon->finish;
}


# ---- nginx's workers

for my $place (qw(slot.fill.before slot.fill.mid slot.fill.done
                  sq.reserve.done sq.publish.noted sq.publish.before
                  sq.publish.after sq.publish.done cq.pop.mid
                  lane.repair.freed lane.repair.counted lane.repair.dropped
                  lane.repair.done))
{
    my $repair = $place =~ /^lane/;
    my $n = Offload->new(backend => $back, build => $build, workers => 1);
    my $failing = sub {
        $n->write_conf(main => $_[0] ? "env OFFLOAD_FAILPOINT=$_[0];" : '');
    };

    $n->allow(qr/worker process \d+ exited on signal 9/);
    $failing->($repair ? 'sq.publish.after:3' : "$place:3");
    $n->start;

    my @jobs = post($n, 8);

    if ($place =~ /^cq/) {
        for my $job (post($n, 6, query => 'gate=cq')) {
            $n->request('DELETE', $job->{path}, deadline => 10);
        }
    }

    my $died = sub { () = $n->log =~ /exited on signal 9/g };

    ok Offload::wait_until(10, sub { $died->() }),
        "$place: a worker dies" . ($repair ? ' with something to repair'
                                           : ' there');

    if ($repair) {

        # the new worker repairs the lane, and dies at that; each of its
        # successors too, until the configuration is another one
        my $before = $died->();

        $failing->("$place:1");
        kill 'HUP', $n->master;
        ok Offload::wait_until(15, sub { $died->() > $before }),
            "$place: and the next at repairing";
    }

    $failing->();
    ok $n->reload, "$place: a reload makes an end of it";

    my @later = post($n, 4);
    my @wrong = wrong($n, 'completed', @jobs, @later);

    is scalar(@later), 4, "$place: afterwards jobs are accepted";
    ok !@wrong, "$place: what was accepted (" . @jobs . ') completes'
        or diag join "\n", @wrong;

    $back->open_gate('cq');
    $n->finish;
}


# ---- the master, while it makes a zone

{
    my $n = Offload->new(backend => $back, build => $build);
    my @create = map { /ZONE_FAILPOINT\("([^"]+)"\)/g }
                 Offload::read_file("$Offload::ROOT/src/zone/zone_create.c");

    for my $place (@create) {
        local $ENV{OFFLOAD_FAILPOINT} = $place;

        my ($code) = $n->run;

        is $code, 9, "$place: the master dies there";
        unlink "$n->{zone_dir}/zone.v1" if $place !~ /renamed/;
    }

    $n->start;
    is $n->settled($n->submit(POST => '/x', body => 'x'))->{status},
        'completed', 'and the next start finds nothing in its way';
    is_deeply [ grep { /\.(?:new|tmp)|zone\.v1./ } glob "$n->{zone_dir}/*" ],
        [], 'and leaves nothing behind';
    $n->finish;
}

Offload::finish_all();
