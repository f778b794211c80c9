"""Records that follow a law which a predictor can learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from otel_lifecycle import LifecycleRecord, Outcome
from otel_lifecycle.model.features import PredictionInput
from tests.cli.records import aggregated, record

Change = Callable[[int, dict[str, Any]], None]


def records(count: int = 800, change: Change = lambda _, fields: None) -> Iterator[LifecycleRecord]:
    """Requests whose TTFT is the time to prefill what is ahead and what is new of their own."""
    chance = random.Random(7)
    for number in range(count):
        tokens, ahead = (
            chance.randrange(100, 20_000),
            chance.choice((0, 0, chance.randrange(40_000))),
        )
        score = chance.choice((0.0, 0.5, None))
        ttft = 5 + 0.02 * (ahead + tokens * (1 - (score or 0.0)))
        tpot = 10 + chance.random()
        inputs = PredictionInput(
            input_token_length=tokens,
            prefix_cache_score=score,
            server_ip=f"10.0.0.{number % 2}",
            prefill_tokens=ahead,
            inflight_tokens=ahead + chance.randrange(50_000),
        )
        fields: dict[str, Any] = {
            "outcome": Outcome.COMPLETED,
            "prediction_inputs": [inputs],
            "ttft_ms": round(ttft),
            "tpot_ms": tpot,
            "predicted": (ttft * chance.uniform(0.5, 1.5), 11.0),
        }
        change(number, fields)
        yield record(f"request-{number}", aggregated("qwen-0"), number * 50, e2e_ms=2_000, **fields)
