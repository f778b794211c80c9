"""Makes the lifecycle of a request that was observed, as the tracker makes that of its own."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import msgspec
from opentelemetry.trace import NoOpTracerProvider

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.instrumentation.http.requests.operations import paths
from otel_lifecycle.model import (
    Endpoint,
    InputTokenSource,
    Leg,
    LegOutcome,
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
from otel_lifecycle.observation.endpoints import Endpoints
from otel_lifecycle.observation.entry import DESTINATION, Answer, Entry, known, selected, unix_ns
from otel_lifecycle.observation.verdict import is_stream, judge
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.live_span import SpanMaker
from otel_lifecycle.telemetry.told import Manner
from otel_lifecycle.tracking.arrival import Timing
from otel_lifecycle.tracking.dispatch import begin_record, complete_record, dispatch
from otel_lifecycle.tracking.lifecycle import Lifecycle
from otel_lifecycle.tracking.store import LifecycleStore

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction

_BYTES_PER_TOKEN = 4  # as the seed estimates a prompt
_MICROSECOND, _MILLISECOND = 1_000, 1_000_000
_LONGEST = 1 << 50  # microseconds; beyond it a duration is none
_LONGEST_LAG_NS = 5_000_000_000
_SCORES = f"{DESTINATION}-scores"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_TRACE_ID, _SPAN_ID = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{16}")
_NOTHING_READ = Answer()
_SAMPLED = 1


class Attempt(msgspec.Struct, gc=False, omit_defaults=True):
    """One attempt of Envoy to have a request answered.

    Attributes:
        began: When, as in its entries.
        address: Where it went.
        end: The entry of its end; None: it was not told.
    """

    began: str
    address: str
    end: Entry | None = None

    def leg(self, role: LegRole, endpoint: Endpoint, ended_ns: int | None) -> Leg:
        """Return the attempt as a call of the router.

        Args:
            role: What it was for.
            endpoint: Where it went.
            ended_ns: When the request ended, which breaks off what has no end of its own.
        """
        began_ns = unix_ns(self.began)
        end = self.end
        if end is None:
            return Leg(role, endpoint, began_ns, ended_ns, LegOutcome.CANCELLED)
        failed = bool(known(end.flags)) or not 0 < (end.code or 0) < 400
        outcome = LegOutcome.ERROR if failed else LegOutcome.COMPLETED
        return Leg(role, endpoint, began_ns, _end_ns(end, began_ns), outcome)


class Observed:
    """One request in flight.

    Attributes:
        key: What its entries have in common.
        request_id: Its id.
        connection: Envoy's number of the client's connection; 0 is unknown.
        entry: The first of its entries that tells of the client's side.
        arrived_ns: When it came, Unix nanoseconds.
        seen_at: When the observer saw the first or the last entry, monotonic seconds.
        attempts: Those of Envoy.
        end: The entry of its end.
        lifecycle: Its lifecycle, once it was dispatched.
        is_charged: Whether the load of its endpoints at dispatch is known.
    """

    __slots__ = (
        "arrived_ns",
        "attempts",
        "connection",
        "end",
        "entry",
        "is_charged",
        "key",
        "lifecycle",
        "request_id",
        "seen_at",
    )

    def __init__(self, key: str, entry: Entry, arrived_ns: int, seen_at: float) -> None:
        self.key = key
        self.request_id = known(entry.rid)
        self.connection = entry.conn or 0
        self.entry = entry
        self.arrived_ns = arrived_ns
        self.seen_at = seen_at
        self.attempts: list[Attempt] = []
        self.end: Entry | None = None
        self.lifecycle: Lifecycle | None = None
        self.is_charged = False

    @property
    def is_complete(self) -> bool:
        """Whether the ends of all its attempts are known."""
        expected = 0 if self.end is None else self.end.attempts or 0
        return sum(attempt.end is not None for attempt in self.attempts) >= expected


class SavedDispatch(msgspec.Struct):
    """Where a request in flight was sent, and what was known then."""

    ep: str
    pf: str
    at_ns: int
    leader: Load
    roles: dict[str, Load]


class Lifecycles:
    """Makes lifecycles, and keeps the load of the endpoints. Not thread-safe.

    Args:
        config: Settings of the tracker whose work this does.
        store: Keeps the load; its collector, if any, tells the state of the endpoints.
        endpoints: Turns addresses into endpoints.
        clock: Tells how old an entry is.
        resource: What records keep of the resource.
        shadow: Predicts latencies for the record.
    """

    def __init__(
        self,
        config: TrackerConfig,
        store: LifecycleStore,
        endpoints: Endpoints,
        clock: Clock,
        resource: dict[str, str],
        shadow: ShadowPrediction | None = None,
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

    def dispatch(self, request: Observed, ep: str | None, pf: str | None, at_ns: int) -> None:
        """Charge a request to the endpoints of its route, at the time of an entry."""
        if self._start(request, ep, pf, at_ns):
            assert request.lifecycle is not None
            self._store.start(request.lifecycle)
            request.is_charged = True
            if self._shadow is not None:
                self._shadow.predict(request.lifecycle)

    def release(self, request: Observed) -> None:
        """Give back the load of a request that has ended."""
        if request.lifecycle is not None:
            self._store.finish(request.lifecycle, self)

    def finish(
        self, request: Observed, completion: RequestCompletion | None = None
    ) -> LifecycleRecord:
        """Return the record of a request that has ended.

        Args:
            request: The request.
            completion: How it ended. Default: as its last entry says.
        """
        end = request.end or request.entry
        received_ns = request.arrived_ns
        sent_ns = _dispatched_ns(request, end)
        dispatched_ns = received_ns if sent_ns is None else sent_ns
        if request.lifecycle is None and not self._start(
            request, selected(end), end.pf, dispatched_ns
        ):
            self._start_unserved(request, dispatched_ns)
        lifecycle = request.lifecycle
        assert lifecycle is not None
        self.release(request)
        if completion is None:
            completion = judge(end, self._endpoint(end.up))
        ended_ns = None if request.end is None else _end_ns(end, received_ns)
        lifecycle.started_ns = lifecycle.started_monotonic_ns = dispatched_ns
        lifecycle.waited_ns = dispatched_ns - received_ns
        lifecycle.ended_ns = max(dispatched_ns, ended_ns or dispatched_ns)
        if lifecycle.shadow is not None:
            _, lifecycle.predicted = lifecycle.shadow
        record = begin_record(lifecycle)
        self._describe(record, end)
        _set_trace(record, end, request.key)
        _mark_first(lifecycle, record, end, received_ns)
        if len(request.attempts) > 1:
            legs = self._legs(request, end, ended_ns)
            completion = msgspec.structs.replace(completion, legs=legs)
        if not request.is_charged:
            _forget_load(lifecycle, record)
        complete_record(record, lifecycle, completion)
        if not request.is_charged:
            record.dispatch_inflight = None
        if sent_ns is None:
            record.actual.queue_ms = None
        if ended_ns is None:
            record.completed_at = record.actual.e2e_ms = record.actual.tpot_ms = None
            record.prediction_error = prediction_error(record.actual, record.prediction)
        if self._shadow is not None:
            self._shadow.learn(record)
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

    def _start(self, request: Observed, ep: str | None, pf: str | None, at_ns: int) -> bool:
        leader = self._endpoints.of(ep)
        if leader is None:
            return False
        prefill = self._endpoints.of(pf)
        route = Route(leader) if prefill is None else Route(leader, prefill, leader)
        size = request.entry.size
        tokens = max(1, size // _BYTES_PER_TOKEN) if size is not None and size > 0 else None
        source = None if tokens is None else InputTokenSource.ESTIMATED
        start = RequestStart(
            request.request_id, route, input_tokens=tokens, input_token_source=source
        )
        self._begin(request, start, at_ns)
        return True

    def _start_unserved(self, request: Observed, at_ns: int) -> None:
        self._begin(request, RequestStart(request.request_id, None), at_ns)

    def _begin(self, request: Observed, start: RequestStart, at_ns: int) -> None:
        look = self._store.look if self._is_recent(at_ns) else self._look_at_address
        sent, timing = dispatch(start, look, at_ns), Timing(at_ns, at_ns, None)
        lifecycle = Lifecycle(self, self._manner, self._spans, sent, timing, self._stale_after_ns)
        lifecycle.request_id = request.key
        request.lifecycle = lifecycle

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
        record.attempt = max(1, sanitize.count(end.attempts) or 1)
        scores = (end.lb or {}).get(_SCORES)
        if isinstance(scores, dict):
            record.candidates = len(cast("dict[str, object]", scores))

    def _legs(self, request: Observed, end: Entry, ended_ns: int | None) -> tuple[Leg, ...]:
        role = LegRole.DECODE if known(end.pf) else LegRole.LEADER
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
    sent_ns = _elapsed_ns(end.up_tx_us)
    if sent_ns is not None:
        return request.arrived_ns + sent_ns
    lifecycle = request.lifecycle
    return None if lifecycle is None else max(request.arrived_ns, lifecycle.started_ns)


def _end_ns(entry: Entry, began_ns: int) -> int | None:
    """Return when a request or an attempt ended."""
    sent_ns = _elapsed_ns(entry.e2e_us)
    if sent_ns is not None:
        return began_ns + sent_ns
    duration_ns = _elapsed_ns(entry.dur_ms, _MILLISECOND)
    if duration_ns is None:
        return None
    ended_ns = began_ns + duration_ns
    with suppress(ValueError):
        now_ns = unix_ns(known(entry.now))
        # More exact, unless the clock was set meanwhile.
        if abs(now_ns - ended_ns) <= 2 * _MILLISECOND:
            return max(began_ns, now_ns)
    return ended_ns


def _elapsed_ns(value: int | None, unit: int = _MICROSECOND) -> int | None:
    return value * unit if value is not None and 0 <= value < _LONGEST else None


def _mark_first(
    lifecycle: Lifecycle, record: LifecycleRecord, end: Entry, received_ns: int
) -> None:
    """Mark the first byte, and of a stream the first chunk; an error's body has none."""
    first_ns = _first_byte_ns(end, received_ns)
    if first_ns is None:
        return
    since = max(0, received_ns + first_ns - lifecycle.started_ns)
    lifecycle.first_byte_ns = since
    if record.streaming and (end.code or 0) < 400:
        lifecycle.first_chunk_ns = since


