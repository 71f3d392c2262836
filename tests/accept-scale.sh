#!/bin/sh
# What the scaled-out shape must show, on this machine: three Kafka brokers, the ClickHouse engine, Redis, and every role
# in processes of its own. Prints what it saw, and fails if an answer is wrong or freshness too low. About six minutes, and a build.
#
#   tests/accept-scale.sh          TIDEMARK_ANSWERS (5000) answers are judged at least
set -eu
cd "$(dirname "$0")/.."
scripts/install-for-tests.sh redis-server
export TIDEMARK_BIN="${CARGO_TARGET_DIR:-target}/release/tidemark"
TIDEMARK_BIN=$(realpath "$TIDEMARK_BIN")
cargo test --quiet --release --locked -p tidemark-tests --test it scaled -- --include-ignored --nocapture --test-threads 1
