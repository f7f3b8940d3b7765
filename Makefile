# vminfod: see README.md. `make test` is what has to pass.

CARGO ?= cargo
# Where cargo builds.
TARGET = $(or $(CARGO_TARGET_DIR),target)
# Programs for the tests that are not installed in the system.
PROGRAMS = $(TARGET)/programs
# What `make demo` lays out.
DEMO_VMS ?= 20
# DEMO=stay leaves the demo's daemon running.
DEMO ?=

all: build

# The program and the simulated host.
build:
	$(CARGO) build --workspace

release:
	$(CARGO) build --release --package vminfod

# Lays the release out below DESTDIR, by package/manifest. PROGRAM is what was
# built for the system that it is for; without it, it is built for this one.
PROGRAM ?=
RELEASE = $(or $(PROGRAM),$(TARGET)/release/vminfod)
install: $(if $(PROGRAM),,release)
	@[ -n "$(DESTDIR)" ] || { echo "DESTDIR=/ installs into this system"; exit 1; }
	package/install.sh "$(RELEASE)" "$(DESTDIR)"

# A tarball of what is installed: the same sources give the same. On illumos,
# TAR=gtar.
TAR ?= tar
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
package: $(if $(PROGRAM),,release)
	rm -rf "$(TARGET)/package"
	package/install.sh "$(RELEASE)" "$(TARGET)/package/image"
	sed -n 's/^[dfs] \([^ =]*\).*/\1/p' package/manifest \
	    > "$(TARGET)/package/list"
	cd "$(TARGET)/package/image" && $(TAR) --create --no-recursion \
	    --files-from ../list --owner root:0 --group bin:2 --mtime @0 \
	    --file ../vminfod-$(VERSION).tar
	gzip -n -9 "$(TARGET)/package/vminfod-$(VERSION).tar"
	$(TAR) --list --verbose --file "$(TARGET)/package/vminfod-$(VERSION).tar.gz"

# Licences, sources and doubles of the crates, by deny.toml.
CARGO_DENY_VERSION = 0.20.2
CARGO_DENY = "$(PROGRAMS)/bin/cargo-deny"
cargo-deny:
	[ -x $(CARGO_DENY) ] || $(CARGO) install cargo-deny --locked \
	    --version $(CARGO_DENY_VERSION) --root "$(PROGRAMS)"
deny: cargo-deny
	$(CARGO_DENY) --all-features check bans licenses sources

# Their known faults: needs the network.
audit: cargo-deny
	$(CARGO_DENY) --all-features check advisories

# The least Rust that builds it.
MSRV = 1.88
msrv:
	grep -q '^rust-version = "$(MSRV)"' Cargo.toml
	rustup toolchain install $(MSRV) --profile minimal
	$(CARGO) +$(MSRV) check --workspace --all-targets --locked \
	    --target-dir "$(TARGET)/msrv"

demo: build
	DEMO=$(DEMO) tests/demo.sh "$(TARGET)/debug" $(DEMO_VMS)

# All tests; first installs what they need, while they are built. Most of them
# wait more than they work, so there are more at a time than processors. LONG=1
# makes some of them try more cases. A test is skipped if a program that it
# needs can't be installed.
LONG ?=
RUST_TEST_THREADS ?= $(shell expr 3 '*' `nproc`)
SKIPPED = $(TARGET)/skipped-tests
test:
	@rm -f "$(SKIPPED)"
	tests/programs.sh "$(PROGRAMS)" & $(CARGO) test --workspace --no-run; wait
	LONG=$(LONG) RUST_TEST_THREADS=$(RUST_TEST_THREADS) $(CARGO) test --workspace
	@[ ! -e "$(SKIPPED)" ] || { cat "$(SKIPPED)"; \
	    echo "$$(wc -l < "$(SKIPPED)") tests were skipped"; }

