"""The simulation against the real stack: processes, sockets and time."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import fmean, median, stdev

import pytest

from otel_lifecycle import LifecycleRecord, read_records
from otel_lifecycle.analysis.policies.intervals import student_t
from otel_lifecycle.cli import main

REAL_RUNS = 5
REQUESTS = 60
SECONDS = 20


def write_trace(path: Path, seed: int) -> None:
    """Prompts of 2,000 to 20,000 tokens, the first block of which is often shared."""
    chance = random.Random(seed)
    arrivals = sorted(chance.uniform(0, SECONDS * 1000) for _ in range(REQUESTS))
    with path.open("w") as file:
        for number, timestamp in enumerate(arrivals):
            length = chance.randint(2_000, 20_000)
            blocks = [number * 100 + block for block in range(-(-length // 512))]
            blocks[0] = chance.randrange(4)
            row = {
                "timestamp": timestamp,
                "input_length": length,
                "output_length": chance.randint(40, 120),
                "hash_ids": blocks,
            }
            file.write(json.dumps(row) + "\n")


def medians(records: list[LifecycleRecord]) -> tuple[float, float]:
    """The median TTFT and TPOT, in milliseconds."""
    assert len(records) == REQUESTS
    ttfts = [record.actual.ttft_ms for record in records if record.actual.ttft_ms is not None]
    tpots = [record.actual.tpot_ms for record in records if record.actual.tpot_ms is not None]
    assert len(ttfts) == len(tpots) == REQUESTS
    return median(ttfts), median(tpots)


@pytest.mark.slow
def test_a_simulated_run_looks_like_a_real_one(tmp_path: Path) -> None:
    """Its median TTFT and TPOT lie where the 95 % interval of real runs expects another one.

    Or within 3 %: every timer of a real machine is a little late, and on a quiet one the interval
    is narrower than that.
    """
    real: list[tuple[float, float]] = []
    for seed in range(REAL_RUNS + 1):
        trace, folder = tmp_path / f"trace-{seed}.jsonl", tmp_path / f"run-{seed}"
        write_trace(trace, seed)
        if seed < REAL_RUNS:
            shared = ["--trace", str(trace), "--mode", "aggregated", "--speed", "1"]
            assert main(["demo", *shared, "--output", str(folder)]) == 0
            real.append(medians(list(read_records(folder / "records.jsonl"))))
    trace = tmp_path / f"trace-{REAL_RUNS}.jsonl"
    simulated = tmp_path / "simulated.jsonl"
    assert main(["simulate", "--trace", str(trace), "--output", str(simulated)]) == 0

    found = medians(list(read_records(simulated)))

    for values, value in zip(zip(*real, strict=True), found, strict=True):
        half = student_t(REAL_RUNS - 1) * stdev(values) * math.sqrt(1 + 1 / REAL_RUNS)
        assert abs(value - fmean(values)) <= max(half, 0.03 * fmean(values)), (values, value)
