# A worker that is stopped is not dead: the kernel keeps its locks, and it may
# go on at any time.  When the zone was lost meanwhile and made anew, another
# worker has its jobs.  Whatever the first one then holds in its hands, an
# answer, a transaction, a list of files to remove, must change nothing any
# more.  And two zones that were given one store by mistake must not fight.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use File::Path ();
use JSON::PP;
use Offload;
use POSIX ();
use Test::More;

my $build = Offload::failpoints_dir();

plan skip_all => "$build: run make failpoints first"
    if !-e "$build/offloadd" && !$ENV{OFFLOAD_BUILD};

my $back = Backend->start;
my $gates = 0;
my @left;


sub instance {
    my (%o) = @_;

    return Offload->new(backend => $back, build => $build, workers => 1,
        worker => 'off', zone => 'jobs 16m path=%%ZONE%% store=%%PREFIX%%/s',
        %o)->start;
}


sub offloadd {
    my ($n, %env) = @_;

    Offload::wait_until(10, sub { -e "$n->{zone_dir}/policy.json" });

    my $pid = fork // die;

    if (!$pid) {
        open STDERR, '>>', "$n->{prefix}/by-hand.log";
        open STDOUT, '>&', \*STDERR;
        @ENV{keys %env} = values %env;
        exec(($> == 0 ? ('setpriv', "--reuid=$Offload::USER",
                         "--regid=$Offload::USER", '--clear-groups') : ()),
             $n->{start_script}, '-c', "$n->{zone_dir}/policy.json")
            or POSIX::_exit(127);
    }

    return $pid;
}


sub exit_code {
    my ($pid) = @_;
    my $got = Offload::wait_until(20, sub {
        waitpid($pid, POSIX::WNOHANG()) == $pid });

    return $got ? $? & 127 ? "signal " . ($? & 127) : $? >> 8 : 'none';
}


sub is_stopped { (Util::stat_of($_[0]))[0] =~ /[Tt]/ }


# nginx dies, its tmpfs is emptied, nginx starts

sub lose_zone {
    my ($n) = @_;
    my @pids = ($n->master, $n->children('.'));

    kill 'KILL', @pids;
    Offload::wait_until(10, sub { !grep { Offload::alive($_) } @pids });
    File::Path::remove_tree($n->{zone_dir});
    unlink "$n->{prefix}/nginx.pid";
    $n->start;
}


sub attempts { [ map { $_->{attempt} }
                 $back->journal(event => 'request', job => $_[0]{id}) ] }
sub blobs { [ map { m{([^/]+)$} } glob "$_[0]{prefix}/s/blobs/$_[1]{id}*" ] }


my $n = instance();


# Stopped in the middle of attempts, with an answer of nginx's to read.

for my $alone (0, 1) {
    my $how = $alone ? 'the store alone tells it' : 'stopped';
    my $gate = 'gate' . $gates++;
    my $first = offloadd($n, $alone ? (OFFLOAD_MUTANT => 'loop.replaced')
                                    : ());
    my $small = $n->submit(POST => "/small?gate=$gate", body => 'x');
    my $large = $n->submit(POST => "/large?size=100000&gate=$gate");
    my $doomed = $n->submit(POST => "/doomed?gate=$gate");

    $back->wait_for(1, event => 'request', job => $_->{id})
        for $small, $large, $doomed;
    kill 'STOP', $first;
    $back->open_gate($gate);
    $back->wait_for(1, event => 'done', job => $_->{id}) for $small, $large;
    lose_zone($n);

    my $second = offloadd($n);

    is $n->settled($_)->{attempts}, 2, "$how: another worker goes on"
        for $small, $large;
    $n->settled($doomed);
    $n->request('DELETE', $doomed->{path});

    my @before = map { JSON::PP->new->canonical->encode($n->status($_)) }
                 $small, $large, $doomed;

    kill 'CONT', $first;
    is exit_code($first), 3, "$how: the first one leaves, saying why";

    # the one that is stopped on its way to the store may ask that first
    my $taken = qr/taken over by another worker.* worker=$second /;

    like $n->worker_log, $alone ? $taken : qr/$taken|was made anew/,
        'in the log, too';

    is_deeply [ map { JSON::PP->new->canonical->encode($n->status($_)) }
                $small, $large, $doomed ], \@before,
        "$how: the documents are the second one's";

    my %h = map { lc $_->[0] => $_->[1] }
            @{ decode_json($n->result($small)->{body})->{headers} };

    is $h{'offload-attempt'}, 2, "$how: its result";
    ok $n->result($large)->{body} eq Backend::content(100_000),
        "$how: its large result";
    is_deeply [ grep { /\.2$/ } @{ blobs($n, $large) } ],
        [ "$large->{id}.2" ], 'in a file of its own';
    push @left, map { "$n->{prefix}/s/blobs/$_->{id}.1" } $large, $doomed;
    is_deeply attempts($_), [ 1, 2 ], 'the backend has seen two attempts'
        for $small, $large;
    is $n->settled($n->submit(POST => '/later'))->{status}, 'completed',
        'and the second one goes on';
    kill 'TERM', $second;
    is exit_code($second), 0, 'until it is stopped';
}


