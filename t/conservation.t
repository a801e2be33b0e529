# Every accepted job is queued, running, completed, failed, canceled or
# expired, and the counters say so at any time: through each step a job can
# take, and after kills between ring and store, where a record is read twice
# and must be counted once.  A counter that is always right proves nothing:
# so a row is taken from the store and a number in the zone is changed, and
# that has to show.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;

my $back = Backend->start;
my $build = Offload::failpoints_dir();
my $HTTP = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /soon/ {
        offload_accept_timeout 1s;
        offload jobs; proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
    location /keyed/ {
        offload_idempotency on;
        offload jobs; proxy_pass http://%%BACKEND%%;
    }
    location = /counters { offload_status_zone jobs; }
}
EOT


sub zone {
    my ($more, %o) = @_;

    return Offload->new(backend => $back, http => $HTTP, build => $build,
        worker => 'off', zone => "jobs 16m path=%%ZONE%% $more", %o)->start;
}


sub post { my ($n, $count, $query, @o) = @_;
           map { $n->submit(POST => "/x?$query", body => 'x', @o) }
           1 .. $count }


# A worker that has taken the zone up.

sub work {
    my ($n, $place) = @_;
    my $pid = $n->by_hand($place);

    Offload::wait_until(20, sub {
        my $w = $n->counters->{worker};

        $w->{alive} && $w->{pid} == $pid }) or fail('offloadd starts');

    return $pid;
}


sub ends { my ($pid) = @_;
           Offload::wait_until(20, sub {
               waitpid($pid, POSIX::WNOHANG()) == $pid }) }


sub stop { my ($pid, $signal) = @_; kill $signal, $pid; ends($pid) }


# In the end these are the numbers, and all others are 0; meanwhile, each time
# one looks, nothing is missing.

