# The two commands are `make run` and `make test`; `make help` lists the rest.

SHELL := /bin/sh
TOOLCHAIN := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
PLUGIN_TARGET := wasm32-wasip2
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Plugins are small: optimised as a whole they are about a fifth faster.
PLUGIN_BUILD := CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
	cargo build --release --locked --target $(PLUGIN_TARGET)
PLUGINS := nba-scoring box-score
TEST_PLUGINS := $(PLUGINS) misbehaving miscounting
RUN_DIR ?= run
LISTEN ?= 127.0.0.1:8080
FUZZ_SECONDS ?= 1800

.PHONY: help run test unit build fmt lint check doc hygiene advisories toolchain host plugins test-plugins browser-test bench fuzz release package clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

run: build $(RUN_DIR)/plugins.d/scores/default.wasm ## build everything and start a host
	$(TARGET_DIR)/release/courtside serve --listen $(LISTEN) \
		--data-dir $(RUN_DIR)/data --plugin-dir $(RUN_DIR)/plugins.d

# A plugin that is there stays: it may be yours.
$(RUN_DIR)/plugins.d/scores/default.wasm:
	mkdir -p $(@D)/keys
	cp $(TARGET_DIR)/$(PLUGIN_TARGET)/release/nba_scoring.wasm $@.new
	mv $@.new $@

build: host plugins ## release/courtside and the plugins' .wasm, in the target directory

host: toolchain
	cargo build --release --locked -p courtside

plugins: toolchain
	$(PLUGIN_BUILD) $(PLUGINS:%=-p %)

test-plugins: toolchain
	$(PLUGIN_BUILD) $(TEST_PLUGINS:%=-p %)

test: toolchain test-plugins ## every test
	cargo build --locked --workspace --bins --tests
	@tests/kafka/skipped
	cargo test --locked --workspace $$(tests/kafka/skipped --filter)
	@tests/docs/check
	@tests/deploy/run
	@tests/deploy/manifests
	@tests/deploy/monitoring
	@tests/deploy/release
	@tests/browser/run
	@tests/openapi/run
	@tests/kafka/skipped

unit: toolchain ## the unit tests that need no brokers; FILTER=worker::position runs some
	cargo test --locked --workspace --lib $(FILTER) -- --skip kafka::tests --skip kafka_engine

fmt: toolchain ## bring the code into its form
	cargo fmt --all

lint: toolchain ## what the linter says
	cargo clippy --locked --workspace --all-targets -- -D warnings

check: hygiene lint doc ## formatting, lints, hygiene, and the code's own pages
	cargo fmt --all --check

hygiene: ## spelling, dependencies without a use, licences
	@tests/hygiene/run

advisories: ## known weaknesses of dependencies (asks RustSec's database on GitHub)
	@tests/hygiene/run advisories

doc: toolchain ## the code's own pages, in the target directory
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

bench: build ## the figures of docs/performance.md
	cargo bench --locked -p courtside
	@tests/browser/run speed

# What the builds need, each named where it is missing.
toolchain:
	@for tool in rustup cc c++ make perl; do \
		command -v $$tool >/dev/null || { echo "courtside needs $$tool, which is not installed" >&2; exit 1; }; \
	done
	@rustup target list --toolchain $(TOOLCHAIN) --installed 2>/dev/null | grep -qx $(PLUGIN_TARGET) \
		|| rustup toolchain install $(TOOLCHAIN) --profile minimal --component rustfmt,clippy --target $(PLUGIN_TARGET) \
		|| { echo "courtside needs Rust $(TOOLCHAIN) with the target $(PLUGIN_TARGET), which rustup could not install" >&2; exit 1; }

fuzz: plugins ## bodies of POST and files of plugins, FUZZ_SECONDS each (needs cargo-fuzz and a nightly toolchain)
	mkdir -p tests/fuzz/corpus/post tests/fuzz/corpus/plugin
	cp $(TARGET_DIR)/$(PLUGIN_TARGET)/release/nba_scoring.wasm tests/fuzz/corpus/plugin/
	cd tests/fuzz && cargo +nightly fuzz run -s none --fuzz-dir . post corpus/post seeds/post -- -max_total_time=$(FUZZ_SECONDS)
	cd tests/fuzz && cargo +nightly fuzz run -s none --fuzz-dir . plugin corpus/plugin seeds/plugin -- -max_total_time=$(FUZZ_SECONDS) -max_len=4194304

# Quoted, so that any version is one word.
release: ## VERSION=1.2.3: version, changelog, commit, tag, archive, image; DRY_RUN=1 only says what it would do
	@deploy/release $(if $(DRY_RUN),--dry-run) '$(VERSION)'

package: ## the archive and the image of the committed tree
	@deploy/package

clean: ## remove what was built, and what make run made
	cargo clean
	rm -rf $(RUN_DIR)
