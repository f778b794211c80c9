"""The log and the spans of a real picker, and what is made of them with those of its Envoy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

LOG = Path(__file__).with_name("data") / "picker.log.jsonl"
SPANS = Path(__file__).with_name("data") / "picker_spans.jsonl"


def spans() -> list[dict[str, Any]]:
    """The spans, in the order in which they ended."""
    return [json.loads(line) for line in SPANS.read_text("utf-8").splitlines()]


def export(spans: Iterable[dict[str, Any]]) -> ExportTraceServiceRequest:
    """Spans as a picker sends them."""
    request = ExportTraceServiceRequest()
    sent = request.resource_spans.add().scope_spans.add().spans
    for each in spans:
        span = sent.add(
            name=each["name"],
            trace_id=bytes.fromhex(each["trace"]),
            span_id=bytes.fromhex(each["span"]),
            parent_span_id=bytes.fromhex(each["parent"]),
            start_time_unix_nano=each["start"],
            end_time_unix_nano=each["start"] + round(each["dur_ms"] * 1e6),
        )
        for key, value in each["attrs"].items():
            _set(span.attributes.add(key=key).value, value)
    return request


def _set(attribute: AnyValue, value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _set(attribute.array_value.values.add(), each)
    else:
        kinds = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
        setattr(attribute, kinds[type(value)], value)
