"""Requests that reached no engine that is known here: they are never passed over in silence."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Final
from weakref import WeakKeyDictionary

from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker

_logger = get_logger(__name__)

SILENCE_SECONDS: Final = 60.0
MAX_SEEN: Final = 5
_MAX_NAMED: Final = 10
_MAX_LENGTH: Final = 200
# Client libraries whose calls nothing here sees.
NOT_FOLLOWED: Final = ("grpc", "pycurl", "tornado.httpclient", "zmq")


class Unserved:
    """Warns of such requests, at most once a minute; thread-safe, never waits.

    One warning tells of all that there were since the last.

    Args:
        monotonic: A clock that never goes back, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._told_at: float | None = None
        self._paths: Counter[str] = Counter()
        self._calls: dict[str, None] = {}

    def tell(self, path: str, calls: Iterable[str]) -> None:
        """Note one request, and the calls that were made for it as far as they were seen."""
        if not self._lock.acquire(blocking=False):
            return  # another thread is telling
        try:
            path = path[:_MAX_LENGTH]
            self._paths[path if path in self._paths or self._has_room(self._paths) else "..."] += 1
            for call in calls:
                if self._has_room(self._calls):
                    self._calls[call] = None
            now = self._monotonic()
            if self._told_at is not None and now - self._told_at < SILENCE_SECONDS:
                return
            self._told_at = now
            paths, self._paths = self._paths, Counter()
            seen, self._calls = self._calls, {}
        finally:
            self._lock.release()
        _warn(paths, seen)

    @staticmethod
    def _has_room(named: Counter[str] | dict[str, None]) -> bool:
        return len(named) < _MAX_NAMED


_of_trackers: WeakKeyDictionary[RequestLifecycleTracker, Unserved] = WeakKeyDictionary()


def unserved(tracker: RequestLifecycleTracker) -> Unserved:
    """What tells of such requests of a tracker."""
    found = _of_trackers.get(tracker)
    return _of_trackers.setdefault(tracker, Unserved()) if found is None else found


def call_name(library: str, host: str, port: int, path: str) -> str:
    """How a call is named: without its query, which may let others in."""
    return f"POST {host}:{port}{path} ({library})"[:_MAX_LENGTH]


def _warn(paths: Counter[str], seen: dict[str, None]) -> None:
    total = sum(paths.values())
    loaded = [name for name in NOT_FOLLOWED if name in sys.modules]
    _logger.warning(
        "no call to an engine was seen for %d request%s (%s): %s have no endpoint. Other calls "
        "seen: %s. An answer may come from the router's own cache. Otherwise name the path of its "
        "engine in OTEL_LIFECYCLE_PATHS, or the engine is called where nothing is seen: from a "
        "thread, a process or a task that outlives the request, or through a client library that "
        "is not followed%s",
        total,
        "" if total == 1 else "s",
        ", ".join(f"{path}: {count}" for path, count in paths.items()),
        "its record and span" if total == 1 else "their records and spans",
        ", ".join(seen) or "none",
        f" (loaded here: {', '.join(loaded)})" if loaded else "",
    )
