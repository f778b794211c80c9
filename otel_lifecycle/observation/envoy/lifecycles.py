"""Makes the lifecycle of a request that was observed, as the tracker makes that of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from opentelemetry.trace import NoOpTracerProvider

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.instrumentation.http.requests.operations import paths
from otel_lifecycle.model import (
    Endpoint,
    InputTokenSource,
    Leg,
    LegRole,
    Load,
    MissingReason,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
    sanitize,
)
from otel_lifecycle.model.endpoint_state import EndpointView
from otel_lifecycle.model.features import POD_TYPES, MissingFeature
from otel_lifecycle.model.latency import prediction_error
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.slo import judge_slo
from otel_lifecycle.observation.endpoints import Endpoints
from otel_lifecycle.observation.envoy.decisions import Decisions, complete
from otel_lifecycle.observation.envoy.entry import (
    UNKNOWN,
    Answer,
    Entry,
    known,
    selected,
    unix_ns,
)
from otel_lifecycle.observation.envoy.requests import Observed, SavedDispatch
from otel_lifecycle.observation.envoy.times import end_ns, first_byte_ns, sent_ns
from otel_lifecycle.observation.envoy.tracing import set_trace
from otel_lifecycle.observation.envoy.verdict import is_stream, judge
from otel_lifecycle.observation.picker.decision import prefill_of
from otel_lifecycle.observation.picker.picker import Picker
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.live_span import SpanMaker
from otel_lifecycle.telemetry.told import Manner
from otel_lifecycle.tracking.arrival import Timing
from otel_lifecycle.tracking.asked.asked import Asked
from otel_lifecycle.tracking.dispatch import begin_record, complete_record, dispatch
from otel_lifecycle.tracking.lifecycle import Lifecycle
from otel_lifecycle.tracking.store import LifecycleStore

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction

_BYTES_PER_TOKEN = 4  # as the seed estimates a prompt
_LONGEST_LAG_NS = 5_000_000_000
_NOTHING_READ = Answer()


class Lifecycles:
    """Makes lifecycles, and keeps the load of the endpoints. Not thread-safe.

    Args:
        config: Settings of the tracker whose work this does.
        store: Keeps the load; its collector, if any, tells the state of the endpoints.
        endpoints: Turns addresses into endpoints.
        clock: Tells how old an entry is.
        resource: What records keep of the resource.
        shadow: Predicts latencies for the record.
        picker: Tells why requests went where they went.
    """

    def __init__(
        self,
        config: TrackerConfig,
        store: LifecycleStore,
        endpoints: Endpoints,
        clock: Clock,
        resource: dict[str, str],
        shadow: ShadowPrediction | None = None,
        picker: Picker | None = None,
    ) -> None:
        self.config = config
        self._store = store
        self._endpoints = endpoints
        self._clock = clock
        self._spans = SpanMaker(NoOpTracerProvider(), phases=False)  # records alone are made
        self._spans.resource = resource
        self._manner = Manner(store.name, Details(), store.ignore)
        self._shadow = shadow
        self._stale_after_ns = round(config.stale_after.total_seconds() * 1e9)
        self._operation = paths(config.paths).operation
        self._asked = Asked(config)
        self._decisions = Decisions(config, store, endpoints, picker)

    def dispatch(self, request: Observed, ep: str | None, pf: str | None, at_ns: int) -> None:
        """Charge a request to the endpoints of its route, at the time of an entry."""
        lifecycle = self._start(request, ep, pf, at_ns)
        if lifecycle is not None:
            self._store.start(lifecycle)
            # The first byte is told of with the end: what is left to prefill is unknown until then.
            lifecycle.prefill_tokens = ()
            request.is_charged = True
            if self._shadow is not None:
                self._shadow.predict(lifecycle)

    def ask(self, request: Observed, headers: Mapping[str, Any] | None) -> None:
        """Take labels and targets from the headers of a request, as the settings ask for them."""
        if self._asked.reads:
            told = {name: text for name, text in (headers or {}).items() if text not in UNKNOWN}
            asking, invalid = self._asked.take(RequestStart(request.request_id, None), told)
            request.labels, request.slo = asking.labels, asking.slo
            for _ in range(invalid):
                self._store.ignore("invalid_value")

    def release(self, request: Observed) -> None:
        """Give back the load of a request that has ended."""
        lifecycle = request.lifecycle
        if lifecycle is not None and not lifecycle.finished:
            self._store.finish(lifecycle, self)

    def is_expecting(self, request: Observed) -> bool:
        """Return whether the picker may still tell something of a request that has ended."""
        return self._decisions.is_expecting(request)

    def finish(
        self, request: Observed, completion: RequestCompletion | None = None
    ) -> LifecycleRecord:
        """Return the record of a request that has ended.

        Args:
            request: The request.
            completion: How it ended. Default: as its last entry says.
        """
        if request.end is None:
            self.ask(request, None)
        end = request.end or request.entry
        received_ns = request.arrived_ns
        told_ns = _dispatched_ns(request, end)
        dispatched_ns = received_ns if told_ns is None else told_ns
        told = self._decisions.told(request)
        prefill = prefill_of(told) if told else ""
        if prefill:
            self._follow_prefill(request)
        lifecycle = (
            request.lifecycle
            or self._start(request, selected(end), known(end.pf) or prefill, dispatched_ns)
            or self._begin(request, RequestStart(request.request_id, None), dispatched_ns)
        )
        self.release(request)
        if completion is None:
            completion = judge(end, self._endpoint(end.up))
        ended_ns = None if request.end is None else end_ns(end, received_ns)
        lifecycle.started_ns = lifecycle.started_monotonic_ns = dispatched_ns
        lifecycle.waited_ns = dispatched_ns - received_ns
        lifecycle.ended_ns = max(dispatched_ns, ended_ns or dispatched_ns)
        if self._shadow is not None and request.is_charged:
            if lifecycle.shadow is None:
                self._shadow.wait_for_answers()
            if lifecycle.shadow is not None:
                _, lifecycle.predicted = lifecycle.shadow
        if request.labels or request.slo is not None:
            start = msgspec.structs.replace(
                lifecycle.dispatch.start, labels=request.labels, slo=request.slo
            )
            lifecycle.dispatch = msgspec.structs.replace(lifecycle.dispatch, start=start)
        settled = self._decisions.settle(lifecycle, end, told)
        record = begin_record(lifecycle)
        self._describe(record, end)
        set_trace(record, end, request.key)
        _mark_first(lifecycle, record, end, received_ns)
        if len(request.attempts) > 1:
            legs = self._legs(request, ended_ns)
            completion = msgspec.structs.replace(completion, legs=legs)
        if not request.is_charged:
            _forget_load(lifecycle, record)
        complete_record(record, lifecycle, completion)
        if settled is not None:
            complete(record, settled)
        if told:
            self._decisions.forget(request, told)
        if not request.is_charged:
            record.dispatch_inflight = None
        if told_ns is None:
            record.actual.queue_ms = None
        if ended_ns is None:
            record.completed_at = record.actual.e2e_ms = record.actual.tpot_ms = None
            record.prediction_error = prediction_error(record.actual, record.prediction)
            if request.slo is not None:
                record.slo = judge_slo(request.slo, record.outcome, record.actual)
        if self._shadow is not None:
            self._shadow.learn(record)
        lifecycle.told.let_go()
        return record

    def save(self, request: Observed) -> SavedDispatch | None:
        """Return what `restore` needs; None for a request that was not dispatched."""
        lifecycle = request.lifecycle
        route = None if lifecycle is None else lifecycle.dispatch.start.route
        if lifecycle is None or route is None:
            return None
        return SavedDispatch(
            _address(route.leader),
            _address(route.prefill),
            lifecycle.started_ns,
            lifecycle.dispatch_load or Load(),
            dict(lifecycle.role_loads),
        )

    def restore(self, request: Observed, saved: SavedDispatch) -> None:
        """Charge a request again, with the load that was known at its dispatch."""
        self.dispatch(request, saved.ep, saved.pf, saved.at_ns)
        if request.lifecycle is not None:
            request.lifecycle.dispatch_load = saved.leader
            request.lifecycle.loads = tuple(saved.roles.values())

    def _start(
        self, request: Observed, ep: str | None, pf: str | None, at_ns: int
    ) -> Lifecycle | None:
        leader = self._endpoints.of(ep)
        if leader is None:
            return None
        prefill = self._endpoints.of(pf) if pf else None
        route = Route(leader) if prefill is None else Route(leader, prefill, leader)
        size = request.entry.size
        tokens = max(1, size // _BYTES_PER_TOKEN) if size is not None and size > 0 else None
        source = None if tokens is None else InputTokenSource.ESTIMATED
        start = RequestStart(
            request.request_id, route, input_tokens=tokens, input_token_source=source
        )
        if request.end is None:
            told = self._decisions.told(request)
            if told:
                start = self._decisions.note(start, told, at_ns)
        return self._begin(request, start, at_ns)

    def _follow_prefill(self, request: Observed) -> None:
        """Start anew, without its load, if Envoy's log did not tell of a prefill."""
        lifecycle = request.lifecycle
        if lifecycle is None:
            return
        route = lifecycle.dispatch.start.route
        if route is not None and route.prefill is None:
            self.release(request)
            lifecycle.told.let_go()
            request.lifecycle, request.is_charged = None, False

    def _begin(self, request: Observed, start: RequestStart, at_ns: int) -> Lifecycle:
        look = self._store.look if self._is_recent(at_ns) else self._look_at_address
        sent, timing = dispatch(start, look, at_ns), Timing(at_ns, at_ns, None)
        lifecycle = Lifecycle(self, self._manner, self._spans, sent, timing, self._stale_after_ns)
        lifecycle.request_id = request.key
        request.lifecycle = lifecycle
        return lifecycle

    def supersede(self, lifecycle: Lifecycle) -> None:
        """Do nothing: the keys of requests are unique."""

    def abandon(self, lifecycle: Lifecycle) -> None:
        """Do nothing: no handle follows the request."""

    def _is_recent(self, at_ns: int) -> bool:
        """Return whether what was collected of the endpoints was true at that time."""
        if self._store.collector is None:
            return True
        return abs(self._clock.wall_ns() - at_ns) <= (self._stale_after_ns or _LONGEST_LAG_NS)

    def _look_at_address(self, *raw: RouteEndpoint, **_: object) -> list[EndpointView]:
        views = zip(self._store.look(*raw), raw, strict=True)
        return [EndpointView(view.state, one, None) for view, one in views]

    def _describe(self, record: LifecycleRecord, end: Entry) -> None:
        """Take what only the end tells of a request."""
        answer = end.llm or _NOTHING_READ
        record.model = sanitize.text(answer.model or answer.req_model)
        record.operation = sanitize.text(self._operation(known(end.path)) or "")
        record.streaming = is_stream(end)
        record.engine_request_id = sanitize.text(answer.id) or None
        if end.attempts != 1:
            record.attempt = max(1, sanitize.count(end.attempts) or 1)

    def _legs(self, request: Observed, ended_ns: int | None) -> tuple[Leg, ...]:
        route = None if request.lifecycle is None else request.lifecycle.dispatch.start.route
        is_pair = route is not None and route.prefill is not None
        role = LegRole.DECODE if is_pair else LegRole.LEADER
        legs: list[Leg] = []
        for attempt in request.attempts:
            endpoint = self._endpoint(attempt.address)
            if endpoint is not None:
                legs.append(attempt.leg(role, endpoint, ended_ns))
        return tuple(legs)

    def _endpoint(self, address: str | None) -> Endpoint | None:
        found = self._endpoints.of(address)
        return None if found is None else found.endpoint


