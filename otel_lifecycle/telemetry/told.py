"""What is told of a request: to its span, to the record file, to the metrics and to training."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Attributes, Details
from otel_lifecycle.telemetry.spans import (
    Recorded,
    end_attributes,
    span_events,
    start_attributes,
)


class Kept(msgspec.Struct, gc=False):
    """What an endpoint keeps, without the endpoint: spans may wait long for their export."""

    attributes: dict[Hashable, Any]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A request that has ended.

    Attributes:
        recorded: What its span is made of, the record first.
        invalid: How many values of the router the record could not use.
    """

    recorded: Recorded
    invalid: int


class Request(Protocol):
    """A request, in flight or ended."""

    @property
    def begun(self) -> LifecycleRecord:
        """Its record, as far as it is known at dispatch."""
        ...

    def ended(self) -> Ended | None:
        """All there is to tell, made anew; None while it is in flight."""
        ...


class Manner(NamedTuple):
    """What the requests of a tracker have in common.

    Attributes:
        store_name: The store they are in.
        details: Which optional attributes their spans have.
        failed: Counts and logs the exception that is being handled, given what failed.
    """

    store_name: str
    details: Details
    failed: Callable[[str], None]


class Told:
    """Keeps a request until somebody asks for its record, and from then on the record. Thread-safe.

    Two threads may both make the record; what they make is equal.

    Args:
        request: The request.
        manner: What it has in common with others.

    Attributes:
        manner: What it has in common with others.
        taken_by: Who has put its record in a file.
        span_goes_along: Whether the process that writes the record sends the span, too.
    """

    __slots__ = ("_ended", "_request", "manner", "span_goes_along", "taken_by")

    def __init__(self, request: Request, manner: Manner) -> None:
        self._request: Request | None = request
        self._ended: Ended | None = None
        self.manner = manner
        self.taken_by: tuple[object, ...] = ()
        self.span_goes_along = False

    @property
    def record(self) -> LifecycleRecord:
        """The record: begun while the request is in flight, complete once it has ended."""
        request, ended = self._request, self.ended()
        if ended is not None:
            return ended.recorded.record
        assert request is not None  # it is let go after the other is there
        return request.begun

    def ended(self) -> Ended | None:
        """All there is to tell of a request that has ended."""
        request, ended = self._request, self._ended
        if ended is None and request is not None:
            try:
                ended = request.ended()
            except Exception:  # once more, as an end that was broken off is done again
                self.manner.failed("record")
                ended = request.ended()
            if ended is not None:
                self._ended = ended
                self._request = None
        return ended

    def let_go(self) -> None:
        """Forget the request, of which nothing will be asked any more.

        It refers to this object, too: without this call, only the garbage collector frees the two.
        """
        self._request = None

    def recorded(self) -> Recorded | None:
        """What attributes and events of the span are made of; None while it is in flight."""
        ended = self.ended()
        return None if ended is None else ended.recorded

    def start_attributes(self) -> Attributes:
        """What a sampler sees."""
        return start_attributes(self.record)

    def end_attributes(self) -> Attributes:
        """All other attributes of the span; none while the request is in flight."""
        told = self.recorded()
        if told is None:
            return {}
        return end_attributes(told.record, told.at, told.details, told.views)

    def events(self) -> list[tuple[str, int, Attributes]]:
        """Name, Unix nanoseconds and attributes of each event of the span."""
        ended = self.ended()
        return [] if ended is None else span_events(ended.recorded.record, ended.recorded.at)


Entry: TypeAlias = LifecycleRecord | Told | msgspec.Raw
"""What goes into the record file; raw: the JSON of a record."""
