# offloadd dies while it starts a command, while it takes in what it prints, or
# between its end and the commit that says so.  What was begun is not to run on
# with nobody to hear of it, nor to be begun by nobody; the next offloadd begins
# it again, under the next number, or says that it is lost where that was asked
# for.  What was printed before is no part of the result.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Command;
use Crash;
use Test::More;
use Util qw(parent pids read_file stopped wait_until);

my $HTTP = <<'EOT';
offload_queue commands zone=jobs {
    exec %%PREFIX%%/do; exec_env MARKS=%%PREFIX%%/marks;
}
server {
    listen 127.0.0.1:%%PORT%%;
    offload_accept_timeout 30s;
    location /command/ { offload commands; }
    location /once/ { offload commands; offload_delivery at-most-once; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $serial = 0;
my @all;


# Those that began, as they wrote it down: [ attempt, pid ].

sub runs {
    my ($n, $mark) = @_;
    my $file = "$n->{prefix}/marks/$mark.log";

    return -e $file ? map { [ split ] } split /\n/, read_file($file) : ();
}


# The command's process, which is offloadd still: it stands at that place.

sub killed_over {
    my ($n, $pid, $place) = @_;
    my $child;

    ok wait_until(20, sub {
        ($child) = grep { (parent($_) // 0) == $pid && stopped($_) } pids();
        $child }), "a command is at $place" or return;

    kill 'KILL', $pid;
    waitpid $pid, 0;

    kill 'CONT', $child if $place eq 'exec.session';
    ok Command::gone($child), 'it does not become the program';
}


sub one {
    my ($n, $row, $at) = @_;
    my $mark = 'crash' . $serial++;
    my $begun = $row->{probe} eq 'begun';
    my $size = $row->{probe} eq 'blob' ? 500_000 : 0;

    Crash::present($n);
    Command::open_gate($n, $mark) if $row->{probe} ne 'waits';

    my $pid = $n->by_hand($row->{place} . ($begun ? ':1s' : ''));
    my $job = $n->submit(POST => "$at?do=record&mark=$mark&size=$size",
                         body => 'x' x 100);

    $begun ? killed_over($n, $pid, $row->{place})
           : Crash::died($pid, $row->{place});

    my @first = runs($n, $mark);

    ok Command::gone($_->[1]), 'the command is gone with it' for @first;
    is scalar @first, 0, 'it has not begun'
        if $row->{place} =~ /exec\.(?:begin|session|child)/;
    is scalar @first, 1, 'it has begun'
        if $row->{place} !~ /exec\.(?:begin|session|child)|sent/;

    $pid = $n->by_hand;
    Command::open_gate($n, $mark);

    my $doc = $n->settled($job);
    my @runs = map { $_->[0] } runs($n, $mark);
    my @one = grep { $_ == 1 } @runs;

    if ($at eq '/once/' && $row->{attempts} > 1) {
        is "$doc->{status} $doc->{error}{code} $doc->{attempts}",
            'failed lost 1', 'asked for at most once, it is lost';
        is_deeply \@runs, \@one, 'and not begun again';

    } else {
        is "$doc->{status} $doc->{attempts}",
            "$row->{job} $row->{attempts}", 'attempted again and counted';
        is_deeply \@runs, [ @one ? 1 : (),
                            $doc->{attempts} > 1 ? 2 : () ],
            'each run under a number of its own';
        ok $n->result($job)->{body}
           eq "begun\n" . 'x' x $size . "attempt $doc->{attempts}",
            'the result is the last one\'s, whole';
    }

    Crash::sound($n);
    Crash::stop($pid);
}


for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode, zone => 'ttl=1h', http => $HTTP);

    Command::install($n, 'do');
    $n->start;
    push @all, $n;

    Crash::run('exec', $mode, sub {
        my ($row) = @_;

        one($n, $row, $_) for '/command/', '/once/';
    });
}

Crash::finish(@all);
