"""Encoded spans, grouped into one request of OTLP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.model import semconv
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.record import attribute_fields, encode_record, event_fields
from otel_lifecycle.telemetry.otlp.span import encode_span
from otel_lifecycle.telemetry.otlp.wire import Keys, delimited, text
from otel_lifecycle.telemetry.spans import Recorded
from otel_lifecycle.version import __version__

_MOST_KEPT = 256

_RESOURCE_KEYS = Keys(b"\x0a")
_SCOPE_KEYS = Keys(b"\x1a")


class EncodedSpan(NamedTuple):
    """A span as bytes, and what it belongs to.

    Attributes:
        resource: The beginning of a `ResourceSpans`.
        scope: The beginning of a `ScopeSpans`.
        message: The `Span`.
    """

    resource: bytes
    scope: bytes
    message: bytes


def encode_request(spans: Iterable[EncodedSpan]) -> bytes:
    """Return an `ExportTraceServiceRequest` of spans."""
    resources: dict[bytes, dict[bytes, list[bytes]]] = {}
    for resource, scope, message in spans:
        messages = resources.setdefault(resource, {}).setdefault(scope, [])
        messages.append(delimited(b"\x12", message))
    parts: list[bytes] = []
    for resource, scopes in resources.items():
        fields = [
            delimited(b"\x12", scope + b"".join(messages)) for scope, messages in scopes.items()
        ]
        parts.append(delimited(b"\x0a", resource + b"".join(fields)))
    return b"".join(parts)


class SpanEncoder:
    """Encodes the spans of a process; keeps what they belong to. Thread-safe."""

    def __init__(self) -> None:
        # By identity: to compare resources costs more than to encode a span. Each entry keeps its
        # object, so that no other one takes the identity over.
        self._kept: dict[int, tuple[object, bytes]] = {}

    def encode(self, span: ReadableSpan) -> EncodedSpan:
        """Encode a span, from its record where it says nothing else.

        Raises:
            Exception: It cannot be encoded; `encode_span` has the reasons.
        """
        recorded = getattr(span, "recorded", None)
        if isinstance(recorded, Recorded):
            record, at, details, views = recorded
            message = encode_span(
                span,
                attribute_fields(record, at, details, views),
                event_fields(record, at),
            )
        else:
            message = encode_span(span)
        resource, scope = span.resource, span.instrumentation_scope
        return EncodedSpan(
            self._find(resource) or self._keep(resource, _encode_resource(resource)),
            self._find(scope) or self._keep(scope, _encode_scope(scope)),
            message,
        )

    def _find(self, owner: object) -> bytes | None:
        kept = self._kept.get(id(owner))
        return None if kept is None else kept[1]

    def _keep(self, owner: object, encoded: bytes) -> bytes:
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[id(owner)] = owner, encoded
        return encoded


class RecordEncoder:
    """Encodes records as the spans that they were; keeps what these belong to. Not thread-safe.

    Args:
        details: Which optional attributes to add.
        resource: Attributes of the resource beside those that a record keeps.
    """

    def __init__(self, details: Details, resource: Mapping[str, AttributeValue] | None) -> None:
        self._details = details
        self._resource = dict(resource or {})
        self.kept: dict[tuple[str, ...], bytes] = {}
        scope = InstrumentationScope(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
        self._scope = _encode_scope(scope)

    def encode(self, record: LifecycleRecord) -> EncodedSpan:
        """Encode a record; raises what `encode_record` does."""
        message = encode_record(record, self._details)
        key = (*record.resource, *record.resource.values())
        resource = self.kept.get(key)
        if resource is None:
            if len(self.kept) >= _MOST_KEPT:
                self.kept.clear()
            attributes = {**self._resource, **record.resource}
            resource = self.kept[key] = _encode_resource(Resource(attributes))
        return EncodedSpan(resource, self._scope, message)


def _encode_resource(resource: Resource) -> bytes:
    """The beginning of the spans of a resource: itself, and the URL of its schema."""
    parts: list[bytes] = []
    _RESOURCE_KEYS.put(parts.append, resource.attributes)
    return delimited(b"\x0a", b"".join(parts)) + _schema(resource.schema_url)


def _encode_scope(scope: InstrumentationScope | None) -> bytes:
    """The beginning of the spans of a scope, likewise."""
    if scope is None:
        return delimited(b"\x0a", b"")
    parts = [
        text(tag, value)
        for tag, value in ((b"\x0a", scope.name), (b"\x12", scope.version))
        if value
    ]
    if scope.attributes:
        _SCOPE_KEYS.put(parts.append, scope.attributes)
    return delimited(b"\x0a", b"".join(parts)) + _schema(scope.schema_url)


def _schema(url: str | None) -> bytes:
    return text(b"\x1a", url) if url else b""
