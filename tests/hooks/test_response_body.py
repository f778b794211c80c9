"""`response_body`: first chunk, end and output of a response, rule by rule of the seed."""

from __future__ import annotations

import logging
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from otel_lifecycle import Endpoint, Load
from otel_lifecycle.model.record import ErrorInfo
from tests.conftest import Bench
from tests.hooks.shapes import (
    Request,
    Response,
    Usage,
    endpoint,
    identity,
    last,
    metadata,
    pd_leader,
    predicted,
    result,
    stream,
    usage,
)
from tests.tracking.expected import timestamp


class TerminationCause(Enum):
    EVICTED = "evicted"


def begin(bench: Bench, **changes: Any) -> Request:
    """A request in flight on `qwen-0`."""
    request = Request(**changes)
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    return request


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (None, Response(end_of_stream=True)),
        (Request(request_id=""), Response(end_of_stream=True)),
        (SimpleNamespace(), Response(end_of_stream=True)),
        (Request(), None),
    ],
    ids=["no request", "empty id", "id absent", "no response"],
)
def test_skipped(
    bench: Bench, caplog: pytest.LogCaptureFixture, request_: Any, response: Any
) -> None:
    """Without request, id or response nothing happens; a debug log has the reason."""
    begin(bench)
    caplog.set_level(logging.DEBUG, "otel_lifecycle.tracking.tracker")

    bench.tracker.response_body(request_, response)

    assert bench.tracker.load(identity("qwen-0")) == Load(512, 1)
    assert bench.records == []
    assert caplog.messages == ["not tracked: no request, no request id or no response"]


@pytest.mark.parametrize("response", [Response(), Response(end_of_stream=True)])
def test_unknown_id(bench: Bench, response: Response) -> None:
    """A response to an unknown request is ignored and counted."""
    bench.tracker.response_body(Request("other"), response)

    assert bench.records == []
    assert bench.tracker.store.ignored == {"unknown_request": 1}


def test_first_chunk_is_marked_once(bench: Bench) -> None:
    """The first chunk is marked; later chunks and the last are not."""
    request = begin(bench)
    for response in (Response(), Response(), last()):
        bench.clock.advance(250)
        bench.tracker.response_body(request, response)

    (written,) = bench.records
    assert (written.first_chunk_at, written.actual.ttft_ms) == (timestamp(250), 250.0)
    (span,) = bench.spans
    assert [name for name, _ in span["events"]] == [
        "llm_router.first_chunk",
        "llm_router.completion",
    ]
    assert span["at"] == [0.0, 250.0, 750.0, 750.0]


def test_first_chunk_and_end_in_one_call(bench: Bench) -> None:
    """The first chunk of a stream with one call is at its end."""
    request = begin(bench)
    bench.clock.advance(250)
    bench.tracker.response_body(request, last(usage=usage()))

    (written,) = bench.records
    assert (written.outcome.value, written.streaming) == ("completed", True)
    assert written.first_chunk_at == written.completed_at == timestamp(250)
    assert (written.actual.ttft_ms, written.actual.e2e_ms) == (250.0, 250.0)
    assert bench.spans[0]["at"] == [0.0, 250.0, 250.0, 250.0]


@pytest.mark.parametrize("body", [SimpleNamespace(stream=False), SimpleNamespace(), None])
def test_single_call_of_no_stream(bench: Bench, body: Any) -> None:
    """A response that is not known to be a stream has no time to first token."""
    request = begin(bench, body=body)
    bench.tracker.response_body(request, last(usage=usage()))

    (written,) = bench.records
    assert (written.first_chunk_at, written.actual.ttft_ms, written.actual.tpot_ms) == (
        None,
        None,
        None,
    )
    assert written.output_length == 128
    assert [name for name, _ in bench.spans[0]["events"]] == ["llm_router.completion"]


def test_chunks_of_no_stream(bench: Bench) -> None:
    """Parts of a response that is not a stream are not a first chunk."""
    request = begin(bench, body=SimpleNamespace(stream=False))
    stream(bench.tracker, request)

    (written,) = bench.records
    assert (written.streaming, written.first_chunk_at) == (False, None)


def test_chunk_tells_a_stream(bench: Bench) -> None:
    """If it is unknown whether a response is a stream, a chunk before the end shows that it is."""
    request = begin(bench, body=None)
    stream(bench.tracker, request)

    (written,) = bench.records
    assert written.streaming is True
    assert written.first_chunk_at is not None


