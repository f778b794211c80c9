"""What the SDK's encoder makes of spans, and ours, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

from otel_lifecycle.telemetry.otlp.encoders import SpanEncoder
from otel_lifecycle.telemetry.otlp.request import EncodedSpan, encode_request


def stock(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """The request that the SDK's exporters make."""
    return encode_spans(spans)


def ours(spans: Iterable[ReadableSpan]) -> ExportTraceServiceRequest:
    """Our request, read by protobuf."""
    encoder = SpanEncoder()
    return parsed(map(encoder.encode, spans))


def parsed(spans: Iterable[EncodedSpan]) -> ExportTraceServiceRequest:
    """A request of encoded spans, read by protobuf."""
    return ExportTraceServiceRequest.FromString(encode_request(spans))


def exact(request: ExportTraceServiceRequest) -> bytes:
    """The one encoding of a message that protobuf has: NaN is not equal to itself."""
    return request.SerializeToString(deterministic=True)


def sorted_attributes(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """The same with the attributes of each span in the order of their names; none is lost."""
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                span.attributes.sort(key=lambda attribute: attribute.key)
    return request
