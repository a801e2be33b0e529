# The store is full: who waits for a place in it is refused, and offloadd dies
# between the withdrawal and the answer.  What was refused is never run, what
# was accepted is done, and when there is room again jobs are accepted.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;
use Util qw(alive);

my $n = Crash::nginx('disk', zone => '64m lanes=2 max=16m concurrency=200');

$n->start;

Crash::run('full', 'disk', sub {
    my ($row) = @_;
    my $pid = $n->by_hand($row->{place});
    my @jobs;

    # on a slow machine one or the other is given up before the store is full

    do {
        push @jobs, Crash::send_job($n, $row->{probe}, at => '/soon');
        Crash::answer($jobs[-1]);
    } until !alive($pid) || @jobs > 200;

    my $refused = pop @jobs;
    my @late = grep { $_->{seen} eq 503 } @jobs;
    my @accepted = grep { $_->{seen} eq 202 } @jobs;

    Crash::died($pid, $row->{place});
    $pid = $n->by_hand;

    my $next = Crash::send_job($n, $row->{probe}, at => '/soon');

    Crash::answer($next);
    Crash::backend()->open_gate('full');
    Crash::verdict("its job: client $row->{client}, $row->{job}", $row,
                   $refused);
    Crash::verdict('so is the next',
        { client => '503|507|broken', job => 'absent' }, $next);
    Crash::verdict(@late . ' that were given up are not',
        { client => 503, job => 'absent' }, @late) if @late;
    Crash::verdict(@accepted . ' that were accepted are done',
        { client => 202, job => 'completed', attempts => '1-2' }, @accepted);

    my $later;

    ok Offload::wait_until(20, sub {
        $later = Crash::send_job($n, 'small');
        Crash::answer($later) == 202 }), 'then there is room again';
    Crash::afterwards($later);
    Crash::sound($n);
    Crash::stop($pid);
});

Crash::finish($n);
