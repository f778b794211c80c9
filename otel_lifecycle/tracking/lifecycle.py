"""One request in flight, and what it charges to endpoints."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Span, SpanKind

from otel_lifecycle.model import (
    LatencyPrediction,
    Load,
    Outcome,
    RequestCompletion,
    RouteEndpoint,
    sanitize,
)
from otel_lifecycle.model.endpoint_state import EndpointState, EndpointView
from otel_lifecycle.model.record import LifecycleRecord, Reroute
from otel_lifecycle.telemetry.live_span import SpanMaker
from otel_lifecycle.telemetry.setters.record import Moments
from otel_lifecycle.telemetry.spans import Recorded
from otel_lifecycle.telemetry.told import Ended, Manner, Told
from otel_lifecycle.tracking.arrival import Timing
from otel_lifecycle.tracking.dispatch import (
    ERRORS,
    Dispatch,
    begin_record,
    outcome_of,
    whole_record,
)


class Lifecycle:
    """One request, from its dispatch on; only the store changes what it charges.

    It keeps what the router said. The record is made of that when somebody reads it, and the span
    says what the record says: neither is made while the router waits.

    Attributes:
        owner: The tracker that finishes it.
        request_id: The id as the router gave it.
        told: What is told of it.
        spans: What makes its span.
        stale_after_ns: Age from which engine metrics count as stale; 0 never.
        span: Its span; None where that records nothing.
        context: The ids of its span.
        parent: The parent of its span.
        kind: The kind of its span.
        dispatch: What the router said, and where it goes now.
        rerouted: Where it went before.
        streaming: Whether it is a stream, as far as is known.
        started_ns: Dispatch, Unix nanoseconds; arrival of a request that had none.
        started_monotonic_ns: The same on the monotonic clock.
        waited_ns: How long before that it arrived; None if that is unknown.
        first_byte_ns: Dispatch to first byte of the answer.
        first_chunk_ns: Dispatch to first chunk.
        dispatch_load: Load of the selected endpoint at dispatch, this request not counted.
        loads: The same for each counted endpoint, in the order of `dispatch.counted`.
        prefill_tokens: What was left to prefill on each of these.
        leases: What it has charged and not given back.
        deleted_roles: Counted endpoints that were deleted while it charged them.
        handle: Tells when the handle that follows it is collected; None where there is none.
        finished: Whether somebody has finished it, or is about to.
        finished_by: The call that does so.
        completion: How it ended; None while it is in flight.
        ended_ns: When, Unix nanoseconds by the clock it was started by.
        is_error: Whether that was an error.
        handover: What is told of it, until the record file has taken it.
        measured: Whether its metrics were recorded.
        shadow: A prediction that its router did not make, and the record that it is for.
        predicted: That of the route it was on when it ended.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "completion",
        "context",
        "deleted_roles",
        "dispatch",
        "dispatch_load",
        "ended_ns",
        "finished",
        "finished_by",
        "first_byte_ns",
        "first_chunk_ns",
        "handle",
        "handover",
        "is_error",
        "kind",
        "leases",
        "loads",
        "measured",
        "owner",
        "parent",
        "predicted",
        "prefill_tokens",
        "request_id",
        "rerouted",
        "shadow",
        "span",
        "spans",
        "stale_after_ns",
        "started_monotonic_ns",
        "started_ns",
        "streaming",
        "told",
        "waited_ns",
    )

    def __init__(
        self,
        owner: LifecycleOwner,
        manner: Manner,
        spans: SpanMaker,
        dispatch: Dispatch,
        timing: Timing,
        stale_after_ns: int,
    ) -> None:
        self.owner = owner
        self.request_id = dispatch.start.request_id
        self.told = Told(self, manner)
        self.spans = spans
        self.span: Span | None = None
        self.context = self.parent = INVALID_SPAN_CONTEXT
        self.kind = SpanKind.INTERNAL
        self.stale_after_ns = stale_after_ns
        self.dispatch = dispatch
        self.rerouted: tuple[Reroute, ...] = ()
        streaming = dispatch.start.streaming
        self.streaming = streaming if type(streaming) is bool else None
        self.started_ns = timing.started_ns
        self.started_monotonic_ns = timing.monotonic_ns
        self.waited_ns: int | None = timing.waited_ns
        self.first_byte_ns: int | None = None
        self.first_chunk_ns: int | None = None
        self.dispatch_load: Load | None = None
        self.loads: tuple[Load, ...] = ()
        self.prefill_tokens: tuple[int, ...] = ()
        self.leases: list[Lease] = []
        self.deleted_roles: tuple[str, ...] = ()
        self.handle: _Following | None = None
        self.finished = False
        self.finished_by: object = None
        self.completion: RequestCompletion | None = None
        self.ended_ns = 0
        self.is_error = False
        self.handover: Iterator[Told] | None = None
        self.measured = False
        self.shadow: tuple[LifecycleRecord, LatencyPrediction] | None = None
        self.predicted: LatencyPrediction | None = None
        self._begun: LifecycleRecord | None = None

    @property
    def model(self) -> str:
        """The model, safe to record."""
        return sanitize.text(self.dispatch.start.model)

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        return max(1, sanitize.count(self.dispatch.start.attempt) or 1)

    @property
    def role_loads(self) -> Mapping[str, Load]:
        """Load of each counted endpoint at dispatch, by role."""
        return dict(zip(self.dispatch.counted, self.loads, strict=False))

    @property
    def role_prefill_tokens(self) -> Mapping[str, int]:
        """What was left to prefill on each counted endpoint at dispatch, by role."""
        return dict(zip(self.dispatch.counted, self.prefill_tokens, strict=False))

    @property
    def record(self) -> LifecycleRecord:
        """Its record: begun while it is in flight, complete once it has ended."""
        return self.told.record

    @property
    def begun(self) -> LifecycleRecord:
        """Its record, as far as it is known at dispatch; the same until it is sent again."""
        if self._begun is None:
            self._begun = begin_record(self)
        return self._begun

    def ended(self) -> Ended | None:
        """All there is to tell, made anew; None while it is in flight."""
        completion = self.completion
        if completion is None:
            return None
        record, invalid = whole_record(self, completion)
        details = self.told.manner.details
        return Ended(Recorded(record, self.moments, details, self.dispatch.kept), invalid)

    @property
    def moments(self) -> Moments:
        """Its moments, once it has ended."""
        started_ns, first_chunk_ns = self.started_ns, self.first_chunk_ns
        is_queued = self.waited_ns is not None and self.dispatch.start.route is not None
        return Moments(
            started_ns - (self.waited_ns or 0),
            started_ns if is_queued else None,
            None if first_chunk_ns is None else started_ns + first_chunk_ns,
            self.ended_ns,
        )

    def follow(self, handle: object) -> None:
        """Has its owner end it as abandoned when its handle is collected first."""
        # Not by the handle's `__del__`, which would run after each request: there Python swallows
        # what a signal handler raises, such as KeyboardInterrupt.
        following = _Following(handle, _handle_collected)
        following.lifecycle = self
        self.handle = following

    def move_dispatch(self, monotonic_ns: int) -> None:
        """Takes another moment for that of the dispatch.

        Only where the arrival is known, from which the span counts, and not before it.

        Args:
            monotonic_ns: The moment, on the clock the request was started by.
        """
        if self.finished or self.waited_ns is None:
            return
        later_ns = max(-self.waited_ns, monotonic_ns - self.started_monotonic_ns)
        if not later_ns:
            return
        self.waited_ns += later_ns
        self.started_ns += later_ns
        self.started_monotonic_ns += later_ns
        if self.first_byte_ns is not None:
            self.first_byte_ns = max(0, self.first_byte_ns - later_ns)
        if self.first_chunk_ns is not None:
            self.first_chunk_ns = max(0, self.first_chunk_ns - later_ns)

    def charge(self, successor: Callable[[EndpointState], EndpointState]) -> None:
        """Puts its load on the endpoints that carry it, under the lock of the store.

        Args:
            successor: Returns the state of an endpoint whose own was deleted since it was seen.
        """
        dispatch = self.dispatch
        counted, route = dispatch.counted, dispatch.start.route
        leader_view = dispatch.leader
        if leader_view is None:
            return
        tokens = sanitize.count(dispatch.start.input_tokens) or 0
        cached = sanitize.fraction(dispatch.start.prefix_cache_score) or 0.0
        uncached = round(tokens * (1.0 - cached)) if self.first_chunk_ns is None else 0
        leader = leader_view.state
        if not leader.live:
            leader = successor(leader)
        self.dispatch_load = Load(leader.tokens, leader.requests)
        loads: list[Load] = []
        prefill_tokens: list[int] = []
        for role in counted:
            view: EndpointView = getattr(dispatch, role)
            state = view.state
            if not state.live:
                state = successor(state)
            state.listed = True
            loads.append(
                self.dispatch_load if state is leader else Load(state.tokens, state.requests)
            )
            prefill_tokens.append(state.prefill_tokens)
            # After the first chunk of a request that is sent again, nothing is left to prefill.
            if self.first_chunk_ns is None or role != "prefill" or len(counted) == 1:
                lease = Lease(role, state, tokens, uncached if role != "decode" else 0)
                self.leases.append(lease)  # first, for whoever gives it back
                lease.charge()
            # Only the router's own: what was collected is there already.
            given: RouteEndpoint = getattr(route, role)
            if given.metrics is not None:
                state.metrics = view.metrics or state.metrics
            if given.npu is not None:
                state.npu = view.npu or state.npu
        self.loads, self.prefill_tokens = tuple(loads), tuple(prefill_tokens)

    def end_prefill(self) -> None:
        """Nothing of its prompt is left to prefill; under the same lock."""
        for lease in self.leases:
            lease.end_prefill()

    def move(self, dispatch: Dispatch, rerouted: tuple[Reroute, ...]) -> None:
        """It goes somewhere else; its load has been given back."""
        self.deleted_roles = ()
        if rerouted is not self.rerouted:
            self.first_byte_ns = None
            self.rerouted = rerouted
        # What the chunks so far have told of the response stays true.
        streaming = dispatch.start.streaming
        self.streaming = self.streaming or (streaming if type(streaming) is bool else None)
        self.dispatch = dispatch
        self._begun = None

    def give_back(self, role: str | None = None) -> None:
        """Takes back the load of one role, or all of it; under the same lock, and repeatable.

        A signal handler may do so in the middle.
        """
        for lease in self.leases:
            if role in (None, lease.role) and lease.give_back() and not lease.state.live:
                self.deleted_roles = (*self.deleted_roles, lease.role)
        if role is None:
            self.leases = []

    def complete(self, completion: RequestCompletion, monotonic_ns: int) -> Iterator[Told]:
        """It has ended, and has given its load back: from now on its record stays the same.

        Returns:
            What is told of it, for the record file to take; the same one at each call.
        """
        if self.handover is None:
            self.handover = iter((self.told,))
        if self.shadow is not None and self.shadow[0] is self._begun:
            self.predicted = self.shadow[1]
        self.ended_ns = self.started_ns + max(0, monotonic_ns - self.started_monotonic_ns)
        if completion.outcome is not Outcome.COMPLETED:
            self.is_error = outcome_of(completion) in ERRORS
        if isinstance(completion.legs, list):
            completion = msgspec.structs.replace(completion, legs=tuple(completion.legs))
        self.completion = completion
        return self.handover