# Random operations and faults for SECONDS, from SEED on: see tests/it/model.
SECONDS ?= 600
SEED ?= 1000
soak:
	MODEL_SECONDS=$(SECONDS) MODEL_SEED=$(SEED) $(CARGO) test --test it \
	    after_random_operations_and_faults -- --nocapture

# Real clients of the HTTP interface; wrk takes WRK_SECONDS for each of four.
WRK_SECONDS ?= 15
clients:
	WRK_SECONDS=$(WRK_SECONDS) $(CARGO) test --test it clients:: -- --nocapture

# Plants bugs, and sees whether the tests find them: see tests/mutants.
mutants:
	tests/mutants/run.sh $(MUTANTS)

# What the daemon costs: docs/PERFORMANCE.md. Takes ten minutes, and the
# machine for itself; BENCH='--only 3,4' measures only these rows.
BENCH ?= --plots docs/performance
bench:
	$(CARGO) build --release --workspace
	"$(TARGET)/release/bench" --programs "$(TARGET)/release" $(BENCH)

# Whether docs/ARCHITECTURE.md is true of what it says to do.
walkthrough:
	tests/walkthrough.sh

# Every interleaving of a few threads at the queue and the hub.
interleavings:
	CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS="--cfg loom" $(CARGO) test \
	    --release --test interleavings --target-dir "$(TARGET)/loom" \
	    $(INTERLEAVINGS)

# Each parser for FUZZ_SECONDS on whatever the fuzzer thinks up: see fuzz/. It
# needs a C++ compiler, and installs a nightly Rust and cargo-fuzz.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= zonexml sysevent zoneadm zfs kstat http diff
fuzz:
	rustup toolchain install nightly --profile minimal
	[ -x "$(PROGRAMS)/bin/cargo-fuzz" ] || $(CARGO) install cargo-fuzz \
	    --locked --root "$(PROGRAMS)"
	export PATH="$$(realpath "$(PROGRAMS)")/bin:$$PATH"; cd fuzz && for target in $(FUZZ_TARGETS); do \
	    mkdir -p corpus/$$target && \
	    $(CARGO) +nightly fuzz run $$target corpus/$$target \
	        seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

# Takes the pictures of README again.
pictures: build
	tests/programs.sh "$(PROGRAMS)" tmux vminfod-validator
	"$(PROGRAMS)/python/bin/pip" install --quiet rich==14.0.0
	mkdir -p docs/pictures
	tests/pictures.sh "$(TARGET)/debug" "$(PROGRAMS)/python/bin/python3" docs/pictures

# Writes the properties of VMs into docs/openapi.yaml.
schema:
	SCHEMA=write $(CARGO) test --quiet --test it \
	    the_schema_has_the_properties_of_the_table

# The form of the code, and what clippy finds in it.
lint:
	rustup component add rustfmt clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The client library: its documentation, and what would be published.
client-crate:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --package vminfod-client --no-deps
	$(CARGO) package --package vminfod-client --allow-dirty

# The Rust for illumos, and the C by the event-port API as c/illumos has it;
# of the C library, which is POSIX there too, by this system's headers.
CLANG ?= clang
MULTIARCH = $(shell gcc -print-multiarch)
check-illumos:
	rustup target add x86_64-unknown-illumos
	tests/programs.sh "$(PROGRAMS)" $(CLANG)
	VMINFOD_SKIP_C=1 $(CARGO) clippy --package vminfod --lib --bins \
	    --target x86_64-unknown-illumos -- -D warnings
	$(CLANG) --target=x86_64-pc-solaris2.11 -fsyntax-only -std=gnu11 \
	    -Wall -Wextra -Werror -D_GNU_SOURCE -Ic/illumos \
	    -isystem /usr/include/$(MULTIARCH) -isystem /usr/include c/fswatch.c c/spawn.c

clean:
	$(CARGO) clean

.PHONY: all build release install package client-crate cargo-deny deny audit msrv walkthrough demo test soak clients mutants bench interleavings fuzz pictures schema lint check-illumos clean
