# nginx's program is replaced while it works: a new master takes the listening
# sockets over, the old workers finish what they have, and when the new one is
# no good all goes back.  Clients that submit and ask all the while must not
# notice, running jobs are finished by those who have them, the entrances stay
# where they are in both directions, and one offloadd serves all of them.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Load;
use Offload;
use Test::More;

my ($nginx) = grep { -x } map { "$_/nginx" } split(/:/, $ENV{PATH}),
              '/usr/sbin', '/usr/local/sbin';
my $back = Backend->start;

# a new binary has of the environment what the configuration names
my $main = join "\n", map { "env $_;" }
           qw(LD_PRELOAD ASAN_OPTIONS UBSAN_OPTIONS);
my ($n, $mode);


sub old_pid { "$n->{prefix}/nginx.pid.oldbin" }

sub entrances { sort glob "$n->{zone_dir}/r.*.sock" }


sub reachable {
    my @all = entrances();

    return @all && @all == grep { Http::dial($_) } @all;
}


# How many lanes have an owner, as the kernel says.

sub lanes_held {
    my $inode = (stat "$n->{zone_dir}/lock")[1];

    return scalar grep { /^\d+: OFDLCK .*:$inode (\d+) / && $1 < 255 }
           split /\n/, Offload::read_file('/proc/locks');
}


# Running jobs, held at the gate.

sub held {
    my ($gate) = @_;
    my @jobs = map { $n->submit(POST => "/held/$_?gate=$gate", body => $_) }
               1 .. 6;

    $back->wait_for(1, event => 'request', job => $_->{id}) for @jobs;

    return @jobs;
}


sub attempts { join ' ', map { $n->settled($_)->{attempts} // '-' } @_ }


# USR2: a new master beside the old one, with workers.  Its process id.

sub new_binary {
    my ($old) = @_;

    kill 'USR2', $old;
    Offload::wait_until(20, sub {
        -e old_pid() && ($n->master // $old) != $old
            && $n->workers == $n->{workers} }) or return;

    return $n->master;
}


sub gone { my @pids = @_; Offload::wait_until(30, sub {
               !grep { Offload::alive($_) } @pids }) }


sub zone {
    return "jobs $_[0] path=%%ZONE%% store=%%PREFIX%%/store durability=$mode";
}


for (qw(memory disk)) {
    $mode = $_;
    $n = Offload->new(backend => $back, nginx => $nginx, main => $main,
                      zone => zone('16m'))->start;

    my $worker = $n->offloadd;
    my $first = $n->master;
    my @before = entrances();

    is lanes_held(), 2, "$mode: two workers have two lanes";


    # forwards

    my $load = Load->start($n, $back);
    my @held = held("up-$mode");
    my @old = $n->workers($first);
    my $second = new_binary($first);

    ok $second, 'USR2: a new master with workers of its own';
    ok $load->more(30), 'both serve';
    is lanes_held(), 4, 'lanes suffice for all of them';

    kill 'WINCH', $first;
    ok Offload::wait_until(10, sub { lanes_held() == 2 }),
        'WINCH: the old workers give their lanes back';
    ok scalar(grep { Offload::alive($_) } @old), 'while replays hold them up';
    ok $load->more(30), 'the new ones serve alone';

    $back->open_gate("up-$mode");
    is attempts(@held), '1 1 1 1 1 1', 'what the old ones ran they finish';
    ok gone(@old), 'and then they leave';
    ok reachable(), 'the entrances are the old ones\', and there';

    kill 'QUIT', $first;
    ok gone($first), 'QUIT: the old master leaves';
    is_deeply [ entrances() ], \@before, 'and leaves the entrances';
    ok reachable() && $load->more(20), 'which work without it';


    # and back: the old one's workers are started again, the new one is told off

    @held = held("down-$mode");
    @old = $n->workers($second);

    my $third = new_binary($second);

    ok $third, 'the next one';
    kill 'WINCH', $second;
    ok Offload::wait_until(10, sub { lanes_held() == 2 }), 'WINCH';

    my @more = held("more-$mode");

    kill 'HUP', $second;
    ok Offload::wait_until(10, sub { lanes_held() == 4 }),
        'HUP: the old master has workers with lanes again';

    my @new = $n->workers($third);

    kill 'QUIT', $third;
    ok Offload::wait_until(10, sub { lanes_held() == 2 }),
        'QUIT to the new one: its workers give theirs back';
    ok $load->more(20), 'the old ones serve';
    is_deeply [ entrances() ], \@before, 'the entrances are still there';
    $back->open_gate("$_-$mode") for qw(down more);
    is attempts(@held, @more), join(' ', (1) x 12), 'all running jobs finish';
    ok gone($third, @new, @old), 'the new one has left';
    ok Offload::wait_until(10, sub { ($n->master // 0) == $second }),
        'the old one is the one';
    ok reachable() && $load->more(20), 'and works as it did';


    # a new master that is killed half-way: its workers stay without one, and
    # the old ones come back

    $n->allow(qr/process \d+ exited on signal 9/);
    $third = new_binary($second);
    @new = ($n->children('.', $third));
    kill 'WINCH', $second;
    Offload::wait_until(10, sub { lanes_held() == 2 });
    kill 'KILL', $third;
    ok Offload::wait_until(10, sub { $n->workers($second) == 2 }),
        'the new master killed: the old one starts its workers again';
    kill 'QUIT', @new;
    ok gone(@new), 'orphans leave when they are told to';
    ok reachable() && $load->more(20), 'and all is as it was';
    is lanes_held(), 2, 'to the last lane';


    # one that does not want the configuration leaves everything as it was

    $n->allow(qr/\[emerg\].*size was \d+ and is \d+ now/,
              qr/new binary process.*exited with code 1/);
    $n->write_conf(zone => zone('32m'));
    kill 'USR2', $second;
    ok $n->wait_log(qr/size was 16777216 and is 33554432 now/),
        'another geometry: the new binary does not start';
    ok Offload::wait_until(10, sub { !-e old_pid() }), 'and has gone';
    is $n->master, $second, 'the old one stays';
    ok reachable() && $load->more(20), 'and works';
    is lanes_held(), 2, 'with its lanes';
    $n->write_conf(zone => zone('16m'));


    is_deeply [ $load->stop ], [], 'in all of this no client was turned away, '
        . 'and no status URL failed';
    is_deeply [ $load->wrong ], [], 'and the ' . $load->jobs
        . ' jobs they were promised are done, whole, and counted';
    is_deeply [ $n->offloadds ], [ $worker ],
        'by one offloadd from first to last';

    $n->stop;
    is_deeply [ entrances() ], [], 'the end takes the entrances with it';
    $n->finish;
}

Offload::finish_all();
