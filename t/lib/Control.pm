package Control;

# The worker's control interface as a client sees it: requests on its socket,
# and answers that are JSON or a test has failed.

use strict;
use warnings;

use Exporter qw(import);
use JSON::PP;
use Test::More;

use Http;
use Util qw(wait_until);

our @EXPORT = qw(control control_problem control_socket);


sub control_socket { "$_[0]{zone_dir}/control.sock" }


# The answer's document; in list context with the answer itself.

sub control {
    my ($n, $method, $path, %o) = @_;
    my $sock = control_socket($n);
    my $r;

    # a worker that was just started is not there yet
    wait_until($o{deadline} // 20, sub {
        $r = Http::request($sock, $method, $path, %o);
        ($r->{error} // '') !~ /^connect:/ });

    my $doc = eval { decode_json($r->{body}) } // {};

    return wantarray ? ($doc, $r) : $doc;
}


sub control_problem {
    my ($n, $status, $method, $path, $name, %o) = @_;
    my ($doc, $r) = control($n, $method, $path, %o);

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    ok($r->{status} == $status
       && ($r->{h}{'content-type'} // '') eq 'application/problem+json'
       && ($doc->{status} // 0) == $status && length($doc->{detail} // ''),
       $name // "$method $path: $status")
        or diag($r->{error} // '', $r->{head} // '', $r->{body});

    return wantarray ? ($doc, $r) : $doc;
}

1;
