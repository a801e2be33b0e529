# What exhausted its attempts is not thrown away: an operator finds it with its
# request, its last answer and the reason, and has it done again when the
# backend is well, or purges it.  Nobody may lose it before, not by a kill and
# not by a sweep; and nothing of it may stay when it goes.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Clock;
use Control;
use Offload;
use Test::More;

my $back = Backend->start;
my $n = Offload->new(backend => $back, worker => 'off', workers => 1,
    build => Offload::failpoints_dir(),
    zone => 'jobs 8m path=%%ZONE%% ttl=1h', http => <<'EOT')->start;
offload_queue brief zone=jobs {
    retry max=2 backoff=1s..1s jitter=none; dead_ttl 2h;
}
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 8m;
    location / {
        offload jobs; offload_idempotency on;
        proxy_pass http://%%BACKEND%%;
    }
    location /brief/ { offload brief; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $clock = Clock->new($n);
my $pid = $n->by_hand(undef, $clock->env);
my $key = '"dead-letter"';

$n->offloadd;


# Lets time pass until the job is settled.

sub fails {
    my ($job) = @_;
    my $doc;

    Offload::wait_until(40, sub {
        $clock->ahead(30);
        $doc = $n->wait_status($job, 'completed|failed', deadline => 0.2);
        ($doc->{status} // '') =~ /^(?:completed|failed)$/;
    });

    return $doc;
}


sub files {
    my $store = $n->policy->{store};

    return sort grep { $_ ne 'tmp' }
           map { s{.*/}{}r } glob "$store/blobs/* $store/spool/*";
}


sub dead { $n->counters->{store}{dead} }


# What comes of asking for it: `done`, or the status of the refusal.

sub asked {
    my ($method, $job, $what) = @_;
    my $letter = "/v1/dead/$job->{id}";
    my (undef, $r) = control($n, $method, $letter . ($what // ''));

    return $r->{status} == 200 ? 'done' : $r->{status};
}

sub redrive { asked(POST => $_[0], '/redrive') }


# ---- kept

my $body = 'b' x 1_000_000;
my $job = $n->submit(POST => '/a?status=503&cut=5&size=100000', body => $body,
                     headers => [ 'Idempotency-Key' => $key ]);
my $doc = fails($job);

is $doc->{status}, 'failed', 'five attempts: failed';
is $doc->{error}{code}, 'backend_status', 'with the code of its answer';
is $n->result($job)->{status}, 503, 'which is there';
is length $n->result($job)->{body}, 100_000, 'whole';
is_deeply [ files() ], [ $job->{id}, "$job->{id}.5" ],
    'its body and its last answer are kept';
is dead(), 1, 'it is a dead letter';

my $other = $n->submit(GET => '/brief/x?cut=9');

is fails($other)->{error}{code}, 'exhausted', 'another one without an answer';
is $n->result($other)->{status}, 404, 'has no result';
is dead(), 2, 'and is a dead letter';
is fails($n->submit(POST => '/a?status=500'))->{error}{code}, 'backend_status',
    'an answer that is final';
is dead(), 2, 'is none';

my (%listed, $after);

do {
    my $doc = control($n, GET => '/v1/dead?limit=1'
                                 . ($after ? "&after=$after" : ''));

    $listed{$_->{job_id}}++ for @{ $doc->{dead} };
    $after = $doc->{next};
} while ($after && keys %listed < 9);

is_deeply \%listed, { $job->{id} => 1, $other->{id} => 1 },
    'they are listed, each once';


# ---- killed, and swept

kill 'KILL', $pid;
waitpid $pid, 0;
$pid = $n->by_hand(undef, $clock->env);
$n->offloadd;
is $n->status($job)->{status}, 'failed', 'killed: it has failed';
is_deeply [ files() ], [ $job->{id}, "$job->{id}.5" ],
    'the next worker leaves its files alone';
is asked(GET => $job), 'done', 'and it can be shown';


# ---- done again

is redrive($other), 'done', 'the other is driven again';
is fails($other)->{attempts}, 4, 'two more attempts fail, and are counted';
is dead(), 2, 'it is a dead letter again';

is redrive($job), 'done', 'driven again';

my $r = $n->get($job->{path}, headers => [ Prefer => 'wait=30' ]);

is $r->{status}, 200, 'a long poll sees its end';
$doc = $n->settled($job);
is $doc->{status}, 'completed', 'now it is done';
is $doc->{job_id}, $job->{id}, 'under the same id';
is $doc->{attempts}, 6, 'in its sixth attempt';
ok !exists $doc->{error}, 'without an error';
is $n->result($job)->{status}, 200, 'with a result';
is_deeply [ files() ], [ "$job->{id}.6" ],
    'and nothing of what it had before is left behind';
is dead(), 1, 'it is no dead letter any more';

my ($last) = (sort { $a->{attempt} <=> $b->{attempt} }
              $back->journal(event => 'request', job => $job->{id}))[-1];

is $last->{attempt}, 6, 'the backend was told which attempt it is';
is $last->{length}, length $body, 'and got the whole body';
is redrive($job), 404, 'what is done is not driven again';

$r = $n->request(POST => '/a?status=503&cut=5&size=100000', body => $body,
                 headers => [ 'Idempotency-Key' => $key ]);
is Offload::job($r)->{id}, $job->{id}, 'its key is its own through all of it';


# ---- from another queue

$job = $n->submit(POST => '/brief/x?status=503&cut=2');
fails($job);
is redrive($job), 'done', 'one more';
$doc = $n->settled($job);
is $doc->{status}, 'completed', 'is done';


# ---- purged, deleted, expired

my ($purged, $deleted, $expired) = map {
    my $j = $n->submit(POST => '/brief/x?status=503&size=90000',
                       body => $body);

    fails($j);
    $j;
} 1 .. 3;

is dead(), 4, 'three more';
is asked(DELETE => $purged), 'done', 'one is purged';
is $n->request(DELETE => $deleted->{path})->{status}, 200, 'one deleted';
is dead(), 2, 'both are none any more';
is $n->status($_)->{status}, 'failed', 'that it failed is known'
    for $purged, $deleted;
is $n->result($_)->{status}, 410, 'its result is not' for $purged, $deleted;
is redrive($_), 404, 'it is not driven again'
    for $purged, $deleted;
is_deeply [ grep { !/\.6$/ } files() ], [ $expired->{id}, "$expired->{id}.2" ],
    'no files but those of the third';

$clock->ahead(3700);
is $n->get($expired->{path})->{status}, 200, 'ttl is over: it is there';
$clock->ahead(3700);
ok Offload::wait_until(10, sub {
    $n->get($expired->{path})->{status} == 410 }), 'dead_ttl is over: gone';
ok Offload::wait_until(10, sub { !files() && dead() == 0 }),
    'with all it had';

Offload::finish_all();
