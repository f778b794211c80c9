"""An event loop on a daemon thread of its own, for I/O that must not touch the host's."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable

from opentelemetry.instrumentation.utils import suppress_instrumentation

from otel_lifecycle.runtime.daemon_executor import DaemonExecutor
from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)


class LoopThread:
    """Runs a coroutine function until it is told to stop; what it requests makes no spans.

    Thread-safe. A forked child has no thread until `ensure_running` is called in it.

    Args:
        name: Of the thread.
        main: Is given the event that says when to stop.
    """

    def __init__(self, name: str, main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
        self._name = name
        self._main = main
        self._lock = threading.Lock()
        self._pid = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        self._stopped: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        repair_in_forked_child(self, LoopThread._after_fork_in_child)

    @property
    def is_running(self) -> bool:
        """Whether a thread was started in this process; one that failed is not started again."""
        return self._pid == os.getpid()

    def ensure_running(self) -> None:
        """Starts the thread where there is none, as in a forked child."""
        if self._pid == os.getpid() or self._closed:
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._stopped = None
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no more threads, or the end is near: the next call tries again
                self._pid = 0

    def wake(self, callback: Callable[[], object]) -> None:
        """Has the event loop call something soon; does nothing when there is none."""
        stopped = self._stopped
        if stopped is not None and self.is_running:
            try:
                stopped[0].call_soon_threadsafe(callback)
            except RuntimeError:  # it has ended
                return

    def close(self, timeout: float) -> None:
        """Stops it; idempotent.

        Args:
            timeout: Seconds to wait for it at most.
        """
        self._closed = True
        stopped, thread = self._stopped, self._thread
        if thread is None or not self.is_running:
            return
        if stopped is not None:
            self.wake(stopped[1].set)
        thread.join(timeout)

    def _after_fork_in_child(self) -> None:
        """The parent's thread may have held the lock, and does not exist here."""
        self._lock = threading.Lock()

    def _run(self) -> None:
        # Not `asyncio.run`: it waits for its executor, whose threads may hang in a name resolution,
        # and so would the end of the interpreter.
        loop = asyncio.new_event_loop()
        loop.set_default_executor(DaemonExecutor())
        try:
            with suppress_instrumentation():
                loop.run_until_complete(self._serve())
        except Exception:
            _logger.exception("%s has stopped", self._name)
        finally:
            _close(loop)

    async def _serve(self) -> None:
        stopped = asyncio.Event()
        self._stopped = asyncio.get_running_loop(), stopped
        if not self._closed:
            await self._main(stopped)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Ends what still runs on a loop, as `asyncio.run` does."""
    try:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
