"""Any span is encoded as the SDK encodes it, to the last bit that protobuf can tell."""

from __future__ import annotations

import logging
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from otel_lifecycle.telemetry.otlp import span, wire
from tests.telemetry.otlp.messages import exact, ours, stock


class Text(str, Enum):
    """Text that is more than text."""

    A = "a"


class Number(IntEnum):
    """A number that is more than a number."""

    ONE = 1


class Real(float):
    """A number that is more than a number, with a point."""


CONTEXT = SpanContext(1, 2, False)
WHOLE = ReadableSpan("whole", CONTEXT, attributes={"none": None})
NULLS_ARE_ENCODED = len(stock([WHOLE]).resource_spans[0].scope_spans[0].spans[0].attributes) == 1

# Half a character, too.
texts = st.text(st.characters(exclude_categories=()), max_size=8) | st.text(max_size=100)
names = texts.filter(lambda text: text.isprintable())
scalars = (
    texts
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.sampled_from([0, 1, -1, 127, 128, 2047, 2048, 16383, 16384, 2**63 - 1, 2**63, -(2**63)])
    | st.floats()
    | st.sampled_from([0.0, -0.0, 1.0])
    | st.sampled_from([Text.A, Number.ONE, Real(1.5)])
    | st.binary(max_size=8)
)
if NULLS_ARE_ENCODED:  # as OTLP has them; older encoders leave the attribute out
    scalars |= st.none()
values = st.recursive(
    scalars | st.builds(object),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(texts, max_size=4).map(tuple)
        | st.dictionaries(texts | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
plain_attributes = st.dictionaries(texts, values, max_size=6)
attributes: st.SearchStrategy[Any] = (
    st.none()
    | plain_attributes
    | st.builds(
        BoundedAttributes,
        st.none() | st.integers(0, 3),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.booleans(), max_size=6),
    )
)
times = st.none() | st.integers(0, 2**64 - 1)
trace_ids, span_ids = st.integers(0, 2**128 - 1), st.integers(0, 2**64 - 1)
states = st.sampled_from(
    [TraceState(), TraceState([("a", "b")]), TraceState([("a", "b"), ("c", "d")])]
)
contexts = st.builds(SpanContext, trace_ids, span_ids, st.booleans(), trace_state=states)
valid = st.text(max_size=8)
spans = st.builds(
    ReadableSpan,
    name=valid,
    context=contexts,
    parent=st.none() | contexts,
    resource=st.sampled_from(
        [
            Resource({}),
            Resource({"service.name": "a", "n": 1, "list": ["x", "y"]}),
            Resource({"service.name": "a", "n": True}, "https://schema"),
        ]
    ),
    attributes=attributes,
    events=st.lists(st.builds(Event, valid, attributes, times.map(lambda at: at or 1)), max_size=3),
    links=st.lists(st.builds(Link, contexts, attributes), max_size=3),
    kind=st.sampled_from(SpanKind),
    status=st.none()
    | st.just(Status(StatusCode.OK))
    | st.just(Status(StatusCode.UNSET))
    | valid.map(lambda text: Status(StatusCode.ERROR, text)),
    start_time=times,
    end_time=times,
    instrumentation_scope=st.sampled_from(
        [
            None,
            InstrumentationScope("a"),
            InstrumentationScope("a", "1", "https://schema", {"x": 1, "y": [1.5]}),
        ]
    ),
)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The SDK logs each attribute that it cannot encode, with a traceback."""
    caplog.set_level(logging.CRITICAL)


@settings(max_examples=100, deadline=None)
@given(st.lists(spans, max_size=4))
def test_spans(batch: list[ReadableSpan]) -> None:
    """Whatever a span has, its message is the SDK's, and so is its place in the request."""
    assert exact(ours(batch)) == exact(stock(batch))


@settings(max_examples=50, deadline=None)
@given(st.lists(plain_attributes, min_size=2, max_size=6))
def test_values_that_were_seen_before(seen: list[dict[str, Any]]) -> None:
    """What was encoded before is no other value: 1, 1.0 and True are equal, and so are arrays."""
    batch = [ReadableSpan("", CONTEXT, attributes=each) for each in (*seen, *reversed(seen))]
    assert exact(ours(batch)) == exact(stock(batch))


@pytest.mark.parametrize(
    "equal",
    [
        [1, True, 1.0, Number.ONE, "1"],
        [(1,), (True,), (1.0,), ("1",), [1]],
        [("a", 1), ("a", True), ("a", 1.0)],
        ["a", Text.A, b"a"],
        [0, False, 0.0, -0.0, ""],
    ],
)
def test_equal_values(equal: list[Any]) -> None:
    """Of values that Python calls equal, each keeps its type, in any order."""
    for order in (equal, list(reversed(equal))):
        batch = [ReadableSpan("", CONTEXT, attributes={"equal": value}) for value in order]
        assert exact(ours(batch)) == exact(stock(batch))


def test_limits() -> None:
    """A span of the SDK that has lost attributes, events and links says how many."""
    limits = SpanLimits(
        max_span_attributes=2,
        max_events=1,
        max_links=1,
        max_event_attributes=1,
        max_link_attributes=1,
    )
    provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
    many = {"a": 1, "b": 2, "c": 3}
    links = [Link(CONTEXT, many), Link(CONTEXT, many)]
    live = provider.get_tracer("tracer").start_span("limited", attributes=many, links=links)
    live.add_event("first", many)
    live.add_event("second", many)
    live.record_exception(ValueError("no"))
    live.end()
    message = ours([live])  # type: ignore[list-item]

    assert exact(message) == exact(stock([live]))  # type: ignore[list-item]
    (made,) = message.resource_spans[0].scope_spans[0].spans
    counts = made.dropped_attributes_count, made.dropped_events_count, made.dropped_links_count
    assert counts == (1, 2, 1)


def test_array_that_contains_itself() -> None:
    """A value without an end is left out, as by the SDK."""
    endless: list[Any] = []
    endless.append(endless)
    batch = [ReadableSpan("", CONTEXT, attributes={"endless": endless, "a": 1})]
    assert exact(ours(batch)) == exact(stock(batch))


def test_left_out(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that cannot be encoded is named once, and its value is not."""
    monkeypatch.setattr(wire, "_reported", set[str]())
    caplog.set_level(logging.WARNING)
    attributes = {"left\nout": "secret \ud800", "kept": 1}
    made = [ours([ReadableSpan("", CONTEXT, attributes=attributes)]) for _ in range(3)]

    for request in made:
        (message,) = request.resource_spans[0].scope_spans[0].spans
        assert [attribute.key for attribute in message.attributes] == ["kept"]
    (line,) = caplog.messages
    assert line == "attribute left\\u000aout is not exported: UnicodeEncodeError"


def test_what_is_kept_is_bounded() -> None:
    """However many names, texts and arrays a router makes up, what is kept of them is bounded."""
    for number in range(5_000):
        text = f"text-{number}"
        attributes = {text: 1, "text": text, "array": (text,), "array of arrays": ((text,),)}
        span.encode_span(
            ReadableSpan(text, CONTEXT, attributes=attributes, events=[Event(text, {}, 1)])
        )

    key = span.SPAN_KEYS["text"]
    kept = [span.SPAN_KEYS, key.texts, span.NAMES, span.EVENT_NAMES, wire.ELEMENTS]
    assert [len(each) <= 1_024 for each in kept] == [True] * 5
    assert len(span.SPAN_KEYS["array"].arrays) <= 8
