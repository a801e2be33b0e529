# A machine that loses power keeps what was synced and nothing else for sure.
# With durability=disk every 202 was given for something on the disk.  Here
# clients submit, cancel and read while the power is cut at a random moment,
# again and again; nginx and offloadd start on what the disk would hold
# (t/lib/Disk.pm) without their zone, and nothing a client or the backend has
# seen may be untrue: no job is gone, no result is torn, no attempt counted
# twice, nothing refused runs, nothing canceled comes back.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Disk;
use Offload;
use Report;
use Test::More;
use Time::HiRes qw(time sleep);

my $seed = $ENV{OFFLOAD_SEED} // int(time * 1000) % 1_000_000;
my $CUTS = $ENV{OFFLOAD_CUTS} // 12;
my $CLIENTS = 4;

my $HTTP = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    keepalive_requests 100000;
    offload_accept_timeout 10s;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /hasty/ {
        offload jobs;
        offload_accept_timeout 100ms;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT

srand $seed;
diag "OFFLOAD_SEED=$seed";

my $back = Backend->start;


sub nginx_on {
    my ($disk) = @_;
    my %mutant = $ENV{OFFLOAD_MUTANT}
        ? (build => Offload::failpoints_dir()) : ();
    my %env = map { $_ => $ENV{$_} } grep { $ENV{$_} } 'OFFLOAD_MUTANT';
    my $n = Offload->new(backend => $back, http => $HTTP, %mutant,
        $disk->under(worker_env => \%env),
        zone => "jobs 16m path=%%ZONE%% store=$disk->{dir} durability=disk");

    # cut off in the middle of a write it may complain, and of its zone
    $n->allow(qr/\[alert\].*(?:exited on signal 9|aborted)/);

    return $n;
}


# Everything stops in an instant.  What is on its way to the backend arrives.

sub kill_all {
    my ($n) = @_;
    my $master = $n->master;
    my @pids = ($master, $n->children('.', $master), $n->offloadds);

    kill 'KILL', @pids;
    $n->stop_offloadd(signal => 'KILL');
    Offload::wait_until(10, sub { !grep { Offload::alive($_) } @pids })
        or die "alive: @pids\n";
    $back->open_gate('arrived') for 1 .. 4;
}


sub start_anew {
    my ($n) = @_;

    unlink "$n->{prefix}/nginx.pid";
    File::Path::remove_tree($n->{zone_dir});
    $n->start;
}


# ---- the first moments: a store that is being made

for my $round (1 .. 5) {
    my $disk = Disk->new;
    my $n = nginx_on($disk)->start;

    $n->offloadd;
    kill_all($n);
    $disk->cut(back => 60, keep => $round % 2 ? 'some' : 'none');
    start_anew($n);

    my $job = $n->submit(POST => "/first/$round", body => 'x');

    is $job && $n->settled($job)->{status}, 'completed',
        'a power cut while the store is made does no harm';
    $n->finish;
}


# ---- a sync that failed has lost what it was for, and a second one that goes
# well does not bring it back: such a result must not be promised

{
    my $disk = Disk->new;
    my $n = nginx_on($disk)->start;
    my $rule = $disk->fail(sync => 'EIO', path => 'blobs/', times => 1);
    my $job = $n->submit(POST => '/lost?size=200000', body => 'x');
    my $doc = $n->settled($job);

    is $disk->hits($rule), 1, 'the sync of a result fails';
    is $doc->{error}{code}, 'result_not_stored', 'the job says so';

    my $next = $n->submit(POST => '/kept?size=200000', body => 'x');

    is $n->settled($next)->{status}, 'completed', 'the next one is kept';
    kill_all($n);
    $disk->cut;
    start_anew($n);
    is $n->status($job)->{error}{code}, 'result_not_stored',
        'after a power cut it says the same';
    is length $n->result($next)->{body}, 200_000, 'and that one is there';
    $n->finish;
}


# ---- a result that was put is on the disk when its backend is told so, and
# one whose sync failed may be put again

{
    my $disk = Disk->new;
    my $n = nginx_on($disk)->start;
    my $job = $n->submit(POST => '/put?status=202&h=Offload-Defer:1',
                         body => 'x');
    my $at = Report::place($back, $job);
    my $rule = $disk->fail(sync => 'EIO', path => 'blobs/', times => 1);
    my $body = Backend::content(300_000);

    is Report::put($n, $at, $body)->{status}, 503,
        'the sync of what is put fails: 503';
    is $disk->hits($rule), 1, '.. that was why';
    is $n->status($job)->{status}, 'running', '.. and the job runs on';
    is Report::put($n, $at, $body)->{status}, 204, 'the next one is kept';
    kill_all($n);
    $disk->cut;
    start_anew($n);
    ok $n->result($job)->{body} eq $body, 'after a power cut it is there';
    is Report::put($n, $at, 'x')->{status}, 204, 'and so is the token';
    $n->finish;
}


# ---- a client: what it saw, one line each, in the order it saw it

my %kinds = (
    small => sub { ([ 50 + rand 3000 ], '') },
    body => sub { ([ 270_000 + rand 400_000 ], '') },
    result => sub { ([ 100 ], 'size=' . int 70_000 + rand 400_000) },
    slow => sub { ([ 100 ], 'delay=' . int rand 400) },
    held => sub { ([ 100 ], 'gate=held') },
    hasty => sub { ([ 50 + rand 3000 ], '') },
);

sub client {
    my ($n, $name, $file) = @_;
    my @kinds = sort keys %kinds;
    my (@jobs, $s);

    open my $fh, '>', $file or die "$file: $!\n";
    $fh->autoflush(1);

    my $saw = sub { print $fh join(' ', @_, time), "\n" };
    my $ask = sub {
        $s //= Http::dial($n->port) or return { status => 0 };
        Http::write_all($s, Http::bytes(@_));

        my $r = Http::response($s);

        undef $s if $r->{error} || ($r->{h}{connection} // '') eq 'close';

        return $r;
    };

    for (my $i = 0; ; $i++) {
        my $kind = $kinds[rand @kinds];
        my ($size, $query) = $kinds{$kind}->();
        my $uri = "/$kind/$name-$i?$query";
        my $body = "$uri " . chr(97 + rand 26) x $size->[0];
        my $sha = sha256_hex($body);

        $saw->('sent', $uri, $sha);

        my $r = $ask->(POST => $uri, body => $body);
        my $job = Offload::job($r);

        if ($job) {
            push @jobs, $job->{id};
            $saw->('accepted', $uri, $job->{id});

        } elsif ($r->{status}) {
            $saw->('refused', $uri, $r->{status});

        } else {
            last;
        }

        my $id = $jobs[rand @jobs] // next;

        if ($kind eq 'held' && $job) {
            $saw->('cancel', $job->{id});
            $saw->('canceled', $job->{id})
                if $ask->(DELETE => "/jobs/$job->{id}")->{status} == 200;
        }

        $saw->('done', $id)
            if ($ask->(GET => "/jobs/$id")->{body} // '') =~ /"completed"/;
    }
}


# ---- the load, the cuts

my $disk = Disk->new;
my $n = nginx_on($disk)->start;
my (%job, %by_uri, %refused, %when_refused, @lost_time, %count);


sub load {
    my ($round, $seconds) = @_;
    my %clients;

    for my $i (1 .. $CLIENTS) {
        my $file = "$n->{prefix}/client-$round-$i";
        my $pid = fork // die "fork: $!\n";

        if (!$pid) {
            srand $seed + $round * 100 + $i;
            eval { client($n, "$round-$i", $file) };
            POSIX::_exit(0);
        }

        $clients{$pid} = $file;
    }

    # a disk that is slow now and then: who waits in /hasty/ gives up
    $disk->fail(sync => '', after => int rand 40, times => 4,
                delay => 150);
    sleep $seconds;
    kill_all($n);
    waitpid $_, 0 for keys %clients;
    $disk->heal;

    return values %clients;
}


# What clients saw before the cut.  What came after it, nobody has seen.

sub learn {
    my ($when, @files) = @_;

    for my $line (map { split /\n/, Offload::read_file($_) } @files) {
        my ($what, $on, @more) = split / /, $line;
        my $at = pop @more;
        my $past = $at < $when;
        $count{$what}++ if $past;

        if ($what eq 'sent') {
            $by_uri{$on} = { uri => $on, sha => $more[0],
                             size => $on =~ /size=(\d+)/ ? $1 : 0 };
        } elsif ($what eq 'accepted') {
            $by_uri{$on}{id} = $more[0];
            $job{$more[0]} = $by_uri{$on};
            $by_uri{$on}{accepted} = $past;
        } elsif ($what eq 'refused') {
            $refused{$on} = 9e9 if $past;
            $when_refused{$on} = sprintf '%.3f s before a cut', $when - $at;
        } elsif ($what eq 'cancel') {
            $job{$on}{cancel} = 'perhaps';
        } elsif ($what eq 'canceled') {
            $job{$on}{cancel} = time if $past;
        } elsif ($what eq 'done') {
            $job{$on}{done} = 1 if $past;
        }
    }
}


# Is all that was promised so far still true?

sub check {
    my ($name, $done) = @_;
    my (@wrong, $s);

    for my $id (grep { $job{$_}{accepted} } sort keys %job) {
        my $j = $job{$id};
        my $doc = $done ? $n->settled("/jobs/$id") : $n->status("/jobs/$id");
        my $status = $doc->{status} // 'none';
        my $cancel = $j->{cancel} // 'no';

        my @may = $cancel =~ /^\d/ ? 'canceled'
                  : ('completed', $cancel eq 'perhaps' ? 'canceled' : (),
                     $done || $j->{done} ? () : ('queued', 'running'));

        push @wrong, "$j->{uri}: $status" if !grep { $_ eq $status } @may;
        next if $status ne 'completed' || $j->{checked} && !$done;

        my $r = $n->get("/jobs/$id/result");

        $j->{checked} = 1;
        push @wrong, "$j->{uri}: its result: $r->{status} "
            . length $r->{body}
            if $r->{status} != 200
               || ($j->{size} ? $r->{body} ne Backend::content($j->{size})
                              : $r->{body} !~ /"sha":"$j->{sha}"/);
    }

    ok !@wrong, "$name: all " . (grep { $_->{accepted} } values %job)
        . ' jobs are there' or diag join "\n", splice @wrong, 0, 10;
}


for my $round (1 .. $CUTS) {
    my @files = load($round, $round % 4 ? 0.4 + rand : 0.1);
    my $keep = $round % 2 ? 'none' : 'some';
    my $when = $disk->cut(keep => $keep, back => $round % 3 ? 200 : 0);

    push @lost_time, [ $when, time ];
    learn($when, @files);
    start_anew($n);
    check("cut $round");
}

$back->open_gate('held');
check('at the end', 1);


# ---- the backend's view

{
    my (%last, @wrong);

    for my $e ($back->journal(event => 'request')) {
        my $id = $e->{job} // next;
        my $uri = $e->{uri};

        push @wrong, sprintf '%s: refused %s, and run %.3f s after the '
            . 'last one', $uri, $when_refused{$uri}, $e->{time}
            - (grep { $_ < $e->{time} } 0, map { $_->[0] } @lost_time)[-1]
            if $e->{time} < ($refused{$uri} // 0);

        # what happened after a cut and before the kill has not happened
        next if grep { $_->[0] <= $e->{time} && $e->{time} < $_->[1] }
                @lost_time;

        my $j = $by_uri{$uri} // next;

        push @wrong, "$uri: attempt $e->{attempt} after $last{$id}"
            if $e->{attempt} <= ($last{$id} // 0);
        push @wrong, "$uri: another body" if $e->{sha} ne $j->{sha};
        push @wrong, "$uri: run after it was canceled"
            if ($j->{cancel} // '') =~ /^\d/ && $e->{time} > $j->{cancel};
        $last{$id} = $e->{attempt};
    }

    ok !@wrong, 'the backend saw attempts rise, whole bodies, nothing refused '
        . 'and nothing canceled' or diag join "\n", splice @wrong, 0, 10;
    cmp_ok $count{$_} // 0, '>', 0, "there were jobs $_: " . ($count{$_} // 0)
        for qw(accepted canceled done);
    ok scalar(grep { $_ > 1 } values %last), 'and some were attempted again';
}

Offload::finish_all();
