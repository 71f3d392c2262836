#!/usr/bin/env bash
# Fuzzes each target (or those named) for so many executions, on what the last run has found to be interesting.
#
#   tests/fuzz/run.sh [TARGET…]     TIDEMARK_FUZZ_RUNS (10000000) executions each
#
# Takes a nightly compiler and cargo-fuzz; both are installed if they are missing. Inputs that reach new code are kept in
# tests/fuzz/corpus/TARGET; `cargo fuzz cmin` makes them fewer. A finding is in tests/fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")"

RUNS=${TIDEMARK_FUZZ_RUNS:-10000000}
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz@0.13.1
rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(cargo +nightly fuzz list --fuzz-dir .)
for target in "${targets[@]}"; do
  mkdir -p "corpus/$target"
  cargo +nightly fuzz run --fuzz-dir . "$target" -- -runs="$RUNS" -max_len=4096 -print_final_stats=1 2>"$target.log" ||
    { tail -n 40 "$target.log"; exit 1; }
  printf '%s: %s\n' "$target" "$(grep -E 'stat::number_of_executed_units' "$target.log")"
done
