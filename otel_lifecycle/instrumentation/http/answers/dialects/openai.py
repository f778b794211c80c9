"""The chat and text completions of OpenAI, streamed and whole, as vLLM, SGLang and others speak."""

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
from otel_lifecycle.instrumentation.http.answers.dialects.usage import Usage, read_usage

_OUTPUTS = (
    "content",
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "function_call",
    "audio",
    "images",
    "refusal",
)


class _Reason(msgspec.Struct, gc=False):
    type: Scalar = None


class _Choice(msgspec.Struct, gc=False):
    index: Scalar = 0
    finish_reason: Scalar | _Reason = None
    error: msgspec.Raw = NOTHING
    usage: Usage | Scalar = None  # Moonshot


class _Elsewhere(msgspec.Struct, gc=False):
    usage: Usage | Scalar = None


class _Piece(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = NOTHING
    x_groq: _Elsewhere | None = None


class _Text(msgspec.Struct, gc=False):
    delta: dict[str, msgspec.Raw] | Scalar = None
    message: dict[str, msgspec.Raw] | Scalar = None
    text: msgspec.Raw = NOTHING
    token_ids: msgspec.Raw = NOTHING


class _Texts(msgspec.Struct):
    choices: list[_Text] | None = None


_piece_decoder = TolerantDecoder(_Piece)
_texts_decoder = TolerantDecoder(_Texts)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read a chunk of a stream, or a whole answer."""
    piece = _piece_decoder.decode(data)
    if piece.choices is None:
        plain.read(data, answer)
        return
    if not answer.has_output and piece.choices:
        answer.has_output = _has_output(data)
    for choice in piece.choices:
        reason = choice.finish_reason
        if reason is not None or choice.index not in answer.open_choices:
            answer.choice(choice.index, reason.type if isinstance(reason, _Reason) else reason)
        if choice.usage is not None and isinstance(choice.usage, Usage):
            read_usage(choice.usage, answer)
        if choice.error is not NOTHING and not is_empty(choice.error):
            answer.fail()
    if piece.usage is not None:
        read_usage(piece.usage, answer)
    elif piece.x_groq is not None and isinstance(piece.x_groq.usage, Usage):
        read_usage(piece.x_groq.usage, answer)
    if piece.error is not NOTHING and not is_empty(piece.error):
        answer.fail()


def _has_output(data: bytes | msgspec.Raw) -> bool:
    for text in _texts_decoder.decode(data).choices or ():
        if not is_empty(text.text) or not is_empty(text.token_ids):
            return True
        for part in (text.delta, text.message):
            if isinstance(part, dict) and any(
                name in part and not is_empty(part[name]) for name in _OUTPUTS
            ):
                return True
    return False
