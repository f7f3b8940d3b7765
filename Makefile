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

demo: build
	DEMO=$(DEMO) tests/demo.sh target/debug $(DEMO_VMS)

test: fmt clippy
	$(CARGO) test --workspace

# Random operations and faults for SECONDS, from SEED on: see tests/it/model.
SECONDS ?= 600
SEED ?= 1000
soak:
	MODEL_SECONDS=$(SECONDS) MODEL_SEED=$(SEED) $(CARGO) test --test it \
	    whatever_happens -- --nocapture

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

# The Rust for illumos; the C needs that system's headers.
check-illumos:
	VMINFOD_SKIP_C=1 $(CARGO) clippy --package vminfod --lib --bins \
	    --target x86_64-unknown-illumos -- -D warnings

clean:
	$(CARGO) clean

.PHONY: all build release deps demo test soak clients mutants bench interleavings deps-fuzz fuzz fmt clippy check-illumos clean
