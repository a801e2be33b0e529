# The tests of a failing disk and of power loss are worth as much as the disk
# they use (t/disk, t/lib/Disk.pm).  Here it is shown to forget what a
# real one may forget, to keep what it must keep, and to fail when told to.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use Disk;
use Errno;
use File::Find ();
use Offload;
use Test::More;


# What a program on the disk does, one line each: its errors (0: none).

sub does {
    my ($disk, @lines) = @_;
    my %env = ($disk->env, LD_PRELOAD => $disk->{so});
    my $code = <<'EOT';
use Fcntl; use IO::Handle; use POSIX ();
my ($dir, @lines) = @ARGV;
my %fh;
for (@lines) {
    my ($do, $name, @o) = split / /;
    my $path = $name eq '.' ? $dir : "$dir/$name";
    my $ok =
        $do eq 'make' ? sysopen($fh{$name}, $path, O_RDWR|O_CREAT, 0600)
      : $do eq 'dsync' ? sysopen($fh{$name}, $path, O_RDWR|O_DSYNC)
      : $do eq 'write' ? defined syswrite $fh{$name}, $o[0] x ($o[1] // 1)
      : $do eq 'seek' ? sysseek $fh{$name}, $o[0], 0
      : $do eq 'sync' ? $fh{$name}->sync
      : $do eq 'syncdir' ? do { open my $d, '<', $path; $d->sync }
      : $do eq 'cut' ? truncate $fh{$name}, $o[0]
      : $do eq 'rename' ? rename $path, "$dir/$o[0]"
      : $do eq 'unlink' ? unlink $path
      : $do eq 'mkdir' ? mkdir $path : die "$do\n";
    print $ok ? 0 : 0 + $!, "\n";
}
EOT
    my $pid = open(my $out, '-|') // die "fork: $!\n";

    if (!$pid) {
        @ENV{keys %env} = values %env;
        exec $^X, '-e', $code, $disk->{dir}, @lines;
    }

    chomp(my @errors = <$out>);

    return @errors;
}


# The files there, as name=content.

sub holds {
    my ($disk) = @_;
    my @files;

    File::Find::find(sub {
        my $name = $File::Find::name =~ s{^\Q$disk->{dir}\E/?}{}r;

        push @files, -d ? "$name/" : "$name=" . Offload::read_file($_)
            if $name ne '';
    }, $disk->{dir});

    return join ' ', sort @files;
}


# Each begins where the one before ended.

my $disk = Disk->new;

for my $case (
    [ 'nothing synced', '',
      'make a', 'write a 1' ],
    [ 'a file synced, its name not', '',
      'make a', 'write a 1', 'sync a' ],
    [ 'a name synced, its bytes not', 'a=',
      'make a', 'write a 1', 'syncdir .' ],
    [ 'both', 'a=1',
      'make a', 'write a 1', 'sync a', 'syncdir .' ],
    [ 'written over without a sync', 'a=1',
      'make a', 'write a 2' ],
    [ 'written over with O_DSYNC', 'a=2',
      'make a', 'dsync a', 'write a 2' ],
    [ 'appended behind the last sync', 'a=xx',
      'make a', 'write a xx', 'sync a', 'write a y' ],
    [ 'renamed', 'a=xx',
      'rename a b' ],
    [ 'renamed and synced', 'b=xx',
      'rename a b', 'syncdir .' ],
    [ 'renamed over another', 'b=xx',
      'make c', 'write c new', 'sync c', 'rename c b' ],
    [ 'renamed over another and synced', 'b=new',
      'make c', 'write c new', 'sync c', 'rename c b', 'syncdir .' ],
    [ 'unlinked', 'b=new',
      'unlink b' ],
    [ 'cut short', 'b=new',
      'make b', 'cut b 1' ],
    [ 'cut short and synced', 'b=n',
      'make b', 'cut b 1', 'sync b' ],
    [ 'a directory', 'b=n',
      'mkdir d' ],
    [ 'a directory, synced itself', 'b=n',
      'mkdir d', 'make d/f', 'sync d/f', 'syncdir d' ],
    [ 'a directory and its parent synced', 'b=n d/',
      'mkdir d', 'make d/f', 'sync d/f', 'syncdir .' ],
    [ 'moved, the new directory synced alone: two names', 'b=n d/ d/b=n',
      'rename b d/b', 'syncdir d' ],
    [ 'unlinked and synced, and made again under its number', 'd/ d/b=n',
      'unlink b', 'syncdir .', 'make b', 'write b 2', 'sync b' ])
{
    my ($name, $want, @lines) = @$case;
    my @errors = does($disk, @lines);

    is_deeply \@errors, [ (0) x @lines ], "$name: done";
    $disk->cut;
    is holds($disk), $want, "$name: what is left";
}


# what is not synced may be there nevertheless, in part

{
    my $some = Disk->new;
    my (%names, %parts);

    for (1 .. 40) {
        does($some, 'make big', 'sync big', 'syncdir .', 'write big x 8192',
             'make other');
        $some->cut(keep => 'some');

        my $big = Offload::read_file("$some->{dir}/big");

        $names{ -e "$some->{dir}/other" ? 'there' : 'not there' }++;
        $parts{ $big eq '' ? 'none' : $big eq 'x' x 8192 ? 'all' : 'torn' }++;
        File::Path::remove_tree($some->{dir}, { keep_root => 1 });
        $some->_load;
    }

    is_deeply [ sort keys %names ], [ 'not there', 'there' ],
        'a name that is not synced may be there';
    is_deeply [ sort keys %parts ], [ 'all', 'none', 'torn' ],
        'and bytes: none, all or some blocks' or diag explain \%parts;
}


# an entry cut in two by the kill is dropped

{
    my $torn = Disk->new;

    does($torn, 'make a', 'syncdir .', 'write a old', 'sync a', 'write a new',
         'sync a');

    my ($log) = glob "$torn->{log}/*";

    truncate $log, -1 + -s $log;
    $torn->cut;
    is holds($torn), 'a=old', 'half an entry at the end is none';
}


# what the last changes did can be taken back

{
    my %seen;

    for (1 .. 30) {
        my $back = Disk->new;

        does($back, 'make a', 'syncdir .', 'dsync a', map { "write a $_" }
             1 .. 3);
        $back->cut(back => 3);
        $seen{ holds($back) }++;
    }

    is_deeply [ sort keys %seen ], [ 'a=', 'a=1', 'a=12', 'a=123' ],
        'a cut at any moment';
}


# faults

{
    my $bad = Disk->new;
    my ($enospc, $eio, $erofs) = (Errno::ENOSPC, Errno::EIO, Errno::EROFS);
    my $rule = $bad->fail(grow => 'ENOSPC');

    does($bad, 'make a');
    is $bad->hits($rule), 1, 'a rule counts what it struck';
    is_deeply [ does($bad, 'make a', 'mkdir d') ], [ $enospc, $enospc ],
        'no room for a new file';
    $bad->heal;
    does($bad, 'make a', 'write a old', 'make b');
    $bad->fail(grow => 'ENOSPC');
    is_deeply [ does($bad, 'make a', 'write a new', 'write a more',
                     'cut a 2', 'unlink b') ], [ 0, 0, $enospc, 0, 0 ],
        'no room beyond the end, but inside';
    $bad->heal;
    is_deeply [ does($bad, 'make a', 'write a new', 'write a more') ],
        [ 0, 0, 0 ], 'and when it is over all is well';

    $bad->fail('open|unlink|rename' => 'EROFS');
    is_deeply [ does($bad, 'make x', 'unlink a', 'rename a b') ],
        [ ($erofs) x 3 ], 'read-only';
    $bad->heal;

    $bad->fail(write => 'EIO', after => 1, times => 1, path => 'a');
    is_deeply [ does($bad, 'make a', 'make x', 'write x 1', 'write x 2',
                     'write a 1', 'write a 2', 'write a 3') ],
        [ 0, 0, 0, 0, 0, $eio, 0 ], 'one call on one path';
    $bad->heal;

    $bad->fail(write => 'EIO', part => 2);
    is_deeply [ does($bad, 'make t', 'write t 1234') ], [ 0, $eio ], 'torn';
    is Offload::read_file("$bad->{dir}/t"), '12', 'with a part written';
    $bad->heal;

    $bad->cut;
    $bad->fail(sync => 'EIO', times => 1);
    is_deeply [ does($bad, 'make f', 'syncdir .', 'write f x', 'sync f') ],
        [ 0, $eio, 0, 0 ], 'a sync that fails';
    $bad->cut;
    unlike holds($bad), qr/f=/, 'has kept nothing';
    $bad->fail(sync => 'EIO', times => 1, path => 'f');
    does($bad, 'make f', 'write f x', 'sync f', 'sync f', 'syncdir .');
    $bad->cut;
    is holds($bad), 'f=', 'nor does the next one make up for it';
}

done_testing();
