"""A record as a span, and back.

Attributes and events are a function of the record. The live span gets those a sampler may want
when it starts and all others in one call when it ends, so that nothing a reroute made untrue stays
on it, a request in flight holds little memory, and an unsampled request builds none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.model import InputTokenSource, semconv
from otel_lifecycle.model.fields import Field
from otel_lifecycle.model.record import LifecycleRecord, Reroute
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.model.timestamps import parse_timestamp
from otel_lifecycle.telemetry.attributes import (
    ASSIGNMENTS,
    Attributes,
    Details,
    Output,
    Receiver,
    Setter,
    attribute_name,
    setter,
)
from otel_lifecycle.telemetry.decision_attributes import set_decision
from otel_lifecycle.version import __version__

_NO_DETAILS = Details()


class KeptAttributes(Protocol):
    """An endpoint that keeps what several requests say of it; an `EndpointView`, for instance."""

    attributes: dict[Hashable, Any]


NO_VIEWS: Mapping[str, KeptAttributes] = MappingProxyType({})
ALL_DETAILS = Details(*(True for _ in Details._fields))

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}


class Moments(NamedTuple):
    """When a request came, was dispatched, answered first and ended; Unix nanoseconds.

    Attributes:
        begins_ns: Its arrival; its dispatch if that is unknown. The span begins here.
        dispatched_ns: Its dispatch, if the arrival is known and there was one.
    """

    begins_ns: int
    dispatched_ns: int | None
    first_chunk_ns: int | None
    completed_ns: int | None


class Recorded(NamedTuple):
    """What attributes and events of a span are made of.

    Those of a span whose `recorded` is one of these say what the record says, and nothing else, and
    lost nothing to a limit. An exporter need not read them then.

    Attributes:
        record: The finished request.
        at: Its moments.
        details: The optional attributes that the span has.
        views: The endpoints of its route, by role.
    """

    record: LifecycleRecord
    at: Moments
    details: Details
    views: Mapping[str, KeptAttributes] = NO_VIEWS


def moments(record: LifecycleRecord) -> Moments:
    """Those of a record that was read: the live request still has the numbers themselves."""
    first, completed = record.first_chunk_at, record.completed_at
    started_ns, received_at = parse_timestamp(record.started_at), record.received_at
    return Moments(
        started_ns if received_at is None else parse_timestamp(received_at),
        None if record.actual.queue_ms is None else started_ns,
        None if first is None else parse_timestamp(first),
        None if completed is None else parse_timestamp(completed),
    )


def span_name(model: str) -> str:
    """`route {model}`, or `route`."""
    return f"route {model}" if model else "route"


def span_kind(record: LifecycleRecord) -> SpanKind:
    """Whether the span opens the trace in this process; a parent of a server's is remote."""
    return _KINDS.get(record.span_kind or "", SpanKind.SERVER)


def start_attributes(record: LifecycleRecord) -> Attributes:
    """What a sampler sees."""
    attributes: Attributes = {}
    _set_start(attributes, record, 0, _NO_DETAILS)
    return attributes


def end_attributes(
    record: LifecycleRecord,
    at: Moments,
    details: Details = _NO_DETAILS,
    views: Mapping[str, KeptAttributes] = NO_VIEWS,
) -> Attributes:
    """All other attributes of a finished request.

    Args:
        record: The finished request.
        at: Its moments.
        details: Which optional attributes to add.
        views: The endpoints of its route, by role: they keep what other requests to them will say
            too.
    """
    attributes: Attributes = {}
    _SETTERS.put_end(attributes, record, at, details, views)
    return attributes


def span_events(record: LifecycleRecord, at: Moments) -> list[tuple[str, int, Attributes]]:
    """Name, Unix nanoseconds and attributes of each event, in order of time."""
    events: list[tuple[str, int, Attributes]] = [
        (
            semconv.EVENT_REROUTED,
            parse_timestamp(reroute.at),
            _reroute_attributes(reroute),
        )
        for reroute in record.rerouted
    ]
    if at.dispatched_ns is not None:
        events.insert(0, (semconv.EVENT_DISPATCH, at.dispatched_ns, {}))
    if at.first_chunk_ns is not None:
        events.append((semconv.EVENT_FIRST_CHUNK, at.first_chunk_ns, {}))
    events.sort(key=lambda event: event[1])
    if at.completed_ns is not None:
        completion: Attributes = {semconv.OUTCOME: record.outcome.value}
        if record.output_length is not None:
            completion[semconv.OUTPUT_TOKENS] = record.output_length
        if record.served_endpoint is not None:
            completion[semconv.ROUTE_SERVED_ID] = record.served_endpoint
        events.append((semconv.EVENT_COMPLETION, at.completed_ns, completion))
    return events


