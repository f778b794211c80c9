"""Runs the work of a command until it is done, or a signal asks for its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

WaitForEnd: TypeAlias = Callable[[float], bool]
"""Waits at most so many seconds for the work; returns whether it has ended."""


def run_until_signal(
    name: str, work: Callable[[], bool], stop: Callable[[WaitForEnd], object]
) -> bool:
    """Run on a separate thread, so that a signal interrupts no step and waits for none.

    Args:
        name: Name of the command.
        work: Returns whether everything was done.
        stop: Called after the first signal; asks the work to end, and waits as long as it likes.

    Returns:
        What `work` returned; False if it has not ended.

    Raises:
        BaseException: What `work` raised.
    """
    finished = False
    failure: BaseException | None = None
    ended = threading.Event()  # a `join` that was interrupted could not be repeated

    def run() -> None:
        nonlocal finished, failure
        try:
            finished = work()
        except BaseException as error:
            failure = error
        finally:
            ended.set()

    interrupt_once()
    try:
        threading.Thread(target=run, name=f"otel-lifecycle-{name}", daemon=True).start()
        ended.wait()
    except KeyboardInterrupt:
        stop(ended.wait)
    if failure is not None:
        raise failure
    return finished


def interrupt_once() -> None:
    """Raise KeyboardInterrupt at the first SIGINT or SIGTERM, and ignore all later ones."""
    for number in _ENDING_SIGNALS:
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ignore further signals, and interrupt the wait."""
    for each in _ENDING_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
