"""Puts a record on its span: as attributes, or in the form of any other receiver."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from otel_lifecycle.model import InputTokenSource, semconv
from otel_lifecycle.model.fields import Field
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.model.timestamps import parse_timestamp
from otel_lifecycle.telemetry.attributes import (
    Details,
    Output,
    Receiver,
    Setter,
    attribute_name,
    setter,
)
from otel_lifecycle.telemetry.setters.decision import set_decision
from otel_lifecycle.telemetry.setters.labels import set_labels


class KeptAttributes(Protocol):
    """An endpoint that keeps what several requests say of it; an `EndpointView`, for instance."""

    attributes: dict[Hashable, Any]


NO_VIEWS: Mapping[str, KeptAttributes] = MappingProxyType({})


class Moments(msgspec.Struct, frozen=True, gc=False):
    """When a request came, was dispatched, answered first and ended; Unix nanoseconds.

    Attributes:
        begins_ns: Its arrival; its dispatch if that is unknown. The span begins here.
        dispatched_ns: Its dispatch, if the arrival is known and there was one.
    """

    begins_ns: int
    dispatched_ns: int | None
    first_chunk_ns: int | None
    completed_ns: int | None


_Set = TypeVar("_Set", bound=Receiver)


class RecordSetters(Generic[_Set]):
    """Sets what the record of a finished request says, in one form.

    Args:
        new: Makes an empty set of attributes.
        output: How it is given attributes.
    """

    def __init__(self, new: Callable[[], _Set], output: Output) -> None:
        self._new = new
        # All others are set at the end, once more.
        self._set_start = setter(
            LifecycleRecord,
            lambda field, _section, _source: field.declared.at_start and not field.optional,
            output=output,
        )
        self._set_request = _set_of(output, "request")
        self._set_route = _set_of(output, "route", "decision", "load")
        self._set_result = _set_of(output, "prediction", "result", "label", "slo")
        self._set_legs = _set_of(output, "leg")
        self._roles = tuple(_role(name, output) for name in RouteSnapshot.__struct_fields__)

    def put_all(
        self,
        attributes: _Set,
        record: LifecycleRecord,
        at: Moments,
        details: Details,
        views: Mapping[str, KeptAttributes],
    ) -> None:
        """Sets all attributes, each once; the arguments are those of `end_attributes`."""
        self._set_start(attributes, record, 0, details)
        self.put_end(attributes, record, at, details, views)

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
            set_server(attributes, snapshot)


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
            "labels": set_labels,
            "input_token_length": _set_input_token_length,
            "served_endpoint": _set_served_endpoint,
            "missing_feature_reasons": _set_missing_feature_reasons,
        },
        output=output,
    )


def set_server(attributes: Receiver, endpoint: EndpointSnapshot) -> None:
    """Sets where an endpoint is, in OpenTelemetry's words."""
    if endpoint.address:
        attributes[semconv.SERVER_ADDRESS] = endpoint.address
    if endpoint.port.isdecimal() and len(endpoint.port) <= 5:
        attributes[semconv.SERVER_PORT] = int(endpoint.port)
    if endpoint.id.startswith("pod://"):
        namespace, _, pod = endpoint.id.removeprefix("pod://").partition("/")
        attributes[semconv.K8S_NAMESPACE_NAME] = namespace
        attributes[semconv.K8S_POD_NAME] = pod


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
        # Not generators, which cost more than all that they give.
        attributes[semconv.MISSING_FEATURES] = tuple(
            [
                f"{missing.pod_type}.{missing.feature}" if missing.pod_type else missing.feature
                for missing in record.missing_feature_reasons
            ]
        )
        attributes[semconv.MISSING_REASONS] = tuple(
            [missing.reason.value for missing in record.missing_feature_reasons]
        )
