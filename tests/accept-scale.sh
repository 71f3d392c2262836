#!/bin/sh
# What the scaled-out shape must show, on this machine: three Kafka brokers, the ClickHouse engine, Redis, and every role
# in processes of its own; and an upgrade from the version before. Prints what it saw, and fails if an answer is wrong or
# freshness too low. About eight minutes, and two builds.
#
#   tests/accept-scale.sh          TIDEMARK_ANSWERS (5000) answers are judged at least;
#                                  the version before is TIDEMARK_BEFORE (a program), else built from the commit below
set -eu
cd "$(dirname "$0")/.."
BEFORE=8d22f96
scripts/install-for-tests.sh redis-server
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TIDEMARK_BIN="$TARGET/release/tidemark" TIDEMARK_BEFORE="${TIDEMARK_BEFORE:-$TARGET/before/$BEFORE}"
if [ ! -x "$TIDEMARK_BEFORE" ]; then
  # In the same target directory, so that what both are made of is compiled once; the program goes aside, and ours is made last.
  SOURCE=$(mktemp -d)
  trap 'git worktree remove --force "$SOURCE"' EXIT
  git worktree add --quiet --detach "$SOURCE" "$BEFORE"
  (cd "$SOURCE" && CARGO_TARGET_DIR="$TARGET" cargo build --release --locked)
  mkdir -p "$TARGET/before"
  cp "$TIDEMARK_BIN" "$TIDEMARK_BEFORE"
fi
cargo build --release --locked
cargo test --quiet --release --locked -p tidemark-tests --test it scaled -- --include-ignored --nocapture --test-threads 1
