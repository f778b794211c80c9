"""Scrapes one target repeatedly."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from otel_lifecycle.config.collection import CollectionConfig
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.state import engines
from otel_lifecycle.state.accelerators import DeviceReading, amd, dcgm, npu_exporter, npu_smi
from otel_lifecycle.state.fetch import Fetcher, ScrapeError
from otel_lifecycle.state.targets import Target

_logger = get_logger(__name__)

NEW = "new"
UP = "up"

_EXPORTERS = {"npu_exporter": npu_exporter.read, "dcgm": dcgm.read, "amd": amd.read}

Readings: TypeAlias = Sequence[DeviceReading]


class Watch:
    """The state of one target, and its last results.

    Attributes:
        target: The target.
        state: `new`, `up`, or the reason for a failure.
        ranks: The metrics of an engine, by rank.
        readings: The readings of an exporter.
        scraped_at: Time of these results, in seconds since the epoch; 0 before the first.
        lag: Delay of the last scrape, in seconds.
    """

    def __init__(self, target: Target, config: CollectionConfig) -> None:
        self.target = target
        self.state = NEW
        self.ranks = engines.Ranks()
        self.readings: Readings = ()
        self.scraped_at = 0.0
        self.lag = 0.0
        self._interval = config.interval.total_seconds()
        self._max_delay = max(self._interval, config.max_backoff.total_seconds())
        self._failures = 0

    async def run(
        self, fetcher: Fetcher, slots: asyncio.Semaphore, scraped: Callable[[Watch], None]
    ) -> None:
        """Scrape until cancelled.

        Args:
            fetcher: Fetches the URL.
            slots: Limits simultaneous scrapes.
            scraped: Called after each successful scrape.
        """
        clock = asyncio.get_running_loop().time
        due = clock()
        # Targets that start together are spread over an interval from their second scrape on.
        jitter = 0.5
        while True:
            await asyncio.sleep(max(0.0, due - clock()))
            async with slots:
                self.lag = clock() - due
                await self._scrape(fetcher, scraped)
            delay = self._delay() * random.uniform(1 - jitter, 1 + jitter)
            due = max(due + delay, clock())
            jitter = 0.1

    async def _scrape(self, fetcher: Fetcher, scraped: Callable[[Watch], None]) -> None:
        try:
            if self.target.source == "npu_smi":
                self._read(await self._run_command())
            else:
                target = self.target
                self._read(await fetcher.read(target.url, target.authorization_file))
            self._failures = 0
            self._set_state(UP)
            scraped(self)
        except ScrapeError as error:
            self._failures += 1
            self._set_state(error.state, str(error))
        except Exception as error:
            self._failures += 1
            self._set_state("internal_error", f"internal_error: {error!r}")
            _logger.debug("scraping %s failed", self.target.place, exc_info=True)

    async def _run_command(self) -> Readings:
        try:
            return await asyncio.to_thread(npu_smi.read)
        except npu_smi.NpuSmiError as error:
            raise ScrapeError("command_failed", error) from None

    def _read(self, found: bytes | Readings) -> None:
        now = time.time()
        if self.target.source == "engine":
            assert isinstance(found, bytes)
            self.ranks = engines.read(found, now)
            if not self.ranks and not self.ranks.models:
                raise ScrapeError("no_metrics")
        else:
            if isinstance(found, bytes):
                found = _EXPORTERS[self.target.source](found, now)
            if not found:
                raise ScrapeError("no_devices")
            name = self.target.name
            self.readings = [msgspec.structs.replace(reading, target=name) for reading in found]
        self.scraped_at = now

    def _delay(self) -> float:
        """Return the interval, doubled for each further failure, up to a limit."""
        return min(self._max_delay, self._interval * 2 ** min(max(0, self._failures - 1), 16))

    def _set_state(self, state: str, why: str = UP) -> None:
        """Set the state, and log a change."""
        if state != self.state:
            level = logging.INFO if state == UP else logging.WARNING
            target = self.target
            _logger.log(level, "%s %s: %s (was %s)", target.source, target.place, why, self.state)
            self.state = state
