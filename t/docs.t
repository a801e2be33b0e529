# Readers paste what a manual shows, and believe what it says comes back.  So
# the examples of docs/http-api.md are run as they stand, one after the other
# in one shell, and their answers are held against those shown.
#
# An example is a paragraph of an indented block that begins with `curl` or
# with `name=`; paragraphs behind it in the same block that begin like an
# answer are its answer.  Of that are compared
#
#     HTTP/1.1 202 Accepted       the status
#     Name: value                 that there is a header of this name
#     {"name":...}                that there is a member of this name, and the
#                                 values of status, type, code and truncated
#     event: e, id: i             all of them, in order
#
# so an answer may leave out what it likes ("..." as well).  An example without
# an answer must not get a problem document.
#
# To add examples, write them; what they need of the servers goes into the
# configuration below.  All hosts are this nginx, by TLS; @files are made.  The
# backend answers a job only while an example waits: by Prefer or ?wait, or for
# an event that follows those it has got.  So, between two examples, all jobs
# that are not settled are running.  What the backend was told of the last one
# is there in variables: $offload_job_id for its Offload-Job-Id, and so on.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Handle;
use JSON::PP;
use Offload;
use Test::More;
use Util qw(read_file wait_until write_file);

my $b = Backend->start;
my $n = Offload->new(backend => $b);
my $dir = "$n->{prefix}/reader";
my @examples = examples(read_file("$Offload::ROOT/docs/http-api.md"));
my %host = map { $_ => 1 }
           map { $_->{command} =~ m{https://([\w.-]+)}g } @examples;
my $cert = "$n->{prefix}/cert";

mkdir $dir or die "$dir: $!\n";
system("openssl req -x509 -newkey rsa:2048 -nodes -keyout $cert.key -out $cert"
       . " -days 2 -subj /CN=docs -addext subjectAltName="
       . join(',', map { "DNS:$_" } sort keys %host)
       . " 2>$n->{prefix}/openssl.out") == 0
    or die read_file("$n->{prefix}/openssl.out");

$n->write_conf(http => <<"EOT")->start;
ssl_certificate $cert;
ssl_certificate_key $cert.key;
server {
    listen 127.0.0.1:%%PORT%% ssl;
    location /reports/ {
        offload jobs;
        offload_idempotency on;
        set \$order gate=\$offload_job_id&size=5341&type=text/csv;
        proxy_pass http://%%BACKEND%%/?\$order&h=ETag:%22v1%22;
    }
    location /jobs/ { offload_status jobs; }
}
EOT


# (command, answer) of each, and where it stands

sub examples {
    my ($text) = @_;
    my ($section, @found) = '';

    while ($text =~ /^## (.*)\n|((?:^    .*\n|^\n(?=\n*    ))+)/mg) {
        $section = $1, next if defined $1;

        my $last;

        for (split /\n{2,}/, $2 =~ s/^ {4}//gmr) {
            if (/^\n*(?:curl |[a-z_]+=)/) {
                $last = { section => $section, command => $_, answer => '' };
                push @found, $last;

            } elsif ($last && /^(?:HTTP|\{|\w[\w-]*:)/) {
                $last->{answer} .= "$_\n\n";
            }
        }
    }

    return @found;
}


# ---- the reader's shell

write_file("$dir/.curlrc", 'connect-to = "::127.0.0.1:' . $n->port . "\"\n"
           . "cacert = \"$cert\"\nmax-time = 60\n");

for my $file (map { $_->{command} =~ /@([\w.-]+)/g } @examples) {
    write_file("$dir/$file", "some,data\n1,2\n") if !-e "$dir/$file";
}

my $shell = do {
    local $ENV{CURL_HOME} = $dir;

    open my $fh, '|-', '/bin/sh', '-c', 'cd "$0" && exec /bin/sh', $dir
        or die "sh: $!\n";
    $fh->autoflush(1);
    $fh;
};
my (%opened, $runs);


# Lets the backend answer what it was asked so far.

sub answer {
    for my $request ($b->journal(event => 'request')) {
        $b->open_gate($request->{job}) if !$opened{ $request->{job} }++;
    }
}


# What the example printed, and what it said by its exit code.

sub run {
    my ($command) = @_;
    my $out = "$dir/out." . ++$runs;
    my $waits = $command =~ /\bwait=/;
    my $streams = $command =~ m{text/event-stream};
    my $code;

    print $shell "{ $command\n} >$out 2>$out.err </dev/null\n",
                 "echo \$? >$out.code\n";

    wait_until(90, sub {
        answer() if $waits || $streams && (-s $out // 0);
        ($code) = (eval { read_file("$out.code") } // '') =~ /^(\d+)\n/;
        defined $code;
    });

    return (read_file($out), $code // 'none', read_file("$out.err"));
}


# Until everything is running, and told to the shell.

sub settle {
    wait_until(30, sub {
        my %asked = map { $_->{job} => 1 } $b->journal(event => 'request');
        my $zone = $n->counters;

        $zone && !$zone->{submitted} && !$zone->{queued}
            && keys %asked >= $zone->{running} + $zone->{completed} });

    my $last = ($b->journal(event => 'request'))[-1] or return;

    for (@{ $last->{headers} }) {
        my ($name, $value) = @$_;

        next if $name !~ /^Offload-[\w-]+$/i;
        $value =~ s/'/'\\''/g;
        print $shell lc($name) =~ tr/-/_/r, "='$value'\n";
    }
}


# ---- an answer as shown, an answer as it came

sub members {
    my ($value, $found) = @_;

    if (ref $value eq 'HASH') {
        for (keys %$value) {
            $found->{$_}{ $value->{$_} // '' } = 1;
            members($value->{$_}, $found);
        }

    } elsif (ref $value eq 'ARRAY') {
        members($_, $found) for @$value;
    }

    return $found;
}


sub compare {
    my ($shown, $came, $name) = @_;
    my ($head, $body) = $came =~ m{\A(HTTP/.*?\r\n)\r\n(.*)\z}s
                        ? ($1, $2) : ('', $came);
    my $found = members(scalar eval { decode_json($body) }, {});

    for (split /^/, $body) {
        members(scalar eval { decode_json($1) }, $found) if /^data: (.*)/;
    }

    if (my ($status) = $shown =~ m{\A(HTTP/\S+ \d+)}) {
        my ($got) = $head =~ m{\A(HTTP/\S+ \d+)};

        is $got, $status, "$name: $status";

        my ($lines) = $shown =~ m{\A.*\n((?:[\w-]+:.*\n)*)};

        for ($lines =~ /^([\w-]+):/mg) {
            like $head, qr/^\Q$_\E:/mi, "$name: $_";
        }

    } elsif ($shown =~ /^event:/m) {
        is join(' ', $body =~ /^((?:event|id): .*)$/mg),
           join(' ', $shown =~ /^((?:event|id): .*)$/mg), "$name: its events";
        like $body, qr/^retry: \d+$/m, "$name: retry" if $shown =~ /^retry:/m;
    }

    for my $json ($shown =~ /^(?:data: )?(\{.*?\})$/msg) {
        while ($json =~ /"(\w+)":("?)([^",}]*)/g) {
            my ($member, $value) = ($1, $3);

            ok $found->{$member}, "$name: \"$member\"";
            ok $found->{$member}{$value}
               || $value eq 'true' && $found->{$member}{1},
               "$name: .. is $value"
               if $member =~ /^(?:status|type|code|truncated)$/
                  && $value =~ /[a-z]/;
        }
    }
}


my $compared = 0;

for my $example (@examples) {
    my ($command, $shown) = @$example{qw(command answer)};
    my ($line) = $command =~ /([^\n]{1,50})/;
    my $name = "$example->{section}: $line";
    my ($out, $code, $err) = run($command);

    is $code, 0, $name or diag $err;

    if ($shown) {
        my $well = Test::More->builder->is_passing;

        compare($shown, $out, $name);
        diag $out if $well && !Test::More->builder->is_passing;
        $compared++;

    } else {
        unlike $out, qr/urn:problem-type/, "$name: is no problem";
    }

    settle();
}

cmp_ok scalar(@examples), '>=', 20, 'examples were found';
cmp_ok $compared, '>=', 10, 'and answers';

close $shell;
answer();
Offload::finish_all();
