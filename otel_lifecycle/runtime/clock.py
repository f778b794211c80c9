"""The replaceable clock of a request's times, and time limits."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """The clock of a tracker; called on the request's path, from any thread.

    Timestamps come from `wall_ns`, durations from `monotonic_ns`, so a correction of the machine's
    clock changes no latency. If the clock raises, the request is counted as a `hook_error`.
    """

    def wall_ns(self) -> int:
        """Return Unix nanoseconds."""
        ...

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary moment; never goes back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


SYSTEM_CLOCK = SystemClock()


class Deadline:
    """A limit on waiting for threads; a replaced clock does not affect it.

    Args:
        seconds: How long from now.
    """

    def __init__(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """The remaining seconds; 0 after the deadline."""
        return max(0.0, self._ends_at - time.monotonic())


def waitable(seconds: float | None) -> float:
    """Limit seconds to what the standard library can wait; Go's longest duration is longer."""
    return threading.TIMEOUT_MAX if seconds is None else min(seconds, threading.TIMEOUT_MAX)
