"""Encoded requests through the SDK's exporter over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_lifecycle.telemetry.otlp.transport import EncodedRequest, refuse

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# `INTERNAL` is what servers say of a message that they cannot read.
_REFUSING_CODES: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL})


def use_stub(exporter: OTLPSpanExporter, *interceptors: grpc.UnaryUnaryClientInterceptor) -> None:
    """Have an exporter send encoded requests, too.

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


def prepare(exporter: object) -> bool:
    """Have an exporter send encoded requests, too, and notice refusals.

    Returns:
        False, if it is a subclass; nothing has changed then.

    Raises:
        AttributeError: It keeps its channel elsewhere; nothing has changed.
    """
    if type(exporter) is not OTLPSpanExporter:
        return False
    if "_translate_data" not in vars(exporter):  # not prepared before
        use_stub(exporter, _Refusals())
    return True


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


class _Refusals(grpc.UnaryUnaryClientInterceptor):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
    """Notices a refusal."""

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        call = continuation(client_call_details, request)
        if call.code() in _REFUSING_CODES:
            refuse()
        return call
