package Bench::Estimates;

# What clients were told of their jobs against what came of them: a queue of
# jobs that take constant, exponential or one of two times, asked about at
# random while they wait and run.

use strict;
use warnings;

use File::Basename ();
use JSON::PP ();
use Time::HiRes ();
use Time::Local ();

use lib File::Basename::dirname(__FILE__) . '/../../../lib';

use Backend ();
use Bench qw(percentile wait_until);
use Bench::Product ();
use Http ();

my $PLACES = 4;
my $WARM = 40;
my $JOBS = 220;

# milliseconds, 150 in the mean

my %LOADS = (
    constant    => sub { 150 },
    exponential => sub { 5 + int(-145 * log(1 - rand)) },
    bimodal     => sub { rand() < 0.8 ? 60 : 510 },
);

sub run {
    my ($b, $table) = @_;

    if (my $why = $b->unbuilt) {
        $table->skip('estimates', $why);
        return;
    }

    my $backend = Backend->start(dir => $b->{tmp});

    for my $load (qw(constant exponential bimodal)) {
        print STDERR "estimates: $load, $JOBS jobs\n";
        srand 20260425;

        my $r = measure($b, $backend, $LOADS{$load});

        $table->single(row => "estimates, $load, median error",
                       unit => '% of job', target => ['<', 15],
                       product => 100 * percentile(0.5, @{ $r->{error} }));
        $table->single(row => "estimates, $load, p90 error",
                       unit => '% of job', target => ['<', 40],
                       product => 100 * percentile(0.9, @{ $r->{error} }));
        $table->single(row => "Retry-After, $load, past the end",
                       unit => '% of answers', target => ['<', 1],
                       product => 100 * $r->{late} / @{ $r->{error} });
        $table->single(row => "Retry-After, $load, of what is left",
                       unit => '%',
                       product => 100 * percentile(0.5, @{ $r->{share} }));
    }

    $backend->stop;
}

sub measure {
    my ($b, $backend, $ms) = @_;

    my ($port) = $backend->{http} =~ /(\d+)$/;
    my $product = Bench::Product->start($b, to => $port, worker => 1,
                                        zone => "16m concurrency=$PLACES",
                                        cpus => '0,1');
    my @jobs = map { submit($b, $ms) } 1 .. $WARM;

    wait_until(60, 'the first jobs are done', sub {
        @jobs = grep { ask($b, $_) } @jobs;
        !@jobs;
    });

    my (%job, @said);

    @jobs = map { submit($b, $ms) } 1 .. $JOBS;
    $job{ $_->{id} } = $_ for @jobs;

    wait_until(60, 'the jobs are done', sub {
        my $i = int rand @jobs;
        my $said = ask($b, $jobs[$i]);

        push @said, $said if $said;
        splice @jobs, $i, 1 unless $said;
        !@jobs;
    });

    $product->stop;

    return judge($backend, \%job, \@said);
}

# The client's own clock, and the backend's for the end.

sub judge {
    my ($backend, $job, $said) = @_;

    my %end = map { ($_->{job} // '') => $_->{time} }
                  $backend->journal(event => 'done');
    my %r = (late => 0, error => [], share => []);

    for my $s (@$said) {
        my $end = $end{ $s->{id} };
        my $total = $end - $job->{ $s->{id} }{accepted};

        next if $s->{time} >= $end;

        # a document's times are whole seconds, the later ones

        push @{ $r{error} }, abs($s->{at} - 0.5 - $end) / $total
            if $total > 3;

        my $past = $s->{time} + $s->{retry} - $end;

        $r{late}++ if $past > ($total > 5 ? $total / 5 : 1);

        push @{ $r{share} }, $s->{retry} / ($end - $s->{time})
            if $end - $s->{time} > 3;
    }

    return \%r;
}

sub submit {
    my ($b, $ms) = @_;

    my $at = Time::HiRes::time();
    my $r = Http::request($b->{port}, 'POST', '/work?delay=' . $ms->(),
                          body => 'x');
    my ($path, $id) = ($r->{h}{location} // '') =~ m{(/jobs/(\w+))$}
        or die "a job was refused: $r->{status}\n";

    return { path => $path, id => $id, accepted => $at };
}

# What is said of a job; nothing once it is settled.

sub ask {
    my ($b, $job) = @_;

    my $at = Time::HiRes::time();
    my $r = Http::request($b->{port}, 'GET', $job->{path});

    return if $r->{status} == 200;
    die "a job's document: $r->{status}\n" if $r->{status} != 202;

    my @t = JSON::PP::decode_json($r->{body})->{estimated_completion}
            =~ /^(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)Z$/
        or die "no estimate: $r->{body}\n";

    return {
        id    => $job->{id},
        time  => $at,
        at    => Time::Local::timegm(@t[5, 4, 3, 2], $t[1] - 1, $t[0]),
        retry => $r->{h}{'retry-after'},
    };
}

1;
