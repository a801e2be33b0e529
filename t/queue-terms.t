# What a queue's directives say must be what happens, from nginx.conf to the
# backend: who is first, who takes turns with whom, who has to wait.  The
# scheduler has its own tests; here the whole way is gone, once for each.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;
use Time::HiRes ();
use Util qw(wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
offload_queue first zone=jobs { concurrency 1; priority $http_x_priority; }
offload_queue turns zone=jobs { concurrency 1; fair $http_x_tenant; }
offload_queue later zone=jobs { delay $http_offload_delay max=1s; }
offload_queue narrow zone=jobs { concurrency 2; }
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /first/ { offload first; proxy_pass http://%%BACKEND%%; }
    location /turns/ { offload turns; proxy_pass http://%%BACKEND%%; }
    location /later/ { offload later; proxy_pass http://%%BACKEND%%; }
    location /narrow/ { offload narrow; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT


# A job holds the queue's only place until these have been accepted and
# stored: in which order do they reach the backend then?

sub order {
    my ($queue, @jobs) = @_;
    my $gate = $n->submit(GET => "/$queue/gate?gate=$queue");

    $n->wait_status($gate, 'running');

    my @all = map {
        my ($name, @headers) = @$_;

        $n->submit(GET => "/$queue/$name", headers => \@headers);
    } @jobs;

    wait_until(20, sub { $n->counters->{queued} == @jobs });
    $b->open_gate($queue);
    $n->settled($_) for @all;

    return join ' ', map { $_->{uri} =~ m{^/$queue/(\w+)$} }
                     $b->journal(event => 'request');
}

is order('first', map { [ "p$_", 'X-Priority' => $_ ] } 1, 9, 4, 'none', 7),
    'p9 p7 pnone p4 p1', 'by priority; what is none counts as 5';
is order('turns', map { [ $_, 'X-Tenant' => substr $_, 0, 1 ] }
                  qw(a1 a2 a3 a4 b1 c1)),
    'a1 b1 c1 a2 a3 a4', 'tenants take turns';


# concurrency, beside the zone's

my @narrow = map { $n->submit(GET => "/narrow/$_?gate=narrow") } 1 .. 5;

ok $b->wait_for(1, event => 'request', uri => '/narrow/2?gate=narrow'),
    'two run';
is $n->settled($n->submit(GET => '/beside'))->{status}, 'completed',
    'another queue goes on';
is scalar(grep { $_->{uri} =~ m{^/narrow/} } $b->journal(event => 'request')),
    2, 'and no third';
$b->open_gate('narrow');
is $n->settled($_)->{status}, 'completed', 'all are run' for @narrow;


# delay: cut to a second by max

my $before = Time::HiRes::time();
my $later = $n->submit(GET => '/later/x', headers => [ 'Offload-Delay', '1h' ]);
my $now = $n->submit(GET => '/later/now');

is $n->settled($now)->{status}, 'completed', 'without a delay at once';
is $n->settled($later)->{status}, 'completed', 'with one, too';

my ($came) = $b->journal(event => 'request', uri => '/later/x');

cmp_ok $came->{time} - $before, '>=', 0.9, 'but later';

Offload::finish_all();
