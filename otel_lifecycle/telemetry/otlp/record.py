"""A record as an OTLP span, without making the span.

What puts attributes on a span is compiled once more, to write bytes instead of a dictionary.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, TraceState

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.span import (
    SPAN_KEYS,
    encode_event,
    encode_links,
    encode_trace_state,
    join,
    join_span,
)
from otel_lifecycle.telemetry.otlp.wire import SMALL, Texts, int64, pack_double
from otel_lifecycle.telemetry.setters.record import (
    NO_VIEWS,
    KeptAttributes,
    Moments,
    RecordSetters,
)
from otel_lifecycle.telemetry.spans import (
    Recorded,
    end_attributes,
    moments,
    span_events,
    span_kind,
    span_name,
    start_attributes,
)

_STATUS_UNSET, _STATUS_ERROR = b"\x7a\x00", b"\x7a\x02\x18\x02"
_STATES = Texts(lambda header: encode_trace_state(TraceState.from_header([header])))


def encode_record(
    record: LifecycleRecord, details: Details, views: Mapping[str, KeptAttributes] = NO_VIEWS
) -> bytes:
    """Return the message of the span that `span_from_record` makes of a record.

    Args:
        record: A record that was read.
        details: Which optional attributes to add.
        views: The endpoints of its route, by role: they keep what other records say of them too.

    Raises:
        ValueError: The record has no trace id or span id, or one that is not valid.
        OverflowError: An id is too long.
    """
    if record.trace_id is None or record.span_id is None:
        raise ValueError("the record has no traceId or spanId: its request was not traced")
    trace_id, span_id = _id(record.trace_id, 16), _id(record.span_id, 8)
    if not any(trace_id) or not any(span_id):
        raise ValueError("traceId or spanId is not valid")
    parent_id = None if record.parent_span_id is None else _id(record.parent_span_id, 8)
    at, kind = moments(record), span_kind(record)
    return join(
        trace_id,
        span_id,
        _STATES[record.trace_state] if record.trace_state else b"",
        parent_id,
        parent_id is not None and kind is SpanKind.SERVER,
        span_name(record.model),
        kind.value,
        at.begins_ns,
        at.completed_ns or 0,
        (*_attribute_fields(record, at, details, views), *_event_fields(record, at)),
        _STATUS_UNSET if record.error is None else _STATUS_ERROR,
    )


def encode_recorded(span: ReadableSpan, recorded: Recorded) -> bytes:
    """Return the message of a span that says what a record says.

    Raises:
        ValueError: It has no context, or half a character in its name.
    """
    record, at = recorded.record, recorded.at
    return join_span(
        span,
        (
            *_attribute_fields(record, at, recorded.details, recorded.views),
            *_event_fields(record, at),
            *encode_links(span),
        ),
    )


def _attribute_fields(
    record: LifecycleRecord,
    at: Moments,
    details: Details,
    views: Mapping[str, KeptAttributes],
) -> list[bytes]:
    """The attributes of a record; the arguments are those of `end_attributes`."""
    fields = _Fields()
    try:
        _SETTERS.put_all(fields, record, at, details, views)
    except Exception:  # a sum of more than 64 bits: the others are exported without it
        fields = _Fields()
        attributes = start_attributes(record) | end_attributes(record, at, details)
        SPAN_KEYS.put(fields.out, attributes)
    return fields.parts


def _event_fields(record: LifecycleRecord, at: Moments) -> list[bytes]:
    """The events of a record."""
    return [
        encode_event(name, at_ns, attributes) for name, at_ns, attributes in span_events(record, at)
    ]


def _id(text: str, length: int) -> bytes:
    with suppress(ValueError):
        decoded = unhexlify(text)
        if len(decoded) == length:
            return decoded
    return int(text, 16).to_bytes(length, "big")


class _Fields:
    """Encoded attributes of a span; `out` adds to `parts`."""

    __slots__ = ("out", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.out = self.parts.append

    def __setitem__(self, name: str, value: Any) -> None:
        SPAN_KEYS.put_one(self.out, name, value)

    def update(self, others: _Fields) -> None:
        """Add the attributes of others, which are joined for the next time."""
        if len(others.parts) > 1:
            others.parts = [b"".join(others.parts)]
        self.parts += others.parts


class _Encoding:
    """Has setters encode attributes as they put them into `_Fields`."""

    def __init__(self) -> None:
        self.names: dict[str, object] = {
            "SMALL": SMALL,
            "int64": int64,
            "pack_double": pack_double,
        }

    def statements(self, name: str, kind: str, value: str) -> Iterator[str]:
        key = SPAN_KEYS[name]
        constant = f"{kind.removesuffix('[]')}_{len(self.names)}"
        if kind == "string":
            self.names[constant] = key.texts
            yield f"a.out({constant}[{value}])"
        elif kind == "double":
            self.names[constant] = key.double
            yield f"n = pack_double({value})"
            yield f"a.out({constant})"
            yield "a.out(n)"
        elif kind == "int":
            self.names[constant] = key.ints
            yield f"n = {value}"
            yield f"n = SMALL[n] if 0 <= n < {len(SMALL)} else int64(n)"
            yield f"a.out({constant}[len(n)])"
            yield "a.out(n)"
        else:
            yield f"a[{name!r}] = {value}"


_ENCODING = _Encoding()
_SETTERS = RecordSetters(_Fields, _ENCODING)
