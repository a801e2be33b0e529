# The crash matrix is only as good as it is complete: a place to die at that
# the table does not know, or a row that nobody runs, would be a hole that
# looks like a proof.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";

use Crash;
use Test::More;

my @table = Crash::table();
my %row = map { $_->{place} => 1 } @table;
my %place = map { $_ => 1 } Crash::places();

is_deeply [ grep { !$row{$_} } sort keys %place ], [],
    'each place in the sources has a row';
is_deeply [ grep { !$place{$_} } sort keys %row ], [],
    'each row has a place in the sources';

for my $role (sort keys %{{ map { $_->{role} => 1 } @table }}) {
    my @rows = grep { $_->{role} eq $role } @table;

    if ($role eq 'unit') {
        my @missing = grep {
            Offload::read_file("$Offload::ROOT/t/unit/$_->{probe}.c")
                !~ /"\Q$_->{place}\E[":]/ } @rows;

        is_deeply [ map { $_->{place} } @missing ], [],
            'the unit tests die where the table says they do';
        next;
    }

    my $runs = -e "$FindBin::Bin/$role.t"
               && Offload::read_file("$FindBin::Bin/$role.t");

    for my $mode ('memory', 'disk') {
        next if !grep { $_->{mode} =~ substr $mode, 0, 1 } @rows;
        like $runs, qr/'\Q$mode\E'/, "$role.t runs the rows of $mode";
    }
}

done_testing;
