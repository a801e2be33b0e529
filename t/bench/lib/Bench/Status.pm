package Bench::Status;

# Asking: reads of a job's document, queued and settled, against `return 200`
# with the same document.  The paths are those of many jobs, asked in turn;
# the floor is asked for the same ones.

use strict;
use warnings;

use List::Util qw(sum);

use Bench qw(spew wait_until);
use Bench::Floor ();
use Bench::Product ();
use Bench::Wrk ();

my $JOBS = 256;

# What nginx adds to every answer by itself.
my %OWN = map { lc, 1 } qw(Server Date Content-Type Content-Length
                           Connection);

sub run {
    my ($b, $table) = @_;

    if (my $why = $b->unbuilt) {
        $table->skip('status', $why);
        return;
    }

    state_rows($b, $table, 'queued', 202, 0);
    state_rows($b, $table, 'completed', 200, 1);
}

sub state_rows {
    my ($b, $table, $status, $code, $settle) = @_;

    my $paths = "$b->{tmp}/paths";
    my @load = (path => '/', cpus => 1, env => { BENCH_PATHS => $paths });
    my $answer;

    my $got = $b->interleave("status $status",
        'product', sub {
            my ($r, $seen) = product($b, $status, $code, $settle, $paths,
                                     @load);
            $answer ||= $seen;
            return $r;
        },
        'floor', sub {
            my $nginx = Bench::Floor::document($b, $answer, cpu => 0);
            my $r = Bench::Wrk::load($b, $nginx, @load);
            $nginx->stop;
            return $r;
        });

    my $bad = sum(@{ $got->{product}{bad} });

    $table->pair(row => "status, $status", unit => 'req/s',
                 floor => $got->{floor}{rps}, product => $got->{product}{rps},
                 bad => $bad && "$bad answers of 400 or over",
                 target => ['>=', 0.80]);
    $table->pair(row => "status, $status", unit => 'us CPU/req',
                 floor => $got->{floor}{cpu}, product => $got->{product}{cpu});
}

sub product {
    my ($b, $status, $code, $settle, $paths, @load) = @_;

    my $port = $b->{port} + 20;
    my $backend = Bench::Floor::backend($b, $port);
    my $product = Bench::Product->start($b, zone => '16m lanes=2', cpu => 0,
                                        worker => $settle, to => $port);
    my $nginx = $product->{nginx};
    my @paths = map { submit($nginx) } 1 .. $JOBS;

    if ($settle) {
        wait_until(10, 'all jobs settle', sub {
            $product->figures->{settled} >= $JOBS;
        });
    }

    spew($paths, join '', map { "$_\n" } @paths);

    my $seen = $nginx->get($paths[-1]);

    die "status is not $code $status:\n$seen->{head}\n$seen->{body}\n"
        if $seen->{code} != $code || $seen->{body} !~ /"status":"$status"/;

    my $r = Bench::Wrk::load($b, $nginx, @load);

    $product->stop;
    $backend->stop;

    return ($r, answer($seen));
}

sub submit {
    my ($nginx) = @_;

    my $r = $nginx->request('POST', '/work', 'x');
    my ($path) = $r->{head} =~ m{^Location: http://[^/]+(/\S+)}m
        or die "no job: $r->{code}\n$r->{head}\n";

    return $path;
}

# The headers that are the document's own, its type and its body.

sub answer {
    my ($r) = @_;

    my @headers = map { [/^([^:]+): (.*?)\r?$/] } split /\n/, $r->{head};
    my ($type) = map { $_->[1] } grep { @$_ && lc $_->[0] eq 'content-type' }
                                      @headers;

    return {
        type    => $type,
        body    => $r->{body},
        headers => [grep { @$_ && !$OWN{ lc $_->[0] } } @headers],
    };
}

1;
