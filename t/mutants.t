# A test that passes says little unless it would fail.  Here one step is left
# out of the product at a time: a repair, a check, an fsync, an order between
# two stores to memory; and the shortest test that exists for it must notice.
# Each test is run without the mutant first, where it has to pass.
#
# In the suite a part of the table is run, a step of each protocol; `make
# mutants` (OFFLOAD_MUTANTS=all) runs all, OFFLOAD_MUTANTS=name those that
# match.  Two steps that stand in for each other are left out together.  The
# orders of memory of a slot's seqlock have no mutant: an x86 never breaks
# them, and its atomic words are no data race to a sanitizer.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Scenario ();
use Test::More;

# name         in the sources: ZONE_MUTANT("name"), or enum zone_order
# noticed by   story: Scenario.pm; unit: t/unit/; order: the same compiled
#              with that order weakened, under ThreadSanitizer where it says
# suite        +: run in the suite

my $TABLE = <<'EOT';
# name               noticed by              suite
drain.head-last      story uncommitted       +
drain.known          story reread            +
drain.slots          story slots             +
drain.rewind         story failing           +
lane.lock            story lanes
sweep.waiting        story sweep
zone.owed            story owed              +
withdraw.claim       story withdrawn         +
claim.settle         story undone            +
claim.withdraw       story undone            +
claim.recover        story withdrawn_dead
answer.id            story late              +
recover.running      story attempts          +
recover.slots        story attempts
attempt.start        story attempts          +
result.whole         story torn
once.recover         story once              +
once.cut-off         story once
worker.lock          story alone
store.owner,loop.replaced
                     story overtaken
exec.files           story command           +
exec.limits          story command
exec.signals         story command
exec.code            story command
exec.group           story children          +
exec.told            story children
exec.kill            story children
exec.death           story orphan
exec.orphan          story orphan
cgi.dropped          unit worker/cgi         +
bulk.json            unit worker/bulk        +
trace.child          unit worker/trace       +
files.sync           story power             +
files.sync-names     story power
store.sync           story power
retry.method         unit worker/retry       +
retry.max            unit worker/retry
repair.undo          unit repair             +
repair.by-id         unit repair
repair.version       unit repair
repair.count         unit repair
repair.accepted      unit repair
repair.answers       unit repair
worker.finish-free   unit repair
worker.torn-slots    unit repair
publish.note         unit repair
slot.free-note       unit repair
slot.version         unit slot
slot.owner           unit slot
claim.final          unit claim              +
withdraw.head        unit claim              +
answers.full         unit cq                 +
attempt.lease        unit worker/engine      +
store.unlink-last    unit worker/engine      +
report.token         unit worker/engine      +
rate.pending         unit worker/rate
rate.restarted       unit worker/rate        +
fair.passed          unit worker/queue       +
hook.410             unit worker/hook
hook.file            story told
hook.sign            story told              +
hook.unsigned        story told
hook.guard           story told              +
hook.redirect        story told
hook.pause           story told
hook.gone            story gone              +
hook.gone-due        story gone
SQ_TAIL_STORE        order ring,thread       +
SQ_TAIL_LOAD         order ring,thread
SQ_HEAD_STORE        order ring,thread
SQ_HEAD_LOAD         order ring,thread
CQ_TAIL_STORE        order cq,thread
CQ_TAIL_LOAD         order cq,thread
CQ_HEAD_STORE        order cq,thread
CQ_HEAD_LOAD         order cq,thread
SLEEP_FENCE          order wake
WAKE_FENCE           order wake
EOT

my %DISK = map { $_ => 1 } qw(power failing);       # need t/lib/Disk.pm

