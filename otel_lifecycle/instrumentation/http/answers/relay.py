"""An engine's answer that the router may pass on as it is: what both sides share is read once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import get_ident
from typing import Final, Protocol

from otel_lifecycle.instrumentation.http.answers.reader import AnswerReader

MAX_HELD: Final = 64 << 10
SMALL: Final = 4 << 10
_CHUNK: Final = 64  # bytes that a chunk takes besides its own


class Follower(Protocol):
    """The client's answer, as long as it is the engine's."""

    def go_on(self, reader: AnswerReader) -> None:
        """It is another one from now on; the reader has read what both had."""
        ...


class Relay:
    """Holds what an engine says, up to a bound, until somebody asks or the client has it too.

    The bytes that the client gets are compared with those of the engine, which takes a fraction of
    reading them. Where the two part, each goes on by itself. Not thread-safe: only what is sent in
    the thread that reads the engine is compared.

    Args:
        reader: Reads the answer.
        room: Bytes that may be held.
    """

    __slots__ = ("_ahead", "_common", "_follower", "_offset", "_room", "_size", "_thread", "reader")

    def __init__(self, reader: AnswerReader, room: int = MAX_HELD) -> None:
        self.reader = reader
        self._room = room
        self._size = 0
        self._thread = get_ident()
        self._common: list[bytes] = []  # what both have, and nobody has read
        self._ahead: deque[bytes] = deque()  # what the client has not got yet
        self._offset = 0  # of the client in the first of those
        self._follower: Follower | None = None

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return self._size

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the engine's answer."""
        if not chunk:
            return
        self._ahead.append(chunk)
        self._size += len(chunk) + _CHUNK
        if self._size > self._room:
            try:
                self._make_room()
            except Exception:  # the router is about to read
                self.reader.give_up()

    def read(self) -> AnswerReader:
        """Read all that the engine has said; a client that has not got as much goes on alone."""
        if self._ahead and self._follower is not None:
            self.part()
        if self._common:
            self._read_common()
        if self._ahead:
            rest = b"".join(self._take_ahead())
            self._size = 0
            self.reader.feed(rest[self._offset :] if self._offset else rest)
            self._offset = 0
        return self.reader

    def finish(self, *, choices: int, samples: int) -> None:
        """Read the answer to its end, as `AnswerReader.finish` does."""
        if self._follower is not None:
            self.part()
        self.read().finish(choices=choices, samples=samples)

    def follow(self, body: bytes, follower: Follower) -> bool:
        """Have the client's answer compared; return whether it begins like this one.

        Args:
            body: Its first bytes.
            follower: Told when it is no longer the same.
        """
        if self._thread != get_ident() or self.reader.has_begun or not self.passes(body):
            self._room = min(self._room, SMALL)  # nobody will
            return False
        self._follower = follower
        return True

    def passes(self, body: bytes) -> bool:
        """Return whether the next bytes that the client gets are the engine's next."""
        ahead, common = self._ahead, self._common
        if ahead and not self._offset and body == ahead[0]:
            common.append(ahead.popleft())
        elif not self._passes_pieces(body):
            return False
        if not self.reader.has_output or self._size > SMALL:
            self._read_common()
        return True

    def part(self) -> None:
        """What the client gets next is not what the engine says next."""
        follower, self._follower = self._follower, None
        self._room = min(self._room, SMALL)
        if follower is not None:
            self._read_common()
            follower.go_on(self.reader.copy())

    def leave(self) -> bool:
        """The client gets no more of it; return whether it has got all."""
        if self._ahead and self._follower is not None:
            self.part()
        self._follower = None
        return not self._ahead

    def _make_room(self) -> None:
        if self._common:
            self._read_common()
        if self._size > self._room:
            self.read()

    def _take_ahead(self) -> Iterator[bytes]:
        """One by one: an engine may be read in another thread than the one that asks."""
        while True:
            try:
                chunk = self._ahead.popleft()
            except IndexError:
                return
            yield chunk

    def _passes_pieces(self, body: bytes) -> bool:
        """Like `passes`, for bytes that are cut in another way."""
        position, offset, taken = 0, self._offset, 0
        pieces: list[bytes] = []
        for chunk in self._ahead:
            piece = body[position : position + len(chunk) - offset]
            if not chunk.startswith(piece, offset):
                return False
            pieces.append(piece)
            position += len(piece)
            if offset + len(piece) < len(chunk):
                offset += len(piece)
                break
            offset = 0
            taken += 1
            if position == len(body):
                break
        if position < len(body):
            return False
        for _ in range(taken):
            self._ahead.popleft()
        self._offset = offset
        self._common += pieces
        return True

    def _read_common(self) -> None:
        common = b"".join(self._common)
        self._size -= len(common) + _CHUNK * len(self._common)
        self._common.clear()
        self.reader.feed(common)
