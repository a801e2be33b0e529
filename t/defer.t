# Work that takes hours is not done in one request: its backend takes the job,
# hangs up, and brings the result later.  Meanwhile the job must cost nothing
# but its place, survive whatever is restarted, and end in time; and then the
# result must be the one that was brought, whole, by the one who may.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Events;
use JSON::PP;
use Offload;
use Report;
use Test::More;
use Util qw(read_file wait_until);

my $b = Backend->start;
my $DEFER = 'status=202&h=Offload-Defer:1&h=X-Ticket:7';

my $SERVER = <<'EOT';
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /soon/ { offload jobs; proxy_pass http://%%BACKEND%%;
                      offload_timeout 2s; }
    location /once/ { offload jobs; proxy_pass http://%%BACKEND%%;
                      offload_delivery at-most-once; }
    location /wait/ { offload jobs; proxy_pass http://%%BACKEND%%;
                      offload_wait 30s; }
    location /max/ { offload jobs; proxy_pass http://%%BACKEND%%;
                     offload_max_result 80k; }
    location /cut/ { offload jobs; proxy_pass http://%%BACKEND%%;
                     offload_max_result 80k truncate; }
    location /jobs/ { offload_status jobs; }
    location /few/ { offload_status jobs; client_max_body_size 10k; }
}
EOT

my %n = map {
    $_ => Offload->new(backend => $b, http => $SERVER,
        zone => "jobs 16m path=%%ZONE%% concurrency=3 durability=$_"
                . ($_ eq 'disk' ? ' store=%%PREFIX%%/store' : ''))->start
} qw(memory disk);

my ($n, $mode);

