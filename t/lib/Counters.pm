package Counters;

# What Offload knows about numbers: the zone's file read from outside, the
# counters nginx serves, and the check at the end of every test that whatever
# was accepted is somewhere.  Every configuration with a zone gets a server on
# a port of its own for that; `count => 0` leaves it out, for tests that
# damage things on purpose.

use strict;
use warnings;

use JSON::PP;
use Test::More;

use Http;
use Util qw(read_file wait_until);


# The server, for the zones of this configuration.

sub counters_server {
    my ($self, @text) = @_;
    my %zones = map { $_ => 1 } map { /\boffload_zone\s+([\w-]+)/g } @text;

    %zones = () if defined $self->{whole} || !($self->{count} // 1);
    $self->{counted} = [ sort keys %zones ];

    return '' if !%zones;

    return join "\n", 'server {',
        '    listen 127.0.0.1:' . $self->port('counters') . ';',
        '    offload off;', '    access_log off;', '    auth_basic off;',
        map({ "    location = /$_ { offload_status_zone $_; }" }
            @{ $self->{counted} }), '}';
}


# A zone's counters, or undef.

sub counters {
    my ($self, $zone) = @_;
    my $r = Http::request($self->port('counters'), 'GET',
                          '/' . ($zone // $self->{counted}[0]),
                          deadline => 5);

    return $r->{status} == 200 ? eval { decode_json($r->{body}) } : undef;
}


# What does not add up in these counters?

my @STATES = qw(queued running completed failed canceled expired);

sub unaccounted {
    my ($c) = @_;
    my ($sum, $store) = (0, $c->{store});

    $sum += $c->{$_} for @STATES;

    return ($c->{drift} ? "drift is $c->{drift}" : (),
            $c->{ring_drift} ? "ring_drift is $c->{ring_drift}" : (),
            $sum != $c->{accepted} ? "$c->{accepted} accepted, $sum found"
                                   : (),
            $store->{jobs} != $sum - $store->{purged}
                ? "$store->{jobs} rows in the store" : (),
            $store->{requests} != $c->{queued} + $c->{running} + $store->{dead}
                ? "$store->{requests} requests in the store" : ());
}


# At the end: once nothing is on its way, or at once if nobody takes it.

sub check_conserved {
    my ($self) = @_;

    return if !($self->{count} // 1) || !@{ $self->{counted} }
              || !$self->{running} || !$self->master;

    for my $zone (@{ $self->{counted} }) {
        my $c;

        wait_until(10, sub {
            $c = $self->counters($zone);
            $c && (!$c->{submitted} || !$c->{worker}{alive}) });

        my @wrong = $c ? unaccounted($c) : 'no counters';

        ok(!@wrong, "zone $zone: all that was accepted is accounted for")
            or diag(join("\n", @wrong), "\n",
                    $c ? JSON::PP->new->canonical->encode($c) : '');
    }
}


# Sums over all lanes: accepted, refused, taken and freed slots, bytes in SQs.

sub figures {
    my ($self) = @_;
    my $raw = read_file("$self->{zone_dir}/zone.v1");
    my ($lanes) = unpack 'x48 L', $raw;
    my ($at, $stride) = unpack 'x72 Q2', $raw;
    my %sum;

    for my $i (0 .. $lanes - 1) {
        my @lane = unpack 'Q4 x32 Q2', substr $raw, $at + $i * $stride, 128;

        $sum{accepted} += $lane[2];
        $sum{refused} += $lane[3];
        $sum{slots} += $lane[1] - $lane[5];
        $sum{bytes} += $lane[0] - $lane[4];
    }

    return \%sum;
}

1;
