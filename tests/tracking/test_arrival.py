"""The arrival of a request: which times count from it, and which from the dispatch."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from otel_lifecycle import Leg, LegRole, RequestCompletion, RequestStart
from otel_lifecycle.telemetry.span_reader import record_from_span
from otel_lifecycle.telemetry.spans import span_from_record
from tests.conftest import Bench
from tests.hooks.shapes import predicted, result
from tests.routes import NOW, aggregated, endpoint, start
from tests.tracking.expected import E2E_MS, TTFT_MS, answer, latency, record, timestamp
from tests.tracking.test_round_trip import comparable

QUEUED_MS = 1_500.0


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A bench whose spans have all optional attributes, which makes them complete."""
    return make_bench(npu_device_attributes=True, first_byte_attribute=True)


def received(at: Any = NOW, request_id: str = "request-1") -> RequestStart:
    """The request of `start`, which arrived when the bench's clock began."""
    return msgspec.structs.replace(start(request_id), received_at=at)


def line(bench: Bench) -> dict[str, Any]:
    """The only record of the file."""
    assert bench.tracker.flush(timeout=30)
    (text,) = bench.path.read_text("utf-8").splitlines()
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_record(bench: Bench) -> None:
    """The record has both times; all latencies but the queue's count from the dispatch."""
    bench.clock.advance(QUEUED_MS)
    answer(bench, bench.tracker.track(received()), cached_tokens=None)

    assert line(bench) == record(
        receivedAt=timestamp(0),
        startedAt=timestamp(QUEUED_MS),
        firstChunkAt=timestamp(QUEUED_MS + TTFT_MS),
        completedAt=timestamp(QUEUED_MS + E2E_MS),
        outputLength=128,
        actual=latency(E2E_MS, queueMillis=QUEUED_MS, ttftMillis=TTFT_MS, tpotMillis=20.0),
        predictionError={
            "ttftMillis": 40.0,
            "tpotMillis": 1.5,
            "ttftRatio": 0.16,
            "tpotRatio": 0.075,
        },
    )


def test_span(bench: Bench) -> None:
    """The span starts at the arrival, an event marks the dispatch; both survive the round trip."""
    bench.clock.advance(QUEUED_MS)
    answer(bench, bench.tracker.track(received()))

    (span,) = bench.spans
    assert span["at"] == [0, 1_500, 1_750, 4_290, 4_290]
    assert [name for name, _ in span["events"]] == [
        "llm_router.dispatch",
        "llm_router.first_chunk",
        "llm_router.completion",
    ]
    assert {
        name: span["attributes"][name]
        for name in (
            "llm_router.queue.duration",
            "gen_ai.response.time_to_first_chunk",
            "llm_router.request.duration",
            "llm_router.prediction.time_to_first_token.error",
        )
    } == {
        "llm_router.queue.duration": 1.5,
        "gen_ai.response.time_to_first_chunk": 1.75,
        "llm_router.request.duration": 2.79,
        "llm_router.prediction.time_to_first_token.error": 0.04,
    }
    (whole,), (live,) = bench.records, bench.telemetry.spans
    assert record_from_span(live) == whole
    assert comparable(span_from_record(whole)) == comparable(live)


def test_unknown(bench: Bench) -> None:
    """Without an arrival everything counts from the dispatch, and no queue is shown."""
    bench.clock.advance(QUEUED_MS)
    answer(bench, bench.tracker.track(start()))

    (span,) = bench.spans
    assert span["at"] == [1_500, 1_750, 4_290, 4_290]
    assert span["attributes"]["gen_ai.response.time_to_first_chunk"] == 0.25
    assert "llm_router.queue.duration" not in span["attributes"]
    assert (line(bench)["receivedAt"], line(bench)["actual"]["queueMillis"]) == (None, None)
    assert "llm_router.queue.duration" not in bench.telemetry.metrics()


