"""SGLang's own `/generate`, whose `meta_info` has the counts; lmdeploy has the same."""

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


class _Reason(msgspec.Struct, gc=False):
    type: Scalar = None


class _Info(msgspec.Struct, gc=False):
    finish_reason: _Reason | Scalar = None
    prompt_tokens: Scalar = None
    completion_tokens: Scalar = None
    cached_tokens: Scalar = None


class _Piece(msgspec.Struct, gc=False):
    meta_info: _Info | None = None
    index: Scalar = 0
    text: msgspec.Raw = NOTHING
    output_ids: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING


_decoder = TolerantDecoder(_Piece)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read a piece of a stream, or an answer.

    Its counts are those of the whole answer so far.
    """
    piece = _decoder.decode(data)
    info = piece.meta_info
    if info is None:
        plain.read(data, answer)
        return
    part = piece.index or answer.part
    if not answer.has_output:
        answer.has_output = not is_empty(piece.text) or not is_empty(piece.output_ids)
    reason = info.finish_reason
    if reason is not None or part not in answer.open_choices:
        answer.choice(part, reason.type if isinstance(reason, _Reason) else reason)
    answer.count(info.prompt_tokens, info.completion_tokens, info.cached_tokens, part=part)
    if not is_empty(piece.error):
        answer.fail()
