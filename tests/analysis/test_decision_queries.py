"""The SQL of `docs/decisions.md`, on records whose answers are known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from otel_lifecycle import Candidate, LatencyPrediction, Route
from otel_lifecycle.analysis.tables import read_table
from tests.conftest import Bench
from tests.routes import bare, endpoint, start

PAGE = Path(__file__).parents[2] / "docs" / "decisions.md"
# For each request: TTFT, and of each endpoint the cached part and the predicted TTFT; the first is
# chosen.
REQUESTS = [
    (100.0, {"qwen-0": (0.5, 100.0), "qwen-1": (0.0, 120.0)}),
    (300.0, {"qwen-0": (0.75, 200.0), "qwen-1": (0.25, 150.0)}),
    (80.0, {"qwen-1": (0.0, 90.0), "qwen-0": (0.0, 70.0)}),
]


@pytest.fixture
def answers(bench: Bench) -> list[Any]:
    """What each of the three queries finds; one request more is on `qwen-0` all the time."""
    busy = bench.tracker.track(start("busy", Route(bare("qwen-0"))))
    for number, (ttft_ms, known) in enumerate(REQUESTS):
        candidates = [
            Candidate(
                endpoint(pod), prefix_cache_score=cached, prediction=LatencyPrediction(predicted)
            )
            for pod, (cached, predicted) in known.items()
        ]
        chosen = next(iter(known))
        request = start(f"request-{number}", Route(bare(chosen)))
        tracked = bench.tracker.track(msgspec.structs.replace(request, candidates=candidates))
        bench.clock.advance(ttft_ms)
        tracked.chunk()
        tracked.complete()
    bench.tracker.flush(timeout=30)
    database = duckdb.connect()
    database.register("requests", read_table(bench.path))
    view, *queries = re.findall(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    database.execute(view).fetchall()
    found = [database.execute(query).fetchall() for query in queries]
    busy.complete()  # until here it must not be garbage
    return found


def test_affinity_against_balance(answers: list[Any]) -> None:
    """Two requests went to the busier endpoint, one to the idle one."""
    assert answers[0] == [(False, 1, 0.0, 80.0), (True, 2, 0.63, 200.0)]


def test_avoided_endpoints(answers: list[Any]) -> None:
    """Each was passed over once although it was predicted to be fastest."""
    assert answers[1] == [("pod://llm/qwen-0", 3, 2, 1), ("pod://llm/qwen-1", 3, 1, 1)]


def test_latency_left_on_the_table(answers: list[Any]) -> None:
    """50 and 20 of the 480 milliseconds that the requests waited."""
    assert answers[2] == [("prefix+load", 3, 70.0, 14.6)]
