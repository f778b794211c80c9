"""What is of no dialect in particular: errors, embeddings and scores, plain text."""

from __future__ import annotations

import msgspec

from otel_lifecycle.instrumentation.http.answers.answer import Answer
from otel_lifecycle.instrumentation.http.answers.decoding import (
    NOTHING,
    Scalar,
    TolerantDecoder,
    is_empty,
)
from otel_lifecycle.instrumentation.http.answers.dialects.usage import Usage, read_usage


class _Plain(msgspec.Struct, gc=False):
    error: msgspec.Raw = NOTHING
    usage: Usage | None = None
    object: Scalar = None
    type: Scalar = None
    status: Scalar = None
    code: Scalar = None
    message: msgspec.Raw = NOTHING
    error_code: Scalar = None
    finish_reason: Scalar = None
    text: msgspec.Raw = NOTHING
    text_output: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING


_decoder = TolerantDecoder(_Plain)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read an object that may be an error, a usage, or text without an end mark."""
    plain = _decoder.decode(data)
    if _is_error(plain):
        answer.fail()
    if plain.usage is not None:
        read_usage(plain.usage, answer)
    if not answer.has_output and not (
        is_empty(plain.text) and is_empty(plain.text_output) and is_empty(plain.content)
    ):
        answer.has_output = True
        answer.tells_its_end = plain.error_code is not None
    if plain.finish_reason:
        answer.choice(0, plain.finish_reason)


def _is_error(plain: _Plain) -> bool:
    if not is_empty(plain.error) or plain.error_code:  # the second is of FastChat's workers
        return True
    if plain.object == "error" or plain.type == "error" or plain.status in ("error", "failed"):
        return True
    # vLLM's former error object, and others that are as flat.
    if plain.message is NOTHING or not bytes(plain.message).startswith(b'"'):
        return False
    return type(plain.code) is int or "error" in str(plain.type).lower()
