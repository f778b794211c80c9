"""Limits lines of the same kind to a few per minute, and counts the suppressed ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_MINUTE = 60.0


@dataclass
class _Kind:
    since: float
    told: int = 0
    left_out: int = 0


class Notices:
    """Limits lines by kind. Not thread-safe.

    Args:
        tell: Called with each line for the user.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._kinds: dict[str, _Kind] = {}

    def say(self, kind: str, text: str, *, most: int = 1) -> bool:
        """Pass on a line, unless `most` of its kind were passed on within the minute.

        Returns:
            Whether the line was passed on.
        """
        now = time.monotonic()
        entry = self._kinds.setdefault(kind, _Kind(now))
        if now - entry.since >= _MINUTE:
            entry.since, entry.told = now, 0
        if entry.told >= most:
            entry.left_out += 1
            return False
        entry.told += 1
        if entry.left_out:
            text += f" ({entry.left_out:,} more like it were not shown)"
            entry.left_out = 0
        self._tell(text)
        return True
