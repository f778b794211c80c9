"""Steps aside when the package's own code fails again and again, and comes back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from otel_lifecycle.runtime.clock import SystemClock
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

STEPPED_ASIDE: Final = "stepped_aside"

MAX_FAILURES: Final = 100
WINDOW_NS: Final = 60_000_000_000
PAUSE_NS: Final = 60_000_000_000


class Breaker:
    """Decides whether new requests are tracked. Thread-safe; never waits.

    `MAX_FAILURES` within `WINDOW_NS` open it for `PAUSE_NS`. After that requests are tracked again,
    on trial for as long: the first failure opens it anew, and without one the episode is over. The
    log tells of its beginning and its end.

    Args:
        ignore: Counts, by reason, what was left out.
        monotonic_ns: A clock that never goes back and never raises, in nanoseconds. Not the
            tracker's own: that may be what fails.
    """

    def __init__(
        self,
        ignore: Callable[[str], None],
        monotonic_ns: Callable[[], int] = SystemClock.monotonic_ns,
    ) -> None:
        self._ignore = ignore
        self._monotonic_ns = monotonic_ns
        self._failed_at: deque[int] = deque(maxlen=MAX_FAILURES)
        self._aside_until: int | None = None  # None outside of an episode
        self._logged: set[str] = set()
        self._changing = threading.Lock()  # only ever tried: a signal handler may hold it

    @property
    def is_aside(self) -> bool:
        """Whether new requests are left alone at the moment."""
        until = self._aside_until
        if until is None:
            return False
        now = self._monotonic_ns()
        if now >= until + PAUSE_NS and self._change(until, None):
            _logger.warning("otel-lifecycle works again: every new request is tracked")
        return now < until

    def steps_aside(self) -> bool:
        """Whether to leave a new request alone; counts it if so."""
        is_aside = self.is_aside
        if is_aside:
            self._ignore(STEPPED_ASIDE)
        return is_aside

    def failed(self, hook: str, *, ours: bool = True) -> None:
        """Counts and logs the exception that is being handled; it must not reach the router.

        Args:
            hook: A short constant name of what failed. The log tells once of each: a router may
                call it a thousand times a second.
            ours: Whether it is our own code that failed, and not a span processor of others.
        """
        self._ignore("hook_error")
        if hook not in self._logged:
            self._logged.add(hook)
            _logger.exception("%s failed; requests go on without telemetry", hook)
        if ours:
            self._count_failure()

    def _count_failure(self) -> None:
        now, until = self._monotonic_ns(), self._aside_until
        if until is not None and now < until + PAUSE_NS:
            if now >= until:
                self._change(until, now + PAUSE_NS)
            return
        failed_at = self._failed_at
        failed_at.append(now)
        is_often = len(failed_at) == MAX_FAILURES and now - failed_at[0] <= WINDOW_NS
        if is_often and self._change(until, now + PAUSE_NS):
            _logger.error(
                "otel-lifecycle failed %d times within %d s: it leaves new requests alone for %d s "
                "at a time, until it works again; they are counted in llm_router.ignored as %s",
                MAX_FAILURES,
                WINDOW_NS // 10**9,
                PAUSE_NS // 10**9,
                STEPPED_ASIDE,
            )

    def _change(self, until: int | None, new: int | None) -> bool:
        """Begins, prolongs or ends an episode; False when another thread has done so."""
        if not self._changing.acquire(blocking=False):
            return False
        try:
            if self._aside_until != until:
                return False
            self._aside_until = new
            # A new one: other threads may still be reading the old one.
            self._failed_at = deque(maxlen=MAX_FAILURES)
            return True
        finally:
            self._changing.release()
