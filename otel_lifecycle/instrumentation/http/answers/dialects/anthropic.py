"""Anthropic's Messages API."""

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

TYPES = frozenset(
    {
        "message",
        "message_start",
        "message_delta",
        "message_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "ping",
    }
)


class _Usage(msgspec.Struct, gc=False):
    input_tokens: Scalar = None
    output_tokens: Scalar = None
    cache_read_input_tokens: Scalar = None
    cache_creation_input_tokens: Scalar = None


class _Message(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _Block(msgspec.Struct, gc=False):
    """A block that begins, or what is added to one, or to the message."""

    type: Scalar = None
    text: msgspec.Raw = NOTHING
    thinking: msgspec.Raw = NOTHING
    partial_json: msgspec.Raw = NOTHING
    data: msgspec.Raw = NOTHING  # redacted thinking
    stop_reason: Scalar = None


class _Event(msgspec.Struct, gc=False):
    type: Scalar = None
    message: _Message | None = None
    delta: _Block | None = None
    content_block: _Block | None = None
    usage: _Usage | None = None
    stop_reason: Scalar = None
    content: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING


_event_decoder = TolerantDecoder(_Event)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read an event of a stream, or a whole answer."""
    event = _event_decoder.decode(data)
    if event.type not in TYPES:
        plain.read(data, answer)
        return
    if not answer.has_output:
        answer.has_output = _has_output(event)
    for usage in (event.usage, None if event.message is None else event.message.usage):
        if usage is not None:
            _count(usage, answer)
    reason = event.stop_reason
    if event.type == "message_delta" and event.delta is not None:
        reason = event.delta.stop_reason
    if reason:
        answer.stop(reason)
    if event.type == "message_stop" or (event.type == "message" and reason):
        answer.end()
    if not is_empty(event.error):
        answer.fail()


def _has_output(event: _Event) -> bool:
    for block in (event.delta, event.content_block):
        if block is None:
            continue
        if str(block.type).endswith("tool_use"):
            return True
        for part in (block.text, block.thinking, block.partial_json, block.data):
            if not is_empty(part):
                return True
    return not is_empty(event.content)


def _count(usage: _Usage, answer: Answer) -> None:
    written = usage.cache_creation_input_tokens
    if written is None and usage.cache_read_input_tokens is not None:
        written = 0
    answer.count(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        written_tokens=written,
    )
