"""A tracker that fails repeatedly leaves its router alone for a while, and comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from otel_lifecycle import Load, RequestLifecycleTracker
from otel_lifecycle.tracking.breaker import Breaker
from tests.conftest import Bench
from tests.hooks.shapes import Request, endpoint, last, result
from tests.routes import disaggregated, start

SECOND = 1_000_000_000
SCHEDULED = result(endpoint("qwen-0"))

Call: TypeAlias = "Callable[[RequestLifecycleTracker, str], object]"


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 7 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(bench: Bench) -> Clock:
    """The clock of the bench's breaker."""
    clock = Clock()
    recorder: Any = bench.tracker._recorder
    recorder.breaker = Breaker(bench.tracker.store.ignore, clock)
    return clock


def fail(failing: Breaker | RequestLifecycleTracker, times: int) -> None:
    """Fail as a hook does."""
    for _ in range(times):
        try:
            raise ValueError("of ours")
        except ValueError:
            failing.failed("test")


def tracked(tracker: RequestLifecycleTracker, request_id: str) -> None:
    """Use the handle."""
    with tracker.track(start(request_id, disaggregated())) as handle:
        handle.complete()


def hooked(tracker: RequestLifecycleTracker, request_id: str) -> None:
    """Use the hooks of the seed; an ignored id is unknown at its end."""
    tracker.pre_request(Request(request_id), SCHEDULED)
    if tracker.store.find(request_id) is not None:
        tracker.response_body(Request(request_id), last())


def rejected(tracker: RequestLifecycleTracker, request_id: str) -> None:
    """A request without an endpoint."""
    tracker.reject(start(request_id), "no_candidates")


def test_steps_aside_after_a_hundred_failures_in_a_minute() -> None:
    """It does not before, nor for as many failures in a longer time."""
    clock = Clock()
    breaker = Breaker(lambda _: None, clock)
    fail(breaker, 99)
    assert not breaker.is_aside
    clock.now += 61 * SECOND
    fail(breaker, 99)
    assert not breaker.is_aside
    clock.now += 60 * SECOND

    fail(breaker, 1)

    assert breaker.is_aside


def test_comes_back_on_trial(caplog: pytest.LogCaptureFixture) -> None:
    """After a minute it tries again; one failure is enough then, a minute without one ends it."""
    clock = Clock()
    breaker = Breaker(lambda _: None, clock)
    fail(breaker, 100)
    fail(breaker, 5)  # of requests in flight
    seen: list[bool] = []
    for seconds, failures in ((59, 0), (1, 0), (59, 1), (59, 0), (1, 0), (60, 99)):
        clock.now += seconds * SECOND
        seen.append(breaker.is_aside)
        fail(breaker, failures)

    assert seen == [True, False, False, True, False, False]
    assert not breaker.is_aside
    first, begun, ended = caplog.records
    assert first.exc_info is not None
    assert (begun.levelname, ended.levelname) == ("ERROR", "WARNING")


def test_every_episode_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An episode is logged once at its beginning, however often it restarts, and at its end."""
    clock = Clock()
    breaker = Breaker(lambda _: None, clock)
    for _ in range(2):
        fail(breaker, 100)
        for _ in range(5):
            clock.now += 61 * SECOND
            fail(breaker, 1)
        clock.now += 121 * SECOND
        assert not breaker.is_aside

    levels = [record.levelname for record in caplog.records if record.exc_info is None]
    assert levels == ["ERROR", "WARNING", "ERROR", "WARNING"]


@pytest.mark.parametrize("call", [tracked, hooked, rejected])
def test_what_is_left_out_is_counted(
    bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Each way in fails by its own bug, steps aside, and recovers when the bug is gone."""
    with monkeypatch.context() as broken:
        broken.setattr("otel_lifecycle.tracking.recorder.dispatch", None)
        for number in range(150):
            call(bench.tracker, f"lost-{number}")
    assert bench.tracker.is_aside
    assert bench.tracker.store.ignored == {"hook_error": 100, "stepped_aside": 50}
    clock.now += 60 * SECOND
    call(bench.tracker, "back")

    assert [record.request_id for record in bench.records] == ["back"]
    assert bench.telemetry.metrics()["llm_router.ignored"] == {
        frozenset({("llm_router.ignored.reason", "hook_error")}): 100,
        frozenset({("llm_router.ignored.reason", "stepped_aside")}): 50,
    }


def test_broken_reading_of_scheduling_objects(
    bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it steps aside, the hooks do not even read their arguments."""
    monkeypatch.setattr("otel_lifecycle.tracking.scheduling.request_start", None)
    for number in range(150):
        bench.tracker.pre_request(Request(f"lost-{number}"), SCHEDULED)

    assert bench.tracker.store.ignored == {"hook_error": 100, "stepped_aside": 50}


def test_requests_in_flight_end(bench: Bench, clock: Clock) -> None:
    """Earlier requests are followed to their end, and give back their load."""
    handles = [bench.tracker.track(start(f"handle-{n}", disaggregated())) for n in range(3)]
    bench.tracker.pre_request(Request("hook"), SCHEDULED)
    fail(bench.tracker, 100)
    assert bench.tracker.is_aside
    for handle in handles:
        handle.chunk()
        handle.complete(output_tokens=2)
    bench.tracker.response_body(Request("hook"), last())

    assert sorted((record.request_id, record.outcome.value) for record in bench.records) == [
        *((f"handle-{n}", "completed") for n in range(3)),
        ("hook", "completed"),
    ]
    assert bench.tracker.store.active_requests == 0
    assert set(bench.tracker.store.loads().values()) == {Load()}


@pytest.mark.parametrize(
    "broken", ["tracking.lifecycle.whole_record", "tracking.scheduling.request_completion"]
)
def test_requests_in_flight_whose_end_fails(
    bench: Bench, clock: Clock, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """If the bug is in the end itself, the load is still given back."""
    requests = [Request(f"request-{number}") for number in range(120)]
    for request in requests:
        bench.tracker.pre_request(request, SCHEDULED)
    monkeypatch.setattr(f"otel_lifecycle.{broken}", None)
    for request in requests:
        bench.tracker.response_body(request, last())
    bench.tracker.flush()

    assert bench.tracker.is_aside
    assert bench.tracker.store.active_requests == 0
    assert set(bench.tracker.store.loads().values()) == {Load()}


def test_processors_of_others(bench: Bench, clock: Clock) -> None:
    """Another processor that always raises does not count: records continue."""

    class Raising(SpanProcessor):
        def on_start(self, span: object, parent_context: object = None) -> None:
            raise RuntimeError("on_start")

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("on_end")

    starts, ends = Raising(), Raising()
    starts.on_end = ends.on_start = lambda *_: None  # type: ignore[method-assign, assignment]
    for raising in (ends, starts):
        bench.telemetry.tracer_provider.add_span_processor(raising)
        for number in range(150):
            tracked(bench.tracker, f"request-{id(raising)}-{number}")

    assert not bench.tracker.is_aside
    assert len(bench.records) == 300
