"""Reads an answer as it passes: whether it is complete, and its usage."""

from __future__ import annotations

import json
from typing import Any, Protocol, cast

from hermes_router.model import PromptTokenDetails, Usage


class Answer(Protocol):
    """What is known about an answer, chunk by chunk."""

    usage: Usage | None
    complete: bool

    def feed(self, chunk: bytes) -> None:
        """Accept a chunk as it came from the engine."""
        ...

    def end(self) -> None:
        """Note that the engine has ended its response normally."""
        ...


class StreamedAnswer:
    """Server-sent events, complete with `[DONE]`; only events with usage are parsed."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self._unfinished_line = b""

    def feed(self, chunk: bytes) -> None:
        """Read the lines that are complete now; chunks end anywhere."""
        lines, newline, rest = (self._unfinished_line + chunk).rpartition(b"\n")
        self._unfinished_line = rest
        if newline and (b'"usage"' in lines or b"[DONE]" in lines):
            for line in lines.split(b"\n"):
                self._read_line(line)

    def end(self) -> None:
        """Read a last line without a line end."""
        self._read_line(self._unfinished_line)

    def _read_line(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field != b"data":
            return
        if value.strip() == b"[DONE]":
            self.complete = True
        elif b'"usage"' in value:
            self.usage = _usage(value) or self.usage


class WholeAnswer:
    """A JSON body, complete when its response is."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Keep the chunk: usage can only be read from the complete body."""
        self._chunks.append(chunk)

    def end(self) -> None:
        """Read the usage."""
        self.complete = True
        self.usage = _usage(b"".join(self._chunks))


def answer_of(content_type: str) -> Answer:
    """Return the right kind for a response."""
    return StreamedAnswer() if content_type.startswith("text/event-stream") else WholeAnswer()


def _usage(content: bytes) -> Usage | None:
    try:
        body: Any = json.loads(content)
    except ValueError:
        return None
    usage = _object(_object(body).get("usage"))
    if not usage:
        return None
    details = _object(usage.get("prompt_tokens_details"))
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        prompt_token_details=PromptTokenDetails(_count(details.get("cached_tokens"))),
    )


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
