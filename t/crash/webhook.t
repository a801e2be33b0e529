# offloadd dies between a job's settlement and the end of its delivery.  The
# receiver is told all the same, at least once, and each time under the same
# id with the same text: so it can know that it was told before.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use JSON::PP;
use Receiver;
use Test::More;

my $to = Receiver->start;
my $url = $to->url;
my $HTTP = <<"EOT";
offload_queue told zone=jobs { webhook $url/hook inline=1k; }
server {
    listen 127.0.0.1:%%PORT%%;
    offload_accept_timeout 30s;
    location /told/ { offload told; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my @all;


sub messages {
    my ($id) = @_;

    return grep { decode_json($_->{body})->{data}{job_id} eq $id }
           $to->seen('/hook');
}


for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode, zone => 'ttl=1h', http => $HTTP)->start;

    push @all, $n;
    Crash::run('webhook', $mode, sub {
        my ($row) = @_;

        Crash::present($n);

        my $pid = $n->by_hand($row->{place});
        my $job = $n->submit(POST => '/told/?size=100', body => 'x');

        Crash::died($pid, $row->{place});
        $pid = $n->by_hand;
        is $n->offloadd, $pid, 'the next one is there';

        ok Offload::wait_until(20, sub {
            my ($hook) = @{ $n->status($job)->{webhooks} // [] };
            $hook && $hook->{status} eq 'delivered' }), 'it is delivered';
        is $n->status($job)->{status}, $row->{job}, "the job is $row->{job}";

        my @told = messages($job->{id});
        my $times = $row->{place} =~ /answered|before-commit/ ? 2 : 1;

        is scalar @told, $times, "told $times times";
        is scalar(keys %{ { map { $_->{h}{'webhook-id'} => 1 } @told } }), 1,
            'under one id';
        is scalar(keys %{ { map { $_->{body} => 1 } @told } }), 1,
            'with one text';
        Crash::sound($n);
        Crash::stop($pid);
    });
}

Crash::finish(@all);
