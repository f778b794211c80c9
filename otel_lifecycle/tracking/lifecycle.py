"""One request in flight."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from opentelemetry.trace import Span

from otel_lifecycle.model import LatencyPrediction, Load, RequestStart
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.tracking.endpoint_state import Lease

_NOTHING: Iterator[LifecycleRecord] = iter(())


class Lifecycle:
    """One request in flight; what it charges, only the store changes.

    Attributes:
        request_id: The id as the router gave it.
        owner: The tracker that finishes it.
        start: What the router said.
        record: Its record, complete once it is finished.
        span: Its span.
        started_ns: Dispatch, Unix nanoseconds.
        started_monotonic_ns: Dispatch on the monotonic clock.
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
    )

    def __init__(
        self,
        start: RequestStart,
        owner: LifecycleOwner,
        record: LifecycleRecord,
        span: Span,
        started_ns: int,
        started_monotonic_ns: int,
    ) -> None:
        self.request_id = start.request_id
        self.owner = owner
        self.start = start
        self.record = record
        self.span = span
        self.started_ns = started_ns
        self.started_monotonic_ns = started_monotonic_ns
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


class LifecycleOwner(Protocol):
    """The tracker that started a request, and that alone finishes it."""

    def supersede(self, lifecycle: Lifecycle) -> None:
        """Finishes a request whose id has come again."""
        ...

    def abandon(self, lifecycle: Lifecycle) -> None:
        """Finishes a request whose handle was collected; never waits, and takes no lock."""
        ...
