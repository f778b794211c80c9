"""Facts that wait to be asked for, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class _Entry(Generic[_Value]):
    __slots__ = ("added_at", "size", "value")

    def __init__(self, value: _Value, added_at: float) -> None:
        self.value = value
        self.size = 0
        self.added_at = added_at


class Held(Generic[_Value]):
    """Values by key; the oldest are given up when all have become too many. Not thread-safe.

    Args:
        most: The sum of what `grow` is told, beyond which values are given up.
        longest: Seconds after which a value is given up.
        monotonic: Seconds, for ages.
    """

    def __init__(
        self, most: int, longest: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._longest = longest
        self._monotonic = monotonic
        self._entries: dict[str, _Entry[_Value]] = {}  # the oldest first
        self._size = 0

    def get(self, key: str) -> _Value | None:
        """Return a value; None: there is none, or it was given up."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def add(self, key: str, value: _Value) -> None:
        """Hold a value under a key that has none."""
        self._entries[key] = _Entry(value, self._monotonic())
        self.grow(key, 1)

    def grow(self, key: str, by: int) -> None:
        """Take note that a value has grown, unless it was given up; give up what is too much."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.size += by
            self._size += by
        while self._size > self._most:
            self.drop(next(iter(self._entries)))
        earliest = self._monotonic() - self._longest
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].added_at > earliest:
                break
            self.drop(oldest)

    def drop(self, key: str) -> None:
        """Forget a value, if it is held."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size

    def younger(self, seconds: float) -> Iterator[str]:
        """Yield the keys that were added within the last seconds."""
        earliest = self._monotonic() - seconds
        for key in reversed(self._entries):
            if self._entries[key].added_at < earliest:
                break
            yield key
