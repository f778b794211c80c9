"""`/generate` and `/generate_stream` of Text Generation Inference."""

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


class _Token(msgspec.Struct, gc=False):
    text: msgspec.Raw = NOTHING


class _Details(msgspec.Struct, gc=False):
    finish_reason: Scalar = None
    generated_tokens: Scalar = None
    input_length: Scalar = None
    prompt_tokens: Scalar = None


class _Piece(msgspec.Struct, gc=False):
    token: _Token | None = None
    generated_text: Scalar = None
    details: _Details | None = None
    error: msgspec.Raw = NOTHING


_decoder = TolerantDecoder(_Piece)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read a token of a stream, or an answer."""
    piece = _decoder.decode(data)
    if piece.token is None and piece.generated_text is None:
        plain.read(data, answer)
        return
    if not answer.has_output:
        streamed = piece.token is not None and not is_empty(piece.token.text)
        answer.has_output = streamed or bool(piece.generated_text)
    details = piece.details
    reason = None if details is None else details.finish_reason
    # The whole text comes with the last token.
    answer.choice(answer.part, reason or isinstance(piece.generated_text, str))
    if details is not None:
        prompt = details.prompt_tokens if details.input_length is None else details.input_length
        answer.count(prompt, details.generated_tokens, part=answer.part)
    if not is_empty(piece.error):
        answer.fail()
