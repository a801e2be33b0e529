# A client that got no answer sends its request again, and must not have paid
# twice: with the same Idempotency-Key there is one job, whichever process of
# nginx has the twin, and whatever died in between.  A key that lets a second
# job through, or gives a stranger someone's job, would be worse than none.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Offload;
use Test::More;

my $back = Backend->start;
my $build = Offload::failpoints_dir();
my $HTTP = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    listen 127.0.0.1:%%PORT2%% http2;
    client_max_body_size 64m;
    offload_idempotency on;
    offload_accept_timeout 30s;
    offload jobs;
    location / { proxy_pass http://%%BACKEND%%; }
    location /other/ { proxy_pass http://%%BACKEND%%; }
    location /soon/ {
        offload_accept_timeout 400ms;
        proxy_pass http://%%BACKEND%%;
    }
    location /taken/ {
        offload_accept_timeout 1500ms;
        proxy_pass http://%%BACKEND%%;
    }
    location /later/ {
        offload_accept_timeout 3s;
        proxy_pass http://%%BACKEND%%;
    }
    location /must/ {
        offload_idempotency required;
        proxy_pass http://%%BACKEND%%;
    }
    location /wait/ {
        offload_wait 20s;
        proxy_pass http://%%BACKEND%%;
    }
    location /off/ {
        offload_idempotency off;
        proxy_pass http://%%BACKEND%%;
    }
    location /header/ {
        offload_idempotency required header=X-Request-Token;
        proxy_pass http://%%BACKEND%%;
    }
    location /tenant/ {
        offload_idempotency on scope=$http_x_tenant;
        proxy_pass http://%%BACKEND%%;
    }
    location /small/ {
        client_max_body_size 1k;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT3%%;
    server_name elsewhere;
    offload_idempotency on;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /tenant/ {
        offload_idempotency on scope=$http_x_tenant;
        offload_accept_timeout 1500ms;
        offload jobs;
        proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT


sub key { my ($key, @more) = @_; return headers => [ 'Idempotency-Key' => $key,
                                                     @more ] }

sub post {
    my ($n, $uri, $key, %o) = @_;
    my $more = delete $o{headers} // [];

    return $n->request(POST => $uri, body => 'x', key($key, @$more), %o);
}


# Both are the same job.

sub same {
    my ($x, $y, $name) = @_;
    my ($a, $b) = map { ref $_ && $_->{id} ? $_ : Offload::job($_) } $x, $y;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok $a && $b && $a->{url} eq $b->{url}, $name
        or diag($x->{head} // '', $y->{head} // '', $y->{body} // '');

    return $b;
}


sub other {
    my ($x, $y, $name) = @_;
    my ($a, $b) = map { Offload::job($_) } $x, $y;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok $a && $b && $a->{id} ne $b->{id}, $name
        or diag($x->{head} // '', $y->{head} // '', $y->{body} // '');
}


sub seen { my ($uri) = @_;
           scalar grep { $_->{uri} eq $uri }
                  $back->journal(event => 'request') }

sub send_one {
    my ($n, $uri, $key, %o) = @_;
    my $s = Http::dial(delete $o{to} // $n->port) or die "dial: $!";

    Http::write_all($s, Http::bytes(POST => $uri, body => 'x', key($key),
                                    %o));
    return $s;
}

sub bodies { my ($n) = @_;
             scalar grep { -f } glob "$n->{zone_dir}/store/spool/*" }

sub ends { my ($pid) = @_;
           Offload::wait_until(20, sub {
               waitpid($pid, POSIX::WNOHANG()) == $pid }) }


# An offloadd that has begun its work, so that its start takes nobody's time.

sub working {
    my ($n, $place) = @_;
    my $pid = $n->by_hand($place);

    Offload::wait_until(20, sub {
        my $w = $n->counters->{worker}; $w->{alive} && $w->{pid} == $pid })
        or fail("offloadd $pid works");

    return $pid;
}


# ---- what a key is, and what it is not

{
    my $n = Offload->new(backend => $back, http => $HTTP)->start;
    my $a = post($n, '/a?gate=a', '"k1"');
    my $job = Offload::job($a);

    is $a->{status}, 202, 'a request with a key';
    is $n->wait_status($job, 'running')->{status}, 'running', 'is a job';

    my $b = post($n, '/a?gate=a', '"k1"');

    same($a, $b, 'its twin has the same Location');
    is $b->{status}, 202, 'in a 202';
    is $b->{h}{'content-location'}, $job->{url}, 'and Content-Location';
    is $b->{h}{'cache-control'}, 'no-store', 'never from a cache';
    ok $b->{h}{'retry-after'}, 'and says when to ask';
    is decode_json($b->{body})->{status}, 'running', 'its body has the state';
    is decode_json($b->{body})->{job_id}, $job->{id}, 'of that job';
    same($a, post($n, '/a?gate=a', 'k1'), 'without quotes it is the same key');
    same($a, post($n, '/a?gate=a', '"k1"; v=1'), 'parameters are ignored');

    for (['another body', '/a?gate=a', body => 'y'],
         ['a longer body', '/a?gate=a', body => 'xx'],
         ['another URL', '/a?gate=b'], ['another location', '/other/a'])
    {
        my ($what, $uri, %o) = @$_;
        my $doc = Offload::problem(post($n, $uri, '"k1"', %o), 422,
                                   "$what: 422");

        like $doc->{type}, qr/:key-reused$/, "$what: it says why";
    }

    Offload::problem($n->request(PUT => '/a?gate=a', body => 'x',
                                 key('"k1"')), 422, 'another method: 422');

    $back->open_gate('a');
    is $n->settled($job)->{status}, 'completed', 'the job is done';
    $b = post($n, '/a?gate=a', '"k1"');
    same($a, $b, 'afterwards, too, it is that job');
    is decode_json($b->{body})->{status}, 'completed', 'in that state';
    is seen('/a?gate=a'), 1, 'the backend saw it once';

    # the state a client left behind: discarded, canceled
    $n->request(DELETE => $job->{path});
    same($a, post($n, '/a?gate=a', '"k1"'), 'a discarded result keeps it');

    $a = post($n, '/c?gate=c', '"k2"');
    $job = Offload::job($a);
    $n->request(DELETE => $job->{path});
    $b = post($n, '/c?gate=c', '"k2"');
    same($a, $b, 'a canceled job keeps its key');
    is decode_json($b->{body})->{status}, 'canceled', 'and says so';
    $back->open_gate('c');

    # to the backend the header goes as it came
    my $got = $n->echoed(POST => '/e', body => 'x', key('"as-it-came";v=1'));

    is $got->{h}{'idempotency-key'}, '"as-it-came";v=1',
        'the backend has the key as the client sent it';

    # without a key nothing has changed
    other($n->request(POST => '/a', body => 'x'),
          $n->request(POST => '/a', body => 'x'), 'no key: two jobs');
    other(post($n, '/off/', '"k1"'), post($n, '/off/', '"k1"'),
          'off: two jobs');

    # ---- keys that are none

    my $doc = Offload::problem($n->request(POST => '/must/a', body => 'x'),
                               400, 'required and missing: 400');

    like $doc->{type}, qr/:key-missing$/, 'which says why';
    same(post($n, '/must/a', '"m"'), post($n, '/must/a', '"m"'),
         'required and there');

    my @good = ('x' x 255, '"' . 'x' x 255 . '"', '"a \\" b \\\\ c"', '"a, b"',
                '8e03978e-40d5-43dd-bc93-6894a57f9324', 'a+/=:b');
    my @bad = ('', '""', 'x' x 256, '"' . 'x' x 256 . '"', '"open', '"a"b',
               '"a\\n"', '"\\', 'a b', 'a, b', 'a"b', "\"caf\xc3\xa9\"",
               "a\x01b", '"a", "b"', 'a;b');

    for my $key (@good) {
        my $name = length $key > 40 ? length($key) . ' characters' : $key;

        same(post($n, '/k', $key), post($n, '/k', $key), "good: $name");
    }

    for my $key (@bad) {
        my $name = length $key > 40 ? length($key) . ' characters' : $key;

        $name =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
        next if $key eq "a\x01b";               # nginx itself refuses it
        $doc = Offload::problem(post($n, '/k', $key), 400, "bad: $name");
        like $doc->{type}, qr/:key-invalid$/, "bad: $name: it says so";
    }

    Offload::problem(post($n, '/k', 'a', headers => [ 'idempotency-key', 'a' ]),
                     400, 'two of them: 400');
    same(post($n, '/k', '"a \\" b \\\\ c"'), post($n, '/k', '"a \\" b \\\\ c"'),
         'escapes are read');
    other(post($n, '/k1', 'a'), post($n, '/k1', 'A'), 'case matters');

    # ---- another header

    my @token = (headers => [ 'X-Request-Token' => 't1',
                              'Idempotency-Key' => '"open' ]);

    same($n->request(POST => '/header/a', body => 'x', @token),
         $n->request(POST => '/header/a', body => 'x', @token),
         'the key from another header');
    Offload::problem(post($n, '/header/a', 't1'), 400, 'and only from there');

    # ---- scopes

    my ($x, $y) = map { [ 'X-Tenant' => $_ ] } qw(one two);
    my $mine = post($n, '/tenant/a', 'k', headers => $x);

    same($mine, post($n, '/tenant/a', 'k', headers => $x), 'a tenant\'s key');
    other($mine, post($n, '/tenant/a', 'k', headers => $y),
          'is not another tenant\'s');
    other($mine, post($n, '/tenant/a', 'k'), 'nor nobody\'s');
    other(post($n, '/tenant/b', 'bk', headers => [ 'X-Tenant' => 'a' ]),
          post($n, '/tenant/b', 'k', headers => [ 'X-Tenant' => 'ab' ]),
          'no scope runs on into its key');
    other(post($n, '/s', 'k'),
          post($n, '/s', 'k', to => $n->port(3), host => 'elsewhere'),
          'nor is it another server\'s');
    same(post($n, '/s', 'k'), post($n, '/s', 'k'), 'by default');

    # ---- bodies: large, chunked, none

    for my $size (0, 1, 65_535, 300_000, 5_000_000) {
        my $body = Backend::content($size);
        my $uri = "/size/$size";

        $a = post($n, $uri, "size$size", body => $body);
        same($a, post($n, $uri, "size$size", body => $body, chunked => 1),
             "$size bytes, chunked the second time");
        same($a, post($n, $uri, "size$size", body => $body, chunked => 77),
             "$size bytes, in small chunks") if $size < 100_000;

        substr $body, -1, 1, '!' if $size;
        Offload::problem(post($n, $uri, "size$size", body => $body), 422,
                         "$size bytes, the last one another: 422") if $size;
        is $n->settled(Offload::job($a))->{status}, 'completed', 'done';
        is seen($uri), 1, 'once';
    }

    is bodies($n), 0, 'no body is left over';
    same($n->get('/get', key('g')), $n->get('/get', key('g')),
         'without a body');
    Offload::problem(post($n, '/small/', 'k', body => 'x' x 5000), 413,
                     'too large: 413');
    Offload::problem(post($n, '/small/', 'k', body => 'x' x 5000,
                          chunked => 100), 413, 'too large in chunks: 413');

  SKIP: {
        my $curl = "curl -s --http2-prior-knowledge -o /dev/null -w"
                   . " '%{http_version} %header{location}' -H"
                   . " 'Idempotency-Key: h2' --data-binary \@$n->{prefix}/body"
                   . ' http://127.0.0.1:' . $n->port(2) . '/h2';

        Offload::write_file("$n->{prefix}/body", Backend::content(400_000));

        my ($one, $two) = (`$curl`, `$curl`);

        skip 'curl without HTTP/2', 2 if $one !~ /^2/;
        like $one, qr{^2 http://127.0.0.1:\d+/jobs/\w{26}$}, 'HTTP/2';
        is $two, $one, 'HTTP/2: the twin';
    }

    # ---- who waits gets the result, whoever made the job

    $_ = send_one($n, '/wait/a?gate=wait', 'wait') for my @wait = (1, 2);
    Offload::wait_until(10, sub { seen('/wait/a?gate=wait') });
    $b = post($n, '/wait/a?gate=wait', 'wait',
              headers => [ Prefer => 'respond-async' ]);
    is $b->{status}, 202, 'a third one does not wait';
    is decode_json($b->{body})->{status}, 'running', 'and is told the state';
    $back->open_gate('wait');

    for (@wait) {
        my $r = Http::response($_);

        is $r->{status}, 200, 'who waits gets the result';
        is $r->{h}{'offload-source'}, 'backend', 'of the backend';
    }

    is post($n, '/wait/a?gate=wait', 'wait')->{h}{'offload-source'},
        'backend', 'so does who comes later';
    is seen('/wait/a?gate=wait'), 1, 'and the backend saw one request';

    # ---- a crowd

    my @socks = map { send_one($n, '/crowd?delay=50', '"crowd"') } 1 .. 20;
    my %ids = map { (Offload::job(Http::response($_)) // {})->{id} // '?' => 1 }
              @socks;

    is keys %ids, 1, '20 at once over 2 workers: one job';
    ok !$ids{'?'}, 'for all of them';
    my ($id) = keys %ids;
    is $n->settled("/jobs/$id")->{status}, 'completed', 'which is done';
    is seen('/crowd?delay=50'), 1, 'once';

    my $c = $n->counters;

    cmp_ok $c->{duplicates}, '>=', 19, 'duplicates are counted';
    is $c->{rejected}, 0, 'not as damaged';

    Offload::wait_until(20, sub { !$n->figures->{slots} })
        or fail('no slot is left over');

    # a key never reaches a log
    $a = post($n, '/log', 'secret-key-4711');
    unlike $n->log . $n->worker_log
           . Offload::read_file("$n->{prefix}/access.log"),
        qr/secret-key-4711/, 'no key in a log';

    # ---- restarts

    my $kept = post($n, '/kept?gate=kept', 'kept');

    ok $n->reload(drain => 0), 'a reload';
    same($kept, post($n, '/kept?gate=kept', 'kept'), 'the key is known');

    my $pid = $n->offloadd;

    kill 'KILL', $pid;
    $n->offloadd(not => $pid);
    same($kept, post($n, '/kept?gate=kept', 'kept'), 'offloadd is killed');

    $n->stop(signal => 'TERM');
    $n->start;
    same($kept, post($n, '/kept?gate=kept', 'kept'), 'all are stopped');
    $n->stop(signal => 'TERM');
    unlink "$n->{zone_dir}/zone.v1";
    $n->start;
    same($kept, post($n, '/kept?gate=kept', 'kept'), 'a new zone file');
    Offload::problem(post($n, '/kept?gate=kept', 'kept', body => 'y'), 422,
                     'and its content, too');
    $back->open_gate('kept');
    is $n->settled(Offload::job($kept))->{status}, 'completed', 'it is done';
    $n->finish;
}


# ---- keys expire, after their jobs

{
    my $n = Offload->new(backend => $back, zone => 'jobs 16m path=%%ZONE%% '
                         . 'ttl=1s', http => <<'EOT')->start;
server {
    listen 127.0.0.1:%%PORT%%;
    location / {
        offload_idempotency on ttl=1s;
        offload jobs; proxy_pass http://%%BACKEND%%;
    }
    location /day/ {
        offload_idempotency on;
        offload jobs; proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT
    my $a = post($n, '/ttl?gate=ttl', 'ttl');
    my $day = post($n, '/day/a', 'day');
    my $doc;

    Offload::wait_until(20, sub {
        $n->get(Offload::job($day)->{path})->{status} == 410 })
        or fail('the other has expired');
    same($a, post($n, '/ttl?gate=ttl', 'ttl'),
         'as long as its job runs a key is known, whatever its ttl');
    $back->open_gate('ttl');
    $n->wait_status(Offload::job($a), 'completed');

    my $other;

    ok Offload::wait_until(20, sub {
        $other = Offload::job(post($n, '/ttl?gate=ttl', 'ttl'));
        $other && $other->{id} ne Offload::job($a)->{id} }),
        'after ttl the key is free, and another job';
    $n->settled($other);
    is seen('/ttl?gate=ttl'), 2, 'the second of its kind';

    $doc = Offload::problem(post($n, '/day/a', 'day'), 410,
        'a key that outlives its job: 410');
    like $doc->{type}, qr/:job-expired$/, 'that says why';
    Offload::problem(post($n, '/day/a', 'day', body => 'y'), 422,
                     'and for another request 422 still');
    is seen('/day/a'), 1, 'nothing is done again';
    $n->finish;
}


# ---- offloadd dies, at each step between ring and answer

for my $zone ('jobs 16m path=%%ZONE%%', 'jobs 16m path=%%ZONE%% '
              . 'store=%%ZONE%%/store durability=disk')
{
    my $n = Offload->new(backend => $back, zone => $zone, http => $HTTP,
                         build => $build, worker => 'off', workers => 1)
            ->start;
    my $what = $zone =~ /disk/ ? 'disk' : 'memory';

    for my $place (qw(drain.taken drain.before-commit store.before-commit
                      claim.commit.before claim.committed drain.after-commit
                      drain.after-slots cq.post.done sq.release.before
                      drain.after-head))
    {
        for my $large (0, 1) {
            my $uri = "/$what/$place/$large";
            my %o = (body => Backend::content($large ? 400_000 : 10));
            my @socks = map { send_one($n, $uri, "$what$place$large", %o) }
                        1 .. 3;

            Offload::wait_until(10, sub { $n->figures->{accepted} >= 1
                                          && $n->figures->{bytes} });

            ok ends($n->by_hand($place)), "$what, $place: dies there";

            my $pid = $n->by_hand;
            my $twin = post($n, $uri, "$what$place$large", %o);
            my $job = Offload::job($twin);

            ok $job, "$what, $place: a twin afterwards";
            $n->settled($job) if $job;
            is seen($uri), 1, "$what, $place: done once";

            kill 'TERM', $pid;
            ends($pid);
            close $_ for @socks;
        }
    }

    # ---- who gives up leaves no key behind

    my ($pid, $accepted);

    for my $place ('', qw(drain.taken claim.commit.before)) {
        my $uri = ($place ? '/taken/' : '/soon/') . "$what$place";
        my $dies = $place && working($n, $place);
        my $s = send_one($n, $uri, $uri);

        # once offloadd has taken it, only offloadd can say 503
        if ($place) {
            ok ends($dies), "$uri: offloadd dies";
            is Http::response($s)->{status}, 0, "$uri: given up, not told";
        } else {
            Offload::problem(Http::response($s), 503, "$uri: given up: 503");
        }

        $pid = working($n);
        Offload::wait_until(20, sub { !$n->figures->{bytes} })
            or fail('taken');
        is seen($uri), 0, "$uri: it never runs";

        my $job = Offload::job($n->request(POST => $uri, body => 'other',
                                           key($uri)));

        ok $job, "$uri: its key is free, for any request";
        is $n->settled($job)->{status}, 'completed', "$uri: which is done";
        is seen($uri), 1, "$uri: once";
        kill 'TERM', $pid;
        ends($pid);
    }

    # ---- nor does who is told so when offloadd has removed the job

    {
        my $uri = "/later/$what";
        my $asked = sub { scalar(() = $n->log =~ /asked to remove it/g) };
        my $before = $asked->();

        $pid = $n->by_hand('claim.commit.before:1s');

        my $s = send_one($n, $uri, $uri);

        ok Offload::wait_until(20, sub { $asked->() > $before }),
            "$uri: nginx asks for its removal";
        kill 'CONT', $pid;
        Offload::problem(Http::response($s), 503, "$uri: and has it: 503");

        my $job = Offload::job($n->request(POST => $uri, body => 'other',
                                           key($uri)));

        ok $job, "$uri: its key is free, for any request";
        is $n->settled($job)->{status}, 'completed', "$uri: which is done";
        is seen($uri), 1, "$uri: once";
        kill 'TERM', $pid;
        ends($pid);
    }

    # ---- the first is given up between its commit and its twin's answer

    my $uri = "/tenant/$what";
    my $dies = working($n, 'claim.commit.before');

    Offload::freeze($dies);

    my $first = send_one($n, $uri, $uri, to => $n->port(3),
                         host => 'elsewhere');

    Offload::wait_until(10, sub { $n->figures->{bytes} });
    $accepted = $n->figures->{accepted};

    my $twin = send_one($n, $uri, $uri);

    Offload::wait_until(10, sub { $n->figures->{accepted} > $accepted });
    kill 'CONT', $dies;
    ok ends($dies), "$uri: offloadd dies";
    is Http::response($first)->{status}, 0, "$uri: one gives up";
    $pid = $n->by_hand;

    my $got = Http::response($twin);

    is $got->{status}, 202, "$uri: the one that waits gets the job";
    is $n->settled(Offload::job($got))->{status}, 'completed', "$uri: done";
    is seen($uri), 1, "$uri: once";

    # nobody there
    kill 'TERM', $pid;
    ends($pid);
    Offload::problem(post($n, '/soon/none', 'none'), 503,
                     "$what: no offloadd: 503");
    $pid = $n->by_hand;
    Offload::wait_until(20, sub { !$n->figures->{bytes} })
        or fail('taken');
    is bodies($n), 0, "$what: no body is left over";
    kill 'TERM', $pid;
    ends($pid);
    $n->finish;
}

Offload::finish_all();
