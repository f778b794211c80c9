"""What is read of OpenAI-style requests and responses as they pass by."""

from __future__ import annotations

from typing import Any

import pytest

from otel_lifecycle.instrumentation.http.answers import AnswerReader

DATA = b'data: {"choices":[{"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
USAGE = (
    b'"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":3}}'
)


TOLD = ("is_stream", "ended", "failed", "input_tokens", "output_tokens", "cached_tokens")


def read(*chunks: bytes) -> dict[str, Any]:
    """What a reader says after these chunks."""
    reader = AnswerReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()
    return {name: getattr(reader, name) for name in TOLD}


def answer(
    *, is_stream: bool, ended: bool, usage: tuple[Any, Any, Any] = (None, None, None)
) -> Any:
    """What a reader should say."""
    found = dict(zip(TOLD[3:], usage, strict=True))
    return {"is_stream": is_stream, "ended": ended, "failed": False, **found}


@pytest.mark.parametrize(
    ("length", "chunks", "truncated"),
    [
        (None, [DATA % b"hello"], True),
        (None, [DATA % b"hello", DONE], False),
        (None, [b'{"choices":[{"text":"}"}]}'], False),
        (None, [b'{"choices":', b'[{"text":"}"}]}'], False),
        (None, [b' \n{"choices":[{"text":"hel'], True),
        (None, [b'{"choices":[{"text":"}"}]'], True),
        (None, [b'{"choices":[],}'], True),
        (None, [b"an answer"], False),
        (None, [b'{"a":' * 100_000], False),
        (None, [b'{"text":"', b"x" * (2 << 20)], True),
        (None, [], True),
        ("9", [b"an answer"], False),
        ("10", [b"an answer"], True),
        ("0", [], True),
        ("ten", [b"an answer"], False),
    ],
)
def test_truncated(length: str | None, chunks: list[bytes], truncated: bool) -> None:
    """An answer is cut short when that is known, and not when it may only be odd."""
    reader = AnswerReader()
    reader.begin(200, {} if length is None else {"content-length": length})
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()

    assert reader.is_truncated is truncated


@pytest.mark.parametrize(
    ("chunks", "ended"),
    [
        ([DATA % b"hello"], False),
        ([DATA % b"hello", DONE], True),
        ([DONE], True),
        ([DATA % b"hello" + DONE], True),
        ([b"data:[DONE]\n\n"], True),
        ([b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'], True),
        ([b'event: message_stop\ndata: {"type": "message_stop"}\n\n'], True),
        ([b'data: {"type":"response.completed"}\n\n'], True),
        ([b'data: {"type":"response.incomplete"}\n\n'], True),
        ([b'data: {"type":"response.created"}\n\n'], False),
        ([DATA % b"it ends with data: [DONE]"], False),
        ([DATA % b"message_stop"], False),
        ([DATA % rb"{\"type\":\"message_stop\"}"], False),
        ([b": keep-alive\n\n", DONE], True),
        ([b"\n", DATA % b"hello", DONE], True),
        ([b"\n" * 100, DATA % b"hello", DONE], True),
        ([b"", DONE], True),
        ([b"retry: 500\n\n", DATA % b"hello", DONE], True),
        ([b"id: 1\n", DATA % b"hello"], False),
    ],
)
def test_end_of_a_stream(chunks: list[bytes], ended: bool) -> None:
    """A stream ends with its terminator, in whatever pieces it comes, and not with talk of one."""
    whole = b"".join(chunks)
    expected = answer(is_stream=True, ended=ended)

    assert read(*chunks) == expected
    assert read(*(bytes([byte]) for byte in whole)) == expected


@pytest.mark.parametrize(
    ("event", "failed"),
    [
        (b'data: {"error": {"message": "out of memory", "code": 500}}\n\n', True),
        (b'data:{"error":"gone"}\n\n', True),
        (b'data: {"error": null, "choices": []}\n\n', False),
        (DATA % rb"data: {\"error\": {\"message\": \"so it looks\"}}", False),
    ],
)
def test_error_in_a_stream(event: bytes, failed: bool) -> None:
    """An engine may tell of its error in the stream, and end that as if nothing had been."""
    chunks = [DATA % b"hello", event, DONE]
    expected = {**answer(is_stream=True, ended=True), "failed": failed}

    assert read(*chunks) == expected
    assert read(*(bytes([byte]) for byte in b"".join(chunks))) == expected


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("size", [1, 7, 64, 1_000, 1 << 20])
def test_usage(stream: bool, size: int) -> None:
    """The usage is found wherever the chunks are cut."""
    body = (
        DATA % b"hello" * 200 + b'data: {"usage":null}\n\ndata: {' + USAGE + b"}\n\n" + DONE
        if stream
        else b'{"choices":"' + b"x" * 70_000 + b'",' + USAGE + b"}"
    )
    chunks = [body[start : start + size] for start in range(0, len(body), size)]

    assert read(*chunks) == answer(is_stream=stream, ended=stream, usage=(5, 7, 3))


def test_last_usage_counts() -> None:
    """Of a usage that goes on growing the last one counts."""
    chunks = [
        b'data: {"usage":{"prompt_tokens":5,"completion_tokens":%d}}\n\n' % number
        for number in range(1, 100)
    ]

    assert read(*chunks) == answer(is_stream=True, ended=False, usage=(5, 99, None))


@pytest.mark.parametrize("usage", [b'"usage":{', b'"usage":{"a":"' + b"x" * 10_000, b'"usage":{]}'])
def test_broken_usage(usage: bytes) -> None:
    """Usage that cannot be read is unknown."""
    assert read(DATA % b"hello", usage, DONE, DONE) == answer(is_stream=True, ended=True)
