"""Encoded spans, grouped into one request of OTLP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_lifecycle.telemetry.otlp.wire import Keys, delimited, text, varint

_RESOURCE_KEYS = Keys(b"\x0a")
_SCOPE_KEYS = Keys(b"\x1a")


EncodedSpan: TypeAlias = tuple[bytes, bytes, bytes]
"""A span, and what it belongs to: beginnings of `ResourceSpans` and `ScopeSpans`, and a `Span`."""


def encode_request(spans: Iterable[EncodedSpan]) -> bytes:
    """Return an `ExportTraceServiceRequest` of spans."""
    resources: dict[bytes, dict[bytes, list[bytes]]] = {}
    for resource, scope, message in spans:
        messages = resources.setdefault(resource, {}).setdefault(scope, [])
        messages += (b"\x12", varint(len(message)), message)
    # Joined once: a request has megabytes.
    parts: list[bytes] = []
    for resource, scopes in resources.items():
        fields = [resource]
        for scope, messages in scopes.items():
            fields += (b"\x12", varint(len(scope) + _size(messages)), scope)
            fields += messages
        parts += (b"\x0a", varint(_size(fields)))
        parts += fields
    return b"".join(parts)


def _size(parts: list[bytes]) -> int:
    return sum(map(len, parts))


def encode_resource(resource: Resource) -> bytes:
    """Return the beginning of the spans of a resource: itself, and the URL of its schema."""
    parts: list[bytes] = []
    _RESOURCE_KEYS.put(parts.append, resource.attributes)
    return delimited(b"\x0a", b"".join(parts)) + _schema(resource.schema_url)


def encode_scope(scope: InstrumentationScope | None) -> bytes:
    """Return the beginning of the spans of a scope, likewise."""
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
