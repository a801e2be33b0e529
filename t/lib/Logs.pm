package Logs;

# What Offload knows about logs: nginx's and offloadd's, and which lines of
# them no test may end with.

use strict;
use warnings;

use Util qw(read_file wait_until);


sub log { eval { read_file("$_[0]{prefix}/error.log") } // '' }


sub worker_log {
    my ($self, $zone) = @_;
    my $file = eval { $self->policy($zone)->{log} } || return $self->log;

    return eval { read_file($file) } // '';
}


sub wait_log {
    my ($self, $pattern, $deadline) = @_;

    return wait_until($deadline // 10, sub { $self->log =~ $pattern });
}


sub log_tail {
    my ($self) = @_;
    my @lines = grep { !/\[(?:debug|info)\]/ } split /\n/, $self->log;

    return join "\n", splice(@lines, @lines > 15 ? -15 : 0), '';
}


# Lines that would fail the test are expected when they match.

sub allow { my ($self, @patterns) = @_; push @{ $self->{allow} }, @patterns }


my $BAD = qr/\[alert\]|\[emerg\]|AddressSanitizer|LeakSanitizer
             |runtime\ error:|UndefinedBehaviorSanitizer
             |level=(?:alert|emerg|crit)/x;


sub bad_lines {
    my ($self) = @_;
    my %files = map { $_ => 1 } glob("$self->{prefix}/*.log"),
                glob("$self->{prefix}/san/*"), glob("$self->{zone_dir}/*.log");
    my $log = eval { $self->policy->{log} };
    my @bad;

    $files{$log} = 1 if $log && -f $log;

    for my $file (sort keys %files) {
        for my $line (split /\n/, read_file($file)) {
            next if $line !~ $BAD;
            next if grep { $line =~ $_ } @{ $self->{allow} };
            push @bad, $line;
        }
    }

    return @bad;
}

1;
