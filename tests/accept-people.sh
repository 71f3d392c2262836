#!/bin/sh
# What the side towards people must show: live push, the same sixty questions by every door, permalinks, explanations, the described
# interface, clients, the doctor, and the dashboard. Prints what it saw, and fails if an answer is wrong.
# About twelve minutes, and what building takes.
set -eu
cd "$(dirname "$0")/.."
scripts/install-for-tests.sh redis-server promtool=prometheus chromium script=bsdutils python3
scripts/python-for-tests.sh
scripts/dashboard.sh
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TIDEMARK_BIN="$TARGET/release/tidemark"
cargo build --release --locked
cargo test --quiet --release --locked -p tidemark-tests --test it -- live:: asking:: prometheus:: permalinks:: explain:: openapi:: client:: \
  dialects:: doctor:: --include-ignored --nocapture --test-threads 1
tests/dashboard/run.sh --whole
