package Disk;

# A disk under a zone's store that fails to order and loses power: the test's
# side of t/disk, which says what is caught and what is written down.
#
#     my $disk = Disk->new;
#     my $n = Offload->new($disk->under, zone => "... store=$disk->{dir}");
#
#     $disk->fail(grow => 'ENOSPC', path => 'spool/');   ..  $disk->heal;
#
#     (kill everything)
#     my $when = $disk->cut(keep => 'none');     # or 'some'
#
# cut() plays the log over what the store was at the beginning, and writes
# what the disk would hold: the bytes of files as of their last sync, names as
# of their directory's last one.  A file's name is not durable by the file's
# own sync.  With keep => 'some' a part of what was not synced has made it to
# the disk all the same, names and single blocks in any order.

use strict;
use warnings;

use Errno ();
use File::Basename qw(basename dirname);
use File::Copy ();
use File::Path ();
use File::Temp ();
use List::Util qw(min);

my %ON = (write => 1, sync => 2, rename => 4, grow => 8, open => 16,
          unlink => 32);

my ($RULES, $RULE, $RULES_AT) = (8, 128, 64);          # struct control
my ($HEADER, $MAGIC) = (64, 0x6b736964);               # struct entry
my @APPLY = (undef, \&_open, \&_mkdir, \&_write, \&_resize, \&_resize,
             \&_sync, \&_lost, \&_rename, \&_link, \&_unlink);
my ($SIZE, $GROW) = (4, 5);


sub new {
    my ($class) = @_;
    my $root = File::Temp::tempdir('ofl-d-XXXXXX', TMPDIR => 1, CLEANUP => 1);
    my $self = bless { root => $root, dir => "$root/store", owner => $$,
                       control => "$root/control", log => "$root/log",
                       so => "$root/disk.so", rules => 0 }, $class;

    chmod 0755, $root;
    mkdir $self->{log};
    chmod 0777, $self->{log};
    File::Copy::copy(Offload::build_dir() . '/disk.so', $self->{so})
        or die "disk.so: $!: run make first\n";

    open $self->{fh}, '+>:raw', $self->{control} or die "control: $!\n";
    truncate $self->{fh}, $RULES_AT + $RULES * $RULE or die "control: $!\n";
    chmod 0666, $self->{control};
    mkdir $self->{dir}, 0700;

    if ($> == 0) {
        my ($uid, $gid) = (getpwnam $Offload::USER)[2, 3];

        chown $uid, $gid, $self->{dir};
    }

    $self->_load;

    return $self;
}


# The environment of a program on this disk.  Without a log it only fails.

sub env {
    my ($self) = @_;
    my @asan = Offload::asan()
               ? map { chomp(my $f = `gcc -print-file-name=$_`); $f }
                 qw(libasan.so libubsan.so) : ();

    return (LD_PRELOAD => join(':', @asan, $self->{so}),
            DISK_DIR => $self->{dir}, DISK_CONTROL => $self->{control},
            $self->{quiet} ? () : (DISK_LOG => $self->{log}));
}


# The options that put nginx and offloadd on it.

