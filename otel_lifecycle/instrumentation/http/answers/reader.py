"""Reads one answer as it passes by, in whatever pieces it comes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Final

import msgspec

from otel_lifecycle.instrumentation.http.answers.answer import Answer
from otel_lifecycle.instrumentation.http.answers.decoding import UNREADABLE, decode_parts, strict
from otel_lifecycle.instrumentation.http.answers.dialects import openai, plain
from otel_lifecycle.instrumentation.http.answers.dialects.detection import Dialect, detect
from otel_lifecycle.instrumentation.http.answers.event_stream import EventStream
from otel_lifecycle.instrumentation.http.answers.json_body import JsonBody
from otel_lifecycle.instrumentation.http.answers.repeated_event import RepeatedEvent
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

_BOM: Final = b"\xef\xbb\xbf"
_BLANKS: Final = b" \t\r\n"
_FIELDS: Final = (b"data", b"event", b"id", b"retry", b":")
_LONGEST_FIELD: Final = 8
_BEGINNING: Final = 256
_MAX_DIGITS: Final = 18
_MAX_APART: Final = 16  # events of a chunk that are looked at one by one
_MAX_UNKNOWN: Final = 64  # objects of no dialect, before nobody looks for one any more
_WITHOUT_BODY: Final = frozenset({204, 205, 304})
_LINES: Final = ("ndjson", "jsonl", "json-lines", "jsonlines", "stream+json")


class AnswerReader(Answer):
    """Reads an answer chunk by chunk; nothing raises, and what cannot be read is unknown.

    The work is linear in the bytes however they are cut, and at most about 1 MiB is kept. An error
    status, an encoding such as gzip, and a body that is neither JSON nor a stream are not read.
    Not thread-safe.

    Attributes:
        beginning: Its first bytes without blanks, to tell whose answer another one passes on.
    """

    __slots__ = (
        "_body",
        "_cut",
        "_dialect",
        "_dropped",
        "_events",
        "_head",
        "_is_over",
        "_may_repeat",
        "_missing",
        "_received",
        "_repeated",
        "_status",
        "_unknown",
        "_unread",
        "beginning",
        "media_type",
    )

    def __init__(self) -> None:
        super().__init__()
        self.beginning = b""
        self._received = False
        self._missing = 0
        self._status = 200
        self.media_type = ""
        self._unread = False
        self._cut = False
        self._dropped = False
        self._head: bytes = b""
        self._dialect: Dialect | None = None
        self._unknown = 0
        self._events: EventStream | None = None
        self._body: JsonBody | None = None
        self._repeated: RepeatedEvent | None = None
        self._may_repeat = False  # what comes next may be an event like the one learned
        self._is_over = False

    @property
    def is_truncated(self) -> bool:
        """Whether the answer is known to be cut short; final after `finish`.

        A stream that lacks its terminator, a body shorter than its header says, JSON that is not
        whole, or nothing at all.
        """
        return self.is_truncated_for(self._status, self._missing)

    @property
    def has_begun(self) -> bool:
        """Whether anything has been read."""
        return self._received or bool(self._head)

    def is_truncated_for(self, status: int, missing: int) -> bool:
        """Return the same for somebody who got the answer under another header.

        Args:
            status: Of that.
            missing: Bytes that it announced, and that did not come.
        """
        if self.is_stream:
            unknown = self._dropped or not self.tells_its_end
            return self._cut or not (self.ended or unknown)
        if not self._received:
            return status not in _WITHOUT_BODY
        return missing > 0 or self._cut

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the status and the headers, whose names are in lower case."""
        self._status = status
        self._missing = content_length(headers)
        self.media_type = media_type(headers)
        self._unread = status >= 400 or is_packed(headers)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self._missing -= len(chunk)
        if self._repeated is not None and self._may_repeat and self._repeated.matches(chunk):
            return
        if not chunk or self._is_over:
            return
        try:
            if self._events is not None:
                self._read_events(self._events, chunk)
            elif self._body is not None:
                self._read_lines(self._body, chunk)
            elif self._unread:
                self._received = True
            else:
                self._decide(chunk)
        except Exception:
            self.give_up()

    def finish(self, *, choices: int = 1, samples: int = 1) -> None:
        """Read what the end of the body makes readable; later calls do nothing.

        Args:
            choices: How many choices were asked for.
            samples: How many of them for each prompt.
        """
        if self._is_over:
            return
        self._is_over = True
        self._may_repeat = False
        self._choices, self._samples = choices, samples
        try:
            if self._events is not None:
                for name, data in self._events.finish():
                    self._read_event(name, data)
                self._dropped = self._events.dropped
            elif self._body is not None:
                self._read_body(self._body)
        except Exception:
            self.give_up()
        self._events = self._body = None
        self._head = b""

    def copy(self) -> AnswerReader:
        """Return another one that has read as much."""
        return deepcopy(self)

    def assume_whole(self) -> None:
        """Take the answer for a stream that has ended; its pieces were not read."""
        self.is_stream = True
        self.end()

    def give_up(self) -> None:
        """Leave the rest unread: what is in it is not known."""
        _logger.debug("an answer could not be read", exc_info=True)
        self._events = self._body = None
        self._unread = self._dropped = True
        self._may_repeat = False

    def _decide(self, chunk: bytes) -> None:
        """Tell a stream of events from JSON by its first bytes; skips blanks and a BOM."""
        head = self._head + chunk
        head = head.removeprefix(_BOM).lstrip(_BLANKS)
        start = head[:_LONGEST_FIELD]
        self._received = bool(start)
        self.beginning = head[:_BEGINNING].translate(None, _BLANKS)
        if not start or head in (_BOM[:1], _BOM[:2]):
            self._head = head
        elif start[:1] in (b"{", b"["):
            self._head = b""
            self._body = JsonBody(is_lines=self.media_type.endswith(_LINES))
            self._read_lines(self._body, head)
        elif self.media_type == "text/event-stream" or _is_field(start):
            self._head = b""
            self.is_stream = True
            self._events = EventStream()
            self._read_events(self._events, head)
        elif any(field.startswith(start) for field in _FIELDS):
            self._head = head
        else:
            self._head = b""
            self._unread = True

    def _read_events(self, stream: EventStream, chunk: bytes) -> None:
        """Read a chunk event by event, as long as there is a use in that: most are alike."""
        repeated = self._repeated
        if not stream.is_between_events:
            self._read_piece(stream, chunk)
            return
        if repeated is None:
            repeated = self._repeated = RepeatedEvent()
        position = 0
        for _ in range(_MAX_APART if repeated.learns else 0):
            if self._may_repeat:
                position = repeated.skip(chunk, position)
            end = chunk.find(b"\n\n", position) + 2
            if end < 2:
                break
            event, position = chunk[position:end], end
            changes = self.changes
            self._read_piece(stream, event)
            has_news = not self.has_output or changes != self.changes
            repeated.look(event, has_news=has_news)
            self._may_repeat = repeated.is_learned
            if not (repeated.learns and stream.is_between_events):
                break
        if position < len(chunk):
            self._read_piece(stream, chunk[position:] if position else chunk)
        self._may_repeat = repeated.is_learned and stream.is_between_events

    def _read_piece(self, stream: EventStream, piece: bytes) -> None:
        dialect = self._dialect
        for name, data in stream.feed(piece):
            if dialect is not None and name != b"error" and data.startswith(b"{"):
                try:
                    dialect(data, self)
                    continue
                except UNREADABLE:
                    pass
            self._read_event(name, data)

    def _read_event(self, name: bytes, data: bytes) -> None:
        if name == b"error":
            self.fail()
        if data == b"[DONE]":
            self.end()
        elif data.lstrip().startswith(b"{"):
            self._read_object(data)

    def _read_lines(self, body: JsonBody, chunk: bytes) -> None:
        lines = body.feed(chunk)
        self.is_stream = self.is_stream or body.is_lines
        for line in lines:
            if line.lstrip().startswith(b"{"):
                self._read_object(line)

    def _read_body(self, body: JsonBody) -> None:
        values, is_whole = body.finish()
        self._cut = is_whole is False
        self._dropped = body.dropped
        for self.part, value in enumerate(values):
            if self._read_object(value) is False:
                self._cut = True

    def _read_object(self, data: bytes | msgspec.Raw) -> bool | None:
        """Read one object; return whether it is JSON at all, None when that is not known."""
        try:
            self._read_strict(data)
        except RecursionError:
            return None
        except UNREADABLE:
            again = strict(bytes(data))
            if again is None:
                return False
            self._read_strict(again)
        return True

    def _read_strict(self, data: bytes | msgspec.Raw) -> None:
        dialect = self._dialect
        if dialect is None:
            if openai.read_first(data, self):
                self._dialect = openai.read
                return
            dialect = detect(decode_parts(data))
            self._unknown += dialect is plain.read
            if dialect is not plain.read or self._unknown > _MAX_UNKNOWN:
                self._dialect = dialect
        dialect(data, self)


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type, without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def content_length(headers: Mapping[str, str]) -> int:
    """Return how many bytes are announced; 0 when unknown."""
    length = headers.get("content-length", "")
    is_number = length.isascii() and length.isdecimal() and len(length) <= _MAX_DIGITS
    return int(length) if is_number else 0


def is_packed(headers: Mapping[str, str]) -> bool:
    """Return whether the bytes are compressed, or encoded in another way."""
    encoding = headers.get("content-encoding")
    return bool(encoding) and encoding.strip().lower() not in ("", "identity")


def _is_field(start: bytes) -> bool:
    return any(start.startswith(field + b":") for field in _FIELDS[:-1]) or start[:1] == b":"
