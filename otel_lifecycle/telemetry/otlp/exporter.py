"""An OTLP exporter that encodes spans as bytes, and has the SDK's own exporters do so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.runtime.turns import Turn
from otel_lifecycle.telemetry.otlp.destinations import GRPC, endpoint_argument, protocol
from otel_lifecycle.telemetry.otlp.encoders import SpanEncoder
from otel_lifecycle.telemetry.otlp.request import EncodedSpan, encode_request
from otel_lifecycle.telemetry.otlp.transport import EncodedRequest, send

_logger = get_logger(__name__)


class LifecycleSpanExporter(SpanExporter):
    """Exports any spans over OTLP: `OTEL_TRACES_EXPORTER=otlp_lifecycle`. Thread-safe.

    It is the SDK's exporter, for gRPC or HTTP, with another encoder: it is set up by the same
    variables, and behaves and logs alike.

    Args:
        endpoint: The collector, such as `http://localhost:4317`. Default: the variables' one.

    Raises:
        ValueError: `OTEL_EXPORTER_OTLP_PROTOCOL` is neither `grpc` nor `http/protobuf`.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._exporter: Any = _sdk_exporter(endpoint)
        if not adopt(self._exporter):
            _logger.warning(
                "the SDK's OTLP exporter is not as it was, or has a session of somebody's own: it "
                "encodes spans itself"
            )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; what the SDK's exporter returns, or raises."""
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """End a running export, and refuse further ones."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: nothing is held back."""
        return self._exporter.force_flush(timeout_millis)


def adopt(exporter: SpanExporter) -> bool:
    """Have an OTLP exporter of the SDK send what is encoded here, in place of what it encodes.

    It keeps its settings and connections, and whoever holds it need not know. A collector that
    refuses our bytes and takes the SDK's has the SDK's encoder back, and a line in the log.

    Returns:
        False for any other exporter, a subclass, one whose session is somebody's own, and one that
        has been adopted before; nothing has changed then.
    """
    if "export" in vars(exporter):
        return False
    try:
        if not _prepare(exporter):
            return False
    except Exception:  # its inside is not what it was
        return False
    vars(exporter)["export"] = _Export(exporter)
    return True


# Imported where they are needed: a router uses one of them, and gRPC takes megabytes.
def _sdk_exporter(endpoint: str | None) -> SpanExporter:
    spoken = protocol("TRACES")
    if spoken == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    return OTLPSpanExporter(**endpoint_argument(endpoint, "traces", spoken))


def _prepare(exporter: SpanExporter) -> bool:
    module = type(exporter).__module__
    if module == "opentelemetry.exporter.otlp.proto.grpc.trace_exporter":
        from otel_lifecycle.telemetry.otlp.over_grpc import prepare
    elif module == "opentelemetry.exporter.otlp.proto.http.trace_exporter":
        from otel_lifecycle.telemetry.otlp.over_http import prepare
    else:
        return False
    return prepare(exporter)


class _Export:
    """`export` of an adopted exporter."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._encoder = SpanEncoder()
        self._encodes = True
        self._reported: set[type[Exception]] = set()

    def __call__(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        export: Callable[..., SpanExportResult] = type(self._exporter).export
        encoded = self._encode(spans) if self._encodes else []
        if not encoded:
            return export(self._exporter, spans)
        request = EncodedRequest(encode_request(encoded), len(encoded))
        result = send(self._exporter, request)
        arrived = result is SpanExportResult.SUCCESS and request.is_taken
        if arrived or (result is not SpanExportResult.SUCCESS and not request.is_refused):
            return result
        result = export(self._exporter, spans)
        if result is SpanExportResult.SUCCESS and self._encodes:
            self._encodes = False
            _logger.warning(
                "the collector refuses spans as they are encoded here, and takes them as the SDK "
                "encodes them: the SDK's encoder is used from now on"
            )
        return result

    def _encode(self, spans: Sequence[ReadableSpan]) -> list[EncodedSpan]:
        encoded: list[EncodedSpan] = []
        turn = Turn()
        for span in spans:
            try:
                encoded.append(self._encoder.encode(span))
            except Exception as error:
                self._leave_out(error)
            if turn.is_over:
                turn.give_way()
        return encoded

    def _leave_out(self, error: Exception) -> None:
        """The SDK would lose the whole batch."""
        if type(error) not in self._reported:
            self._reported.add(type(error))
            _logger.warning("a span cannot be encoded and is left out: %s", type(error).__name__)
