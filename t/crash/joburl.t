# offloadd dies while a backend reports to it: before and after the commit of
# progress, of a deferral, of a result that is put, and between its file's
# rename and the commit.  The backend, whose request waits in nginx, must get
# the answer of the next offloadd; the job is settled once, with the whole
# result, and is attempted again only if it was not known to be deferred.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Report;
use Test::More;

my $PERCENT = 42;


# Running elsewhere, and known to be.

sub deferred {
    my ($n, %o) = @_;
    my $job = Crash::send_job($n, 'later', %o);

    is Crash::answer($job), 202, 'accepted';
    ok Offload::wait_until(20, sub {
        $n->worker_log =~ /msg=deferred job=$job->{id}/ }), 'deferred';

    return $job;
}


sub place {
    my ($job, $attempt) = @_;

    return Report::place(Crash::backend(), $job, attempt => $attempt);
}


# Sent without waiting: who is to answer dies.

sub send_report {
    my ($n, $at, $method, $uri, $type, $body) = @_;
    my $sock = Http::dial($n->port);

    Http::write_all($sock, Http::bytes($method, $uri, body => $body,
        headers => [ Authorization => "Bearer $at->{token}",
                     'Content-Type' => $type ]));

    return $sock;
}


sub ended {
    my ($n, $job, $row, $body) = @_;
    my $doc = $n->settled($job);
    my $r = $n->result($job);
    my @seen = Crash::sightings($job);

    is "$doc->{status} $doc->{attempts}", "$row->{job} $row->{attempts}",
        "$row->{job}, attempts: $row->{attempts}";
    is scalar(@seen), $row->{attempts}, 'which the backend has seen';
    ok $r->{body} eq $body && !$r->{error}, 'the result is whole';
    ok !exists $doc->{progress}, 'its progress is over';
}


sub progress {
    my ($n, $row) = @_;
    my $pid = $n->by_hand($row->{place});
    my $job = deferred($n);
    my $at = place($job, 1);
    my $sock = send_report($n, $at, 'PATCH', $at->{path}, 'application/json',
                           "{\"progress\":$PERCENT,\"message\":\"m\"}");

    Crash::died($pid, $row->{place});
    $pid = $n->by_hand;
    is Http::response($sock)->{status}, $row->{client},
        'who reports is answered';

    my $doc = $n->status($job);

    is "$doc->{status} $doc->{progress} $doc->{progress_message}",
        "running $PERCENT m", 'and it is known';
    is Report::put($n, $at, 'end')->{status}, 204, 'to the end';
    ended($n, $job, $row, 'end');

    return $pid;
}


sub defer {
    my ($n, $row) = @_;
    my $pid = $n->by_hand($row->{place});
    my $job = Crash::send_job($n, 'later');

    Crash::died($pid, $row->{place});
    $pid = $n->by_hand;
    is Crash::answer($job), $row->{client}, 'accepted';

    my $at = place($job, $row->{attempts});

    is $n->wait_status($job, 'running')->{attempts}, $row->{attempts},
        'it runs';
    is Report::put($n, $at, 'end')->{status}, 204, 'and is settled';
    ended($n, $job, $row, 'end');

    return $pid;
}


sub put_sized {
    my ($n, $row, $size, $kept) = @_;
    my $pid = $n->by_hand($row->{place});
    my $job = deferred($n, $kept ? (at => '/cut') : ());
    my $at = place($job, 1);
    my $body = Backend::content($size);
    my $sock = send_report($n, $at, 'PUT', "$at->{path}/result", 'text/plain',
                           $body);

    Crash::died($pid, $row->{place});
    $pid = $n->by_hand;
    is Http::response($sock)->{status}, $row->{client},
        "who puts $size bytes is answered";
    $body = substr $body, 0, $kept if $kept;
    ended($n, $job, $row, $body);
    is Report::put($n, $at, 'another')->{status}, 204, 'again: no harm';
    ok $n->result($job)->{body} eq $body, 'and no change';

    return $pid;
}


my %way = (progress => [ \&progress ], defer => [ \&defer ],
           put => [ sub { put_sized(@_, 300) },
                    sub { put_sized(@_, 300_000) },
                    sub { put_sized(@_, 300_000, $Crash::CUT) } ]);
my @nginx;

for my $mode ('memory', 'disk') {
    my $n = Crash::nginx($mode)->start;

    push @nginx, $n;

    Crash::run('joburl', $mode, sub {
        my ($row) = @_;
        my @ways = @{ $way{$row->{probe}} };

        shift @ways if $row->{place} eq 'put.renamed';

        for my $way (@ways) {
            Crash::present($n);

            my $pid = $way->($n, $row);

            Crash::sound($n);
            Crash::stop($pid);
        }
    });
}

Crash::finish(@nginx);
