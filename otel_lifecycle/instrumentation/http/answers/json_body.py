"""A body of JSON: one value, or a line for each piece of a stream."""

from __future__ import annotations

from typing import Final

import msgspec

from otel_lifecycle.instrumentation.http.answers.decoding import (
    UNREADABLE,
    decode_parts,
    strict,
)
from otel_lifecycle.instrumentation.http.requests.top_level_scanner import (
    TopLevelScanner,
    without_strings,
)

MAX_BODY_BYTES: Final = 1 << 20
_MAX_ITEMS: Final = 10_000
# What is looked for in a body that is too big to keep.
_WANTED: Final = (
    "code",
    "done",
    "done_reason",
    "error",
    "error_code",
    "eval_count",
    "meta_info",
    "object",
    "prompt_eval_count",
    "status",
    "stop_reason",
    "type",
    "usage",
    "usageMetadata",
)

_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class JsonBody:
    r"""Keeps a body until its end, unless its first line shows that each line is a piece.

    Ollama and vLLM's demo end their lines with a line feed, FastChat's workers with a NUL.
    Of a body that is too big only some values are kept. Not thread-safe.

    Args:
        is_lines: Whether the header says that there is a piece in each line.
    """

    def __init__(self, *, is_lines: bool) -> None:
        self.dropped = False
        self._is_lines = is_lines
        self._end_of_line = b"\n"
        self._first_line_seen = is_lines
        self._kept = bytearray()
        self._skipping = False
        self._scanner: TopLevelScanner | None = None

    @property
    def is_lines(self) -> bool:
        """Whether each line is a piece."""
        return self._is_lines

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that are whole with them."""
        if self._is_lines:
            return self._split(chunk)
        if self._scanner is not None:
            self._scanner.feed(chunk)
            return []
        room = MAX_BODY_BYTES - len(self._kept)
        begun = len(self._kept)
        self._kept += chunk[:room]
        if not self._first_line_seen and self._sees_lines(begun):
            kept, self._kept = bytes(self._kept), bytearray()
            return self._split(kept) + self._split(chunk[room:])
        if len(chunk) > room:
            self._scanner = TopLevelScanner(_WANTED, limit=64 << 10)
            self._scanner.feed(bytes(self._kept))
            self._scanner.feed(chunk[room:])
            self._kept.clear()
        return []

    def finish(self) -> tuple[list[bytes | msgspec.Raw], bool | None]:
        """Return what is left to be read, and whether the body may be whole.

        True and None leave it to the reading: that it is read, or cannot be known.
        """
        if self._scanner is not None:
            members = [
                b'"' + name.encode() + b'":' + value for name, value in self._scanner.values.items()
            ]
            return [b"{" + b",".join(members) + b"}"], self._scanner.is_whole
        kept = bytes(self._kept)
        if not kept.startswith(b"["):
            return [kept] if kept.strip() else [], True
        return _items(kept)

    def _sees_lines(self, begun: int) -> bool:
        """Look at the first line, once it is there."""
        for end_of_line in (b"\n", b"\0"):
            end = self._kept.find(end_of_line, begun)
            if end >= 0:
                self._first_line_seen = True
                if _is_piece(bytes(self._kept[:end]), end_of_line):
                    self._is_lines, self._end_of_line = True, end_of_line
                return self._is_lines
        return False

    def _split(self, chunk: bytes) -> list[bytes]:
        # Most chunks are one line.
        is_line = chunk.find(self._end_of_line) == len(chunk) - 1
        if is_line and not self._kept and not self._skipping:
            return [chunk[:-1]]
        lines = chunk.split(self._end_of_line)
        rest = lines.pop()
        if lines:
            self._begin_line(lines[0])
            lines[0] = bytes(self._kept)
            self._kept.clear()
            self._skipping = False
        self._begin_line(rest)
        return [line for line in lines if line.strip()]

    def _begin_line(self, part: bytes) -> None:
        if self._skipping:
            return
        if len(self._kept) + len(part) > MAX_BODY_BYTES:
            self._kept.clear()
            self._skipping = self.dropped = True
        else:
            self._kept += part


def _items(kept: bytes) -> tuple[list[bytes | msgspec.Raw], bool | None]:
    """Return the objects of a list, unless they are too many, and whether it is whole."""
    if without_strings(kept).count(b"{") > _MAX_ITEMS:
        return [], None
    try:
        items = _items_decoder.decode(kept)
    except RecursionError:
        return [], None
    except UNREADABLE:
        again = strict(kept)
        if again is None:
            return [], False
        items = _items_decoder.decode(again)
    return [item for item in items if bytes(memoryview(item)[:1]) == b"{"], True


def _is_piece(line: bytes, end_of_line: bytes) -> bool:
    try:
        keys = decode_parts(line)
    except UNREADABLE:
        return False
    if end_of_line == b"\0" or keys.keys() == {"text"}:
        return True
    done = keys.get("done")
    return done is not None and bytes(done) == b"false"
