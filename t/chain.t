# A job whose backend calls an offloaded location makes another job, and a
# mistake in a configuration makes that a bomb: a location whose backend is
# itself fills the queue for ever.  Jobs say how deep they are, and a chain
# ends where the operator says: at exactly so many jobs.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;
use Util qw(wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
offload_max_depth 5;
server {
    listen 127.0.0.1:%%PORT%%;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /loop/ { offload jobs; proxy_pass http://127.0.0.1:%%PORT%%; }
    location /there/ { offload jobs;
                       proxy_pass http://127.0.0.1:%%PORT%%/back/; }
    location /back/ { proxy_pass http://127.0.0.1:%%PORT%%/there/; }
    location /one/ { offload jobs; offload_max_depth 1;
                     proxy_pass http://127.0.0.1:%%PORT%%; }
    location /to-two/ { offload jobs; proxy_redirect off;
                        proxy_pass http://127.0.0.1:%%PORT2%%/; }
    location /plain/ { proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT2%%;
    offload_max_depth 2;
    location / { offload jobs; proxy_pass http://127.0.0.1:%%PORT2%%; }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT3%%;
    offload jobs;
    location /usual/ { offload_max_depth 3; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT


sub accepted { $n->counters->{accepted} }


# Sends one and waits for its chain to end: how many jobs it was, and the last
# one's answer.

sub chain {
    my ($uri, %o) = @_;
    my $before = accepted();
    my $job = $n->submit(POST => $uri, body => 'x', %o);
    my $r;

    while ($job) {
        $n->settled($job);
        $r = $n->result($job);
        $job = Offload::job($r);
        $job = $job && { path => $job->{path} };
    }

    wait_until(20, sub { my $c = $n->counters;
                         !$c->{submitted} && !$c->{queued}
                         && !$c->{running} });

    return (accepted() - $before, $r);
}


for my $try ([ 'a location that is its own backend', '/loop/x', 5 ],
             [ 'two that call each other', '/there/x', 5 ],
             [ 'the limit of a location', '/one/x', 1 ],
             [ 'the limit of a server', '/x', 2, to => $n->port(2) ],
             [ 'the limit of where a chain comes to', '/to-two/x', 2 ])
{
    my ($what, $uri, $jobs, %o) = @$try;
    my ($found, $r) = chain($uri, %o);

    is $found, $jobs, "$what: so many jobs";

    my $doc = Offload::problem($r, 508, "$what: the last is refused");

    is $doc->{type}, 'urn:problem-type:offload:chain-too-deep',
        "$what: by its name";
}


# what backends and clients say

sub depths {
    my ($seen) = @_;

    return [ map { $_->[1] } grep { lc $_->[0] eq 'offload-depth' }
             @{ $seen->{headers} } ];
}

is_deeply depths(scalar $n->echoed(GET => '/first')), [ 1 ],
    'the backend is told: the first of a chain';
is_deeply depths(scalar $n->echoed(GET => '/third',
                                   headers => [ 'Offload-Depth' => 2 ])),
    [ 3 ], 'the third; and not what the client said';
is_deeply depths(scalar $n->echoed(GET => '/fifth',
                                   headers => [ 'offload-depth' => '1',
                                                'Offload-Depth' => '4, 2' ])),
    [ 5 ], 'of several the deepest counts';

my $before = accepted();

for my $depth (5, 6, 255, 256, '9' x 40, -1, '1x', 'deep', '0, 5') {
    Offload::problem($n->get('/x', headers => [ 'Offload-Depth' => $depth ]),
                     508, "Offload-Depth: $depth is refused");
}

is accepted(), $before, 'and makes no job';
is $n->get('/usual/x', to => $n->port(3),
           headers => [ 'Offload-Depth' => 3 ])->{status}, 508,
    'a depth of the location';
is $n->get('/plain/x', headers => [ 'Offload-Depth' => 9 ])->{status}, 200,
    'where there are no jobs it does not matter';


# an attempt that is made again is not a step deeper

my $again = $n->submit(GET => '/again?close=body&cut=1&size=200000');

is $n->settled($again, deadline => 60)->{attempts}, 2, 'two attempts';
is_deeply [ map { @{ depths($_) } }
            $b->journal(event => 'request', job => $again->{id}) ], [ 1, 1 ],
    'have one depth';


# by default

$n->write_conf(http => $n->{http} =~ s/^offload_max_depth 5;\n//r);
ok $n->reload, 'without the directive';
is +(chain('/loop/y'))[0], 3, 'three jobs';

Offload::finish_all();
