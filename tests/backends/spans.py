"""Spans from any source as plain values that can be compared."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from google.protobuf.json_format import ParseDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from otel_lifecycle import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.span_reader import RESOURCE_KEYS
from otel_lifecycle.telemetry.spans import span_from_record

PlainSpan: TypeAlias = "dict[str, Any]"

_HEX_FIELDS = ("traceId", "spanId", "parentSpanId")


def traces_data(content: Any) -> TracesData:
    """Parse OTLP's JSON, which has hexadecimal ids where protobuf's JSON has base64."""
    return ParseDict(_with_base64_ids(content), TracesData(), ignore_unknown_fields=True)


def plain_spans(traces: TracesData) -> list[PlainSpan]:
    """Return each span with its resource and scope, by start."""
    spans = [
        {
            "resource": _attributes(resource.resource.attributes),
            "scope": (scope.scope.name, scope.scope.version),
            "name": span.name,
            "kind": span.kind,
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_span_id": span.parent_span_id.hex(),
            "trace_state": span.trace_state,
            "start": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "attributes": _attributes(span.attributes),
            "events": [
                (event.time_unix_nano, event.name, _attributes(event.attributes))
                for event in span.events
            ],
            "status": span.status.code,
        }
        for resource in traces.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    return sorted(spans, key=lambda span: (span["start"], span["span_id"]))


def as_recorded(traces: TracesData) -> list[PlainSpan]:
    """The same with only those resource attributes that a record has."""
    return [
        {**span, "resource": {key: span["resource"].get(key) for key in RESOURCE_KEYS}}
        for span in plain_spans(traces)
    ]


def recorded_spans(records: Iterable[LifecycleRecord]) -> list[PlainSpan]:
    """Return the spans that the records describe."""
    spans = [span_from_record(record, Details()) for record in records]
    return plain_spans(TracesData(resource_spans=encode_spans(spans).resource_spans))


def _with_base64_ids(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {
            key: _base64(value) if key in _HEX_FIELDS else _with_base64_ids(value)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [_with_base64_ids(item) for item in content]
    return content


def _base64(hexadecimal: str) -> str:
    return b64encode(bytes.fromhex(hexadecimal)).decode()


def _attributes(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)