def _dispatched_ns(request: Observed, end: Entry) -> int | None:
    """Return when the first byte was sent to the first endpoint; None if that is unknown."""
    if len(request.attempts) > 1:
        return max(request.arrived_ns, unix_ns(request.attempts[0].began))
    told_ns = sent_ns(end, request.arrived_ns)
    if told_ns is not None:
        return told_ns
    lifecycle = request.lifecycle
    return None if lifecycle is None else max(request.arrived_ns, lifecycle.started_ns)


def _mark_first(
    lifecycle: Lifecycle, record: LifecycleRecord, end: Entry, received_ns: int
) -> None:
    """Mark the first byte, and of a stream the first chunk; an error's body has none."""
    first_ns = first_byte_ns(end, received_ns)
    if first_ns is None:
        return
    since = max(0, received_ns + first_ns - lifecycle.started_ns)
    lifecycle.first_byte_ns = since
    if record.streaming and (end.code or 0) < 400:
        lifecycle.first_chunk_ns = since


def _forget_load(lifecycle: Lifecycle, record: LifecycleRecord) -> None:
    """Say that the load at dispatch is unknown: no entry told of the dispatch."""
    # The snapshots take these loads, and an unknown one is None there.
    counted = lifecycle.dispatch.counted
    lifecycle.loads = cast("tuple[Load, ...]", (None,) * len(counted))
    record.missing_feature_reasons += [
        MissingFeature(POD_TYPES[role], "inflightTokens", MissingReason.INFLIGHT_MISSING)
        for role in counted
    ]


def _address(entry: RouteEndpoint | None) -> str:
    if entry is None:
        return ""
    endpoint = entry.endpoint
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{host}:{endpoint.port}"
