# The promise of the one line is that a slow backend no longer matters; but
# proxy_read_timeout and its like are 60 s by default and would cut every
# longer job.  offload_timeout rules over them, for all five protocols, and is
# itself enforced.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT')->start;
client_max_body_size 20m;
uwsgi_param QUERY_STRING $query_string;
uwsgi_param REQUEST_METHOD $request_method;
uwsgi_param REQUEST_URI $request_uri;
uwsgi_param CONTENT_LENGTH $content_length;
fastcgi_param QUERY_STRING $query_string;
fastcgi_param REQUEST_METHOD $request_method;
fastcgi_param REQUEST_URI $request_uri;
fastcgi_param CONTENT_LENGTH $content_length;
scgi_param QUERY_STRING $query_string;
scgi_param REQUEST_METHOD $request_method;
scgi_param REQUEST_URI $request_uri;
scgi_param CONTENT_LENGTH $content_length;
proxy_read_timeout 1s; proxy_send_timeout 1s;
fastcgi_read_timeout 1s; fastcgi_send_timeout 1s;
uwsgi_read_timeout 1s; uwsgi_send_timeout 1s;
scgi_read_timeout 1s; scgi_send_timeout 1s;
grpc_read_timeout 1s; grpc_send_timeout 1s;
upstream slow { server %%BACKEND%%; keepalive 4; }
server {
    listen 127.0.0.1:%%PORT%%;
    location /jobs/ { offload_status jobs; }
    location /proxy/ { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /unbuffered/ { offload jobs; proxy_pass http://%%BACKEND%%;
                            proxy_buffering off;
                            proxy_request_buffering off; }
    location /keepalive/ { offload jobs; proxy_pass http://slow;
                           proxy_http_version 1.1;
                           proxy_set_header Connection ""; }
    location /fastcgi/ { offload jobs; fastcgi_pass %%FASTCGI%%; }
    location /uwsgi/ { offload jobs; uwsgi_pass %%UWSGI%%; }
    location /scgi/ { offload jobs; scgi_pass %%SCGI%%; }
    location /grpc/ { offload jobs; grpc_pass grpc://127.0.0.1:%%PORT2%%; }
    location /direct/ { proxy_pass http://%%BACKEND%%; }
    location /short/ { offload jobs; offload_timeout 1s;
                       proxy_read_timeout 60s;
                       proxy_pass http://%%BACKEND%%; }
}
server {
    listen 127.0.0.1:%%PORT2%% http2;
    location / { proxy_read_timeout 60s; proxy_pass http://%%BACKEND%%; }
}
EOT

# all of them run at the same time, so that the test takes four seconds

my (%job, %body);
my @all = qw(proxy unbuffered keepalive fastcgi uwsgi scgi grpc);

for my $how (@all) {
    for my $size (10, 3_000_000) {
        my $name = "$how, $size bytes";

        $body{$name} = join '', map { chr(32 + ($size + $_ * 7) % 90) }
                                1 .. 100;
        $body{$name} x= $size / 100 if $size > 100;
        $body{$name} = substr $body{$name}, 0, $size;
        $job{$name} = $n->submit(POST => "/$how/x?delay=3000",
                                 body => $body{$name});
    }
}

my $short = $n->submit(POST => '/short/x?gate=never', body => 'x');
my $direct = $n->request('POST', '/direct/x?delay=3000', body => 'x');

is $direct->{status}, 504, 'without offload, a backend of 3 s is cut after 1';

for my $name (sort keys %job) {
    my $doc = $job{$name} ? $n->settled($job{$name}) : {};

    is $doc->{status}, 'completed', "$name: completes"
        or diag explain $doc;
    is $doc->{attempts}, 1, "$name: at the first attempt";

    my $seen = $n->result($job{$name})->{body};

    like $seen, qr/@{[ sha256_hex($body{$name}) ]}/,
        "$name: the backend had the whole body";
}


# offload_timeout itself

my $doc = $n->settled($short);

is $doc->{status}, 'failed', 'offload_timeout 1s: the job fails';
is $doc->{error}{code}, 'timeout', 'with error.code "timeout"';
is $doc->{attempts}, 1, 'it is not attempted again';
ok $b->wait_for(1, event => 'abort', job => $short->{id}),
    'and the backend sees its client hang up';
ok !exists $doc->{response}, 'there is no response';

# a connection that is kept must not keep the longer timeouts

is $n->request('POST', '/direct/x?delay=3000', body => 'x')->{status}, 504,
    'a request that is no replay still has nginx\'s timeouts';

Offload::finish_all();
