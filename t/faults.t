# Disks fill up, go read-only and break.  Then the rule is refusal instead of
# loss: what can not be stored is refused with a problem document that says
# when to come again, what was accepted before stays and is served, and all
# goes on by itself when the cause is gone.  The disk is one that fails to
# order (t/disk); nginx, offloadd and LMDB are the real ones.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Disk;
use Offload;
use Test::More;

my $BIG = 600_000;                       # a body for the spool
my $RESULT = 200_000;                    # a result for the blobs
my $SERVER = <<'EOT';
client_max_body_size 64m;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /soon/ {
        offload jobs;
        offload_accept_timeout 300ms;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT

my $back = Backend->start;
my $serial = 0;
my ($disk, $n, @processes, @kept, %refused, %expected);


sub begin {
    my ($durability, %o) = @_;

    $disk = Disk->new;
    $disk->{quiet} = 1;
    $n = Offload->new(backend => $back, $disk->under, http => $SERVER,
        workers => $o{workers} // 2,
        zone => "jobs 16m path=%%ZONE%% store=$disk->{dir} "
                . "durability=$durability " . ($o{zone} // ''))->start;
    @processes = ($n->offloadd, sort $n->workers);
    (@kept, %refused, %expected) = ();
}


# One request: the job, if it is accepted.

sub post {
    my ($size, $query) = @_;
    my $body = "job $serial " . 'x' x $size;
    my $uri = '/job/' . $serial++ . '?' . ($query // '');
    my $r = $n->request(POST => $uri, body => $body);
    my $job = Offload::job($r);

    if ($job) {
        $expected{$job->{id}} = { sha => sha256_hex($body),
                                  size => $uri =~ /size=(\d+)/ ? $1 : undef };
    } else {
        $refused{$uri} = $r;
    }

    return $job;
}


# Jobs that were there before the fault: done, and waiting.

sub before {
    my ($gate) = @_;

    @kept = map { post(@$_) } [ 10 ], [ 10, "size=$RESULT" ], [ $BIG ];
    $n->settled($_) for @kept;

    return map { post($_, "gate=$gate") } 10, $BIG;
}


# What must hold while it lasts.

sub during {
    my ($name, @waiting) = @_;
    my @answers = map { $n->get("$_->{path}/result") } @kept;

    is join(' ', map { $_->{status} } @answers), '200 200 200',
        "$name: results are served";
    is length $answers[1]{body}, $RESULT, "$name: whole";
    is scalar(grep { $n->get($_->{path})->{status} == 202 } @waiting),
        scalar @waiting, "$name: jobs that wait are known";
}


# Each refusal says what it is and when to come again.

sub refused {
    my ($name) = @_;
    my @bad = grep {
        $_->{status} !~ /^50[37]$/
        || ($_->{h}{'content-type'} // '') ne 'application/problem+json'
        || ($_->{h}{'retry-after'} // '') !~ /^[1-9]\d*$/
    } values %refused;

    ok !@bad, "$name: " . keys(%refused) . ' refusals are 503 or 507, problem '
        . 'documents with Retry-After' or diag $bad[0]{head}, $bad[0]{body};
}


# The cause is gone: nothing is started again, and all is done.

sub after {
    my ($name, $gate) = @_;
    my $later;

    $disk->heal;
    ok Offload::wait_until(20, sub { $later = post(10) }),
        "$name: over, jobs are accepted again";
    $back->open_gate($gate);

    my (%seen, @wrong);

    for my $id (sort keys %expected) {
        my $doc = $n->settled("/jobs/$id");

        push @wrong, "$id: $doc->{status} " . ($doc->{error}{code} // '')
            if ($doc->{status} // '') ne 'completed';

        my $size = $expected{$id}{size} // next;
        my $r = $n->get("/jobs/$id/result");

        push @wrong, "$id: its result: $r->{status}"
            if $r->{status} != 200 || length $r->{body} != $size;
    }

    for ($back->journal(event => 'request')) {
        $seen{$_->{uri}}++;
        push @wrong, "$_->{job}: another body"
            if $_->{job} && $expected{$_->{job}}
               && $_->{sha} ne $expected{$_->{job}}{sha};
    }

    ok !@wrong, "$name: all " . keys(%expected) . ' accepted jobs complete'
        or diag join "\n", @wrong;
    is_deeply [ grep { $seen{$_} } sort keys %refused ], [],
        "$name: nothing that was refused has run";
    is_deeply [ $n->offloadd, sort $n->workers ], \@processes,
        "$name: by the same processes";
    %refused = ();
}


# Each of the next calls on the store fails, in turn: jobs are accepted and
# run all the same, seen at the backend: nothing here opens the store.

sub sweep {
    my ($name, @rules) = @_;
    my $struck = 0;

    for my $nth (0 .. 9) {
        my @ids = map { $disk->fail(@$_, path => 'store.mdb', after => $nth,
                                    $_ == $rules[0] ? (times => 1) : ()) }
                  @rules;
        my %done;

        for ('delay=5', "size=$RESULT") {
            my $query = $_;

            Offload::wait_until(10, sub { post(10, $query) });
        }

        ok Offload::wait_until(10, sub {
            %done = map { $_->{job} ? ($_->{job} => 1) : () }
                    $back->journal(event => 'done');
            !grep { !$done{$_} } keys %expected;
        }), "$name: number $nth: jobs run";
        $struck += $disk->hits($ids[0]);
        $disk->heal;
    }

    cmp_ok $struck, '>', 5, "$name: $struck times";
    refused($name);
    after($name, '-');
}


for my $durability ('memory', 'disk') {
    begin($durability);

    for my $case (
        [ 'disk full', grow => 'ENOSPC' ],
        [ 'read-only', 'open|write|sync|rename|unlink' => 'EROFS' ],
        [ 'EIO on write', write => 'EIO' ],
        [ 'torn writes', write => 'EIO', part => 100 ],
        [ 'EIO on sync', sync => 'EIO' ],
        [ 'no room for bodies', grow => 'ENOSPC', path => 'spool/' ],
        [ 'bodies not moved', rename => 'EIO', path => 'spool/' ])
    {
        my ($what, @rule) = @$case;
        my $gate = "$durability-$what" =~ tr/ /_/r;
        my $name = "$durability, $what";

        # memory durability has no syncs that could fail
        next if $durability eq 'memory' && $what =~ /sync/;

        my @waiting = before($gate);
        my $rule = $disk->fail(@rule);

        post($_) for (10) x 5, $BIG;
        ok Offload::wait_until(10, sub { post(10); $disk->hits($rule) }),
            "$name: the disk fails";
        during($name, @waiting);
        refused($name);
        after($name, $gate);
    }

    # an answer that can not be kept is asked for again; no other job suffers

    {
        my $name = "$durability, no room for a result";
        my $rule = $disk->fail(($durability eq 'disk' ? 'write' : 'grow')
                               => 'ENOSPC', path => 'blobs/');
        my ($large, $small) = map { post(10, $_) } "size=$RESULT", '';

        ok Offload::wait_until(10, sub { $disk->hits($rule) }), $name;
        is $n->settled($small)->{status}, 'completed', "$name: others run";
        after($name, '-');
        cmp_ok $n->status($large)->{attempts}, '>', 1, "$name: another attempt";
    }

    # one call fails, each in turn: with nothing done, or with all of it done
    # and an error all the same

    sweep("$durability, one call fails", [ 'write|sync' => 'EIO' ]);
    sweep("$durability, a write arrives and fails",
          [ write => 'EIO', part => 1 << 20 ]);
    $n->finish;

    # a commit that failed and can not be taken back: with no reader to keep
    # the last one in mind, the store is opened anew, and has it

    begin($durability, zone => 'concurrency=1');
    ok Offload::wait_until(20, sub {
        $n->worker_log =~ /msg=started/ }), "$durability: started";
    sweep("$durability, a commit arrives and fails",
          [ write => 'EIO', part => 1 << 20 ], [ write => 'EIO', times => 2 ]);
    $n->finish;

    # full: of jobs that wait, up to the brim of the disk or to its `max`; as
    # they are done there is room again

    for my $full ([ 'no room on the disk', '', 'ENOSPC' ],
                  [ 'max', 'max=16m' ])
    {
        my ($what, $zone, $error) = @$full;
        my $name = "$durability, $what";

        begin($durability, zone => $zone);

        my $gate = "$durability-$what" =~ tr/ /_/r;
        my @waiting = before($gate);

        $disk->fail(grow => $error, path => 'store.mdb') if $error;

        while (my $job = post(200_000, "gate=$gate")) {
            push @waiting, $job;
        }

        ok scalar(%refused), "$name: full after " . @waiting . ' jobs';
        during($name, @waiting);
        refused($name);

        # with memory durability the rings are full then, and take nothing

        if ($durability eq 'disk') {
            is $n->request(DELETE => $waiting[-1]{path})->{status}, 200,
                "$name: one can be canceled";
            delete $expected{$waiting[-1]{id}};
        }

        $back->open_gate($gate);
        ok Offload::wait_until(20, sub { post(10) }),
            "$name: there is room again" if !$error;
        after($name, '-');
        $n->finish;
    }
}


# offloadd does not answer, and more come than there is place for: those that
# wait are withdrawn, the others refused at once

{
    begin('disk', zone => 'lanes=2 slots=64', workers => 1);
    my $pid = $n->offloadd;

    post(10);
    Offload::freeze($pid);

    my @waiting = map {
        my $s = Http::dial($n->port) or die "dial: $!\n";

        Http::write_all($s, Http::bytes(POST => "/soon/$_", body => 'x'));
        [ "/soon/$_", $s ];
    } 1 .. 100;
    my %types;

    for (@waiting) {
        my ($uri, $s) = @$_;
        my $r = $refused{$uri} = Http::response($s);

        $types{ $r->{body} =~ m{"type":"[^"]*?([a-z-]+)"} ? $1 : 'none' }++;
    }

    ok $types{'not-stored'} && $types{'zone-full'}, 'slots exhausted: some '
        . 'wait in vain, others are refused at once' or diag explain \%types;
    kill 'CONT', $pid;
    refused('slots exhausted');
    after('slots exhausted', '-');
    $n->finish;
}

Offload::finish_all();
