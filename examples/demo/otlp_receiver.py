"""A small OTLP/HTTP receiver that keeps an application's exports."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Attributes: TypeAlias = "frozenset[tuple[str, str | int | float | bool]]"
Points: TypeAlias = "dict[str, dict[Attributes, float]]"

TRACES_PATH = "/v1/traces"
METRICS_PATH = "/v1/metrics"


class OTLPReceiver:
    """Listens on a free local port, on separate threads; a context manager."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._spans: dict[str, list[Span]] = {}
        self._points: list[Points] = []
        handler = partial(_Handler, self.accept)
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = Thread(target=self._server.serve_forever, name="otlp-receiver", daemon=True)

    def __enter__(self) -> OTLPReceiver:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The value for `OTEL_EXPORTER_OTLP_ENDPOINT`; the protocol is `http/protobuf`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def spans(self, scope: str) -> list[Span]:
        """Return the spans of one instrumentation scope, in order of arrival."""
        with self._lock:
            return list(self._spans.get(scope, ()))

    def scopes(self) -> list[str]:
        """Return the instrumentation scopes of the spans."""
        with self._lock:
            return list(self._spans)

    def gauge(self, name: str) -> dict[Attributes, float]:
        """Return the points of a gauge or a sum in the latest export; empty if it is missing."""
        with self._lock:
            return self._points[-1].get(name, {}) if self._points else {}

    def peak(self, name: str) -> dict[Attributes, float]:
        """Return the highest value of each point of a gauge or a sum over all exports."""
        peaks: dict[Attributes, float] = {}
        with self._lock:
            for points in self._points:
                for attributes, value in points.get(name, {}).items():
                    peaks[attributes] = max(value, peaks.get(attributes, value))
        return peaks

    def accept(self, path: str, content: bytes) -> None:
        """Accept the body of one export; raise `DecodeError` if it is invalid."""
        if path == TRACES_PATH:
            self._accept_spans(ExportTraceServiceRequest.FromString(content))
        elif path == METRICS_PATH:
            self._accept_metrics(ExportMetricsServiceRequest.FromString(content))

    def _accept_spans(self, export: ExportTraceServiceRequest) -> None:
        with self._lock:
            for resource in export.resource_spans:
                for scope in resource.scope_spans:
                    self._spans.setdefault(scope.scope.name, []).extend(scope.spans)

    def _accept_metrics(self, export: ExportMetricsServiceRequest) -> None:
        points: Points = {}
        for resource in export.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points.setdefault(metric.name, {}).update(_points(metric))
        with self._lock:
            self._points.append(points)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore disconnects from killed exporters."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30  # of an idle connection

    def __init__(self, accept: Callable[[str, bytes], None], *arguments: Any) -> None:
        self._accept = accept
        super().__init__(*arguments)

    def do_POST(self) -> None:
        """Receive one export."""
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            self._accept(self.path, _decompress(content, self.headers.get("content-encoding")))
        except (DecodeError, OSError, EOFError, zlib.error):
            self._answer(400)
        else:
            self._answer(200)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def _answer(self, status: int) -> None:
        # An empty message is a full success, in the encoding of the request (OTLP, 2.3.1).
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()


def _decompress(content: bytes, encoding: str | None) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(content)
    return zlib.decompress(content) if encoding == "deflate" else content


def _points(metric: Metric) -> dict[Attributes, float]:
    data = metric.gauge if metric.HasField("gauge") else metric.sum
    return {
        frozenset(_attribute(attribute) for attribute in point.attributes): (
            point.as_double if point.HasField("as_double") else float(point.as_int)
        )
        for point in data.data_points
    }


def _attribute(attribute: KeyValue) -> tuple[str, str | int | float | bool]:
    value: AnyValue = attribute.value
    if value.HasField("int_value"):
        return attribute.key, value.int_value
    if value.HasField("double_value"):
        return attribute.key, value.double_value
    if value.HasField("bool_value"):
        return attribute.key, value.bool_value
    return attribute.key, value.string_value
