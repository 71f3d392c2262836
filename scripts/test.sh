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
  for tests in compose dashboard kubernetes node; do scripts/node-for-tests.sh "tests/$tests"; done
}
# The files of deploy/ and docker-compose.yml.
deployments() {
  tests/compose/run.sh
  tests/kubernetes/run.sh
  tests/prometheus/run.sh
}

in_background "what tests need" fetch
scripts/check.sh --deny=if-installed
# Programs and tests together: separately, features differ, and half of the crates would be compiled twice.
phase "build" cargo build --workspace --bins --tests --profile ci --locked
await "what tests need"
in_background "deployments" deployments
in_background "dashboard in a browser" tests/dashboard/run.sh
phase "tests" scripts/kafka-for-tests.sh cargo test --workspace --profile ci --locked --no-fail-fast
await "deployments"
await "dashboard in a browser"
printf '\n==> all: %d s\n' "$SECONDS"
