"""Lets the router's own threads run in between the work of ours."""

from __future__ import annotations

import time
from typing import Final

# Not zero: a thread that merely yields the interpreter's lock takes it back before others wake.
_PAUSE_SECONDS: Final = 0.0001


def give_way() -> None:
    """Release the interpreter's lock for long enough that a thread that waits for it gets it."""
    time.sleep(_PAUSE_SECONDS)
