# Whose turn it is decides what a client waits for: a tenant with a thousand
# jobs must not bury another's one, nor a slow queue the others, nor what is
# urgent wait for what is not; and what is not urgent must not wait for ever.
# All of this has to be so after a kill as well, when the order is made anew
# from the store.  The backend's journal is the witness.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;
use Time::HiRes qw(time);
use Util qw(wait_until);

my $LOCATIONS = join '', map { "location /$_ { offload $_; "
                               . "proxy_pass http://%%BACKEND%%; }\n" }
                qw(jobs slow keys ranks later);
my $back = Backend->start;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
                     http => <<"EOT")->start;
offload_queue slow zone=jobs { concurrency 2; }
offload_queue keys zone=jobs { concurrency 1; fair \$http_x_key; }
offload_queue ranks zone=jobs { concurrency 1; priority \$http_x_rank; }
offload_queue later zone=jobs { delay \$http_x_delay max=1h; }

server {
    listen 127.0.0.1:%%PORT%%;
    $LOCATIONS
    location /status/ { offload_status jobs; }
}
EOT
my $pid;


sub worker { $pid = $n->by_hand }


sub kill_worker {
    kill $_[0] // 'KILL', $pid;
    waitpid $pid, 0;
}


sub post {
    my ($count, $uri, @headers) = @_;

    return map { $n->submit(POST => $uri . ($uri =~ /\?/ ? '&' : '?') . "n=$_",
                            body => 'x', headers => [@headers]) } 1 .. $count;
}


# The URIs of a part, as the backend has met them.

sub seen {
    my ($part) = @_;

    return grep { m{^/\Q$part\E} } map { $_->{uri} }
           $back->journal(event => 'request');
}


sub place {
    my ($part, $what) = @_;
    my @seen = seen($part);
    my ($at) = grep { $seen[$_] =~ $what } 0 .. $#seen;

    return defined $at ? $at + 1 : 0;
}


sub all_completed {
    my ($name, @jobs) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    is scalar(grep { ($n->settled($_, deadline => 60)->{status} // '')
                     eq 'completed' } @jobs), scalar(@jobs), $name;
}


# a tenant's thousand, another's one

{
    my @many = post(1000, '/keys/many', 'X-Key' => 'many');
    my @one = post(1, '/keys/one', 'X-Key' => 'one');

    worker();
    ok wait_until(20, sub { place('keys', qr/one/) }), 'one of another key';
    cmp_ok place('keys', qr/one/), '<=', 2, 'has the second turn';

    kill_worker();
    push @one, post(1, '/keys/two', 'X-Key' => 'two');

    my $before = seen('keys');

    worker();
    ok wait_until(20, sub { place('keys', qr/two/) }), 'after a kill, too';

    # what was on its way when offloadd was killed still comes, and again
    cmp_ok place('keys', qr/two/), '<=', $before + 10, 'soon';
    all_completed('all 1000 are done, and the others', @many, @one);

    my (%first, @order);

    $first{$_}++ or push @order, m{/many\?n=(\d+)} for seen('keys');
    is "@order", join(' ', 1 .. 1000), 'a key\'s own are done in order';
}


# a slow queue has its own number, and the others go on

{
    my @slow = post(6, '/slow/?gate=slow');
    my @fast = post(20, '/jobs/fast');

    all_completed('a slow queue keeps no other', @fast);
    is scalar(seen('slow')), 2, 'of the slow one 2 are running';
    kill_worker();
    worker();
    ok wait_until(20, sub { seen('slow') == 4 }), 'and 2 again after a kill';
    all_completed('others still go on', post(5, '/jobs/more'));
    is scalar(seen('slow')), 4, 'there it is still these';
    $back->open_gate('slow');
    all_completed('in the end all are done', @slow);
}


# priorities: the urgent first, the others not never

{
    my @gate = post(1, '/ranks/gate?gate=ranks', 'X-Rank' => '9');

    ok wait_until(20, sub { seen('ranks') == 1 }), 'one holds the queue';

    my @jobs = (post(5, '/ranks/low', 'X-Rank' => '0'),
                post(40, '/ranks/high', 'X-Rank' => '9'),
                post(5, '/ranks/none'));

    kill_worker();
    worker();
    ok wait_until(20, sub { seen('ranks') == 2 }), 'sent again after a kill';
    $back->open_gate('ranks');
    all_completed('all are done', @gate, @jobs);

    my @order = map { m{/(high|none|low)} } seen('ranks');
    my ($low) = grep { $order[$_] eq 'low' } 0 .. $#order;
    my ($none) = grep { $order[$_] eq 'none' } 0 .. $#order;

    is scalar(grep { $_ eq 'high' } @order[0 .. 9]), 10, 'the urgent first';
    ok $low > 10 && $low < 30 && $none > 10 && $none < 30,
        'but none waits for all of them' or diag "@order";
    is $order[-1], 'low', 'the least urgent is last';
}


# a delay: not before, over a kill, and at once when it is time

{
    my $posted = time;
    my @jobs = (post(1, '/later/a', 'X-Delay' => '2'),
                post(1, '/later/b', 'X-Delay' => '3'), post(1, '/later/c'));

    all_completed('one without a delay is done', $jobs[2]);
    is $n->status($jobs[0])->{status}, 'queued', 'the others are queued';
    kill_worker();
    worker();
    all_completed('and done in time', @jobs);

    my %at = map { $_->{uri} =~ m{/later/(\w)} ? ($1 => $_->{time} - $posted)
                                               : () }
             $back->journal(event => 'request');

    ok $at{a} >= 1.9 && $at{b} >= 2.9, 'not before it'
        or diag "$at{a} $at{b}";
    cmp_ok $at{a}, '<', 6, 'nor long after';
}

kill_worker('TERM');

Offload::finish_all();
