"""Gemini's `generateContent` and `streamGenerateContent`."""

from __future__ import annotations

import msgspec

from otel_lifecycle.instrumentation.http.answers.answer import Answer
from otel_lifecycle.instrumentation.http.answers.decoding import (
    NOTHING,
    Scalar,
    TolerantDecoder,
    is_empty,
)
from otel_lifecycle.instrumentation.http.answers.dialects import plain

_CALL = "functionCall"
_OUTPUTS = ("text", _CALL, "inlineData", "executableCode", "codeExecutionResult")


class _Content(msgspec.Struct, gc=False):
    parts: list[dict[str, msgspec.Raw]] | None = None


class _Candidate(msgspec.Struct, gc=False):
    index: Scalar = 0
    finishReason: Scalar = None  # noqa: N815
    content: _Content | None = None


class _Usage(msgspec.Struct, gc=False):
    promptTokenCount: Scalar = None  # noqa: N815
    candidatesTokenCount: Scalar = None  # noqa: N815
    thoughtsTokenCount: Scalar = None  # noqa: N815
    cachedContentTokenCount: Scalar = None  # noqa: N815


class _Feedback(msgspec.Struct, gc=False):
    blockReason: Scalar = None  # noqa: N815


class _Piece(msgspec.Struct, gc=False):
    candidates: list[_Candidate] | None = None
    usageMetadata: _Usage | None = None  # noqa: N815
    promptFeedback: _Feedback | None = None  # noqa: N815
    error: msgspec.Raw = NOTHING


_decoder = TolerantDecoder(_Piece)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read a piece of a stream, or a whole answer."""
    piece = _decoder.decode(data)
    if piece.candidates is None and piece.usageMetadata is None and piece.promptFeedback is None:
        plain.read(data, answer)
        return
    for candidate in piece.candidates or ():
        answer.choice(candidate.index, candidate.finishReason)
        if not answer.has_output:
            answer.has_output = _has(candidate.content, _OUTPUTS)
        if not answer.calls_tools and _has(candidate.content, (_CALL,)):
            answer.call_tools()
    if piece.promptFeedback is not None and piece.promptFeedback.blockReason:
        answer.stop(piece.promptFeedback.blockReason)  # there are no candidates then
        answer.end()
    if piece.usageMetadata is not None:
        _count(piece.usageMetadata, answer)
    if not is_empty(piece.error):
        answer.fail()


def _has(content: _Content | None, names: tuple[str, ...]) -> bool:
    parts = content.parts if content is not None else None
    return any(name in part and not is_empty(part[name]) for part in parts or () for name in names)


def _count(usage: _Usage, answer: Answer) -> None:
    output = usage.candidatesTokenCount
    if type(usage.thoughtsTokenCount) is int:  # counted apart
        output = (output if type(output) is int else 0) + usage.thoughtsTokenCount
    answer.count(usage.promptTokenCount, output, usage.cachedContentTokenCount)