def test_first_chunk_gives_the_prefill_load_back(bench: Bench) -> None:
    """From its first chunk on a PD request adds load only to its decode endpoint."""
    request = Request()
    bench.tracker.pre_request(request, result(pd_leader()))
    bench.tracker.response_body(request, Response())
    assert bench.tracker.store.loads() == {
        "pod://llm/prefill-0": Load(),
        "pod://llm/decode-0": Load(512, 1),
    }
    bench.tracker.response_body(request, last())

    assert set(bench.tracker.store.loads().values()) == {Load()}


@pytest.mark.parametrize("cause", ["natural", "evicted"])
def test_end_is_once(bench: Bench, cause: str) -> None:
    """The last chunk ends the request, with its outcome; later calls are only counted."""
    request = begin(bench)
    bench.tracker.response_body(request, Response(usage=usage(1)))
    assert (bench.tracker.store.active_requests, bench.records) == (1, [])
    for response in (
        last(usage=usage(), termination_cause=cause),
        last(usage=usage(999)),
        Response(),
    ):
        bench.clock.advance(1_000)
        bench.tracker.response_body(request, response)

    (written,) = bench.records
    assert written.outcome.value == {"natural": "completed"}.get(cause, cause)
    assert (written.output_length, written.completed_at) == (128, timestamp(1_000))
    assert written.actual.e2e_ms == 1_000.0
    assert bench.tracker.store.load(identity("qwen-0")) == Load()
    assert bench.tracker.store.ignored == {"unknown_request": 2}


def test_late_chunk_of_a_superseded_request(bench: Bench) -> None:
    """A late chunk belongs to the current request with the id, and ends nothing twice."""
    request = begin(bench)
    bench.tracker.pre_request(request, result(predicted("qwen-1")))
    bench.tracker.response_body(request, last())
    bench.tracker.response_body(request, last())

    assert [written.outcome.value for written in bench.records] == ["superseded", "completed"]
    assert set(bench.tracker.store.loads().values()) == {Load()}


@pytest.mark.parametrize("chunks", [0, 1])
@pytest.mark.parametrize(
    ("cause", "outcome", "error"),
    [
        ("natural", "completed", None),
        ("client-disconnect", "client_disconnect", None),
        ("evicted", "evicted", None),
        (TerminationCause.EVICTED, "evicted", None),
        ("error", "error", "error"),
        ("a cause to come", "error", "error"),
    ],
)
def test_forced_completion(
    bench: Bench, cause: Any, outcome: str, error: str | None, chunks: int
) -> None:
    """A request that was cut short has a first chunk only if there was one.

    For a stream that completed in a single call, that call is the first chunk.
    """
    request = begin(bench)
    for _ in range(chunks):
        bench.tracker.response_body(request, Response())
    bench.tracker.response_body(request, last(termination_cause=cause))

    (written,) = bench.records
    assert written.outcome.value == outcome
    assert (written.error.type if written.error else None) == error
    assert (written.first_chunk_at is not None) == (bool(chunks) or outcome == "completed")
    assert bench.spans[0]["status"] == ("ERROR" if error else "UNSET")
    assert bench.tracker.load(identity("qwen-0")) == Load()


@pytest.mark.parametrize("cause", ["natural", "", None, "error"])
@pytest.mark.parametrize("error", [TimeoutError("secret"), TimeoutError, "TimeoutError"])
def test_error_without_cause(bench: Bench, cause: Any, error: Any) -> None:
    """A response with an error did not complete, with or without a cause."""
    request = begin(bench)
    bench.tracker.response_body(request, last(termination_cause=cause, error=error))

    (written,) = bench.records
    assert (written.outcome.value, written.first_chunk_at) == ("error", None)
    assert written.error == ErrorInfo("TimeoutError")


@pytest.mark.parametrize("cause", ["client-disconnect", "evicted"])
def test_cause_beside_an_error(bench: Bench, cause: str) -> None:
    """The router's cause takes precedence over the exception."""
    request = begin(bench)
    bench.tracker.response_body(request, last(termination_cause=cause, error=OSError()))

    (written,) = bench.records
    assert (written.outcome.value, written.error) == (cause.replace("-", "_"), None)


@pytest.mark.parametrize("cause", ["natural", "", None])
def test_natural_completion(bench: Bench, cause: Any) -> None:
    """A missing cause means natural completion, the only one that the seed knows."""
    request = begin(bench)
    bench.tracker.response_body(request, last(termination_cause=cause))

    (written,) = bench.records
    assert (written.outcome.value, written.error) == ("completed", None)
    assert written.first_chunk_at is not None


