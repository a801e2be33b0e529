package FastCgi;

# What the backend has to know of FastCGI's records.

use strict;
use warnings;


sub params {
    my ($raw) = @_;
    my %params;

    while (length $raw) {
        my @len = map {
            my $n = unpack 'C', $raw;

            if ($n & 0x80) {
                $n = unpack('N', $raw) & 0x7fffffff;
                substr $raw, 0, 4, '';
            } else {
                substr $raw, 0, 1, '';
            }

            $n;
        } 1, 2;
        my $name = substr $raw, 0, $len[0], '';

        $params{$name} = substr $raw, 0, $len[1], '';
    }

    return \%params;
}


# An answer as STDOUT records, and the end of the request.

sub answer {
    my ($id, $text) = @_;
    my $out = '';

    for (my $at = 0; $at < length $text; $at += 32000) {
        my $part = substr $text, $at, 32000;

        $out .= pack('CCnnCC', 1, 6, $id, length $part, 0, 0) . $part;
    }

    return $out . pack('CCnnCC', 1, 6, $id, 0, 0, 0)
                . pack('CCnnCC', 1, 3, $id, 8, 0, 0) . "\0" x 8;
}

1;
