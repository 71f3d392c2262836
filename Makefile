# Developer entry points; scripts/ does the work. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup packages engines dashboard build dist up test check bench bench-micro bench-compare \
	chaos accept-main accept-speed accept-scale accept-replay accept-people

# Further arguments of the program: make up ARGS="--listen 127.0.0.1:9000"
ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
TIDEMARK := $(TARGET)/release/tidemark
# Optimized across crates, which takes longer to compile: for measurements and for packages.
DIST := $(TARGET)/dist/tidemark

help: ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:[^#]*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: packages, Kafka's jars, the ClickHouse engine
	@scripts/setup.sh

packages:
	@scripts/setup.sh packages

engines: packages
	@scripts/setup.sh engines

dashboard: packages ## build the dashboard, which the program embeds: needed once before plain `cargo build`
	@scripts/setup.sh dashboard

build: dashboard ## compile the program: target/release/tidemark
	@scripts/build.sh release

dist: dashboard ## compile the program as it is packaged: target/dist/tidemark
	@scripts/build.sh dist

up: ## build and start everything with a sample stream of real flights; Ctrl-C stops it
	@$(MAKE) --no-print-directory --jobs=2 engines build
	@exec $(TIDEMARK) up --demo $(ARGS)

test: setup ## run what CI runs: the checks, then every test with the real engines (under 25 minutes on 2 cores)
	scripts/test.sh

check: ## check format, dependency policy, lints and documents: before every commit
	scripts/check.sh

bench: setup dist ## measure each part alone, query latency, freshness, and the machines that follow from them
	$(DIST) bench speed $(ARGS)
	$(DIST) bench batch $(ARGS)
	$(DIST) bench ingest $(ARGS)
	$(DIST) bench query $(ARGS)
	$(DIST) bench latency
	$(DIST) bench restart $(ARGS)
	$(DIST) bench plan

bench-micro: ## measure functions alone, without engines: decode, apply, plan, merge (ARGS="--baseline NAME", see Criterion)
	cargo bench --locked -p tidemark-core -p tidemark-speed-layer -p tidemark-serving --bench decode --bench apply --bench answer \
	  -- --warm-up-time 1 --measurement-time 3 $(ARGS)

bench-compare: setup dist ## measure the speed layer next to Kafka Streams, Flink and librdkafka alone, on one topic (ARGS="--events 5000000")
	@scripts/bench-compare.sh $(ARGS)

chaos: setup build ## disturb real processes for 30 minutes and judge every answer (ARGS="--seed 7 --minutes 5 --shape up")
	@tests/chaos/run.sh $(ARGS)

accept-main: setup build ## everything that the main job must show, as a table (longer than the tests)
	tests/accept-main.sh

accept-speed: setup dist ## how fast everything must be, and is: target and result side by side
	tests/accept-speed.py

accept-scale: setup build ## every role in processes of its own, killed, scaled and cut off: answers judged, freshness measured
	tests/accept-scale.sh

accept-replay: setup build ## three million events counted anew under load, killed, compared; a topic published again
	tests/accept-replay.sh

accept-people: setup build ## live push, sixty questions by every door, permalinks, clients, the doctor, the dashboard in a browser
	tests/accept-people.sh
