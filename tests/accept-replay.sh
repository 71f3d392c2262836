#!/bin/sh
# What replay must show, on this machine: three million events counted anew under load, a rebuild and an added view killed at
# thirty moments each, a difference found, half of the topic removed, and topics, files and raw history published again.
# Prints what it saw, and fails if an answer is wrong. About 25 minutes, and what building takes.
set -eu
cd "$(dirname "$0")/.."
scripts/install-for-tests.sh redis-server
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TIDEMARK_BIN="$TARGET/release/tidemark"
cargo build --release --locked
cargo test --quiet --release --locked -p tidemark-tests --test it rebuild -- --include-ignored --nocapture --test-threads 1
cargo test --quiet --release --locked -p tidemark-tests --test it publish -- --include-ignored --nocapture --test-threads 1
