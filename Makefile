# vminfod: see README.md. `make test` is what has to pass.

CARGO ?= cargo
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

# What tests need beyond Rust, gcc and make.
deps:
	tests/deps.sh target/tools
	rustup target add x86_64-unknown-illumos
	rustup component add rustfmt clippy
	rustup toolchain install $(MSRV) --profile minimal
	[ -x $(CARGO_DENY) ] || $(CARGO) install cargo-deny --locked \
	    --version $(CARGO_DENY_VERSION) --root target/tools

# Lays the release out below DESTDIR, by package/manifest. PROGRAM is what was
# built for the system that it is for.
PROGRAM ?= target/release/vminfod
install: $(if $(filter target/release/vminfod,$(PROGRAM)),release)
	@[ -n "$(DESTDIR)" ] || { echo "DESTDIR=/ installs into this system"; exit 1; }
	package/install.sh "$(PROGRAM)" "$(DESTDIR)"

# A tarball of what is installed: the same sources give the same. On illumos,
# TAR=gtar.
TAR ?= tar
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
package: $(if $(filter target/release/vminfod,$(PROGRAM)),release)
	rm -rf target/package
	package/install.sh "$(PROGRAM)" target/package/image
	sed -n 's/^[dfs] \([^ =]*\).*/\1/p' package/manifest > target/package/list
	$(TAR) --create --directory target/package/image --no-recursion \
	    --files-from $(CURDIR)/target/package/list --owner root:0 \
	    --group bin:2 --mtime @0 --file target/package/vminfod-$(VERSION).tar
	gzip -n -9 target/package/vminfod-$(VERSION).tar
	$(TAR) --list --verbose --file target/package/vminfod-$(VERSION).tar.gz

# Licences, sources and doubles of the crates, by deny.toml.
CARGO_DENY_VERSION = 0.20.2
CARGO_DENY = target/tools/bin/cargo-deny
deny:
	$(CARGO_DENY) --all-features check bans licenses sources

# Their known faults: needs the network.
audit:
	$(CARGO_DENY) --all-features check advisories

# The least Rust that builds it.
MSRV = 1.88
msrv:
	grep -q '^rust-version = "$(MSRV)"' Cargo.toml
	$(CARGO) +$(MSRV) check --workspace --all-targets --locked \
	    --target-dir target/msrv

demo: build
	DEMO=$(DEMO) tests/demo.sh target/debug $(DEMO_VMS)

test: fmt clippy
	$(CARGO) test --workspace

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
	target/release/bench $(BENCH)

# Whether docs/ARCHITECTURE.md is true of what it says to do.
walkthrough:
	tests/walkthrough.sh

# Every interleaving of a few threads at the queue and the hub.
interleavings:
	CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS="--cfg loom" $(CARGO) test \
	    --release --test interleavings --target-dir target/loom \
	    $(INTERLEAVINGS)

# What `make fuzz` needs besides: a nightly compiler, and a C++ compiler.
deps-fuzz:
	rustup toolchain install nightly --profile minimal
	$(CARGO) install cargo-fuzz --locked

# Each parser for FUZZ_SECONDS on whatever the fuzzer thinks up: see fuzz/.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= zonexml sysevent zoneadm zfs kstat http diff
fuzz:
	cd fuzz && for target in $(FUZZ_TARGETS); do \
	    mkdir -p corpus/$$target && \
	    $(CARGO) +nightly fuzz run $$target corpus/$$target \
	        seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# The Rust for illumos, and the C by the event-port API as c/illumos has it;
# of the C library, which is POSIX there too, by this system's headers.
CLANG ?= clang
MULTIARCH = $(shell gcc -print-multiarch)
check-illumos:
	VMINFOD_SKIP_C=1 $(CARGO) clippy --package vminfod --lib --bins \
	    --target x86_64-unknown-illumos -- -D warnings
	$(CLANG) --target=x86_64-pc-solaris2.11 -fsyntax-only -std=gnu11 \
	    -Wall -Wextra -Werror -D_GNU_SOURCE -Ic/illumos \
	    -isystem /usr/include/$(MULTIARCH) -isystem /usr/include c/fswatch.c c/spawn.c

clean:
	$(CARGO) clean

.PHONY: all build release deps install package deny audit msrv walkthrough demo test soak clients mutants bench interleavings deps-fuzz fuzz fmt clippy check-illumos clean
