package Bench::Waiting;

# What a request costs while it waits: nginx's memory for each, and CPU time
# with nothing happening, for submissions that are held, for long polls and for
# event streams; each for a job of its own, all of them queued.  Beside them as
# many requests that wait in nginx without us, delayed by limit_req: a
# connection and a request with a timer, and nothing else.

use strict;
use warnings;

use IO::Select ();
use Socket qw(AF_INET IPPROTO_TCP SOCK_STREAM inet_aton pack_sockaddr_in);
use Time::HiRes qw(sleep);

use Bench qw(cpu_ns slurp wait_until);
use Bench::Floor ();
use Bench::Nginx ();
use Bench::Product ();

my $REQUESTS = 10_000;
my $SPARE = 500;                        # descriptors for everything else;
                                        # nginx closes idle connections when
                                        # a sixteenth is left
my $LIMIT = 500;
my $IDLE = 10;

sub run {
    my ($b, $table) = @_;

    if (my $why = $b->unbuilt) {
        $table->skip('waiting', $why);
        return;
    }

    my $n = raise();

    if ($n < 1000) {
        $table->skip('waiting', "no descriptors for more than $n requests");
        return;
    }

    print STDERR "waiting: $n requests\n";

    my $floor = floor($b, $n);
    my %got = product($b, $n);

    for my $what ('held', 'long poll', 'events') {
        my $g = $got{$what};

        $table->single(row => "waiting, $what", unit => 'B',
                       floor => $floor->{bytes} / $n,
                       product => $g->{bytes} / $n);
        $table->single(row => '  beyond nginx\'s own', unit => 'B',
                       product => ($g->{bytes} - $floor->{bytes}) / $n,
                       target => ['<', $LIMIT]);
        $table->single(row => '  offloadd', unit => 'B',
                       product => $g->{worker} / $n);
        $table->single(row => "  CPU in $IDLE s, nginx", unit => 'ms',
                       product => $g->{cpu});
        $table->single(row => "  CPU in $IDLE s, offloadd", unit => 'ms',
                       product => $g->{worker_cpu});
    }
}

# As many descriptors as we may have, and how many requests that makes.

sub raise {
    my ($limit) = `prlimit --pid $$ --nofile --output HARD --noheadings`
                  =~ /(\d+)/ or return 0;

    system("prlimit --pid $$ --nofile=$limit:$limit") == 0 or return 0;

    return $limit > $REQUESTS + $SPARE ? $REQUESTS : $limit - $SPARE;
}

sub floor {
    my ($b, $n) = @_;

    my $nginx = Bench::Nginx->start($b, name => 'delay', port => $b->{port},
                                    connections => 1.2 * $n,
                                    http => <<EOF);
    limit_req_log_level info;
    limit_req_zone \$server_port zone=delay:1m rate=1r/m;

    server {
        listen  127.0.0.1:$b->{port} backlog=4096;

        location = /empty {
            return 202;
        }

        location = /delayed {
            limit_req zone=delay burst=1000000;
        }
    }
EOF

    $nginx->get('/delayed');            # the first one is not

    my $got = measure($b, { nginx => $nginx->{worker} }, $n, 1,
                      sub { "GET /delayed HTTP/1.1\r\n" });

    $nginx->stop;

    return $got;
}

sub product {
    my ($b, $n) = @_;

    my $port = $b->{port} + 22;
    my $silent = Bench::Floor::silent($port);
    my $product = Bench::Product->start($b, worker => 1, to => $port,
        connections => 1.2 * $n, zone => '64m lanes=4 concurrency=1');
    my @jobs = jobs($b, $product, $n);
    my @what = (
        'held' => sub { "POST /held HTTP/1.1\r\nContent-Length: 0\r\n" },
        'long poll' => sub { "GET $jobs[$_[0]]?wait=3600 HTTP/1.1\r\n" },
        'events' => sub { "GET $jobs[$_[0]] HTTP/1.1\r\n"
                          . "Accept: text/event-stream\r\n" },
    );
    my %got;

    while (my ($what, $line) = splice @what, 0, 2) {
        $product->{nginx}->renew;
        $got{$what} = measure($b, { nginx => $product->{nginx}{worker},
                                    worker => $product->worker_pid }, $n,
                              $IDLE, $line);
    }

    $product->stop;
    close $silent;

    return %got;
}

# So many jobs: their paths.

sub jobs {
    my ($b, $product, $n) = @_;

    my $s = dial($b);
    my @jobs;

    for (1 .. $n) {
        my $text = '';

        syswrite $s, "POST /work HTTP/1.1\r\nHost: a\r\nContent-Length: 0"
                     . "\r\n\r\n";

        while ($text !~ /\r\n\r\n.*\}\n/s) {
            sysread $s, $text, 4096, length $text
                or die "no answer to a submission: $text\n";
        }

        push @jobs, $text =~ m{^Location: http://[^/]+(\S+)}m;
    }

    wait_until(60, 'all jobs are in the store', sub { $product->drained });

    return @jobs;
}

sub dial {
    my ($b) = @_;

    socket my $s, AF_INET, SOCK_STREAM, IPPROTO_TCP or die "socket: $!\n";
    connect $s, pack_sockaddr_in($b->{port}, inet_aton('127.0.0.1'))
        or die "connect: $!\n";

    return $s;
}

# What so many requests take while they wait, and in so many seconds of it.

sub measure {
    my ($b, $pids, $n, $idle, $line) = @_;

    my @pids = @$pids{qw(nginx worker)};
    my @before = map { memory($_) } @pids;
    my @sockets;

    for my $i (0 .. $n - 1) {
        push @sockets, my $s = dial($b);
        syswrite $s, $line->($i) . "Host: a\r\n\r\n";

        # a listener's queue is short
        sleep 0.01 if $i % 200 == 199;
    }

    rest(100, @pids);

    my @cpu = map { cpu($_) } @pids;

    sleep $idle;

    my @later = map { cpu($_) } @pids;
    my @after = map { memory($_) } @pids;

    # nobody was answered but by the head of a stream, and what is in it

    my $select = IO::Select->new(@sockets);
    my $gone = 0;

    for my $s ($select->can_read(0)) {
        sysread $s, my $text, 65536;
        $gone++ if ($text // '') !~ m{^HTTP/1.1 200.*text/event-stream}s;
    }

    die "$gone of $n requests did not wait\n" if $gone;

    @sockets = ();
    $select = undef;
    rest(20, @pids);

    return { bytes => $after[0] - $before[0], worker => $after[1] - $before[1],
             cpu => $later[0] - $cpu[0],
             worker_cpu => $later[1] - $cpu[1] };
}

# Until that many milliseconds of CPU are not used up in half a second.

sub rest {
    my ($ms, @pids) = @_;

    wait_until(60, 'they come to rest', sub {
        my @cpu = map { cpu($_) } @pids;

        sleep 0.5;
        !grep { cpu($pids[$_]) - $cpu[$_] > $ms } 0 .. $#pids });
}

sub cpu {
    my ($pid) = @_;

    return $pid ? cpu_ns($pid) / 1e6 : 0;
}

# The private memory of a process.

sub memory {
    my ($pid) = @_;

    return 0 if !$pid;

    my ($kb) = slurp("/proc/$pid/smaps_rollup") =~ /^Pss_Anon:\s+(\d+) kB/m;

    return $kb * 1024;
}

1;