class LifecycleOwner(Protocol):
    """The tracker that started a request, and that alone finishes it."""

    def supersede(self, lifecycle: Lifecycle) -> None:
        """Finishes a request whose id has come again."""
        ...

    def abandon(self, lifecycle: Lifecycle) -> None:
        """Finishes a request whose handle was collected; never waits, and takes no lock."""
        ...


class _Following(weakref.ref[Any]):
    """Watches the handle of a request."""

    __slots__ = ("lifecycle",)
    lifecycle: Lifecycle


def _handle_collected(following: _Following) -> None:
    lifecycle = following.lifecycle
    if not lifecycle.finished:
        lifecycle.owner.abandon(lifecycle)


class Lease:
    """What one request charges to one endpoint, from `charge` to `give_back`.

    A signal handler may give it back before it is charged. It cannot run in the middle of either:
    they call nothing.
    """

    __slots__ = ("charged", "given_back", "role", "state", "tokens", "uncached")

    def __init__(self, role: str, state: EndpointState, tokens: int, uncached: int) -> None:
        self.role = role
        self.state = state
        self.tokens = tokens
        self.uncached = uncached
        self.charged = False
        self.given_back = False

    def charge(self) -> None:
        """Puts the charge on the counter."""
        if self.given_back:
            return
        self.charged = True
        self.state.requests += 1
        self.state.tokens += self.tokens
        self.state.prefill_tokens += self.uncached

    def give_back(self) -> bool:
        """Takes the charge off the counter it was put on; False when there is none."""
        self.given_back = True
        if not self.charged:
            return False
        self.charged = False
        self.state.requests -= 1
        self.state.tokens -= self.tokens
        self.state.prefill_tokens -= self.uncached
        return True

    def end_prefill(self) -> None:
        """Takes what was left to prefill off the counter."""
        if self.charged:
            self.state.prefill_tokens -= self.uncached
            self.uncached = 0
