package Crash;

# The crash matrix: each named place in the code (ZONE_FAILPOINT), who can die
# there, what makes it be passed, and what may then be seen.  t/crash/*.t run
# the rows, each its own; this file is the table and what they have in common.
#
# The rule behind the table: what a client was told is kept.  After 202 the
# job is done, whole; after 503 it is never run; after a broken connection it
# is one or the other, and which is known for each place.  An attempt that may
# have reached the backend has a number of its own.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use JSON::PP;
use Offload;
use POSIX ();
use Test::More;

# place, role: who dies there, as in t/crash/<role>.t; `unit`: only
#              t/unit/<probe>.c gets there, and dies there
# mode         m: durability=memory, d: disk
# probe        what is sent for it (see send_job)
# client       what its client sees when the dead one is back at once;
#              of `cancel`: what who asked for the cancellation sees;
#              of `progress`, `put`: what the backend does that reports
# late         (disk) the same when it stays away for longer than
#              offload_accept_timeout; `-`: the client has its answer by then;
#              `gone`: no answer, and no job
#              of `begun`: it is the command's process that stands there, before
#              it is the program, when offloadd is killed
# job          what becomes of it in the end, unless the client saw a 503; of
#              `control`: what the zone's state is, for the next offloadd
# times        the attempts that its document may show in the end

