# Nothing that was accepted is lost, torn, or run behind anybody's back: under
# load, whatever is killed, whenever.  The crash matrix dies at the moments we
# know of; this is for those we don't.  OFFLOAD_STORM=600 is a longer storm
# (seconds, in all), OFFLOAD_SEED=n the schedule of one seen before.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Storm;
use Test::More;

my $seconds = $ENV{OFFLOAD_STORM} // 50;        # and the rest for the end
my $seed = $ENV{OFFLOAD_SEED} // (time ^ $$) % 1_000_000;
my $tool = Offload::build_dir() . '/unit/tool/zonecheck';

my $HTTP = <<'EOT';
offload_queue events zone=jobs { batch size=10 linger=20ms item=envelope; }
server {
    listen 127.0.0.1:%%PORT%%;
    client_max_body_size 64m;
    offload_accept_timeout 1s;
    location / { offload jobs; proxy_pass http://%%BACKEND%%; }
    location /once/ {
        offload jobs; proxy_pass http://%%BACKEND%%;
        offload_delivery at-most-once;
    }
    location /event {
        offload events; proxy_pass http://%%BACKEND%%;
    }
    location /jobs/ { offload_status jobs; }
}
EOT

diag "seed $seed";

for my $mode ('memory', 'disk') {
    my $disk = $mode eq 'disk' ? 1 : 0;
    my $back = Backend->start;
    my $n = Offload->new(backend => $back, http => $HTTP,
        zone => 'jobs 32m path=%%ZONE%% concurrency=64'
                . ($disk ? ' durability=disk store=%%PREFIX%%/store' : ''));

    $n->allow(qr/process \d+ exited on signal 9/);
    $n->start;

    my $storm = Storm->new(nginx => $n, backend => $back, disk => $disk,
                           seed => $seed + $disk);

    ok $storm->rage($seconds / 2), "$mode: nginx and offloadd are back";

    my @wrong = $storm->wrong;
    my $sum = $storm->summary;

    ok !@wrong, "$mode: no job is lost, torn, doubled, or run unasked"
        or diag join "\n", "OFFLOAD_SEED=$seed", scalar(@wrong) . ' wrong:',
                @wrong[0 .. ($#wrong > 20 ? 20 : $#wrong)];
    note "$mode: ", join ', ', map { "$_ $sum->{$_}" } sort keys %$sum;
    note "$mode: ", join ', ', map { "$_ $storm->{actions}{$_}" }
                               sort keys %{ $storm->{actions} };

    # a storm that nobody felt proves nothing
    ok $sum->{$_}, "$mode: there were jobs: $_"
        for 'answer 202', 'completed', 'attempted again', 'in batches';
    ok keys %{ $storm->{actions} } >= 5, "$mode: there were kills of all kinds";

    ok Offload::wait_until(20, sub {
        my $f = $n->figures; !$f->{bytes} && !$f->{slots} }),
        "$mode: no ring and no slot keeps anything"
        or diag explain $n->figures;

    my $more = $n->counters->{accepted} - $sum->{known};

    ok $more >= 0 && $more <= ($sum->{unheard} // 0),
        "$mode: as many were accepted as are known" or diag "$more more";

    my $found = `$tool $n->{zone_dir}/zone.v1 2>&1`;

    ok $? == 0, "$mode: the zone is sound" or diag $found;

    $n->finish;
    $back->stop;
}

Offload::finish_all();
