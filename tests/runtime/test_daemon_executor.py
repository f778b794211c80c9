"""Daemon threads for blocking calls."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from otel_lifecycle.runtime.daemon_executor import DaemonExecutor
from tests.waiting import PATIENCE_SECONDS, eventually


def test_results_and_errors() -> None:
    """An event loop gets the result or the exception of a call."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(DaemonExecutor())
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        return await loop.run_in_executor(None, max, 1, 2)

    assert asyncio.run(main()) == 2


def calling() -> set[threading.Thread]:
    """The threads of executors."""
    return {thread for thread in threading.enumerate() if thread.name == "otel-lifecycle-call"}


def test_few_threads() -> None:
    """Hanging calls take a limited number of threads; a cancelled call is not made."""
    executor = DaemonExecutor()
    released = threading.Event()
    made: list[int] = []

    def hang(number: int) -> int:
        made.append(number)
        released.wait(PATIENCE_SECONDS)
        return number

    before = calling()
    futures: list[Future[int]] = [executor.submit(hang, number) for number in range(50)]
    threads = len(calling() - before)
    cancelled = [future.cancel() for future in futures]
    released.set()
    executor.shutdown()

    running = [number for number, gone in enumerate(cancelled) if not gone]
    assert [futures[number].result(PATIENCE_SECONDS) for number in running] == running
    assert sorted(made) == running
    assert len(running) <= threads <= 8


def test_idle_thread_is_used_again() -> None:
    """Consecutive calls share one thread."""

    def share() -> bool:
        before = calling()
        executor = DaemonExecutor()
        for _ in range(2):
            executor.submit(threading.get_ident).result(PATIENCE_SECONDS)
        threads = len(calling() - before)
        executor.shutdown()
        return threads == 1

    eventually(share)  # a thread is free a moment after its result is there
