"""Where a writer's lines go: a file, or a process that writes it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02

_Result = TypeVar("_Result")


class Owner(Protocol):
    """The writer that a destination belongs to."""

    @property
    def closed(self) -> bool:
        """Whether it accepts no more records."""
        ...

    def warn(self, message: str, kind: str = "segments") -> None:
        """Log a problem other than a failed write; of one kind, once a minute."""
        ...

    def lose(self, count: int, reason: str) -> None:
        """Count appended records that never reach the file."""
        ...


class Destination(ABC):
    """Takes lines of records. Not thread-safe, except for `unconfirmed` and `confirm`."""

    @property
    def patience(self) -> float:
        """Seconds to repeat a call that raised BlockingIOError."""
        return 1.0  # other processes hold the lock of a file while they append

    @property
    def unconfirmed(self) -> int:
        """Appended records of which it is not known that they are in the file."""
        return 0

    def prepare(self) -> None:  # noqa: B027  # most are always ready
        """Get ready for `append`.

        Raises:
            BlockingIOError: It is not ready yet.
        """

    @abstractmethod
    def append(self, lines: bytes) -> int:
        """Append whole lines, as many as there is room for now; return the number of bytes.

        Raises:
            BlockingIOError: There is no room, or another process holds the lock; no line was taken.
            OSError: The lines could not be written; none of them was taken.
        """

    def confirm(self, seconds: float) -> bool:
        """Wait until the appended records are in the file; return whether they are."""
        return True

    @abstractmethod
    def due_in(self) -> float | None:
        """Return the seconds until it needs attention; None: never."""

    @abstractmethod
    def attend(self) -> None:
        """Do what is due.

        Raises:
            BlockingIOError: Another process has the lock.
        """

    @abstractmethod
    def finish(self) -> None:
        """Complete the file.

        Raises:
            BlockingIOError: Another process has the lock, or still writes.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it as it is; in a forked child, of the parent's."""


def patiently(
    call: Callable[[], _Result], seconds: float, given_up: Callable[[], bool] = lambda: False
) -> _Result:
    """Repeat a call as long as it raises BlockingIOError.

    Args:
        call: The call.
        seconds: How long.
        given_up: Returns whether to stop earlier.

    Raises:
        BlockingIOError: It still does.
    """
    deadline = time.monotonic() + seconds
    pause = _SHORTEST_PAUSE
    while True:
        try:
            return call()
        except BlockingIOError:
            if given_up() or time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
