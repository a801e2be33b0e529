# durability=disk makes the 202 wait for a commit, and a client must never be
# told the wrong thing: a 202 for a job that could be lost, or a 503 for one
# that runs all the same.  The moments between are few and narrow, so here
# offloadd is stopped, or dies, in each of them while requests wait.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use File::Path ();
use Offload;
use Test::More;

my $back = Backend->start;
my $ZONE = 'jobs 16m path=%%ZONE%% store=%%PREFIX%%/store durability=disk';
my $HTTP = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    offload_accept_timeout 30s;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /soon/ {
        offload_accept_timeout 400ms;
        offload jobs; proxy_pass http://%%BACKEND%%;
    }
    location /taken/ {
        offload_accept_timeout 1500ms;
        offload jobs; proxy_pass http://%%BACKEND%%;
    }
    location /later/ {
        offload_accept_timeout 3s;
        offload jobs; proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT


# Sends and does not wait: the sockets.

sub send_all {
    my ($n, @uris) = @_;

    return map {
        my $s = Http::dial($n->port) or die "dial: $!";

        Http::write_all($s, Http::bytes('POST', $_, body => "body of $_"));
        $s;
    } @uris;
}


sub pending { my ($n, $want) = @_;
              Offload::wait_until(10, sub { $n->figures->{bytes} >= $want }) }

sub working { my ($n, $pid) = @_;
              Offload::wait_until(20, sub {
                  my $w = $n->counters->{worker};
                  $w->{alive} && $w->{pid} == $pid }) }

sub drained { my ($n) = @_;
              Offload::wait_until(20, sub { my $f = $n->figures;
                                            !$f->{bytes} && !$f->{slots} }) }

sub seen { my ($uri) = @_;
           scalar grep { $_->{uri} eq $uri }
                  $back->journal(event => 'request') }


# ---- as always, with a wait in between

{
    my $n = Offload->new(backend => $back, zone => $ZONE, http => $HTTP);

    $n->start;
    is $n->policy->{durability}, 'disk', 'offloadd is told';

    for my $o ([ 10 ], [ 100_000 ], [ 3_000_000 ], [ 5_000_000, chunked => 1 ])
    {
        my ($size, %o) = @$o;
        my $body = Backend::content($size);
        my ($seen, $doc) = $n->echoed(POST => "/size/$size", body => $body,
                                      %o);

        is $doc->{status}, 'completed', "$size bytes: completed";
        is $seen->{body_sha256} // $seen->{sha},
            Backend::content_sha($size), "$size bytes: whole";
    }

    my ($r) = $n->through(GET => '/large?size=700000');

    is length($r->{body}), 700_000, 'a result of 700,000 bytes is served';

    my $job = $n->submit(POST => '/gated?gate=cancel', body => 'x');

    is $n->request(DELETE => $job->{path})->{status}, 200, 'cancels work';
    $back->open_gate('cancel');

    my $pid = $n->offloadd;

    # ---- offloadd does not answer: stopped before it read the record

    Offload::freeze($pid);

    my @uris = map { "/soon/$_" } 1 .. 5;
    my @socks = send_all($n, @uris);

    for my $s (@socks) {
        my $r = Http::response($s, deadline => 10);
        my $doc = Offload::problem($r, 503, 'no commit in time: 503');

        like $doc->{type}, qr/not-stored$/, 'that says why';
        ok $r->{h}{'retry-after'}, 'and when to come back';
        ok !$r->{h}{location}, 'with no word of a job';
    }

    my ($patient) = send_all($n, '/patient');
    my $before = $n->figures->{accepted};

    # one whose client leaves is a job all the same
    my ($gone) = send_all($n, '/gone');

    Offload::wait_until(10, sub { $n->figures->{accepted} > $before })
        or fail('submitted');
    close $gone;

    kill 'CONT', $pid;

    $r = Http::response($patient, deadline => 20);
    is $r->{status}, 202, 'who waited longer gets a 202';
    is $n->settled(Offload::job($r))->{status}, 'completed', 'for a job';
    ok Offload::wait_until(10, sub { seen('/gone') }),
        'a client that left has submitted its job';
    ok drained($n), 'no ring and no slot keeps anything';
    is scalar(grep { seen($_) } @uris), 0, 'what was refused never runs';
    like $n->log, qr/withdrawn/, 'the log says that jobs were withdrawn';
    $n->finish;
}


# ---- dead at the worst of moments

my $build = Offload::failpoints_dir();

# where it dies => what the client is told, and is the job run?
my %DIES = (
    'drain.taken'          => [ 0, 0 ],         # taken: nobody can tell
    'store.before-commit'  => [ 0, 0 ],
    'claim.commit.before'  => [ 0, 0 ],         # stored, not promised
    'claim.committed'      => [ 202, 1 ],       # promised, not answered
    'drain.after-slots'    => [ 202, 1 ],
    'cq.post.done'         => [ 202, 1 ],
    'drain.after-head'     => [ 202, 1 ],
);

{
    my $n = Offload->new(backend => $back, zone => $ZONE, http => $HTTP,
                         build => $build, workers => 1, worker => 'off');

    $n->start;

    for my $place (sort keys %DIES) {
        my ($status, $runs) = @{ $DIES{$place} };

        for my $large (0, 1) {
            my $early = $place eq 'store.before-commit';
            my $uri = ($early ? '/later' : '/taken') . "/$place/$large";
            my $body = Backend::content($large ? 900_000 : 100);
            my $s = Http::dial($n->port);

            # its start takes nobody's time, but dies by its first commit
            my $pid = $early ? undef : $n->by_hand($place);

            $early || working($n, $pid) or fail("$place: offloadd works");
            Http::write_all($s, Http::bytes(POST => $uri, body => $body));

            if ($early) {
                pending($n, 1) or fail("$place: submitted");
                $pid = $n->by_hand($place);
            }

            my $r = Http::response($s, deadline => 15);

            is $r->{status}, $status, "$place, $large: $status";
            Offload::wait_until(10, sub {
                waitpid($pid, POSIX::WNOHANG()) == $pid })
                or fail("$place: offloadd dies there");

            $pid = $n->by_hand;

            if ($runs) {
                my $doc = $n->settled(Offload::job($r));

                is $doc->{status}, 'completed', "$place: and it is done";
                is seen($uri), 1, "$place: once";

            } else {
                ok drained($n), "$place: the ring is emptied";
                is $n->settled($n->submit(POST => '/next', body => 'x'))
                    ->{status}, 'completed', "$place: others are done";
                is seen($uri), 0, "$place: this one never";
            }

            is_deeply [ glob "$n->{prefix}/store/spool/??*[0-9a-z]" ],
                [ "$n->{prefix}/store/spool/tmp" ],
                "$place: no body is left over";

            kill 'TERM', $pid;
            waitpid $pid, 0;
        }
    }

    # ---- stored while nginx was giving up: offloadd removes it, and says so

    {
        my $asked = sub { scalar(() = $n->log =~ /asked to remove it/g) };
        my $before = $asked->();
        my $pid = $n->by_hand('claim.commit.before:1s');
        my ($s) = send_all($n, '/later/');

        ok Offload::wait_until(20, sub { $asked->() > $before }),
            'nginx asks for its removal';
        kill 'CONT', $pid;
        Offload::problem(Http::response($s, deadline => 20), 503,
                         'and answers 503 when it is done');
        ok drained($n), 'nothing is kept of it';
        is seen('/later/'), 0, 'and nothing is run';
        kill 'TERM', $pid;
        waitpid $pid, 0;
    }

    # ---- nobody there

    my $r = $n->request(POST => '/soon/none', body => 'x');

    Offload::problem($r, 503, 'no offloadd: 503 after the time that was set');

    # a worker process that dies takes its requests with it, not its jobs
    my ($s) = send_all($n, '/orphan');

    pending($n, 1) or fail('submitted');
    $n->allow(qr/exited on signal 9/);
    kill 'KILL', $n->workers;
    is Http::response($s, deadline => 10)->{status}, 0,
        'a worker process dies: no answer';
    Offload::wait_until(10, sub { $n->workers == 1 });

    my $pid = $n->by_hand;

    ok Offload::wait_until(10, sub { seen('/orphan') }), 'the job is done';
    is $n->settled($n->submit(POST => '/last', body => 'x'))->{status},
        'completed', 'and the next, with the same token perhaps';
    is seen('/soon/none'), 0, 'what was refused before never';

    kill 'TERM', $pid;
    waitpid $pid, 0;

    # one that stays away is not waited for any more
    ok Offload::wait_until(30, sub {
        ($n->request(POST => '/soon/gone', body => 'x')->{body} // '')
            =~ /zone-unavailable/ }), 'after a while 503 comes at once';
    $n->finish;
}

# ---- where the store is when nobody says

SKIP: {
    my $place = '/var/lib/nginx-offload';

    skip 'only root makes directories there', 4 if $> != 0;

    my $was = -d $place;
    my $n = Offload->new(backend => $back,
        zone => "t$$ 16m path=%%ZONE%% durability=disk",
        http => $HTTP =~ s/\bjobs;/t$$;/gr);

    $n->start;
    is $n->settled($n->submit(POST => '/x', body => 'x'))->{status},
        'completed', 'a job in the default store';
    ok -s "$place/t$$/store.mdb", "which is $place/name";
    is +(stat "$place/t$$")[2] & 07777, 0700, 'for nobody else';
    is +(stat _)[4], scalar getpwnam($Offload::USER), 'but its user';

    $n->finish;
    File::Path::remove_tree("$place/t$$");
    rmdir $place if !$was;
}

Offload::finish_all();
