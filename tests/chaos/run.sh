#!/bin/sh
# Disturbs real processes of the release build, and judges every answer meanwhile: both shapes, half of the time each. Prints the
# seed; with it the same is done again. Ends with 1 as soon as an answer is wrong, something acknowledged is lost, or answers do
# not come back.
#
#   tests/chaos/run.sh [--seed N] [--minutes N] [--shape up|roles] [--only PART-OF-A-NAME]   (--help, --list)
#
# TIDEMARK_BIN   another program to disturb
set -eu
cd "$(dirname "$0")/../.."
scripts/install-for-tests.sh redis-server cc=gcc
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export TIDEMARK_BIN="${TIDEMARK_BIN:-$TARGET/release/tidemark}"
exec cargo run --quiet --release --locked -p tidemark-chaos -- "$@"
