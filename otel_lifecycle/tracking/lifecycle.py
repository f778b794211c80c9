"""One request in flight, and what it charges to endpoints."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from opentelemetry.trace import Span

from otel_lifecycle.model import LatencyPrediction, Load, RequestStart, RouteEndpoint
from otel_lifecycle.model.endpoint_state import EndpointState, EndpointView
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import format_timestamp
from otel_lifecycle.telemetry.spans import Moments
from otel_lifecycle.tracking.arrival import Timing

_NOTHING: Iterator[LifecycleRecord] = iter(())


class Dispatch(NamedTuple):
    """A request as it is sent to the endpoints of one route.

    Attributes:
        record: Its record, begun.
        views: The endpoints of its route, by role.
        counted: The roles of those that carry its load: `Route.counted`.
    """

    record: LifecycleRecord
    views: dict[str, EndpointView]
    counted: tuple[str, ...]


class Lifecycle:
    """One request in flight; only the store changes what it charges.

    Attributes:
        request_id: The id as the router gave it.
        owner: The tracker that finishes it.
        start: What the router said.
        record: Its record, complete once it is finished.
        views: The endpoints of its route, by role.
        counted: The roles of those that carry its load.
        span: Its span.
        started_ns: Dispatch, Unix nanoseconds; arrival of a request that had none.
        started_monotonic_ns: The same on the monotonic clock.
        waited_ns: How long before that it arrived; None if that is unknown.
        first_byte_ns: Dispatch to first byte of the answer.
        first_chunk_ns: Dispatch to first chunk.
        dispatch_load: Load of the selected endpoint at dispatch, this request not counted.
        role_loads: The same for each counted endpoint, by role.
        leases: What it has charged and not given back.
        deleted_roles: Counted endpoints that were deleted while it charged them.
        handle: Tells when the handle that follows it is collected; None where there is none.
        finished: Whether somebody has finished it, or is about to.
        finished_by: The call that did so.
        handover: Its finished record, until the record file has taken it.
        measured: Whether its metrics were recorded.
        shadow: A prediction that its router did not make, and the record that it is for.
    """

    __slots__ = (
        "__weakref__",
        "counted",
        "deleted_roles",
        "dispatch_load",
        "finished",
        "finished_by",
        "first_byte_ns",
        "first_chunk_ns",
        "handle",
        "handover",
        "leases",
        "measured",
        "owner",
        "record",
        "request_id",
        "role_loads",
        "shadow",
        "span",
        "start",
        "started_monotonic_ns",
        "started_ns",
        "views",
        "waited_ns",
    )

    def __init__(
        self,
        start: RequestStart,
        owner: LifecycleOwner,
        dispatch: Dispatch,
        span: Span,
        timing: Timing,
    ) -> None:
        self.request_id = start.request_id
        self.owner = owner
        self.start = start
        self.record, self.views, self.counted = dispatch
        self.span = span
        self.started_ns, self.started_monotonic_ns, self.waited_ns = timing
        self.first_byte_ns: int | None = None
        self.first_chunk_ns: int | None = None
        self.dispatch_load = Load()
        self.role_loads: dict[str, Load] = {}
        self.leases: list[Lease] = []
        self.deleted_roles: list[str] = []
        self.handle: weakref.ref[Any] | None = None
        self.finished = False
        self.finished_by: object = None
        self.handover: Iterator[LifecycleRecord] = _NOTHING
        self.measured = False
        self.shadow: tuple[LifecycleRecord, LatencyPrediction] | None = None

    def follow(self, handle: object) -> None:
        """Has its owner end it as abandoned when its handle is collected first."""
        # Not by the handle's `__del__`, which would run after each request: there Python swallows
        # what a signal handler raises, such as KeyboardInterrupt.
        self.handle = weakref.ref(handle, self._handle_collected)

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
        self.record.started_at = format_timestamp(self.started_ns)
        if self.first_byte_ns is not None:
            self.first_byte_ns = max(0, self.first_byte_ns - later_ns)
        if self.first_chunk_ns is not None:
            self.first_chunk_ns = max(0, self.first_chunk_ns - later_ns)

    def charge(self, successor: Callable[[EndpointState], EndpointState]) -> None:
        """Puts its load on the endpoints that carry it, under the lock of the store.

        Args:
            successor: Returns the state of an endpoint whose own was deleted since it was seen.
        """
        if not self.counted:
            return
        tokens = self.record.input_token_length or 0
        leader = self.views["leader"].state
        if not leader.live:
            leader = successor(leader)
        self.dispatch_load = Load(leader.tokens, leader.requests)
        self.role_loads = {}
        for role in self.counted:
            view = self.views[role]
            state = view.state
            if not state.live:
                state = successor(state)
            state.listed = True
            self.role_loads[role] = Load(state.tokens, state.requests)
            # After the first chunk of a request that is sent again, nothing is left to prefill.
            if self.first_chunk_ns is None or role != "prefill" or len(self.counted) == 1:
                lease = Lease(role, state, tokens)
                self.leases.append(lease)  # first, for whoever gives it back
                lease.charge()
            # Only the router's own: what was collected is there already.
            given: RouteEndpoint = getattr(self.start.route, role)
            if given.metrics is not None:
                state.metrics = view.metrics or state.metrics
            if given.npu is not None:
                state.npu = view.npu or state.npu

    def give_back(self, role: str | None = None) -> None:
        """Takes back the load of one role, or all of it; under the same lock, and repeatable.

        A signal handler may do so in the middle.
        """
        for lease in self.leases:
            if role in (None, lease.role) and lease.give_back() and not lease.state.live:
                self.deleted_roles.append(lease.role)
        if role is None:
            self.leases = []

    def ended(self, monotonic_ns: int) -> Moments:
        """Its moments, if it ends at `monotonic_ns` of the clock it was started by."""
        started_ns, first_chunk_ns = self.started_ns, self.first_chunk_ns
        is_queued = self.waited_ns is not None and self.start.route is not None
        return Moments(
            started_ns - (self.waited_ns or 0),
            started_ns if is_queued else None,
            None if first_chunk_ns is None else started_ns + first_chunk_ns,
            started_ns + max(0, monotonic_ns - self.started_monotonic_ns),
        )

    def _handle_collected(self, _: object) -> None:
        if not self.finished:
            self.owner.abandon(self)


class LifecycleOwner(Protocol):
    """The tracker that started a request, and that alone finishes it."""

    def supersede(self, lifecycle: Lifecycle) -> None:
        """Finishes a request whose id has come again."""
        ...

    def abandon(self, lifecycle: Lifecycle) -> None:
        """Finishes a request whose handle was collected; never waits, and takes no lock."""
        ...


class Lease:
    """What one request charges to one endpoint, from `charge` to `give_back`.

    A signal handler may give it back before it is charged. It cannot run in the middle of either:
    they call nothing.
    """

    __slots__ = ("charged", "given_back", "role", "state", "tokens")

    def __init__(self, role: str, state: EndpointState, tokens: int) -> None:
        self.role = role
        self.state = state
        self.tokens = tokens
        self.charged = False
        self.given_back = False

    def charge(self) -> None:
        """Puts the charge on the counter."""
        if self.given_back:
            return
        self.charged = True
        self.state.requests += 1
        self.state.tokens += self.tokens

    def give_back(self) -> bool:
        """Takes the charge off the counter it was put on; False when there is none."""
        self.given_back = True
        if not self.charged:
            return False
        self.charged = False
        self.state.requests -= 1
        self.state.tokens -= self.tokens
        return True