# Runs the worker up to a named place, where it stops; then the zone is lost.

sub stopped_at {
    my ($place, $work) = @_;
    my $pid = offloadd($n, OFFLOAD_FAILPOINT => "$place:1s");
    my @jobs = $work ? $work->() : ();

    ok Offload::wait_until(20, sub { is_stopped($pid) }),
        "$place: a worker is stopped there";
    lose_zone($n);

    return ($pid, @jobs);
}


# Between the commit of an attempt and its request: that is not sent any more.

{
    my $zeroth = offloadd($n);
    my $job = $n->submit(POST => '/held?gate=held');

    $back->wait_for(1, event => 'request', job => $job->{id});
    kill 'KILL', $zeroth;
    exit_code($zeroth);

    my ($first) = stopped_at('attempt.after-commit');
    my $second = offloadd($n);

    $back->wait_for(2, event => 'request', job => $job->{id});
    kill 'CONT', $first;
    is exit_code($first), 3, 'a committed attempt: its worker leaves';
    $back->open_gate('held');
    is $n->settled($job)->{attempts}, 3, 'it counts';
    is_deeply attempts($job), [ 1, 3 ], 'and is not made';
    kill 'TERM', $second;
    is exit_code($second), 0, 'the second one stops';
}


# Inside a transaction, with LMDB's mutex: the next one waits.

{
    my ($first, $job) = stopped_at('settle.before-commit',
        sub { $n->submit(POST => '/settling') });
    my $second = offloadd($n);

    ok Offload::wait_until(10, sub {
        $n->worker_log =~ /waits for that to end" worker=$first / }),
        'a transaction: the second one says that it waits';
    kill 'CONT', $first;
    is exit_code($first), 3, 'the first one leaves';

    my $doc = $n->settled($job);
    my %h = map { lc $_->[0] => $_->[1] }
            @{ decode_json($n->result($job)->{body})->{headers} };

    is $doc->{status}, 'completed', 'the job completes';
    is $h{'offload-attempt'}, $doc->{attempts},
        'with the result of the attempt that the document names';
    is_deeply attempts($job), [ 1 .. $doc->{attempts} ],
        'whichever of them that is';
    kill 'TERM', $second;
    is exit_code($second), 0, 'the second one stops';
}


# Before it removes files that no job wants: it does not know which.

{
    my ($first) = stopped_at('recover.slots');
    my $second = offloadd($n);
    my $job = $n->submit(POST => '/kept?size=100000');
    my $running = $n->submit(POST => '/kept?size=100000&close=body&cut=1');

    $n->settled($job);
    kill 'CONT', $first;
    is exit_code($first), 3, 'a sweep: the first one leaves';
    is $n->settled($running)->{status}, 'completed', 'what runs completes';
    ok $n->result($_)->{body} eq Backend::content(100_000),
        'no result is removed' for $job, $running;
    kill 'TERM', $second;
    is exit_code($second), 0, 'the second one stops';
}

is_deeply [ grep { -e } @left ], [], 'what overtaken ones left has been swept';


# Two zones, one store.

{
    my $other = instance(zone => "jobs 16m path=%%ZONE%% "
                                 . "store=$n->{prefix}/s");
    my $one = offloadd($n);

    is $n->settled($n->submit(POST => '/one'))->{status}, 'completed',
        'one zone has its store';

    my $two = offloadd($other);

    is exit_code($two), 1, 'another zone\'s worker does not start with it';
    like $other->worker_log,
        qr/in use by the zone at path \Q$n->{zone_dir}\E .*process $one\)/,
        'and says whose it is';
    is $n->settled($n->submit(POST => '/one'))->{status}, 'completed',
        'the one is not disturbed';

    kill 'TERM', $one;
    is exit_code($one), 0, 'when its worker has gone';

    $two = offloadd($other);
    is $other->settled($other->submit(POST => '/two'))->{status},
        'completed', 'the store is free';
    kill 'TERM', $two;
    exit_code($two);
}

Offload::finish_all();
