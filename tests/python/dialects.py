"""Sends events by the libraries that others use, as their documentation has it: dialects.py URL KEY

Prints a line for each thing that a test looks at."""

import sys
from datetime import datetime, timezone

import requests
import segment.analytics
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

URL, KEY = sys.argv[1:]
AT = datetime(2013, 1, 1, 10, 15, tzinfo=timezone.utc)


def cloud_event(id, amount):
    attributes = {"type": "cloud", "source": "/shop/€ 1".replace(" ", "%20"), "id": id, "time": AT, "subject": "order/1"}
    return CloudEvent(attributes, {"product_id": "p", "user_id": "u", "order_amount": amount, "colour": "red"})


def send(message):
    headers = {**message.headers, "authorization": f"Bearer {KEY}"}
    answer = requests.post(f"{URL}/v1/events", headers=headers, data=message.body, timeout=60)
    print("cloud", answer.status_code, answer.json().get("accepted"))


send(http.to_structured_event(cloud_event("1", 1.5)))
send(http.to_binary_event(cloud_event("2", 2.25)))
# The same again, in the other mode: a duplicate, for source and id are the same.
send(http.to_binary_event(cloud_event("1", 1.5)))
events = b",".join(JSONFormat().write(cloud_event(id, 1)) for id in ("3", "4"))
send(http.HTTPMessage({"content-type": "application/cloudevents-batch+json"}, b"[" + events + b"]"))


def client(key, **options):
    return segment.analytics.Client(key, host=URL, on_error=lambda error, items: print("segment failed:", error.status, error.code), **options)


for options in ({}, {"gzip": True}):
    segments = client(KEY, **options)
    segments.track("u", "segment", {"product_id": "p", "revenue": 9.75, "colour": "red"}, timestamp=AT)
    segments.track(anonymous_id="nobody", event="segment", properties={"value": 0.25}, timestamp=AT)
    segments.identify("u", {"name": "not an event"})
    segments.flush()
    segments.join()
    print("segment sent")

stranger = client("tm_0")
stranger.track("u", "segment", timestamp=AT)
stranger.flush()
stranger.join()
