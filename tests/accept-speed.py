#!/usr/bin/env python3
"""What issue 4 demands of speed, and what this machine gives: runs the benches and prints target and result side by side.
Fails if a bench fails (each compares its counts with a recount) or a row misses its target.

    make accept-speed            builds, then runs this; about 15 minutes on 2 quiet cores

The figures of each bench are kept as JSON in $CARGO_TARGET_DIR/accept-speed/.
"""
import json
import os
import subprocess
import sys

TARGET = os.path.abspath(os.environ.get("CARGO_TARGET_DIR", "target"))
OUT = os.path.join(TARGET, "accept-speed")
PROGRAM = os.path.join(TARGET, "release", "tidemark")

ALIKE = "tidemark, one view, no dedup"
DAYS = "30 days by day and type"
HOURS = "a day by hour, top 10 products"
LAST = "last hour by type"

# (bench, its words, [(figure, at most or at least, target)])
BENCHES = [
    ("compare", ["--events", "5000000"], [
        ("tidemark to librdkafka alone: CPU", "<=", 1.9),
        (f"{ALIKE} to librdkafka alone: CPU", "<=", 1.4),
        ("tidemark: peak resident memory", "<=", 238),
        (f"{ALIKE}: peak resident memory", "<=", 114),
        (f"Kafka Streams, local to {ALIKE}: CPU", ">=", 7),
        (f"Kafka Streams, groupBy to {ALIKE}: CPU", ">=", 13),
        (f"Flink SQL to {ALIKE}: CPU", ">=", 10),
        (f"Kafka Streams, local to {ALIKE}: time", ">=", 4),
        (f"Kafka Streams, groupBy to {ALIKE}: time", ">=", 4),
        (f"Flink SQL to {ALIKE}: time", ">=", 4),
        (f"Kafka Streams, local to {ALIKE}: memory", ">=", 4),
        (f"Flink SQL to {ALIKE}: memory", ">=", 4),
        ("Kafka Streams, local to tidemark: CPU", ">=", 7),
        ("Kafka Streams, groupBy to tidemark: CPU", ">=", 13),
        ("Flink SQL to tidemark: CPU", ">=", 10),
    ]),
    ("speed", ["--events", "5000000", "--runs", "3"], [("from the first records on", ">=", 1_000_000)]),
    ("batch", ["--events", "2000000", "--runs", "3"], [("assignment to 95 % acknowledged", ">=", 300_000)]),
    ("ingest", ["--runs", "3"], [("sent and acknowledged", ">=", 250_000)]),
    ("latency", [], [
        ("post to an answer that has it: p50", "<=", 10),
        ("post to an answer that has it: p99", "<=", 50),
    ]),
    ("query", [], [
        (f"{LAST} at the rate, in the server: p50", "<=", 0.3),
        (f"{LAST} at the rate, in the server: p99", "<=", 2),
        (f"{LAST}, flat out, by one core of the server", ">=", 15_000),
    ]),
    ("growth", [], [
        (f"{DAYS}, grown: p95", "<=", 10),
        (f"{HOURS}, grown: p95", "<=", 10),
        (f"{DAYS}, grown, events coming in: p95", "<=", 30),
        (f"{HOURS}, grown, events coming in: p95", "<=", 30),
        (f"{DAYS}: p50 grown to before", "<=", 1.3),
        (f"{HOURS}: p50 grown to before", "<=", 1.3),
    ]),
    ("restart", ["--events", "2600000"], [("kill -9 to the answer of all events", "<=", 5)]),
]


def run(bench, words):
    path = os.path.join(OUT, f"{bench}.json")
    program = ["scripts/bench-compare.sh"] if bench == "compare" else [PROGRAM, "bench", bench]
    print(f"… {bench} {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([*program, *words, "--json", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{bench} failed:\n{done.stderr}")
    with open(path) as file:
        return {figure["what"]: figure for figure in json.load(file)["figures"]}


def main():
    os.makedirs(OUT, exist_ok=True)
    missed, rows = 0, []
    for bench, words, targets in BENCHES:
        figures = run(bench, words)
        for what, sign, target in targets:
            figure = figures[what]
            value = figure["median"]
            met = value <= target if sign == "<=" else value >= target
            missed += not met
            rows.append(f"{bench:<8} {what:<62} {sign} {target:>12,} {value:>14,.3f}  {figure['unit']:<22} {'ok' if met else 'MISSED'}")
    print(f"{'bench':<8} {'what':<62} {'target':>15} {'result':>14}")
    print("\n".join(rows))
    if missed:
        sys.exit(f"{missed} of {len(rows)} targets are missed")


main()
