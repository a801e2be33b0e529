package Bench::Batch;

# Events a second into a backend that keeps them in Redis, sent by the batch
# against one by one: the same events, jobs of one queue, which differs in its
# directive `batch` alone.  All of them wait when the clock is started.

use strict;
use warnings;

use File::Path ();
use IO::Socket::UNIX ();
use JSON::PP ();
use Time::HiRes ();

use Bench qw(cpu_ns spew wait_until);
use Bench::Product ();
use Bench::Queues ();
use Bench::Wrk ();

my $CPUS = '0,1';
my $AT_A_TIME = 16;
my $EVENT = 1024;
my @SIZES = (10, 100, 500);

sub run {
    my ($b, $table) = @_;

    my $why = $b->unbuilt // Bench::Queues::missing_redis();

    if ($why) {
        $table->skip('batch / one by one', $why);
        return;
    }

    spew("$b->{tmp}/event.json", event());

    my $got = $b->interleave('batch',
        one => sub { events($b, '') },
        map { my $size = $_;
              $size => sub { events($b, "batch size=$size linger=10ms;") } }
            @SIZES);

    for my $size (@SIZES) {
        rows($table, "batch of $size / one by one", $got->{one},
             $got->{$size});
    }
}

sub rows {
    my ($table, $row, $one, $batch) = @_;

    $table->pair(row => $row, unit => 'events/s', floor => $one->{rps},
                 product => $batch->{rps});

    for my $whose (qw(offloadd nginx backend)) {
        $table->pair(row => "  $whose", unit => 'us CPU/event',
                     floor => $one->{$whose}, product => $batch->{$whose});
    }
}

# What an analytics event looks like, of 1 KB.

sub event {
    my %event = (
        type => 'page_view', at => '2025-03-01T12:00:00.123Z', seq => 1234567,
        session => '0f8fad5b-d9cd-469f-a165-70867728950e',
        page => { url => 'https://shop.example/shoes?size=42&sort=price',
                  title => "Shoes \x{2013} Shop", referrer => undef },
        screen => { width => 1920, height => 1080, ratio => 1.25 },
        experiments => [ 'checkout-b', 'search-a', 'prices-a' ],
        timings => { map { ("t$_" => 12.5 * $_) } 1 .. 12 },
        consent => JSON::PP::true, payload => '',
    );
    my $json = JSON::PP->new->canonical->utf8;

    $event{payload} = 'x' x ($EVENT - length $json->encode(\%event));

    return $json->encode(\%event);
}

# From `resume` until the last one is settled.  Redis says whether it has got
# them all.

sub events {
    my ($b, $batch) = @_;

    my $dir = $b->fresh_disk;
    my $port = $b->{port} + 20;

    File::Path::make_path($dir);

    my $redis = Bench::Queues::redis_server($b, $dir, 'everysec', $CPUS);
    my $backend = Bench::Queues::redis_client($b, $port, 'ingest.lua', $CPUS);
    my $product = Bench::Product->start($b, zone => '64m lanes=2',
        worker => 1, to => $port, cpus => $CPUS,
        queue => "concurrency $AT_A_TIME; $batch");
    my %pids = (offloadd => [ $product->worker_pid ],
                nginx    => [ $product->{nginx}->pids ],
                backend  => [ $backend->pids, $redis->{pid} ]);

    $product->control('POST /v1/zone/pause');

    my $n = wait_for_them($b, $product, 10_000 * $b->{seconds});
    my %before = map { $_ => cpu_ns(@{ $pids{$_} }) } keys %pids;
    my $start = Time::HiRes::time();

    $product->control('POST /v1/zone/resume');
    wait_until(120, 'all events are settled', sub {
        $product->figures->{settled} == $n });

    my $seconds = Time::HiRes::time() - $start;
    my %got = map { $_ => (cpu_ns(@{ $pids{$_} }) - $before{$_}) / 1000 / $n }
              keys %pids;
    my $seen = seen($b);

    $_->stop for $product, $backend, $redis;
    File::Path::remove_tree($dir);

    die "$n events settled, but Redis has $seen\n" if $seen < $n;

    return { rps => $n / $seconds, %got };
}

# As many events, or a few more, in the store: how many it became.

sub wait_for_them {
    my ($b, $product, $n) = @_;

    while ((my $left = $n - $product->figures->{accepted}) > 0) {
        Bench::Wrk::run($b, port => $b->{port}, path => '/queued',
                        connections => 16, seconds => 1, cpus => $CPUS,
                        env => { BENCH_JSON => "$b->{tmp}/event.json",
                                 BENCH_STOP => $left });
    }

    return wait_until(60, 'all events are in the store', sub {
        $product->drained })->{accepted};
}

sub seen {
    my ($b) = @_;

    my $s = IO::Socket::UNIX->new(Peer => "$b->{tmp}/redis.sock")
            // die "redis.sock: $!\n";

    print $s "XLEN events\r\n";

    return readline($s) =~ /^:(\d+)/ ? $1 : 0;
}

1;
