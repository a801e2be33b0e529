# What this project says about the standards it follows is its own reading of
# them.  So programs that others wrote, from the npm registry, are given the
# real thing here: the library of Standard Webhooks checks signatures, Azure's
# poller waits for jobs in both dialects, and an EventSource follows a stream
# to its end.  `tools/setup test` installs them into build/npm.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp;
use IPC::Open2;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Offload;
use Receiver;
use Test::More;

my $MODULES = "$Offload::ROOT/build/npm/node_modules";

-d $MODULES or BAIL_OUT("no $MODULES: tools/setup test");
$ENV{NODE_PATH} = $MODULES;

my $back = Backend->start;
my $to = Receiver->start;
my $url = $to->url;
my $secret = 'whsec_' . encode_base64(join('', map { chr } 101 .. 140), '');
my $dir = File::Temp::tempdir('ofl-n-XXXXXX', TMPDIR => 1, CLEANUP => 1);

chmod 0755, $dir;
Offload::write_file("$dir/secret", "$secret\n");
chmod 0640, "$dir/secret";
chown 0, (getgrnam $Offload::USER)[2] // 0, "$dir/secret" if $> == 0;

my $n = Offload->new(backend => $back,
    zone => 'jobs 8m path=%%ZONE%% concurrency=2', http => <<"EOT")->start;
offload_queue told zone=jobs {
    webhook $url/told secret=file:$dir/secret inline=4k on=completed,failed;
}
server {
    listen 127.0.0.1:%%PORT%%;
    location /told/ { offload told; proxy_pass http://%%BACKEND%%; }
    location /plain/ { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
server {
    listen 127.0.0.1:%%PORT2%%;
    offload_dialect azure;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /jobs/ { offload_status jobs; }
}
EOT


# What one of them says, and nothing on its stderr.

sub node {
    my ($in, $script, @args) = @_;
    my $pid = open2(my $out, my $to, 'timeout', 60, 'node',
                    "$FindBin::Bin/npm/$script", @args);

    print $to $in;
    close $to;

    my @said = <$out>;

    waitpid $pid, 0;
    is $?, 0, "$script ends" or diag @said;

    return map { decode_json($_) } @said;
}


# ---- Standard Webhooks

$n->submit(POST => '/told/?size=500&type=text/plain', body => 'x');
$n->submit(POST => '/told/?size=50&type=image/x', body => 'x');
$n->submit(POST => '/told/?size=50&status=404', body => 'x');

my @told = map { { headers => $_->{h}, body => $_->{body} } }
           $to->wait_for(3, '/told');

is scalar @told, 3, 'three messages';

my @bad = map { { headers => { %{ $told[0]{headers} }, @{ $_->[0] } },
                  body => $told[0]{body} . $_->[1] } }
          [ [], ' ' ],
          [ [ 'webhook-id' => 'msg_other' ], '' ],
          [ [ 'webhook-timestamp' =>
              $told[0]{headers}{'webhook-timestamp'} + 1 ], '' ],
          [ [ 'webhook-timestamp' => time - 3600 ], '' ],
          [ [ 'webhook-signature' => 'v1,AAAA' ], '' ];

my ($verified) = node(encode_json({ secret => $secret,
                                    messages => [ @told, @bad ] }),
                      'verify.js');

for my $i (0 .. 2) {
    is_deeply $verified->[$i]{ok}, decode_json($told[$i]{body}),
        'the library takes it, and reads the same'
        or diag $verified->[$i]{error};
}

like $verified->[$_ + 3]{error}, qr/^WebhookVerificationError: /,
    'what was changed it does not take' for 0 .. $#bad;

my ($other) = node(encode_json({ messages => [ @told ],
    secret => 'whsec_' . encode_base64('x' x 32, '') }), 'verify.js');

is scalar(grep { ($_->{error} // '') =~ /No matching signature/ } @$other), 3,
    'nor with another secret';


# ---- Azure's poller

my %base = (plain => 'http://127.0.0.1:' . $n->port,
            azure => 'http://127.0.0.1:' . $n->port(2));

# by Location alone the code counts, and the body of the last is the result

my ($end) = node('', 'poll.js', "$base{plain}/plain/?size=20&delay=1200");

is $end->{result}{status}, 'completed', 'by Location: to the end of the job';
is $end->{seen}[0]{status}, 202, 'from the 202 on';
cmp_ok scalar @{ $end->{seen} }, '>', 2, 'it had to ask more than once';
is scalar(grep { $_->{status} != 202 } @{ $end->{seen} }), 1,
    'and was content with the first answer that was another';

# by Operation-Location: status and resourceLocation of the body

($end) = node('', 'poll.js', "$base{azure}/x?size=20&delay=1200");
is $end->{result}, Backend::content(20), 'by Operation-Location: the result';
like $end->{seen}[-1]{request}, qr{/result$}, 'where the body says it is';
cmp_ok scalar @{ $end->{seen} }, '>', 3, 'asked for more than once';

($end) = node('', 'poll.js', "$base{azure}/x?status=500");
like $end->{error}, qr/backend_status/,
    'a job that fails: an error with its code';
ok !defined $end->{result}, 'and no result';


# ---- EventSource

my $job = $n->submit(POST => '/plain/?gate=es', body => 'x');

$n->wait_status($job, 'running');

pipe my $from, my $in or die "pipe: $!\n";
my $pid = fork // die "fork: $!\n";

if (!$pid) {
    open STDOUT, '>&', $in;
    exec 'timeout', 60, 'node', "$FindBin::Bin/npm/events.js",
        "$base{plain}$job->{path}" or POSIX::_exit(127);
}

close $in;

my @events;

while (my $line = <$from>) {
    push @events, decode_json($line);
    $back->open_gate('es') if ($events[-1]{type} // '') eq 'running';
}

waitpid $pid, 0;
is $?, 0, 'an EventSource comes to an end';
is_deeply [ map { $_->{type} } grep { $_->{type} } @events ],
          [ 'running', 'completed' ], 'it sees each change once';

my ($last) = grep { ($_->{type} // '') eq 'completed' } @events;

is $last->{doc}{response}{length}, $n->status($job)->{response}{length},
    'with the document';
is_deeply [ map { $_->{connection} } grep { $_->{connection} } @events ],
          [ 200, 204 ], 'it comes back once, and is not wanted';
is $events[-2]{last}, $last->{id}, 'with the id it has seen last';
ok $events[-1]{closed}, 'so it stays away';

Offload::finish_all();
