"""Recognises events that repeat the one before but for a text, so that nobody decodes them."""

from __future__ import annotations

import re
from itertools import takewhile
from typing import Final

_MAX_BYTES: Final = 4 << 10
_WINDOW: Final = 4 * _MAX_BYTES
_TRIES: Final = 8
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
    """Learns what the events of a stream share, from one that tells nothing but text.

    An event that only has another text at the same place, the value of a key for text, tells
    nothing else either. Most events of most streams are of this kind.

    Attributes:
        is_learned: Whether there is anything to compare an event with.
        learns: Whether it is of use to show it more events.
    """

    __slots__ = (
        "_begin",
        "_between",
        "_end",
        "_prefix",
        "_previous",
        "_suffix",
        "_tries",
        "is_learned",
        "learns",
    )

    def __init__(self) -> None:
        self.is_learned = False
        self.learns = True
        self._prefix = self._suffix = self._between = b""
        self._begin = self._end = 0  # of the text; the end from the event's own
        self._previous: list[bytes] = []
        self._tries = _TRIES

    def matches(self, chunk: bytes) -> bool:
        """Return whether a chunk is one event that repeats what was learned, if anything was."""
        begin, end = self._begin, len(chunk) - self._end
        return (
            0 < begin <= end
            and chunk[:begin] == self._prefix
            and chunk[end:] == self._suffix
            and _MORE_TEXT.fullmatch(chunk, begin, end) is not None
        )

    def skip(self, chunk: bytes, position: int) -> int:
        """Return the position behind the events that repeat what was learned.

        Args:
            chunk: Bytes of a stream; something has to be learned.
            position: Where an event begins.
        """
        while chunk.startswith(self._prefix, position):
            skipped = self._skip(chunk[position + self._begin : position + _WINDOW])
            if not skipped:
                break
            self._tries = _TRIES
            position += skipped
        return position

    def _skip(self, window: bytes) -> int:
        """Return the length of the events that repeat, the first one's beginning left out."""
        texts = window.split(self._between)
        last = texts.pop()
        end = last.find(self._suffix)
        if end >= 0:
            texts.append(last[:end])
        # A blank, as a backslash must not escape what follows it.
        if _MORE_TEXT.fullmatch(b" ".join(texts)) is None:
            texts = list(takewhile(_MORE_TEXT.fullmatch, texts))
        return sum(map(len, texts)) + len(texts) * (self._begin + self._end)

    def look(self, event: bytes, *, has_news: bool) -> None:
        """Take an event that repeats nothing; too many of them, and there is nothing to learn.

        Args:
            event: A whole event, with its blank line.
            has_news: Whether it tells more than text.
        """
        self._tries -= 1
        if not self._tries:
            self.learns = self.is_learned = False
            return
        if has_news or len(event) > _MAX_BYTES or b"\\" in event:
            return
        pieces = event.split(b'"')
        place = _place_of_text(pieces, self._previous)
        self._previous = pieces
        if place is None:
            return
        self.is_learned = True
        self._prefix = b'"'.join(pieces[:place]) + b'"'
        self._suffix = b'"' + b'"'.join(pieces[place + 1 :])
        self._begin, self._end = len(self._prefix), len(self._suffix)
        self._between = self._suffix + self._prefix


def _place_of_text(pieces: list[bytes], previous: list[bytes]) -> int | None:
    """Return the place of an event's text: the only one, or the one that is another than before."""
    places = [
        place
        for place in range(3, len(pieces), 2)
        if pieces[place - 2] in _TEXTS and pieces[place - 1].strip() == b":"
    ]
    if len(places) > 1 and len(previous) == len(pieces):
        places = [place for place in places if pieces[place] != previous[place]]
    return places[0] if len(places) == 1 else None
