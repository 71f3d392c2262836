#!/usr/bin/env python3
"""What issue 4 demands of speed, and what this machine gives: runs the benches and prints target and result side by side.
Fails if a bench fails (each compares its counts with a recount) or a row misses its target.

    make accept-speed            builds, then runs this; about 12 minutes on 2 quiet cores

The figures of each bench are kept as JSON in $CARGO_TARGET_DIR/accept-speed/.
"""
import json
import os
import subprocess
import sys

TARGET = os.path.abspath(os.environ.get("CARGO_TARGET_DIR", "target"))
OUT = os.path.join(TARGET, "accept-speed")
PROGRAM = os.path.join(TARGET, "dist", "tidemark")

FLOOR = "librdkafka alone"
ALIKE = "tidemark, one view, no dedup"
DAYS = "30 days by day and type"
HOURS = "a day by hour, top 10 products"
LAST = "last hour by type"
STEADY = "from the first records on"
MEMORY = "peak resident memory"
FROM_MEMORY = ["--events", "5000000", "--from-memory", "--runs", "3", "--threads"]

# What is run, by name: the bench and its words.
RUNS = {
    "compare": ("compare", ["--events", "5000000"]),
    "speed": ("speed", ["--events", "5000000", "--runs", "3"]),
    "thread": ("speed", [*FROM_MEMORY, "1"]),
    "threads": ("speed", [*FROM_MEMORY, "2"]),
    "batch": ("batch", ["--events", "2000000", "--runs", "3"]),
    "ingest": ("ingest", ["--runs", "3"]),
    "latency": ("latency", []),
    "query": ("query", []),
    "growth": ("growth", []),
    "restart": ("restart", ["--events", "2600000"]),
}

# (run, figure, at most or at least, target); a figure may be divided by one of another run.
ROWS = [
    ("compare", f"tidemark to {FLOOR}: CPU", "<=", 1.9),
    ("compare", f"{ALIKE} to {FLOOR}: CPU", "<=", 1.4),
    ("speed", STEADY, ">=", 1_000_000),
    ("compare", f"tidemark: {MEMORY}", "<=", 238),
    ("compare", f"tidemark, no dedup: {MEMORY}", "<=", 114),
    ("compare", f"Kafka Streams, local to {ALIKE}: CPU", ">=", 7),
    ("compare", f"Kafka Streams, groupBy to {ALIKE}: CPU", ">=", 13),
    ("compare", f"Flink SQL to {ALIKE}: CPU", ">=", 10),
    ("compare", f"Kafka Streams, local to {ALIKE}: time", ">=", 4),
    ("compare", f"Kafka Streams, groupBy to {ALIKE}: time", ">=", 4),
    ("compare", f"Flink SQL to {ALIKE}: time", ">=", 4),
    ("compare", f"Kafka Streams, local to {ALIKE}: memory", ">=", 4),
    ("compare", f"Kafka Streams, groupBy to {ALIKE}: memory", ">=", 4),
    ("compare", f"Flink SQL to {ALIKE}: memory", ">=", 4),
    ("compare", "Kafka Streams, local to tidemark: CPU", ">=", 7),
    ("compare", "Kafka Streams, groupBy to tidemark: CPU", ">=", 13),
    ("compare", "Flink SQL to tidemark: CPU", ">=", 10),
    ("threads", (STEADY, "thread", STEADY), ">=", 1.8),
    ("batch", ("CPU", "compare", f"{FLOOR}: CPU"), "<=", 3),
    ("batch", "assignment to 95 % acknowledged", ">=", 300_000),
    ("batch", "events: bytes on disk", "<=", 13),
    ("ingest", "sent and acknowledged", ">=", 250_000),
    ("ingest", ("CPU of ingest", "compare", f"{FLOOR}: CPU"), "<=", 3),
    ("latency", "post to an answer that has it: p50", "<=", 10),
    ("latency", "post to an answer that has it: p99", "<=", 50),
    ("query", f"{LAST} at the rate, in the server: p50", "<=", 0.3),
    ("query", f"{LAST} at the rate, in the server: p99", "<=", 2),
    ("query", f"{LAST}, flat out, by one core of the server", ">=", 15_000),
    ("growth", f"{DAYS}, grown: p95", "<=", 10),
    ("growth", f"{HOURS}, grown: p95", "<=", 10),
    ("growth", f"{DAYS}, grown, events coming in: p95", "<=", 30),
    ("growth", f"{HOURS}, grown, events coming in: p95", "<=", 30),
    ("growth", f"{DAYS}: p50 grown to before", "<=", 1.3),
    ("growth", f"{HOURS}: p50 grown to before", "<=", 1.3),
    ("restart", "kill -9 to the answer of all events", "<=", 5),
]


def run(name):
    bench, words = RUNS[name]
    path = os.path.join(OUT, f"{name}.json")
    program = ["scripts/bench-compare.sh"] if bench == "compare" else [PROGRAM, "bench", bench]
    print(f"… {bench} {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run([*program, *words, "--json", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{bench} failed:\n{done.stderr}")
    with open(path) as file:
        return {figure["what"]: figure for figure in json.load(file)["figures"]}


def main():
    os.makedirs(OUT, exist_ok=True)
    measured = {name: run(name) for name in RUNS}
    missed, lines = 0, []
    for name, what, sign, target in ROWS:
        if isinstance(what, tuple):
            above, other, below = what
            value, unit = measured[name][above]["median"] / measured[other][below]["median"], "times"
            what = f"{above}, to {other}: {below}"
        else:
            value, unit = measured[name][what]["median"], measured[name][what]["unit"]
        met = value <= target if sign == "<=" else value >= target
        missed += not met
        lines.append(f"{name:<8} {what:<62} {sign} {target:>12,} {value:>14,.3f}  {unit:<22} {'ok' if met else 'MISSED'}")
    print(f"{'run':<8} {'what':<62} {'target':>15} {'result':>14}")
    print("\n".join(lines))
    if missed:
        sys.exit(f"{missed} of {len(ROWS)} targets are missed")


main()
