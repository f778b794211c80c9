"""Targets of latencies, and whether requests met them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from otel_lifecycle import SLO, Outcome, RequestCompletion, RequestStart
from tests.conftest import Bench
from tests.routes import aggregated, start
from tests.tracking.expected import answer

MakeBench = Callable[..., Bench]


def told(bench: Bench) -> dict[str, Any]:
    """The targets of the only record, which its span has too: milliseconds, and whether met."""
    (record,) = bench.records
    (span,) = bench.spans
    slo: dict[str, Any] = {} if record.slo is msgspec.UNSET else msgspec.to_builtins(record.slo)
    expected = {}
    for name, target in slo.items():
        expected[f"llm_router.slo.{name}.target"] = target["targetMillis"] / 1000
        if target["met"] is not None:
            expected[f"llm_router.slo.{name}.met"] = target["met"]
    attributes = span["attributes"].items()
    assert {key: value for key, value in attributes if ".slo." in key} == expected
    return {name: (target["targetMillis"], target["met"]) for name, target in slo.items()}


def counted(bench: Bench) -> dict[tuple[str, bool, str], float]:
    """The counter, by target, whether it was met, and model."""
    bench.tracker.flush(timeout=30)
    points = bench.telemetry.metrics().get("llm_router.slo.requests", {})
    return {
        (
            dict(attributes)["llm_router.slo.target"],
            dict(attributes)["llm_router.slo.met"],
            dict(attributes)["gen_ai.request.model"],
        ): value
        for attributes, value in points.items()
    }


def test_completed(make_bench: MakeBench) -> None:
    """A served stream is measured by each target, with its time in the queue."""
    bench = make_bench(slo="ttft=250ms,tpot=19ms,e2e=2800ms")
    arrived_ns = bench.clock.monotonic_ns()
    bench.clock.advance(10)
    answer(bench, bench.tracker.track(start(), arrived_ns=arrived_ns))

    assert told(bench) == {"ttft": (250, False), "tpot": (19, False), "e2e": (2800, True)}
    model = "Qwen/Qwen3-8B"
    assert counted(bench) == {
        ("ttft", False, model): 1,
        ("tpot", False, model): 1,
        ("e2e", True, model): 1,
    }


def test_at_the_target(make_bench: MakeBench) -> None:
    """A latency that equals its target meets it; it counts from the dispatch without an arrival."""
    bench = make_bench(slo="ttft=250ms,tpot=20ms,e2e=2790ms")
    answer(bench, bench.tracker.track(start()))

    assert told(bench) == {"ttft": (250, True), "tpot": (20, True), "e2e": (2790, True)}


def test_whole_answer(make_bench: MakeBench) -> None:
    """What was not measured is neither met nor missed, and not counted."""
    bench = make_bench(slo="ttft=1ms,tpot=1ms,e2e=5s")
    tracked = bench.tracker.track(RequestStart("r", aggregated(), "m", streaming=False))
    bench.clock.advance(100)
    tracked.complete(output_tokens=5)

    assert told(bench) == {"ttft": (1, None), "tpot": (1, None), "e2e": (5000, True)}
    assert counted(bench) == {("e2e", True, "m"): 1}


@pytest.mark.parametrize(
    ("outcome", "after_ms", "met"),
    [
        (Outcome.ERROR, 1, {"ttft": False, "tpot": False, "e2e": False}),
        (Outcome.EVICTED, 1, {"ttft": False, "tpot": False, "e2e": False}),
        (Outcome.CLIENT_DISCONNECT, 1, {"ttft": None, "tpot": None, "e2e": None}),
        (Outcome.CLIENT_DISCONNECT, 600, {"ttft": False, "tpot": None, "e2e": None}),
        (Outcome.SHUTDOWN, 40_000, {"ttft": False, "tpot": None, "e2e": False}),
    ],
)
def test_not_completed(
    make_bench: MakeBench, outcome: Outcome, after_ms: float, met: dict[str, bool | None]
) -> None:
    """A request that failed met no target; one that was broken off missed those that had passed."""
    bench = make_bench(slo="ttft=500ms,tpot=50ms,e2e=30s")
    tracked = bench.tracker.track(start())
    bench.clock.advance(after_ms)
    tracked.end(RequestCompletion(outcome=outcome))

    assert {name: is_met for name, (_, is_met) in told(bench).items()} == met


def test_disconnect_after_the_first_chunk(make_bench: MakeBench) -> None:
    """What was measured before the client left counts."""
    bench = make_bench(slo="ttft=500ms")
    tracked = bench.tracker.track(start())
    bench.clock.advance(100)
    tracked.chunk()
    bench.clock.advance(1_000)
    tracked.disconnect()

    assert told(bench) == {"ttft": (500, True)}


def test_rejected(make_bench: MakeBench) -> None:
    """A rejected request was not served: it met no target, however fast the rejection."""
    bench = make_bench(slo="ttft=500ms,e2e=30s")
    bench.tracker.reject(start(), "no_candidates")

    assert told(bench) == {"ttft": (500, False), "e2e": (30_000, False)}


@pytest.mark.parametrize(
    ("given", "headers", "targets", "invalid"),
    [
        (None, {}, {"ttft": 500}, 0),
        (
            None,
            {"x-slo-ttft-ms": "80", "x-llm-d-slo-tpot-ms": "12.5"},
            {"ttft": 80, "tpot": 12.5},
            0,
        ),
        (None, {"x-slo-ttft-ms": "0", "x-slo-tpot-ms": "soon"}, {"ttft": 500}, 0),
        (None, {"x-slo-ttft-ms": "-5", "x-slo-tpot-ms": "inf"}, {"ttft": 500}, 0),
        (SLO(ttft_ms=70, e2e_ms=9_000), {"x-slo-ttft-ms": "80"}, {"ttft": 70, "e2e": 9_000}, 0),
        (SLO(ttft_ms=float("nan"), e2e_ms=-1), {}, {"ttft": 500}, 2),
        ("no targets", {}, {"ttft": 500}, 0),
    ],
)
def test_whose_target(
    make_bench: MakeBench, given: Any, headers: dict[str, str], targets: Any, invalid: int
) -> None:
    """The program's target comes first, then a header's, then the one of the settings."""
    bench = make_bench(slo="llm-d,ttft=500ms")
    bench.tracker.track(RequestStart("r", aggregated(), "m", slo=given), headers).complete()

    assert {name: target for name, (target, _) in told(bench).items()} == targets
    assert bench.tracker.store.ignored["invalid_value"] == invalid


def test_targets_of_the_program_alone(bench: Bench) -> None:
    """They need no setting, and no header counts without one."""
    given = RequestStart("r", aggregated(), "m", slo=SLO(e2e_ms=5))
    bench.tracker.track(given, {"x-slo-ttft-ms": "80"}).complete()

    assert told(bench) == {"e2e": (5, True)}
