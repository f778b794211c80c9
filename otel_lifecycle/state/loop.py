"""Scrapes every target, and assigns the results to the store's endpoints."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Endpoint, EndpointMetrics
from otel_lifecycle.model.endpoint_state import Collected, EndpointState
from otel_lifecycle.model.timestamps import datetime_to_ns
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.state.accelerators import STALE_AFTER, npu_state
from otel_lifecycle.state.fetch import Fetcher
from otel_lifecycle.state.kubernetes import Pods
from otel_lifecycle.state.matching import Fleet
from otel_lifecycle.state.targets import TargetsFile, configured, merged
from otel_lifecycle.state.watch import Watch

_logger = get_logger(__name__)

_MAX_TICK_SECONDS = 1.0  # limit until new endpoints and stale values are noticed
_ALL_STALE = dict.fromkeys(STALE_AFTER, 0.0)


class CollectionLoop:
    """Collects on a separate event loop.

    Args:
        config: Settings.
        tls: TLS settings for https.
        endpoints: Returns the current endpoints, whose state is updated.
    """

    def __init__(
        self,
        config: TrackerConfig,
        tls: ssl.SSLContext,
        endpoints: Callable[[], list[EndpointState]],
    ) -> None:
        self._config = config.collection
        self._tls = tls
        self._list_endpoints = endpoints
        self._tick = min(self._config.interval.total_seconds(), _MAX_TICK_SECONDS)
        self._forget_after = self._config.forget_after.total_seconds()
        self._stale_after = config.stale_after.total_seconds() or float("inf")
        self._file = TargetsFile(self._config.targets_file)
        self._pods = Pods(self._config)
        self._explicit = configured(self._config.targets)
        self._slots = asyncio.Semaphore(self._config.concurrency)
        self._tasks: dict[Watch, asyncio.Task[None]] = {}
        self._endpoints: list[tuple[EndpointState, Endpoint]] = []
        self._known_pods: Mapping[str, object] = {}
        self._fleet = Fleet((), {})
        self._failed = False
        self._matched: dict[Watch, set[EndpointState]] = {}

    async def run(self, stopped: asyncio.Event) -> None:
        """Scrape until stopped; start without earlier results, as a forked child must."""
        self._tasks, self._matched = {}, {}
        for state in self._list_endpoints():
            state.forget_scrapes()
        self._slots = asyncio.Semaphore(self._config.concurrency)
        async with Fetcher(
            self._tls,
            timeout=self._config.timeout.total_seconds(),
            concurrency=self._config.concurrency,
            max_bytes=self._config.max_response_bytes,
        ) as fetcher:
            pods = asyncio.create_task(self._pods.run())
            try:
                while not stopped.is_set():
                    try:
                        self._refresh(fetcher)
                    except Exception:
                        level = logging.DEBUG if self._failed else logging.ERROR
                        self._failed = True
                        _logger.log(level, "cannot refresh the targets; will retry", exc_info=True)
                    with suppress(asyncio.TimeoutError, TimeoutError):
                        await asyncio.wait_for(stopped.wait(), self._tick)
            finally:
                tasks = [pods, *self._tasks.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def targets(self) -> Mapping[tuple[str, str], int]:
        """Return the number of targets by source and state; thread-safe."""
        return Counter((watch.target.source, watch.state) for watch in list(self._tasks))

    @property
    def lag(self) -> float:
        """The largest current delay of a scrape, in seconds; thread-safe."""
        return max((watch.lag for watch in list(self._tasks)), default=0.0)

    def _refresh(self, fetcher: Fetcher) -> None:
        """Follow changes of endpoints and targets, and update states that were not scraped."""
        states, pods = self._list_endpoints(), self._pods.by_address
        # Both: an endpoint that left and came back has a new state.
        endpoints = [(state, state.endpoint) for state in states]
        explicit = [*self._explicit, *self._file.read(), *self._pods.exporters]
        targets = merged(explicit, (endpoint for _, endpoint in endpoints), self._config)
        for watch in list(self._tasks):
            if targets.get(watch.target.key) == watch.target:
                del targets[watch.target.key]
            else:
                self._tasks.pop(watch).cancel()
                self._matched.pop(watch, None)
        if endpoints != self._endpoints or pods is not self._known_pods:
            self._endpoints, self._known_pods = endpoints, pods
            self._fleet = Fleet(states, pods)
            for watch in self._tasks:
                if watch.scraped_at:
                    self._scraped(watch)
        for target in targets.values():
            watch = Watch(target, self._config)
            self._tasks[watch] = asyncio.create_task(watch.run(fetcher, self._slots, self._scraped))
        now = time.time()
        for state in states:
            if state.judged_at and now - state.judged_at > 1.5 * self._tick:
                self._judge(state, now)

    def _scraped(self, watch: Watch) -> None:
        """Assign the results of a scrape to their endpoints."""
        now = time.time()
        target, models = watch.target, watch.ranks.models
        by_model = {model: self._fleet.metrics(target, ranks) for model, ranks in models.items()}
        for state, metrics in self._fleet.metrics(target, watch.ranks).items():
            state.scraped_metrics = metrics
            state.scraped_models = {
                model: found[state] for model, found in by_model.items() if state in found
            }
            self._judge(state, now)
        devices = self._fleet.devices(watch.target, watch.readings)
        for state in self._matched.get(watch, set()) - devices.keys():
            state.readings.pop(watch, None)
            self._judge(state, now)
        for state, readings in devices.items():
            state.readings[watch] = readings
            self._judge(state, now)
        self._matched[watch] = set(devices)

    def _judge(self, state: EndpointState, now: float) -> None:
        """Publish an endpoint's state, by replacing one reference."""
        state.judged_at = now
        metrics = state.scraped_metrics
        if metrics is not None and self._is_forgotten(_seconds(metrics), now):
            metrics = state.scraped_metrics = None
            state.scraped_models = {}
        for watch in list(state.readings):
            if watch not in self._tasks or self._is_forgotten(watch.scraped_at, now):
                del state.readings[watch]
        readings = [reading for group in state.readings.values() for reading in group]
        npu = None
        if readings:
            scraped_at = max(watch.scraped_at for watch in state.readings)
            is_silent = now - scraped_at > self._stale_after
            npu = npu_state(readings, now=now, stale_after=_ALL_STALE if is_silent else STALE_AFTER)
        state.collected = Collected(
            metrics,
            npu,
            any(reading.kind == "gpu" for reading in readings),
            round(now * 1e9),
            state.scraped_models,
        )

    def _is_forgotten(self, moment: float, now: float) -> bool:
        return not 0 <= now - moment <= self._forget_after


def _seconds(metrics: EndpointMetrics) -> float:
    moment = metrics.update_time
    return 0.0 if moment is None else datetime_to_ns(moment) / 1e9
