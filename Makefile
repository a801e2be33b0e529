# `make help` says what there is.  Everything is written below build/ alone;
# the variants (asan, failpoints) are this very file run again with B and X.

B        ?= build
CC       ?= cc
PREFIX   ?= /usr
DESTDIR  ?=

ROOT     := $(CURDIR)
OUT      := $(abspath $(B))
NGX_SRC  ?= /usr/share/nginx/src
X        ?=#                      extra compiler flags of a variant

MODULE   := $(B)/ngx_http_offload_module.so
WORKER   := $(B)/offloadd

CPPFLAGS := -D_GNU_SOURCE -Isrc/zone -MMD -MP
CFLAGS   := -std=gnu11 -O2 -g -Wall -Wextra -Werror $(X)
LDLIBS   := -lcurl -llmdb -ljansson -lmicrohttpd -lpcre2-8 -lcrypto -lpthread

ZONE_SRC   := $(wildcard src/zone/*.c)
WORKER_SRC := $(wildcard src/worker/*.c)
MODULE_SRC := $(wildcard src/module/*.c)
UNIT_SRC   := $(wildcard t/unit/*.c t/unit/tool/*.c t/unit/worker/*.c)
SOURCES    := $(ZONE_SRC) $(WORKER_SRC) $(MODULE_SRC)

ZONE_OBJ   := $(ZONE_SRC:%.c=$(B)/obj/%.o)
WORKER_OBJ := $(WORKER_SRC:%.c=$(B)/obj/%.o)
UNITS      := $(UNIT_SRC:t/unit/%.c=$(B)/unit/%)
DISK       := $(B)/disk.so

SAN_FLAGS  := -fsanitize=address,undefined -fno-omit-frame-pointer
TESTS      ?= t/*.t t/crash/*.t

.PHONY: all build module worker units asan failpoints demo demo-stop test \
        storm test-asan mutants bench lint install clean help setup-build \
        FORCE
.DEFAULT_GOAL := build

## build        the module and offloadd, into build/ (the default)
build: module worker

module: $(MODULE)
worker: $(WORKER)
units:  $(UNITS)

all: build units $(DISK)


# nginx's own build system makes the module.  It is configured again only
# when what it was told has changed: this stamp is rewritten then, not else.

STAMP := $(B)/nginx/configured-for
NGX_MAKE = $(MAKE) --no-print-directory -s -C $(NGX_SRC) \
           -f $(OUT)/nginx/Makefile CC="$(CC) $(X)" LINK="$(CC) $(X)"

$(STAMP): FORCE
	@mkdir -p $(@D)
	@{ nginx -v 2>&1; echo "$(CC)"; \
	   cat config tools/page src/module/page.html; \
	   ls src/module/*.[ch] src/zone/*.[ch]; } >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(B)/nginx/Makefile: $(STAMP)
	@echo "  configure  $(NGX_SRC)"
	@bash -c '. $(NGX_SRC)/conf_flags && cd $(NGX_SRC) && \
	    ./configure --builddir=$(OUT)/nginx "$${NGX_CONF_FLAGS[@]}" \
	        --with-cc=$(CC) --with-cc-opt="-std=gnu11 -O2 -g" \
	        --add-dynamic-module=$(ROOT)' >$(B)/nginx/configure.log 2>&1 \
	    || { tail -n 20 $(B)/nginx/configure.log; rm -f $@; exit 1; }
	@touch $@

$(MODULE): $(B)/nginx/Makefile FORCE
	@+$(NGX_MAKE) modules
	@cmp -s $(B)/nginx/$(@F) $@ || { echo "  module     $@"; \
	    cp $(B)/nginx/$(@F) $@.tmp && mv $@.tmp $@; }


$(B)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  cc         $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(WORKER): $(WORKER_OBJ) $(ZONE_OBJ)
	@echo "  link       $@"
	@$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

# Each file of t/unit is one program that prints TAP.
$(B)/unit/%: t/unit/%.c $(ZONE_OBJ) Makefile
	@mkdir -p $(@D)
	@echo "  cc         $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -o $@ $< $(ZONE_OBJ) $(LDLIBS)

# Those of the worker have all of it but its main().
$(B)/unit/worker/%: t/unit/worker/%.c $(WORKER_OBJ) $(ZONE_OBJ) Makefile
	@mkdir -p $(@D)
	@echo "  cc         $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -o $@ $< \
	    $(filter-out %/offloadd.o,$(WORKER_OBJ)) $(ZONE_OBJ) $(LDLIBS)

# A failing disk for the tests; the same in all variants.
$(DISK): $(wildcard t/disk/*.[ch]) Makefile
	@mkdir -p $(@D)
	@echo "  link       $@"
	@$(CC) -D_GNU_SOURCE $(filter-out $(X),$(CFLAGS)) -fPIC -shared -o $@ \
	    $(filter %.c,$^)

-include $(ZONE_OBJ:.o=.d) $(WORKER_OBJ:.o=.d) $(UNITS:=.d)


## asan         the same under ASan and UBSan, into build/asan/
asan:
	@ASAN_OPTIONS=detect_leaks=0 $(MAKE) --no-print-directory \
	    B=build/asan CC=gcc X="$(SAN_FLAGS) -DOFFLOAD_FAILPOINTS" all

## failpoints   the same with named places to die at, into build/failpoints/
failpoints:
	@$(MAKE) --no-print-directory B=build/failpoints \
	    X="-DOFFLOAD_FAILPOINTS" all


# Each installs what it lacks and says so; nothing is done when all is there.

## demo         installs what is missing, builds, and shows the main job
demo:
	@tools/setup demo
	@$(MAKE) --no-print-directory build
	@examples/demo/run

## demo-stop    ends what `make demo` left running
demo-stop:
	@examples/demo/run stop

## test         the whole suite; TESTS="t/accept.t" for a part of it
test:
	@tools/setup test
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory failpoints
	@prove -j2 $(TESTS)

## storm        random kills under load: OFFLOAD_STORM=600 seconds of them
storm:
	@tools/setup test
	@$(MAKE) --no-print-directory build units
	@OFFLOAD_STORM=$${OFFLOAD_STORM:-600} prove -v t/storm.t

## test-asan    the suite with the module, offloadd and units under ASan, UBSan
test-asan:
	@tools/setup test
	@$(MAKE) --no-print-directory asan
	@OFFLOAD_BUILD=build/asan prove -j2 $(TESTS)

## mutants      leaves out one step at a time: each time a test must fail
mutants:
	@tools/setup test
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory failpoints
	@OFFLOAD_MUTANTS=all prove -v t/mutants.t

## bench        the benchmarks, with a table at the end
bench:
	@tools/setup bench
	@$(MAKE) --no-print-directory build
	@t/bench/run

## lint         layers, line and file lengths, directives, static analysis
lint:
	@tools/setup lint
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory B=build/clang CC=clang all
	@tools/lint

## install      to PREFIX (/usr) below DESTDIR
install: build
	@modules=$$(bash -c '. $(NGX_SRC)/conf_flags && \
	    printf "%s\n" "$${NGX_CONF_FLAGS[@]}"' \
	    | sed -n 's/^--modules-path=//p'); \
	echo "  install    $(DESTDIR)$$modules/$(notdir $(MODULE))"; \
	install -D -m 0644 $(MODULE) \
	    $(DESTDIR)$$modules/$(notdir $(MODULE)); \
	echo "  install    $(DESTDIR)$(PREFIX)/sbin/offloadd"; \
	install -D -m 0755 $(WORKER) $(DESTDIR)$(PREFIX)/sbin/offloadd

## clean        removes build/
clean:
	rm -rf build

## help         this list
help:
	@echo "usage: make [target]"; echo
	@sed -n 's/^## /  /p' Makefile

FORCE:
