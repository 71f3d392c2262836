#!/usr/bin/env bash
# What CI runs: the checks, then every test with the real engines. `scripts/setup.sh` has run before.
# The profile `ci` is the release profile with the invariants switched on; tests that need the program find it at TIDEMARK_BIN.
set -euo pipefail
cd "$(dirname "$0")/.."

TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TIDEMARK_BIN=$TARGET/ci/tidemark

scripts/check.sh --deny=if-installed

source scripts/phase.sh
phase "what tests need" scripts/install-for-tests.sh redis-server promtool=prometheus chromium script=bsdutils python3
phase "Python for tests" scripts/python-for-tests.sh
# Programs and tests at once: apart, features differ, and half of the crates would be compiled twice.
phase "build" cargo build --workspace --bins --tests --profile ci --locked
phase "compose files" tests/compose/run.sh
phase "deploy/kubernetes" tests/kubernetes/run.sh
phase "alerts" tests/prometheus/run.sh
phase "dashboard in a browser" tests/dashboard/run.sh
phase "tests" scripts/kafka-for-tests.sh cargo test --workspace --profile ci --locked --no-fail-fast
printf '\n==> all: %d s\n' "$SECONDS"
