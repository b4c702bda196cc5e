# One command each; `make` alone lists them. There is one cargo profile (release) for build, tests and benches, so that
# RocksDB is compiled once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The last one gets the whole machine: never two cargo runs at a time.
.NOTPARALLEL:
.PHONY: help setup build demo test test-vllm test-under-load gpu-check lint bench docs clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'

setup: ## Install the system packages that are missing (asks sudo when not root)
	@make/setup.sh

build: setup ## Build the daemon, the command line and everything else
	@make/beat.sh "build" cargo build --release --workspace --locked --all-targets

demo: setup ## Start a daemon in .kvtier/demo, replay a real trace, show the figures, stop
	@make/demo.sh

test: setup ## Build and run every test
	@make/test.sh

test-vllm: setup ## Run the full matrix of tests with a real vLLM (about an hour on two cores)
	@make/beat.sh "build" cargo build --release --workspace --locked --bins
	make/vllm.sh
	make/vllm.sh -m full -s

test-under-load: build ## Run the workspace's tests while others want the cores and the disk: what is raced fails here
	make/under-load.sh cargo test --release --workspace --locked --no-fail-fast

gpu-check: setup ## Build the bundle that verifies the HBM tier on a GPU, prove it on the simulated device, run it if there is a GPU
	make/gpu-check.sh

lint: setup ## Check formatting and lints
	@make/lint.sh

bench: setup ## Run every benchmark, into .kvtier/bench (wants a quiet machine; says how long each took)
	@make/beat.sh "build" cargo build --release --workspace --locked --bins
	mkdir -p .kvtier/bench
	target/release/kvtier-bench --output .kvtier/bench/canonical.md --html .kvtier/bench/canonical.html
	for part in grpc durable nvme recovery local cold mixed; do \
		begun=$$SECONDS; target/release/kvtier-bench $$part --out .kvtier/bench/$$part.md; echo "$$part took $$((SECONDS - begun)) s"; \
	done

docs: ## Write the generated documents anew
	@make/beat.sh "build" cargo build --release --workspace --locked --bins
	target/release/kvtierd settings --format markdown > docs/operating/settings.md

clean: ## Remove what demo left behind (not the build)
	rm -rf .kvtier