my $TABLE = <<'EOT';
# place                     role      mode probe     client  late job      times
drain.taken                 offloadd  md   small     202     gone completed 1
files.synced                offloadd  d    spool     202     gone completed 1
files.synced                offloadd  d    blob      202     -    completed 2
drain.before-commit         offloadd  md   small     202     gone completed 1
store.before-commit         offloadd  md   small     202     gone completed 1
claim.commit.before         offloadd  d    small     202     gone completed 1-2
claim.committed             offloadd  d    spool     202     202  completed 1-2
drain.after-commit          offloadd  md   small     202     202  completed 1-2
drain.after-slots           offloadd  md   small     202     202  completed 1-2
slot.write.before           offloadd  md   small     202     202  completed 1-2
slot.put.mid                offloadd  md   small     202     202  completed 1-2
slot.put.copied             offloadd  md   small     202     202  completed 1-2
slot.put.state              offloadd  md   small     202     202  completed 1-2
slot.write.done             offloadd  md   small     202     202  completed 1-2
sq.release.before           offloadd  md   small     202     202  completed 1-2
sq.release.after            offloadd  md   small     202     202  completed 1-2
drain.after-head            offloadd  md   small     202     202  completed 1-2
cq.post.mid                 offloadd  d    small     202     202  completed 1-2
cq.post.done                offloadd  d    spool     202     202  completed 1-2
attempt.before-commit       offloadd  md   cut       202     -    completed 2
attempt.after-commit        offloadd  md   cut       202     -    completed 2-3
attempt.sent                offloadd  md   small     202     -    completed 2
requeue.before-commit       offloadd  md   cut       202     -    completed 2
requeue.after-commit        offloadd  md   cut       202     -    completed 2
result.blob-written         offloadd  md   blob      202     -    completed 2
settle.before-commit        offloadd  md   small     202     -    completed 2
settle.after-commit         offloadd  md   small     202     -    completed 1
slot.free.before            offloadd  md   small     202     -    completed 1
slot.free.noted             offloadd  md   small     202     -    completed 1
slot.free.mid               offloadd  md   small     202     -    completed 1
slot.free.done              offloadd  md   small     202     -    completed 1
cancel.before-commit        offloadd  md   cancel    200     -    canceled  1-2
cq.post.mid                 offloadd  m    cancel    200|503 -    canceled  1
cq.post.done                offloadd  m    cancel    200     -    canceled  1
expire.before-commit        offloadd  md   expire    202     -    expired   1
progress.before-commit      joburl    md   progress  204     -    completed 1
progress.after-commit       joburl    md   progress  204     -    completed 1
defer.before-commit         joburl    md   defer     202     -    completed 2
defer.after-commit          joburl    md   defer     202     -    completed 1
put.renamed                 joburl    md   put       204     -    completed 1
put.before-commit           joburl    md   put       204     -    completed 1
put.after-commit            joburl    md   put       204     -    completed 1
recover.before-commit       offloadd  md   running   202     -    completed 2
recover.claims              offloadd  md   running   202     -    completed 2
claim.recover.before-commit offloadd  md   running   202     -    completed 2
recover.jobs                offloadd  md   running   202     -    completed 2
recover.slots               offloadd  md   running   202     -    completed 2
control.before-commit       control   md   small     broken  -    active    -
control.after-commit        control   md   small     broken  -    paused    -
overdue.before-commit       dead      md   overdue   202     -    failed    1
overdue.after-commit        dead      md   overdue   202     -    failed    1
control.before-commit       dead      md   redrive   broken  -    completed 3
control.after-commit        dead      md   redrive   broken  -    completed 3
control.before-commit       dead      md   purge     broken  -    failed    2
control.after-commit        dead      md   purge     broken  -    failed    2
settle.before-commit        webhook   md   small     202     -    completed 2
settle.after-commit         webhook   md   small     202     -    completed 1
hook.before-send            webhook   md   small     202     -    completed 1
hook.answered               webhook   md   small     202     -    completed 1
hook.answered               webhook   md   gone      202     -    completed 1
hook.before-commit          webhook   md   small     202     -    completed 1
hook.before-commit          webhook   md   gone      202     -    completed 1
hook.after-commit           webhook   md   small     202     -    completed 1
hook.after-commit           webhook   md   gone      202     -    completed 1
exec.begin                  exec      md   small     202     -    completed 2
exec.session                exec      md   begun     202     -    completed 2
exec.child                  exec      md   begun     202     -    completed 2
attempt.sent                exec      md   waits     202     -    completed 2
exec.output                 exec      md   waits     202     -    completed 2
result.blob-written         exec      md   blob      202     -    completed 2
exec.ended                  exec      md   small     202     -    completed 2
settle.before-commit        exec      md   small     202     -    completed 2
settle.after-commit         exec      md   small     202     -    completed 1
attempt.after-commit        batch     md   small     202     -    completed 2
bulk.joined                 batch     md   small     202     -    completed 2
attempt.sent                batch     md   small     202     -    completed 2
bulk.answered               batch     md   small     202     -    completed 2
settle.before-commit        batch     md   small     202     -    completed 2
settle.after-commit         batch     md   small     202     -    completed 1-2
claim.remove.begin          withdrawn d    small     broken  -    absent    -
claim.remove.before-commit  withdrawn d    small     broken  -    absent    -
claim.recover.before-commit withdrawn d    small     broken  -    absent    -
recover.claims              withdrawn d    small     broken  -    absent    -
claim.refused               full      d    large     503|broken -    absent    -
slot.fill.before            nginx     md   small     broken  -    absent    -
slot.put.mid                nginx     md   small     broken  -    absent    -
slot.put.copied             nginx     md   small     broken  -    absent    -
slot.put.state              nginx     md   small     broken  -    absent    -
slot.fill.mid               nginx     md   small     broken  -    absent    -
slot.fill.done              nginx     md   spool     broken  -    absent    -
sq.reserve.pad              nginx     md   wrap      broken  -    absent    -
sq.reserve.done             nginx     md   small     broken  -    absent    -
sq.publish.noted            nginx     md   small     broken  -    absent    -
sq.publish.before           nginx     md   spool     broken  -    absent    -
sq.publish.after            nginx     md   small     broken  -    completed 1
sq.publish.done             nginx     md   spool     broken  -    completed 1
cq.pop.mid                  nginx     m    cancel    broken  -    canceled  1
cq.pop.mid                  nginx     d    small     broken  -    completed 1
sq.withdraw.before          nginx     d    stopped   broken  -    completed 1
sq.withdraw.done            nginx     d    stopped   broken  -    absent    -
sq.withdraw.pending         nginx     d    taken     broken  -    absent    -
lane.repair.undone          repair    md   small     broken  -    absent    -
lane.repair.walked          repair    md   small     broken  -    absent    -
lane.repair.freed           repair    md   small     broken  -    absent    -
lane.repair.counted         repair    md   small     broken  -    absent    -
lane.repair.dropped         repair    md   small     broken  -    absent    -
lane.repair.done            repair    md   small     broken  -    absent    -
zone.create.locked          master    md   running   202     -    completed 2
zone.create.owned           master    md   running   202     -    completed 2
zone.create.allocated       master    md   running   202     -    completed 2
zone.create.written         master    md   running   202     -    completed 2
zone.create.ready           master    md   running   202     -    completed 2
zone.create.opened          master    md   running   202     -    completed 2
zone.create.renamed         master    md   running   202     -    completed 2
slot.undo.before            unit      md   repair    -       -    -         -
slot.undo.mid               unit      md   repair    -       -    -         -
slot.undo.done              unit      md   repair    -       -    -         -
EOT

