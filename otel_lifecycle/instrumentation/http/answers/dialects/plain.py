"""What is of no dialect in particular: errors, embeddings and scores, plain text."""

from __future__ import annotations

import msgspec

from otel_lifecycle.instrumentation.http.answers.answer import Answer
from otel_lifecycle.instrumentation.http.answers.decoding import Scalar, TolerantDecoder, is_empty
from otel_lifecycle.instrumentation.http.answers.dialects.usage import Usage, read_usage

_NOTHING = msgspec.Raw(b"")


class _Plain(msgspec.Struct, gc=False):
    error: msgspec.Raw = _NOTHING
    usage: Usage | None = None
    object: Scalar = None
    type: Scalar = None
    status: Scalar = None
    code: Scalar = None
    message: msgspec.Raw = _NOTHING
    error_code: Scalar = None
    finish_reason: Scalar = None
    text: msgspec.Raw = _NOTHING
    text_output: msgspec.Raw = _NOTHING
    content: msgspec.Raw = _NOTHING


_decoder = TolerantDecoder(_Plain)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read an object that may be an error, a usage, or text without an end mark."""
    plain = _decoder.decode(data)
    if _is_error(plain):
        answer.fail()
    if plain.usage is not None:
        read_usage(plain.usage, answer)
    if not answer.has_output and not all(
        is_empty(text) for text in (plain.text, plain.text_output, plain.content)
    ):
        answer.has_output = True
        answer.tells_its_end = plain.error_code is not None
    if plain.finish_reason:
        answer.choice(0, plain.finish_reason)


def _is_error(plain: _Plain) -> bool:
    if not is_empty(plain.error):
        return True
    if "error" in (plain.object, plain.type, plain.status) or plain.status == "failed":
        return True
    if plain.error_code:  # FastChat's workers
        return True
    # vLLM's former error object, and others that are as flat.
    told = bytes(plain.message).startswith(b'"')
    return told and (type(plain.code) is int or "error" in str(plain.type).lower())