def test_metrics(bench: Bench) -> None:
    """Latencies of clients count from the arrival, those compared with predictions do not."""
    bench.clock.advance(QUEUED_MS)
    answer(bench, bench.tracker.track(received()))

    assert bench.tracker.flush(timeout=30)
    sums = bench.telemetry.histogram_sums()
    assert {
        name: list(sums[name].values())
        for name in (
            "llm_router.queue.duration",
            "gen_ai.server.time_to_first_token",
            "gen_ai.server.time_per_output_token",
            "gen_ai.server.request.duration",
            "llm_router.prediction.error",
        )
    } == {
        "llm_router.queue.duration": [1.5],
        "gen_ai.server.time_to_first_token": [1.75],
        "gen_ai.server.time_per_output_token": [0.02],
        "gen_ai.server.request.duration": [4.29],
        "llm_router.prediction.error": [0.04, 0.0015],
    }
    assert [dict(key) for key in sums["llm_router.queue.duration"]] == [
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": "Qwen/Qwen3-8B",
            "server.address": "qwen-0.local",
            "server.port": 8000,
        }
    ]


@pytest.mark.parametrize(
    ("given", "queued_ms"),
    [
        (NOW, 1_000.0),
        (NOW.astimezone(timezone(timedelta(hours=8))), 1_000.0),
        (NOW + timedelta(seconds=1), 0.0),
        (NOW - timedelta(days=11), 11 * 86_400_000.0 + 1_000.0),
        (NOW + timedelta(seconds=1, microseconds=1), None),
        (NOW - timedelta(days=12), None),
        (NOW.replace(tzinfo=None), None),
        (datetime(1, 1, 1, tzinfo=timezone.utc), None),
        (NOW.timestamp(), None),
        ("2023-11-14T22:13:20Z", None),
    ],
    ids=str,
)
def test_what_is_taken(bench: Bench, given: Any, queued_ms: float | None) -> None:
    """Only a plausible aware datetime is accepted; anything else is unknown and counted."""
    bench.clock.advance(1_000)
    bench.tracker.track(received(given)).complete()

    (written,) = bench.records
    assert written.actual.queue_ms == queued_ms
    assert (written.received_at is None) == (queued_ms is None)
    assert bench.tracker.store.ignored == ({"invalid_value": 1} if queued_ms is None else {})


def test_never_dispatched(bench: Bench) -> None:
    """A request refused in the queue has its real duration, and no dispatch."""
    bench.clock.advance(QUEUED_MS)
    request = msgspec.structs.replace(received(), candidates=None, policy="")
    bench.tracker.reject(request, "no_candidates")

    (span,), whole = bench.spans, line(bench)
    moments = {name: whole[name] for name in ("receivedAt", "startedAt", "completedAt")}
    assert moments == {
        "receivedAt": timestamp(0),
        "startedAt": timestamp(0),
        "completedAt": timestamp(QUEUED_MS),
    }
    assert whole["actual"] == latency(QUEUED_MS)
    assert (span["at"], span["events"][0][0]) == ([0, 1_500, 1_500], "llm_router.completion")
    assert span["attributes"]["llm_router.queue.duration"] == 1.5
    sums = bench.telemetry.histogram_sums()
    assert list(sums["gen_ai.server.request.duration"].values()) == [1.5]
    assert "llm_router.queue.duration" not in sums
    (live,) = bench.telemetry.spans
    assert [record_from_span(live)] == bench.records


def test_hooks(bench: Bench) -> None:
    """The hooks read it from the request, if it is there."""
    request: Any = SimpleNamespace(
        request_id="request-1", target_model="m", received_at=NOW, body=SimpleNamespace(stream=True)
    )
    bench.clock.advance(QUEUED_MS)
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    bench.clock.advance(10)
    last: Any = SimpleNamespace(end_of_stream=True)
    bench.tracker.response_body(request, last)

    (written,) = bench.records
    assert (written.received_at, written.started_at) == (timestamp(0), timestamp(QUEUED_MS))


