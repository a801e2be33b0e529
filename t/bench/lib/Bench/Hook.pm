package Bench::Hook;

# Deliveries of webhooks a second, from the first job's POST until the last of
# them has arrived, signed, each of a job of its own: against what libcurl can
# post to the same receiver, and against the same jobs without a webhook.

use strict;
use warnings;

use Time::HiRes ();

use Bench qw(run_quiet spew wait_until);
use Bench::Build ();
use Bench::Floor ();
use Bench::Product ();
use Bench::Wrk ();

my $AT_A_TIME = 64;                             # as offloadd
my $BYTES = 500;                                # about a delivery's
my $CPUS = '0,1';
my $SECRET = 'whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=';

sub run {
    my ($b, $table) = @_;

    my $why = $b->unbuilt;

    if ($why) {
        $table->skip('webhooks', $why);
        return;
    }

    my $posts = Bench::Build::helper($b, 'posts');
    my $port = $b->{port} + 20;
    my $backend = Bench::Floor::backend($b, $port, cpus => $CPUS);
    my $receiver = Bench::Floor::backend($b, $port + 1, cpus => $CPUS,
                                         name => 'receiver');
    my $got = $b->interleave('webhooks',
        posts => sub { posts($b, $posts, $receiver) },
        bare => sub { jobs($b, $backend) },
        told => sub { jobs($b, $backend, $receiver) });

    $backend->stop;
    $receiver->stop;

    $table->pair(row => 'webhooks / POSTs by libcurl', unit => 'a second',
                 floor => $got->{posts}{rps},
                 product => $got->{told}{delivered});
    $table->pair(row => 'jobs with a webhook / without', unit => 'jobs/s',
                 floor => $got->{bare}{rps},
                 product => $got->{told}{rps});
}

sub posts {
    my ($b, $posts, $receiver) = @_;

    return { rps => 0 + run_quiet("$b->{tmp}/posts.log", 'taskset', '-c',
                                  $CPUS, $posts, $AT_A_TIME, $b->{seconds},
                                  $BYTES, url($receiver)) };
}

sub url { return "http://127.0.0.1:$_[0]{port}/hook" }

# rps: of jobs, until the last is settled; delivered: until the receiver has
# seen the last one's end.

sub jobs {
    my ($b, $backend, $receiver) = @_;

    my $hook = $receiver && 'webhook ' . url($receiver) . ' secret=file:'
                            . secret($b) . ';';
    my $product = Bench::Product->start($b, zone => '64m lanes=2',
        worker => 1, to => $backend->{port}, cpus => $CPUS, queue => $hook);
    my $before = $receiver ? seen($receiver) : 0;
    my $start = Time::HiRes::time();

    Bench::Wrk::load($b, $product->{nginx}, path => $hook ? '/queued' : '/work',
                     cpus => $CPUS, env => { BENCH_BODY => 200 });

    my $f = wait_until(120, 'all jobs settle', sub {
        my $f = $product->drained;
        return $f && $f->{settled} == $f->{accepted} && $f;
    });
    my %got = (rps => $f->{settled} / (Time::HiRes::time() - $start));

    if ($receiver) {
        my $looks = 0;

        wait_until(120, 'all are told', sub {
            seen($receiver) - $before - ++$looks >= $f->{settled} });

        $got{delivered} = $f->{settled} / (Time::HiRes::time() - $start);
    }

    $product->stop;

    return \%got;
}

# The receiver's count of requests; asking is one.

sub seen {
    my ($receiver) = @_;

    my ($n) = $receiver->get('/requests')->{body} =~ /^ \d+ \d+ (\d+)/m;

    return $n;
}

# Only the worker's user, and root, may read it.

sub secret {
    my ($b) = @_;

    my $file = spew("$b->{tmp}/secret", $SECRET);

    chmod 0600, $file;

    return $file;
}

1;
