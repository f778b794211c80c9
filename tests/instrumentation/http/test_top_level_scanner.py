"""The scanner for single values of a JSON object that is not kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_lifecycle.instrumentation.http.requests.top_level_scanner import TopLevelScanner

WANTED = ("model", "stream", "usage", "\u00e9")
EVERYTHING = [
    {"model": "m", "stream": True},
    {"messages": [{"model": "other", "text": 'a "model": "x" \\" {['}], "model": "m"},
    {"a": {"model": 1, "b": [[{}], {"stream": False}]}, "stream": 1, "model": None},
    {"usage": {"prompt_tokens": 9, "details": {"cached": [1, {"a": "}"}]}}, "model": -1.5e3},
    {"model": 'quo"te\\', "x": "\\\\", "stream": "true"},
    {"prompt": "w" * 300_000, "model": "m"},
    {"prompt": '"\\' * 100_000, "model": "m"},
    {"list": [{}] * 100_000, "model": "m"},
    {"list": [["", [[]]]] * 50_000, "stream": False, "usage": {}},
    {},
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('a\\"{}[]:,\u00e9 \n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('a\\"{}'), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(WANTED) | st.text('ab"\\'), values, max_size=5)


def scan(*chunks: bytes, limit: int = 4096) -> tuple[dict[str, Any], bool | None]:
    """Return what the scanner finds."""
    scanner = TopLevelScanner(WANTED, limit)
    for chunk in chunks:
        scanner.feed(chunk)
    return {name: json.loads(text) for name, text in scanner.values.items()}, scanner.is_whole


def wanted(value: dict[str, Any]) -> dict[str, Any]:
    """Return what it should find."""
    return {name: value[name] for name in WANTED if name in value}


@pytest.mark.parametrize("value", EVERYTHING, ids=range(len(EVERYTHING)))
def test_values(value: dict[str, Any]) -> None:
    """Only keys of the object itself count, wherever they are, in chunks of any size."""
    for content in (json.dumps(value).encode(), json.dumps(value, indent=1).encode() + b"\n"):
        assert scan(content) == (wanted(value), True)
        for size in (1, 7, 4_096) if len(content) < 10_000 else (997, 65_536):
            chunks = [content[start : start + size] for start in range(0, len(content), size)]
            assert scan(*chunks) == (wanted(value), True)


@given(objects, st.booleans(), st.data())
def test_any_object_in_any_chunks(
    value: dict[str, Any], ascii_only: bool, data: st.DataObject
) -> None:
    """The scanner agrees with a parser, and a partial object is not complete."""
    content = json.dumps(value, ensure_ascii=ascii_only).encode()
    place = data.draw(st.integers(0, len(content)))
    expected = {
        name: found
        for name, found in wanted(value).items()
        if name != "\u00e9" or not ascii_only  # an escaped key is not looked for
    }

    assert scan(content[:place], content[place:]) == (expected, True)
    assert scan(content[:-1])[1] is False


@given(st.lists(st.binary(max_size=30)))
def test_any_bytes(chunks: list[bytes]) -> None:
    """Nothing raises."""
    scanner = TopLevelScanner(WANTED)
    other = TopLevelScanner(WANTED)
    for chunk in chunks:
        scanner.feed(chunk)
    other.feed(b"".join(chunks))

    assert (scanner.values, scanner.is_whole) == (other.values, other.is_whole)


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"[1]", None),
        (b"nothing", None),
        (b'{"a" 1}', None),
        (b"{a:1}", None),
        (b'{"a":1}}', False),
        (b'{"a":1}{"model":"m"}', False),
        (b'{"a":[1}', False),
        (b"", False),
        (b'{"a":"' + b"x" * 500_000, False),
        (b"{" + b'"a":1,' * 2_000 + b'"model":"m"}', None),
    ],
)
def test_no_object(content: bytes, whole: bool | None) -> None:
    """An incomplete object is distinguished from an invalid one."""
    assert scan(content) == ({}, whole)


def test_values_that_are_too_big() -> None:
    """A value beyond the limit is not kept, and hides a smaller one before it."""
    content = json.dumps({"model": "x" * 100, "stream": True}).encode()

    assert scan(content, limit=50) == ({"stream": True}, True)
    assert scan(b'{"model":"m","model":"' + b"x" * 100 + b'"}', limit=50) == ({}, True)
