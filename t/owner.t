# A job's result is somebody's: where offload_owner says whose, nobody else may
# learn that the job exists, by any of its representations, in any of its
# states, through any location, after any restart, nor by sending the same
# idempotency key.  And an id that is the only key to a job must not leave by a
# Referer, nor stand in logs that others read.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Events;
use JSON::PP;
use Offload;
use Test::More;
use Util qw(read_file wait_until);

my $b = Backend->start;
my $HTTP = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 8m;
    offload_owner $http_x_user;
    offload jobs;
    location / { proxy_pass http://%%BACKEND%%; }
    location /free/ { offload_owner off; proxy_pass http://%%BACKEND%%; }
    location /held/ { offload_wait 20s; offload_idempotency on;
                      proxy_pass http://%%BACKEND%%; }
    location /key/ { offload_idempotency on;
                     proxy_pass http://%%BACKEND%%; }
    location /scope/ { offload_idempotency on scope=$server_port;
                       proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
    location /open/ { offload_status jobs; offload_owner off; }
}
EOT


sub as { my ($user, @more) = @_;
         return headers => [ defined $user ? ('X-User' => $user) : (),
                             @more ] }


# All that a client can ask of a job.

my @ASK = (
    [ 'document', 'GET', '' ],
    [ 'HEAD', 'HEAD', '' ],
    [ 'result', 'GET', '/result' ],
    [ 'events', 'GET', '', Accept => 'text/event-stream' ],
    [ 'page', 'GET', '', Accept => 'text/html' ],
    [ 'long poll', 'GET', '?wait=20' ],
    [ 'Prefer: wait', 'GET', '', Prefer => 'wait=20' ],
    [ 'DELETE', 'DELETE', '' ],
    [ 'POST', 'POST', '' ],
    [ 'POST of a result', 'POST', '/result' ],
);


sub answer {
    my ($n, $path, $user, $ask) = @_;
    my (undef, $method, $more, @headers) = @$ask;
    my $r = $n->request($method => $path . $more, as($user, @headers),
                        deadline => 15);

    return join "\n", $r->{error} // '', $r->{status},
        (grep { !/^Date:/ } split /\r\n/, $r->{head} // ''), $r->{body};
}


# As far as that user can see, there is no such job.

sub hidden {
    my ($n, $job, $user, $name, $location) = @_;
    my $path = $job->{path} =~ s{^/jobs/}{/$location/}r;
    my $none = $path =~ s/(.)$/$1 eq 'z' ? 'y' : 'z'/er;
    my @told = grep { answer($n, $path, $user, $_)
                      ne answer($n, $none, $user, $_) } @ASK;
    my $r = $n->get($path, as($user));

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok !@told && $r->{status} == 404,
        "$name: as if there were no such job"
        or diag(join "\n", map { $_->[0], answer($n, $path, $user, $_) }
                @told);
}


sub hidden_from_all {
    my ($n, $job, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    hidden($n, $job, 'mallory', "$name, another user", 'jobs');
    hidden($n, $job, undef, "$name, nobody", 'jobs');
    hidden($n, $job, 'alice', "$name, where no owner is known", 'open');
}


my $n = Offload->new(backend => $b, http => $HTTP)->start;


# ---- a job that runs, in its slot

my $job = $n->submit(POST => '/x?gate=a&size=5', as('alice'), body => 'x');

$b->wait_for(1, event => 'request', job => $job->{id});
$n->wait_status($job, 'running', as('alice'));
hidden_from_all($n, $job, 'running');
is $n->status($job, as('alice'))->{status}, 'running',
    'and nobody could cancel it';

my $s = Events->open($n->port, $job->{path}, headers => [ 'X-User', 'alice' ]);

is $s->next->{event}, 'running', 'its owner gets events';
like $n->get($job->{path}, as('alice', Accept => 'text/html'))->{body},
    qr/data-status="running"/, 'the page';

my $poll = Http::dial($n->port);

Http::write_all($poll, Http::bytes(GET => "$job->{path}?wait=30",
                                   as('alice')));
$b->open_gate('a');
is decode_json(Http::response($poll)->{body})->{job_id}, $job->{id},
    'a long poll';

my $event;

while (my $e = $s->next) { $event = $e->{event} // $event }

is $event, 'completed', 'all events to the end';
is $n->settled($job, as('alice'))->{status}, 'completed', 'the document';
is $n->result($job, as('alice'))->{body}, Backend::content(5), 'the result';


# ---- settled, in the store; canceled

hidden_from_all($n, $job, 'settled');

my $other = $n->submit(POST => '/c?gate=never', as('alice'), body => 'x');

$b->wait_for(1, event => 'request', job => $other->{id});
is $n->request(DELETE => $other->{path}, as('alice'))->{status}, 200,
    'the owner cancels';
hidden_from_all($n, $other, 'canceled');


# ---- jobs that are nobody's

for my $free ($n->submit(POST => '/free/x', as('alice'), body => 'x'),
              $n->submit(POST => '/x', body => 'x'))
{
    is $n->settled($free)->{status}, 'completed',
        'no owner: the id is all it takes';
    is $n->result($free, as('mallory'))->{status}, 200, 'for anyone';
    is $n->get($free->{path} =~ s/jobs/open/r)->{status}, 200, 'anywhere';
}


# ---- one key, two owners

for my $uri ('/key/x', '/scope/x') {
    my ($a, $a2, $bob, $eve) = map {
        $n->submit(POST => $uri, body => $_->[1], as($_->[0],
                   'Idempotency-Key' => 'k1')) }
        [ alice => 'x' ], [ alice => 'x' ], [ bob => 'x' ], [ eve => 'y' ];

    is $a2->{id}, $a->{id}, "$uri: the owner's key is the owner's job";
    ok $bob && $bob->{id} ne $a->{id}, "$uri: another's is another job";
    ok $eve && $eve->{id} ne $a->{id}, "$uri: and no key for other content";
    hidden($n, $a, 'bob', "$uri: for the other", 'jobs');
}

my @held = map { $n->request(POST => '/held/x', body => 'x', as($_,
                 'Idempotency-Key' => 'k2')) } qw(alice bob alice);

is_deeply [ map { $_->{body} =~ /"X-User","(\w+)"/ } @held ],
    [ qw(alice bob alice) ], 'who waits gets the own result'
    or diag(map { $_->{head}, $_->{body} } @held);
is $held[2]{body}, $held[0]{body}, 'the one there is';
ok !$held[0]{h}{'referrer-policy'}, 'which is left as it was';


# ---- a Referer is not to have the id

for my $ask ([ 'page', '', Accept => 'text/html' ], [ 'result', '/result' ]) {
    my ($what, $more, @headers) = @$ask;
    my $r = $n->get($job->{path} . $more, as('alice', @headers));

    is $r->{h}{'referrer-policy'}, 'no-referrer', "$what: sends no Referer";
}

my ($r) = $n->through(POST => '/free/x?h=Referrer-Policy:origin');
is $r->{h}{'referrer-policy'}, 'origin', 'unless the backend says so';


# ---- it is a matter of the store as well

my $waits = $n->submit(POST => '/x?gate=w', as('alice'), body => 'x');

$b->wait_for(1, event => 'request', job => $waits->{id});
$n->stop(signal => 'TERM');
$n->start;
$n->offloadd;
$n->wait_status($waits, 'running|queued', as('alice'));
hidden_from_all($n, $job, 'settled, after a restart');
hidden_from_all($n, $waits, 'pending, after a restart');
$b->open_gate('w');
is $n->settled($waits, as('alice'))->{status}, 'completed',
    'after a restart the owner has it';


# ---- logs: offloadd's own has ids whole, and is not for all to read

my ($log) = $n->policy->{log};

like $n->worker_log, qr/ job=$job->{id} /, 'offloadd logs whole ids';
is sprintf('%o', (stat $log)[2] & 0777), '640', 'where others can not read';
rename $log, "$log.1";
kill 'USR1', $n->master;
ok wait_until(10, sub { -e $log && !((stat $log)[2] & 07) }),
    'nor when it was opened again';
$n->stop;


# ---- waiting in the store alone: its slot was needed

my $zone = 'jobs 2m path=%%ZONE%% lanes=2 slots=64 concurrency=1 log=stderr';

$n = Offload->new(backend => $b, http => $HTTP, workers => 1,
                  zone => $zone)->start;

my $first = $n->submit(POST => '/x?gate=one', as('alice'), body => 'x');
my @jobs;

ok wait_until(30, sub {
    push @jobs, Offload::job($n->request(POST => '/x?gate=one', as('alice'),
                                         body => 'x')) // ();
    @jobs >= 100 }), 'more jobs than there are slots';
hidden_from_all($n, $_, 'queued') for @jobs[0, 99];
is scalar(grep { $n->status($_, as('alice'))->{status} ne 'queued' } @jobs),
    0, 'the owner sees them all';
is scalar(grep { $n->get($_->{path}, as('bob'))->{status} != 404 } @jobs), 0,
    'another sees none';
$b->open_gate('one');
is $n->settled($jobs[99], as('alice'))->{status}, 'completed', 'all are done';


# ---- logs: what goes into nginx's has no whole ids

my $blob = $n->submit(POST => '/x?size=200000', as('alice'), body => 'x');
my @blobs;

ok wait_until(20, sub { @blobs = glob "$n->{zone_dir}/store/blobs/*" }),
    'a large result is a file';
truncate $blobs[0], 7;
wait_until(20, sub { $n->result($blob, as('alice'))->{status} == 503 });
chmod 0500, "$n->{zone_dir}/store/spool";

SKIP: {
    skip 'not as another user than nginx', 1 if $> != 0;
    is $n->request(POST => '/x', as('alice'),
                   body => 'x' x 1_000_000)->{status}, 503,
        'a body that can not be moved is refused';
}

chmod 0700, "$n->{zone_dir}/store/spool";
ok wait_until(20, sub { $n->log =~ /msg=settled job=\S+/ }),
    'offloadd logs to nginx\'s log';
ok wait_until(10, sub { $n->log =~ /the store says/ }),
    'nginx says what is wrong with a file';

# the request line is what the client sent, and nginx's own

my @whole = grep { s/ request: ".*//r =~ /\b[0-7][0-9a-z]{25}\b/ }
            split /\n/, $n->log;

is scalar(@whole), 0, 'no line has a whole id' or diag $whole[0];
like $n->log, qr/ job=\Q@{[ substr $first->{id}, 0, 8 ]}\E /,
    'but its beginning';


# ---- a job that is no more was known to one only

my $mark = length $n->log;

$n->write_conf(zone => "$zone ttl=1s");
ok $n->reload
   && wait_until(10, sub { substr($n->log, $mark) =~ /policy read/ }),
    'results are kept for a second';
$job = $n->submit(POST => '/x', as('alice'), body => 'x');
ok wait_until(20, sub { $n->get($job->{path}, as('alice'))->{status}
                        == 410 }), 'expired: 410 for the owner';
hidden_from_all($n, $job, 'expired');

Offload::finish_all();
