"""The pods of the engines, from Kubernetes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from otel_lifecycle.config import CollectionConfig
from otel_lifecycle.runtime.loop_thread import LoopThread
from otel_lifecycle.state.kubernetes import Pods
from otel_lifecycle.state.matching import Pod

_POLL_SECONDS = 0.05


class EnginePods:
    """Lists the pods that `collection.enginePods` selects, on a thread of its own.

    Args:
        config: Says which pods.
    """

    def __init__(self, config: CollectionConfig) -> None:
        self._pods = Pods(config.model_copy(update={"exporter_pods": ""}))
        self._thread = LoopThread("otel-lifecycle-pods", self._run)
        self._thread.ensure_running()

    def by_address(self) -> Mapping[str, Pod]:
        """Return the pods of the last answer, by IP address."""
        return self._pods.by_address

    def wait(self, seconds: float) -> None:
        """Wait for the first answer, but no longer than `seconds`."""
        latest = time.monotonic() + seconds
        while not self._pods.by_address and time.monotonic() < latest:
            time.sleep(_POLL_SECONDS)

    def close(self, timeout: float) -> None:
        """Stop the thread.

        Args:
            timeout: Seconds to wait at most for it.
        """
        self._thread.close(timeout)

    async def _run(self, stopped: asyncio.Event) -> None:
        listing = asyncio.create_task(self._pods.run())
        await stopped.wait()
        listing.cancel()
        await asyncio.gather(listing, return_exceptions=True)