my @rows = map { my ($name, $kind, $test, $suite) = split;
                 { name => $name, kind => $kind, test => $test,
                   suite => $suite } }
           grep { !/^#/ } split /\n/, $TABLE =~ s/,(\S+)\n +/,$1 /r;
my $which = $ENV{OFFLOAD_MUTANTS} // '';
my $build = Offload::failpoints_dir();

plan skip_all => "$build: run make failpoints first" if !-e "$build/offloadd";


# ---- the table and the sources have the same names

{
    my %in;

    for my $file (glob "$Offload::ROOT/src/*/*.[ch]") {
        my $text = Offload::read_file($file);

        $in{$_} = 1 for $text =~ /ZONE_MUTANT\("([^"]+)"\)/g;
        next if $file !~ /zone_order\.h$/;

        my ($enum) = $text =~ /enum zone_order \{(.*?)\};/s;

        $in{$_} = 1 for $enum =~ /^\s+ZONE_(\w+)(?![\w ]*=)/mg;
    }

    is_deeply [ sort map { split /,/, $_->{name} } @rows ], [ sort keys %in ],
        'each mutant in the sources is in the table, and the other way round';
}


# ---- a test, run: what it says first that is not ok, or nothing

my @NOT_OK = (qr/^not ok\b.*/m, qr/^Bail out!.*/m,
              qr/^WARNING: ThreadSanitizer.*/m);

sub failure {
    my ($mutant, $signal, @command) = @_;

    pipe my $out, my $in or die "pipe: $!\n";

    my $pid = fork // die "fork: $!\n";

    if (!$pid) {
        setpgrp if $signal =~ /^-/;
        open STDOUT, '>&', $in;
        open STDERR, '>&', $in;
        delete @ENV{grep { /^OFFLOAD_(?:MUTANT|FAILPOINT)/ }
                    keys %ENV};
        $ENV{OFFLOAD_MUTANT} = $mutant if defined $mutant;
        exec @command or POSIX::_exit(127);
    }

    close $in;

    my ($said, $failed) = ('', undef);

    while (!defined $failed && defined(my $line = <$out>)) {
        $said .= $line;
        ($failed) = map { $line =~ /($_)/ } @NOT_OK;
    }

    # what it started goes with it
    kill $signal, $pid if defined $failed;
    1 while defined readline $out;
    waitpid $pid, 0;

    return $failed if defined $failed;
    return if $? == 0;

    diag($said);

    return "status $?";
}


# A build of its own: the order is weakened by the compiler.

sub weakened {
    my ($unit, $san, $order) = @_;
    my $b = 'build/weak/' . lc($order // 'none') . ($san ? "-$san" : '');
    my $x = '-DOFFLOAD_WEAK=ZONE_' . ($order // 'ORDERS_ALL');

    $x .= " -fsanitize=$san -O1 -Wno-tsan -fno-builtin-memcpy" if $san;

    my $make = "make -s -C $Offload::ROOT CC=gcc B=$b X='$x'";
    my $said = `$make $b/unit/$unit 2>&1`;

    if ($? != 0) {
        diag($said);
        return;
    }

    return "$Offload::ROOT/$b/unit/$unit";
}


sub run {
    my ($row, $mutant) = @_;
    my ($unit, $san) = split /,/, $row->{test};

    local $ENV{TSAN_OPTIONS} = 'halt_on_error=1';

    return failure($mutant, 'TERM', $^X, "-I$FindBin::Bin/lib",
                   '-MScenario', '-e', 'run', $row->{test})
        if $row->{kind} eq 'story';

    return failure($mutant, '-KILL', "$build/unit/$unit")
        if $row->{kind} eq 'unit';

    my $program = weakened($unit, $san, $mutant) or return 'no program';

    return failure(undef, '-KILL', $program);
}


# ---- each row: without, and with

my %good;

for my $row (@rows) {
    my ($name, $test) = ($row->{name}, "$row->{kind} $row->{test}");

    next if $which eq '' ? !$row->{suite}
                         : $which ne 'all' && $name !~ /$which/;

  SKIP: {
        skip "$name: there is no t/lib/Disk.pm", 1
            if $DISK{$row->{test}} && !-e "$FindBin::Bin/lib/Disk.pm";

        if (!exists $good{$test}) {
            my $failure = run($row);

            $good{$test} = ok !defined $failure, "$test: passes"
                or diag($failure);
        }

        my $failure = run($row, $name);

        ok $good{$test} && defined $failure, "$name: $test notices it";
        note($failure) if defined $failure;
    }
}

done_testing();
