# People copy examples before they read documentation: each file of examples/
# is started as it stands, ports and paths apart, and used as its first
# comment says.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Control;
use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(encode_base64);
use Offload;
use Test::More;

my $b = Backend->start;


sub example {
    my ($name, %replace) = @_;
    my $n = Offload->new(backend => $b);
    my $text = Offload::read_file("$Offload::ROOT/examples/$name");
    my $worker = $n->{worker};
    my $zone = $n->{zone_dir};
    my $temp = join ' ', map { "${_}_temp_path $n->{prefix}/tmp-$_;" }
               qw(client_body proxy fastcgi uwsgi scgi);
    my @changes = (
        [ qr{modules/ngx_http_offload_module\.so}, $n->{module} ],
        [ qr{^user .*$}m, $> == 0 ? "user $Offload::USER;" : '' ],
        [ qr{/var/log/nginx/}, "$n->{prefix}/" ],
        [ qr{/run/nginx\.pid}, "$n->{prefix}/nginx.pid" ],
        [ qr{listen\s+127\.0\.0\.1:8080}, 'listen 127.0.0.1:' . $n->port ],
        ($text =~ /127\.0\.0\.1:9000/
            ? [ qr{127\.0\.0\.1:9000}, $b->{http} ] : ()),
        [ qr{(offload_zone\s+\w+ 64m)}, "\$1 path=$zone" ],
        [ qr{^http \{}m, "http { offload_worker $worker; $temp" ],
        map { [ qr/\Q$_\E/, $replace{$_} =~ s/%%PREFIX%%/$n->{prefix}/r ] }
            sort keys %replace,
    );

    for (@changes) {
        my ($from, $to) = @$_;
        my $done = $to =~ s/^\$1// ? $text =~ s/$from/$1$to/g
                                   : $text =~ s/$from/$to/g;

        ok $done, "$name: has " . $from if !$done;
    }

    $n->{whole} = $text;
    $n->write_conf;

    return $n;
}


# minimal

{
    my $n = example('minimal.conf')->start;
    my ($r, $doc, $job) = $n->through(POST => '/reports/yearly?size=1000',
                                      body => 'year=2025');

    like $job->{path}, qr{^/jobs/}, 'minimal: accepted';
    is $doc->{status}, 'completed', 'minimal: completed';
    is $r->{body}, Backend::content(1000), 'minimal: the report';
    $n->finish;
}


# upload

{
    my $n = example('upload.conf',
        '/var/lib/nginx/offload-imports' => '%%PREFIX%%/imports')->start;
    my $film = 'frame ' x 3_000_000;
    my ($seen, $doc, $job) = $n->echoed(PUT => '/import/film.mov',
                                        body => $film);

    like $job->{path}, qr{^/imports/jobs/}, 'upload: accepted';
    is $doc->{status}, 'completed', 'upload: completed';
    is $seen->{sha}, sha256_hex($film), 'upload: 18 MB, whole';
    is $seen->{length}, length $film, 'upload: with its length';
    ok -f "$n->{prefix}/imports/store.mdb", 'upload: the store is where the '
        . 'example says';

    my @jobs = map { $n->submit(PUT => "/import/$_?gate=u",
                                body => "$_" x 200_000) } 1 .. 6;

    ok Offload::wait_until(10, sub {
        4 == grep { $_->{uri} =~ /gate=u/ } $b->journal(event => 'request')
    }), 'upload: four run at a time';
    is scalar(grep { -f "$n->{prefix}/imports/spool/$_->{id}" } @jobs), 6,
        'upload: bodies wait on disk';
    $b->open_gate('u');
    $n->settled($_) for @jobs;
    is $n->policy->{ttl_ms}, 24 * 3600 * 1000, 'upload: kept for a day';
    $n->finish;
}


# authentication and limits

{
    my $n = example('auth-limits.conf',
        '127.0.0.1:9001/auth' => "$b->{http}/auth?h=X-User:grace",
        '/etc/nginx/offload.htpasswd' => '%%PREFIX%%/htpasswd');
    my @ada = (Authorization => 'Basic ' . encode_base64('ada:secret', ''));

    Offload::write_file("$n->{prefix}/htpasswd", "ada:{PLAIN}secret\n");
    $n->start;

    is $n->request('POST', '/reports/yearly', body => 'x')->{status}, 401,
        'auth: a password is needed';

    my ($seen, $doc, $job) = $n->echoed(POST => '/reports/yearly',
                                        body => 'x', headers => \@ada);

    is $seen->{h}{'x-user'}, 'ada', 'auth: the backend knows who it was';

    my @status = map { $n->request('POST', '/reports/many', body => 'x',
                                   headers => \@ada)->{status} } 1 .. 40;

    ok scalar(grep { $_ == 429 } @status), 'auth: the rate is limited';
    ok scalar(grep { $_ == 202 } @status), 'auth: but not at once';
    is scalar(grep { $_ != 429 && $_ != 202 } @status), 0,
        'auth: and nothing else happens';

    ($seen) = $n->echoed(POST => '/api/export', body => 'x',
                         headers => [ Authorization => 'Bearer t' ]);
    is $seen->{h}{'x-user'}, 'grace', 'auth: kept from auth_request';
    ($seen) = $n->echoed(POST => '/admin/x', body => 'x');
    is $seen->{h}{'x-user'}, 'grace', 'auth: found again at the attempt';
    ok Offload::wait_until(5, sub {
        Offload::read_file("$n->{prefix}/access.log")
            =~ /job=$job->{id} attempt=1/ }), 'auth: the log has the job';
    $n->finish;
}


# queues

{
    my $n = example('queues.conf')->start;
    my @jobs = map { $n->submit(POST => "/reports/$_?gate=q", body => 'x',
                                headers => [ 'X-Tenant' => 'a' ]) } 1 .. 100;
    my %at = map { $_ => $n->request(POST => '/reports/more', body => 'x',
                                     headers => [ 'X-Tenant' => $_ ]) }
             qw(a b);

    ok Offload::wait_until(10, sub {
        4 == grep { $_->{uri} =~ /gate=q/ } $b->journal(event => 'request')
    }), 'queues: four reports at a time';
    is $at{b}{status}, 202, 'queues: another tenant has room';

    my @more = map { $n->request(POST => "/reports/$_", body => 'x',
                                 headers => [ 'X-Tenant' => 'a' ]) } 1 .. 6;

    ok scalar(grep { $_->{status} == 429 } @more),
        'queues: the first one has a hundred that wait';

    my ($seen, $doc, $job) = $n->echoed(POST => '/orders/x?status=503&cut=1',
                                        body => 'x');

    is $doc->{attempts}, 2, 'queues: an order is sent again';
    is $seen->{h}{'idempotency-key'}, $job->{id}, 'queues: under one key';
    is control($n, POST => '/v1/queues/orders/drain')->{state}, 'draining',
        'queues: as its comment says: drained';
    $job = $n->submit(POST => '/orders/y', body => 'x');
    is control($n, GET => '/v1/queues/orders')->{running}, 0,
        'queues: .. and nothing is begun';
    control($n, POST => '/v1/queues/orders/resume');
    is $n->settled($job)->{status}, 'completed', 'queues: resumed';
    $b->open_gate('q');
    $n->settled($_, deadline => 60) for @jobs;
    $n->finish;
}


# exec

{
    my $n = example('exec.conf')->start;
    my $text = ".TL\nA title\n.PP\n" . 'Some text. ' x 100 . "\n";
    my ($r, $doc) = $n->through(POST => '/pdf/', body => $text,
                                headers => [ 'Content-Type' => 'text/troff' ]);

    is $doc->{status}, 'completed', 'exec: a document is typeset';
    like $r->{body}, qr/^%PDF-/, 'exec: to a PDF';
}


# batch

{
    my $n = example('batch.conf')->start;
    my @jobs = map { $n->submit(POST => '/events/?gate=e',
                                body => qq({"n":$_})) } 1 .. 200;

    # two at a time, and then what came meanwhile

    $b->open_gate('e');
    is $n->settled($_)->{status}, 'completed', 'batch: an event is delivered'
        for @jobs[0, 99, 199];
    $n->settled($_) for @jobs;

    my @seen = grep { $_->{uri} =~ m{^/events/} }
               $b->journal(event => 'request');
    my %got;

    $got{ $_->{n} }++ for map { @{ $_->{items} } } @seen;
    is_deeply \%got, { map { $_ => 1 } 1 .. 200 }, 'batch: all are, once';
    cmp_ok scalar @seen, '<=', 3, 'batch: in a few requests';

    @jobs = map { $n->submit(POST => '/import/prices?items=objects',
                             body => qq({"sku":$_,"status":$_})) }
            201, 422, 200;
    is_deeply [ map { $n->settled($_)->{response}{status} } @jobs ],
        [ 201, 422, 200 ], 'batch: each row has its own end';
    @seen = grep { $_->{uri} =~ m{^/import/prices} }
            $b->journal(event => 'request');
    is $seen[0]{items}[0]{job_id}, $jobs[0]{id}, 'batch: known by its id';
    $n->finish;
}


# no file is without a test

my @files = map { m{([^/]+)$} } glob "$Offload::ROOT/examples/*.conf";

is_deeply [ sort @files ], [ qw(auth-limits.conf batch.conf exec.conf
                                minimal.conf queues.conf upload.conf) ],
    'these are all examples there are';

Offload::finish_all();
