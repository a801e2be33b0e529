package Bench::Accept;

# Accepting: how many 202s a second one nginx worker gives, and what of its
# CPU each costs, against `return 202;` and the floor module.  offloadd is
# off, so the zone has to hold the whole run; sustained, with everything
# running on the same cores, is a row of its own.

use strict;
use warnings;

use List::Util qw(sum);

use Bench ();
use Bench::Floor ();
use Bench::Product ();
use Bench::Wrk ();

my @SIZES = (['200 B', 200], ['4 KB', 4096], ['64 KB', 65536]);

# In a record beside the body: its header, the request's fixed part, its
# lines.  Generous.
my $RECORD = 512;

my $SLOT = 128;

# Requests a second; more than one worker answers.
my $RATE = 300_000;

# A run with fewer requests than that says nothing.
my $JOBS_MIN = 10_000;

my $MB = 1024 * 1024;

# The product's 202 stands model; this one does until there is a product.
my %ANSWER = (
    url  => 'http://127.0.0.1:19000/jobs/' . '0' x 26,
    body => '{"job_id":"' . '0' x 26 . '","status":"queued","status_url":'
            . '"http://127.0.0.1:19000/jobs/' . '0' x 26 . '","created_at":'
            . '"2026-04-25T10:30:00Z","estimated_completion":'
            . '"2026-04-25T10:30:02Z"}',
);

sub run {
    my ($b, $table) = @_;

    my $answer = model($b);

    for (@SIZES) {
        my ($name, $size) = @$_;

        accept_rows($b, $table, $name, $size, $answer);
    }
}

# A real 202, and the proof that the floor's is as large and has as many
# header lines.

sub model {
    my ($b) = @_;

    return \%ANSWER if $b->unbuilt($b->{module});

    my $product = Bench::Product->start($b, zone => '16m lanes=2');
    my $real = $product->{nginx}->request('POST', '/work', 'x');
    $product->stop;

    die "the product answers $real->{code}:\n$real->{head}\n"
        if $real->{code} != 202;

    my ($url) = $real->{head} =~ /^Location: (\S+)/m
        or die "a 202 without Location:\n$real->{head}\n";

    my %answer = (url => $url, body => $real->{body});

    my $nginx = Bench::Floor::module($b, '16m', \%answer);
    my $floor = $nginx->request('POST', '/work', 'x');
    $nginx->stop;

    my ($want, $got) = map { length("$_->{head}$_->{body}") . ' bytes, '
                             . ($_->{head} =~ tr/\n//) . ' headers' }
                           $real, $floor;

    die "the floor's 202 has $got, the product's $want:\n"
        . "$floor->{head}\n\n$real->{head}\n" if $want ne $got;

    return \%answer;
}

sub accept_rows {
    my ($b, $table, $name, $size, $answer) = @_;

    my $plan = plan($b, $size);
    my @load = (path => '/work', cpus => 1,
                env => { BENCH_BODY => $size, BENCH_STOP => $plan->{stop} });

    my @servers = (
        'return 202', sub {
            once($b, Bench::Floor::return_202($b, cpu => 0), @load);
        },
        'floor', sub {
            once($b, Bench::Floor::module($b, $plan->{ring}, $answer,
                                          cpu => 0), @load);
        },
    );

    my $why = $b->unbuilt($b->{module});
    my $unsustained = $b->unbuilt;

    push @servers, 'product', sub { product($b, $plan, @load) } unless $why;
    push @servers, 'sustained', sub { sustained($b, $size) }
        unless $unsustained;

    my $got = $b->interleave("accept $name", @servers);

    rows($table, $name, $why, $got);

    $table->skip("sustained $name", $unsustained) if $unsustained && !$why;
}

sub rows {
    my ($table, $name, $why, $got) = @_;

    my ($return, $floor) = @$got{'return 202', 'floor'};

    if ($why) {
        $table->single(row => "accept $name, `return 202`", unit => 'req/s',
                       floor => Bench::median(@{ $return->{rps} }));
        $table->single(row => "accept $name, floor", unit => 'req/s',
                       floor => Bench::median(@{ $floor->{rps} }));
        $table->single(row => "accept $name, floor", unit => 'us CPU/req',
                       floor => Bench::median(@{ $floor->{cpu} }));
        $table->skip("accept $name", $why);
        return;
    }

    my $product = $got->{product};
    my $sustained = $got->{sustained};
    my $bad = sum(@{ $product->{bad} });

    $table->pair(row => "accept $name / return 202", unit => 'req/s',
                 floor => $return->{rps}, product => $product->{rps});
    $table->pair(row => "accept $name / floor", unit => 'req/s',
                 floor => $floor->{rps}, product => $product->{rps},
                 bad => $bad && "$bad answers were no 202",
                 target => ['>=', 0.90]);
    $table->pair(row => "accept $name / floor", unit => 'us CPU/req',
                 floor => $floor->{cpu}, product => $product->{cpu},
                 target => ['<=', 1.15]);

    return unless $sustained;

    my $refused = sum(@{ $sustained->{bad} });

    $table->pair(row => "sustained $name / floor", unit => 'req/s',
                 floor => $floor->{rps}, product => $sustained->{rps},
                 note => $refused ? "$refused refused" : '');
}

# How large the zone has to be for a run at $RATE.  Where this machine has no
# room for that, the run ends after as many requests as the zone has room for.
# The ring is a power of two; the zone has two lanes, and the only worker uses
# one.

sub plan {
    my ($b, $size) = @_;

    my $wanted = $RATE * $b->{seconds};
    my $budget = $b->shm_budget;
    my $record = $RECORD + $size;
    my $ring = 4 * $MB;

    $ring *= 2 while $ring < $wanted * $record
                     && zone_size(2 * $ring, $wanted) <= $budget;

    my $jobs = int($ring / $record);
    my $stop = 0;

    if ($jobs < $wanted) {
        die "/dev/shm has no room for a run with bodies of $size bytes: "
            . "$budget bytes may be used\n" if $jobs < $JOBS_MIN;

        $stop = int($jobs * 0.95);
    }

    return {
        stop => $stop,
        ring => $ring,
        zone => sprintf('%dm lanes=2 slots=%d',
                        zone_size($ring, $jobs) / $MB, $jobs),
    };
}

sub zone_size {
    my ($ring, $jobs) = @_;

    return 2 * ($ring + $jobs * $SLOT + 2 * $MB);
}

sub once {
    my ($b, $nginx, @load) = @_;

    my $r = Bench::Wrk::load($b, $nginx, @load);
    my $log = $nginx->log;

    $nginx->stop;

    die "wrk met $r->{bad} errors\n$log" if $r->{bad};

    return $r;
}

sub product {
    my ($b, $plan, @load) = @_;

    my $product = Bench::Product->start($b, zone => $plan->{zone}, cpu => 0);
    my $r = Bench::Wrk::load($b, $product->{nginx}, @load);

    $product->stop;

    return $r;
}

# 202s alone count.

sub sustained {
    my ($b, $size) = @_;

    my $port = $b->{port} + 20;
    my $backend = Bench::Floor::backend($b, $port, cpus => '0,1');
    my $product = Bench::Product->start($b, zone => '64m lanes=2',
                                        worker => 1, to => $port,
                                        cpus => '0,1');
    my $r = Bench::Wrk::load($b, $product->{nginx}, path => '/work',
                             cpus => '0,1', env => { BENCH_BODY => $size });

    $product->stop;
    $backend->stop;

    $r->{rps} *= 1 - $r->{bad} / ($r->{requests} || 1);

    return $r;
}

1;
