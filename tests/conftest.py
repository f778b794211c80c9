"""Fixtures: telemetry in memory, and trackers that are closed when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from otel_lifecycle import (
    LifecycleRecord,
    PersistenceConfig,
    RequestLifecycleTracker,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.testing import InMemoryTelemetry
from tests.rights import guarded

__all__ = ["guarded"]


class Bench:
    """A tracker, where its telemetry goes, and its record file."""

    def __init__(self, path: Path, sampler: Sampler, **settings: Any) -> None:
        self.path = path
        self.telemetry = InMemoryTelemetry(
            sampler, {"service.name": "router", "service.instance.id": "router-0"}
        )
        settings.setdefault("store_name", str(path))
        config = TrackerConfig(
            persistence=PersistenceConfig(enabled=True, output_path=str(path)), **settings
        )
        self.tracker = RequestLifecycleTracker(
            config, self.telemetry.tracer_provider, self.telemetry.meter_provider
        )

    @property
    def records(self) -> list[LifecycleRecord]:
        """The records in the file by now."""
        assert self.tracker.flush(timeout=30)
        return list(read_records(self.path))

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The exported spans by now, without ids and times."""
        self.tracker.flush(timeout=30)
        return self.telemetry.spans_as_dicts()

    def close(self) -> None:
        self.tracker.close()
        self.telemetry.shutdown()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches; each has a record file of its own."""
    benches: list[Bench] = []

    def make(sampler: Sampler = ALWAYS_ON, **settings: Any) -> Bench:
        bench = Bench(tmp_path / f"records-{len(benches)}.jsonl", sampler, **settings)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A bench with default settings."""
    return make_bench()
