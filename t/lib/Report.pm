package Report;

# The backend's word on its job, by the URL and the token it was given with an
# attempt:
#
#     my $at = Report::place($b, $job, attempt => 2);     # url, path, token
#     Report::progress($n, $at, { progress => 42 });
#     Report::put($n, $at, 'the result', headers => [..]);
#
# Options are those of Http; `token` is another one, undef for none; `with` is
# the header to show it by.

use strict;
use warnings;

use JSON::PP;

use Http;


# What this attempt got; undef when it never came.

sub place {
    my ($b, $job, %o) = @_;
    my ($e) = $b->wait_for(1, event => 'request', job => $job->{id}, %o)
        or return;
    my %h = map { lc $_->[0] => $_->[1] } @{ $e->{headers} };
    my $url = $h{'offload-job-url'} // '';

    return { url => $url, path => $url =~ s{^https?://[^/]+}{}r,
             token => $h{'offload-job-token'} };
}


sub headers {
    my ($at, $o) = @_;
    my $token = exists $o->{token} ? delete $o->{token} : $at->{token};
    my $with = delete $o->{with} // 'Authorization';

    return @{ delete $o->{headers} // [] } if !defined $token;
    return ($with => $with eq 'Authorization' ? "Bearer $token" : $token,
            @{ delete $o->{headers} // [] });
}


# The report is a hash, or text to be sent as it is.

sub progress {
    my ($n, $at, $report, %o) = @_;
    my $type = exists $o{type} ? delete $o{type} : 'application/json';

    return Http::request(delete $o{to} // $n->port, 'PATCH', $at->{path},
        headers => [ headers($at, \%o),
                     defined $type ? ('Content-Type' => $type) : () ],
        body => ref $report ? encode_json($report) : $report, %o);
}


sub put {
    my ($n, $at, $body, %o) = @_;

    return Http::request(delete $o{to} // $n->port, 'PUT',
        "$at->{path}/result", headers => [ headers($at, \%o) ],
        body => $body, %o);
}

1;
