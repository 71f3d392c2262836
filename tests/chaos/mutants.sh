#!/usr/bin/env bash
# Shows that a broken build is found: applies a mutation of the simulator to a copy of the workspace, builds the program, and expects
# the chaos run to fail. Prints a table; ends with 1 if fewer than MUST are caught. Hours, if none is.
#
#   tests/chaos/mutants.sh [NAME…]     these mutations only
#
# TIDEMARK_CHAOS_MINUTES (30) is tried for each, both shapes. CARGO_TARGET_DIR is used if set.
set -euo pipefail

MUST=10
# Those that break what the built program does: the others break only the twin of the engine, or a race that takes thousands of tries.
MUTATIONS=(close-without-comparing commit-before-insert drop-the-segment-before-reconciling duplicates-of-this-epoch-only
  history-unfiltered-by-the-mark late-events-by-time lost-position-begins-below-the-mark mark-one-too-far
  no-lookback-after-a-restart permalink-takes-its-last-epoch-whole take-silence-for-an-acknowledgement top-list-without-live-groups)

root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-broken.XXXXXX")
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target} RUST_BACKTRACE=0
export TIDEMARK_ENGINES=${TIDEMARK_ENGINES:-$root/engines}

cd "$root"
git ls-files -z --cached --others --exclude-standard -- ':!engines' |
  while IFS= read -r -d '' file; do if [[ -e $file ]]; then printf '%s\0' "$file"; fi; done |
  tar --null --files-from=- --create --file=- | tar --extract --touch --directory="$copy"
# The harness is the sound one.
cargo build --quiet --locked --profile ci -p tidemark-chaos
chaos=$copy/chaos
cp "$CARGO_TARGET_DIR/ci/chaos" "$chaos"
cd "$copy"

if (($#)); then MUTATIONS=("$@"); fi
caught=0
echo '| mutation | caught after | how |'
echo '| --- | ---: | --- |'
for mutation in "${MUTATIONS[@]}"; do
  git apply <"$root/tests/sim/mutations/$mutation.patch"
  # Without the invariants' panics: what is wrong must be seen from outside.
  cargo build --quiet --locked --release -p tidemark 2>build.log || { cat build.log; echo "$mutation does not compile" >&2; exit 1; }
  cp "$CARGO_TARGET_DIR/release/tidemark" "$copy/broken"
  from=$SECONDS
  if TIDEMARK_BIN=$copy/broken "$chaos" --minutes "${TIDEMARK_CHAOS_MINUTES:-30}" >chaos.log 2>&1; then
    echo "| $mutation | **not caught** | |"
  else
    caught=$((caught + 1))
    how=$(grep -m1 -A1 'panicked at' chaos.log | tail -n 1 | cut -c1-120 | tr '|' '/')
    [[ $how == *'answers are wrong:' ]] && how+=" $(grep -m1 -A2 'panicked at' chaos.log | tail -n 1 | cut -c1-120 | tr '|' '/')"
    echo "| $mutation | $((SECONDS - from)) s | $how |"
  fi
  git apply --reverse <"$root/tests/sim/mutations/$mutation.patch"
done
((caught >= MUST || caught == ${#MUTATIONS[@]}))
