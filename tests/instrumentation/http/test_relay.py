"""An engine's answer and the client's: what they share is read once, and nobody can tell."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_lifecycle import Endpoint, RouteEndpoint
from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.answers.relay import MAX_HELD, SMALL
from otel_lifecycle.instrumentation.http.attempt import Attempt
from otel_lifecycle.instrumentation.http.client_answer import ClientAnswer
from tests.instrumentation.http.dialects import STREAMS, WHOLE, Said

KIND = "text/event-stream"
TOLD = (
    "is_stream",
    "has_output",
    "ended",
    "failed",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
)
ANSWERS = [*STREAMS, *WHOLE]
EVENT = b'data: {"choices":[{"index":0,"text":"word%d","finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"


def cut(content: bytes, places: Iterable[int]) -> list[bytes]:
    """The content in pieces."""
    ends = sorted({place % (len(content) + 1) for place in places} | {0, len(content)})
    return [content[begin:end] for begin, end in itertools.pairwise(ends)]


def called(room: int = MAX_HELD) -> Attempt:
    """A call to an engine that answers."""
    attempt = Attempt("decode", RouteEndpoint(Endpoint()), lambda: 0)
    attempt.room = room
    attempt.reads(200, KIND)
    return attempt


def alone(content: bytes, headers: dict[str, str]) -> tuple[Any, ...]:
    """What a reader of its own says of an answer."""
    reader = AnswerReader()
    reader.begin(200, headers)
    reader.feed(content)
    reader.finish()
    return told(reader, reader.is_truncated)


def told(reader: AnswerReader, is_truncated: bool) -> tuple[Any, ...]:
    """What is said of an answer."""
    return (is_truncated, *(getattr(reader, name) for name in TOLD))


def both(attempt: Attempt, client: ClientAnswer) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What is said of both answers at their end."""
    reader = client.finish(choices=1, samples=1)
    attempt.finish(choices=1, samples=1)
    engine = attempt.answer
    assert engine is not None
    return told(engine, engine.is_truncated), told(reader, client.is_truncated)


@given(st.data())
def test_any_pieces(data: st.DataObject) -> None:
    """Cut in any way on both sides, held or not, changed at any place or not."""
    answer: Said = data.draw(st.sampled_from(ANSWERS))
    places = st.lists(st.integers(0, len(answer.body)), max_size=8)
    sent = cut(answer.body, data.draw(places))
    place = data.draw(st.integers(0, len(answer.body)))
    added = DONE if answer.body.startswith((b"data", b"event", b":")) else b" "
    changed = data.draw(
        st.sampled_from((answer.body, answer.body[:place], answer.body[:place] + added))
    )
    got = cut(changed, data.draw(places))
    attempt, client = called(data.draw(st.sampled_from((0, 300, MAX_HELD)))), ClientAnswer()
    headers = {"content-type": KIND, "content-length": str(len(answer.body))}
    client.begin(200, headers)
    peeks = data.draw(st.sets(st.integers(0, 20), max_size=2))
    for number in range(max(len(sent), len(got))):
        if number < len(sent):
            attempt.read(sent[number])
        if number in peeks:
            assert attempt.answer is not None
        if number < len(got):
            client.feed(got[number], [attempt])

    assert both(attempt, client) == (
        alone(answer.body, {"content-type": KIND}),
        alone(changed, headers),
    )


def test_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client gets as the engine says it is read once; another one's is read alone."""
    read: list[bytes] = []
    feed: Callable[[AnswerReader, bytes], None] = AnswerReader.feed

    def counting(self: AnswerReader, chunk: bytes) -> None:
        read.append(chunk)
        feed(self, chunk)

    monkeypatch.setattr(AnswerReader, "feed", counting)
    other, attempt, client = called(), called(), ClientAnswer()
    client.begin(200, {"content-type": KIND})
    other.read(b'data: {"error":"busy"}\n\n')
    for number in range(20):
        attempt.read(EVENT % number)
        client.feed(EVENT % number, [attempt, other])
    attempt.read(DONE)
    client.feed(DONE, [attempt, other])
    engine, got = both(attempt, client)

    assert engine == got
    content = b"".join(EVENT % number for number in range(20)) + DONE
    assert b"".join(read) == content
    assert len(read) < 5


def test_little_is_held() -> None:
    """Whatever an engine says, and whether or not the client gets it, little of it is held."""
    held: list[int] = []
    for forwards in (True, False):
        attempt, client = called(), ClientAnswer()
        client.begin(200, {"content-type": KIND})
        client.feed(b": wait\n\n", [] if forwards else [attempt])
        for number in range(5_000):
            attempt.read(EVENT % number)
            if forwards:
                client.feed(EVENT % number, [attempt])
            relay = attempt.relay
            assert relay is not None
            held.append(relay.held)

    assert max(held) <= MAX_HELD
    assert held[-1] <= SMALL


def test_room() -> None:
    """An engine that is far ahead of the client is read, and the client on its own then."""
    attempt, client = called(), ClientAnswer()
    client.begin(200, {"content-type": KIND})
    events = [EVENT % number for number in range(3_000)] + [DONE]
    for event in events[:100]:
        attempt.read(event)
        client.feed(event, [attempt])
    for event in events[100:]:
        attempt.read(event)
    for event in events[100:]:
        client.feed(event, [attempt])
    engine, got = both(attempt, client)

    assert engine == got == alone(b"".join(events), {"content-type": KIND})
