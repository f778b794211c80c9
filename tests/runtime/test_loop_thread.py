"""The event loop on a separate thread."""

from __future__ import annotations

import asyncio
import threading

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from otel_lifecycle.runtime.loop_thread import LoopThread
from tests.waiting import PATIENCE_SECONDS, eventually


def test_makes_no_spans() -> None:
    """Its requests are not instrumented; those of the thread that started it are."""
    seen: list[bool] = []

    async def main(stopped: asyncio.Event) -> None:
        seen.append(is_instrumentation_enabled())
        await stopped.wait()

    thread = LoopThread("test", main)
    thread.ensure_running()
    eventually(lambda: bool(seen))
    thread.close(PATIENCE_SECONDS)

    assert (seen, is_instrumentation_enabled()) == ([False], True)


def test_stops_once_and_stays_stopped() -> None:
    """Closing ends it, a second time does nothing, and it does not start again."""
    began: list[str] = []

    async def main(stopped: asyncio.Event) -> None:
        began.append(threading.current_thread().name)
        await stopped.wait()

    thread = LoopThread("test-stops", main)
    thread.ensure_running()
    thread.ensure_running()
    eventually(lambda: began == ["test-stops"])
    for _ in range(2):
        thread.close(PATIENCE_SECONDS)
    thread.ensure_running()
    thread.wake(lambda: began.append("woken"))

    assert began == ["test-stops"]
    assert "test-stops" not in [other.name for other in threading.enumerate()]
