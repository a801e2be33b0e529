# offloadd dies while a dead letter is done again or purged, and while a job
# fails because of its deadline: before the commit, when nothing of it may have
# happened, and after, when all of it must have, also what the dead one would
# have done next.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Clock;
use Control;
use Crash;
use Test::More;

my $HTTP = <<'EOT';
offload_queue brief zone=jobs {
    retry max=2 backoff=1s..1s jitter=none on=503;
}
offload_queue hurry zone=jobs { timeout 5m; deadline 10m; }
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 8m;
    offload_accept_timeout 30s;
    location /brief/ { offload brief; proxy_pass http://%%BACKEND%%; }
    location /hurry/ { offload hurry; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $URI = '/brief/?status=503&cut=2&size=90000';
my ($n, $clock, @all);


sub start {
    my ($place) = @_;

    Crash::present($n);

    my $pid = $n->by_hand($place, $clock->env);

    control($n, GET => '/v1/dead') if !$place;  # it listens to signals, too

    return $pid;
}


sub files {
    my $store = $n->policy->{store};

    return grep { !m{/tmp$} } glob "$store/blobs/* $store/spool/*";
}


# A dead letter with a spooled body and a large answer.

sub dead_letter {
    my $pid = start();
    my $job = $n->submit(POST => $URI, body => 'b' x 900_000);

    Offload::wait_until(30, sub {
        $clock->ahead(10);
        $n->wait_status($job, 'failed', deadline => 0.2)->{status}
            eq 'failed' });
    is $n->counters->{store}{dead}, 1, 'a dead letter';
    is scalar(my @files = files()), 2, 'with two files';
    Crash::stop($pid);

    return $job;
}


# One that waits for its second attempt, and is too late for it.

sub too_late {
    my $pid = start();
    my $job = $n->submit(POST => '/hurry/?status=503&h=Retry-After:400');

    ok Offload::wait_until(20, sub {
        my $doc = $n->status($job);

        $doc->{attempts} && $doc->{status} eq 'queued' }), 'one that waits';
    Crash::stop($pid);
    $clock->ahead(700);

    return $job;
}


# What the operator sees: a status, or `broken`.  One that is too late needs no
# asking.

sub ask {
    my ($row, $job) = @_;
    my $letter = "/v1/dead/$job->{id}";

    return '202' if $row->{probe} eq 'overdue';

    my (undef, $r) = $row->{probe} eq 'purge'
                     ? control($n, DELETE => $letter)
                     : control($n, POST => "$letter/redrive");

    return $r->{error} ? 'broken' : $r->{status};
}


sub one {
    my ($row) = @_;
    my $job = $row->{probe} eq 'overdue' ? too_late() : dead_letter();
    my $pid = start($row->{place});
    my $before = $row->{place} =~ /before/;
    my $doc;

    is ask($row, $job), $row->{client}, "who asks is told: $row->{client}";
    Crash::died($pid, $row->{place});

    $pid = start();

    if ($before && $row->{probe} ne 'overdue') {
        is $n->status($job)->{status}, 'failed', 'nothing has happened';
        is $n->counters->{store}{dead}, 1, 'it is still a dead letter';
        is ask($row, $job), 200, 'it can be asked for again';
    }

    ok Offload::wait_until(30, sub {
        $doc = $n->status($job);
        $n->counters->{store}{dead} == 0
            && ($doc->{status} // '') eq $row->{job} }),
        "it is $row->{job}, and no dead letter";
    is $doc->{attempts}, $row->{attempts}, "attempts $row->{attempts}";
    is scalar(my @seen = Crash::backend()->journal(event => 'request',
                                                   job => $job->{id})),
        $row->{attempts}, 'as many as the backend has seen';

    if ($row->{probe} eq 'redrive') {
        is $n->result($job)->{status}, 200, 'with its result';
        is_deeply [ map { m{/(?!$job->{id}\.3)([^/]+)$} } files() ], [],
            'and no other file';
        $n->request(DELETE => $job->{path});

    } else {
        is $n->result($job)->{status}, $row->{probe} eq 'purge' ? 410 : 404,
            'without a result';
    }

    ok Offload::wait_until(10, sub { !files() }), 'no file is left';
    Crash::sound($n);
    Crash::stop($pid);
    $clock->reset;
}


for my $mode ('memory', 'disk') {
    $n = Crash::nginx($mode, zone => 'ttl=1h', http => $HTTP)->start;
    $clock = Clock->new($n);
    push @all, $n;
    Crash::run('dead', $mode, \&one);
}

Crash::finish(@all);