def server_attributes(endpoint: EndpointSnapshot) -> Attributes:
    """Where an endpoint is, in OpenTelemetry's words."""
    attributes: Attributes = {}
    _set_server(attributes, endpoint)
    return attributes


def _set_server(attributes: Receiver, endpoint: EndpointSnapshot) -> None:
    if endpoint.address:
        attributes[semconv.SERVER_ADDRESS] = endpoint.address
    if endpoint.port.isdecimal() and len(endpoint.port) <= 5:
        attributes[semconv.SERVER_PORT] = int(endpoint.port)
    if endpoint.id.startswith("pod://"):
        namespace, _, pod = endpoint.id.removeprefix("pod://").partition("/")
        attributes[semconv.K8S_NAMESPACE_NAME] = namespace
        attributes[semconv.K8S_POD_NAME] = pod


def span_from_record(
    record: LifecycleRecord,
    details: Details = ALL_DETAILS,
    *,
    resource: Mapping[str, AttributeValue] | None = None,
) -> ReadableSpan:
    """The span of a finished request, ready for any exporter.

    Args:
        record: A record with trace and span id.
        details: Which optional attributes to add.
        resource: Attributes of the resource beside those that the record keeps.

    Raises:
        ValueError: The record has no trace id or span id.
    """
    if record.trace_id is None or record.span_id is None:
        raise ValueError("the record has no traceId or spanId: its request was not traced")
    at = moments(record)
    trace_id = int(record.trace_id, 16)
    flags = TraceFlags(record.trace_flags or 0)
    state = TraceState.from_header([record.trace_state]) if record.trace_state else TraceState()
    parent = None
    kind = span_kind(record)
    if record.parent_span_id is not None:
        parent = SpanContext(
            trace_id, int(record.parent_span_id, 16), kind is SpanKind.SERVER, flags, state
        )
    return ReadableSpan(
        name=span_name(record.model),
        context=SpanContext(trace_id, int(record.span_id, 16), False, flags, state),
        parent=parent,
        resource=Resource({**(resource or {}), **record.resource}),
        attributes={
            **start_attributes(record),
            **end_attributes(record, at, details),
        },
        events=[
            Event(name, attributes, at_ns) for name, at_ns, attributes in span_events(record, at)
        ],
        kind=kind,
        status=Status(StatusCode.ERROR if record.error is not None else StatusCode.UNSET),
        start_time=at.begins_ns,
        end_time=at.completed_ns,
        instrumentation_scope=InstrumentationScope(semconv.SCOPE, __version__, semconv.SCHEMA_URL),
    )


def _set_route_type(attributes: Receiver, record: LifecycleRecord, route: RouteSnapshot) -> None:
    disaggregated = route.prefill is not None
    attributes[semconv.ROUTE_TYPE] = "prefill_decode" if disaggregated else "aggregated"
    if route.decode is not None and len(record.tracked_endpoints) == 1:
        attributes[semconv.ROUTE_SHARED] = True


def _set_latency(
    attributes: Receiver, record: LifecycleRecord, route: RouteSnapshot | None
) -> None:
    actual = record.actual
    queue_ms = actual.queue_ms
    if route is None and record.received_at is not None:
        queue_ms = actual.e2e_ms
    if queue_ms is not None:
        attributes[semconv.QUEUE_DURATION] = queue_ms / 1000
    if actual.ttft_ms is not None:
        attributes[semconv.TIME_TO_FIRST_CHUNK] = actual.since_arrival(actual.ttft_ms) / 1000


def _set_served_endpoint(attributes: Receiver, record: LifecycleRecord) -> None:
    served = record.served_endpoint
    if served is not None and served != record.selected_endpoint:
        attributes[semconv.ROUTE_SERVED_ID] = served


def _set_input_token_length(attributes: Receiver, record: LifecycleRecord) -> None:
    if record.input_token_length is not None:
        estimated = record.input_token_source is InputTokenSource.ESTIMATED
        name = semconv.INPUT_TOKENS_ESTIMATE if estimated else semconv.INPUT_TOKENS
        attributes[name] = record.input_token_length


def _set_missing_feature_reasons(attributes: Receiver, record: LifecycleRecord) -> None:
    if record.missing_feature_reasons:
        attributes[semconv.MISSING_FEATURES] = tuple(
            f"{missing.pod_type}.{missing.feature}" if missing.pod_type else missing.feature
            for missing in record.missing_feature_reasons
        )
        attributes[semconv.MISSING_REASONS] = tuple(
            missing.reason.value for missing in record.missing_feature_reasons
        )


