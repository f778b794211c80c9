"""Recognises events that repeat the one before but for a text, so that nobody decodes them."""

from __future__ import annotations

import re
from typing import Final

_MAX_BYTES: Final = 4 << 10
_TRIES: Final = 4
_TEXTS: Final = frozenset(
    {
        b"content",
        b"text",
        b"delta",
        b"reasoning_content",
        b"reasoning",
        b"thinking",
        b"partial_json",
        b"arguments",
        b"response",
    }
)
# Within one JSON string and one line.
_MORE_TEXT = re.compile(rb'[^"\\\r\n]*(?:\\[nt"][^"\\\r\n]*)*')


class RepeatedEvent:
    """Learns what the chunks of a stream share, from two that tell nothing but text.

    A chunk that only has another text at the same place, the value of a key for text, tells nothing
    else either. Most chunks of most streams are of this kind.

    Attributes:
        is_learned: Whether there is anything to compare a chunk with.
    """

    __slots__ = ("_begin", "_end", "_prefix", "_previous", "_suffix", "_tries", "is_learned")

    def __init__(self) -> None:
        self.is_learned = False
        self._prefix = self._suffix = b""
        self._begin = self._end = 0  # of the text; the end from the chunk's own
        self._previous: list[bytes] = []
        self._tries = _TRIES

    def matches(self, chunk: bytes) -> bool:
        """Return whether the chunk repeats what was learned; there has to be something learned."""
        begin, end = self._begin, len(chunk) - self._end
        return (
            begin <= end
            and chunk[:begin] == self._prefix
            and chunk[end:] == self._suffix
            and _MORE_TEXT.fullmatch(chunk, begin, end) is not None
        )

    def learn(self, chunk: bytes) -> None:
        """Take a chunk that is one whole event and tells nothing but text."""
        if not self._tries or len(chunk) > _MAX_BYTES or b"\\" in chunk:
            return
        pieces, previous = chunk.split(b'"'), self._previous
        self._previous = pieces
        if not previous:
            return
        place = _difference(previous, pieces)
        if place is None:
            self._tries -= 1
            return
        self._tries = _TRIES
        self.is_learned = True
        self._prefix = b'"'.join(pieces[:place]) + b'"'
        self._suffix = b'"' + b'"'.join(pieces[place + 1 :])
        self._begin, self._end = len(self._prefix), len(self._suffix)


def _difference(one: list[bytes], other: list[bytes]) -> int | None:
    """Return the place of the only string in which two events differ, if it is a text."""
    if len(one) != len(other):
        return None
    places = [place for place in range(len(one)) if one[place] != other[place]]
    if len(places) != 1 or places[0] % 2 == 0:
        return None
    (place,) = places
    is_value = one[place - 1].strip() == b":" and one[place - 2] in _TEXTS
    return place if is_value else None
