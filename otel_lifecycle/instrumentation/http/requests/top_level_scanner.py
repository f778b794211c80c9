"""Finds single values of a JSON object that is too big to keep, or is not all there yet."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import accumulate

_MAX_KEYS = 1_000
_MAX_KEY_BYTES = 128
_SMALLEST_WINDOW = 64
_LARGEST_WINDOW = 64 << 10

_BLANK = re.compile(rb"[ \t\r\n]*")
_BETWEEN = re.compile(rb"[ \t\r\n,]*")
_END_OF_SCALAR = re.compile(rb"[,}\] \t\r\n]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{}[]")
_DELTA = [1 if byte in b"{[" else -1 for byte in range(256)]

_START, _KEYS, _KEY, _COLON, _VALUE, _STRING, _CONTAINER, _SCALAR, _END, _MORE, _UNREADABLE = range(
    11
)


class TopLevelScanner:
    """Reads a JSON object chunk by chunk and keeps the values of some top-level keys.

    Everything else is skipped in blocks by functions that run in C, so the work is linear in the
    bytes whatever they are, and only a value that is kept takes memory. Not thread-safe.

    Args:
        wanted: The keys to keep.
        limit: Bytes of a value beyond which it is not kept.

    Attributes:
        values: The JSON text of each value found so far, by key. Of a repeated key the last counts.
    """

    def __init__(self, wanted: Collection[str], limit: int = 4 << 10) -> None:
        self.values: dict[str, bytes] = {}
        self._wanted = {name.encode(): name for name in wanted}
        self._limit = limit
        self._state = _START
        self._escaped = False
        self._keys = 0
        self._key = b""
        self._kept: bytearray | None = None
        self._depth = 0
        self._inside = 0  # 1 within a string of a container

    @property
    def is_whole(self) -> bool | None:
        """Whether the object is closed, with nothing after it; None when it cannot be read."""
        return None if self._state == _UNREADABLE else self._state == _END

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes."""
        for start in range(0, len(chunk), _LARGEST_WINDOW):
            if self._state >= _MORE:
                return
            self._read(chunk[start : start + _LARGEST_WINDOW])

    def _read(self, block: bytes) -> None:
        text = self._without_escapes(block)
        position, end = 0, len(text)
        while position < end:
            state = self._state
            if state == _CONTAINER:
                begun, position = position, self._skip_container(text, position)
                self._keep(block[begun:position], ended=self._depth == 0)
            elif state == _STRING:
                quote = text.find(b'"', position)
                begun, position = position, end if quote < 0 else quote + 1
                self._keep(block[begun:position], ended=quote >= 0)
            elif state == _SCALAR:
                found = _END_OF_SCALAR.search(text, position)
                begun, position = position, end if found is None else found.start()
                self._keep(block[begun:position], ended=found is not None)
            elif state == _KEY:
                quote = text.find(b'"', position)
                begun, position = position, end if quote < 0 else quote + 1
                self._read_key(block[begun : position - (quote >= 0)], ended=quote >= 0)
            else:
                position = self._step(text, position)

    def _without_escapes(self, block: bytes) -> bytes:
        """Return the block without escaped quotes, everything else at its place."""
        if not self._escaped and b"\\" not in block:
            return block
        if self._escaped:
            block = b"_" + block[1:]
        text = block.replace(rb"\\", b"__").replace(rb"\"", b"__")
        self._escaped = text.endswith(b"\\")
        return text

    def _step(self, text: bytes, position: int) -> int:
        """Read one byte of the object's own structure."""
        blank = _BETWEEN if self._state == _KEYS else _BLANK
        found = blank.match(text, position)
        position = position if found is None else found.end()
        byte = text[position : position + 1]
        if not byte:
            return position
        if self._state == _START and byte == b"{":
            self._state = _KEYS
        elif self._state == _KEYS and byte == b'"' and self._keys < _MAX_KEYS:
            self._state, self._key = _KEY, b""
            self._keys += 1
        elif self._state == _KEYS and byte == b"}":
            self._state = _END
        elif self._state == _COLON and byte == b":":
            self._state = _VALUE
        elif self._state == _VALUE:
            return self._begin_value(byte, position)
        else:
            self._state = _MORE if self._state == _END else _UNREADABLE
            return len(text)
        return position + 1

    def _read_key(self, part: bytes, *, ended: bool) -> None:
        self._key = (self._key + part[:_MAX_KEY_BYTES])[:_MAX_KEY_BYTES]
        if ended:
            self._state = _COLON

    def _begin_value(self, byte: bytes, position: int) -> int:
        self._kept = bytearray() if self._key in self._wanted else None
        if byte not in b'"{[':
            self._state = _SCALAR
            return position
        self._keep(byte, ended=False)
        self._state = _STRING if byte == b'"' else _CONTAINER
        self._depth, self._inside = 1, 0
        return position + 1

    def _keep(self, part: bytes, *, ended: bool) -> None:
        if self._kept is not None:
            if len(self._kept) + len(part) > self._limit:
                self.values.pop(self._wanted[self._key], None)
                self._kept = None
            else:
                self._kept += part
        if ended:
            self._state = _KEYS
            if self._kept is not None:
                self.values[self._wanted[self._key]] = bytes(self._kept)
                self._kept = None

    def _skip_container(self, text: bytes, position: int) -> int:
        """Skip ahead in ever larger windows; return the end of the container or of the text."""
        size = 4 * _SMALLEST_WINDOW
        while position < len(text):
            window = text[position : position + size]
            pieces = window.split(b'"')
            lowest, net = depths(b"".join(pieces[self._inside :: 2]), self._depth)
            if lowest > 0:
                self._depth += net
                self._inside ^= (len(pieces) - 1) & 1
                position += len(window)
                size = min(2 * size, _LARGEST_WINDOW)
            elif len(window) > _SMALLEST_WINDOW:
                size = max(len(window) // 4, _SMALLEST_WINDOW)
            else:
                return position + self._end_of_container(window)
        return position

    def _end_of_container(self, window: bytes) -> int:
        for index, byte in enumerate(window):
            if byte == 0x22:
                self._inside ^= 1
            elif not self._inside and byte in b"{}[]":
                self._depth += _DELTA[byte]
                if self._depth == 0:
                    return index + 1
        raise AssertionError("the container ends in this window")


def without_strings(text: bytes) -> bytes:
    """Return JSON without its strings."""
    pieces = text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
    return b"".join(pieces[::2])


def depths(outside: bytes, depth: int) -> tuple[int, int]:
    """Return a bound of the lowest depth that the brackets lead to, and by how much they change it.

    The bound is exact where it is not above 0.

    Args:
        outside: JSON without its strings.
        depth: The depth before it.
    """
    brackets = outside.translate(None, _NO_BRACKETS)
    size = -1
    while len(brackets) != size:  # at most as often as C code is cheaper than the loop below
        size = len(brackets)
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if 4 * len(brackets) > size:
            break
    closing = brackets.count(b"}") + brackets.count(b"]")
    net = len(brackets) - 2 * closing
    if closing < depth:
        return depth - closing, net
    return min(accumulate(map(_DELTA.__getitem__, brackets), initial=depth)), net
