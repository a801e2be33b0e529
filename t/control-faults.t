# When the store can not be written an operator looks, and pauses, above all.
# Looking must work then; a pause must hold back work at once, must not be
# confirmed before it is stored, and must be stored when that works again.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Control;
use Disk;
use Offload;
use Test::More;

my $b = Backend->start;
my $disk = Disk->new;

$disk->{quiet} = 1;

my $n = Offload->new(backend => $b, $disk->under,
    zone => "jobs 16m path=%%ZONE%% store=$disk->{dir} durability=disk")
    ->start;
my $pid = $n->offloadd;
my $run = $n->submit(POST => '/run?gate=g', body => 'x');
my ($done) = map { $n->settled($_); $_ } $n->submit(POST => '/', body => 'x');

$b->wait_for(1, event => 'request', job => $run->{id});
$disk->fail(write => 'EIO', path => 'store.mdb');
is $n->request(POST => '/', body => 'x')->{status}, 503, 'the store fails';

my $doc = control($n, GET => '/v1/zone');

is_deeply $doc->{refusing}, [ 'store-failed' ], 'the zone says so';
is $doc->{jobs}{accepted}, 2, 'and has its counters';
is control($n, GET => "/v1/jobs/$run->{id}")->{status}, 'running',
    'a running job is shown';
is control($n, GET => "/v1/jobs/$done->{id}")->{status}, 'completed',
    'and a settled one';
is_deeply control($n, GET => '/v1/dead')->{dead}, [], 'and dead letters';

# while it waits for its answer others are answered

my $s = Http::dial(control_socket($n));

Http::write_all($s, Http::bytes(POST => '/v1/zone/pause'));
ok Offload::wait_until(5, sub {
    control($n, GET => '/v1/zone')->{state} eq 'paused' }),
    'a pause holds at once';

my $r = Http::response($s, deadline => 30);

is $r->{status}, 503, 'but is not confirmed';
like $r->{body}, qr/"urn:problem-type:offload:store-unavailable"/,
    'since the store does not answer';
is $r->{h}{'retry-after'}, 2, 'ask again';

$disk->heal;
is control($n, POST => '/v1/zone/pause', deadline => 20)->{state}, 'paused',
    'confirmed when the store works';
kill 'KILL', $pid;
$pid = $n->offloadd(not => $pid);
is control($n, GET => '/v1/zone')->{state}, 'paused', 'and stored';
is control($n, POST => '/v1/zone/resume')->{state}, 'active', 'resumed';
$b->open_gate('g');
is $n->settled($run)->{status}, 'completed', 'all is done';

Offload::finish_all();
