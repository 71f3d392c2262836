#!/usr/bin/env bash
# Shows that the simulator finds bugs: applies each of mutations/*.patch to a copy of the workspace and expects the
# simulator to fail there. Prints a table; ends with 1 if a mutation survives.
#
#   tests/sim/mutants.sh [NAME…]      the mutations of these names only
#
# CARGO_TARGET_DIR is used if set, so that what does not change is built once. TIDEMARK_SIM_SEEDS (10000) worlds are tried at most.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
copy=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-mutants.XXXXXX")
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
export RUST_BACKTRACE=0
# A mutation that breaks a race is caught by one seed of thousands.
export TIDEMARK_SIM_SEEDS=${TIDEMARK_SIM_SEEDS:-10000}

# Everything that git knows or would add; what is deleted but not committed is not there to be copied.
cd "$root"
git ls-files -z --cached --others --exclude-standard -- ':!engines' |
    while IFS= read -r -d '' file; do if [[ -e $file ]]; then printf '%s\0' "$file"; fi; done |
    tar --null --files-from=- --create --file=- | tar --extract --touch --directory="$copy"
cd "$copy"

if (($#)); then patches=("${@/%/.patch}"); else patches=(); for path in "$root"/tests/sim/mutations/*.patch; do patches+=("$(basename "$path")"); done; fi

survived=0
echo '| mutation | caught at seed | how |'
echo '| --- | ---: | --- |'
for patch in "${patches[@]}"; do
    git apply <"$root/tests/sim/mutations/$patch"
    cargo build --quiet --package tidemark-sim --tests 2>build.log || { cat build.log; echo "$patch does not compile" >&2; exit 1; }
    if cargo test --quiet --package tidemark-sim --test seeds every_answer -- --nocapture >sim.log 2>&1; then
        survived=1
        echo "| ${patch%.patch} | **survived** | $(grep -o 'Totals {.*}' sim.log) |"
    else
        caught=$(grep -m1 -oE '^seed [0-9]+: .*|seed [0-9]+: a block .*|^all seeds: .*' sim.log || true)
        seed=$(grep -oE 'seed [0-9]+' <<<"$caught" | tr -dc 0-9 || true)
        how=$(sed -E 's/^.*seed[s]? ?[0-9]*: //' <<<"$caught" | cut -c1-110 | tr '|' '/')
        echo "| ${patch%.patch} | ${seed:-all} | ${how:-$(tail -n 3 sim.log | tr '\n' ' ')} |"
    fi
    git apply --reverse <"$root/tests/sim/mutations/$patch"
done
exit "$survived"
