# The front of everything. `make` lists the targets; ARGS="…" passes arguments on.

ARGS ?=
FILES ?=
SECONDS ?= 60
SEED ?=

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: build ## run the shop on real baskets, without Kafka or MySQL (ARGS="--orders 500 --exit")
	bin/millstream demo $(ARGS)

build: ## build the release program and link it as bin/millstream
	@scripts/build

test: ## run every test, with a Kafka and a MariaDB of its own (ARGS="-p millstream-state")
	@scripts/test $(ARGS)

conformance: ## compare with Kafka Streams, scenario by scenario (FILES="a.jsonl b.jsonl")
	@scripts/bootstrap build
	cargo run --quiet --package millstream-conformance -- $(FILES)

chaos: ## run three shops under load and random faults, then verify (SECONDS=600 SEED=7)
	@scripts/chaos $(SECONDS) $(SEED)

lint: ## check formatting, lints and the rules of the tree
	@scripts/lint

bench: ## run the micro-benchmarks (ARGS="filter")
	@scripts/bootstrap build
	cargo bench --package millstream-benches $(ARGS)

.PHONY: help demo build test conformance chaos lint bench
