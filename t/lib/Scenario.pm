package Scenario;

# Short stories, each about one step that keeps a job: what is accepted, where
# somebody dies or is stopped, and what must be true at the end.  t/mutants.t
# runs each twice, in a process of its own: as it is, and with that step left
# out (OFFLOAD_MUTANT), which the story must notice.
#
#     OFFLOAD_MUTANT=drain.known perl -It/lib -MScenario -e run reread
#
# One job at a time runs at the backend where the order tells: when a later
# one is done, an earlier one that was not seen is lost, not late.

use strict;
use warnings;

use Exporter qw(import);
use File::Path ();
use JSON::PP;
use Offload;
use Test::More;

require ScenarioHooks;                          # more of them

our @EXPORT = qw(run);

my $back;


sub run { my $story = Scenario->can("story_$ARGV[0]") or die "no $ARGV[0]\n";
          $back = Backend->start;
          $story->();
          Offload::finish_all() }


sub stories { grep { s/^story_// } sort keys %Scenario:: }


# An nginx of one worker, without an offloadd: the story starts it.

sub zone {
    my ($mode, %o) = @_;
    my $zone = 'jobs 16m lanes=4 concurrency=1 path=%%ZONE%%';
    my ($patient, $hasty) = ('', '');

    if ($mode eq 'disk') {
        $zone .= ' store=' . ($o{store} // '%%PREFIX%%/store')
                 . ' durability=disk';
        $patient = 'offload_accept_timeout 30s;';
        $hasty = 'offload_accept_timeout 300ms;';
    }

    my $n = Offload->new(backend => $back, workers => 1, worker => 'off',
        build => Offload::failpoints_dir(), main => 'env OFFLOAD_MUTANT;',
        zone => $zone, http => <<"EOT", %o);
server {
    listen 127.0.0.1:%%PORT%% reuseport;
    client_max_body_size 64m;
    $patient
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /hasty/ { $hasty offload jobs; proxy_pass http://%%BACKEND%%; }
    location /once/ {
        offload_delivery at-most-once;
        offload jobs;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT

    $n->allow(qr/worker process \d+ exited on signal 9/);

    return $n->start;
}


sub seen { my ($uri) = @_;
           return grep { $_->{uri} eq $uri } $back->journal(
               event => 'request') }


# Sends and does not wait for the answer; the record is in the ring.

sub post {
    my ($n, $uri, $body) = @_;
    my $before = $n->figures->{accepted};
    my $s = Http::dial($n->port) or die "dial: $!\n";

    Http::write_all($s, Http::bytes(POST => $uri, body => $body // 'x'));
    Offload::wait_until(20, sub { $n->figures->{accepted} > $before })
        or fail("$uri is submitted");

    return $s;
}


sub told { my ($s) = @_; Http::response($s, deadline => 30)->{status} }


# It dies at that place.

sub dies_at {
    my ($n, $place) = @_;
    my $pid = $n->by_hand($place);

    Offload::wait_until(20, sub { waitpid($pid, POSIX::WNOHANG()) == $pid })
        or fail("offloadd dies at $place");
}


sub end { my ($pid) = @_; kill 'KILL', $pid; waitpid $pid, 0 }


# A worker process of nginx dies; the next one has its place.

sub replace_worker {
    my ($n) = @_;
    my ($old) = $n->workers;

    kill 'KILL', $old;
    Offload::wait_until(20, sub {
        my ($new) = $n->workers;

        $new && $new != $old }) or fail('nginx has a new worker');
}


# nginx dies, and what was not on a disk is gone.

sub lose_zone {
    my ($n, $meanwhile) = @_;
    my $master = $n->master;
    my @pids = ($master, $n->children('.', $master));

    kill 'KILL', @pids;
    Offload::wait_until(20, sub { !grep { Offload::alive($_) } @pids });
    unlink "$n->{prefix}/nginx.pid";
    File::Path::remove_tree($n->{zone_dir});
    $meanwhile->() if $meanwhile;
    $n->start;
}


# Whatever came before it has had its turn when this one is done.

sub turn {
    my ($n, $name) = @_;
    my $job = $n->submit(POST => "/turn/" . $name =~ tr/ /-/r, body => 'x');

    is $job && $n->settled($job)->{status}, 'completed',
        "$name: one that comes later is done";
}


# ---- from the ring into the store

# Killed before the commit: the record is in the ring still.

sub story_uncommitted {
    my $n = zone('memory');

    is told(post($n, '/first')), 202, 'accepted';
    dies_at($n, 'store.before-commit');
    $n->by_hand;
    turn($n, 'killed before the commit');
    is scalar(seen('/first')), 1, 'what was accepted is done';
}


# Killed after it: the record is read again.

sub story_reread {
    my $n = zone('memory');

    is told(post($n, '/first')), 202, 'accepted';
    dies_at($n, 'drain.after-commit');
    $n->by_hand;
    turn($n, 'killed after the commit');
    is scalar(seen('/first')), 1, 'what was accepted is done once';
}


# A slot in use is none that was never submitted.

sub story_slots {
    my $n = zone('memory');

    $n->by_hand;

    my @socks = map { post($n, "/slots/$_?gate=slots") } 1 .. 3;

    is told($_), 202, 'accepted' for @socks;
    Offload::wait_until(20, sub { !$n->figures->{bytes} })
        or fail('all are stored');
    replace_worker($n);
    ok Offload::wait_until(20, sub {
        Offload::job($n->request(POST => '/slots/4', body => 'x')) }),
        'another worker takes the lane';
    unlike $n->log, qr/left [1-9]\d* jobs it never submitted/,
        'and drops nothing';
    $back->open_gate('slots');
    turn($n, 'slots');
    Offload::wait_until(20, sub { !$n->figures->{slots} })
        or fail('all are settled');
    is scalar(grep { seen("/slots/$_?gate=slots") } 1 .. 3), 3,
        'all are done';
}


# Two workers of nginx write into two lanes: each into its own.

sub story_lanes {
    my $n = zone('memory', workers => 2);
    my @uris = map { "/lanes/$_" } 1 .. 80;

    # by the second half both of them have a lane
    for my $half ([ @uris[0 .. 39] ], [ @uris[40 .. 79] ]) {
        my @socks = map { Http::dial($n->port) // die "dial: $!\n" } @$half;

        Http::write_all($socks[$_], Http::bytes(POST => $half->[$_],
                                                body => 'x')) for 0 .. 39;
        is scalar(grep { told($_) == 202 } @socks), 40, 'accepted by either';
    }

    is $n->figures->{accepted}, 80, 'as many are in the rings';
    $n->by_hand;
    Offload::wait_until(30, sub {
        $n->worker_log =~ /corrupt/
        || !grep { my $uri = $_; !seen($uri) } @uris });
    is scalar(map { seen($_) } @uris), 80, 'all are done';
}


# The sweep at a start finds the body of a job that is in the ring.

sub story_sweep {
    my $n = zone('memory');
    my $r = Http::response(post($n, '/body', Backend::content(900_000)));

    $n->by_hand;

    my $doc = $n->settled(Offload::job($r));

    is $doc->{status}, 'completed', 'its body was there'
        or diag explain $doc;
}


# A ring with jobs in it is not given up for another geometry.

sub story_owed {
    my $n = zone('memory');
    my $old = $n->{zone};

    is told(post($n, '/owed')), 202, 'accepted';
    $n->stop;
    $n->allow(qr/accepted jobs that are not stored yet/);
    $n->write_conf(zone => $old =~ s/16m/24m/r);
    $n->start(may_fail => 1);
    ok !$n->master, 'another size is refused while jobs wait in the ring';
    return if $n->master;
    $n->write_conf(zone => $old);
    $n->start;
    $n->by_hand;
    turn($n, 'owed');
    is scalar(seen('/owed')), 1, 'and the job is done';
}


# ---- one who gives up

# Withdrawn while nobody was there.

sub story_withdrawn {
    my $n = zone('disk');

    is told(post($n, '/hasty/none')), 503, 'nobody there: 503';
    $n->by_hand;
    turn($n, 'withdrawn');
    is scalar(seen('/hasty/none')), 0, 'after a 503 it is not run';
}


# Stored, not promised: the offloadd that stored it is stopped, or dies.

sub story_undone {
    my $n = zone('disk');
    my $pid = $n->by_hand('claim.commit.before:1s');

    is told(post($n, '/hasty/stopped')), 0, 'not in time: no answer';
    kill 'CONT', $pid;
    turn($n, 'stopped');
    end($pid);
    $n->by_hand;
    turn($n, 'started again');
    is scalar(seen('/hasty/stopped')), 0, 'withdrawn, it is not run';
}


sub story_withdrawn_dead {
    my $n = zone('disk');
    my $s = post($n, '/hasty/dead');

    dies_at($n, 'claim.commit.before');
    is told($s), 0, 'it died: no answer';
    $n->by_hand;
    turn($n, 'died');
    is scalar(seen('/hasty/dead')), 0, 'withdrawn, it is not run';
}


# The answer for somebody else, who died: the tokens are the same.

sub story_late {
    my $n = zone('disk');

    my $gone = post($n, '/gone');

    replace_worker($n);

    my $s = post($n, '/mine', Backend::content(900_000));

    # what comes to nothing
    is unlink(grep { -f } glob "$n->{prefix}/store/spool/*"), 1, 'its body';
    $n->by_hand;
    is told($s), 503, 'nobody is told another one\'s answer';
    turn($n, 'late');
    is scalar(seen('/gone')), 1, 'who waits no more has a job all the same';
}


# ---- attempts and results

sub recovered { $_[0]->worker_log =~ /msg=recovered jobs=(\d+)/g }


# Killed at its first attempt, and at its second.

sub story_attempts {
    my $n = zone('memory');
    my $uri = '/twice?gate=twice';
    my $pid = $n->by_hand;
    my $job = $n->submit(POST => $uri, body => 'x');

    for my $kills (1, 2) {
        Offload::wait_until(20, sub { seen($uri) == $kills })
            or fail("attempt $kills");
        end($pid);
        $pid = $n->by_hand;
        Offload::wait_until(20, sub { (() = recovered($n)) > $kills })
            or fail('recovery says what it did');
        is +(recovered($n))[-1], 1, 'what was running waits again';
        return if !Test::More->builder->is_passing;
    }

    Offload::wait_until(20, sub { seen($uri) == 3 });
    is join(' ', map { $_->{attempt} } seen($uri)), '1 2 3',
        'each attempt has a number of its own';
    $back->open_gate('twice');
    is $n->settled($job)->{attempts}, 3, 'and is counted';
    turn($n, 'attempts');
    ok Offload::wait_until(10, sub { !$n->figures->{slots} }),
        'all slots come back';
}


sub story_torn {
    my $n = zone('memory');

    $n->by_hand;

    my $size = 200_000;
    my ($r, $doc) = $n->through(POST => "/half?close=body&size=$size&cut=1",
                                body => 'x');

    is $doc->{attempts}, 2, 'an answer that is cut is none';
    ok $r->{body} eq Backend::content($size), 'the next one is kept, whole';
}


# At most once: an attempt that was begun and has no answer is the last.

sub story_once {
    my $n = zone('memory');
    my $pid = $n->by_hand;
    my @jobs = map { $n->submit(POST => $_, body => 'x') }
               '/once/cut?close=body&size=9000&cut=1', '/once/kill?gate=once';

    Offload::wait_until(20, sub { seen('/once/kill?gate=once') })
        or fail('the second one runs');
    end($pid);
    $n->by_hand;
    $back->open_gate('once');

    for my $job (@jobs) {
        my $doc = $n->settled($job);

        is "$doc->{status} " . ($doc->{error}{code} // ''), 'failed lost',
            'it is lost, and says so';
        is scalar($back->journal(event => 'request', job => $job->{id})), 1,
            'and is not repeated';
    }
}


# A second offloadd of a zone has nothing to do there.

sub story_alone {
    my $n = zone('memory');

    $n->by_hand;

    my $job = $n->submit(POST => '/alone?gate=alone', body => 'x');

    Offload::wait_until(20, sub { seen('/alone?gate=alone') });

    my $second = $n->by_hand;
    my $ended;

    Offload::wait_until(20, sub {
        $ended ||= waitpid($second, POSIX::WNOHANG()) == $second;
        $ended || seen('/alone?gate=alone') > 1 });
    ok $ended, 'a second offloadd ends at once';
    is scalar(seen('/alone?gate=alone')), 1, 'and runs nothing';
    $back->open_gate('alone');
    is $n->settled($job)->{attempts}, 1, 'the first goes on';
}


# One that was stopped finds its store with another, and changes nothing.

sub story_overtaken {
    my $n = zone('memory', zone => 'jobs 16m concurrency=1 path=%%ZONE%% '
                                   . 'store=%%PREFIX%%/s');
    my $uri = '/overtaken?gate=overtaken';
    my $first = $n->by_hand;
    my $job = $n->submit(POST => $uri, body => 'x');

    Offload::wait_until(20, sub { seen($uri) }) or fail('it runs');
    kill 'STOP', $first;
    lose_zone($n);
    $n->by_hand;
    Offload::wait_until(20, sub { seen($uri) == 2 }) or fail('it runs again');
    kill 'CONT', $first;
    $back->open_gate('overtaken');

    my $left;

    Offload::wait_until(20, sub {
        $left ||= waitpid($first, POSIX::WNOHANG()) == $first;
        $left || $n->worker_log =~ /left as it is in the store/ });
    ok $left, 'the first one leaves before it asks for anything';
    is $n->settled($job)->{attempts}, 2, 'the second one\'s attempt counts';
}


# ---- commands

sub command {
    require Command;

    my $n = zone('memory', http => <<'EOT');
offload_queue do zone=jobs {
    exec       /usr/bin/perl %%PREFIX%%/do;
    exec_env   MARKS=%%PREFIX%%/marks;
    exec_limit memory=300m cpu=9s files=32;
}
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload do; }
    location /jobs/ { offload_status jobs; }
}
EOT

    Command::install($n, 'do');

    return $n;
}


# What it is started with is what it is to have, and its exit code counts.

sub story_command {
    my $n = command();

    {
        local $^F = 1000;                       # not closed at exec

        open my $ours, '<', $n->{conf} or die "$n->{conf}: $!\n";
        $n->by_hand;
    }

    my $r = ($n->through(POST => '/?do=look', body => 'x'))[0];
    my $seen = eval { decode_json($r->{body}) } // {};

    is join(' ', sort keys %{ $seen->{fds} // {} }), '0 1 2',
        'no descriptor that offloadd was started with';
    like $seen->{sig}{SigBlk} // '', qr/^0+$/, 'no signal is blocked';
    $r = ($n->through(POST => '/?do=limits'))[0];

    my $limits = eval { decode_json($r->{body}) } // {};

    is join(' ', map { $_ // '' } @$limits{'Max address space', 'Max cpu time',
                                           'Max open files'}),
        (300 << 20) . ' 9 32', 'its limits';
    is $n->settled($n->submit(POST => '/?do=exit&code=3'))->{status}, 'failed',
        'an exit code';
}


# Its children end with it; who does not want to is made to.

sub story_children {
    require Clock;

    my $n = command();
    my $clock = Clock->new($n);

    $n->by_hand(undef, $clock->env);
    is(($n->through(POST => '/?do=child&mark=left'))[0]{body}, 'done',
        'one leaves a child');
    ok Command::gone(Command::mark($n, 'left.child')), 'which goes with it';

    my $job = $n->submit(POST => '/?do=wait&deaf=1&fork=1&mark=deaf');
    my @pids = map { Command::mark($n, "deaf.$_") } qw(ready child);

    $n->request(DELETE => $job->{path});
    ok Command::gone($pids[1]), 'a child is told to end with its parent';
    ok Offload::alive($pids[0]), 'who is deaf';
    $clock->ahead(6);
    ok Command::gone($pids[0]), 'and is killed';
}


# offloadd is killed while the command's process is not the program yet.

sub story_orphan {
    my $n = command();

    for my $place ('exec.session', 'exec.child') {
        my $pid = $n->by_hand("$place:1s");
        my ($child, $name) = (undef, $place =~ s/\W/-/r);

        my $job = $n->submit(POST => "/?do=wait&mark=$name&gate=$name");

        Offload::wait_until(20, sub {
            ($child) = grep { (Offload::parent($_) // 0) == $pid
                              && stopped($_) } Offload::pids();
            $child }) or fail("it stops at $place");
        end($pid);
        kill 'CONT', $child if $place eq 'exec.session';
        ok Command::gone($child), "$place: it goes as well";
        return if !Test::More->builder->is_passing;
        $pid = $n->by_hand;
        ok Command::mark($n, "$name.ready"), 'and is begun again';
        Command::open_gate($n, $name);
        is $n->settled($job)->{attempts}, 2, 'as the second attempt';
        end($pid);
    }
}


# ---- with a disk that fails and forgets (t/lib/Disk.pm)

sub disk { require Disk; return Disk->new }


# The power goes right after the 202.

sub story_power {
    my $disk = disk();
    my $n = zone('disk', $disk->under, store => $disk->{dir});
    my $pid = $n->by_hand;
    my $large = Backend::content(900_000);
    my @uris = map { "/power/$_?gate=power" } 1, 2;
    my @socks = (post($n, $uris[0]), post($n, $uris[1], $large));

    is told($_), 202, 'accepted' for @socks;

    end($pid);
    lose_zone($n, sub { $disk->cut(keep => 'none') });
    $back->open_gate('power');
    $n->by_hand;
    turn($n, 'power');

    my @seen = map { (seen($_))[-1] } @uris;

    is $seen[0]{attempt}, 2, 'a job that ran is there, and runs again';
    is $seen[1]{length}, length $large, 'and one that waited, with its body';
}


# A commit that fails is made again, with all that was in it.

sub story_failing {
    my $disk = disk();
    my $n = zone('memory', $disk->under,
        zone => "jobs 16m concurrency=1 path=%%ZONE%% store=$disk->{dir}");

    # the first commit has it
    is told(post($n, '/failing')), 202, 'accepted';

    my $pid = $n->by_hand('store.before-commit:1s');

    Offload::wait_until(20, sub { stopped($pid) }) or fail('it stops');

    my $rule = $disk->fail(write => 'EIO', path => 'store.mdb', times => 1);

    kill 'CONT', $pid;
    turn($n, 'failing');
    is $disk->hits($rule), 1, 'after a commit that failed';
    is scalar(seen('/failing')), 1, 'what was accepted is done';
}


sub stopped { my ($pid) = @_;
              return (eval { Offload::read_file("/proc/$pid/stat") } // '')
                     =~ /\) T / }

1;
