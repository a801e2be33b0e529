package Command;

# A program for queues whose jobs are done by a command.  The query of a job's
# URL says what it does (do=...), most of it rude.  It says where it is by
# marks, files in a directory that the queue names: exec_env MARKS=...; and
# waits at gates until there is a file of that name.

use strict;
use warnings;

use Offload;
use Util qw(alive read_file wait_until write_file);

my $PROGRAM = <<'EOT';
#!/usr/bin/perl
use strict;
use warnings;
use Digest::SHA;
use JSON::PP;
use POSIX ();

my %q = map { split /=/, $_, 2 } split /&/, $ENV{QUERY_STRING} // '';
my $do = $q{do} // '';

$| = 1;
mark('run') if $q{mark};

sub mark {
    open my $fh, '>', "$ENV{MARKS}/$q{mark}.$_[0].new" or die "$!\n";
    print $fh $_[1] // $$;
    close $fh;
    rename "$ENV{MARKS}/$q{mark}.$_[0].new", "$ENV{MARKS}/$q{mark}.$_[0]";
}

sub gate { select undef, undef, undef, 0.02 until -e "$ENV{MARKS}/$_[0]" }

if ($do eq 'look') {
    my %fd = map { $_ => readlink "/proc/self/fd/$_" }
             grep { defined readlink "/proc/self/fd/$_" } 0 .. 1023;
    my ($pgrp, $sid) = (split ' ', `cat /proc/$$/stat`)[4, 5];
    my %status = `cat /proc/$$/status` =~ /^(Sig\w+):\s*(\w+)/mg;
    my %h = (env => \%ENV, argv => \@ARGV, fds => \%fd, sig => \%status,
             own => $pgrp == $$ && $sid == $$ ? 1 : 0, cwd => `pwd`);

    $h{stdin} = Digest::SHA->new(256)->addfile(*STDIN)->hexdigest;
    print "Content-Type: application/json\r\nStatus: 201 Made\r\n",
          "X-Made: here\r\nServer: me\r\nOffload-Replay: refused\r\n",
          "Offload-Defer: 1\r\n\r\n", encode_json(\%h);
    exit 0;
}

print "plain: text\nand more" if $do eq 'text';
print "Status: 404 Gone\n\nnot here" if $do eq 'status';

if ($do eq 'exit') {
    print STDERR "first line\n", "a \e[31mbad\e[0m thing\n";
    print "Content-Type: a/b\n\npartial";
    exit $q{code};
}

if ($do eq 'record') {          # each attempt and its process, in one file
    open my $fh, '>>', "$ENV{MARKS}/$q{mark}.log" or die "$!\n";
    syswrite $fh, "$ENV{OFFLOAD_ATTEMPT} $$\n";
    print "begun\n";
    gate($q{mark});
    print 'x' x ($q{size} // 0), "attempt $ENV{OFFLOAD_ATTEMPT}";
}

if ($do eq 'again') {
    exit 75 if $ENV{OFFLOAD_ATTEMPT} < $q{until};
    print "after $ENV{OFFLOAD_ATTEMPT}";
}

if ($do eq 'signal') {
    kill $q{signal}, $$;
    sleep 1 while 1;
}

if ($do eq 'child') {           # one that keeps the pipes open
    my $pid = fork // die;

    if (!$pid) { sleep 1 while 1 }
    mark('child', $pid);
    print "done";
}

if ($do eq 'daemon') {          # one that leaves the session, and prints on
    if (!(fork // die)) {
        POSIX::setsid();
        mark('child');
        print 'x' x 4096 while 1;
    }
    select undef, undef, undef, 0.02 until -e "$ENV{MARKS}/$q{mark}.child";
}

if ($do eq 'print') {
    my $block = 'x' x 1048576;
    my $to = $q{to} ? *STDERR : *STDOUT;

    substr($block, 79 + 80 * $_, 1) = "\n" for 0 .. 13106;
    print $to $block for 1 .. $q{mb};
    mark('ended') if $q{mark};
}

if ($do eq 'flood') {
    $SIG{PIPE} = 'IGNORE' if $q{deaf};
    my $block = 'x' x 65536;
    while (1) { print $block; last if $q{once} }
}

if ($do eq 'wait') {
    $SIG{TERM} = 'IGNORE' if $q{deaf};
    if ($q{fork} && !(fork // die)) {
        $SIG{TERM} = 'DEFAULT';
        mark('child');
        sleep 1 while 1;
    }
    mark('ready');
    if ($q{gate}) { gate($q{gate}); print "waited $ENV{OFFLOAD_ATTEMPT}" }
    else { sleep 1 while 1 }
}

if ($do eq 'limits') {
    my %l = map { /^(.*?)\s{2,}(\S+)\s/ ? ($1 => $2) : () }
            `cat /proc/self/limits`;
    print "Content-Type: application/json\n\n", encode_json(\%l);
}

if ($do eq 'burn') { 1 while 1 }
if ($do eq 'eat') { my $x = 'x' x $q{n}; print length $x }

if ($do eq 'progress') {
    print STDERR "starting\r";
    printf STDERR "frame= 1 done=%5.1f%% of it\r", 42.7;
    gate($q{gate});
    print STDERR "done= 100.0% of it\n";
    gate($q{last});
    print "all";
}
EOT


# Puts it under these names into nginx's directory: where its marks will be.

sub install {
    my ($n, @names) = @_;
    my $marks = "$n->{prefix}/marks";

    mkdir $marks;
    chmod 01777, $marks;

    for my $file (map { "$n->{prefix}/$_" } @names) {
        write_file($file, $PROGRAM);
        chmod 0755, $file;
    }

    return $marks;
}


# What a mark says, once it is there: a pid.

sub mark {
    my ($n, $name) = @_;
    my $file = "$n->{prefix}/marks/$name";
    my $said;

    wait_until(30, sub { -e $file and $said = read_file($file) });

    return $said;
}


sub open_gate { my ($n, $name) = @_; write_file("$n->{prefix}/marks/$name",
                                                '') }


sub gone { my ($pid) = @_; $pid && wait_until(20, sub { !alive($pid) }) }

1;
