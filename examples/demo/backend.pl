#!/usr/bin/perl

# A slow backend that does real work: it typesets the text posted to it into
# a PDF (groff, ghostscript), rasterises every page for print, and answers
# with a tar of both.  That takes seconds of CPU for each document, which is
# too long to wait for on an open connection.  A process for each request.

use strict;
use warnings;

use File::Temp qw(tempdir);
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(time);

my $port = shift // 18203;
my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
    LocalPort => $port, Listen => 64, ReuseAddr => 1)
    or die "port $port: $!\n";

$SIG{CHLD} = 'IGNORE';
$| = 1;

while (1) {
    my $client = $listen->accept or next;
    my $pid = fork;

    if (defined $pid && !$pid) {
        $SIG{CHLD} = 'DEFAULT';
        eval { serve($client); 1 } or print "failed: $@";
        POSIX::_exit(0);
    }

    close $client;
}


sub serve {
    my ($client) = @_;
    my $line = <$client> // return;
    my ($method, $uri) = $line =~ m{^(\S+) (\S+)} or return;
    my %header;

    while (defined(my $h = <$client>)) {
        last if $h !~ /^([^:]+):\s*(.*?)\s*$/;
        $header{lc $1} = $2;
    }

    my $text = '';
    my $length = $header{'content-length'} || 0;

    while (length $text < $length) {
        read $client, $text, $length - length $text, length $text
            or die "the body was cut short\n";
    }

    if ($method ne 'POST' || !length $text) {
        return answer($client, '400 Bad Request', 'text/plain',
                      "POST a text document\n");
    }

    my $from = time;
    my ($type, $body) = render($text);

    printf "%s %s job=%s attempt=%s: %d bytes in, %d out, %.1f s\n", $method,
        $uri, $header{'offload-job-id'} // '-',
        $header{'offload-attempt'} // '-', $length, length $body, time - $from;
    answer($client, '200 OK', $type, $body);
}


sub answer {
    my ($client, $status, $type, $body) = @_;

    print $client "HTTP/1.1 $status\r\nContent-Type: $type\r\n"
        . 'Content-Length: ' . length($body) . "\r\nConnection: close\r\n\r\n"
        . $body;
    close $client;
}


sub render {
    my ($text) = @_;
    my $dir = tempdir(CLEANUP => 1);

    # what groff would take for a request or an escape
    $text =~ s/\\/\\e/g;
    $text =~ s/^(?=[.'])/\\&/mg;
    $text =~ tr/\f\r//d;

    write_file("$dir/document.ms", ".LP\n.nf\n.ft CR\n.ps 9\n.vs 11\n$text");
    run("groff -ms -Tps -dpaper=a4 -P-pa4 $dir/document.ms"
        . " >$dir/document.ps");
    run("gs -q -dSAFER -dBATCH -dNOPAUSE -sDEVICE=pdfwrite"
        . " -o $dir/document.pdf $dir/document.ps");
    run("gs -q -dSAFER -dBATCH -dNOPAUSE -sDEVICE=png16m -r300"
        . " -dTextAlphaBits=4 -o $dir/page-%02d.png $dir/document.pdf");
    run("tar -C $dir -cf $dir/out.tar document.pdf"
        . " \$(cd $dir && ls page-*.png)");

    open my $fh, '<:raw', "$dir/out.tar" or die "out.tar: $!\n";
    local $/;

    return ('application/x-tar', scalar <$fh>);
}


sub run {
    my ($command) = @_;

    system('/bin/sh', '-c', "$command 2>&1") == 0
        or die "$command: exit $?\n";
}


sub write_file {
    my ($name, $content) = @_;

    open my $fh, '>:raw', $name or die "$name: $!\n";
    print $fh $content;
    close $fh or die "$name: $!\n";
}
