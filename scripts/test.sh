#!/usr/bin/env bash
# What CI runs: the checks, then every test with the real engines. `scripts/setup.sh` has run before.
# The profile `ci` of Cargo.toml switches the invariants on; tests that need the program find it at TIDEMARK_BIN.
set -euo pipefail
cd "$(dirname "$0")/.."

TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TIDEMARK_BIN=$TARGET/ci/tidemark

# As many tests as servers, see tests/it/src/slots.rs.
RUST_TEST_THREADS=$(($(nproc) * 3 / 2))
export RUST_TEST_THREADS

source scripts/phase.sh

# Downloads wait for the network, so they run while the checks compile.
fetch() {
  scripts/install-for-tests.sh redis-server promtool=prometheus chromium script=bsdutils python3
  scripts/python-for-tests.sh
  for tests in compose dashboard kubernetes node oidc; do scripts/node-for-tests.sh "tests/$tests"; done
}
# All but the targets that are called `it`: the program of tests/it, and two small ones. The glob leaves those out. The same
# packages are selected for both parts, so that their features are the same and nothing is compiled again.
others() {
  tests/compose/run.sh
  tests/kubernetes/run.sh
  tests/prometheus/run.sh
  tests/dashboard/run.sh
  scripts/kafka-for-tests.sh cargo test --workspace --profile ci --locked --no-fail-fast --lib --bins --test '[!i]*'
  cargo test --workspace --profile ci --locked --doc
  # Always the same, and what is over within seconds: under two minutes.
  "$TARGET/ci/chaos" --short --minutes 0.7 --seed 22
}

in_background "what tests need" fetch
scripts/check.sh --deny=if-installed
# Programs and tests together: separately, features differ, and half of the crates would be compiled twice.
phase "build" cargo build --workspace --bins --tests --profile ci --locked
await "what tests need"
in_background "other tests" others
phase "tests of the program" cargo test --workspace --profile ci --locked --no-fail-fast --test it
await "other tests"
printf '\n==> all: %d s\n' "$SECONDS"
