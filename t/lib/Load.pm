package Load;

# Clients that submit jobs and ask for them, in child processes, while a test
# does something to nginx; and what has to be true of these jobs afterwards.
#
#     my $load = Load->start($n, $backend);
#     ...
#     is_deeply [ $load->stop ], [], 'no client noticed';
#     is_deeply [ $load->wrong ], [], 'all jobs are done';
#
# A client that gets no answer at all notes it as `broken`, one that is turned
# away with a 503 as `refused`; stop() returns every note.  A status URL that
# answers anything but 200 or 202 is noted always.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use POSIX ();

use Http;
use Offload;
use Util qw(read_file wait_until);

my $loads = 0;


sub start {
    my ($class, $n, $back, %o) = @_;
    my $self = bless { n => $n, back => $back, number => $loads++ }, $class;

    for my $i (1 .. $o{clients} // 3) {
        my $file = "$n->{prefix}/load.$self->{number}.$i";
        my $pid = fork // die "fork: $!\n";

        if (!$pid) {
            eval { _client($n, $file, getppid, "$self->{number}.$i") };
            POSIX::_exit(0);
        }

        $self->{files}{$pid} = $file;
    }

    $self->more(10);

    return $self;
}


sub _client {
    my ($n, $file, $parent, $name) = @_;
    my ($serial, $end, @jobs) = (0, 0);

    srand $$;

    open my $fh, '>', $file or return;
    $fh->autoflush(1);
    $SIG{TERM} = sub { $end = 1 };

    while (!$end && getppid == $parent) {
        my $body = "$name " . $serial++ . ' x' x int rand 2000;
        my $r = $n->request('POST', "/load/$name/$serial?delay=10",
                            body => $body);
        my $job = Offload::job($r);

        if ($job) {
            $job->{sha} = sha256_hex($body);
            push @jobs, $job;
            print $fh "job $job->{id} $job->{path} $job->{sha}\n";

        } elsif (!$end) {               # the signal ends waiting, too
            print $fh $r->{status} == 503 ? 'refused' : 'broken',
                ": POST: $r->{status} ", $r->{error} // '', "\n";
        }

        next if !@jobs;

        my $any = $jobs[rand @jobs];
        my $s = $n->get($any->{path});

        print $fh $s->{status} == 0 ? 'broken' : 'status',
            ": $any->{path}: $s->{status} ", $s->{error} // '', "\n"
            if $s->{status} !~ /^20[02]$/ && !$end;

        select undef, undef, undef, 0.01;       # a load, not a flood
    }
}


sub _lines { map { split /\n/, read_file($_) } values %{ $_[0]{files} } }


# Waits until so many more jobs were accepted than when it was called.

sub more {
    my ($self, $count) = @_;
    my $jobs = sub { scalar grep { /^job / } eval { $self->_lines } };
    my $before = $jobs->();

    return wait_until(20, sub { $jobs->() >= $before + $count });
}


sub stop {
    my ($self) = @_;

    for my $pid (keys %{ $self->{files} }) {
        kill 'TERM', $pid;
        waitpid $pid, 0;
    }

    $self->{jobs} = [ map { /^job (\S+) (\S+) (\S+)$/
        ? { id => $1, path => $2, sha => $3 } : () } $self->_lines ];

    return grep { !/^job / } $self->_lines;
}


sub jobs { @{ $_[0]{jobs} } }


# Those of these jobs (of all that the clients were promised) that are not
# done as they have to be: completed, each attempt at the backend whole,
# counted, and with a number of its own.

sub wrong {
    my ($self, @jobs) = @_;
    my (%seen, @wrong);

    @jobs = $self->jobs if !@jobs;

    my @docs = map { $self->{n}->settled($_, deadline => 60) } @jobs;

    push @{ $seen{$_->{job} // ''} }, $_
        for $self->{back}->journal(event => 'request');

    for my $job (@jobs) {
        my $doc = shift @docs;
        my @requests = @{ $seen{$job->{id}} // [] };
        my %numbers = map { $_->{attempt} => 1 } @requests;
        my ($most) = sort { $b <=> $a } 0, keys %numbers;

        push @wrong, "$job->{id} is " . ($doc->{status} // 'lost') . ' '
                     . ($doc->{error}{code} // '')
            if ($doc->{status} // '') ne 'completed';
        push @wrong, "$job->{id} was never at the backend" if !@requests;
        push @wrong, "$job->{id}: attempts seen: " . join(' ',
                     map { $_->{attempt} } @requests)
                     . '; counted: ' . ($doc->{attempts} // 0)
            if keys %numbers != @requests || $most > ($doc->{attempts} // 0);
        push @wrong, "$job->{id} had another body"
            if $job->{sha} && grep { $_->{sha} ne $job->{sha} } @requests;
    }

    return @wrong;
}



1;
