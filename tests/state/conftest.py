"""Fixtures: sites to scrape, a bench that collects, and a clock for what becomes old."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from otel_lifecycle import Clock, Endpoint, LifecycleRecord, RequestStart, Route, RouteEndpoint
from otel_lifecycle.config.collection import CollectionConfig
from otel_lifecycle.runtime.clock import SystemClock
from tests.conftest import Bench
from tests.state.servers import Site


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    """Make sites that stop when the test ends."""
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(**options))
        return sites[-1]

    yield make
    for site in sites:
        site.stop()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site."""
    return make_site()


@pytest.fixture
def collecting(make_bench: Callable[..., Bench]) -> Callable[..., Bench]:
    """Make benches that collect twenty times per second, and wait for a busy machine."""

    def make(stale_after: str = "10m", clock: Clock | None = None, **settings: Any) -> Bench:
        settings = {"interval": "50ms", "max_backoff": "50ms", "timeout": "60s", **settings}
        return make_bench(
            clock=clock or SystemClock(),  # collected values keep their real age
            stale_after=stale_after,
            close_timeout="60s",
            collection=CollectionConfig(enabled=True, **settings),
        )

    return make


class LaterClock:
    """The machine's clocks, which a test puts forward."""

    def __init__(self) -> None:
        self._ahead_ns = 0

    def put_forward(self, minutes: int) -> None:
        """Let time pass."""
        self._ahead_ns += minutes * 60_000_000_000

    def wall_ns(self) -> int:
        return time.time_ns() + self._ahead_ns

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + self._ahead_ns

    def time(self) -> float:
        """Return Unix seconds."""
        return self.wall_ns() / 1e9


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> LaterClock:
    """The clock of what is collected; a bench has to be given it as well."""
    clock = LaterClock()
    for module in ("loop", "watch"):
        monkeypatch.setattr(f"otel_lifecycle.state.{module}.time", SimpleNamespace(time=clock.time))
    return clock


def endpoint_of(site: Site, pod: str = "qwen-0") -> Endpoint:
    """The endpoint of an engine."""
    return Endpoint("llm", pod, "127.0.0.1", str(site.port))


def request(bench: Bench, endpoint: RouteEndpoint | Endpoint) -> LifecycleRecord:
    """Send a request to an endpoint; return its record."""
    if isinstance(endpoint, Endpoint):
        endpoint = RouteEndpoint(endpoint)
    start = RequestStart("request", Route(endpoint), input_tokens=8, prefix_cache_score=0.0)
    with bench.tracker.track(start) as tracked:
        tracked.complete(output_tokens=2)
    return bench.records[-1]


def reasons(record: LifecycleRecord) -> dict[str, str]:
    """Return why each missing feature is missing."""
    return {one.feature: one.reason.value for one in record.missing_feature_reasons}
