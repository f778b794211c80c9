"""An OTLP exporter that encodes spans as bytes, and has the SDK's own exporters do so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grpc
import requests
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.telemetry.otlp.encoders import SpanEncoder
from otel_lifecycle.telemetry.otlp.request import EncodedSpan, encode_request
from otel_lifecycle.telemetry.otlp.transport import (
    GRPC,
    EncodedBodies,
    EncodedRequest,
    protocol,
    refuse,
    send,
    use_stub,
)

_logger = get_logger(__name__)

# What a collector says that cannot read a request, or does not want what it has read.
_REFUSING_STATUS: Final = frozenset({400, 415, 422})
_REFUSING_CODES: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL})

# The router's threads wait for the interpreter's lock no longer than it takes to encode a few.
_SLICE: Final = 8
_PAUSE_SECONDS: Final = 0.0001


class LifecycleSpanExporter(SpanExporter):
    """Exports any spans over OTLP: `OTEL_TRACES_EXPORTER=otlp_lifecycle`. Thread-safe.

    It is the SDK's exporter, for gRPC or HTTP, with another encoder: it is set up by the same
    variables, and behaves and logs alike.

    Raises:
        ValueError: `OTEL_EXPORTER_OTLP_PROTOCOL` is neither `grpc` nor `http/protobuf`.
    """

    def __init__(self) -> None:
        self._exporter: Any = GrpcExporter() if protocol() == GRPC else HttpExporter()
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
    members: Any = exporter
    if "export" in vars(exporter):
        return False
    try:
        if type(exporter) is GrpcExporter:
            use_stub(exporter, _Refusals())
        elif type(exporter) is HttpExporter:
            session = _session(members)
            if type(session) is not requests.Session:
                return False
            session.__class__ = _Session
        else:
            return False
    except AttributeError:  # its inside is not what it was
        return False
    members.export = _Export(exporter)
    return True


def adopt_all(provider: object) -> list[SpanExporter]:
    """Adopt the exporters that the processors of a provider export through."""
    return [exporter for exporter in _exporters(provider) if adopt(exporter)]


def release(exporter: SpanExporter) -> None:
    """Have an adopted exporter encode spans itself again."""
    if isinstance(vars(exporter).get("export"), _Export):
        del vars(exporter)["export"]


def _exporters(provider: object) -> Iterator[SpanExporter]:
    together = getattr(provider, "_active_span_processor", None)
    for processor in getattr(together, "_span_processors", ()):
        exporter = getattr(processor, "span_exporter", None)
        if isinstance(exporter, SpanExporter):
            yield exporter


def _session(exporter: Any) -> object:
    """The session of an HTTP exporter; since version 1.44 it is within a client."""
    client = getattr(exporter, "_client", None)
    return exporter._session if client is None else client._transport._session


class _Export:
    """`export` of an adopted exporter."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._encoder = SpanEncoder()
        self._encodes = True
        self._pause = threading.Event()
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
        for number, span in enumerate(spans, 1):
            try:
                encoded.append(self._encoder.encode(span))
            except Exception as error:
                self._leave_out(error)
            if number % _SLICE == 0:
                self._pause.wait(_PAUSE_SECONDS)
        return encoded

    def _leave_out(self, error: Exception) -> None:
        """The SDK would lose the whole batch."""
        if type(error) not in self._reported:
            self._reported.add(type(error))
            _logger.warning("a span cannot be encoded and is left out: %s", type(error).__name__)


class _Session(EncodedBodies):
    """Notices a refusal."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        response = super().send(request, **kwargs)
        if response.status_code in _REFUSING_STATUS:
            refuse()
        return response


class _Refusals(grpc.UnaryUnaryClientInterceptor):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
    """Notices a refusal."""

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        call = continuation(client_call_details, request)
        if call.code() in _REFUSING_CODES:
            refuse()
        return call
