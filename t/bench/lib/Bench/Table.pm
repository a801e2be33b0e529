package Bench::Table;

# The rows, their verdicts, and the table made of them.

use strict;
use warnings;

use List::Util qw(max min);

use Bench qw(median);

my @HEAD = ('row', 'unit', 'floor', 'product', 'ratio', '(rounds)', 'target',
            'verdict');

sub new {
    my ($class) = @_;

    return bless { rows => [], notes => '', missed => 0 }, $class;
}

# A pair of figures, one of each per round: the row shows the medians, and
# the median of the rounds' ratios product/floor, which decides.  target:
# ['>=', 0.9], or none; bad: answers that were not the ones measured.

sub pair {
    my ($self, %r) = @_;

    my @ratios = map { $r{product}[$_] / ($r{floor}[$_] || 1) }
                     0 .. $#{ $r{product} };

    $self->add(%r,
        floor   => median(@{ $r{floor} }),
        product => median(@{ $r{product} }),
        ratio   => median(@ratios),
        range   => sprintf('%.2f-%.2f', min(@ratios), max(@ratios)));
}

# One figure against an absolute target.

sub single {
    my ($self, %r) = @_;

    $self->add(%r);
}

sub add {
    my ($self, %r) = @_;

    $r{verdict} = $r{bad} ? "MISS: $r{bad}" : $self->verdict(%r);
    $self->{missed}++ if $r{verdict} =~ /^MISS/;

    push @{ $self->{rows} }, [
        $r{row}, $r{unit}, figure($r{floor}), figure($r{product}),
        defined $r{ratio} ? sprintf('%.2f', $r{ratio}) : '-',
        $r{range} // '-',
        $r{target} ? "$r{target}[0] $r{target}[1]" : '-',
        $r{verdict},
    ];
}

sub verdict {
    my ($self, %r) = @_;

    return $r{note} // '' unless $r{target};

    my ($how, $limit) = @{ $r{target} };
    my $value = $r{ratio} // $r{product};
    my $ok = $how eq '>=' ? $value >= $limit
           : $how eq '<=' ? $value <= $limit
           :                $value < $limit;

    return $ok ? 'ok' : 'MISS';
}

sub skip {
    my ($self, $row, $why) = @_;

    push @{ $self->{rows} }, [$row, ('-') x 6, "skipped: $why"];
}

sub figure {
    my ($v) = @_;

    return '-' if !defined $v;
    return sprintf('%.0f', $v) if abs($v) >= 1000;
    return sprintf('%.1f', $v);
}

# Text to come after the table.

sub note {
    my ($self, $text) = @_;

    $self->{notes} .= $text;
}

sub text {
    my ($self) = @_;

    return align([0, 1, 6, 7], \@HEAD, @{ $self->{rows} }) . $self->{notes};
}

# Rows as columns, those given to the left, the others to the right.

sub align {
    my ($left, @rows) = @_;

    my $last = $#{ $rows[0] };
    my @width = map { my $i = $_; max(map { length $_->[$i] } @rows) }
                    0 .. $last;
    my %left = map { $_ => 1 } @$left;
    my $text = '';

    for my $row (@rows) {
        $text .= join('  ', map {
            sprintf($left{$_} ? '%-*s' : '%*s', $width[$_], $row->[$_])
        } 0 .. $last) . "\n";
    }

    $text =~ s/ +$//mg;

    return $text;
}

sub missed {
    my ($self) = @_;

    return $self->{missed};
}

1;
