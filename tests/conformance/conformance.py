#!/usr/bin/env python3
"""Check a tidemark binary against known answers, through its HTTP interface alone.

The check sends a file of events, asks every query of EXPECTED/queries.json.gz, compares the digest of each day, and
sends requests that must be refused. It shares no code with the program. It needs only Python's standard library.

    conformance.py --binary target/release/tidemark --events flights.ndjson --expected tests/data/expected
    conformance.py --url http://127.0.0.1:8080 --events flights.ndjson --expected tests/data/expected

Prints a line for each failure, then `N passed, N failed`. Exit code 0: nothing failed.
"""

import argparse
import contextlib
import csv
import datetime as dt
import gzip
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from decimal import Decimal
from itertools import islice

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30
REQUEST_TIMEOUT_S = 60
POLL_INTERVAL_S = 0.2

AMOUNTS = {"sum", "min", "max", "avg"}
MEASURES = {"count", "amount_count"} | AMOUNTS
DIMENSIONS = {"event_type", "product_id"}

# Each request must be answered with 400 and a problem document.
BAD_QUERIES = {
    "unknown dimension": "group_by=nonsense",
    "off a window's edge": "from=2013-01-01T00:01:00Z",
    "unknown zone": "tz=Mars/Phobos&step=1d",
    "unknown step": "step=7m",
    "from after to": "from=2014-01-01T00:00:00Z&to=2013-01-01T00:00:00Z",
    "unknown measure": "measures=median",
    "injection": "group_by=event_type%27%3B+DROP+TABLE+events--",
}


class Report:
    """Counts checks, and prints those that fail."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, ok, detail=""):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {name}: {detail}"[:600], flush=True)


class Http:
    """Requests to one server."""

    def __init__(self, url):
        self.url = url.rstrip("/")

    def request(self, method, path, body=None, headers=None, timeout=REQUEST_TIMEOUT_S):
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def get(self, path):
        return self.request("GET", path)

    def is_ready(self):
        try:
            return self.request("GET", "/readyz", timeout=2)[0] == 200
        except OSError:
            return False


@contextlib.contextmanager
def server(binary, config):
    """Start `tidemark up` on a temporary directory, and stop it at the end. Yields its address and its process."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % listener.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tidemark-conformance-") as data, tempfile.TemporaryFile() as log:
        command = [binary, "up", "--data", data, "--listen", address]
        command += ["--config", config] if config else []
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield "http://" + address, process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(http, process):
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not http.is_ready():
        if process and process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode} before it was ready")
        if time.monotonic() > deadline:
            sys.exit(f"the server was not ready within {READY_TIMEOUT_S} s")
        time.sleep(POLL_INTERVAL_S)


