"""Waiting for another thread or process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 60.0


def eventually(
    condition: Callable[[], Any],
    patience: float = PATIENCE_SECONDS,
    *,
    what: str = "the condition",
) -> None:
    """Wait for a condition; fail only if it never holds.

    Args:
        condition: Called repeatedly.
        patience: Seconds to wait at most; a guard, not an expectation.
        what: Name of the condition for the failure message.
    """
    deadline = time.monotonic() + patience
    pause = 0.005
    while not condition():
        assert time.monotonic() < deadline, f"it never came true: {what}"
        time.sleep(pause)
        pause = min(0.1, pause * 1.2)  # checking may delay the awaited work


async def until(event: threading.Event) -> None:
    """Wait on an event loop until another thread has set an event, however long that takes."""
    while not event.is_set():
        await asyncio.sleep(0.005)
