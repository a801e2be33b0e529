# A receiver that takes connections and never answers holds what is sent to it
# for twenty seconds, each time.  It must not keep others from being told: once
# it is known it has a few places, until it answers.  One that answers without
# end, in its header or after it, must not be read to that end.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Offload;
use Receiver;
use Test::More;

my $ALL = 33;                                   # with more than half of the
                                                # places taken none is given;
my $FEW = 4;                                    # those of one that is slow

my $back = Backend->start;
my ($stuck, $fine) = map { Receiver->start } 1 .. 2;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(),
    zone => 'jobs 8m path=%%ZONE%%', http => <<"EOT")->start;
offload_queue stuck zone=jobs { webhook @{[ $stuck->url ]}/stuck; }
offload_queue fine zone=jobs {
    webhook @{[ $fine->url ]}/fine?\$args; webhook_allow 127.0.0.1;
}
server {
    listen 127.0.0.1:%%PORT%%;
    location /stuck/ { offload stuck; proxy_pass http://%%BACKEND%%; }
    location /fine/ { offload fine; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);

$n->offloadd;


sub hook { ($n->status($_[0])->{webhooks} // [])->[0] // { status => '' } }


sub delivered {
    my ($job, $name, $seconds) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok Offload::wait_until($seconds // 15, sub {
        hook($job)->{status} eq 'delivered' }), $name;
}


sub peak {
    my ($kb) = Offload::read_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+)/m;

    return $kb / 1024;
}


# ---- answers without end

for my $plan ('header', 'huge') {
    my $before = peak();
    my $job = $n->submit(POST => "/fine/?plan=$plan", body => 'x');

    delivered($job, "$plan: it has answered");
    is hook($job)->{attempts}, 1, 'at the first attempt';

  SKIP: {
        skip 'memory is the sanitizer\'s', 1 if Offload::asan();
        cmp_ok peak() - $before, '<', 16, 'and nothing is kept of it';
    }
}


# ---- no answer

$stuck->says('/stuck', 'never');

my @jobs = map { $n->submit(POST => '/stuck/', body => 'x') } 1 .. $ALL;

is scalar($stuck->wait_for($ALL, '/stuck')), $ALL,
    'it is sent all there may be';

my $other = $n->submit(POST => '/fine/', body => 'x');

delivered($other, 'when it did not answer in time another is told', 60);
is scalar(grep { my $job = $_; Offload::wait_until(60, sub {
    my $hook = hook($job);
    $hook->{status} eq 'pending' && $hook->{attempts} == 1 }) } @jobs), $ALL,
    'each attempt has failed, and comes again';

# all of them are due, and so is another one's

$clock->ahead(6);
is scalar($stuck->wait_for($ALL + $FEW, '/stuck')), $ALL + $FEW,
    'some are tried';
$other = $n->submit(POST => '/fine/', body => 'x');
delivered($other, 'others are told at once');
is scalar(() = $stuck->seen('/stuck')), $ALL + $FEW, 'no more are tried';
is scalar(grep { hook($_)->{attempts} == 1 } @jobs), $ALL,
    'and those that wait have lost no attempt';

# until it answers

$stuck->says('/stuck', 200);
$clock->ahead(600);
# a few, and with the first answer of these as many as there are
cmp_ok scalar($stuck->wait_for($ALL + 2 * $FEW, '/stuck')), '>=',
    $ALL + 2 * $FEW, 'it is tried again';
$clock->ahead(600);
is scalar(grep { my $job = $_; Offload::wait_until(20, sub {
    hook($job)->{status} eq 'delivered' }) } @jobs), $ALL, 'and then has all';

kill 'TERM', $pid;
waitpid $pid, 0;
Offload::finish_all();
