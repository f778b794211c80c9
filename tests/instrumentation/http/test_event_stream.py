"""Server-sent events: the cases of the WHATWG specification and of its test suite."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_lifecycle.instrumentation.http.answers.event_stream import MAX_EVENT_BYTES, EventStream


def events(*chunks: bytes) -> list[tuple[bytes, bytes]]:
    """Return the events in these chunks."""
    stream = EventStream()
    found = [event for chunk in chunks for event in stream.feed(chunk)]
    return [*found, *stream.finish()]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [(b"", b"YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third",
            [(b"", b"first event"), (b"", b"second event"), (b"", b" third")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [(b"", b""), (b"", b"\n"), (b"", b"")]),
        (b"data:test\n\ndata: test\n\n", [(b"", b"test"), (b"", b"test")]),
        (b"data:\ttest\rdata: \ndata:test\n\n", [(b"", b"\ttest\n\ntest")]),
        (b"data:1\r\rdata:2\r\n\r\ndata:3\n\n", [(b"", b"1"), (b"", b"2"), (b"", b"3")]),
        (b"event: a\ndata: 1\n\ndata: 2\n\n", [(b"a", b"1"), (b"", b"2")]),
        (b"event: a\nevent:b\ndata: 1\n\n", [(b"b", b"1")]),
        (b"event: a\nevent\ndata: 1\n\n", [(b"", b"1")]),
        (b"event: a\n\ndata: 1\n\n", [(b"", b"1")]),
        (b"data:1\n data:2\ndatax:3\nDATA:4\nfoo\n:x\nretry: 5\n\n", [(b"", b"1")]),
        (b"\n\n\n\r\r\ndata: 1\n\n\n\n", [(b"", b"1")]),
        (b"data: 1", [(b"", b"1")]),
        (b"data: \xff\x00\xed\xa0\x80\n\n", [(b"", b"\xff\x00\xed\xa0\x80")]),
        (b": comment only\n\n", []),
        (b"", []),
        (b'{"error": 1}\n\n', [(b"", b'{"error": 1}')]),
    ],
)
def test_specification(content: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    """Each case gives its events, split at every place and into single bytes."""
    assert events(content) == expected
    assert events(*(bytes([byte]) for byte in content)) == expected
    for place in range(len(content)):
        assert events(content[:place], content[place:]) == expected


lines = st.lists(
    st.sampled_from([b"data: a", b"data:b", b"data", b"event: e", b": c", b"id: 1", b"", b"{x"])
)


@given(lines, st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=1), st.data())
def test_any_line_ends_in_any_chunks(
    content: list[bytes], ends: list[bytes], data: st.DataObject
) -> None:
    """Line ends and splits change nothing; a lone CR before an LF would be one line end."""
    ends = [end if end != b"\r" else b"\r\n" for end in ends]
    written = b"".join(line + ends[number % len(ends)] for number, line in enumerate(content))
    place = data.draw(st.integers(0, len(written)))
    plain = b"".join(line + b"\n" for line in content)

    assert events(written[:place], written[place:]) == events(plain)
    assert events(plain.replace(b"\n", b"\r")) == events(plain)


@pytest.mark.parametrize("part", [b"x" * 65_536, b"\ndata: " + b"x" * 1_000, b"x" * 99])
def test_events_that_are_too_big(part: bytes) -> None:
    """Only the limit is kept of a larger event, and the next one is read."""
    stream = EventStream()
    stream.feed(b"event: big\ndata: ")
    for _ in range(2 * MAX_EVENT_BYTES // len(part)):
        assert list(stream.feed(part)) == []
    found = [*stream.feed(b"\n\n"), *stream.feed(b"data: 1\n\n")]

    assert stream.dropped
    assert found[-1] == (b"", b"1")
    assert all(len(data) <= MAX_EVENT_BYTES for _, data in found)
