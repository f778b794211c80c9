"""The chat and text completions of OpenAI, streamed and whole, as vLLM, SGLang and others speak."""

from __future__ import annotations

from collections.abc import Sequence

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


class _WholeChoice(_Choice, gc=False):
    delta: dict[str, msgspec.Raw] | Scalar = None
    message: dict[str, msgspec.Raw] | Scalar = None
    text: msgspec.Raw = NOTHING
    token_ids: msgspec.Raw = NOTHING


class _Elsewhere(msgspec.Struct, gc=False):
    usage: Usage | Scalar = None


class _Piece(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = NOTHING
    x_groq: _Elsewhere | None = None


class _WholePiece(msgspec.Struct, gc=False):
    choices: list[_WholeChoice] | None = None
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


_whole_decoder = msgspec.json.Decoder(_WholePiece)
_piece_decoder = TolerantDecoder(_Piece)
_texts_decoder = TolerantDecoder(_Texts)


def read_first(data: bytes | msgspec.Raw, answer: Answer) -> bool:
    """Read an object of unknown dialect, if it is one of this dialect without a fault.

    Raises:
        msgspec.DecodeError: It is no JSON object.
        RecursionError: It is too deep.
    """
    try:
        piece = _whole_decoder.decode(data)
    except msgspec.ValidationError:
        return False
    choices = piece.choices
    if choices is None:
        return False
    if not answer.has_output:
        answer.has_output = _has_output(choices)
    _take(choices, piece, answer)
    return True


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read a chunk of a stream, or a whole answer."""
    if not answer.has_output and read_first(data, answer):
        return
    piece = _piece_decoder.decode(data)
    if piece.choices is None:
        plain.read(data, answer)
        return
    if not answer.has_output and piece.choices:
        answer.has_output = _has_output(_texts_decoder.decode(data).choices or ())
    _take(piece.choices, piece, answer)


def _take(choices: Sequence[_Choice], piece: _Piece | _WholePiece, answer: Answer) -> None:
    for choice in choices:
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


def _has_output(choices: Sequence[_WholeChoice | _Text]) -> bool:
    for text in choices:
        if not is_empty(text.text) or not is_empty(text.token_ids):
            return True
        for part in (text.delta, text.message):
            if isinstance(part, dict) and any(
                name in part and not is_empty(part[name]) for name in _OUTPUTS
            ):
                return True
    return False
