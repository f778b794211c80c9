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
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

from otel_lifecycle.observation.envoy.entry import parse_entry
from otel_lifecycle.observation.otlp import logs as otlp_logs
from otel_lifecycle.observation.otlp.logs import LOGS, OtlpLogs
from otel_lifecycle.observation.otlp.server import OtlpServer
from tests.observation.entries import end


@pytest.fixture
def logs() -> OtlpLogs:
    return OtlpLogs()


@pytest.fixture
def server(logs: OtlpLogs) -> Iterator[OtlpServer]:
    server = OtlpServer("127.0.0.1:0", {LOGS: logs.export})
    yield server
    server.close()


def send(server: OtlpServer, *entries: dict[str, Any]) -> ExportLogsServiceResponse:
    """Sends entries as Envoy does: each value is text, metadata is JSON."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for entry in entries:
        record = records.add()
        for key, value in entry.items():
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            record.attributes.add(key=key).value.string_value = text
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        return LogsServiceStub(channel).Export(request, timeout=30)


def test_entries(server: OtlpServer, logs: OtlpLogs) -> None:
    """An entry is the same as in a file."""
    expected = json.loads(end())
    assert not send(server, expected).HasField("partial_success")
    read = logs.poll()

    (line,) = read.lines
    assert line is not None
    assert parse_entry(line) == parse_entry(end())
    assert read.caught_up
    assert logs.poll().lines == []


def test_other_values(server: OtlpServer, logs: OtlpLogs) -> None:
    """What is no entry becomes a line that is none, and breaks nothing."""
    send(server, {}, {"type": "DownstreamEnd", "t": "-", "llm": "{", "lb": "[" * 10_000})
    lines = logs.poll().lines

    assert lines[0] == b"{}"
    assert lines[1] is not None
    assert parse_entry(lines[1]).llm is None


def test_flood(server: OtlpServer, logs: OtlpLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that nobody reads in time are rejected and counted; then there is room again."""
    monkeypatch.setattr(otlp_logs, "_MOST_BYTES", 1_000)
    entry = {"type": "DownstreamEnd", "rid": "x" * 300}
    rejected = send(server, *[entry] * 10).partial_success.rejected_log_records

    assert rejected == 8 - (1 if len(json.dumps(entry)) > 333 else 0)
    read = logs.poll()
    assert len(read.lines) == 10 - rejected
    assert len(read.problems) == 1
    assert not send(server, entry).HasField("partial_success")
    assert (len(logs.poll().lines), logs.poll().problems) == (1, [])


def test_batches(server: OtlpServer, logs: OtlpLogs) -> None:
    """All entries come, a part at a time."""
    send(server, *[{"t": number} for number in range(2_500)])
    lines: list[bytes | None] = []
    while True:
        read = logs.poll()
        assert read.first == len(lines) + 1
        lines += read.lines
        if read.caught_up:
            break

    assert [json.loads(line or b"")["t"] for line in lines] == [str(n) for n in range(2_500)]


def test_address_in_use(server: OtlpServer) -> None:
    """An address that cannot be listened on is an error at the start."""
    with pytest.raises(OSError, match="cannot listen"):
        OtlpServer(f"127.0.0.1:{server.port}", {})
