"""Entries that come over OTLP instead of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from otel_lifecycle.observation import otlp_logs
from otel_lifecycle.observation.entry import parse_entry
from otel_lifecycle.observation.otlp_logs import OtlpLogs
from tests.observation.entries import end


@pytest.fixture
def logs() -> Iterator[OtlpLogs]:
    logs = OtlpLogs("127.0.0.1:0")
    yield logs
    logs.close()


def send(logs: OtlpLogs, *entries: dict[str, Any]) -> ExportLogsServiceResponse:
    """Sends entries as Envoy does: each value is text, metadata is JSON."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for entry in entries:
        record = records.add()
        for key, value in entry.items():
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            record.attributes.add(key=key).value.string_value = text
    with grpc.insecure_channel(f"127.0.0.1:{logs.port}") as channel:
        call = channel.unary_unary(
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            request_serializer=ExportLogsServiceRequest.SerializeToString,
            response_deserializer=ExportLogsServiceResponse.FromString,
        )
        return call(request, timeout=30)


def test_entries(logs: OtlpLogs) -> None:
    """An entry is the same as in a file."""
    expected = json.loads(end())
    assert not send(logs, expected).HasField("partial_success")
    read = logs.poll()

    (line,) = read.lines
    assert line is not None
    assert parse_entry(line) == parse_entry(end())
    assert read.caught_up
    assert logs.poll().lines == []


def test_other_values(logs: OtlpLogs) -> None:
    """What is no entry becomes a line that is none, and breaks nothing."""
    send(logs, {}, {"type": "DownstreamEnd", "t": "-", "llm": "{", "lb": "[" * 10_000})
    lines = logs.poll().lines

    assert lines[0] == b"{}"
    assert lines[1] is not None
    assert parse_entry(lines[1]).llm is None


def test_flood(logs: OtlpLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that nobody reads in time are rejected and counted; then there is room again."""
    monkeypatch.setattr(otlp_logs, "_MOST_BYTES", 1_000)
    entry = {"type": "DownstreamEnd", "rid": "x" * 300}
    rejected = send(logs, *[entry] * 10).partial_success.rejected_log_records

    assert rejected == 8 - (1 if len(json.dumps(entry)) > 333 else 0)
    read = logs.poll()
    assert len(read.lines) == 10 - rejected
    assert len(read.problems) == 1
    assert not send(logs, entry).HasField("partial_success")
    assert (len(logs.poll().lines), logs.poll().problems) == (1, [])


def test_batches(logs: OtlpLogs) -> None:
    """All entries come, a part at a time."""
    send(logs, *[{"t": number} for number in range(2_500)])
    lines: list[bytes | None] = []
    while True:
        read = logs.poll()
        assert read.first == len(lines) + 1
        lines += read.lines
        if read.caught_up:
            break

    assert [json.loads(line or b"")["t"] for line in lines] == [str(n) for n in range(2_500)]


def test_address_in_use(logs: OtlpLogs) -> None:
    """An address that cannot be listened on is an error at the start."""
    with pytest.raises(OSError, match="cannot listen"):
        OtlpLogs(f"127.0.0.1:{logs.port}")