sub under {
    my ($self, %o) = @_;
    my %env = $self->env;
    my $nginx = "$self->{root}/nginx";

    open my $fh, '>', $nginx or die "$nginx: $!\n";
    print $fh "#!/bin/sh\n", map({ "export $_='$env{$_}'\n" } sort keys %env),
        "exec nginx \"\$@\"\n";
    close $fh;
    chmod 0755, $nginx;

    return (nginx => $nginx, worker_env => { %env, %{ $o{worker_env} // {} } });
}


# ---- faults

# fail('write|sync' => 'EIO', ...): the number of the rule.  Options: path (a
# part of the name), after (calls that pass), times, part (bytes that are
# written all the same), delay (ms).  With '' for the error only these.

sub fail {
    my ($self, $on, $err, %o) = @_;
    my $i = $self->{rules}++;
    my $mask = 0;

    die "too many rules\n" if $i >= $RULES;
    $mask |= $ON{$_} // die "$_: no call\n" for split /\|/, $on;

    my $code = $err eq '' ? 0 : Errno->can($err)->();
    my $rule = pack 'L6 x8 Z96', 0, $code, $o{after} // 0, $o{times} // 0,
                    $o{part} // 0, $o{delay} // 0, $o{path} // '';

    $self->_poke($i, $rule);
    $self->_poke($i, pack 'L', $mask);

    return $i;
}


# How often the rule has struck.

sub hits {
    my ($self, $i) = @_;

    sysseek $self->{fh}, $RULES_AT + $i * $RULE + 28, 0;
    sysread $self->{fh}, my $raw, 4;

    return unpack 'L', $raw;
}


sub heal {
    my ($self) = @_;

    $self->_poke($_, "\0" x 4) for 0 .. $RULES - 1;
    $self->{rules} = 0;
}


sub _poke {
    my ($self, $i, $bytes) = @_;

    sysseek $self->{fh}, $RULES_AT + $i * $RULE, 0;
    syswrite($self->{fh}, $bytes) == length $bytes or die "control: $!\n";
}


# ---- the cut

# Options: keep, and back: how many of the last changes never happened, at
# most.  Says up to when (unix time) all that was done is in the image.

sub cut {
    my ($self, %o) = @_;
    my @log = $self->_read;
    my $end = @log - int rand 1 + min($o{back} // 0, scalar @log);
    my $when = min(9e9, map { $_->{time} } @log[$end .. $#log]);

    $APPLY[$_->{type}]->($self, $_) for @log[0 .. $end - 1];

    # how much of it comes through, in which pieces
    local $self->{luck} = ($o{keep} // 'none') eq 'some'
                          ? (0.1, 0.5, 0.9)[rand 3] : 0;
    local $self->{block} = (512, 4096)[rand 2];

    my @owner = (stat $self->{dir})[4, 5];

    File::Path::remove_tree($self->{dir});
    $self->_write_out($self->{tree}, $self->{dir}, @owner);
    unlink glob "$self->{log}/*";
    $self->_load;

    return $when;
}


# All that was done, in order.

sub _read {
    my ($self) = @_;
    my @log;

    for my $file (glob "$self->{log}/*") {
        my $raw = Util::read_file($file);
        my $at = 0;

        while ($at + $HEADER <= length $raw) {
            my ($magic, $type, $number, $time, $upto, $ino, $offset, $name,
                $to, $data) = unpack 'L2 Q5 L2 Q', substr $raw, $at, $HEADER;

            die "$file: no entry at $at\n" if $magic != $MAGIC;
            last if $at + $HEADER + $name + $to + $data > length $raw;

            $at += $HEADER;
            push @log, {
                type => $type, number => $number, time => $time / 1e6,
                upto => $upto, ino => $ino, offset => $offset,
                name => substr($raw, $at, $name),
                to => substr($raw, $at + $name, $to),
                data => substr($raw, $at + $name + $to, $data) };
            $at += $name + $to + $data;
        }
    }

    return sort { $a->{number} <=> $b->{number} } @log;
}


# ---- the model
#
# A file: data, as far as durable, and changes, in order, that are not.  A
# directory: names (name => node) as the programs see it, and changes of each
# name since what is durable, which is the first of them.

sub _load {
    my ($self) = @_;

    $self->{ino} = {};
    $self->{tree} = $self->_load_node($self->{dir});
}


sub _load_node {
    my ($self, $path) = @_;
    my $node = $self->_node((stat $path)[1], -d _);

    if (!$node->{names}) {
        $node->{data} = Util::read_file($path);
        return $node;
    }

    opendir my $dir, $path or die "$path: $!\n";

    for my $name (grep { !/^\.\.?$/ } readdir $dir) {
        my $child = $self->_load_node("$path/$name");

        $node->{names}{$name} = $child;
        $node->{changes}{$name} = [ [ 0, $child ] ];
    }

    return $node;
}


sub _node {
    my ($self, $ino, $dir) = @_;

    return $self->{ino}{$ino} = $dir
        ? { ino => $ino, names => {}, changes => {} }
        : { ino => $ino, data => '', changes => [] };
}


# The directory of a path, and the name in it.

sub _parent {
    my ($self, $path) = @_;
    my $node = $self->{tree};
    my @names = split m{/}, $path;
    my $last = pop @names;

    $node = $node->{names}{$_} // die "$path: not in the log\n" for @names;

    return ($node, $last);
}


sub _bind {
    my ($self, $entry, $path, $node) = @_;
    my ($dir, $name) = $self->_parent($path);

    if ($node) {
        $dir->{names}{$name} = $node;
    } else {
        delete $dir->{names}{$name} // die "$path: not in the log\n";
    }

    push @{ $dir->{changes}{$name} //= [ [ 0, undef ] ] },
        [ $entry->{number}, $node ];
}


sub _look {
    my ($self, $path) = @_;
    my ($dir, $name) = $self->_parent($path);

    return $dir->{names}{$name};
}


sub _inode {
    my ($self, $e) = @_;

    return $self->{ino}{$e->{ino}} // die "inode $e->{ino}: not in the log\n";
}


# The number of a file that is gone may be another's now.

sub _open {
    my ($self, $e) = @_;
    my $old = $self->_look($e->{name});

    return if $old && $old->{ino} == $e->{ino};
    $self->_bind($e, $e->{name}, $self->_node($e->{ino}));
}


sub _mkdir {
    my ($self, $e) = @_;

    $self->_bind($e, $e->{name}, $self->_node($e->{ino}, 1));
}


sub _rename {
    my ($self, $e) = @_;
    my $node = $self->_look($e->{name}) // die "$e->{name}: not in the log\n";

    $self->_bind($e, $e->{to}, $node);
    $self->_bind($e, $e->{name}, undef);
}


sub _link {
    my ($self, $e) = @_;

    $self->_bind($e, $e->{to}, $self->_look($e->{name}));
}


sub _unlink { my ($self, $e) = @_; $self->_bind($e, $e->{name}, undef) }


# A write with O_DSYNC is durable at once.

sub _write {
    my ($self, $e) = @_;
    my $node = $self->_inode($e);

    return _change($node, $e, 0, length $e->{data}) if $e->{upto};
    push @{ $node->{changes} }, $e;
}


sub _resize { my ($self, $e) = @_; push @{ $self->_inode($e)->{changes} }, $e }


# A number that no sync reaches.

sub _lost {
    my ($self, $e) = @_;
    my $node = $self->_inode($e);

    if ($node->{names}) {
        $_->[0] = ~0 for map { @$_[1 .. $#$_] } values %{ $node->{changes} };
    } else {
        $_->{number} = ~0 for @{ $node->{changes} };
    }
}


sub _sync {
    my ($self, $e) = @_;
    my $node = $self->_inode($e);

    if ($node->{names}) {
        for my $list (values %{ $node->{changes} }) {
            shift @$list while @$list > 1 && $list->[1][0] <= $e->{upto};
        }

        return;
    }

    my @left;

    for my $change (@{ $node->{changes} }) {
        if ($change->{number} > $e->{upto}) {
            push @left, $change;
        } else {
            _change($node, $change, 0, length $change->{data});
        }
    }

    $node->{changes} = \@left;
}


# A change, of which these bytes, becomes durable.

sub _change {
    my ($node, $e, $from, $n) = @_;
    my $have = length $node->{data};
    my $need = $e->{offset} + $from + $n;

    if ($e->{type} == $SIZE && $have > $need) {
        substr $node->{data}, $need, $have, '';

    } elsif ($have < $need) {
        $node->{data} .= "\0" x ($need - $have);
    }

    substr $node->{data}, $need - $n, $n, substr $e->{data}, $from, $n if $n;
}


# What was not synced: each block by itself may have been written.

sub _gamble {
    my ($self, $node) = @_;

    for my $e (@{ $node->{changes} }) {
        my ($from, $all) = (0, length $e->{data});

        do {
            my $n = min($all - $from, $self->{block}
                                - ($e->{offset} + $from) % $self->{block});

            _change($node, $e, $from, $n) if rand() < $self->{luck};
            $from += $n;
        } while ($from < $all);
    }
}


sub _write_out {
    my ($self, $node, $path, @owner) = @_;

    if ($node->{names}) {
        mkdir $path, 0700 or die "$path: $!\n";

        for my $name (sort keys %{ $node->{changes} }) {
            my $list = $node->{changes}{$name};
            my $i = 0;

            $i++ while $i < $#$list && rand() < $self->{luck};
            $self->_write_out($list->[$i][1], "$path/$name", @owner)
                if $list->[$i][1];
        }

    } else {
        $self->_gamble($node) if $self->{luck};
        Util::write_file($path, $node->{data});
        chmod 0600, $path;
    }

    chown @owner, $path;
}

1;
