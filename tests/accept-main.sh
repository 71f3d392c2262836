#!/bin/sh
# Everything of issue 3's "What it must show" that a machine can run: prints a table (what, result, figures) and fails
# if a row fails. Takes half an hour on 2 cores.
#
#   tests/accept-main.sh
#
# TIDEMARK_KILLS         kills of each kind (20)
# TIDEMARK_CONFORMANCE   another program with the arguments of tests/conformance/conformance.py
#
# The output of each row is kept in $CARGO_TARGET_DIR/accept-main/, named by its number.
set -u
cd "$(dirname "$0")/.."
scripts/install-for-tests.sh redis-server zstd python3 || exit 1
conformance=${TIDEMARK_CONFORMANCE:-tests/conformance/conformance.py}
target=${CARGO_TARGET_DIR:-target}
out=$target/accept-main
rm -rf "$out" && mkdir -p "$out"
table=$out/table
failed=0
row=0

# run WHAT COMMAND…: one row of the table. Figures are the lines `figure | NAME | VALUE` that the command prints.
run() {
    row=$((row + 1))
    what=$1
    log=$out/$row.log
    shift
    echo "… $row $what"
    began=$(date +%s)
    if "$@" >"$log" 2>&1; then result=ok; else result=FAILED; failed=$((failed + 1)); fi
    printf '%s|%s|%s s\n' "$what" "$result" "$(($(date +%s) - began))" >>"$table"
    # A test's name may stand before its first figure, on the same line.
    sed -n 's/^.*figure | \(.*\) | \(.*\)$/|  \1|\2/p' "$log" >>"$table"
    if [ "$result" = FAILED ]; then tail -n 40 "$log"; fi
}

# it WHAT FILTER…: tests of the built binary. A filter that finds none is a failure.
it() {
    what=$1
    shift
    run "$what" sh -c 'cargo test --release -q -p tidemark-tests --test it -- --nocapture --test-threads=1 "$@" && echo done' it "$@"
    if ! grep -q 'test result: ok. [1-9]' "$log" && [ "$result" = ok ]; then
        echo "|  no test is named so|FAILED: $*" >>"$table"
        failed=$((failed + 1))
    fi
}

conformance() {
    zstd -qdf tests/data/flights-2013.ndjson.zst -o "$out/flights.ndjson" || return 1
    python3 "$conformance" --binary "$target/release/tidemark" --events "$out/flights.ndjson" \
        --expected tests/data/expected "$@"
}

dirty_conformance() {
    gzip -dc tests/data/flights-2013-01.dirty.ndjson.gz >"$out/dirty.ndjson" || return 1
    mkdir -p "$out/none" && echo '[]' | gzip >"$out/none/queries.json.gz"
    python3 "$conformance" --binary "$target/release/tidemark" --events "$out/dirty.ndjson" \
        --expected "$out/none" --no-digests --manifest tests/data/flights-2013-01.dirty.manifest.csv.gz
}

conformance_figures() {
    "$@" | sed -e 's/^sent \(.*\)$/figure | conformance: sent | \1/' -e 's/^queries: \(.*\)$/figure | conformance: queries | \1/' \
        -e 's/^\([0-9]* passed, 0 failed\)$/figure | conformance: checks | \1/' >"$out/conformance.txt"
    cat "$out/conformance.txt"
    grep -q ' | [1-9][0-9]* passed, 0 failed$' "$out/conformance.txt"
}

run "the release builds" sh -c 'cargo build --release -p tidemark && cargo test --release --no-run -q -p tidemark-tests'
if [ "$failed" -gt 0 ]; then exit 1; fi
it "1 flights 2013: queries and days equal, through HTTP and Kafka" flights:: --include-ignored
run "1 flights 2013: conformance.py" conformance_figures conformance
it "2 late and dirty January" january::
run "2 dirty January: conformance.py" conformance_figures dirty_conformance
it "3 exact at any moment, layers paused, epochs closing" any_moment::
it "4 read your own write" read_your_write
TIDEMARK_KILLS=${TIDEMARK_KILLS:-20}
export TIDEMARK_KILLS
it "5 kill -9 of everything, the engine, Kafka: $TIDEMARK_KILLS each" kill::
run "6 the simulator, default seeds" cargo test --release -q -p tidemark-sim -- --nocapture
run "6 each mutation of the protocol is caught" tests/sim/mutants.sh
run "7 laws, decode, windows, rounding; SQL and Rust agree" scripts/kafka-for-tests.sh \
    cargo test --release -q --workspace --exclude tidemark-tests --exclude tidemark-sim
it "8 bad requests" bad_requests::
it "raw history: what no view covers, what the topic has lost" raw::
it "one owner, clean restart, children die" life::

echo
awk -F'|' '$1 != "" { printf "%-66s | %-6s | %s\n", $1, $2, $3; next } { printf "%-66s | %-6s | %s\n", $2, "", $3 }' "$table"
echo
if [ "$failed" -gt 0 ]; then
    echo "$failed rows FAILED; their output is in $out"
    exit 1
fi
echo "all rows are ok"
