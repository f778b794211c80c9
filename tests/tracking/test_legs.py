"""The calls that a router reports at the end of a request, in record and span."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_lifecycle import Leg, LegOutcome, LegRole, RequestCompletion
from tests.conftest import Bench
from tests.routes import NOW_NS, endpoint, start
from tests.tracking.expected import record, timestamp

PREFILL = Leg(
    LegRole.PREFILL,
    endpoint("qwen-0"),
    NOW_NS,
    NOW_NS + 20_000_000,
    LegOutcome.COMPLETED,
)
DECODE = Leg(LegRole.DECODE, endpoint("qwen-1"), NOW_NS + 30_000_000)
PREFILL_LINE = {
    "role": "prefill",
    "endpoint": "pod://llm/qwen-0",
    "startedAt": timestamp(0),
    "endedAt": timestamp(20),
    "outcome": "completed",
}
DECODE_LINE = {
    "role": "decode",
    "endpoint": "pod://llm/qwen-1",
    "startedAt": timestamp(30),
    "endedAt": None,
    "outcome": None,
}


def told(bench: Bench, legs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the record of a request with these calls, and their span attributes."""
    bench.tracker.track(start()).end(RequestCompletion(legs=legs))
    assert bench.tracker.flush(timeout=30)
    (line,) = map(json.loads, bench.path.read_text("utf-8").splitlines())
    attributes = bench.spans[0]["attributes"]
    return line, {
        name.removeprefix("llm_router.legs."): value
        for name, value in attributes.items()
        if name.startswith("llm_router.legs")
    }


def test_several(bench: Bench) -> None:
    """Each call is in the record, and on the span in one array per field."""
    line, attributes = told(bench, [PREFILL, DECODE])

    assert line == {**record(), "legs": [PREFILL_LINE, DECODE_LINE]}
    assert attributes == {
        "role": ["prefill", "decode"],
        "endpoint": ["pod://llm/qwen-0", "pod://llm/qwen-1"],
        "start": [0.0, 0.03],
        "end": [0.02, -1.0],
        "outcome": ["completed", ""],
    }


@pytest.mark.parametrize(
    "legs",
    [
        (),
        [PREFILL],
        None,
        5,
        "ab",
        [None, 1, PREFILL],
        [PREFILL, Leg([], endpoint("qwen-1"), NOW_NS)],  # type: ignore[arg-type]
        [PREFILL, Leg("router", endpoint("qwen-1"), NOW_NS)],  # type: ignore[arg-type]
        [PREFILL, Leg(LegRole.DECODE, None, NOW_NS)],  # type: ignore[arg-type]
        [PREFILL, Leg(LegRole.DECODE, endpoint("qwen-1"), -1)],
        [PREFILL, Leg(LegRole.DECODE, endpoint("qwen-1"), 1 << 63)],
        [PREFILL, Leg(LegRole.DECODE, endpoint("qwen-1"), 1.5)],  # type: ignore[arg-type]
    ],
    ids=lambda legs: type(legs).__name__,
)
def test_one_or_none(bench: Bench, legs: Any) -> None:
    """A single call is shown only by the route; invalid calls are left out."""
    assert told(bench, legs) == (record(), {})


def test_made_safe(bench: Bench) -> None:
    """Roles and outcomes may be text; an end before the start becomes the start."""
    odd = Leg("decode", endpoint("qwen-1"), NOW_NS + 30_000_000, NOW_NS, "won")  # type: ignore[arg-type]
    line, _ = told(bench, (PREFILL, odd))

    assert line == {
        **record(),
        "legs": [PREFILL_LINE, {**DECODE_LINE, "endedAt": timestamp(30)}],
    }


def test_epoch(bench: Bench) -> None:
    """A call may have begun when Unix time did."""
    early = Leg(LegRole.PREFILL, endpoint("qwen-0"), 0, 0, LegOutcome.COMPLETED)
    epoch = "1970-01-01T00:00:00.000000000Z"
    line, _ = told(bench, [early, DECODE])

    assert line["legs"] == [{**PREFILL_LINE, "startedAt": epoch, "endedAt": epoch}, DECODE_LINE]


def test_many(bench: Bench) -> None:
    """Only the first of very many calls are kept."""
    line, attributes = told(bench, [PREFILL] * 300)

    assert line == {**record(), "legs": [PREFILL_LINE] * 256}
    assert {name: len(column) for name, column in attributes.items()} == dict.fromkeys(
        ("role", "endpoint", "start", "end", "outcome"), 256
    )