class Sender:
    """Posts the lines of a file as NDJSON, with several clients at a time."""

    def __init__(self, http, path, batch, clients):
        self.http, self.batch = http, batch
        self.lock = threading.Lock()
        self.lines = self.accepted = 0
        self.rejected = {}  # line number, from 1 -> reason
        self.next_offsets = {}  # partition -> next offset
        self.error = None
        with open_file(path) as self.file:
            threads = [threading.Thread(target=self.run) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self.error:
            sys.exit(f"sending failed: {self.error}")

    @property
    def position(self):
        return ",".join(f"{partition}:{offset}" for partition, offset in sorted(self.next_offsets.items()))

    def take(self):
        with self.lock:
            lines = list(islice(self.file, self.batch))
            first = self.lines + 1
            self.lines += len(lines)
            return first, b"".join(line.rstrip(b"\n") + b"\n" for line in lines)

    def run(self):
        while self.error is None:
            first, body = self.take()
            if not body:
                return
            status, text = self.http.request("POST", "/v1/events", body, {"content-type": "application/x-ndjson"})
            if status != 200:
                self.error = f"POST from line {first}: {status} {text[:300]!r}"
                return
            self.add(first, json.loads(text))

    def add(self, first, answer):
        with self.lock:
            self.accepted += answer["accepted"]
            self.rejected.update((first + item["index"], item["reason"]) for item in answer["rejected"])
            for pair in filter(None, answer["position"].split(",")):
                partition, offset = map(int, pair.split(":"))
                self.next_offsets[partition] = max(self.next_offsets.get(partition, 0), offset)


def open_file(path):
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


def rows_of(path):
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def instant(text):
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00"))


def supported(query):
    """The query with the measures that tidemark answers; `None` if it asks for something else."""
    measures = [measure for measure in query["metrics"] if measure in MEASURES]
    dimensions = {*query.get("group_by", []), *query.get("filter", {})}
    return {**query, "metrics": measures} if measures and dimensions <= DIMENSIONS else None


def query_path(query, position):
    pairs = [("step", query.get("granularity", "total")), ("measures", ",".join(query["metrics"]))]
    pairs += [("at_least", position), ("timeout_ms", "60000")]
    pairs += [(name, query[name]) for name in ("from", "to", "tz") if name in query]
    if query.get("group_by"):
        pairs.append(("group_by", ",".join(query["group_by"])))
    for dimension, values in query.get("filter", {}).items():
        values = values if isinstance(values, list) else [values]
        pairs += [("where", f"{dimension}:{value}") for value in values]
    if "limit" in query:
        pairs.append(("top", f"{query['limit']}:{query['order_by']}"))
    return "/v1/query?" + urllib.parse.urlencode(pairs)


def equal(actual, expected, measure):
    """Sums, minima and maxima are equal but for the binary floats of the expected file; averages have 6 decimals."""
    if actual is None or expected is None:
        return actual is expected
    if measure not in AMOUNTS:
        return int(actual) == int(expected)
    actual, expected = Decimal(str(actual)), Decimal(repr(expected) if isinstance(expected, float) else str(expected))
    tolerance = max(Decimal("1e-6"), abs(expected) * Decimal("1e-9")) if measure == "avg" else abs(expected) * Decimal("1e-12")
    return abs(actual - expected) <= tolerance


def difference(query, expected, actual, tie_at_cut):
    """The first difference between two lists of rows, as a sentence; `None` if there is none."""
    if len(expected) != len(actual):
        return f"{len(actual)} rows, expected {len(expected)}; first {actual[:1]}, expected {expected[:1]}"
    if tie_at_cut and expected:
        # Rows that tie at the last rank may be any of those that do.
        measure = query["order_by"]
        last = expected[-1][measure]
        expected = [row for row in expected if row[measure] != last]
        actual = [row for row in actual if int(row[measure]) != int(last)]
        if len(expected) != len(actual):
            return f"{len(actual)} rows above the tie, expected {len(expected)}"
    for wanted, row in zip(expected, actual):
        same = (
            all(row.get(key) == wanted[key] for key in query.get("group_by", []))
            and ("window_start" not in wanted or instant(row["window"]) == instant(wanted["window_start"]))
            and all(measure in row and equal(row[measure], wanted.get(measure), measure) for measure in query["metrics"])
        )
        if not same:
            return f"row {row}, expected {wanted}"
    return None


def check_rejections(report, manifest, sent):
    """Exactly the lines that the manifest names as rejects, or as a matter of policy, are rejected."""
    bad = {int(row["line_no"]): row["kind"] for row in rows_of(manifest) if row["verdict"] in ("reject", "policy")}
    missed, wrong = sorted(set(bad) - set(sent.rejected)), sorted(set(sent.rejected) - set(bad))
    report.check("what should be rejected is", not missed, f"{[(line, bad[line]) for line in missed[:5]]}")
    report.check("nothing else is rejected", not wrong, f"{[(line, sent.rejected[line]) for line in wrong[:5]]}")


def check_queries(report, http, expected, position):
    """Every query has the expected rows. Returns how long each took."""
    with gzip.open(os.path.join(expected, "queries.json.gz"), "rt") as file:
        items = json.load(file)
    took = []
    for item in items:
        query = supported(item["query"])
        if query is None:
            continue
        began = time.monotonic()
        status, text = http.get(query_path(query, position))
        took.append((time.monotonic() - began, item["id"]))
        if status != 200:
            report.check(item["id"], False, f"{status} {text[:300]!r}")
            continue
        answer = json.loads(text)
        says = {name: answer.get(name) for name in ("exact", "cut", "mark")}
        report.check(item["id"] + " says exact", says["exact"] is True and None not in says.values(), str(says))
        differs = difference(query, item["rows"], answer["rows"], item.get("tie_at_cut"))
        report.check(item["id"], differs is None, differs or "")
    return sorted(took)


def canonical(row):
    """A row as the digests have it: amounts to 2 decimals, empty if there are none."""
    amounts = ["" if row[name] is None else f"{Decimal(row[name]):.2f}" for name in ("sum", "min", "max")]
    window = instant(row["window"]).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([window, row["event_type"], row["count"], row["amount_count"], *amounts])
    return line.getvalue()


def check_digests(report, http, expected, position):
    """Each day's 5-minute windows by type have the expected SHA-256."""
    days = rows_of(os.path.join(expected, "digest_5m_by_day.csv.gz"))
    different = []
    for row in days:
        day = next(value for name, value in row.items() if name.startswith("day"))
        begin = dt.datetime.fromisoformat(day)
        query = {
            "granularity": "5m",
            "from": f"{begin:%Y-%m-%dT00:00:00Z}",
            "to": f"{begin + dt.timedelta(days=1):%Y-%m-%dT00:00:00Z}",
            "group_by": ["event_type"],
            "metrics": ["count", "amount_count", "sum", "min", "max"],
        }
        status, text = http.get(query_path(query, position))
        lines = "".join(map(canonical, json.loads(text)["rows"])) if status == 200 else ""
        if hashlib.sha256(lines.encode()).hexdigest() != row["sha256"]:
            different.append(day)
    report.check(f"digests of {len(days)} days", not different, f"{len(different)} days differ: {different[:5]}")


def check_refusals(report, http):
    for why, query in BAD_QUERIES.items():
        status, text = http.get(f"/v1/query?{query}")
        try:
            problem = json.loads(text)
            ok = status == 400 and problem.get("status") == 400 and problem.get("title") and problem.get("detail")
        except ValueError:
            ok = False
        report.check(f"bad request: {why}", ok, f"{status} {text[:300]!r}")


def run(options, http, report):
    began = time.monotonic()
    sent = Sender(http, options.events, options.batch, options.clients)
    took = time.monotonic() - began
    print(
        f"sent {sent.lines} lines in {took:.1f} s ({sent.lines / took:.0f}/s): "
        f"accepted {sent.accepted}, rejected {len(sent.rejected)}",
        flush=True,
    )
    report.check("every line is accepted or rejected", sent.accepted + len(sent.rejected) == sent.lines, str(sent.accepted))
    if options.manifest:
        check_rejections(report, options.manifest, sent)
    latencies = check_queries(report, http, options.expected, sent.position)
    if not options.no_digests:
        check_digests(report, http, options.expected, sent.position)
    status, text = http.get("/v1/status")
    report.check("/v1/status", status == 200 and json.loads(text) is not None, str(status))
    check_refusals(report, http)
    if latencies:
        median, (slowest, name) = latencies[len(latencies) // 2][0], latencies[-1]
        print(f"queries: median {median * 1000:.1f} ms, slowest {slowest * 1000:.1f} ms ({name})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--binary", help="start this program on a temporary directory")
    target.add_argument("--url", help="use a running server that has no events yet")
    parser.add_argument("--config", help="configuration file for --binary")
    parser.add_argument("--events", required=True, help="NDJSON file, plain or .gz")
    parser.add_argument("--expected", required=True, help="directory of queries.json.gz and digest_5m_by_day.csv.gz")
    parser.add_argument("--no-digests", action="store_true", help="do not compare days")
    parser.add_argument("--manifest", help="list of the lines that must be rejected (.csv.gz)")
    parser.add_argument("--batch", type=int, default=1000, help="events a request")
    parser.add_argument("--clients", type=int, default=2, help="requests at a time")
    options = parser.parse_args()

    report = Report()
    started = server(options.binary, options.config) if options.binary else contextlib.nullcontext((options.url, None))
    with started as (url, process):
        http = Http(url)
        wait_until_ready(http, process)
        run(options, http, report)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
