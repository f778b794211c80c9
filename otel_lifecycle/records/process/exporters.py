"""Takes spans from the router's exporter, where a process can send them as it would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, cast

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter

from otel_lifecycle.records.process.handover import Handover
from otel_lifecycle.records.process.orders import Export
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.destinations import GRPC, HTTP_PROTOBUF

_PROTOCOLS: Final = {
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter": GRPC,
    "opentelemetry.exporter.otlp.proto.http.trace_exporter": HTTP_PROTOBUF,
}
_DEEPEST: Final = 6
# What adoption and `shutdown` change, and what differs from one to the next.
_CHANGING: Final = frozenset(
    {
        "export",
        "adapters",
        "_lock",
        "_logger",
        "_metrics",
        "_shutdown",
        "_shutdown_in_progress",
        "_shutdown_is_occuring",
        "_shutdown_event",
    }
)
_CHANGING_GRPC: Final = _CHANGING | {"_channel", "_client", "_stub", "_translate_data"}
_PLAIN: Final = (str, bytes, int, float, Enum, type(None))

_taken_from: list[tuple[object, SpanProcessor]] = []


def hand_over(provider: object, handover: Handover, details: Details, user: object) -> None:
    """Hand spans over that a provider would export over OTLP as OpenTelemetry's variables say.

    An exporter that was set up in another way, any other exporter and any other processor keep
    theirs.

    Args:
        provider: The provider, of any kind.
        handover: Which spans.
        details: The optional attributes that they have.
        user: Who wants it, until `take_back`.
    """
    for processor in _processors(provider):
        own = vars(processor)
        on_end = own.get("on_end")
        if on_end is None:
            export = _export_of(provider, processor.span_exporter, details)
            if export is None:
                continue
            handover.export = export
            own["on_end"] = on_end = _OnEnd(processor, handover)
        if isinstance(on_end, _OnEnd) and on_end.handover is handover:
            _taken_from.append((user, processor))
            return


def take_back(user: object) -> None:
    """Leave all spans to the router's exporter again, once nobody wants it otherwise."""
    released = [processor for owner, processor in _taken_from if owner is user]
    _taken_from[:] = [entry for entry in _taken_from if entry[0] is not user]
    for processor in released:
        if all(kept is not processor for _, kept in _taken_from):
            vars(processor).pop("on_end", None)


class _OnEnd:
    """`on_end` of a processor some of whose spans are handed over."""

    def __init__(self, processor: SpanProcessor, handover: Handover) -> None:
        self._processor = processor
        self._pass: Callable[[SpanProcessor, ReadableSpan], None] = type(processor).on_end
        self.handover = handover

    def __call__(self, span: ReadableSpan) -> None:
        if not self.handover.takes(span):
            self._pass(self._processor, span)


def _processors(provider: object) -> Iterator[BatchSpanProcessor | SimpleSpanProcessor]:
    together = getattr(provider, "_active_span_processor", None)
    for processor in getattr(together, "_span_processors", ()):
        # A subclass may do more with a span than export it.
        if type(processor) in (BatchSpanProcessor, SimpleSpanProcessor):
            yield processor


def _export_of(provider: object, exporter: object, details: Details) -> Export | None:
    """How a process sends what an exporter would; None: it cannot."""
    sends_by = _protocol_of(exporter)
    if sends_by is None:
        return None
    resource = getattr(provider, "resource", None)
    attributes = dict(resource.attributes) if isinstance(resource, Resource) else {}
    export = Export(sends_by, details, attributes)
    try:
        msgspec.json.encode(export)
    except (TypeError, ValueError):
        return None
    return export


def _protocol_of(exporter: Any) -> str | None:
    """The protocol of an OTLP exporter that the variables set up; None: it is none."""
    # Not imported: a process that exports nothing needs no encoder.
    if type(exporter).__module__ == "otel_lifecycle.telemetry.otlp.exporter":
        exporter = exporter._exporter  # the SDK's
    known = _PROTOCOLS.get(type(exporter).__module__)
    return known if known is not None and _is_standard(exporter) else None


def _is_standard(exporter: object) -> bool:
    """Whether an exporter of the SDK is as one would be that knows only the variables."""
    if getattr(exporter, "_insecure", True) is not True:
        return False  # gRPC's credentials cannot be compared
    try:
        another = cast("type[SpanExporter]", type(exporter))()
        another.shutdown()
    except Exception:  # a variable is invalid
        return False
    return _settings(exporter) == _settings(another)


def _settings(value: Any, depth: int = 0) -> object:
    """What can be compared of an object: plain values, and those within it."""
    if isinstance(value, _PLAIN):
        return value
    if depth == _DEEPEST:
        return type(value).__name__
    if isinstance(value, Mapping):
        members = cast("Mapping[Any, Any]", value).items()
        return {str(name): _settings(each, depth + 1) for name, each in members}
    if isinstance(value, (Sequence, set, frozenset)):
        return sorted(map(repr, cast("Sequence[Any]", value)))
    own: dict[str, Any] = getattr(value, "__dict__", {})
    changing = _CHANGING_GRPC if "_channel" in own else _CHANGING
    return {name: _settings(each, depth + 1) for name, each in own.items() if name not in changing}
