package Clock;

# The clocks of an offloadd that was built with failpoints, as a test wants
# them: only ever ahead of the machine's, and the more the further a test has
# come.  What should happen hours later is so seen at once, by the same code.

use strict;
use warnings;

use Offload;


# For offloadds started by hand: by_hand(undef, $clock->env).

sub new {
    my ($class, $n) = @_;
    my $self = bless { n => $n, file => "$n->{prefix}/clock", ms => 0 },
               $class;

    $self->_write;
    chmod 0644, $self->{file};

    return $self;
}


sub env { (OFFLOAD_TEST_CLOCK => $_[0]{file}) }


sub ahead {
    my ($self, $seconds) = @_;

    $self->{ms} += $seconds * 1000;
    $self->_write;
    wake($self->{n});
}


# As nginx's again: while no offloadd is there, which would see it run back.

sub reset {
    my ($self) = @_;

    $self->{ms} = 0;
    $self->_write;
}


# In place: it is mapped.

sub _write {
    my ($self) = @_;

    open my $fh, -e $self->{file} ? '+<' : '>', $self->{file}
        or die "$self->{file}: $!\n";
    syswrite $fh, pack 'Q', $self->{ms};
}


# One that is not there yet will look when it is.

sub wake {
    my ($n, $deadline) = @_;
    my $pid = $n->offloadd(deadline => $deadline // 0) or return;

    kill 'USR1', $pid;
}


1;
