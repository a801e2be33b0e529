# What those who run nginx do to it: reloads that change this or that, some of
# which can not be, zones and servers that come and go, everything killed or
# stopped and started, a zone lost with the reboot or removed by mistake, or
# made larger.  Through all of it the jobs stay where their URLs say, queued,
# running, settled and expired, and go on.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use File::Path ();
use Load;
use Offload;
use Test::More;

my $back = Backend->start;
my $SERVER = <<'EOC';
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
    %%MORE%%
}
EOC
my $SECOND = <<'EOC';
server {
    listen 127.0.0.1:%%PORT2%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOC
my $OTHER = 'location /other/ { offload other;
                               proxy_pass http://%%BACKEND%%; }
             location /other/jobs/ { offload_status other; }';

my ($n, $mode, $gates, %kept);


sub conf {
    my (%o) = @_;
    my $zone = "jobs $o{size} path=$o{path} store=$o{store} $o{more}"
               . " durability=$o{durability}";

    return (zone => $zone, workers => $o{workers},
            http => $o{before} . ($SERVER =~ s/%%MORE%%/$o{locations}/r)
                    . $o{servers});
}


sub defaults {
    return (size => '16m', path => '%%ZONE%%', store => '%%PREFIX%%/store',
            more => '', durability => $mode, workers => 2, before => '',
            locations => '', servers => '', @_);
}


sub configure { $n->write_conf(conf(defaults(@_))) }


# Jobs of all kinds that something is about to happen to: two run, held at a
# gate, three wait behind them, one is settled.  The zone needs concurrency=2.

sub jobs_of_all_kinds {
    my ($gate) = 'gate-' . $gates++;
    my @running = map { $n->submit(POST => "/held/$_?gate=$gate", body => $_) }
                  1, 2;

    $back->wait_for(1, event => 'request', job => $_->{id}) for @running;

    my @queued = map { $n->submit(POST => "/queued/$_", body => $_) } 1 .. 3;

    Offload::wait_until(10, sub { !$n->figures->{bytes} });

    return { gate => $gate, running => \@running, queued => \@queued };
}


# Waits until offloadd has read that concurrency last.

sub read_policy {
    my ($concurrency) = @_;

    Offload::wait_until(10, sub {
        my @read = $n->worker_log =~ /policy read: concurrency (\d+)/g;

        @read && $read[-1] == $concurrency;
    });
}


# They are all there, in every state; then they go on, and all is done.

sub all_there {
    my ($name, $jobs) = @_;
    my @waiting = (@{ $jobs->{running} }, @{ $jobs->{queued} });
    my @wrong;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    # the store is taken up again first: 503 says so, 404 would be a lie
    Offload::wait_until(20, sub {
        $n->get($kept{settled}{path})->{status} != 503 });

    # those that ran may have to wait for their next attempt, and be overtaken
    push @wrong, map { $_->{status} // 'none' }
                 grep { ($_->{status} // '') !~ /^(?:queued|running)$/ }
                 map { $n->status($_) } @{ $jobs->{running} };
    push @wrong, map { $_->{status} // 'none' }
                 grep { ($_->{status} // '')
                        !~ /^(?:queued|running|completed)$/ }
                 map { $n->status($_) } @{ $jobs->{queued} };
    push @wrong, 'settled: ' . $_->{body}
        for grep { $_->{status} != 200 || $_->{body} ne $kept{result} }
            $n->result($kept{settled});
    push @wrong, 'expired: ' . $_->{status}
        for grep { $_->{status} != 410 } $n->get($kept{expired}{path});

    $back->open_gate($jobs->{gate});

    for my $job (@waiting) {
        my $doc = $n->settled($job);
        my @seen = $back->journal(event => 'request', job => $job->{id});

        push @wrong, "$doc->{status}, attempts $doc->{attempts}, seen "
                     . scalar @seen
            if $doc->{status} ne 'completed' || $doc->{attempts} < @seen;
    }

    is_deeply \@wrong, [], "$mode: $name: jobs in all states are where they "
        . 'were, and go on';
}


# Everything ends, offloadd first: or its jobs would be waited for.

sub down {
    my ($signal) = @_;
    my @pids = ($n->master, $n->children('.'));

    if ($signal eq 'KILL') {
        push @pids, $n->offloadds;
        kill 'KILL', @pids;

    } else {
        kill $signal, $n->master;
        $n->stop_offloadd;
    }

    Offload::wait_until(20, sub { !grep { Offload::alive($_) } @pids })
        or fail("$signal ends everything");
    $n->stop_offloadd;
    unlink "$n->{prefix}/nginx.pid";
}


sub refused {
    my ($name, $pattern, $tested) = @_;

    $n->allow(qr/\[emerg\].*$pattern/);
    ok !$n->reload, "$mode: $name: a reload refuses it";
    like $n->log, $pattern, 'with both values';

    my ($code, $out) = $n->run('-t');

    ok $tested ? $code != 0 && $out =~ $pattern : 1, 'and so does nginx -t'
        or diag $out;
    is $n->settled($n->submit(POST => '/x', body => 'x'))->{status},
        'completed', 'and all goes on as before';
}


sub reloads {
    my $load = Load->start($n, $back, clients => 2);

    for my $change ([ more => 'ttl=2h' ], [ workers => 3 ],
                    [ more => 'concurrency=50' ], [ workers => 1 ],
                    [ more => 'log=%%PREFIX%%/other.log' ], [])
    {
        configure(@$change);
        ok $n->reload, "$mode: a reload under load: "
            . (join(' ', @$change) || 'and back');

        my $policy = $n->policy;

        is $policy->{ttl_ms}, 7200_000, 'ttl is in force'
            if "@$change" =~ /ttl/;
        is $policy->{concurrency}, 50, 'concurrency is in force'
            if "@$change" =~ /conc/;
        ok Offload::wait_until(10, sub {
            $n->worker_log =~ /msg=settled/ }), 'the log is where it is said'
            if "@$change" =~ /log/;
        $load->more(5);
    }

    is_deeply [ $load->stop ], [], 'no client noticed';
    is_deeply [ $load->wrong ], [], 'and all ' . $load->jobs . ' are done';
    is scalar($n->offloadds), 1, 'by one offloadd';
}


sub refusals {
    my $other = $mode eq 'disk' ? 'memory' : 'disk';
    my $p = $n->{prefix};

    for my $case (
        [ path => '%%SHM%%/elsewhere',
          qr{path was "$n->{zone_dir}" and is "$n->{shm}/elsewhere" now}, 0 ],
        [ store => '%%PREFIX%%/another',
          qr{store was "$p/store" and is "$p/another" now}, 1 ],
        [ durability => $other,
          qr{durability was "$mode" and is "$other" now}, 1 ],
        [ workers => 9, qr{lanes \S+ \S+ was 6 and is 20 now}, 1 ])
    {
        configure($case->[0], $case->[1]);
        local $n->{workers} = 2;
        refused($case->[0], $case->[2], $case->[3]);
    }

    configure();
    $n->write_conf(zone => $n->{zone} =~ s/^jobs/work/r,
                   http => $n->{http} =~ s/ jobs;/ work;/gr);
    refused('another name', qr/zone was "jobs" and is "work" now/, 1);
    configure(more => 'lanes=2', workers => 3);
    local $n->{workers} = 2;
    refused('fewer lanes than workers', qr/lanes=2.*3 worker processes/, 1);
    configure();
}


# A zone goes and comes back: its jobs were finished, or waited.

sub zones_come_and_go {
    my %with = (before => "offload_zone other 16m path=%%SHM%%/o "
                          . "concurrency=1 store=%%PREFIX%%/o "
                          . "durability=$mode;\n", locations => $OTHER);
    my $held = sub { my $inode = (stat "$n->{shm}/o/lock")[1];
                     scalar grep { /OFDLCK.*:$inode (\d+) / && $1 < 255 }
                     split /\n/, Offload::read_file('/proc/locks') };

    configure(%with);
    ok $n->reload, "$mode: a zone is added";

    my $run = $n->submit(POST => "/other/1?gate=other-$mode", body => 'x');

    $back->wait_for(1, event => 'request', job => $run->{id});

    my $wait = $n->submit(POST => '/other/2', body => 'x');

    configure();
    ok $n->reload(drain => 0), 'and removed, with a job running and one '
        . 'waiting';
    ok Offload::wait_until(10, sub { !$held->() }), 'nobody holds it';
    $back->open_gate("other-$mode");
    $back->wait_for(1, event => 'done', job => $run->{id});
    configure(%with);
    ok $n->reload, 'and added again';
    is $n->settled($_)->{status}, 'completed', 'its job is done'
        for $run, $wait;
    is $n->settled($run)->{attempts}, 1, 'the one that ran was not cut off';
    configure();
    ok $n->reload, 'and removed';
}


# A server with jobs goes: they are tried now and then, and when it comes
# back they are done.

sub servers_come_and_go {
    configure(more => 'concurrency=1', servers => $SECOND);
    ok $n->reload, "$mode: a server is added";
    read_policy(1);

    my $run = $n->submit(POST => "/x?gate=server-$mode", body => 'x');

    $back->wait_for(1, event => 'request', job => $run->{id});

    my $wait = $n->submit(POST => '/y', body => 'x', to => $n->port(2));

    configure(more => 'concurrency=1');
    ok $n->reload(drain => 0), 'and removed, with a job queued';
    $back->open_gate("server-$mode");
    ok Offload::wait_until(10, sub {
        $n->worker_log =~ /attempt failed.*job=$wait->{id}.*connect to nginx/
    }), 'which finds no entrance';
    is $n->status($wait)->{status}, 'queued', 'and waits';
    configure(servers => $SECOND);
    ok $n->reload, 'the server is there again';
    is $n->settled($wait)->{status}, 'completed', 'and the job is done';
    configure(more => 'concurrency=2');
    ok $n->reload, 'without it again';
    read_policy(2);
}


# The master is killed: its workers go on, nobody starts beside them, and when
# they have gone too, all starts again.

sub kills {
    my $jobs = jobs_of_all_kinds();
    my $master = $n->master;
    my @orphans = $n->children('.', $master);
    my ($helper) = $n->children('manager', $master);
    my $worker = $n->offloadd;

    $n->allow(qr/exited on signal 9/);
    kill 'KILL', $helper, $worker;
    ok $n->offloadd(not => $worker), "$mode: helper and offloadd killed: both "
        . 'come again';
    Offload::wait_until(10, sub { $n->children('manager', $master) });
    @orphans = $n->children('.', $master);
    kill 'KILL', $master;
    Offload::wait_until(10, sub { !Offload::alive($master) });
    unlink "$n->{prefix}/nginx.pid";

    $n->allow(qr/\[emerg\].*in use by another nginx/);
    my ($code, $out) = $n->run;

    isnt $code, 0, 'the master killed: a start is refused';
    like $out, qr/workers that outlived their master/, 'and says why';

    my $orphan = $n->submit(POST => '/orphan', body => 'x');

    ok $orphan, 'the workers accept';
    push @{ $jobs->{queued} }, $orphan;

    my @all = (@orphans, $n->offloadds);

    kill 'KILL', @all;
    Offload::wait_until(10, sub { !grep { Offload::alive($_) } @all });
    $n->stop_offloadd;
    $n->start;
    all_there('everything killed', $jobs);
}


sub stops_and_losses {
    my @geometries = (
        [ 'another size, more lanes', size => '32m', more => 'lanes=12' ],
        [ 'small, few lanes and slots', size => '4m',
          more => 'lanes=2 slots=64' ],
        [ 'more workers than there were lanes', size => '32m', workers => 4 ],
        [ 'as it was' ]);

    for my $signal (qw(TERM QUIT KILL)) {
        my $jobs = jobs_of_all_kinds();

        down($signal);
        File::Path::remove_tree($n->{zone_dir});
        $n->start;
        all_there("$signal and the zone lost", $jobs);
    }

    for my $case (@geometries) {
        my ($name, %o) = @$case;
        my $jobs = jobs_of_all_kinds();

        down('TERM');
        $o{more} = 'concurrency=2 ' . ($o{more} // '');
        configure(%o);
        $n->start;
        all_there("stopped and started with another geometry: $name", $jobs);
    }
}


# The zone's directory is removed under everyone's feet.  Until the reload
# requests are refused; nothing that was accepted is gone.

sub removed {
    configure(more => 'concurrency=50');
    ok $n->reload, "$mode: room for more";

    for my $what ($n->{zone_dir}, "$n->{zone_dir}/zone.v1") {
        my $at_once = ($what eq $n->{zone_dir}) == ($mode eq 'memory');
        my $load = Load->start($n, $back, clients => 2);
        my $old = $n->offloadd;

        File::Path::remove_tree($what);
        $n->wait_log(qr/out of order.*replaced/) if !$at_once;
        ok $n->reload, "$mode: $what removed, and a reload "
            . ($at_once ? 'at once' : 'when it was noticed');
        ok Offload::wait_until(30, sub {
            !Offload::alive($old) && $n->offloadds == 1 }),
            'offloadd makes room for another';
        ok $load->more(10), 'jobs are accepted again';
        is_deeply [ grep { !/^refused|: 503 $/ } $load->stop ], [],
            'in between they were refused at most';
        is_deeply [ $load->wrong ], [], 'and all that were accepted ('
            . $load->jobs . ') are done';
        is $n->get($kept{settled}{path})->{status}, 200,
            'an old job is where it was';
    }
}


for (qw(memory disk)) {
    $mode = $_;
    $n = Offload->new(backend => $back);
    configure(more => 'ttl=1s');
    $n->start;

    $kept{expired} = $n->submit(POST => '/x', body => 'x');
    ok Offload::wait_until(15, sub {
        $n->get($kept{expired}{path})->{status} == 410 }), "$mode: a job "
        . 'expires';
    configure();
    $n->reload;
    ok Offload::wait_until(10, sub {
        $n->policy->{ttl_ms} == 3600_000
        && $n->worker_log =~ /policy read/ }), 'a longer ttl';
    ($kept{settled}) = ($n->through(POST => '/x?size=5000', body => 'x'))[2];
    $kept{result} = $n->result($kept{settled})->{body};

    reloads();
    refusals();
    zones_come_and_go();
    servers_come_and_go();
    kills();
    stops_and_losses();
    removed();
    $n->finish;
}

Offload::finish_all();
