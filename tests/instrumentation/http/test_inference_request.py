"""Reading a client's request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_lifecycle.instrumentation.http.requests.inference_request import (
    MAX_BUFFERED_BYTES,
    InferenceRequest,
    RequestReader,
)
from otel_lifecycle.model.request import TokenIds


def read(body: Any, *, chunk: int = 1 << 16) -> dict[str, Any]:
    """Return the result for a request in chunks."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader = RequestReader()
    for start in range(0, len(content), chunk):
        reader.feed(content[start : start + chunk])
    return said_by(reader.read(whole=True))


def said_by(request: InferenceRequest) -> dict[str, Any]:
    """What a request says, but for its prompt."""
    return {name: getattr(request, name) for name in request.__slots__ if name[0] != "_"}


def request(**changes: Any) -> dict[str, Any]:
    """The result for a request with nothing special."""
    nothing = said_by(InferenceRequest())
    assert set(changes) <= set(nothing)
    return {**nothing, "streaming": False, **changes}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "m", "stream": True}, request(model="m", streaming=True)),
        ({"model": 5, "stream": None}, request()),
        ({"prompt": "abcdefgh"}, request(input_tokens=2, input_token_source="estimated")),
        ({"prompt": [1, 2, 3]}, request(input_tokens=3, input_token_source="tokenized")),
        (
            {"prompt": [[1, 2], [3]], "n": 2},
            request(input_tokens=3, input_token_source="tokenized", samples=2, choices=4),
        ),
        (
            {"prompt": ["abcd", "efgh"]},
            request(input_tokens=2, input_token_source="estimated", choices=2),
        ),
        (
            {"input_ids": [1, 2], "sampling_params": {"n": 3}},
            request(input_tokens=2, input_token_source="tokenized", samples=3, choices=3),
        ),
        (
            {"text": ["abcd", "a,b]"], "sampling_params": None},
            request(input_tokens=2, input_token_source="estimated", choices=2),
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "abcd"},
                    {"role": "user", "content": [{"type": "text", "text": "efgh"}, {"image": {}}]},
                    {"role": "tool", "content": None},
                ]
            },
            request(input_tokens=2, input_token_source="estimated"),
        ),
        ({"input": "abcdefgh"}, request(input_tokens=2, input_token_source="estimated")),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "abcd"}]}]},
            request(input_tokens=1, input_token_source="estimated"),
        ),
        ({"prompt": []}, request()),
        ({"prompt": [-1, 2.5, "x"]}, request(input_tokens=1, input_token_source="estimated")),
        ({"messages": 5, "n": "many", "sampling_params": []}, request()),
        ({"n": 10**9}, request()),
        ([1], request(streaming=None)),
        (b"", request(streaming=None)),
        (b'{"model":"m","stream":tru', request(model="m", streaming=None)),
        (b'{"model":"\\ud800","stream":true', request(streaming=None)),
        (b'{"messages":[{"model":"x","stream":true}', request(streaming=None)),
        (b"[" * 100_000, request(streaming=None)),
        (b'{"a":' * 100_000, request(streaming=None)),
    ],
)
def test_bodies(body: Any, said: dict[str, Any]) -> None:
    """Model, stream, prompt length and number of choices are read; invalid values are unknown."""
    assert read(body) == said
    assert read(body, chunk=1 if not isinstance(body, bytes) or len(body) < 1_000 else 999) == said


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "1", "on", "yes", "y", "t"])
def test_stream_as_engines_take_it(value: Any) -> None:
    """`stream` is true for all values that pydantic, which engines use, takes for true."""
    big = {"x": "y" * MAX_BUFFERED_BYTES, "stream": value}

    assert read({"stream": value})["streaming"] is True
    assert read(big)["streaming"] is True


@pytest.mark.parametrize("value", [False, 0, "false", "0", "off", None, 2, "", [], {"a": True}])
def test_no_stream(value: Any) -> None:
    """Every other value of `stream` is false."""
    assert read({"stream": value})["streaming"] is False


@pytest.mark.parametrize("size", [1_000, 65_536, 8 << 20])
def test_big_bodies(size: int) -> None:
    """Model and stream are read at any place of a body that is not kept."""
    messages = [{"role": "user", "content": 'w "model": "other" "stream": false ' * 90_000}]
    behind = {"messages": messages, "tools": [{"model": "x"}] * 9, "model": "m", "stream": True}
    before = dict(reversed(behind.items()))
    expected = request(model="m", streaming=True)

    assert len(json.dumps(behind)) > 2 * MAX_BUFFERED_BYTES
    assert read(behind, chunk=size) == read(before, chunk=size) == expected
    assert read(json.dumps(before).encode()[:-1], chunk=size) == expected
    assert read(json.dumps(behind).encode()[:-20], chunk=size)["streaming"] is None


def test_of_call() -> None:
    """A call without HTTP has the same parts."""
    messages = [{"role": "user", "content": "abcdefgh"}]
    for prompt, tokens, source in (
        (messages, 2, "estimated"),
        ([1, 2, 3], 3, "tokenized"),
        (object(), None, None),
        ("\ud800", None, None),
    ):
        found = said_by(InferenceRequest.of_call("m", prompt, streaming=True))
        assert found == request(
            model="m", streaming=True, input_tokens=tokens, input_token_source=source
        )


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"prompt": "héllo"}, b'"h\\u00e9llo"'),
        ({"prompt": [1, 22, 3]}, b"[1, 22, 3]"),
        ({"input_ids": [1, 2], "text": None}, b"[1, 2]"),
        (
            {"messages": [{"role": "user"}], "model": "m", "system": "s", "tools": [{"a": 1}]},
            b'[{"a": 1}]"s"[{"role": "user"}]',
        ),
        ({"input": "i", "prompt": None, "tools": None, "system": None}, b'"i"'),
        ({"input": "i", "instructions": "do", "model": 3}, b'"do""i"'),
        ({"prompt": ["a", "b"]}, None),
        ({"prompt": [[1], [2]]}, None),
        ({"model": "m"}, None),
        ({"messages": "x" * MAX_BUFFERED_BYTES}, None),
    ],
)
def test_prompt(body: Any, prompt: bytes | None) -> None:
    """A single prompt can be taken once, as it is in the body: tools and instructions first."""
    reader = RequestReader()
    reader.feed(json.dumps(body).encode())
    request = reader.read(whole=True)

    taken = request.take_prompt(wanted=True)

    is_tokenized = isinstance(taken, TokenIds)
    assert (taken.json if isinstance(taken, TokenIds) else taken) == prompt
    assert is_tokenized == (prompt in (b"[1, 22, 3]", b"[1, 2]"))
    assert request.take_prompt(wanted=True) is None


def test_unwanted_prompt() -> None:
    """Nothing is kept of a prompt that nobody wants."""
    request = InferenceRequest.of_body(b'{"prompt": "p"}')

    assert request.take_prompt(wanted=False) is None
    assert request.take_prompt(wanted=True) is None
