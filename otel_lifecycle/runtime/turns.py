"""Lets the router's own threads run in between the work of ours."""

from __future__ import annotations

import time
from typing import Final

# More pauses would cost more than the work; an event loop waits for a whole turn, and longer ones
# show in its delays.
_TURN_SECONDS: Final = 0.0003
# Not zero: a thread that merely yields the interpreter's lock takes it back before others wake.
_PAUSE_SECONDS: Final = 0.0001


class Turn:
    """The time that a thread works before it lets others run, beginning now. Not thread-safe."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin anew, after a wait."""
        self._ends = time.monotonic() + _TURN_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether others should run."""
        return time.monotonic() >= self._ends

    def give_way(self) -> None:
        """Release the interpreter's lock for long enough that a thread that waits gets it."""
        time.sleep(_PAUSE_SECONDS)
        self.begin()
