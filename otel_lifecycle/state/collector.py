"""The thread of the collection loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model.endpoint_state import EndpointState
from otel_lifecycle.runtime.loop_thread import LoopThread
from otel_lifecycle.state.fetch import tls_context
from otel_lifecycle.state.loop import CollectionLoop


class Collector:
    """Collects on a daemon thread; a request only reads a reference.

    Thread-safe. A forked child collects nothing until `ensure_running` is called in it.

    Args:
        config: Settings.
        endpoints: Returns the current endpoints; called on that thread.

    Raises:
        ConfigError: A certificate cannot be read.
    """

    def __init__(self, config: TrackerConfig, endpoints: Callable[[], list[EndpointState]]) -> None:
        self._loop = CollectionLoop(config, tls_context(config.collection), endpoints)
        self._thread = LoopThread("otel-lifecycle-collect", self._loop.run)
        self.ensure_running()

    def ensure_running(self) -> None:
        """Start the thread if there is none, as in a forked child."""
        self._thread.ensure_running()

    def targets(self) -> Mapping[tuple[str, str], int]:
        """Return the number of targets by source and state."""
        return self._loop.targets() if self._thread.is_running else {}

    @property
    def lag(self) -> float:
        """The largest current delay of a scrape, in seconds."""
        return self._loop.lag

    def close(self, timeout: float) -> None:
        """Stop the thread; the collected state stays, and becomes stale.

        Args:
            timeout: Seconds to wait at most for the thread.
        """
        self._thread.close(timeout)
