"""Receives the spans of a picker, and passes them on."""

from __future__ import annotations

import threading
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_lifecycle.observation.otlp.server import refuse
from otel_lifecycle.observation.picker.spans import PickerSpans
from otel_lifecycle.records.shipping import Sender
from otel_lifecycle.records.shipping.sender import Fate
from otel_lifecycle.telemetry.otlp.transport import EncodedRequest

TRACES: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
_MOST_WAITING: Final = 4
_CODES: Final = {
    Fate.REFUSED: grpc.StatusCode.INVALID_ARGUMENT,
    Fate.WAITING: grpc.StatusCode.UNAVAILABLE,
}


class OtlpTraces:
    """Takes note of spans, and sends each export unchanged to the collector; thread-safe.

    The sender of an export has the collector's answer: nothing is kept here, and who cannot be
    answered at once is told to try again.

    Args:
        spans: Takes note.
        sender: Sends; None: there is no collector.
    """

    def __init__(self, spans: PickerSpans, sender: Sender | None) -> None:
        self._spans = spans
        self._sender = sender
        self._lock = threading.Lock()
        self._waiting = threading.Semaphore(_MOST_WAITING)

    def export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Take an export; return the answer."""
        try:
            request = ExportTraceServiceRequest.FromString(body)
        except DecodeError:
            return refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "not an export of spans")
        count = self._spans.take(request)
        if self._sender is None or not count:
            return b""
        if not self._waiting.acquire(blocking=False):
            return refuse(context, grpc.StatusCode.UNAVAILABLE, "the collector is too slow")
        try:
            with self._lock:
                answer = self._sender.send_encoded(EncodedRequest(body, count))
        finally:
            self._waiting.release()
        code = _CODES.get(answer.fate)
        if code is not None:
            return refuse(context, code, answer.reason)
        response = ExportTraceServiceResponse()
        if answer.rejected or answer.reason:
            response.partial_success.rejected_spans = answer.rejected
            response.partial_success.error_message = answer.reason
        return response.SerializeToString()

    def close(self) -> None:
        """End the retries of a running export."""
        if self._sender is not None:
            self._sender.close()
