package Storm;

# A storm: clients that submit, ask, cancel and fetch without a pause, while
# a schedule of kills goes on among the processes they depend on.
#
#     my $storm = Storm->new(nginx => $n, backend => $b, seed => 1);
#     $storm->rage(30);                   # seconds of load under kills
#     my @wrong = $storm->wrong;          # when all is settled
#
# A client is a process of its own that only knows what it sent and what it
# was told; at its end it writes that down for the test, which has the
# backend's journal beside it.  Each submission has a serial number in its
# URI, used once: what the backend sees can always be traced to it.
#
# The seed decides what happens when, not what the processes are at just then:
# the same seed gives the same schedule, which is most of a reproduction.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use File::Path ();
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use Test::More;
use Time::HiRes qw(time sleep);

use Backend;
use Http;
use Util qw(alive read_file wait_until write_file);

my $SETTLE = 90;                        # seconds for all that is left

# What is sent, how often (of a hundred), and with which query.

my @KINDS = (
    [ 25, 'small',  sub { 50 + int rand 3000 },     'delay=' ],
    [ 15, 'event',  sub { 50 + int rand 900 },      'items=objects&delay=20' ],
    [ 10, 'once',   sub { 50 + int rand 3000 },     'delay=' ],
    [ 15, 'medium', sub { 40_000 + int rand 2000 }, 'delay=' ],
    [ 10, 'large',  sub { 1_000_000 + int rand 999 }, 'delay=' ],
    [ 15, 'blob',   sub { 100 },                    'size=150000&chunked=1' ],
    [ 10, 'bad',    sub { 100 },                    'status=500&delay=' ],
);

my $EVENT = JSON::PP->new->canonical;
my %PLACE = (once => '/once', event => '/event');

my $NOISE = join '', map { chr int rand 256 } 1 .. 4096;


sub new {
    my ($class, %o) = @_;

    return bless { clients => 6, kills => {}, actions => {}, %o }, $class;
}


sub pick {
    my (@weighed) = @_;
    my $sum = 0;

    $sum += $_->[0] for @weighed;

    my $at = rand $sum;

    for (@weighed) {
        return $_ if ($at -= $_->[0]) < 0;
    }

    return $weighed[-1];
}


# ---- the kills: how often, who

