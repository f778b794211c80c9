"""Any span of the SDK as an OTLP message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Any, Final, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, Status, TraceState

from otel_lifecycle.telemetry.otlp.wire import (
    Keys,
    Texts,
    delimited,
    pack_fixed64,
    text,
    varint,
)

SPAN_KEYS: Final = Keys(b"\x4a")
_EVENT_KEYS = Keys(b"\x1a")
_LINK_KEYS = Keys(b"\x22")

_MOST_NAMES = 1_024
NAMES = Texts(lambda name: text(b"\x2a", name), _MOST_NAMES)
EVENT_NAMES = Texts(lambda name: text(b"\x12", name), _MOST_NAMES)
_pack_ids = Struct("<2s16s2s8s").pack
_pack_times = Struct("<sQsQ").pack
# The context's own flags are not in it, only whether it is one of another process.
_LOCAL, _REMOTE = b"\x00\x01\x00\x00", b"\x00\x03\x00\x00"
_NO_ATTRIBUTES: Mapping[str, Any] = {}


def encode_span(span: ReadableSpan) -> bytes:
    """Return the message of a span.

    Raises:
        Exception: It has no message: no context, a time before 1970, half a character in a name.
    """
    fields: list[bytes] = []
    SPAN_KEYS.put(fields.append, _plain(span.attributes))
    fields.append(_count(b"\x50", span.dropped_attributes))
    fields += [
        encode_event(
            event.name, event.timestamp, _plain(event.attributes), event.dropped_attributes
        )
        for event in span.events
    ]
    fields.append(_count(b"\x60", span.dropped_events))
    fields += encode_links(span)
    return join_span(span, fields)


def join(
    trace_id: bytes,
    span_id: bytes,
    trace_state: bytes,
    parent_id: bytes | None,
    parent_is_remote: bool,
    name: str,
    kind: int,
    started_ns: int,
    ended_ns: int,
    fields: Iterable[bytes],
    status: bytes,
) -> bytes:
    """Return the message of a span; `trace_state`, `fields` and `status` are encoded already."""
    return b"".join(
        (
            _pack_ids(b"\x0a\x10", trace_id, b"\x12\x08", span_id),
            trace_state,
            b"" if parent_id is None else b"\x22\x08" + parent_id,
            NAMES[name],
            b"\x30",
            varint(kind + 1),
            _pack_times(b"\x39", started_ns, b"\x41", ended_ns),
            *fields,
            status,
            b"\x85\x01",
            _REMOTE if parent_is_remote else _LOCAL,
        )
    )


def join_span(span: ReadableSpan, fields: Iterable[bytes]) -> bytes:
    """Return the message of a span; its `fields` are encoded already.

    Raises:
        ValueError: It has no context, or half a character in its name.
    """
    context, parent = span.context, span.parent
    if context is None:
        raise ValueError("has no context")
    return join(
        context.trace_id.to_bytes(16, "big"),
        context.span_id.to_bytes(8, "big"),
        encode_trace_state(context.trace_state),
        None if parent is None else parent.span_id.to_bytes(8, "big"),
        parent is not None and parent.is_remote,
        span.name,
        span.kind.value,
        span.start_time or 0,
        span.end_time or 0,
        fields,
        encode_status(span.status),
    )


def encode_trace_state(state: TraceState | None) -> bytes:
    """Return the field of a trace state; empty without one."""
    if not state:
        return b""
    return text(b"\x1a", ",".join([f"{key}={value}" for key, value in state.items()]))


def encode_links(span: ReadableSpan) -> list[bytes]:
    """Return the fields of the links of a span, and of how many it has lost."""
    return [*map(_link, span.links), _count(b"\x70", span.dropped_links)]


def encode_status(status: Status | None) -> bytes:
    """Return the field of a status; empty without one."""
    if status is None:
        return b""
    code = status.status_code.value
    body = text(b"\x12", status.description) if status.description else b""
    if code:
        body += b"\x18" + varint(code)
    return delimited(b"\x7a", body)


def encode_event(name: str, at_ns: int, attributes: Mapping[str, Any], dropped: int = 0) -> bytes:
    """Return the field of an event."""
    parts = [b"\x09", pack_fixed64(at_ns), EVENT_NAMES[name]]
    _EVENT_KEYS.put(parts.append, attributes)
    if dropped:
        parts.append(_count(b"\x20", dropped))
    return delimited(b"\x5a", b"".join(parts))


def _link(link: Link) -> bytes:
    context = link.context
    parts = [
        _pack_ids(
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
        )
    ]
    _LINK_KEYS.put(parts.append, _plain(link.attributes))
    parts += (
        _count(b"\x28", link.dropped_attributes),
        b"\x35",
        _REMOTE if context.is_remote else _LOCAL,
    )
    return delimited(b"\x6a", b"".join(parts))


def _count(tag: bytes, number: int) -> bytes:
    return tag + varint(number) if number else b""


def _plain(attributes: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A dictionary of attributes: the SDK's own mapping reads them one by one, under a lock."""
    if not attributes:
        return _NO_ATTRIBUTES
    copy = getattr(attributes, "copy", None)
    return cast("Mapping[str, Any]", copy()) if copy is not None else attributes
