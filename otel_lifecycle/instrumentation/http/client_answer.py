"""What the client gets of an answer; of that of an engine nothing is read twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from otel_lifecycle.instrumentation.http.answers import AnswerReader, Relay
from otel_lifecycle.instrumentation.http.answers.reader import (
    content_length,
    is_packed,
    media_type,
)
from otel_lifecycle.instrumentation.http.attempt import Attempt

_NO_HEADERS: Final[Mapping[str, str]] = {}


class ClientAnswer:
    """The answer to the client, or to middleware above the routing; not thread-safe.

    Attributes:
        has_output: Whether there is content, reasoning or a tool call in it.
    """

    __slots__ = ("_headers", "_reader", "_relay", "_sent", "_status", "has_output")

    def __init__(self) -> None:
        self.has_output = False
        self._status = 200
        self._headers = _NO_HEADERS
        self._sent = 0
        self._relay: Relay | None = None  # that of the engine, as long as it is the same
        self._reader: AnswerReader | None = None

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the status and the headers, whose names are in lower case."""
        self._status, self._headers = status, headers
        if self._reader is not None:
            self._reader.begin(status, headers)

    def feed(self, body: bytes, attempts: Sequence[Attempt]) -> None:
        """Take the next bytes.

        Args:
            body: The bytes.
            attempts: The calls whose answers they may be from.
        """
        self._sent += len(body)
        relay = self._relay
        if relay is not None:
            if relay.passes(body):
                self.has_output = relay.reader.has_output
                return
            relay.part()
        elif self._reader is None:
            relay = self._source(body, attempts)
            if relay is not None:
                self._relay = relay
                self.has_output = relay.reader.has_output
                return
        reader = self._own()
        reader.feed(body)
        self.has_output = reader.has_output

    def assume_whole(self) -> None:
        """Take the answer for a stream that has ended; its pieces were not read."""
        self._own().assume_whole()

    def finish(self, *, choices: int, samples: int) -> AnswerReader:
        """Read to the end, as `AnswerReader.finish` does; return what has read it."""
        relay = self._relay
        if relay is not None and relay.leave():
            self._reader = relay.read()
        reader = self._own()
        reader.finish(choices=choices, samples=samples)
        return reader

    @property
    def is_truncated(self) -> bool:
        """Whether it is known to be cut short; final after `finish`."""
        missing = content_length(self._headers) - self._sent
        return self._own().is_truncated_for(self._status, missing)

    @property
    def is_stream(self) -> bool:
        """Whether it comes piece by piece."""
        reader = self._reader if self._relay is None else self._relay.reader
        return reader is not None and reader.is_stream

    def leave(self) -> None:
        """It is no longer the answer."""
        if self._relay is not None:
            self._relay.leave()

    def _source(self, body: bytes, attempts: Sequence[Attempt]) -> Relay | None:
        """Return the engine's answer that it begins like, if there is one."""
        if self._status >= 400 or is_packed(self._headers):
            return None
        kind = media_type(self._headers)
        for attempt in reversed(attempts):
            relay = attempt.relay
            if relay is None or relay.reader.media_type != kind:
                continue
            if relay.follow(body, self):
                return relay
        return None

    def go_on(self, reader: AnswerReader) -> None:
        """It is no longer what an engine says; the reader has read what both had."""
        self._relay, self._reader = None, reader

    def _own(self) -> AnswerReader:
        reader = self._reader
        if reader is None:
            reader = self._reader = AnswerReader()
            reader.begin(self._status, self._headers)
        return reader
