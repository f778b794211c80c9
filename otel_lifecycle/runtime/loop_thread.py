"""An event loop on a separate daemon thread, for I/O that must not use the host's loop."""

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
    """Runs a coroutine function until it is stopped; its own requests create no spans.

    Thread-safe. A forked child has no thread until `ensure_running` is called in it.

    Args:
        name: Name of the thread.
        main: The coroutine function; its argument is an event that is set when it has to stop.
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
        """Whether a thread was started in this process; a failed thread is not restarted."""
        return self._pid == os.getpid()

    def ensure_running(self) -> None:
        """Start the thread if there is none, as in a forked child."""
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
            except RuntimeError:  # no more threads, or the interpreter is exiting: retry next time
                self._pid = 0

    def wake(self, callback: Callable[[], object]) -> None:
        """Schedule a call on the event loop; does nothing if no loop runs."""
        stopped = self._stopped
        if stopped is not None and self.is_running:
            try:
                stopped[0].call_soon_threadsafe(callback)
            except RuntimeError:  # the loop is closed
                return

    def close(self, timeout: float) -> None:
        """Stop the thread; idempotent.

        Args:
            timeout: Seconds to wait at most for the thread.
        """
        self._closed = True
        stopped, thread = self._stopped, self._thread
        if thread is None or not self.is_running:
            return
        if stopped is not None:
            self.wake(stopped[1].set)
        thread.join(timeout)

    def _after_fork_in_child(self) -> None:
        """Replace the lock: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def _run(self) -> None:
        # Not `asyncio.run`: it waits for its executor, whose threads may hang in a name resolution.
        # That would delay the end of the interpreter.
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
    """Cancel the tasks of a loop and close it, as `asyncio.run` does."""
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