def test_reroute(bench: Bench) -> None:
    """A rerouted request keeps its arrival and its first dispatch."""
    bench.clock.advance(QUEUED_MS)
    tracked = bench.tracker.track(received())
    bench.clock.advance(100)
    tracked.reroute(aggregated("qwen-1"), reason="connect_error")
    tracked.complete()

    (written,) = bench.records
    assert (written.received_at, written.started_at, written.rerouted[0].at) == (
        timestamp(0),
        timestamp(QUEUED_MS),
        timestamp(QUEUED_MS + 100),
    )
    assert bench.spans[0]["at"] == [0, 1_500, 1_600, 1_600, 1_600]


def test_known_by_the_monotonic_clock(bench: Bench) -> None:
    """Correcting the wall clock in the queue shifts the arrival, not the queue's time."""
    arrived_ns = bench.clock.monotonic_ns()
    bench.clock.advance(QUEUED_MS)
    bench.clock.set_wall_ns(bench.clock.wall_ns() - 60_000_000_000)
    bench.tracker.track(start(), arrived_ns=arrived_ns).complete()

    (written,) = bench.records
    assert (written.received_at, written.actual.queue_ms) == (timestamp(-60_000), QUEUED_MS)


def test_told_twice(bench: Bench) -> None:
    """The router's own arrival takes precedence, if it is valid."""
    bench.clock.advance(QUEUED_MS)
    arrived_ns = bench.clock.monotonic_ns()
    bench.clock.advance(500)
    bench.tracker.track(received(), arrived_ns=arrived_ns).complete()
    unusable = received(NOW.replace(tzinfo=None))
    bench.tracker.track(unusable, arrived_ns=arrived_ns).complete()

    assert [written.actual.queue_ms for written in bench.records] == [2_000.0, 500.0]


def test_moved_dispatch(bench: Bench) -> None:
    """A later call may become the dispatch; earlier times then count from there."""
    tracked = bench.tracker.track(received(), arrived_ns=bench.clock.monotonic_ns())
    bench.clock.advance(400)
    moved_ns = bench.clock.monotonic_ns()
    bench.clock.advance(TTFT_MS)
    tracked.first_byte()
    tracked.chunk()
    tracked.dispatched_at(moved_ns)
    bench.clock.advance(E2E_MS - TTFT_MS)
    tracked.complete(output_tokens=128)

    whole = line(bench)
    assert whole["actual"] == latency(E2E_MS, queueMillis=400.0, ttftMillis=250.0, tpotMillis=20.0)
    names = ("receivedAt", "startedAt", "firstByteAt", "firstChunkAt", "completedAt")
    assert [whole[name] for name in names] == list(map(timestamp, (0, 400, 650, 650, 3_190)))
    (live,) = bench.telemetry.spans
    assert [record_from_span(live)] == bench.records


def test_dispatch_of_unknown_arrival_stays(bench: Bench) -> None:
    """The dispatch stays if the span began there, and is never before the arrival."""
    unknown = bench.tracker.track(start("unknown"))
    known = bench.tracker.track(received(request_id="known"))
    bench.clock.advance(400)
    unknown.dispatched_at(bench.clock.monotonic_ns())
    known.dispatched_at(0)
    unknown.complete()
    known.complete()

    assert {written.started_at for written in bench.records} == {timestamp(0)}
    assert [written.actual.e2e_ms for written in bench.records] == [400.0, 400.0]


def test_calls_before_the_dispatch(bench: Bench) -> None:
    """A guard may be called first; on the span calls count from its start."""
    bench.clock.advance(QUEUED_MS)
    ns = bench.clock.wall_ns()
    legs = [
        Leg(LegRole.SIDE, endpoint("guard"), ns - 1_200_000_000, ns - 1_000_000_000),
        Leg(LegRole.LEADER, endpoint("qwen-0"), ns),
    ]
    bench.tracker.track(received()).end(RequestCompletion(legs=legs))

    (span,), (live,) = bench.spans, bench.telemetry.spans
    assert span["attributes"]["llm_router.legs.start"] == [0.3, 1.5]
    assert span["attributes"]["llm_router.legs.end"] == [0.5, -1.0]
    assert [record_from_span(live)] == bench.records
