"""A client of tidemark in Python, with nothing but the standard library.

    python3 examples/python/tidemark.py http://127.0.0.1:8080 [KEY]

sends three purchases, asks for what that comes to, and listens until a fourth one is counted. Copy what you need of it."""

import http.client
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Refused(Exception):
    """The server says no; the text says what to do."""

    def __init__(self, status, problem):
        super().__init__(f"{status}: {problem.get('detail', '')}")
        self.status, self.problem = status, problem


class Tidemark:
    def __init__(self, url, key=None):
        self.url, self.key = url.rstrip("/"), key

    def _open(self, path, data=None, headers=None, timeout=60):
        headers = dict(headers or {})
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            return urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                body = error.read()
            try:
                problem = json.loads(body)
            except ValueError:
                problem = {"detail": body.decode("utf-8", "replace")[:300]}
            raise Refused(error.code, problem) from None

    def send(self, events, patience=60):
        """Sends events; returns what became of them, with the position to ask for. The same is sent again until it has been
        acknowledged: give events an `event_id`, by which a repeated one is counted once."""
        body = "".join(json.dumps(event) + "\n" for event in events).encode()
        deadline, pause = time.monotonic() + patience, 0.1
        while True:
            try:
                with self._open("/v1/events", body, {"Content-Type": "application/x-ndjson"}) as answer:
                    return json.load(answer)
            except Refused as error:
                if error.status not in (408, 429, 502, 503, 504) or time.monotonic() > deadline:
                    raise
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 5)

    def query(self, **parameters):
        """An answer. Lists stand for `where`, which may come several times; `from` is written `from_`."""
        with self._open("/v1/query?" + _written(parameters)) as answer:
            return json.load(answer)

    def live(self, **parameters):
        """Yields the rows of a query, by window and dimensions, whenever they have changed, with the cut that they are exact at.
        A stream that breaks is taken up behind its last event: nothing is missed, and nothing counted twice."""
        rows, last_id = {}, None
        while True:
            try:
                headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
                with self._open("/v1/live?" + _written(parameters), headers=headers) as stream:
                    for kind, id, data in _events(stream):
                        last_id = id or last_id
                        if kind == "snapshot":
                            rows.clear()
                        elif kind != "change":
                            continue
                        for row in data["gone"]:
                            rows.pop(_key(row), None)
                        rows.update((_key(row), row) for row in data["rows"])
                        yield dict(sorted(rows.items())), data["cut"]
            except Refused as error:
                if last_id is None or error.status not in (408, 429, 502, 503, 504):
                    raise
            except (OSError, http.client.HTTPException):
                if last_id is None:
                    raise
            time.sleep(1)


def _written(parameters):
    return urllib.parse.urlencode({name.rstrip("_"): value for name, value in parameters.items()}, doseq=True)


def _key(row):
    return tuple(row.get(name, "") for name in ("window", "event_type", "product_id", "user_id"))


def _events(stream):
    """Server-sent events: their kind, id and data. What stands alone, a comment or the time to come back, is none."""
    event = {}
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            event[name] = value
            continue
        if "data" in event:
            yield event.get("event", "message"), event.get("id"), json.loads(event["data"])
        event = {}


def main(url, key=None):
    tidemark = Tidemark(url, key)

    def purchase(id, amount):
        event = {"event_type": "purchase", "timestamp": "2013-01-01T10:15:00Z", "user_id": "u", "product_id": "p-1"}
        return {**event, "event_id": id, "order_amount": amount}

    sent = tidemark.send([purchase("1", 9.5), purchase("2", 0.25), purchase("3", 10), {"event_type": "purchase"}])
    print("accepted", sent["accepted"])
    for rejected in sent["rejected"]:
        print("rejected", rejected["index"], rejected["reason"])

    question = {"step": "5m", "group_by": "event_type", "where": ["event_type:purchase"], "measures": "count,sum"}
    # At least at this position: the answer contains what was sent.
    for row in tidemark.query(**question, at_least=sent["position"])["rows"]:
        print(row["window"], row["event_type"], row["count"], row["sum"])

    for rows, cut in tidemark.live(**question):
        counts = {key: row["count"] for key, row in rows.items()}
        print("live", *counts.values(), flush=True)
        if 4 in counts.values():
            break
        tidemark.send([purchase("4", 1), purchase("3", 10)])

    try:
        tidemark.query(step="7m")
    except Refused as error:
        print("refused", error)


if __name__ == "__main__":
    main(*sys.argv[1:])