def _first_byte_ns(end: Entry, received_ns: int) -> int | None:
    elapsed = _elapsed_ns(end.ttfb_body_us)
    if elapsed is not None:
        return elapsed
    first_us = (end.llm or _NOTHING_READ).first_us
    if first_us is not None and first_us.isdecimal() and len(first_us) <= 16:
        return max(0, int(first_us) * _MICROSECOND - received_ns)
    return None


def _set_trace(record: LifecycleRecord, end: Entry, key: str) -> None:
    """Make the span a child of Envoy's, else of the client's, else the root of its own trace.

    Its id is derived from the request, so that a request read twice is the same span.
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()
    record.span_id, record.trace_id = digest[:16], digest[16:]
    record.span_kind, record.trace_flags = "server", _SAMPLED
    told = _TRACEPARENT.fullmatch(known(end.tp))
    if told is not None:
        trace_id, record.parent_span_id, flags = told.groups()
        record.trace_id, record.trace_flags = trace_id, int(flags, 16) & _SAMPLED
        if end.ts:
            record.trace_state = sanitize.trace_state(known(end.ts))
    trace, span = known(end.trace), known(end.span)
    if _TRACE_ID.fullmatch(trace) and _SPAN_ID.fullmatch(span):
        record.trace_id, record.parent_span_id, record.span_kind = trace, span, "internal"


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
