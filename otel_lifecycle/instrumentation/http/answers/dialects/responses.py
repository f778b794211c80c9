"""OpenAI's Responses API."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from otel_lifecycle.instrumentation.http.answers.answer import Answer
from otel_lifecycle.instrumentation.http.answers.decoding import (
    NOTHING,
    UNREADABLE,
    Scalar,
    TolerantDecoder,
    is_empty,
)
from otel_lifecycle.instrumentation.http.answers.dialects import plain
from otel_lifecycle.instrumentation.http.answers.dialects.usage import Usage, read_usage

_ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
# Those of other tools are made by the engine.
_CLIENTS_CALLS = frozenset(
    {"function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call"}
)


class _Item(msgspec.Struct, gc=False):
    type: Scalar = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: Scalar = None


class _Response(msgspec.Struct, gc=False):
    status: Scalar = None
    error: msgspec.Raw = NOTHING
    usage: Usage | None = None
    incomplete_details: _Incomplete | None = None
    output: msgspec.Raw = NOTHING


class _Event(msgspec.Struct, gc=False):
    type: Scalar = None
    delta: msgspec.Raw = NOTHING
    item: _Item | None = None
    response: _Response | None = None


_output_decoder = msgspec.json.Decoder(list[_Item])
_event_decoder = TolerantDecoder(_Event)
_response_decoder = TolerantDecoder(_Response)


def read(data: bytes | msgspec.Raw, answer: Answer) -> None:
    """Read an event of a stream, or a whole answer."""
    event = _event_decoder.decode(data)
    kind = event.type
    if not isinstance(kind, str):
        _read_response(_response_decoder.decode(data), answer)
    elif kind.endswith(".delta"):
        if not answer.has_output:
            answer.has_output = not is_empty(event.delta)
    elif kind == "response.output_item.added":
        item = event.item or _Item()
        answer.has_output = answer.has_output or str(item.type).endswith("_call")
        if item.type in _CLIENTS_CALLS:
            answer.call_tools()
    elif kind.startswith("response."):
        response = event.response or _Response()
        _read_response(response, answer)
        status = kind.removeprefix("response.")
        if status in _ENDED:
            _end(status, response, answer)
    else:
        plain.read(data, answer)


def _read_response(response: _Response, answer: Answer) -> None:
    if response.usage is not None:
        read_usage(response.usage, answer)
    if not is_empty(response.error):
        answer.fail()
    if not is_empty(response.output):
        answer.has_output = True
        with suppress(*UNREADABLE):
            items = _output_decoder.decode(response.output)
            if not _CLIENTS_CALLS.isdisjoint(item.type for item in items):
                answer.call_tools()
    if response.status in _ENDED:
        _end(str(response.status), response, answer)


def _end(status: str, response: _Response, answer: Answer) -> None:
    details = response.incomplete_details
    reason = None if details is None else details.reason
    answer.stop(reason or status)
    answer.end()
    if status in ("failed", "cancelled"):
        answer.fail()
