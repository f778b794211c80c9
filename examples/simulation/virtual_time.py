"""An event loop whose time jumps to the next event instead of waiting for it.

`asyncio` waits only in its selector, so a selector that adds the timeout to the time and returns is
all it takes. Nothing else about the loop changes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Collection, Coroutine
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""The wall clock at time 0."""

_START_NS = int(START.timestamp()) * 1_000_000_000

_T = TypeVar("_T")


class _Selector(selectors.SelectSelector):
    """Returns at once, later by the timeout; no file is ever ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left that could happen, but the simulation still waits")
        self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; its time starts at 0. For code that waits for timers only, not for sockets."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the seconds of virtual time."""
        return self._virtual.now


class VirtualClock:
    """The loop's time as the clock of a tracker.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wall_ns(self) -> int:
        """Return Unix nanoseconds."""
        return _START_NS + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Return nanoseconds since time 0."""
        return round(self._loop.time() * 1e9)

    def now(self) -> datetime:
        """Return the wall clock."""
        return START + timedelta(seconds=self._loop.time())


def run(loop: VirtualTimeLoop, main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, then cancel what it left, and close the loop."""
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(_cancel(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