# bytes, and no more, are kept of a result below /cut
our $CUT = 1000;

my @COLUMNS = qw(place role mode probe client late job attempts);
my %MODE = (m => 'memory', d => 'disk');


sub table {
    return map {
        my %row;

        @row{@COLUMNS} = split;
        die "a row of the table is not whole: $_\n"
            if grep { !defined $row{$_} } @COLUMNS;
        \%row;
    } grep { !/^#/ } split /\n/, $TABLE;
}


# The names in the sources.

sub places {
    my %places;

    for my $file (glob "$Offload::ROOT/src/*/*.[ch]") {
        $places{$_} = 1 for Offload::read_file($file)
                            =~ /ZONE_FAILPOINT\("([^"]+)"\)/g;
    }

    return sort keys %places;
}


# Runs a role's rows in one mode, each as a subtest in which the process must
# die at the place: a row that is never hit is a failure.

sub run {
    my ($role, $mode, $run) = @_;
    my @rows = grep { $_->{role} eq $role
                      && grep { $MODE{$_} eq $mode } split //, $_->{mode} }
               table();

    if (defined $ENV{OFFLOAD_PLACE}) {          # while one is looked into
        @rows = grep { $_->{place} =~ /$ENV{OFFLOAD_PLACE}/ } @rows;
    }

    for my $row (@rows) {
        subtest "$row->{place}, $role, $mode" => sub { $run->($row) };
    }
}


my ($back, %known, %once);

sub backend { $back //= Backend->start }


# An nginx with its worker off: the tests start offloadd themselves.

sub nginx {
    my ($mode, %o) = @_;
    my $zone = delete $o{zone} // '';
    my $build = Offload::failpoints_dir();

    BAIL_OUT("$build: run make failpoints first") if !-e "$build/offloadd";

    $zone .= ' durability=disk store=%%PREFIX%%/store' if $mode eq 'disk';
    $zone = "4m lanes=4 $zone" if $zone !~ /^\d/;

    my $n = Offload->new(backend => backend(), build => $build, workers => 1,
        worker => 'off', zone => "jobs $zone path=%%ZONE%%",
        http => server($mode), %o);

    $n->{mode} = $mode;
    $n->allow(qr/worker process \d+ exited on signal 9/);

    return $n;
}


sub server {
    my ($mode) = @_;
    my $soon = $mode eq 'disk' ? 'offload_accept_timeout 300ms;' : '';
    my $while = $mode eq 'disk' ? 'offload_accept_timeout 800ms;' : '';
    my $patient = $mode eq 'disk' ? 'offload_accept_timeout 30s;' : '';

    return <<"EOT";
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    $patient
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /soon/ { offload jobs; proxy_pass http://%%BACKEND%%; $soon }
    location /while/ { offload jobs; proxy_pass http://%%BACKEND%%; $while }
    location /once/ {
        offload jobs; proxy_pass http://%%BACKEND%%;
        offload_delivery at-most-once;
    }
    location /cut/ {
        offload jobs; proxy_pass http://%%BACKEND%%;
        offload_max_result $CUT truncate;
    }
    location /jobs/ { offload_status jobs; }
}
EOT
}


# The signal that ended this child; -1: it lives.

sub ended {
    my ($pid, $seconds) = @_;
    my $got = Offload::wait_until($seconds // 20, sub {
        waitpid($pid, POSIX::WNOHANG()) == $pid });

    return $got ? $? & 127 : -1;
}


sub died {
    my ($pid, $place) = @_;
    my $signal = ended($pid);

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is $signal, 9, "offloadd dies at $place";

    if ($signal == -1) {
        kill 'KILL', $pid;
        waitpid $pid, 0;
    }
}


# On disk nginx refuses at once when offloadd has been away for long, as it may
# have been when others' rows took their time.

sub present {
    my ($n) = @_;
    my $recent = sub {
        my $raw = Offload::read_file("$n->{zone_dir}/zone.v1");

        unpack('x2056 Q', $raw) > (time - 3) * 1000;
    };

    return if $n->{mode} ne 'disk' || $recent->();

    my $pid = $n->by_hand;

    ok Offload::wait_until(20, $recent), 'offloadd is back';
    kill 'KILL', $pid;
    waitpid $pid, 0;
}


sub stop {
    my ($pid) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    kill 'TERM', $pid;
    is ended($pid), 0, 'offloadd stops when told to';
}


# ---- jobs: sent without waiting, since who is to answer may be dead

my %PROBE = (
    small   => { size => 200 },
    spool   => { size => 900_000 },
    wrap    => { size => 40_000 },
    large   => { size => 250_000, query => 'gate=full' },
    blob    => { size => 200, query => 'size=300000&chunked=1' },
    cut     => { size => 200, query => 'close=body&size=9000&cut=1' },
    running => { size => 200, query => 'gate=' },
    cancel  => { size => 200, query => 'gate=' },
    later   => { size => 200, query => 'status=202&h=Offload-Defer:1' },
    stopped => { size => 200 },
    taken   => { size => 200 },
);

my $serial = 0;

sub send_job {
    my ($n, $probe, %o) = @_;
    my $i = $serial++;
    my $body = "job $i " . 'y' x $PROBE{$probe}{size};
    my $uri = ($o{at} // '/crash') . "/$i?" . ($PROBE{$probe}{query} // '');

    $uri .= $i if $uri =~ /gate=$/;

    my $job = { n => $n, probe => $probe, uri => $uri, gate => $i,
                sha => sha256_hex($body), cut => $probe eq 'cut' };

    if ($job->{sock} = Http::dial($n->port)) {
        Http::write_all($job->{sock}, Http::bytes('POST', $uri,
                                                  body => $body));
    }

    return $known{$uri} = $job;
}


# What the client saw: a status, or `broken`.

sub answer {
    my ($job) = @_;
    my $s = delete $job->{sock} or return $job->{seen} //= 'broken';
    my $r = Http::response($s, deadline => 30);

    $job->{seen} = $r->{error} ? 'broken' : $r->{status};
    $job->{error} = $r->{error};

    if (my $accepted = Offload::job($r)) {
        @$job{qw(id path)} = @$accepted{qw(id path)};
    }

    return $job->{seen};
}


sub sightings {
    my ($job) = @_;

    return grep { $_->{uri} eq $job->{uri} } backend()->journal(
        event => 'request');
}


# One that runs, and whose cancellation is under way.

sub send_cancel {
    my ($n) = @_;
    my $job = send_job($n, 'cancel');

    answer($job);
    is $job->{seen}, 202, 'what is to be canceled is accepted';
    Offload::wait_until(20, sub { sightings($job) });
    $job->{sock} = Http::dial($n->port);
    Http::write_all($job->{sock}, Http::bytes('DELETE', $job->{path}));

    return $job;
}


# ---- the verdict

sub among { my ($value, $list) = @_; grep { $_ eq $value } split /\|/, $list }


sub bounds {
    my ($text) = @_;
    my ($from, $to) = split /-/, $text;

    return ($from, $to // $from);
}


# What is wrong with this job, in the end?

sub wrong {
    my ($job, %want) = @_;
    my ($n, $uri) = @$job{qw(n uri)};
    my $seen = answer($job);
    my @wrong;

    push @wrong, "$uri: the client saw $seen " . ($job->{error} // '')
        if !among($seen, $want{client});

    # refused is never run: looked at when all is over, again
    if ($seen =~ /^5/ && $job->{probe} ne 'cancel' || $want{job} eq 'absent') {
        $job->{refused} = 1;
        push @wrong, "$uri: run after $seen" if sightings($job);
        return @wrong;
    }

    # of one whose answer was lost, the backend knows the id
    if (!$job->{id}) {
        my @seen;

        Offload::wait_until(20, sub { @seen = sightings($job) });
        return @wrong, "$uri: lost" if !@seen;
        $job->{id} = $seen[0]{job};
        $job->{path} = "/jobs/$job->{id}";
    }

    if ($want{job} eq 'expired') {
        push @wrong, "$uri: does not expire"
            if !Offload::wait_until(20, sub {
                $n->get($job->{path})->{status} == 410 });
        return @wrong;
    }

    return @wrong, wrong_end($job, %want);
}


sub wrong_end {
    my ($job, %want) = @_;
    my ($n, $uri) = @$job{qw(n uri)};
    my $doc = $n->settled($job);
    my $attempts = $doc->{attempts} // 0;
    my ($from, $to) = bounds($want{attempts});
    my @seen = sightings($job);
    my %numbers = map { $_->{attempt} => 1 } @seen;
    my @wrong;

    push @wrong, "$uri: is " . ($doc->{status} // 'lost') . ' '
                 . ($doc->{error}{code} // '')
        if !among($doc->{status} // 'lost', $want{job});
    push @wrong, "$uri: failed, and not as lost"
        if ($doc->{error}{code} // 'lost') ne 'lost';
    push @wrong, "$uri: $attempts attempts"
        if $attempts < $from || $attempts > $to;
    push @wrong, "$uri: attempts at the backend: "
                 . join ' ', map { $_->{attempt} } @seen
        if keys %numbers != @seen || grep({ $_ > $attempts } keys %numbers)
           || grep { $_->{job} ne $job->{id} } @seen;
    push @wrong, "$uri: another body at the backend"
        if grep { $_->{sha} ne $job->{sha} } @seen;

    if (($doc->{status} // '') eq 'completed') {
        push @wrong, "$uri: its last attempt was never at the backend"
            if !$numbers{$attempts};
        push @wrong, wrong_result($job);
    }

    return @wrong;
}


sub wrong_result {
    my ($job) = @_;
    my $r = $job->{n}->result($job);
    my ($size) = $job->{uri} =~ /\bsize=(\d+)/;

    return "$job->{uri}: result $r->{status} " . ($r->{error} // '')
        if $r->{status} != 200 || $r->{error};
    return if $size ? $r->{body} eq Backend::content($size)
                    : (eval { decode_json($r->{body}) } // {})->{sha}
                      eq $job->{sha};
    return "$job->{uri}: another result";
}


# These jobs came to what the row says.

sub verdict {
    my ($name, $want, @jobs) = @_;
    my @wrong = map { wrong($_, %$want) } @jobs;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok !@wrong, $name or diag join "\n", @wrong;
}


# What a row means for a job that asked for delivery at most once: where others
# are attempted again, it is lost, and says so.

sub at_most_once {
    my ($row) = @_;
    my ($from, $to) = bounds($row->{attempts});

    return { %$row, attempts => 1,
             job => join '|', $from == 1 ? 'completed' : (),
                              $to > 1 ? 'failed' : () };
}


# Those that came when it was over: as if nothing had happened.

sub afterwards {
    my (@jobs) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    verdict('what comes afterwards is done at once',
            { client => 202, job => 'completed', attempts => 1 }, @jobs);
}


# The zone's file keeps every rule of its format, and all is accounted for.

sub sound {
    my ($n) = @_;
    my $tool = Offload::build_dir() . '/unit/tool/zonecheck';
    my $found = `$tool $n->{zone_dir}/zone.v1 2>&1`;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok $? == 0, 'the zone is sound' or diag $found || "$tool: $?";
    $n->check_conserved;
}


sub finish {
    my (@nginx) = @_;

    $_->finish for @nginx;

    my @run = grep { $known{$_->{uri}} && $known{$_->{uri}}{refused} }
              backend()->journal(event => 'request');

    is_deeply [ map { $_->{uri} } @run ], [],
        'nothing was run that was refused or absent';
    done_testing();
}

1;
