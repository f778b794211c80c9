"""The thread of the collection loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model.endpoint_state import EndpointState
from otel_lifecycle.runtime.loop_thread import LoopThread
from otel_lifecycle.state.fetch import tls_context
from otel_lifecycle.state.loop import CollectionLoop


class Collector:
    """Collects on a daemon thread; the request path only ever reads a reference.

    Thread-safe; a forked child collects for itself once `ensure_running` is called in it.

    Args:
        config: Settings.
        endpoints: Returns the endpoints of the moment; called from its thread.

    Raises:
        ConfigError: A certificate cannot be read.
    """

    def __init__(self, config: TrackerConfig, endpoints: Callable[[], list[EndpointState]]) -> None:
        self._loop = CollectionLoop(config, tls_context(config.collection), endpoints)
        self._thread = LoopThread("otel-lifecycle-collect", self._loop.run)
        self.ensure_running()

    def ensure_running(self) -> None:
        """Starts the thread where there is none, as in a forked child."""
        self._thread.ensure_running()

    def targets(self) -> Mapping[tuple[str, str], int]:
        """How many targets there are by source and state."""
        return self._loop.targets() if self._thread.is_running else {}

    @property
    def lag(self) -> float:
        """How much later than due the scrapes begin at worst, in seconds."""
        return self._loop.lag

    def close(self, timeout: float) -> None:
        """Stops the thread; what it knew stays as it was, and ages."""
        self._thread.close(timeout)