sub code { my ($r) = @_; $r->{status} . ($r->{error} // '') }


# So many jobs are running, soon: offloadd publishes it after its answers.

sub runs {
    my ($count) = @_;

    return wait_until(20, sub {
        unpack('x2136 Q', read_file("$n->{zone_dir}/zone.v1")) == $count });
}


# A job that was deferred: when the store says so it says `running`, and no
# attempt is under way.

sub deferred {
    my ($where, %o) = @_;
    my $log = $n->worker_log;
    my $job = $n->submit(POST => "$where?$DEFER", body => 'x', %o);
    my $at = Report::place($b, $job);

    $b->wait_for(1, event => 'done', job => $job->{id});
    ok wait_until(20, sub { $n->worker_log =~ /deferred.*$job->{id}/ }),
        "$mode: $where is deferred";

    return ($job, $at);
}


sub files {
    my ($dir) = @_;
    my $store = $mode eq 'disk' ? "$n->{prefix}/store" : "$n->{zone_dir}/store";

    return map { s{.*/}{}r } grep { -f } glob "$store/$dir/*";
}


sub kill_worker {
    my $pid = $n->offloadd;

    kill 'KILL', $pid;
    return $n->offloadd(not => $pid);
}


for (qw(memory disk)) {
    $mode = $_;
    $n = $n{$mode};

    # small, with all that belongs to it

    my ($job, $at) = deferred('/small');
    my $doc = $n->status($job);

    is "$doc->{status} $doc->{attempts}", 'running 1', 'it is running';
    ok !exists $doc->{response}, 'and has no answer';
    ok runs(1), 'it counts as running';
    is code($n->result($job)), 404, 'it has no result';
    is code(Report::progress($n, $at, { progress => 10 })), 204,
        'and makes progress';
    is $n->status($job)->{progress}, 10, '.. that is seen';

    my $stream = Events->open($n->port, $job->{path});

    $stream->next;

    my $r = Report::put($n, $at, 'the result', headers => [
        'Offload-Status' => 201, 'Content-Type' => 'text/x-result',
        'Content-Language' => 'de', 'Content-Disposition' => 'inline',
        'ETag' => '"e1"', 'Last-Modified' => 'Sat, 25 Apr 2026 10:30:00 GMT',
        'Cache-Control' => 'max-age=7', 'Expires' => '0',
        'Offload-Header-Set-Cookie' => 'a=1', 'X-Not' => 'kept',
        'Offload-Header-Set-Cookie' => 'b=2', 'Offload-Header-X-Empty' => '',
        'User-Agent' => 'me' ]);

    is code($r), 204, 'the result is put: 204';
    is_deeply [ $stream->rest ], [ 'completed' ], 'who waits is told';
    $doc = $n->status($job);
    is $doc->{status}, 'completed', 'completed';
    is_deeply $doc->{response}, { status => 201, length => 10,
        content_type => 'text/x-result' }, 'with what was put';
    ok runs(0), 'nothing runs';

    my $res = $n->result($job);
    my %kept = map { $_ => $res->{h}{$_} }
               qw(content-type content-language content-disposition etag
                  last-modified cache-control expires set-cookie x-empty);

    is "$res->{status} $res->{body}", '201 the result', 'the result';
    is_deeply \%kept, {
        'content-type' => 'text/x-result', 'content-language' => 'de',
        'content-disposition' => 'inline', 'etag' => '"e1"',
        'last-modified' => 'Sat, 25 Apr 2026 10:30:00 GMT',
        'cache-control' => 'max-age=7', 'expires' => '0',
        'set-cookie' => 'a=1, b=2', 'x-empty' => '' }, '.. with its headers';
    is_deeply [ grep { /^(?:x-not|x-ticket|user-agent|auth.*|offload-[^s].*)$/ }
                sort keys %{ $res->{h} } ], [], '.. and no others';

    is code(Report::put($n, $at, 'another')), 204, 'put once more: 204';
    is $n->result($job)->{body}, 'the result', 'and the first one stays';
    Offload::problem(Report::progress($n, $at, { progress => 1 }), 409,
                     'no more progress');
    Offload::problem(Report::put($n, $at, 'x', token => '0' x 26), 403,
                     'nor from somebody else');


    # large, put while everything is restarted

    my ($large, $its) = deferred('/large');
    my ($failed, $why) = deferred('/failed');
    my ($once, $only) = deferred('/once/');
    my $waits = $n->submit(POST => '/waits?size=5', body => 'x');

    ok runs(3), 'all places are taken';
    is $n->status($waits)->{status}, 'queued', 'the next one waits';
    is code(Report::progress($n, $its, { progress => 33, message => 'm' })),
        204, 'progress';

    ok kill_worker(), 'offloadd is killed';
    ok $n->reload, 'nginx reloads';
    ok runs(3), 'they run on';
    $doc = $n->status($large);
    is "$doc->{status} $doc->{attempts} $doc->{progress}"
        . " $doc->{progress_message}", 'running 1 33 m', 'as they were';
    is $n->status($waits)->{status}, 'queued', 'and the other one waits still';

    my $content = Backend::content(5_000_000);

    for ([ 401, token => undef ], [ 403, token => $why->{token} ],
         [ 400, headers => [ 'Offload-Status' => 100 ] ],
         [ 400, headers => [ 'Offload-Status' => 600 ] ],
         [ 400, headers => [ 'Offload-Status' => 'OK' ] ],
         (map { [ 400, headers => [ "Offload-Header-$_" => 'x' ] ] }
          qw(Connection Content-Length Transfer-Encoding Date Proxy-X
             Offload-Source)),
         [ 400, headers => [ 'Offload-Header-' => 'x' ] ])
    {
        my ($status, %o) = @$_;

        Offload::problem(Report::put($n, $its, $content, %o), $status,
            "$status: " . ($o{headers} ? "@{ $o{headers} }" : 'its token'));
    }

    is_deeply [ files('spool/tmp'), files('blobs') ], [],
        'what was refused leaves no file';

    my $few = { %$its, path => $its->{path} =~ s{^/jobs/}{/few/}r };

    Offload::problem(Report::put($n, $few, $content), 413, 'too large: 413');
    Offload::problem(Report::put($n, $few, $content, chunked => 50000), 413,
                     'too large in chunks: 413');
    is $n->status($large)->{status}, 'running', 'it runs on';

    is code(Report::put($n, $its, $content, chunked => 700_000,
            headers => [ 'Content-Encoding' => 'x-none' ])), 204,
        'five megabytes in chunks';
    is_deeply [ files('spool/tmp') ], [], 'the file was moved';
    is scalar(files('blobs')), 1, '.. to its place';
    is code(Report::put($n, $its, $content)), 204, 'once more';
    is_deeply [ files('spool/tmp') ], [], '.. leaves nothing';
    is $n->settled($waits)->{status}, 'completed', 'the next one has run';

    is code(Report::put($n, $why, '{"why":"x"}', with => 'Offload-Job-Token',
            headers => [ 'Offload-Status' => 503,
                         'Content-Type' => 'application/json' ])), 204,
        'a failure';
    $doc = $n->status($failed);
    is "$doc->{status} $doc->{response}{status}", 'failed 503', 'is failed';
    like $doc->{error}{message}, qr/answered 503/, '.. and says why';
    is code($n->result($failed)), 503, '.. with its answer';

    is code(Report::put($n, $only, '')), 204, 'at most once, and empty';
    is $n->status($once)->{status}, 'completed', 'is not lost by a restart';
    is $n->result($once)->{h}{'content-length'}, 0, '.. and has no bytes';

    ok kill_worker(), 'offloadd is killed again';
    $res = $n->result($large);
    ok $res->{body} eq $content, 'the result is whole';
    is $res->{h}{'content-encoding'}, 'x-none', '.. with its encoding';
    $n->request(DELETE => $large->{path});
    ok wait_until(20, sub { !files('blobs') }), 'discarded, its file is gone';
    is code(Report::put($n, $its, 'again')), 204,
        'once more is no harm even then';
    is code($n->result($large)), 410, '.. and brings nothing back';


    # in time

    my ($late, $then) = deferred('/soon/a');
    my ($restarted) = deferred('/soon/b');

    is $n->status($late)->{status}, 'running', 'it has its time';
    ok kill_worker(), 'offloadd is killed before that is over';

    for ($late, $restarted) {
        $doc = $n->settled($_);
        is "$doc->{status} $doc->{error}{code} $doc->{attempts}",
            'failed timeout 1', 'not put in time: failed';
        cmp_ok $n->status($_)->{attempts}, '==', 1, '.. by that attempt';
    }

    Offload::problem(Report::put($n, $then, $content), 409,
                     'what comes later is refused');
    is code($n->result($late)), 404, 'and it has no result';
    is_deeply [ files('spool/tmp'), files('blobs') ], [], 'nor a file';


    # canceled

    my ($canceled, $his) = deferred('/cancel');

    is code($n->request(DELETE => $canceled->{path})), 200, 'canceled';
    is $n->status($canceled)->{status}, 'canceled', '.. it is';
    ok runs(0), '.. and does not count';
    Offload::problem(Report::put($n, $his, 'x'), 409, '.. it takes no result');


    # one that is faster than its own answer

    for my $size (3, 300_000) {
        my $gate = "$mode$size";
        my $race = $n->submit(POST => "/race?gate=$gate&size=400000",
                              body => 'x');
        my $place = Report::place($b, $race);

        is code(Report::put($n, $place, 'z' x $size)), 204,
            "put before the attempt is answered, $size";
        is $n->status($race)->{status}, 'completed', '.. is taken';
        $b->open_gate($gate);
        ok runs(0), '.. nothing runs';
        ok $n->result($race)->{body} eq 'z' x $size, '.. and it stays';
        is $n->status($race)->{attempts}, 1, '.. with one attempt';
    }


    # a client that waits for it

    my $sock = Http::dial($n->port);

    Http::write_all($sock, Http::bytes(POST => "/wait/?$DEFER&m=$mode",
                                       body => 'x'));

    my ($e);

    wait_until(20, sub { ($e) = grep { $_->{uri} =~ m{^/wait/.*m=$mode$} }
                                $b->journal(event => 'request') });
    is code(Report::put($n, Report::place($b, { id => $e->{job} }), 'now',
            headers => [ 'Offload-Status' => 203 ])), 204, 'put';

    my $now = Http::response($sock);

    is "$now->{status} $now->{body}", '203 now',
        'who has waited all the time gets it';


    # no more of it than the job's location allows, in memory and in a file

    my $kept = files('blobs');

    for my $size (81_920, 81_921, 200_000, 400_000) {
        my $content = Backend::content($size);
        my $over = $size > 81_920;
        my @said = ('Content-Type' => 'text/x-large', ETag => '"e"',
                    'Last-Modified' => 'Sat, 25 Apr 2026 10:30:00 GMT',
                    'Offload-Header-Digest' => 'd',
                    'Offload-Header-X-Other' => 'o');

        my ($max, $place) = deferred('/max/');

        is code(Report::put($n, $place, $content, headers => [ @said ])), 204,
            "$size bytes are put";
        $doc = $n->status($max);
        $res = $n->result($max);

        if ($over) {
            is "$doc->{status} $doc->{error}{code}",
                'failed result_too_large', '.. too large';
            like $doc->{error}{message}, qr/larger than 81920 bytes/,
                '.. it says';
            ok !exists $doc->{response}, '.. there is no answer';
            Offload::problem($res, 404, '.. and no result');
        } else {
            ok $res->{body} eq $content, '.. and kept';
        }

        is code(Report::put($n, $place, $content)), 204, '.. once more: 204';

        my ($cut, $there) = deferred('/cut/');

        is code(Report::put($n, $there, $content, headers => [
            'Offload-Status' => 201, @said ])), 204, "$size to be cut";
        $doc = $n->status($cut);
        is_deeply $doc->{response}, {
            status => 201, content_type => 'text/x-large', length => 81_920,
            $over ? (truncated => JSON::PP::true) : () },
            '.. as the document says';
        $res = $n->result($cut);
        is "$res->{status} $doc->{status}", '201 completed', '.. completed';
        ok $res->{body} eq Backend::content(81_920), '.. by its beginning';
        is $res->{h}{'offload-truncated'}, $over ? 1 : undef,
            '.. Offload-Truncated';
        is $res->{h}{'x-other'}, 'o', '.. with its headers';
        is scalar(grep { exists $res->{h}{$_} } qw(etag last-modified digest)),
            $over ? 0 : 3, '.. but for what was said of the whole';
        is code(Report::put($n, $there, 'x')), 204, '.. once more: 204';
        ok $n->result($cut)->{body} eq $res->{body}, '.. no harm';
        $n->request(DELETE => $cut->{path});
    }

    is_deeply [ files('spool/tmp') ], [], 'no file is left over';
    ok wait_until(20, sub { files('blobs') == $kept }), '.. nor a result';


    # what is not deferred

    for ('status=202', 'h=Offload-Defer:1', 'status=202&h=Offload-Defer:0',
         'status=500&h=Offload-Defer:1')
    {
        my ($r, $doc) = $n->through(POST => "/plain?$_&size=4", body => 'x');

        like $doc->{status}, qr/^(?:completed|failed)$/, "$_: settled";
        ok !exists $r->{h}{'offload-defer'}, '.. and says nothing of it';
    }

    my ($plain, undef, $settled) = $n->through(POST => '/plain?size=4',
                                               body => 'x');

    Offload::problem(Report::put($n, Report::place($b, $settled), 'x'), 409,
                     'a job that was answered takes no result');

    unlike $n->worker_log, qr/level=(?:warn|error)/, 'nobody was alarmed';
}

# where nothing else is measured, a job that was late has taken its time

$n = Offload->new(backend => $b, http => $SERVER,
                  zone => 'jobs 4m path=%%ZONE%%')->start;

my ($only) = deferred('/soon/only');
my $measured;

is $n->settled($only)->{status}, 'failed', 'it is late';
wait_until(20, sub {
    $measured = unpack 'x2152 Q', read_file("$n->{zone_dir}/zone.v1") });
cmp_ok abs($measured - 2_000_000), '<', 400_000, '.. by what it was given';


# what the manual says a backend should type

my ($told, $its) = deferred('/manual', headers => [
    Host => '127.0.0.1:' . $n->port ]);
my @commands = grep { /offload_job_url/ } read_file(
    "$Offload::ROOT/docs/http-api.md") =~ /^    (curl .*(?:(?<=\\)\n.*)*)/mg;

Util::write_file("$n->{prefix}/result.csv", "a,b\n1,2\n");
$ENV{offload_job_url} = $its->{url};
$ENV{offload_job_token} = $its->{token};
is scalar(@commands), 2, 'the manual has two examples';

for (@commands) {
    my $head = `cd $n->{prefix} && $_ -s -i -m 30 2>&1`;

    like $head, qr{^HTTP/1.1 204 }, /PATCH/ ? 'progress' : 'the result'
        or diag $_;
    is $n->status($told)->{progress}, 42, '.. is seen' if /PATCH/;
}

my $res = $n->result($told);

is "$res->{status} $res->{h}{'content-type'} $res->{h}{'x-pages'} $res->{body}",
    "201 text/csv 50 a,b\n1,2\n", '.. is the result';

Offload::finish_all();
