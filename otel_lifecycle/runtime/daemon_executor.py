"""Daemon threads for calls that may hang; the interpreter's exit does not wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

_THREADS = 8

_Result = TypeVar("_Result")


class DaemonExecutor(ThreadPoolExecutor):
    """Runs blocking calls of an event loop, such as name resolutions, on a few daemon threads.

    At its exit the interpreter waits for the threads of the standard library's executors, however
    long they hang. This is a `ThreadPoolExecutor` only because event loops require one.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=_THREADS)
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self._started = 0

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Queue a call; a call cancelled before a thread is free is skipped.

        Raises:
            RuntimeError: No thread can be started, for example while the interpreter shuts down.
        """
        future: Future[_Result] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        if not self._free.acquire(blocking=False) and self._started < _THREADS:
            threading.Thread(target=self._run, name="otel-lifecycle-call", daemon=True).start()
            self._started += 1
        self._calls.put(call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End idle threads now and busy ones after their call; never waits."""
        for _ in range(self._started):
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # frees the result
            self._free.release()
