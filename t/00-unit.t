# The C unit tests, so that one prove runs everything: each program of t/unit
# prints TAP, and each of its lines is a test here.  A program that crashes,
# says less than it planned or nothing at all is a failure.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Offload;
use Test::More;

my @sources = map { glob "$FindBin::Bin/unit/$_.c" } '*', 'worker/*';

# a program that kills itself at named places needs the build that has them
my %failpoints = (repair => 1);

plan skip_all => 'no unit tests' if !@sources;

for my $source (@sources) {
    my ($name) = $source =~ m{/unit/(.+)\.c$};
    my $build = $failpoints{$name} ? Offload::failpoints_dir()
                                   : Offload::build_dir();

    subtest $name => sub {
        my ($plan, $seen) = (undef, 0);

        open my $out, '-|', "$build/unit/$name 2>&1"
            or return fail("$build/unit/$name: $!");

        while (my $line = <$out>) {
            if ($line =~ /^1\.\.(\d+)/) {
                $plan = $1;

            } elsif ($line =~ /^(not )?ok\b\s*\d*[ -]*(.*)/) {
                $seen++;
                ok !$1, $2;

            } else {
                note $line =~ s/\n//r;
            }
        }

        ok close $out, 'exit code 0' or diag "status $?";
        ok $plan && $plan == $seen, 'as many tests as planned'
            or diag 'planned ', $plan // 'nothing', ", ran $seen";
    };
}

done_testing;