def _reroute_attributes(reroute: Reroute) -> Attributes:
    attributes: Attributes = {}
    _set_reroute(attributes, reroute, 0, _NO_DETAILS)
    return attributes


_set_start = setter(LifecycleRecord, lambda field, section, _: field.declared.at_start)
_set_reroute = setter(Reroute, lambda _field, _section, _source: True)


def _set_of(output: Output, *sections: str) -> Setter:
    """Sets what is known of these sections when the request ends."""
    return setter(
        LifecycleRecord,
        # Of what the sampler saw, what is unknown at first may have been learnt since.
        lambda field, section, _: (
            section in sections and (field.optional or not field.declared.at_start)
        ),
        by_hand={
            "decision": set_decision,
            "input_token_length": _set_input_token_length,
            "served_endpoint": _set_served_endpoint,
            "missing_feature_reasons": _set_missing_feature_reasons,
        },
        output=output,
    )


class _Role(NamedTuple):
    """What sets the attributes of an endpoint in one role of the route.

    Attributes:
        name: Of the role.
        set_shared: Sets what requests have in common until the next scrape.
        set_own: Sets the rest: load, and the age of what was scraped.
    """

    name: str
    set_shared: Setter
    set_own: Setter


def _is_own(field: Field, source: str) -> bool:
    return source == "load" or field.kind == "moment"


def _role(name: str, output: Output) -> _Role:
    prefix = attribute_name("selected_route", name)
    return _Role(
        name,
        setter(
            EndpointSnapshot,
            lambda field, _, source: not _is_own(field, source),
            prefix,
            output=output,
        ),
        setter(
            EndpointSnapshot, lambda field, _, source: _is_own(field, source), prefix, output=output
        ),
    )


_Set = TypeVar("_Set", bound=Receiver)


class RecordSetters(Generic[_Set]):
    """Sets what a record says at its end, in one form.

    Args:
        new: Makes an empty set of attributes.
        output: How it is given attributes.
    """

    def __init__(self, new: Callable[[], _Set], output: Output) -> None:
        self._new = new
        self._set_request = _set_of(output, "request")
        self._set_route = _set_of(output, "route", "decision", "load")
        self._set_result = _set_of(output, "prediction", "result")
        self._set_legs = _set_of(output, "leg")
        self._roles = tuple(_role(name, output) for name in RouteSnapshot.__struct_fields__)

    def put_end(
        self,
        attributes: _Set,
        record: LifecycleRecord,
        at: Moments,
        details: Details,
        views: Mapping[str, KeptAttributes],
    ) -> None:
        """Sets the attributes of `end_attributes`, which has the same arguments."""
        started_ns = at.begins_ns if at.dispatched_ns is None else at.dispatched_ns
        self._set_request(attributes, record, started_ns, details)
        route = record.selected_route
        if route is not None:
            _set_route_type(attributes, record, route)
            self._set_route(attributes, record, started_ns, details)
            # A reroute has taken a new snapshot.
            rerouted = record.rerouted
            dispatched_ns = parse_timestamp(rerouted[-1].at) if rerouted else started_ns
            for role in self._roles:
                snapshot: EndpointSnapshot | None = getattr(route, role.name)
                if snapshot is not None:
                    view = views.get(role.name)
                    if view is None:
                        self._set_shared(attributes, role, snapshot, details)
                    else:
                        attributes.update(self._kept(role, snapshot, details, view))
                    role.set_own(attributes, snapshot, dispatched_ns, details)
        self._set_result(attributes, record, started_ns, details)
        self._set_legs(attributes, record, at.begins_ns, details)
        _set_latency(attributes, record, route)

    def _kept(
        self, role: _Role, snapshot: EndpointSnapshot, details: Details, view: KeptAttributes
    ) -> _Set:
        """The part that stays the same until the next scrape, kept for the requests until then."""
        # As the leader of a pair an endpoint is only identified.
        key = self._new, role.name, snapshot.metrics is None and snapshot.npu is None, details
        kept = view.attributes.get(key)
        if kept is None:
            kept = self._new()
            self._set_shared(kept, role, snapshot, details)
            view.attributes[key] = kept
        return kept

    def _set_shared(
        self, attributes: _Set, role: _Role, snapshot: EndpointSnapshot, details: Details
    ) -> None:
        role.set_shared(attributes, snapshot, 0, details)
        if role.name == "leader":
            _set_server(attributes, snapshot)


_SETTERS = RecordSetters[Attributes](dict, ASSIGNMENTS)
