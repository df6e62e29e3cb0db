# `make demo` trains and judges SimCLR on a built-in data set; `make test` tests everything; `make` lists the rest.
SHELL := /bin/bash
CARGO := cargo
PROFILE := --release --locked

.PHONY: help libtorch cuda build demo test format lint unit doc bench bench-quick bench-accuracy learns fuzz third-party clean

help:
	@echo "make demo    get libtorch, build, pre-train SimCLR on synthetic:scenes, judge it, write the report"
	@echo "make test    format, lints, tests, documentation"
	@echo "make build   the program: target/release/diptych"
	@echo "make cuda    the CUDA libraries for training on an NVIDIA GPU"
	@echo "make bench   speed and memory beside the peer, the limit, every piece: an hour and a half; CIFAR10=DIR PHOTOGRAPHS=DIR PEER_PYTHON=FILE"
	@echo "make bench-quick     small runs of all of these, to see that they work: 5 minutes"
	@echo "make bench-accuracy  what three seeds learn, beside the peer: 75 minutes"
	@echo "make learns  whether every method learns, and what plug-ins add: hours, goes on where it was; CIFAR10=DIR"
	@echo "make fuzz    damaged inputs for every reader of files, a minute each (nightly Rust)"
	@echo "make third-party  THIRD_PARTY.md anew, after Cargo.lock or a pinned wheel changed"

libtorch:
	@scripts/libtorch.sh

cuda: libtorch
	@scripts/cuda.sh

build: libtorch
	$(CARGO) build $(PROFILE)

demo: build
	@scripts/demo.sh

test: format lint unit doc

format:
	$(CARGO) fmt --all --check

lint: libtorch
	$(CARGO) clippy $(PROFILE) --all-targets -- -D warnings

unit: libtorch
	$(CARGO) test $(PROFILE) --no-fail-fast

doc: libtorch
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(PROFILE) --no-deps

bench: build
	@CIFAR10="$(CIFAR10)" PHOTOGRAPHS="$(PHOTOGRAPHS)" PEER_PYTHON="$(PEER_PYTHON)" scripts/bench.sh

bench-quick: build
	@CIFAR10="$(CIFAR10)" PHOTOGRAPHS="$(PHOTOGRAPHS)" PEER_PYTHON="$(PEER_PYTHON)" scripts/bench.sh --quick

bench-accuracy: build
	@CIFAR10="$(CIFAR10)" PEER_PYTHON="$(PEER_PYTHON)" scripts/bench.sh accuracy

learns: build
	@CIFAR10="$(CIFAR10)" $(CARGO) bench --locked --quiet --profile release --bench learns

fuzz: libtorch
	@scripts/fuzz.sh

third-party:
	@scripts/third_party.sh

clean:
	$(CARGO) clean
