# offloadd dies between a job's settlement and the end of its delivery.  The
# receiver is told all the same, at least once, and each time under the same
# id with the same text: so it can know that it was told before.  One that
# said it wants no more (`gone`) is told nothing of later jobs.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Control;
use Crash;
use JSON::PP;
use Receiver;
use Test::More;

my $to = Receiver->start;
my $url = $to->url;
my $HTTP = <<"EOT";
offload_queue small zone=jobs { webhook $url/small inline=1k; }
offload_queue gone zone=jobs { webhook $url/gone inline=1k; }
server {
    listen 127.0.0.1:%%PORT%%;
    offload_accept_timeout 30s;
    location /small/ { offload small; proxy_pass http://%%BACKEND%%; }
    location /gone/ { offload gone; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my %end = (small => 'delivered', gone => 'disabled');
my @all;

$to->says('/gone', 410);


sub messages {
    my ($id) = @_;

    return grep { decode_json($_->{body})->{data}{job_id} eq $id } $to->seen;
}


sub delivery {
    my ($n, $job, $status) = @_;
    my $hook;

    Offload::wait_until(20, sub {
        ($hook) = @{ $n->status($job)->{webhooks} // [] };
        $hook && $hook->{status} eq $status });

    return $hook // {};
}


# Nobody is told of a job that comes later, until the operator says so.

sub left_alone {
    my ($n) = @_;
    my $job = $n->submit(POST => '/gone/?size=100', body => 'x');
    my $hook = delivery($n, $job, 'disabled');

    is $hook->{status}, 'disabled', 'a later job: nobody is told';
    is $hook->{attempts}, 0, 'without asking';
    is scalar(messages($job->{id})), 0, 'indeed';

    my ($r) = @{ control($n, GET => '/v1/receivers')->{receivers} };

    is control($n, POST => "/v1/receivers/$r->{receiver_id}/enable")
       ->{status}, 'enabled', 'until it is enabled';
}


for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode, zone => 'ttl=1h', http => $HTTP)->start;

    push @all, $n;
    Crash::run('webhook', $mode, sub {
        my ($row) = @_;
        my ($place, $probe) = @$row{qw(place probe)};

        Crash::present($n);

        my $pid = $n->by_hand($place);
        my $job = $n->submit(POST => "/$probe/?size=100", body => 'x');

        Crash::died($pid, $place);
        $pid = $n->by_hand;
        is $n->offloadd, $pid, 'the next one is there';
        is delivery($n, $job, $end{$probe})->{status}, $end{$probe},
            "it is $end{$probe}";

        my $doc = $n->status($job);

        is "$doc->{status} $doc->{attempts}", "$row->{job} $row->{attempts}",
            "the job is $row->{job}";

        my @told = messages($job->{id});
        my $times = $place =~ /answered|hook\.before-commit/ ? 2 : 1;

        is scalar @told, $times, "told $times times";
        is scalar(keys %{ { map { $_->{h}{'webhook-id'} => 1 } @told } }), 1,
            'under one id';
        is scalar(keys %{ { map { $_->{body} => 1 } @told } }), 1,
            'with one text';
        left_alone($n) if $probe eq 'gone';
        Crash::sound($n);
        Crash::stop($pid);
    });
}

Crash::finish(@all);
