"""Which values become attributes of metrics: a bounded number of them, at a time and in total."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

OTHER: Final = "_OTHER"

UNUSED_NS: Final = 600_000_000_000
# Cumulative series stay in the SDK for good, also those of values that made room for others.
MAX_TURNOVER: Final = 10


class BoundedValues:
    """Lets at most `limit` values of one attribute be told apart; further ones are `_OTHER`.

    A value that was not used for `UNUSED_NS` makes room for another. In total `MAX_TURNOVER` times
    `limit` values are let in. Not thread-safe.

    Args:
        limit: How many values at a time.
        changed: Called when another value is let in, or room is made.
    """

    def __init__(self, limit: int, changed: Callable[[], object] = lambda: None) -> None:
        self._limit = limit
        self._changed = changed
        self._left = MAX_TURNOVER * limit
        self._used_at: OrderedDict[str, int] = OrderedDict()  # the least recently used first

    def bound(self, value: str, now_ns: int, *, let_in: bool = True) -> str:
        """The value, or `_OTHER`.

        Args:
            value: What is to be told apart.
            now_ns: A monotonic clock, nanoseconds.
            let_in: Whether it may become one of those told apart, and counts as used.
        """
        used_at = self._used_at
        if not let_in:
            return value if value in used_at else OTHER
        if value not in used_at:
            if len(used_at) >= self._limit:
                oldest = next(iter(used_at))
                if now_ns - used_at[oldest] < UNUSED_NS:
                    return OTHER
                del used_at[oldest]
                self._changed()
            if self._left == 0:
                return OTHER
            self._left -= 1
            self._changed()
        used_at[value] = now_ns
        used_at.move_to_end(value)
        return value

    def forget(self, value: str) -> None:
        """Makes room at once."""
        if self._used_at.pop(value, None) is not None:
            self._changed()
