"""Fixtures: in-memory telemetry, and trackers that are closed when the test ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from otel_lifecycle import (
    Clock,
    LifecycleRecord,
    PersistenceConfig,
    RequestLifecycleTracker,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.testing import InMemoryTelemetry, ManualClock, span_as_dict
from tests.rights import guarded
from tests.routes import NOW_NS

if TYPE_CHECKING:  # of the extra `browser`, which the default run does without
    from playwright.sync_api import Browser

# A mutant is caught by any example that fails; looking for the smallest takes a minute.
settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], deadline=None)
# A machine that is busy with other things is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

__all__ = ["guarded"]

_CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Bench:
    """A tracker with its telemetry, its record file, and a manual clock."""

    def __init__(
        self, path: Path, sampler: Sampler, clock: Clock | None = None, **settings: Any
    ) -> None:
        self.path = path
        self.clock = ManualClock(NOW_NS)
        self.telemetry = InMemoryTelemetry(
            sampler, {"service.name": "router", "service.instance.id": "router-0"}
        )
        settings.setdefault("store_name", str(path))
        config = TrackerConfig(
            persistence=PersistenceConfig(enabled=True, output_path=str(path)), **settings
        )
        self.tracker = RequestLifecycleTracker(
            config,
            self.telemetry.tracer_provider,
            self.telemetry.meter_provider,
            clock or self.clock,
        )

    @property
    def records(self) -> list[LifecycleRecord]:
        """The current records in the file."""
        assert self.tracker.flush(timeout=30)
        return list(read_records(self.path))

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The exported spans without ids; start, events and end in milliseconds."""
        self.tracker.flush(timeout=30)
        return [{**span_as_dict(span), "at": moments(span)} for span in self.telemetry.spans]

    def close(self) -> None:
        self.tracker.close()
        self.telemetry.shutdown()


def moments(span: ReadableSpan) -> list[float]:
    """Return start, events and end of a span, in milliseconds since a bench's clock began."""
    times = (span.start_time, *(event.timestamp for event in span.events), span.end_time)
    return [(time - NOW_NS) / 1e6 for time in times if time is not None]


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make benches, each with its own record file."""
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "Chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_CHROMIUM_FLAGS)
        yield browser
        browser.close()
