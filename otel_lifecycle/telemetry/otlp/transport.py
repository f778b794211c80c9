"""Encoded requests through the SDK's own OTLP exporters.

Endpoint, headers, certificates, credentials, time-outs, retries and logs stay those of the
exporter, in every version of it: it is given a batch of spans of which it encodes none, and our
bytes take the place of the empty message that it sends.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
import requests
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

GRPC = "grpc"
HTTP_PROTOBUF = "http/protobuf"

_PROTOCOL_VARIABLES = (OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL)
_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_GZIP = 31  # zlib's largest window, with the header of gzip
_FASTEST = 1  # of zlib's levels: a third of the CPU of the default, for a tenth more bytes


def protocol() -> str:
    """Return the protocol that OpenTelemetry's variables ask for.

    Raises:
        ValueError: It is unknown; the text names variable, value and what is allowed.
    """
    name = next(filter(os.environ.get, _PROTOCOL_VARIABLES), None)
    asked = os.environ[name].strip() if name else GRPC
    if asked not in (GRPC, HTTP_PROTOBUF):
        raise ValueError(f"{name}: must be {GRPC} or {HTTP_PROTOBUF}, got {asked!r}")
    return asked


class EncodedRequest(Sequence[ReadableSpan]):
    """A batch as an exporter is given it: as many spans as there are, and none to encode.

    Args:
        body: The request.
        spans: How many spans are in it.

    Attributes:
        is_taken: Whether the body was sent, or tried to.
        is_refused: Whether a collector has said that it will not take it.
    """

    def __init__(self, body: bytes, spans: int) -> None:
        self._body = body
        self._spans = spans
        self.is_taken = False
        self.is_refused = False

    def __len__(self) -> int:
        return self._spans

    def __getitem__(self, index: Any) -> NoReturn:
        raise IndexError

    def take(self) -> bytes:
        """Return the request, to send it."""
        self.is_taken = True
        return self._body


_current: ContextVar[EncodedRequest | None] = ContextVar("otlp_request", default=None)


def send(exporter: SpanExporter, request: EncodedRequest) -> SpanExportResult:
    """Export a request through an exporter whose session or stub is one of these."""
    token = _current.set(request)
    try:
        # Not by the instance, whose `export` may be ours.
        return type(exporter).export(exporter, request)
    finally:
        _current.reset(token)


def refuse() -> None:
    """The collector will not take the request that is being sent."""
    request = _current.get()
    if request is not None:
        request.is_refused = True


class EncodedBodies(requests.Session):
    """A session that sends the current request, compressed as the exporter's header says."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request, with our body if there is one; older exporters follow redirects."""
        current = _current.get()
        pack = _PACKERS.get(str(request.headers.get("content-encoding", "identity")))
        if current is not None and pack is not None and request.method == "POST":
            request.body = pack(current.take())
            request.headers["Content-Length"] = str(len(request.body))
        return super().send(request, **kwargs)


def use_stub(exporter: GrpcExporter, *interceptors: grpc.UnaryUnaryClientInterceptor) -> None:
    """Has an exporter send encoded requests, too; it must have no call under way.

    Raises:
        AttributeError: The exporter keeps its channel elsewhere.
    """

    def stub(channel: grpc.Channel) -> _Stub:
        return _Stub(grpc.intercept_channel(channel, *interceptors))

    members: Any = exporter
    client = stub(members._channel)
    translate: Callable[[object], object] = members._translate_data

    def message(data: object) -> object:
        return data if isinstance(data, EncodedRequest) else translate(data)

    members._translate_data = message
    members._stub, members._client = stub, client


class _Stub:
    """What the exporters call, as the generated `TraceServiceStub`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.Export = channel.unary_unary(
            _METHOD,
            request_serializer=_serialize,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )


def _serialize(request: EncodedRequest | ExportTraceServiceRequest) -> bytes:
    return request.take() if isinstance(request, EncodedRequest) else request.SerializeToString()


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
    return packer.compress(body) + packer.flush()


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body, _FASTEST)


_PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": _gzip,
    "deflate": _deflate,
}
