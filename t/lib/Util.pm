package Util;

# Processes as /proc shows them, files, and waiting for a condition.

use strict;
use warnings;

use Exporter qw(import);
use Time::HiRes qw(time sleep);

our @EXPORT_OK = qw(alive freeze parent pids read_file stopped title wait_until
                    write_file);


sub pids {
    opendir my $dir, '/proc' or die "/proc: $!\n";
    return grep { /^\d+$/ && $_ != $$ } readdir $dir;
}


sub stat_of {
    my ($pid) = @_;

    open my $fh, '<', "/proc/$pid/stat" or return;
    my $line = <$fh> // return;

    return $line =~ /^\d+ \(.*\) (\S) (\d+)/s;
}


sub alive { my ($state) = stat_of($_[0]); $state && $state !~ /[ZX]/ }
sub stopped { my ($state) = stat_of($_[0]); $state && $state eq 'T' }
sub parent { my (undef, $ppid) = stat_of($_[0]); $ppid }


# A process told to stop goes on for a moment: waits until it really stands.

sub freeze {
    my ($pid) = @_;

    kill 'STOP', $pid;

    return wait_until(10, sub { ((stat_of($pid))[0] // '') eq 'T' });
}


sub title {
    my ($pid) = @_;

    open my $fh, '<', "/proc/$pid/cmdline" or return '';
    local $/;
    my $line = <$fh> // '';

    $line =~ s/\0+$//;
    $line =~ tr/\0/ /;

    return $line;
}


sub wait_until {
    my ($seconds, $what) = @_;
    my $deadline = time + $seconds;

    while (1) {
        my $value = $what->();

        return $value if $value;
        return if time >= $deadline;
        sleep 0.02;
    }
}


sub read_file {
    my ($name) = @_;

    open my $fh, '<:raw', $name or die "$name: $!\n";
    local $/;

    return <$fh> // '';
}


sub write_file {
    my ($name, $text) = @_;

    open my $fh, '>:raw', $name or die "$name: $!\n";
    print $fh $text;
    close $fh or die "$name: $!\n";
}

1;
