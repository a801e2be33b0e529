# Generated clients of large clouds poll an Operation-Location by rules of
# their own: they look at one word of the body, and one they do not know is
# polled for ever.  A poller written by these rules must come to the end of
# every job, with the result or the reason, whatever else the location serves.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Events;
use JSON::PP;
use Offload;
use Test::More;
use Util qw(wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b,
    zone => 'jobs 16m path=%%ZONE%% concurrency=1', http => <<'EOT')->start;
server {
    listen 127.0.0.1:%%PORT%%;
    offload_dialect azure;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /key/ { offload jobs; offload_idempotency on;
                     proxy_pass http://%%BACKEND%%; }
    location /plain/ { offload jobs; offload_dialect default;
                       proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
    location /other/ { offload_status jobs; offload_dialect default; }
}
EOT
my $TIME = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;


sub path { my ($url) = @_; return $url =~ s{^https?://[^/]+}{}r }


# Where to poll, by the first answer.

sub begin {
    my ($uri, %o) = @_;
    my $r = $n->request(POST => $uri, body => 'x', %o);

    return { first => $r, url => $r->{h}{'operation-location'} };
}


# One look: undef while it goes on, else how it ended.

sub look {
    my ($poll) = @_;
    my $r = $n->get(path($poll->{url}));

    die "status $r->{status}\n" if $r->{status} !~ /^20[0124]$/;
    $poll->{last} = $r;
    $poll->{doc} = decode_json($r->{body});

    my $status = $poll->{doc}{status};

    die "status is no string\n" if $r->{body} !~ /"status":"\w+"/;
    $poll->{seen}{$status} = $r;

    return lc $status eq 'succeeded' ? 'done'
           : $status =~ /fail|^cancell?ed$/i ? 'failed' : undef;
}


sub end {
    my ($poll) = @_;
    my $how;

    wait_until(30, sub { $how = look($poll) });

    return $how // "never: $poll->{last}{body}";
}


# ---- one that works

my $p = begin('/x?gate=g&size=9&type=text/csv');
my $r = $p->{first};

is $r->{status}, 202, 'accepted';
is $p->{url}, $r->{h}{location}, 'Operation-Location is the job\'s URL';
is decode_json($r->{body})->{status}, 'NotStarted', 'and so says the body';
my $id = decode_json($r->{body})->{id};
like $p->{url}, qr{/\Q$id\E$}, 'with the job\'s id';
$b->wait_for(1, event => 'request', job => $id);

my $q = begin('/x?status=503');

ok wait_until(20, sub { look($p); $p->{seen}{Running} }), 'Running';
look($q);
is $q->{doc}{status}, 'NotStarted', 'the next has not begun';

for my $poll ($p, $q) {
    is $poll->{last}{status}, 200, 'every poll is answered with 200';
    like $poll->{last}{h}{'retry-after'}, qr/^[1-9]\d*$/,
        'and says when to ask again';
    like $poll->{doc}{$_}, $TIME, $_
        for qw(createdDateTime lastActionDateTime);
    ok !grep({ /^(?:job_id|status_url|resourceLocation|error)$/ }
             keys %{ $poll->{doc} }), 'no other words';
}

is $n->request(HEAD => path($p->{url}))->{status}, 200, 'HEAD too';

# the page, what it asks, and events have the usual words

my $page = $n->get(path($p->{url}), headers => [ Accept => 'text/html' ]);

is $page->{status}, 202, 'the page';
like $page->{body}, qr/data-status="running"/, 'with its words';
my ($accept) = $page->{body} =~ /headers: \{ Accept: '([^']+)' \}/;
my $plain = $n->get(path($p->{url}), headers => [ Accept => $accept ]);

is $plain->{status}, 202, 'what its script asks for';
is decode_json($plain->{body})->{job_id}, $id, 'in its words';
is(Events->open($n->port, path($p->{url}))->next->{doc}{status}, 'running',
    'events as well');
is $n->status("/other/$id")->{status}, 'running',
    'a location without the dialect';

my $long = Http::dial($n->port);

Http::write_all($long, Http::bytes(GET => path($p->{url}) . '?wait=30'));
$b->open_gate('g');
$r = Http::response($long);
is decode_json($r->{body})->{status}, 'Succeeded', 'a long poll';

is end($p), 'done', 'a poller comes to its end';
is $p->{doc}{percentComplete}, 100, 'all of it';
ok !exists $p->{last}{h}{'retry-after'}, 'nothing to wait for';
is $n->get(path($p->{doc}{resourceLocation}))->{body}, Backend::content(9),
    'resourceLocation is the result';


# ---- those that do not

is end($q), 'failed', 'a job that failed';
is $q->{doc}{status}, 'Failed', 'its status';
ok length $q->{doc}{error}{code} && length $q->{doc}{error}{message},
    'code and message';
is $n->get(path($q->{doc}{resourceLocation}))->{status}, 503,
    'what the backend said';

$p = begin('/x?gate=never');
$r = $n->request(DELETE => path($p->{url}));
is $r->{status}, 200, 'canceled';
is decode_json($r->{body})->{status}, 'Canceled', 'and so says the answer';
is end($p), 'failed', 'the poller sees it';
Offload::problem($n->get('/jobs/0' . 'z' x 25), 404, 'no job: a problem');


# ---- a key again, and a location without the dialect

my @twins = map { begin('/key/x', headers => [ 'Idempotency-Key' => 'k' ]) }
            1 .. 2;

is $twins[1]{url}, $twins[0]{url}, 'a key again: the same job';
like decode_json($twins[1]{first}{body})->{status},
    qr/^(?:NotStarted|Running|Succeeded)$/, 'in these words';
is end($twins[1]), 'done', 'to poll';

$r = $n->request(POST => '/plain/x', body => 'x');
ok !exists $r->{h}{'operation-location'}, 'none but where it is asked for';
is decode_json($r->{body})->{status}, 'queued', 'in the usual words';

Offload::finish_all();
