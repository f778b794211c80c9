"""Server-sent events, as the WHATWG specifies them, out of chunks of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

MAX_EVENT_BYTES: Final = 1 << 20
Event: TypeAlias = "tuple[bytes, bytes]"


class EventStream:
    r"""Splits a stream into events, each a pair of its name, empty unless given, and its data.

    Lines end with LF, CR or CRLF, each chunk may end anywhere, and of an event of more than
    `MAX_EVENT_BYTES` the data is dropped. A line that begins with `{` is no field, but an engine's
    error that was never put into an event: it counts as data. Not thread-safe.

    Attributes:
        dropped: Whether an event was too big to keep.
        is_between_events: Whether nothing of a next event has been seen yet.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_line",
        "_name",
        "_skipping",
        "dropped",
        "is_between_events",
    )

    def __init__(self) -> None:
        self.dropped = False
        self.is_between_events = True
        self._line = bytearray()
        self._skipping = False  # the rest of a line that is too long
        self._after_cr = False
        self._name = b""
        self._data: bytes | bytearray | None = None

    def feed(self, chunk: bytes) -> Sequence[Event]:
        """Take the next bytes; return the events that are whole with them."""
        # Most chunks are one event with one line of data, or several of them.
        if self.is_between_events and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            start, name = 0, b""
            if chunk.startswith(b"event: "):
                start = chunk.find(b"\n") + 1
                name = chunk[7 : start - 1]
            if chunk.startswith(b"data: ", start) and chunk.find(b"\n", start) == len(chunk) - 2:
                return ((name, chunk[start + 6 : -2]),)
            plain = _plain_events(chunk)
            if plain is not None:
                return plain
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        lines = chunk.split(b"\n")
        rest = lines.pop()
        events: list[Event] = []
        if lines:
            if self._line or self._skipping:
                lines[0] = self._end_line(lines[0])
            self._read(lines, events)
        if rest:
            self._begin_line(rest)
        self.is_between_events = not (
            self._line or self._name or self._skipping or self._after_cr or self._data is not None
        )
        return events

    def finish(self) -> Sequence[Event]:
        """Return the event that the end of the stream may have left without its blank line."""
        if self.is_between_events:
            return ()
        events: list[Event] = []
        self._read([self._end_line(b""), b""], events)
        return events

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r") or (self._after_cr and not chunk)
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _begin_line(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._line) + len(part) > MAX_EVENT_BYTES:
            self._line.clear()
            self._skipping = self.dropped = True
        else:
            self._line += part

    def _end_line(self, part: bytes) -> bytes:
        self._begin_line(part)
        line = bytes(self._line)
        self._line.clear()
        if self._skipping:
            self._skipping = False
            return b":"
        return line

    def _read(self, lines: list[bytes], events: list[Event]) -> None:
        for line in lines:
            if not line:
                if self._data is not None:
                    events.append((self._name, bytes(self._data)))
                    self._data = None
                self._name = b""
            elif line.startswith(b"data:"):
                self._add(line[6:] if line[5:6] == b" " else line[5:])
            elif line.startswith(b"event:"):
                self._name = line[7:] if line[6:7] == b" " else line[6:]
            elif line == b"data":
                self._add(b"")
            elif line == b"event":
                self._name = b""
            elif line.startswith(b"{"):
                self._add(line)

    def _add(self, value: bytes) -> None:
        if self._data is None:
            self._data = value
        elif len(self._data) + len(value) >= MAX_EVENT_BYTES:
            self.dropped = True
        else:
            if not isinstance(self._data, bytearray):
                self._data = bytearray(self._data)
            self._data += b"\n" + value


def _plain_events(chunk: bytes) -> Sequence[Event] | None:
    """Return the events of a chunk that has nothing but names and lines of data, one a event."""
    events: list[Event] = []
    for text in chunk[:-2].split(b"\n\n"):
        name = b""
        if text.startswith(b"event: "):
            name, _, text = text[7:].partition(b"\n")
        if not text.startswith(b"data: ") or b"\n" in text:
            return None
        events.append((name, text[6:]))
    return events
