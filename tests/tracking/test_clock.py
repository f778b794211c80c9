"""The tracker's clock: which value comes from the wall clock, which from the monotonic one."""

from __future__ import annotations

import pytest

from otel_lifecycle import Load, RequestLifecycleTracker, TrackerConfig
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.model.timestamps import format_timestamp
from otel_lifecycle.testing import InMemoryTelemetry, ManualClock
from tests.conftest import Bench
from tests.hooks.shapes import Request, predicted, result
from tests.routes import NOW_NS, aggregated, endpoint, start


def test_corrected_wall_clock(bench: Bench) -> None:
    """Correcting the machine's clock during a request changes no duration and no order."""
    bench.clock.advance(1_000)
    tracked = bench.tracker.track(start())
    bench.clock.advance(30)
    bench.clock.set_wall_ns(NOW_NS - 3_600_000_000_000)
    tracked.reroute(aggregated("qwen-1"), reason="connect_error")
    bench.clock.advance(200)
    tracked.first_byte()
    bench.clock.advance(20)
    tracked.chunk()
    bench.clock.set_wall_ns(NOW_NS + 3_600_000_000_000)
    bench.clock.advance(2_540)
    tracked.complete(output_tokens=128)

    (record,) = bench.records
    assert record.actual == ActualLatency(250.0, 20.0, 2790.0)
    assert [
        record.started_at,
        record.rerouted[0].at,
        record.first_byte_at,
        record.first_chunk_at,
        record.completed_at,
    ] == [format_timestamp(NOW_NS + ms * 1_000_000) for ms in (1_000, 1_030, 1_230, 1_250, 3_790)]
    assert [span["at"] for span in bench.spans] == [[1_000, 1_030, 1_250, 3_790, 3_790]]


def test_starts_are_told_by_the_wall_clock(bench: Bench) -> None:
    """A request that starts after a correction starts at the corrected time."""
    bench.clock.advance(1_000)
    bench.clock.set_wall_ns(NOW_NS + 60_000_000_000)
    bench.tracker.track(start()).complete()

    assert [record.started_at for record in bench.records] == ["2023-11-14T22:14:20.000000000Z"]


def test_every_end_is_timed(bench: Bench) -> None:
    """Superseded, abandoned and shut down requests end at the clock's time, corrected or not."""
    bench.tracker.pre_request(Request("superseded"), result(predicted("qwen-0")))
    bench.clock.advance(1)
    again = bench.tracker.track(start("superseded"))
    bench.clock.advance(1)
    again.disconnect()
    abandoned = bench.tracker.track(start("abandoned"))
    bench.clock.advance(10)
    bench.clock.set_wall_ns(NOW_NS + 3_600_000_000_000)
    del abandoned
    bench.tracker.flush(timeout=30)
    bench.tracker.pre_request(Request("shut down"), result(predicted("qwen-0")))
    bench.clock.advance(100)
    bench.tracker.close()

    assert [(record.outcome.value, record.actual.e2e_ms) for record in bench.records] == [
        ("superseded", 1.0),
        ("client_disconnect", 1.0),
        ("abandoned", 10.0),
        ("shutdown", 100.0),
    ]


class StoppedClock(ManualClock):
    """A custom clock that raises."""

    works = True

    def wall_ns(self) -> int:
        self._check()
        return super().wall_ns()

    def monotonic_ns(self) -> int:
        self._check()
        return super().monotonic_ns()

    def _check(self) -> None:
        if not self.works:
            raise OSError("no time")


def test_clock_of_the_factory() -> None:
    """The factory passes on its clock and its providers."""
    telemetry = InMemoryTelemetry()
    tracker = RequestLifecycleTracker.from_json(
        '{"storeName": "factory"}',
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
        clock=ManualClock(NOW_NS),
    )
    tracker.track(start()).complete()
    tracker.close()

    assert [span.start_time for span in telemetry.spans] == [NOW_NS]


def test_clock_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """The router never sees the error, the load is given back, and no value is invented."""
    telemetry, clock = InMemoryTelemetry(), StoppedClock()
    tracker = RequestLifecycleTracker(
        TrackerConfig(store_name="stopped"), telemetry.tracer_provider, clock=clock
    )
    tracked = tracker.track(start())
    clock.works = False
    tracked.chunk()
    tracked.reroute(aggregated("qwen-1"), reason="retry")
    tracked.complete()
    tracker.track(start("never started")).complete()

    assert tracker.load(endpoint("qwen-0")) == Load()
    assert telemetry.spans == []
    assert tracker.store.ignored["hook_error"] == 5
    assert caplog.messages == [
        f"{hook} failed; requests go on without telemetry"
        for hook in ("chunk", "reroute", "end", "start")
    ]
    clock.works = True
    tracker.track(start()).complete()
    assert [span.name for span in telemetry.spans] == ["route Qwen/Qwen3-8B"]
    tracker.close()
