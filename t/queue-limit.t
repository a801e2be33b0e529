# A limit is a promise to the operator: not one job more than said may wait,
# whichever process of nginx accepts it, and whatever is killed meanwhile. And
# to clients: who is refused left no job behind, who is let through to the
# backend instead gets its answer as if no queue had ever been there.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA;
use JSON::PP;
use Offload;
use Test::More;
use Util qw(freeze wait_until);

my $b = Backend->start;
my $n = Offload->new(backend => $b,
                     zone => 'jobs 16m path=%%ZONE%% concurrency=1',
                     http => <<'EOT')->start;
offload_queue ten zone=jobs { limit queued=10; }
offload_queue tenant zone=jobs {
    limit queued=9 key=$http_x_tenant per_key=3 status=503;
}
offload_queue bypass zone=jobs { limit queued=1; on_full bypass; }
offload_queue keyed zone=jobs { limit queued=1; }
server {
    listen 127.0.0.1:%%PORT%%;
    listen 127.0.0.1:%%PORT2%% http2;
    client_max_body_size 64m;
    client_body_buffer_size 8k;
    offload_accept_timeout 30s;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /plain/ { proxy_pass http://%%BACKEND%%; }
    location /ten/ { offload ten; proxy_pass http://%%BACKEND%%; }
    location /tenant/ { offload tenant; proxy_pass http://%%BACKEND%%; }
    location /keyed/ { offload keyed; offload_idempotency on;
                       proxy_pass http://%%BACKEND%%; }
    location /bypass/ { offload bypass; proxy_pass http://%%BACKEND%%; }
    location /bypass/unbuffered/ { offload bypass;
                                   proxy_request_buffering off;
                                   proxy_pass http://%%BACKEND%%; }
    location /bypass/fastcgi/ { offload bypass; fastcgi_pass %%FASTCGI%%;
                                fastcgi_param REQUEST_METHOD $request_method;
                                fastcgi_param REQUEST_URI $request_uri; }
    location /bypass/file/ { offload bypass;
                             root %%PREFIX%%; index index.html; }
    location /jobs/ { offload_status jobs; }
}
EOT
my $zone = $n->{zone_dir};


sub full {
    my ($r, $status, $name) = @_;
    my $doc = Offload::problem($r, $status, $name);

    is $doc->{type}, 'urn:problem-type:offload:queue-full', "$name: says so";
    like $r->{h}{'retry-after'}, qr/^[1-9]\d*$/, "$name: Retry-After";
    ok !exists $r->{h}{location}, "$name: and of no job";
}


# One job holds the only place to run: whatever comes now waits.

my $first = $n->submit(GET => '/first?gate=first');

$n->wait_status($first, 'running');


# many clients, two processes of nginx: ten, and not one more

my @answers = do {
    my @s = map {
        my $s = Http::dial($n->port);

        Http::write_all($s, Http::bytes('POST', "/ten/$_", body => 'x'));
        $s;
    } 1 .. 40;

    map { Http::response($_) } @s;
};
my @jobs = map { Offload::job($_) } grep { $_->{status} == 202 } @answers;

is scalar(@jobs), 10, 'of 40 requests 10 became jobs';
is scalar(grep { $_->{status} == 429 } @answers), 30, 'and 30 were refused';
full((grep { $_->{status} == 429 } @answers)[0], 429, 'refused');
is $n->get('/other')->{status}, 202, 'another queue has room';

ok wait_until(10, sub { $n->counters->{queued} == 11 }), 'so many wait';
is $n->counters->{limited}, 30, 'and what was refused is counted';


# a job that leaves makes room for one

$n->request(DELETE => $jobs[0]{path});
is $n->request(POST => '/ten/again', body => 'x')->{status}, 202,
    'one is canceled: one more';
full($n->request(POST => '/ten/again', body => 'x' x 400_000), 429,
     'and not two');
is_deeply [ grep { -f } glob "$zone/store/spool/*" ], [],
    'a body that was refused is gone';


# after a kill the new offloadd knows what waits

my $old = $n->offloadd;

kill 'KILL', $old;
ok $n->offloadd(not => $old, deadline => 30), 'offloadd is killed';
wait_until(20, sub { $n->counters->{running} == 1 });
full($n->request(POST => '/ten/killed', body => 'x'), 429, 'after a kill');
$n->request(DELETE => $jobs[1]{path});
is $n->request(POST => '/ten/killed', body => 'x')->{status}, 202,
    'and with one less';


# by key: one tenant's jobs leave room for another's

sub tenant {
    my ($name) = @_;

    return $n->request(POST => '/tenant/x', body => 'x',
                       headers => [ defined $name ? ('X-Tenant' => $name)
                                                  : () ]);
}

is tenant('a')->{status}, 202, "a's job $_" for 1 .. 3;
full(tenant('a'), 503, "a's 4th");
like tenant('a')->{body}, qr/of this client/, 'and why';
is tenant('b')->{status}, 202, "b's job $_" for 1 .. 3;
is tenant(undef)->{status}, 202, "a job of nobody's, $_" for 1 .. 3;
full(tenant('c'), 503, "c's first: the queue is full");


# a key is looked up first: its job is there, full or not

my @key = (headers => [ 'Idempotency-Key' => 'one' ], body => 'x');
my $keyed = $n->submit(POST => '/keyed/x', @key);

full($n->request(POST => '/keyed/x', body => 'x'), 429, 'full for others');
is Offload::job($n->request(POST => '/keyed/x', @key))->{id}, $keyed->{id},
    'the same key is the same job';
full($n->request(POST => '/keyed/x', body => 'x',
                 headers => [ 'Idempotency-Key' => 'two' ]), 429,
     'another key is refused');
$n->request(DELETE => $keyed->{path});
is $n->request(POST => '/keyed/x', body => 'x',
               headers => [ 'Idempotency-Key' => 'two' ])->{status}, 202,
    'and not used up';


# bypass

my $waiting = $n->submit(POST => '/bypass/job', body => 'x');

ok $waiting, 'there is room for one';

for my $way ('', 'unbuffered/', 'fastcgi/') {
    for my $try ([ 'no body' ], [ 'small', body => 'x' x 100 ],
                 [ 'large', body => 'y' x 1_000_000 ],
                 [ 'chunked', body => 'z' x 100_000, chunked => 7000 ],
                 [ 'huge', body => 'w' x 3_000_000, chunked => 60000 ])
    {
        my ($what, %o) = @$try;
        my $name = "bypass, /$way, $what";
        my $r = $n->request($o{body} ? 'POST' : 'GET',
                            "/bypass/${way}x?h=X-From:backend&status=203",
                            %o);
        my $seen = eval { decode_json($r->{body}) } // {};

        is $r->{status}, 203, "$name: the backend's answer"
            or diag $r->{error} // '', $r->{head} // '', $r->{body};
        is $r->{h}{'x-from'}, 'backend', "$name: its header";
        ok !exists $r->{h}{location} && !exists $r->{h}{'offload-source'},
            "$name: nothing of ours";
        is $seen->{sha}, Digest::SHA::sha256_hex($o{body} // ''),
            "$name: the body as it was";
    }
}

mkdir "$n->{prefix}/bypass";
mkdir "$n->{prefix}/bypass/file";
Util::write_file("$n->{prefix}/bypass/file/index.html", "from a file\n");
my $limited = $n->counters->{limited};

is $n->get('/bypass/file/')->{body}, "from a file\n",
    'a content handler that redirects inside';
is $n->counters->{limited}, $limited + 1, 'is not asked about again';

{
    my $s = Http::dial($n->port);
    my @got;

    for my $i (1 .. 3) {
        Http::write_all($s, Http::bytes('POST', "/bypass/keep/$i",
                                        body => "body $i"));
        push @got, Http::response($s)->{status};
    }

    is_deeply \@got, [ 200, 200, 200 ], 'on one connection';
}

SKIP: {
    skip 'no curl with HTTP/2', 2 if `curl -V 2>/dev/null` !~ /HTTP2/;

    my $url = 'http://127.0.0.1:' . $n->port(2);

    is `curl -s --http2-prior-knowledge -o /dev/null -w '%{http_code}' \\
        --data-binary \@$n->{module} $url/bypass/h2`, 200, 'by HTTP/2';
    is `curl -s --http2-prior-knowledge -o /dev/null -w '%{http_code}' \\
        -d x $url/ten/h2`, 429, 'a refusal by HTTP/2';
}

is $n->status($waiting)->{status}, 'queued', 'the job still waits';


# a reload changes the limit, for what waits already, too

$n->write_conf(http => $n->{http} =~ s/(queue ten .* queued=)10/${1}12/r);
ok $n->reload(drain => 0), 'a reload';
is $n->request(POST => '/ten/more', body => 'x')->{status}, 202,
    'two more may wait' for 1 .. 2;
full($n->request(POST => '/ten/more', body => 'x'), 429, 'and not three');


# While a request is parked nothing else starts it: not a connection that can
# be written to, and has been watched for that since an answer had to wait.

{
    my $offloadd = $n->offloadd;
    my $s = Http::dial($n->port);

    Http::write_all($s, Http::bytes('GET', '/plain/x?size=8000000'));
    ok $b->wait_for(1, event => 'request', uri => '/plain/x?size=8000000'),
        'an answer that does not fit the socket';
    is length(Http::response($s)->{body}), 8_000_000, 'and is read late';
    freeze($offloadd);
    Http::write_all($s, Http::bytes('GET', '/ten/parked'));
    wait_until(10, sub { $n->figures->{bytes} > 0 });
    Http::write_all($s, Http::bytes('GET', '/ten/behind'));
    is $n->get('/other')->{status}, 202, 'a turn of the loop' for 1 .. 4;
    is scalar($b->journal(event => 'request', uri => '/ten/parked')), 0,
        'a parked request does not reach the backend';
    kill 'CONT', $offloadd;
    is Http::response($s)->{status}, 429, 'its answer, when it comes';
    is Http::response($s)->{status}, 429, 'and that of the one behind it';
}


# all that waited is run

$b->open_gate('first');
ok wait_until(30, sub { my $c = $n->counters;
                        $c->{queued} + $c->{running} == 0 }), 'all are run'
    or diag explain $n->counters;
is $n->request(POST => '/ten/last', body => 'x')->{status}, 202,
    'and there is room again';

Offload::finish_all();
