"""Receives the entries of Envoy's access log as OTLP logs."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any, Final

import grpc
import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_lifecycle.observation.log_file import Lines
from otel_lifecycle.observation.otlp.server import refuse

LOGS: Final = "opentelemetry.proto.collector.logs.v1.LogsService"
_MOST_BYTES: Final = 64 << 20  # of entries that wait
_BATCH: Final = 1_024
_METADATA: Final = ("llm", "lb")  # written as JSON
_NAME: Final = Path("otlp")


class OtlpLogs:
    """Takes the entries of exports; its lines are those of a log file.

    Entries beyond 64 MiB that nobody has read yet are rejected and counted. Nothing is kept across
    a restart. `poll` is not thread-safe.
    """

    unfinished = ""  # a file may end in a line without its end

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._bytes = 0
        self._rejected = 0
        self._read = 0

    def poll(self) -> Lines:
        """Return entries that have come; never waits."""
        with self._lock:
            taken = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
            self._bytes -= sum(map(len, taken))
            rejected, self._rejected = self._rejected, 0
            read = Lines(_NAME, self._read + 1, [*taken], caught_up=not self._lines)
        self._read += len(taken)
        if rejected:
            read.problems.append(f"{_NAME}: {rejected:,} entries were rejected: too many waiting")
        return read

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Take an export; return the answer."""
        try:
            request = ExportLogsServiceRequest.FromString(body)
        except DecodeError:
            return refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "not an export of logs")
        lines = [
            _line(record)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
        rejected = self._keep(lines)
        response = ExportLogsServiceResponse()
        if rejected:
            response.partial_success.rejected_log_records = rejected
            response.partial_success.error_message = "too many entries are waiting"
        return response.SerializeToString()

    def _keep(self, lines: list[bytes]) -> int:
        """Queue lines as far as there is room; return how many were left out."""
        with self._lock:
            for number, line in enumerate(lines):
                if self._bytes + len(line) > _MOST_BYTES:
                    rejected = len(lines) - number
                    self._rejected += rejected
                    return rejected
                self._lines.append(line)
                self._bytes += len(line)
        return 0


def _line(record: LogRecord) -> bytes:
    """Return the entry in a log record as a line of the file would have it."""
    entry = {each.key: _value(each.key, each.value) for each in record.attributes}
    return msgspec.json.encode(entry)


def _value(key: str, value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return {each.key: _value(each.key, each.value) for each in value.kvlist_value.values}
    if kind not in ("string_value", "int_value", "double_value", "bool_value"):
        return None
    plain = getattr(value, kind)
    if key in _METADATA and isinstance(plain, str):
        try:
            return msgspec.json.decode(plain)
        except (ValueError, RecursionError):
            return None
    return plain
