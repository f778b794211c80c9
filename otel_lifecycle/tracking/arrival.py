"""When a request reached the router, and when it was sent on."""

from __future__ import annotations

from datetime import datetime

import msgspec

from otel_lifecycle.model import RequestStart, sanitize
from otel_lifecycle.model.fields import MAX_MILLISECONDS
from otel_lifecycle.model.timestamps import datetime_to_ns
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)


class Timing(msgspec.Struct, frozen=True, gc=False):
    """When a request was sent on, and how long it had waited.

    Attributes:
        started_ns: Dispatch, Unix nanoseconds; arrival of a request that has none.
        monotonic_ns: The same on the monotonic clock.
        waited_ns: How long before that it arrived; None if that is unknown.
    """

    started_ns: int
    monotonic_ns: int
    waited_ns: int | None

    @property
    def begins_ns(self) -> int:
        """The first known moment of the request, Unix nanoseconds."""
        return self.started_ns - (self.waited_ns or 0)


def take_time(start: RequestStart, clock: Clock, arrived_ns: int | None) -> Timing:
    """Return the timing of a request that is sent on now, or has ended without a route.

    Args:
        start: The request.
        clock: The tracker's.
        arrived_ns: When it reached the router, on the monotonic clock, as far as an instrumentation
            knows; `start.received_at` counts first.
    """
    now_ns, monotonic_ns = clock.wall_ns(), clock.monotonic_ns()
    waited_ns = None if start.received_at is None else _waited(start.received_at, now_ns)
    if waited_ns is None and arrived_ns is not None:
        waited_ns = max(0, monotonic_ns - arrived_ns)
    if start.route is None and waited_ns is not None:
        return Timing(now_ns - waited_ns, monotonic_ns - waited_ns, 0)
    return Timing(now_ns, monotonic_ns, waited_ns)


def _waited(received_at: object, now_ns: int) -> int | None:
    """Return how long ago that was; None where no clock can have told it."""
    # Not a naive one: local times would be hours off.
    moment = sanitize.moment(received_at)
    if moment is not None and isinstance(received_at, datetime) and received_at.tzinfo is not None:
        waited_ns = now_ns - datetime_to_ns(moment)
        if 0 <= waited_ns <= MAX_MILLISECONDS * 1e6:
            return waited_ns
    _logger.debug("received_at is not used: it is no aware datetime shortly before the dispatch")
    return None
