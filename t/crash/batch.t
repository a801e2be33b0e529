# offloadd dies with several jobs in one request: before it is sent, while it is
# under way, with the answer in hand, and around the commit that gives each job
# its part.  No job may be left out of the next batch, be in two at a time, or
# get another one's part.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use JSON::PP;
use Test::More;

my $HTTP = <<'EOT';
offload_queue events zone=jobs { batch size=3 linger=1m; }
server {
    listen 127.0.0.1:%%PORT%%;
    offload_accept_timeout 30s;
    location /batch/ { offload events; proxy_pass http://%%BACKEND%%; }
    location /once/ {
        offload events; offload_delivery at-most-once;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT
my $serial = 0;
my @all;


# What the backend has got of it: [ [ items ], ... ]

sub batches {
    my ($uri) = @_;

    return map { [ map { $_->{n} } @{ $_->{items} } ] }
           grep { $_->{uri} eq $uri }
           Crash::backend()->journal(event => 'request');
}


sub one {
    my ($n, $row, $at) = @_;
    my $uri = "$at" . $serial++ . '?items=objects';

    Crash::present($n);

    my $pid = $n->by_hand($row->{place});
    my @jobs = map { $n->submit(POST => $uri,
                                body => encode_json({ n => $_, said => $_ }))
                   } 1 .. 3;

    Crash::died($pid, $row->{place});
    $pid = $n->by_hand;

    my ($least, $most) = Crash::bounds($row->{attempts});
    my @docs = map { $n->settled($_) } @jobs;
    my @batches = batches($uri);

    if ($at eq '/once/' && $least > 1) {
        is "$_->{status} $_->{error}{code} $_->{attempts}", 'failed lost 1',
            'asked for at most once, it is lost' for @docs;
        cmp_ok scalar(@batches), '<=', 1, 'and not sent again';

    } else {
        is $_->{status}, $row->{job}, 'done in the end' for @docs;
        ok +(!grep { $_->{attempts} < $least || $_->{attempts} > $most }
             @docs), "after $row->{attempts} attempts";
        is_deeply [ map { decode_json($n->result($_)->{body})->{said} }
                    @jobs ], [ 1 .. 3 ], 'each with its own part';
        is_deeply $batches[-1], [ 1 .. 3 ], 'sent together';
    }

    ok !(grep { @$_ != 3 } @batches), 'nobody was left out';
    Crash::sound($n);
    Crash::stop($pid);
}


for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode, zone => 'ttl=1h', http => $HTTP);

    $n->start;
    push @all, $n;

    Crash::run('batch', $mode, sub {
        my ($row) = @_;

        one($n, $row, $_) for '/batch/', '/once/';
    });
}

Crash::finish(@all);
