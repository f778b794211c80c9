"""Ollama's own API: a line of JSON for each piece, or a whole answer."""

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


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = NOTHING
    thinking: msgspec.Raw = NOTHING
    tool_calls: msgspec.Raw = NOTHING


class _Piece(msgspec.Struct, gc=False):
    done: Scalar = None
    done_reason: Scalar = None
    prompt_eval_count: Scalar = None
    eval_count: Scalar = None
    message: _Message | Scalar = None
    response: msgspec.Raw = NOTHING
    thinking: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING


_decoder = TolerantDecoder(_Piece)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read a line of a stream, or a whole answer."""
    piece = _decoder.decode(data)
    if piece.done is None and piece.prompt_eval_count is None:
        plain.read(data, answer)
        return
    if not answer.has_output:
        answer.has_output = _has_output(piece)
    message = piece.message
    if isinstance(message, _Message) and not is_empty(message.tool_calls):
        answer.call_tools()
    if piece.done is False:
        answer.is_stream = True
    elif piece.done is True:
        answer.stop(piece.done_reason)
        answer.end()
    if piece.prompt_eval_count is not None or piece.eval_count is not None:
        answer.count(piece.prompt_eval_count, piece.eval_count)
    if not is_empty(piece.error):
        answer.fail()


def _has_output(piece: _Piece) -> bool:
    message = piece.message
    parts = [piece.response, piece.thinking]
    if isinstance(message, _Message):
        parts += [message.content, message.thinking, message.tool_calls]
    return not all(is_empty(part) for part in parts)
