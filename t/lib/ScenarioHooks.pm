package Scenario;

# The stories of webhooks; see Scenario.pm.

use strict;
use warnings;

use Clock;
use File::Temp;
use Offload;
use Receiver;
use Test::More;

my $SECRET = 'whsec_c2VjcmV0IG9mIGEgc3RvcnkgMzIgYnl0ZXM=';


# An nginx whose queues tell this receiver, `unsigned` by a secret that is gone
# when offloadd comes, and where jobs say how it answers.

sub telling {
    my ($to) = @_;
    my $url = $to->url;
    my $dir = File::Temp::tempdir('ofl-s-XXXXXX', TMPDIR => 1, CLEANUP => 1);

    chmod 0755, $dir;

    for my $name ('secret', 'lost') {
        Offload::write_file("$dir/$name", $SECRET);
        chmod 0640, "$dir/$name";
        chown 0, (getgrnam $Offload::USER)[2] // 0, "$dir/$name" if $> == 0;
    }

    my $n = zone('memory', zone => 'jobs 8m path=%%ZONE%%', http => <<"EOT");
offload_queue told zone=jobs { webhook $url/told secret=file:$dir/secret; }
offload_queue unsigned zone=jobs {
    webhook $url/unsigned secret=file:$dir/lost;
}
offload_queue inside zone=jobs { webhook \$arg_to; }
server {
    listen 127.0.0.1:%%PORT%%;
    location /told/ { offload told; proxy_pass http://%%BACKEND%%; }
    location /unsigned/ { offload unsigned; proxy_pass http://%%BACKEND%%; }
    location /inside/ { offload inside; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT

    unlink "$dir/lost";

    return $n;
}


# What is known of a job's delivery once it was tried, or ended; and the job.

sub delivery {
    my ($n, $uri, $attempts) = @_;
    my $job = $n->submit(POST => $uri, body => 'x');
    my $hook;

    Offload::wait_until(10, sub {
        ($hook) = @{ $n->status($job)->{webhooks} // [] };
        $hook && ($hook->{attempts} >= ($attempts // 1)
                  || $hook->{status} ne 'pending') });

    $hook //= { status => 'none', attempts => 0 };

    return wantarray ? ($hook, $job) : $hook;
}


# A receiver is told, signed, and nobody else is told anything.

sub story_told {
    my $to = Receiver->start;
    my $n = telling($to);
    my $url = $to->url;

    $n->by_hand;
    is delivery($n, '/told/')->{status}, 'delivered', 'the receiver is told';

    my ($m) = $to->seen('/told');

    ok $m && Receiver::verified($m, $SECRET), 'with a signature';

    for my $way ([ '/unsigned/', '/unsigned', 'without its signature' ],
                 [ "/inside/?to=$url/inside", '/inside', 'nobody inside' ])
    {
        is delivery($n, $way->[0])->{status}, 'pending', $way->[2];
        is scalar($to->seen($way->[1])), 0, 'is told nothing';
    }

    $to->says('/told', 301);
    is delivery($n, '/told/')->{status}, 'pending', 'who has moved';
    is scalar($to->seen('/moved')), 0, 'is not followed';

    $to->says('/told', '429+3600');
    is delivery($n, '/told/')->{attempts}, 1, 'who is too busy';
    $to->says('/told', 200);
    is delivery($n, '/told/')->{attempts}, 0, 'is sent nothing else';
}


# A receiver that says 410 is told nothing more, not even what was pending.

sub story_gone {
    my $to = Receiver->start;
    my $n = telling($to);
    my $clock = Clock->new($n);
    my $pid = $n->by_hand(undef, $clock->env);

    $to->says('/told', 503);

    my ($hook, $waits) = delivery($n, '/told/');

    is $hook->{status}, 'pending', 'one is pending';
    $to->says('/told', 410);
    is delivery($n, '/told/')->{status}, 'disabled', 'another is refused';
    $to->says('/told', 200);
    end($pid);
    $n->by_hand(undef, $clock->env);
    is delivery($n, '/told/')->{status}, 'disabled', 'of a third';
    is scalar(my @seen = $to->seen('/told')), 2, 'nothing is told';
    $clock->ahead(3600);
    Offload::wait_until(10, sub {
        $n->status($waits)->{webhooks}[0]{status} ne 'pending' })
        or fail('its turn comes');
    is scalar(@seen = $to->seen('/told')), 2, 'nor of what was pending';
}

1;