sub counts {
    my ($n, $name, %want) = @_;
    my ($c, %got, @wrong);
    my @fields = qw(accepted submitted queued running completed failed
                    canceled expired withdrawn rejected duplicates
                    limited);

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    %want = map { $_ => $want{$_} // 0 } @fields;

    Offload::wait_until(20, sub {
        $c = $n->counters or return;
        %got = map { $_ => $c->{$_} } @fields;
        push @wrong, Counters::unaccounted($c);
        !grep { $got{$_} != $want{$_} } @fields;
    });

    is_deeply \%got, \%want, "$name: the numbers";
    is_deeply \@wrong, [], "$name: nothing was missing at any time";

    return $c;
}


# ---- from the ring to the tombstone's end

{
    my $n = zone('concurrency=2 ttl=1h');
    my %c;

    counts($n, 'no store yet');

    my @jobs = post($n, 3, 'size=10');
    my $c = counts($n, 'nobody there', submitted => 3);

    ok !$c->{worker}{alive}, 'that there is no worker is said';
    is scalar(grep { $_->{held} } @{ $c->{lanes} }), 2,
        'and that two lanes have an owner';

    my $pid = work($n);

    $c = counts($n, 'taken up', accepted => 3, completed => 3);
    is $c->{worker}{pid}, $pid, 'by the worker that is named';
    ok $c->{worker}{alive}, 'and alive';

    post($n, 1, 'status=500');
    counts($n, 'an error', accepted => 4, completed => 3, failed => 1);

    push @jobs, post($n, 5, 'gate=a');
    counts($n, 'two at a time', accepted => 9, completed => 3, failed => 1,
           running => 2, queued => 3);

    # one running, one queued, one settled long ago
    my ($run) = grep { $n->status($_)->{status} eq 'running' } @jobs;
    my ($wait) = grep { $n->status($_)->{status} eq 'queued' } @jobs;

    $n->request(DELETE => $_->{path}) for $run, $wait, $jobs[0];
    counts($n, 'canceled and discarded', accepted => 9, completed => 3,
           failed => 1, canceled => 2, running => 2, queued => 1);

    stop($pid, 'KILL');
    counts($n, 'killed', accepted => 9, completed => 3, failed => 1,
           canceled => 2, running => 2, queued => 1);
    $pid = work($n);
    counts($n, 'counted anew', accepted => 9, completed => 3, failed => 1,
           canceled => 2, running => 2, queued => 1);
    unlike $n->worker_log, qr/has not the jobs/, 'which found nothing wrong';

    stop($pid, 'TERM');
    counts($n, 'handed back', accepted => 9, completed => 3, failed => 1,
           canceled => 2, queued => 3);

    # what a reload would not change: how long tombstones stay
    my $file = "$n->{zone_dir}/policy.json";
    my $policy = $n->policy;

    Offload::write_file($file, encode_json({ %$policy, ttl_ms => 1,
                                             tombstone_ms => 3_600_000 }));
    $back->open_gate('a');
    $pid = work($n);
    $c = counts($n, 'some expire', accepted => 9, completed => 3, failed => 1,
                canceled => 2, expired => 3);
    is $c->{store}{jobs}, 9, 'and leave a tombstone';
    stop($pid, 'TERM');

    Offload::write_file($file, encode_json({ %$policy, ttl_ms => 1,
                                             tombstone_ms => 0 }));
    $pid = work($n);
    post($n, 4, 'size=10');
    $c = counts($n, 'without one', accepted => 13, completed => 3,
                failed => 1, canceled => 2, expired => 7);
    is $c->{store}{purged}, 4, 'four have gone for good';
    stop($pid, 'KILL');
    $pid = work($n);
    $c = counts($n, 'that is remembered', accepted => 13, completed => 3,
                failed => 1, canceled => 2, expired => 7);

    # a new zone file counts from the start, the store goes on
    $n->stop;
    ends($pid);
    unlink "$n->{zone_dir}/zone.v1";
    $n->start;
    Offload::write_file($file, encode_json({ %$policy }));
    post($n, 2, 'size=10');
    $pid = work($n);
    $c = counts($n, 'a new zone file', accepted => 15, completed => 5,
                failed => 1, canceled => 2, expired => 7);
    is eval { my $sum = 0; $sum += $_->{accepted} for @{ $c->{lanes} }; $sum },
        2, 'and its lanes began anew';

    # how it is served
    my $r = $n->get('/counters');

    is $r->{status}, 200, 'a location serves them';
    is $r->{h}{'content-type'}, 'application/json', 'as JSON';
    is $r->{h}{'cache-control'}, 'no-store', 'never from a cache';
    is decode_json($r->{body})->{accepted}, 15, 'the same numbers';
    is $n->request(HEAD => '/counters')->{status}, 200, 'HEAD: 200';

    for my $method (qw(POST DELETE)) {
        $r = $n->request($method => '/counters', body => 'x');
        Offload::problem($r, 405, "$method: 405");
        is $r->{h}{allow}, 'GET, HEAD', "$method: Allow says what is";
    }

    # ---- a row that is lost, a number that is wrong

    my ($victim) = post($n, 1, 'size=10');

    $n->settled($victim);
    $n->{count} = 0;                            # from here on it is wrong
    stop($pid, 'TERM');

    is system("$build/unit/worker/counters", 'lose', "$n->{zone_dir}/store",
              $victim->{id}), 0, 'a row is taken from the store';
    $pid = work($n);
    ok Offload::wait_until(10, sub {
        $n->worker_log =~ /level=error\ msg="the\ store\ has\ not\ the\ jobs
                           .*drift=1\ accepted=16\b.*\bcompleted=5
                           \ completed_before=6\b/x }),
        'the next worker finds it missing' or diag $n->worker_log;
    Offload::wait_until(10, sub { $n->counters->{drift} });
    $c = $n->counters;
    is $c->{drift}, 1, 'drift: 1';
    is $c->{accepted}, 16, 'it stays accepted';
    is $c->{ring_drift}, 0, 'nothing was lost in a ring';

    open my $zone, '+<:raw', "$n->{zone_dir}/zone.v1" or die;
    seek $zone, 72, 0;
    read $zone, my $raw, 8;

    my $lane = unpack 'Q', $raw;

    for my $at ($lane + 16, $lane + 56) {       # accepted, and its note
        seek $zone, $at, 0;
        read $zone, $raw, 8;
        seek $zone, $at, 0;
        print $zone pack 'Q', 3 + unpack 'Q', $raw;
    }

    close $zone;
    is $n->counters->{ring_drift}, 3,
        'more in the rings than was taken from them: it shows';
    stop($pid, 'TERM');
    $n->finish;
}


# ---- read twice, counted once

{
    my $n = zone('ttl=1h', workers => 1);
    my $accepted = 0;

    for my $place (qw(drain.before-commit store.before-commit
                      drain.after-commit drain.after-slots sq.release.before
                      drain.after-head))
    {
        post($n, 3, 'size=10');
        $accepted += 3;
        ok ends($n->by_hand($place)), "$place: offloadd dies there";

        post($n, 2, 'size=10');                 # some are new, some not
        $accepted += 2;

        my $pid = work($n);

        counts($n, $place, accepted => $accepted, completed => $accepted);
        stop($pid, 'TERM');
    }

    $n->finish;
}


# ---- duplicates: read twice, counted once, and never accepted

{
    my $n = zone('ttl=1h', workers => 1);
    my ($accepted, $duplicates) = (0, 0);

    for my $place (qw(drain.before-commit store.before-commit
                      claim.commit.before drain.after-commit
                      drain.after-slots sq.release.before drain.after-head))
    {
        my @socks = map {
            my $s = Http::dial($n->port);

            Http::write_all($s, Http::bytes(POST => '/keyed/x', body => $_,
                headers => [ 'Idempotency-Key' => $place ]));
            $s;
        } qw(x x y);

        Offload::wait_until(10, sub {
            $n->figures->{accepted} == $accepted + $duplicates + 3 })
            or fail("$place: submitted");
        ok ends($n->by_hand($place)), "$place: offloadd dies there";

        my $pid = work($n);

        $accepted++;
        $duplicates += 2;
        counts($n, "$place, a key", accepted => $accepted,
               completed => $accepted, duplicates => $duplicates);
        stop($pid, 'TERM');
    }

    $n->finish;
}


# ---- withdrawn, rejected

{
    my $n = zone('store=%%PREFIX%%/store durability=disk', workers => 1);

    is $n->request(POST => '/soon/1', body => 'x')->{status}, 503,
        'nobody stores it: 503';

    my $pid = work($n);

    counts($n, 'withdrawn in the ring', withdrawn => 1);
    is $n->counters->{durability}, 'disk', 'whose durability is said';
    stop($pid, 'TERM');

    # its store has it, and its client has given up: never accepted
    $pid = work($n, 'claim.commit.before');

    my $s = Http::dial($n->port);

    Http::write_all($s, Http::bytes(POST => '/soon/2', body => 'x'));
    ok ends($pid), 'killed behind the commit';
    is Http::response($s, deadline => 10)->{status}, 0, 'given up';
    $pid = work($n);
    counts($n, 'withdrawn from the store', withdrawn => 2);
    stop($pid, 'TERM');

    # a body that is not there any more, read twice
    $s = Http::dial($n->port);
    Http::write_all($s, Http::bytes(POST => '/x', body => 'x' x 600_000));
    Offload::wait_until(10, sub { $n->figures->{bytes} })
        or fail('submitted');
    unlink grep { -f } glob "$n->{prefix}/store/spool/*";
    ok ends($n->by_hand('drain.after-commit')), 'a body lost, and a kill';
    $pid = work($n);
    is Http::response($s, deadline => 20)->{status}, 503, 'told so';
    counts($n, 'rejected', withdrawn => 2, rejected => 1);

    post($n, 2, 'size=10');
    counts($n, 'others', accepted => 2, completed => 2, withdrawn => 2,
           rejected => 1);
    stop($pid, 'TERM');
    $n->finish;
}

Offload::finish_all();
