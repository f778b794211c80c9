"""Runs work off the request's path, a moment later, on a separate thread."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.runtime.turns import Turn

_logger = get_logger(__name__)

_BATCH_SECONDS = 0.05
_BACKLOG = 256


class Background:
    """Runs small jobs in batches on a daemon thread.

    `submit` never blocks and takes no lock, so a finalizer may call it wherever the garbage
    collector runs. `drain` runs the queued jobs at once, on the calling thread.
    """

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[Any], None], Any]] = deque()
        # SimpleQueue.put is reentrant, which Event.set and Condition.notify are not.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._drain_lock = threading.RLock()
        self._closed = threading.Event()
        self._failed = False
        self._pid = 0
        repair_in_forked_child(self, Background._after_fork_in_child)
        self.ensure_running()

    def ensure_running(self) -> None:
        """Start the thread if there is none, as in a forked child."""
        if self._pid == os.getpid() or self._closed.is_set():
            return
        self._pid = os.getpid()
        thread = threading.Thread(
            target=_run,
            args=(weakref.ref(self), self._wake),
            name="otel-lifecycle-background",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is exiting: retry at next call
            self._pid = 0

    def submit(self, job: Callable[[Any], None], argument: Any) -> None:
        """Queue `job(argument)`."""
        self._jobs.append((job, argument))
        self._wake.put(True)

    def drain(self) -> None:
        """Run all queued jobs now; log their exceptions."""
        while self._work(None):
            pass

    def drain_slowly(self) -> None:
        """Run all queued jobs, and let other threads run in between unless too many wait.

        Otherwise an event loop would be delayed by a whole switch interval.
        """
        turn = Turn()
        while self._work(turn):
            turn.give_way()

    def _work(self, turn: Turn | None) -> bool:
        """Run jobs, for a turn unless too many wait; return whether there are more."""
        with self._drain_lock:
            for _ in range(_BACKLOG):
                try:
                    job, argument = self._jobs.popleft()
                except IndexError:
                    return False
                try:
                    job(argument)
                except Exception:
                    # Log an error only once: the same failure will occur for every request.
                    level = logging.DEBUG if self._failed else logging.ERROR
                    self._failed = True
                    _logger.log(level, "a background job failed", exc_info=True)
                if turn is not None and turn.is_over and len(self._jobs) < _BACKLOG:
                    break
        return bool(self._jobs)

    def close(self, timeout: float) -> None:
        """Run the queued jobs and end the thread.

        Args:
            timeout: Seconds to wait at most for the thread, which an exporter may be blocking.
        """
        self._closed.set()
        self._wake.put(False)
        if self._drain_lock.acquire(timeout=timeout):
            try:
                self.drain()
            finally:
                self._drain_lock.release()

    def __del__(self) -> None:
        self._wake.put(False)

    @property
    def closed(self) -> threading.Event:
        """Set by `close`."""
        return self._closed

    def _after_fork_in_child(self) -> None:
        """Drop the parent's jobs; `ensure_running` starts a new thread."""
        self._jobs = deque()
        self._wake = SimpleQueue()
        self._drain_lock = threading.RLock()
        # The parent's event may be locked by a thread that does not exist here.
        closed, self._closed = self._closed.is_set(), threading.Event()
        if closed:
            self._closed.set()


def _run(worker: weakref.ref[Background], wake: SimpleQueue[bool]) -> None:
    """Run the jobs; hold the worker only while working, so that an unused one is collected."""
    while wake.get():
        background = worker()
        if background is None or background.closed.wait(_BATCH_SECONDS):
            return
        while not wake.empty():
            wake.get()
        background.drain_slowly()
        if background.closed.is_set():
            return
        del background
