package Browser;

# A real browser without a screen: chromium, driven by chromedriver's WebDriver
# HTTP interface (W3C), with a profile of its own that is gone afterwards.
#
#     my $w = Browser->start;
#     $w->open('http://127.0.0.1:8080/jobs/...');
#     $w->js('return document.title');
#     $w->console;           # messages since it was asked last: none is good

use strict;
use warnings;

use File::Temp ();
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use POSIX ();
use Test::More;

use Http;
use Ports;
use Util qw(wait_until write_file);


sub start {
    my ($class, %o) = @_;
    my $self = bless {
        port => Ports::pick(), owner => $$,
        dir => File::Temp::tempdir('ofl-w-XXXXXX', TMPDIR => 1, CLEANUP => 1),
    }, $class;
    my $pid = fork // die "fork: $!\n";

    if (!$pid) {
        setpgrp;
        open STDOUT, '>', "$self->{dir}/driver.log";
        open STDERR, '>&', \*STDOUT;
        $ENV{HOME} = $ENV{TMPDIR} = $self->{dir};
        exec 'chromedriver', "--port=$self->{port}" or POSIX::_exit(127);
    }

    $self->{pid} = $pid;
    wait_until(30, sub { Http::dial($self->{port}) })
        or BAIL_OUT('chromedriver does not start: tools/setup test');

    my $prefs = { browser => 'ALL' };
    my $session = $self->ask(POST => '/session', {
        capabilities => { alwaysMatch => {
            'goog:loggingPrefs' => $prefs,
            'goog:chromeOptions' => {
                binary => '/usr/bin/chromium',
                args => [ qw(--headless --no-sandbox --disable-gpu
                             --disable-dev-shm-usage --no-first-run),
                          '--window-size=760,760',
                          "--user-data-dir=$self->{dir}/profile",
                          @{ $o{args} // [] } ] } } } });

    $self->{session} = "/session/$session->{sessionId}";

    return $self;
}


sub ask {
    my ($self, $method, $path, $body) = @_;
    my $r = Http::request($self->{port}, $method,
        ($self->{session} // '') . $path, deadline => 60,
        host => "127.0.0.1:$self->{port}",
        $body ? (headers => [ 'Content-Type' => 'application/json' ],
                 body => encode_json($body)) : ());
    my $answer = eval { decode_json($r->{body}) } // {};

    $r->{status} == 200
        or die "$method $path: $r->{status} ", $r->{error} // $r->{body}, "\n";

    return $answer->{value};
}


sub open {
    my ($self, $url) = @_;

    $self->ask(POST => '/url', { url => $url });
}


sub js {
    my ($self, $script, @args) = @_;

    return $self->ask(POST => '/execute/sync',
                      { script => $script, args => \@args });
}


# Its text as a person sees it, hidden parts left out.

sub text {
    my ($self, $css) = @_;

    return $self->js('const e = document.querySelector(arguments[0]);'
                     . 'return e && e.checkVisibility()'
                     . ' ? e.innerText.trim() : ""', $css);
}


sub wait_text {
    my ($self, $css, $want) = @_;

    return wait_until(30, sub { ($self->text($css) // '') =~ $want });
}


sub click {
    my ($self, $css) = @_;
    my $e = $self->ask(POST => '/element',
                       { using => 'css selector', value => $css });

    $self->ask(POST => '/element/' . (values %$e)[0] . '/click', {});
}


sub console {
    my ($self) = @_;

    return map { "$_->{level} $_->{message}" }
           @{ $self->ask(POST => '/se/log', { type => 'browser' }) };
}


sub screenshot {
    my ($self, $file) = @_;

    write_file($file, decode_base64($self->ask(GET => '/screenshot')));
}


sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($?, $!, $@);
    eval { $self->ask(DELETE => '') } if $self->{session};
    kill 'KILL', -$self->{pid};
    waitpid $self->{pid}, 0;
}

1;
