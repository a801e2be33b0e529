# Access is checked when a job is accepted, not again when it runs: a token
# that has expired since, or a rate that is used up, must not fail it.  What
# the checks left in variables must still be there for the backend.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use MIME::Base64 qw(encode_base64);
use Offload;
use Test::More;

my $b = Backend->start;
my $n = Offload->new(backend => $b, http => <<'EOT');
limit_req_zone $binary_remote_addr zone=one:1m rate=1r/m;
limit_conn_zone $binary_remote_addr zone=conn:1m;
server {
    listen 127.0.0.1:%%PORT%%;
    location /jobs/ { offload_status jobs; }

    location /basic/ {
        auth_basic jobs;
        auth_basic_user_file %%PREFIX%%/htpasswd;
        offload jobs;
        proxy_set_header X-User $remote_user;
        proxy_pass http://%%BACKEND%%;
    }
    location /limit/ {
        limit_req zone=one;
        limit_req_status 429;
        offload jobs;
        proxy_pass http://%%BACKEND%%;
    }
    location /conn/ {
        limit_conn conn 1;
        offload jobs;
        proxy_pass http://%%BACKEND%%;
    }
    location = /auth {
        internal;
        if (-f %%PREFIX%%/expired) { return 401; }
        proxy_pass http://%%BACKEND%%/auth?h=X-User:jo%20%C3%BC&h=X-Role:;
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
    }
    location /once/ {
        auth_request /auth;
        auth_request_set $user $upstream_http_x_user;
        auth_request_set $role $upstream_http_x_role;
        offload jobs;
        offload_keep $user $role $never_set;
        proxy_set_header X-User $user;
        proxy_set_header X-Role "[$role]";
        proxy_set_header X-Never "[$never_set]";
        proxy_pass http://%%BACKEND%%;
    }
    location /forgets/ {
        auth_request /auth;
        auth_request_set $user $upstream_http_x_user;
        offload jobs;
        proxy_set_header X-User "[$user]";
        proxy_pass http://%%BACKEND%%;
    }
    location /every/ {
        auth_request /auth;
        auth_request_set $user $upstream_http_x_user;
        offload jobs;
        offload_access every;
        proxy_set_header X-User $user;
        proxy_pass http://%%BACKEND%%;
    }
    location /satisfy/ {
        satisfy any;
        deny all;
        auth_request /auth;
        offload jobs;
        proxy_pass http://%%BACKEND%%;
    }
    location /inherits/ {
        auth_request /auth;
        offload jobs;
        offload_access every;
        location /inherits/below/ { proxy_pass http://%%BACKEND%%; }
        location /inherits/once/ { offload_access once;
                                   proxy_pass http://%%BACKEND%%; }
    }
    set $never_set "";
}
EOT

Offload::write_file("$n->{prefix}/htpasswd", "ada:{PLAIN}pass\n");
$n->start;

my $expired = "$n->{prefix}/expired";
my $auths = sub { scalar grep { $_->{uri} =~ m{^/auth} }
                         $b->journal(event => 'request') };


# auth_basic

is $n->request('POST', '/basic/x', body => 'x')->{status}, 401,
    'auth_basic: no password, no job';
is $n->request('POST', '/basic/x', body => 'x', headers => [ Authorization =>
    'Basic ' . encode_base64('ada:wrong', '') ])->{status}, 401,
    'auth_basic: a wrong one neither';

my ($seen, $doc) = $n->echoed('POST', '/basic/x', body => 'x', headers => [
    Authorization => 'Basic ' . encode_base64('ada:pass', '') ]);

is $doc->{status}, 'completed', 'auth_basic: the job completes';
is $seen->{h}{'x-user'}, 'ada', 'auth_basic: $remote_user on the replay';


# limit_req, limit_conn: counted once, at acceptance

($seen, $doc) = $n->echoed('POST', '/limit/x', body => 'x');
is $doc->{status}, 'completed', 'limit_req: the replay is not counted';
is $n->request('POST', '/limit/x', body => 'x')->{status}, 429,
    'limit_req: the next request is';

# a connection is counted until nginx has done with it, a moment after the
# client has its answer: 503 until then

sub admitted {
    my ($uri) = @_;
    my $job;

    Offload::wait_until(10, sub {
        $job = Offload::job($n->request(POST => $uri, body => 'x')) });

    return $job;
}

my @slow = map { admitted("/conn/$_?gate=c") } 1 .. 4;

is scalar(grep { $_ } @slow), 4, 'limit_conn: all four are accepted';

ok $b->wait_for(4, event => 'request') &&
   Offload::wait_until(10, sub {
       4 == grep { $_->{uri} =~ m{^/conn/} } $b->journal(event => 'request')
   }), 'limit_conn: four replays at a time with a limit of one';
$b->open_gate('c');
$n->settled($_) for @slow;


# auth_request and its variables

my $before = $auths->();

($seen, $doc) = $n->echoed('POST', '/once/x', body => 'x');
is $doc->{status}, 'completed', 'auth_request: completes';
is $auths->() - $before, 1, 'once: asked once';
is $seen->{h}{'x-user'}, "jo \xfc", 'offload_keep: $user on the replay'
    or diag $seen->{h}{'x-user'};
is $seen->{h}{'x-role'}, '[]', 'offload_keep: an empty one';
is $seen->{h}{'x-never'}, '[]', 'offload_keep: one that was never set';

($seen) = $n->echoed('POST', '/forgets/x', body => 'x');
is $seen->{h}{'x-user'}, '[]', 'without offload_keep it is lost';

$before = $auths->();
($seen, $doc) = $n->echoed('POST', '/every/x', body => 'x');
is $doc->{status}, 'completed', 'every: completes';
is $auths->() - $before, 2, 'every: asked twice';
is $seen->{h}{'x-user'}, "jo \xfc", 'every: $user is found anew';

($seen, $doc) = $n->echoed('POST', '/satisfy/x', body => 'x');
is $doc->{status}, 'completed', 'satisfy any: completes';

$before = $auths->();
$n->echoed('POST', '/inherits/below/x', body => 'x');
is $auths->() - $before, 2, 'offload_access is inherited';
$before = $auths->();
$n->echoed('POST', '/inherits/once/x', body => 'x');
is $auths->() - $before, 1, 'and can be set back';


# what was allowed then is not asked again now

my $pid = $n->offloadd;

Offload::freeze($pid);

my $once = $n->submit(POST => '/once/later', body => 'x');
my $every = $n->submit(POST => '/every/later', body => 'x');

Offload::write_file($expired, '');
is $n->request('POST', '/once/x', body => 'x')->{status}, 401,
    'the token has expired';
kill 'CONT', $pid;
is $n->settled($once)->{status}, 'completed',
    'once: a job accepted before still completes';
$doc = $n->settled($every);
is $doc->{status}, 'failed', 'every: it fails';
is $doc->{response}{status}, 401, 'every: with the 401';

Offload::finish_all();
