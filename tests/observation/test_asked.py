"""Labels and targets from the headers that an access log has of requests."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.envoy.requests import SavedRequest
from otel_lifecycle.observation.otlp.logs import OtlpLogs
from tests.observation.entries import Joined, end, ready, start, upstream_end, whole
from tests.tracking.test_labels import KEY, hashed

ASKED = TrackerConfig(
    labels="tenant=x-tenant-id,class=x-class;plain", labels_key=KEY, slo="ttft=20ms,ttft=x-slo-ttft"
)
HEADERS = {"x-tenant-id": "acme", "x-class": "batch", "x-slo-ttft": "60", "x-other": "a secret"}


def recorded(record: LifecycleRecord) -> dict[str, Any]:
    """A record as it is written."""
    return json.loads(msgspec.json.encode(record))


def test_headers() -> None:
    """A record has what the settings name, hashed unless it is to be plain, beside the rest."""
    plain = recorded(Joined().take(whole()).records[0])
    (record,) = Joined(config=ASKED).take(whole(headers=HEADERS)).records

    assert recorded(record) == {
        **plain,
        "labels": {"tenant": hashed("acme"), "class": "batch"},
        "slo": {"ttft": {"targetMillis": 60.0, "met": True}},
    }


def test_nothing_unless_asked() -> None:
    """Headers in the log are nothing to a record if the settings do not name them."""
    (plain,) = Joined().take(whole()).records
    (record,) = Joined().take(whole(headers=HEADERS)).records

    assert record == plain


@pytest.mark.parametrize(
    "headers",
    [None, {}, {"x-tenant-id": "-", "x-class": None}, [], "x", {"x-tenant-id": {"a": 1}}],
)
def test_unknown(headers: Any) -> None:
    """What the log does not have is no label, and the target of the settings holds."""
    (record,) = Joined(config=ASKED).take(whole(headers=headers)).records

    assert record.labels is msgspec.UNSET
    assert recorded(record)["slo"] == {"ttft": {"targetMillis": 20.0, "met": False}}


def test_unusable_values_are_counted() -> None:
    """A value that is too long is left out, and counted."""
    joined = Joined(config=ASKED).take(whole(headers={**HEADERS, "x-class": "x" * 1_000_000}))

    assert joined.records[0].labels == {"tenant": hashed("acme")}
    assert joined.store.ignored["invalid_value"] == 1


def test_restart() -> None:
    """What is saved of requests in flight has hashes instead of headers, and no other header."""
    entries = [start(headers=HEADERS), ready(headers=HEADERS), end(headers=HEADERS)]
    first = Joined(config=ASKED).take(entries)
    saved = msgspec.json.encode(first.joiner.saved())
    second = Joined(config=ASKED)
    second.joiner.restore(msgspec.json.decode(saved, type=list[SavedRequest]))
    second.take([upstream_end()])

    assert (first.records, len(second.records)) == ([], 1)
    assert b"acme" not in saved
    assert b"a secret" not in saved
    assert second.records[0].labels == {"tenant": hashed("acme"), "class": "batch"}
    assert recorded(second.records[0])["slo"]["ttft"]["targetMillis"] == 60.0


def test_abandoned() -> None:
    """Of a request whose end did not come, no header is known, and no target is judged."""
    joined = Joined(config=ASKED, abandon_after=60.0).take([start(headers=HEADERS), ready()])
    joined.now = 61.0
    joined.joiner.expire()

    assert joined.records[0].labels is msgspec.UNSET
    assert recorded(joined.records[0])["slo"] == {"ttft": {"targetMillis": 20.0, "met": None}}


def test_unknown_end() -> None:
    """A target of the whole is not judged if the log does not tell when the request ended."""
    config = TrackerConfig(slo="e2e=30s")
    (record,) = Joined(config=config).take(whole(e2e_us=None, dur_ms=None)).records

    assert recorded(record)["slo"] == {"e2e": {"targetMillis": 30_000.0, "met": None}}


def test_over_otlp() -> None:
    """Over OTLP the headers are a list of keys and values."""
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    for key, value in json.loads(end(llm=None)).items():
        record.attributes.add(key=key).value.string_value = str(value)
    headers = record.attributes.add(key="headers").value.kvlist_value
    for name, text in HEADERS.items():
        headers.values.add(key=name).value.string_value = text
    logs = OtlpLogs()
    logs.export(request.SerializeToString(), None)  # type: ignore[arg-type]  # of no refusal

    joined = Joined(config=ASKED).take(line for line in logs.poll().lines if line is not None)
    joined.joiner.expire(at_end=True)

    assert joined.records[0].labels == {"tenant": hashed("acme"), "class": "batch"}
