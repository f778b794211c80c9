"""Encoders of spans and of records, each with what it keeps from one to the next."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.model import semconv
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.record import encode_record, encode_recorded
from otel_lifecycle.telemetry.otlp.request import EncodedSpan, encode_resource, encode_scope
from otel_lifecycle.telemetry.otlp.span import encode_span
from otel_lifecycle.telemetry.spans import Recorded
from otel_lifecycle.version import __version__

_MOST_OWNERS = 256
_MOST_RESOURCES = 256
_MOST_ENDPOINTS = 4_096


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
            message = encode_recorded(span, recorded)
        else:
            message = encode_span(span)
        resource, scope = span.resource, span.instrumentation_scope
        kept = self._kept.get(id(resource))
        first = self._keep(resource, encode_resource(resource)) if kept is None else kept[1]
        kept = self._kept.get(id(scope))
        second = self._keep(scope, encode_scope(scope)) if kept is None else kept[1]
        return first, second, message

    def _keep(self, owner: object, encoded: bytes) -> bytes:
        if len(self._kept) >= _MOST_OWNERS:
            self._kept.clear()
        self._kept[id(owner)] = owner, encoded
        return encoded


class RecordEncoder:
    """Encodes records as the spans that they were; keeps what several have in common.

    Not thread-safe.

    Args:
        details: Which optional attributes to add.
        resource: Attributes of the resource beside those that a record keeps.

    Attributes:
        resources: The resources seen last, encoded.
        endpoints: The state of the endpoints seen last.
    """

    def __init__(self, details: Details, resource: Mapping[str, AttributeValue] | None) -> None:
        self._details = details
        self._resource = dict(resource or {})
        scope = InstrumentationScope(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
        self._scope = encode_scope(scope)
        self.resources: dict[tuple[str, ...], bytes] = {}
        self.endpoints: dict[tuple[str, str, str, str], _Endpoint] = {}

    def encode(self, record: LifecycleRecord) -> EncodedSpan:
        """Encode a record; raises what `encode_record` does."""
        message = encode_record(record, self._details, self._views(record.selected_route))
        key = (*record.resource, *record.resource.values())
        resource = self.resources.get(key)
        if resource is None:
            if len(self.resources) >= _MOST_RESOURCES:
                self.resources.clear()
            attributes = {**self._resource, **record.resource}
            resource = self.resources[key] = encode_resource(Resource(attributes))
        return resource, self._scope, message

    def _views(self, route: RouteSnapshot | None) -> Mapping[str, _Endpoint]:
        if route is None:
            return {}
        return {
            role: self._endpoint(snapshot)
            for role, snapshot in (
                ("leader", route.leader),
                ("prefill", route.prefill),
                ("decode", route.decode),
            )
            if snapshot is not None
        }

    def _endpoint(self, snapshot: EndpointSnapshot) -> _Endpoint:
        key = snapshot.id, snapshot.address, snapshot.port, snapshot.name
        kept = self.endpoints.get(key)
        if kept is None or kept.metrics != snapshot.metrics or kept.npu != snapshot.npu:
            if len(self.endpoints) >= _MOST_ENDPOINTS:
                self.endpoints.clear()
            kept = self.endpoints[key] = _Endpoint(snapshot)
        return kept


class _Endpoint:
    """What records say of an endpoint between two scrapes of it."""

    __slots__ = ("attributes", "metrics", "npu")

    def __init__(self, snapshot: EndpointSnapshot) -> None:
        self.metrics = snapshot.metrics
        self.npu = snapshot.npu
        self.attributes: dict[Hashable, Any] = {}
