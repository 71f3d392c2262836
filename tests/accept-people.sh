#!/bin/sh
# What the side towards people must show, as far as it is built: the dashboard and live push. Prints what it saw, and fails if an answer is wrong.
# About seven minutes, and what building takes.
set -eu
cd "$(dirname "$0")/.."
scripts/install-for-tests.sh redis-server chromium
scripts/dashboard.sh
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TIDEMARK_BIN="$TARGET/release/tidemark"
cargo build --release --locked
cargo test --quiet --release --locked -p tidemark-tests --test it live -- --include-ignored --nocapture --test-threads 1
cargo test --quiet --release --locked -p tidemark-tests --test it asking -- --nocapture --test-threads 1
tests/dashboard/run.sh --whole