my %ACTION = (
    worker        => [ 4, \&_kill_worker ],
    offloadd      => [ 4, sub { $_[0]->_kill($_[0]{nginx}->offloadds) } ],
    helper        => [ 1, sub { $_[0]->_kill($_[0]{nginx}->children(
                                             'cache manager')) } ],
    master        => [ 1, \&_kill_master ],
    all           => [ 1, \&_kill_all ],
    'stop worker' => [ 2, \&_stop_worker ],
    'stop offloadd' => [ 2, \&_stop_offloadd ],
    reload        => [ 2, sub { kill 'HUP', $_[0]{nginx}->master // return } ],
    power         => [ 2, \&_power ],
);


# When, what, and a number for the choices within: from the seed alone.

sub schedule {
    my ($self, $seconds) = @_;
    my @actions = map { [ $ACTION{$_}[0], $_ ] }
                  grep { $self->{disk} || $_ ne 'power' } sort keys %ACTION;
    my @list;

    srand $self->{seed};

    for (my $at = 0.5; $at < $seconds - 0.5; $at += 0.1 + rand 0.9) {
        push @list, [ $at, pick(@actions)->[1], rand ];
    }

    return @list;
}


sub _kill {
    my ($self, @pids) = @_;

    return kill 'KILL', @pids;
}


sub _one_worker {
    my ($self, $chance) = @_;
    my @workers = sort { $a <=> $b } $self->{nginx}->workers;

    return @workers ? $workers[$chance * @workers] : ();
}


sub _kill_worker { my ($self, $chance) = @_;
                   $self->_kill($self->_one_worker($chance)) }


# For a moment, longer or shorter than an accept may take; some don't live to
# see its end.

sub _stop {
    my ($self, $chance, @pids) = @_;

    kill 'STOP', @pids;
    sleep 0.05 + 2 * $chance;
    kill $chance * 10 % 4 ? 'CONT' : 'KILL', @pids;

    return scalar @pids;
}


sub _stop_worker { my ($self, $chance) = @_;
                   $self->_stop($chance, $self->_one_worker($chance)) }

sub _stop_offloadd { my ($self, $chance) = @_;
                     $self->_stop($chance, $self->{nginx}->offloadds) }


# A process and all that it has started, none of which acts from here on.

sub _freeze {
    my ($self, $pid) = @_;

    kill 'STOP', $pid;
    wait_until(5, sub { !alive($pid) || Util::stopped($pid) });

    return $pid, map { $self->_freeze($_) }
                 grep { (Util::parent($_) // 0) == $pid } Util::pids();
}


# Its workers serve on without it until they are killed too: a new master
# could not have their addresses.

sub _kill_master {
    my ($self, $chance) = @_;
    my $master = $self->{nginx}->master // return 0;
    my (undef, @pids) = $self->_freeze($master);
    my %stays = map { $_ => 1 } $self->{nginx}->offloadds;
    my @orphans = grep { !$stays{$_} } @pids;

    $self->_kill($master);
    kill 'CONT', @pids;
    sleep 0.5 * $chance;
    $self->_kill(@orphans);
    $self->_again($master, @orphans);

    return 1;
}


sub _kill_all {
    my ($self, $chance, $between) = @_;
    my $n = $self->{nginx};
    my $master = $n->master // return 0;
    my @pids = ($self->_freeze($master), $n->offloadds);

    $self->_kill(@pids);
    $self->_again(@pids, $between // ());

    return 1;
}


sub _power {
    my ($self, $chance) = @_;

    return $self->_kill_all($chance, sub {
        File::Path::remove_tree($self->{nginx}{zone_dir}) });
}


sub _again {
    my ($self, @pids) = @_;
    my $n = $self->{nginx};
    my $between = ref $pids[-1] ? pop @pids : sub { };

    wait_until(20, sub { !grep { alive($_) } @pids })
        or die "they do not die: @pids\n";
    $between->();
    unlink "$n->{prefix}/nginx.pid";
    $n->start;
}


# ---- load and kills, and then the end of all jobs

sub rage {
    my ($self, $seconds) = @_;
    my @schedule = $self->schedule($seconds);
    my $start = time;

    $self->{dir} = "$self->{nginx}{prefix}/storm";
    mkdir $self->{dir};

    my @clients = map { $self->_client($_) } 1 .. $self->{clients};

    for (@schedule) {
        my ($at, $action, $chance) = @$_;
        my $left = $start + $at - time;

        sleep $left if $left > 0;
        last if time > $start + $seconds;

        $self->{actions}{$action}++
            if $ACTION{$action}[1]->($self, $chance);
    }

    my $left = $start + $seconds - time;

    sleep $left if $left > 0;

    # everyone is there again, and the clients go on until all is settled
    my $up = $self->{nginx}->offloadd && $self->{nginx}->workers;

    kill 'TERM', @clients;
    waitpid $_, 0 for @clients;

    return $up;
}


sub _client {
    my ($self, $number) = @_;
    my $pid = fork // die "fork: $!\n";

    return $pid if $pid;

    srand $self->{seed} * 1000 + $number;

    my $client = { port => $self->{nginx}->port, number => $number,
                   parent => getppid, jobs => [], waiting => [], done => [] };
    my $stop = 0;

    local $SIG{TERM} = sub { $stop = 1 };
    eval {
        _act($client) until $stop || getppid != $client->{parent};
        _end($client);
        1;
    } or push @{ $client->{wrong} }, "client $number: $@";

    write_file("$self->{dir}/$number", encode_json({
        jobs => $client->{jobs}, wrong => $client->{wrong} // [] }));
    POSIX::_exit(0);
}


# ---- in a client

sub _wrong { my ($client, $text) = @_; push @{ $client->{wrong} }, $text }


sub _act {
    my ($client) = @_;
    my $waiting = $client->{waiting};
    my $chance = rand;

    if ($chance < 0.5 && @$waiting < 40) {
        _submit($client);

    } elsif ($chance < 0.54 && @$waiting) {
        _cancel($client, $waiting->[rand @$waiting]);

    } elsif ($chance < 0.56 && @{ $client->{done} }) {
        _look_again($client, $client->{done}[rand @{ $client->{done} }]);

    } elsif (@$waiting) {
        _look($client, int rand @$waiting);
    }

    sleep rand 0.01;                            # a client thinks
}


# One exchange over the connection there is: undef when there was none to be
# had, so that nothing was sent.

sub _exchange {
    my ($client, $method, $uri, %o) = @_;
    my $s = $client->{sock};

    if (!$s) {
        $s = Http::dial($client->{port}) or do {
            sleep 0.02;                         # nobody listens: no hurry
            return;
        };
    }

    Http::write_all($s, Http::bytes($method, $uri, %o));

    my $r = Http::response($s, deadline => 20);

    $client->{sock} = $r->{error}
                      || ($r->{h}{connection} // '') eq 'close' ? undef : $s;

    return $r;
}


sub _submit {
    my ($client) = @_;
    my (undef, $kind, $size, $query) = @{ pick(@KINDS) };
    my $serial = "$client->{number}-" . @{ $client->{jobs} };
    my $n = $size->();
    my $body = $kind eq 'event'
               ? $EVENT->encode({ said => $serial, pad => 'x' x $n })
               : substr "$serial " . $NOISE x (1 + $n / length $NOISE), 0, $n;

    $query =~ s/delay=/'delay=' . int rand 60/e;

    my $job = { serial => $serial, kind => $kind, sha => sha256_hex($body) };

    push @{ $client->{jobs} }, $job;

    # events go together only to one place
    my $uri = ($PLACE{$kind} // '/storm')
              . ($kind eq 'event' ? '' : "/$serial") . "?$query";
    my $r = _exchange($client, 'POST', $uri, body => $body);

    $job->{seen} = !$r ? 'unsent' : $r->{error} ? 'broken' : $r->{status};

    my $accepted = $r && !$r->{error} && Offload::job($r) or return;

    @$job{qw(id path)} = @$accepted{qw(id path)};
    push @{ $client->{waiting} }, $job;
}


sub _document {
    my ($client, $method, $job) = @_;
    my $r = _exchange($client, $method, $job->{path}) // return;

    return if $r->{error} || $r->{status} == 503;
    return eval { decode_json($r->{body}) }
        if $r->{status} == 200 || $r->{status} == 202;

    # an id that was given out is good for ever
    _wrong($client, "$job->{serial}: $job->{id}: $method: $r->{status}");

    return;
}


sub _look {
    my ($client, $i) = @_;
    my $waiting = $client->{waiting};
    my $job = $waiting->[$i];
    my $doc = _document($client, 'GET', $job) // return;

    _wrong($client, "$job->{serial}: attempts went back to $doc->{attempts}")
        if ($doc->{attempts} // 0) < ($job->{attempts} // 0);
    $job->{attempts} = $doc->{attempts};

    return if $doc->{status} !~ /^(?:completed|failed|canceled)$/;

    splice @$waiting, $i, 1;
    push @{ $client->{done} }, $job;
    $job->{final} = $doc->{status};
    $job->{code} = $doc->{error}{code};
    _result($client, $job);
}


# What is settled stays so.

sub _look_again {
    my ($client, $job) = @_;
    my $doc = _document($client, 'GET', $job) // return;

    _wrong($client, "$job->{serial}: was $job->{final} and is $doc->{status}")
        if $doc->{status} ne $job->{final}
           || $doc->{attempts} != $job->{attempts};
}


sub _cancel {
    my ($client, $job) = @_;

    # whatever the answer: it may be
    $job->{cancel} = 'asked';

    my $doc = _document($client, 'DELETE', $job) // return;

    $job->{cancel} = $doc->{status};
    $job->{canceled_after} = $doc->{attempts}
        if $doc->{status} eq 'canceled';
}


sub _result {
    my ($client, $job) = @_;

    return if $job->{cancel} || ($job->{code} // '') =~ /^(?:cut_off|lost)$/;

    my $r;

    # until there is an answer
    wait_until(30, sub {
        $r = _exchange($client, 'GET', "$job->{path}/result");
        $r && !$r->{error} && $r->{status} != 503;
    }) or return _wrong($client, "$job->{serial}: no answer for its result");

    my $doc = eval { decode_json($r->{body}) } // {};
    my $right = $job->{kind} eq 'blob'
                ? $r->{body} eq Backend::content(150_000)
                : $job->{kind} eq 'event'
                ? ($doc->{said} // '') eq $job->{serial}
                : ($doc->{sha} // '') eq $job->{sha};

    _wrong($client, "$job->{serial}: result $r->{status}, "
                    . length($r->{body}) . ' bytes, not its own')
        if !$right || $r->{status} != ($job->{kind} eq 'bad' ? 500 : 200);
}


sub _end {
    my ($client) = @_;
    my $deadline = time + $SETTLE;

    while (@{ $client->{waiting} } && time < $deadline) {
        _look($client, $_) for reverse 0 .. $#{ $client->{waiting} };
        sleep 0.05;
    }
}


# ---- what was wrong, in the end

sub wrong {
    my ($self) = @_;
    my (%job, @wrong);

    for my $number (1 .. $self->{clients}) {
        my $told = eval { decode_json(read_file("$self->{dir}/$number")) };

        push @wrong, $told ? @{ $told->{wrong} } : "client $number: no word";
        $job{$_->{serial}} = $_ for @{ $told->{jobs} // [] };
    }

    $self->{jobs} = [ values %job ];
    push @wrong, $self->_wrong_sightings(\%job);
    push @wrong, map { $self->_wrong_job($_) } @{ $self->{jobs} };

    return @wrong;
}


# A request by its serial number, and each item of a batch by its own.

sub _sightings {
    my ($r) = @_;

    return { %$r, serial => $1 }
        if $r->{uri} =~ m{^/(?:storm|once)/(\d+-\d+)\?};

    return map {
        my $body = $EVENT->encode($_->{body});

        { serial => $_->{body}{said}, job => $_->{job_id},
          attempt => $_->{attempt}, length => length $body,
          sha => sha256_hex($body) }
    } @{ $r->{items} // [] };
}


# What the backend saw, against what was sent.  No number comes twice; but one
# that lay with a stopped process may come after the next.

sub _wrong_sightings {
    my ($self, $jobs) = @_;
    my (@wrong, %seen);

    for (map { _sightings($_) }
         $self->{backend}->journal(event => 'request'))
    {
        my ($serial, $id, $attempt) = @$_{qw(serial job attempt)};
        my $job = $jobs->{$serial};
        my $what = "$serial: $id, attempt $attempt";

        if (!$job) {
            push @wrong, "$what: nobody sent it";
            next;
        }

        push @{ $job->{attempts_seen} }, $attempt;
        push @wrong, "$what: seen twice" if $seen{"$id $attempt"}++;
        push @wrong, "$what: torn: $_->{length} bytes"
            if $_->{sha} ne $job->{sha};
        push @wrong, "$what: run after $job->{seen}"
            if $job->{seen} ne 'broken' && $job->{seen} ne '202';
        push @wrong, "$what: run as $job->{id} too"
            if ($job->{id} //= $id) ne $id;
        push @wrong, "$what: run after it was canceled"
            if defined $job->{canceled_after}
               && $attempt > $job->{canceled_after};
    }

    return @wrong;
}


sub _wrong_job {
    my ($self, $job) = @_;
    my @seen = @{ $job->{attempts_seen} // [] };
    my $what = "$job->{serial}: " . ($job->{id} // '');
    my @wrong;

    # one whose client was not told: if it exists it is done like others
    if ($job->{seen} ne '202' && $job->{id}) {
        my $doc = $self->{nginx}->settled("/jobs/$job->{id}");

        @$job{qw(final attempts code)}
            = ($doc->{status}, $doc->{attempts}, $doc->{error}{code});
    }

    return if !$job->{id};

    my $final = $job->{final} // 'lost';
    my $attempts = $job->{attempts} // 0;

    push @wrong, "$what: $final " . ($job->{code} // '')
        if !_may_end($job, $final);
    push @wrong, "$what: to be run once, seen in attempts @seen"
        if $job->{kind} eq 'once' && @seen > 1;
    push @wrong, "$what: attempts seen: @seen, counted: $attempts"
        if grep { $_ > $attempts } @seen;
    push @wrong, "$what: $final, and never run" . " in attempt $attempts"
        if ($final eq 'completed' || ($job->{code} // '') eq 'backend_status')
           && !grep { $_ == $attempts } @seen;

    return @wrong;
}


sub _may_end {
    my ($job, $final) = @_;
    my $code = $job->{code} // '';

    return 1 if $final eq 'canceled' && $job->{cancel};
    return 0 if ($job->{cancel} // '') eq 'canceled';

    # killed under it five times: that is the rule, not a loss
    return 1 if $final eq 'failed' && $code eq 'cut_off'
                && $job->{attempts} >= 5 && $job->{kind} ne 'once';

    return 1 if $job->{kind} eq 'once' && $final eq 'failed'
                && $code eq 'lost';

    return $job->{kind} eq 'bad' ? $final eq 'failed'
                                   && $code eq 'backend_status'
                                 : $final eq 'completed';
}


# What it was like, in numbers.

sub summary {
    my ($self) = @_;
    my %sum;

    for (@{ $self->{jobs} }) {
        $sum{submitted}++;
        $sum{known}++ if $_->{id};

        # begun in the store, killed before it was sent: lost, and unheard of
        $sum{unheard}++ if !$_->{id} && $_->{kind} eq 'once'
                           && $_->{seen} eq 'broken';
        $sum{"answer $_->{seen}"}++;
        $sum{join ' ', $_->{final}, $_->{code} // ()}++ if $_->{final};
        $sum{'attempted again'}++ if ($_->{attempts} // 0) > 1;
        $sum{'unknown to its client'}++ if $_->{seen} ne '202' && $_->{id};
    }

    $sum{'in batches'} = grep { @{ $_->{items} // [] } > 1 }
                         $self->{backend}->journal(event => 'request');

    return \%sum;
}

1;
