package Items;

# The backend's side of a batch: its items, and a status for each.

use strict;
use warnings;

use JSON::PP;


# As they came: an array, or lines.

sub of {
    my ($text) = @_;
    my $json = JSON::PP->new->allow_nonref;

    return $json->decode($text) if $text =~ /^\[/;
    return [ map { $json->decode($_) } split /\n/, $text ];
}


# For a journal; nothing if it was no batch.

sub seen {
    my ($text) = @_;

    return defined $text ? (text => $text, items => of($text)) : ();
}


# Each item says for itself which status it wants, 200 if it does not:
# numbers, or with `objects` an object with it, with `short` one too few, with
# `wrap` in an object, with `bad` the first one without a status.

sub statuses {
    my ($text, $how) = @_;
    my @list = map {
        my $body = ref $_ eq 'HASH' ? $_->{body} // $_ : {};
        my $status = ref $body eq 'HASH' ? $body->{status} // 200 : 200;

        $status += 0;
        $how !~ /objects/ ? $status
            : { status => $status,
                ($body->{after} ? (retry_after => $body->{after}) : ()),
                ($body->{said} ? (body => { said => $body->{said} }) : ()) }
    } @{ of($text) };

    pop @list if $how =~ /short/;
    $list[0] = {} if $how =~ /bad/;

    return JSON::PP->new->canonical->encode($how =~ /wrap/
                                            ? { items => \@list } : \@list);
}

1;
