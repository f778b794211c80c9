"""What time it is: for the figures of a request a clock that can be replaced, and time limits."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a tracker reads the time; called on the request's path, from any thread.

    Timestamps come from `wall_ns`, durations from `monotonic_ns`: a correction of the machine's
    clock changes no latency. A request whose clock raises is counted as a `hook_error`.
    """

    def wall_ns(self) -> int:
        """Unix nanoseconds."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since some moment; never goes back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


class Deadline:
    """A limit to how long threads are waited for, which no replaced clock may stretch.

    Args:
        seconds: How long from now.
    """

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """What is left of it; 0 when it has passed."""
        return max(0.0, self._ends_at - time.monotonic())