class OverloadedError(Exception):
    """An error of the router."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("stream_truncated", "stream_truncated"),
        (ValueError("a message that may hold a prompt"), "ValueError"),
        (OverloadedError(), f"{__name__}.OverloadedError"),
        (OverloadedError, f"{__name__}.OverloadedError"),
        (None, "error"),
    ],
)
def test_error_type(bench: Bench, error: Any, expected: str) -> None:
    """An error is recorded by its short type, never by its message."""
    request = begin(bench)
    bench.tracker.response_body(request, last(termination_cause="error", error=error))

    (written,) = bench.records
    assert written.error is not None
    assert written.error.type == expected
    assert bench.spans[0]["attributes"]["error.type"] == expected


@pytest.mark.parametrize(
    ("reported", "expected", "ignored"),
    [
        (usage(128), 128, {}),
        (usage(1), 1, {}),
        (usage(0), 0, {}),
        (Usage(0, prompt_tokens=0), None, {}),
        (Usage(0, prompt_tokens=None), None, {}),
        (Usage(None), None, {}),
        (None, None, {}),
        (SimpleNamespace(), None, {}),
        (usage(-1), None, {"invalid_value": 1}),
        (usage("128"), None, {"invalid_value": 1}),
        (usage(True), None, {"invalid_value": 1}),
        (usage(float("nan")), None, {"invalid_value": 1}),
        (usage(10**30), None, {"invalid_value": 1}),
    ],
    ids=[
        "known",
        "one",
        "none generated",
        "upstream's zero value",
        "zero of an unknown prompt",
        "null",
        "no usage",
        "usage without counts",
        "negative",
        "text",
        "boolean",
        "not a number",
        "gigantic",
    ],
)
def test_output_length(
    bench: Bench, reported: Any, expected: int | None, ignored: dict[str, int]
) -> None:
    """The output length is the usage's completion tokens; negative or missing is unknown, not 0."""
    request = begin(bench)
    stream(bench.tracker, request, usage=reported)

    (written,) = bench.records
    assert written.output_length == expected
    assert bench.tracker.store.ignored == ignored


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (SimpleNamespace(cached_tokens=200), 200),
        (SimpleNamespace(cached_tokens=0), 0),
        (SimpleNamespace(cached_tokens=None), None),
        (SimpleNamespace(cached_tokens=-1), None),
        (None, None),
    ],
)
def test_cached_tokens(bench: Bench, details: Any, expected: int | None) -> None:
    """Cached tokens are known if the usage has details; 0 means none."""
    request = begin(bench)
    stream(bench.tracker, request, usage=Usage(128, prompt_token_details=details))

    (written,) = bench.records
    assert written.cached_tokens == expected


@pytest.mark.parametrize("tokens", [0, 1])
def test_no_time_per_token_below_two(bench: Bench, tokens: int) -> None:
    """A response of one token has no time per output token."""
    request = begin(bench)
    stream(bench.tracker, request, usage=usage(tokens))

    (written,) = bench.records
    assert written.actual.tpot_ms is None
    assert written.actual.ttft_ms is not None


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        (metadata("qwen-0"), "pod://llm/qwen-0"),
        (metadata("qwen-9"), "pod://llm/qwen-9"),
        (endpoint("qwen-9"), "pod://llm/qwen-9"),
        (Endpoint("llm", "qwen-9"), "pod://llm/qwen-9"),
        (SimpleNamespace(address="10.0.0.9", port="8000"), "addr://10.0.0.9:8000"),
        (SimpleNamespace(namespace="llm", name="engine"), None),
        (SimpleNamespace(), None),
        (None, None),
    ],
    ids=[
        "selected",
        "other",
        "other endpoint",
        "ours",
        "address",
        "name alone",
        "nothing known",
        "null",
    ],
)
def test_served_endpoint(bench: Bench, served: Any, expected: str | None) -> None:
    """The serving endpoint is recorded with the selected one, which gets its load back."""
    request = begin(bench)
    bench.tracker.response_body(request, last(), served)

    (written,) = bench.records
    assert (written.selected_endpoint, written.served_endpoint) == ("pod://llm/qwen-0", expected)
    different = expected if expected != "pod://llm/qwen-0" else None
    assert bench.spans[0]["attributes"].get("llm_router.route.served.id") == different
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load()}
