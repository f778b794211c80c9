"""Metrics have a limited number of series, however long a router runs."""

from __future__ import annotations

import gc
from collections.abc import Callable

from otel_lifecycle import EndpointEvent, EndpointEventType, LatencyPrediction, RequestStart, Route
from otel_lifecycle.model.endpoint_state import EndpointState, EndpointView
from otel_lifecycle.telemetry.cardinality import UNUSED_NS, BoundedValues
from tests.conftest import Bench
from tests.garbage import alive
from tests.routes import aggregated, disaggregated, endpoint, known
from tests.waiting import eventually

MODEL = "gen_ai.request.model"


def seen(bench: Bench, metric: str, attribute: str) -> dict[str, float]:
    """Return the counts of a metric by one attribute."""
    counts: dict[str, float] = {}
    for attributes, value in bench.telemetry.metrics().get(metric, {}).items():
        name = dict(attributes)[attribute]
        counts[name] = counts.get(name, 0) + value
    return counts


def delete(bench: Bench, pod: str) -> None:
    """Delete an endpoint."""
    bench.tracker.extract_endpoint(EndpointEvent(EndpointEventType.DELETE, endpoint(pod)))


def endpoints() -> list[object]:
    """What is kept of endpoints."""
    gc.collect()
    return alive(EndpointView, EndpointState)


def assert_nothing_more(before: list[object]) -> None:
    """Assert that no more is kept of endpoints than before, once every thread has let go."""
    eventually(lambda: len(endpoints()) == len(before), what="nothing is left of the endpoints")


def test_invented_models(make_bench: Callable[..., Bench]) -> None:
    """However many models clients invent, those that an engine serves have their own series."""
    bench = make_bench(max_metric_values=3)
    for number in range(50):
        invented = RequestStart(f"request-{number}", aggregated(), f"invented-{number}")
        bench.tracker.track(invented).fail("http_404")
        bench.tracker.reject(invented, "unknown_model")
    for number in range(3):
        served = RequestStart(f"served-{number}", aggregated(), f"real-{number}")
        bench.tracker.track(served).complete()
        bench.tracker.track(served).fail("http_500")

    assert seen(bench, "llm_router.requests", MODEL) == {
        "_OTHER": 100,
        "real-0": 2,
        "real-1": 2,
        "real-2": 2,
    }
    assert {record.model for record in bench.records} >= {"invented-0", "invented-49", "real-0"}


def test_a_model_is_known_from_its_first_answer(bench: Bench) -> None:
    """What failed before counts as any model's, what fails after as its own."""
    for outcome in ("fail", "complete", "fail"):
        tracked = bench.tracker.track(RequestStart("request", aggregated(), "m"))
        if outcome == "fail":
            tracked.fail("http_500")
        else:
            tracked.complete()

    assert seen(bench, "llm_router.requests", MODEL) == {"_OTHER": 1, "m": 2}


def test_a_model_in_use_keeps_its_place(make_bench: Callable[..., Bench]) -> None:
    """However long; one that is not used any more gives it to another."""
    bench = make_bench(max_metric_values=1)

    def serve(model: str) -> None:
        bench.tracker.track(RequestStart("request", aggregated(), model)).complete()
        bench.tracker.flush(timeout=30)

    for _ in range(50):
        serve("a")
        bench.clock.advance(UNUSED_NS / 40 / 1e6)
    serve("b")
    bench.clock.advance(2 * UNUSED_NS / 1e6)
    serve("b")
    serve("a")

    assert seen(bench, "llm_router.requests", MODEL) == {"a": 50, "_OTHER": 2, "b": 1}


def test_unused_values_make_room() -> None:
    """The least recently used value is replaced, after a time without use."""
    values = BoundedValues(2)

    assert [values.bound(value, 0) for value in "abc"] == ["a", "b", "_OTHER"]
    assert [values.bound(value, UNUSED_NS - 1) for value in "ac"] == ["a", "_OTHER"]
    assert [values.bound(value, UNUSED_NS) for value in "cba"] == ["c", "_OTHER", "a"]


def test_asked_for_is_not_used() -> None:
    """With `let_in=False` a value is neither added nor kept in place."""
    values = BoundedValues(1)
    values.bound("a", 0)

    assert values.bound("a", UNUSED_NS, let_in=False) == "a"
    assert values.bound("b", UNUSED_NS, let_in=False) == "_OTHER"
    assert values.bound("b", UNUSED_NS) == "b"
    assert values.bound("a", UNUSED_NS, let_in=False) == "_OTHER"


def test_the_total_is_bounded() -> None:
    """The SDK keeps every series, so the number of new ones is limited."""
    values = BoundedValues(3)

    shown = {values.bound(f"model-{number}", number * UNUSED_NS) for number in range(1_000)}
    assert shown == {"_OTHER", *(f"model-{number}" for number in range(30))}


def test_deleted_endpoints_make_room(make_bench: Callable[..., Bench]) -> None:
    """A deleted endpoint is forgotten, whether its requests end before or after."""
    bench = make_bench(max_metric_values=50)
    predicted = LatencyPrediction(ttft_ms=1.0)
    for number in range(300):
        route = Route(known(f"qwen-{number}"))
        tracked = bench.tracker.track(RequestStart("request", route, prediction=predicted))
        tracked.chunk()
        if number % 2:
            tracked.complete()
        delete(bench, f"qwen-{number}")
        tracked.complete()

    by_endpoint = seen(bench, "llm_router.prediction.error", "llm_router.endpoint.id")
    assert by_endpoint == {f"pod://llm/qwen-{number}": 1 for number in range(300)}


def test_deleted_endpoints_leave_nothing(bench: Bench) -> None:
    """A deleted endpoint leaves neither counters nor cached values, also as a leader."""
    before = endpoints()
    for number in range(300):
        pods = [f"{role}-{number}" for role in ("qwen", "leader", "prefill", "decode")]
        bench.tracker.track(RequestStart("one", Route(known(pods[0])))).complete()
        pair = Route(*map(known, pods[1:]))
        bench.tracker.track(RequestStart("two", pair)).complete()
        for pod in pods:
            delete(bench, pod)
    bench.tracker.flush(timeout=30)

    assert_nothing_more(before)


def test_deleted_while_in_use(bench: Bench) -> None:
    """A request in flight on it is recorded completely, and nothing is kept afterwards."""
    before = endpoints()
    tracked = bench.tracker.track(RequestStart("request", disaggregated()))
    for pod in ("leader-0", "prefill-0", "decode-0"):
        delete(bench, pod)
    tracked.complete()
    del tracked

    (record,) = bench.records
    assert record.tracked_endpoints == ["pod://llm/prefill-0", "pod://llm/decode-0"]
    assert record.endpoint_deleted == ["prefill", "decode"]
    assert_nothing_more(before)
