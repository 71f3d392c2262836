# The doors to everything here; the work itself is in scripts/. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup build up test check bench bench-micro bench-compare accept-main accept-speed accept-scale accept-replay accept-people

# Further words for the program: make up ARGS="--listen 127.0.0.1:9000"
ARGS ?=
TIDEMARK := $(or $(CARGO_TARGET_DIR),target)/release/tidemark

help: ## what can be made
	@awk -F ':[^#]*## ' '/^[a-z-]+:[^#]*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: packages, Kafka's jars, the ClickHouse engine
	@scripts/setup.sh

build: ## the program, optimized: target/release/tidemark
	cargo build --release --locked

up: setup build ## build and start everything with a sample stream of real flights; Ctrl-C stops it
	@exec $(TIDEMARK) up --demo $(ARGS)

test: setup ## what CI runs: the checks, then every test with the real engines (under 40 minutes on 2 cores)
	scripts/test.sh

check: ## format, dependency policy, lints, documents: before every commit
	scripts/check.sh

bench: setup build ## what each part does alone, how long queries take, how soon events are counted; what that makes of machines
	$(TIDEMARK) bench speed $(ARGS)
	$(TIDEMARK) bench batch $(ARGS)
	$(TIDEMARK) bench ingest $(ARGS)
	$(TIDEMARK) bench query $(ARGS)
	$(TIDEMARK) bench latency
	$(TIDEMARK) bench restart $(ARGS)
	$(TIDEMARK) bench plan

bench-micro: ## functions alone, without engines: decode, apply, plan, merge (ARGS="--baseline NAME", see Criterion)
	cargo bench --locked -p tidemark-core -p tidemark-speed-layer -p tidemark-serving --bench decode --bench apply --bench answer \
	  -- --warm-up-time 1 --measurement-time 3 $(ARGS)

bench-compare: setup build ## the speed layer beside Kafka Streams, Flink and librdkafka alone, on one topic (ARGS="--events 5000000")
	@scripts/bench-compare.sh $(ARGS)

accept-main: setup build ## everything that the main job must show, as a table (longer than the tests)
	tests/accept-main.sh

accept-speed: setup build ## how fast everything must be, and is: target and result side by side
	tests/accept-speed.py

accept-scale: setup build ## every role in processes of its own, killed, scaled and cut off: answers judged, freshness measured
	tests/accept-scale.sh

accept-replay: setup build ## three million events counted anew under load, killed, compared; a topic published again
	tests/accept-replay.sh

accept-people: setup build ## live push, sixty questions by every door, permalinks, clients, the doctor, the dashboard in a browser
	tests/accept-people.sh
