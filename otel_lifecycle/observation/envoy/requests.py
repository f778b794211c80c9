"""A request in flight, as its entries tell of it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from otel_lifecycle.model import SLO, Endpoint, Leg, LegOutcome, LegRole, Load
from otel_lifecycle.model.request import NO_LABELS
from otel_lifecycle.observation.envoy.entry import Entry, known, unix_ns
from otel_lifecycle.observation.envoy.times import end_ns
from otel_lifecycle.tracking.lifecycle import Lifecycle


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
        return Leg(role, endpoint, began_ns, end_ns(end, began_ns), outcome)


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
        labels: What the settings ask for of its headers.
        slo: Its targets.
    """

    __slots__ = (
        "arrived_ns",
        "attempts",
        "connection",
        "end",
        "entry",
        "is_charged",
        "key",
        "labels",
        "lifecycle",
        "request_id",
        "seen_at",
        "slo",
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
        self.labels: Mapping[str, str | int | float | bool] = NO_LABELS
        self.slo: SLO | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the ends of all its attempts are known."""
        expected = 0 if self.end is None else self.end.attempts or 0
        attempts = self.attempts
        if expected == 1 == len(attempts):
            return attempts[0].end is not None
        return sum(attempt.end is not None for attempt in attempts) >= expected


class SavedDispatch(msgspec.Struct):
    """Where a request in flight was sent, and what was known then."""

    ep: str
    pf: str
    at_ns: int
    leader: Load
    roles: dict[str, Load]


class SavedRequest(msgspec.Struct, omit_defaults=True):
    """A request in flight, as it is kept while the observer is not running."""

    entry: Entry
    end: Entry | None
    attempts: list[Attempt]
    dispatch: SavedDispatch | None
    labels: dict[str, str | int | float | bool] = {}
    slo: SLO | None = None
