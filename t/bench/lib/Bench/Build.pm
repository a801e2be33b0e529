package Bench::Build;

# Builds what the benchmark brings itself, below build/bench: the floor module
# against the installed nginx's source, and the C helpers.

use strict;
use warnings;

use Bench qw(run_quiet);

my $NGINX_SRC = '/usr/share/nginx/src';

my $CONFIGURE = <<'EOF';
    set -e
    . "$1/conf_flags"
    cd "$1"
    ./configure --builddir="$2" "${NGX_CONF_FLAGS[@]}" \
                --with-cc-opt="-g -O2 -Wall -Wextra" \
                --add-dynamic-module="$3"
EOF

# build/bench/nginx/ngx_http_bench_floor_module.so

sub floor {
    my ($b) = @_;

    my $dir = "$b->{build}/bench/nginx";
    my $so = "$dir/ngx_http_bench_floor_module.so";
    my $log = "$b->{build}/bench/floor.log";

    return $so if newer($so, glob("$b->{here}/floor/*"),
                        "$NGINX_SRC/conf_flags");

    run_quiet($log, 'bash', '-c', $CONFIGURE, 'configure', $NGINX_SRC, $dir,
              "$b->{here}/floor");
    run_quiet($log, 'make', '-C', $NGINX_SRC, '-f', "$dir/Makefile",
              'modules');

    return $so;
}

# build/bench/<name> from <name>.c, and others of the product's sources

sub helper {
    my ($b, $name, @others) = @_;

    my $source = "$b->{here}/$name.c";
    my $program = "$b->{build}/bench/$name";

    return $program if newer($program, $source, @others,
                             glob("$b->{root}/src/{zone,worker}/*.h"));

    run_quiet("$program.log", $ENV{CC} || 'cc', '-std=gnu11', '-O2', '-g',
              '-Wall', '-Wextra', '-Werror', "-I$b->{root}/src/zone",
              '-D_GNU_SOURCE', '-o', $program, $source, @others,
              '-lpthread', '-llmdb', '-Wl,--as-needed', '-lcurl');

    return $program;
}

sub newer {
    my ($target, @sources) = @_;

    return 0 if !-e $target;

    my $age = -M $target;

    return !grep { !-e $_ || -M $_ <= $age } @sources;
}

1;
