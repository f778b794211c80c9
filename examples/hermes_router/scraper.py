"""Fetches the metrics of every endpoint repeatedly."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import anyio
import httpx

from hermes_router.datastore import Datastore, Endpoint
from hermes_router.exposition import Sample, parse_exposition
from hermes_router.observations import engine_metrics, npu_state, served_models

TIMEOUT_SECONDS = 1.0
STALE_AFTER_INTERVALS = 4
FORGET_AFTER_INTERVALS = 20


class Scraper:
    """Updates the datastore's metrics; those of a silent endpoint become stale."""

    def __init__(self, datastore: Datastore, interval: float) -> None:
        self._datastore = datastore
        self._interval = interval
        self._client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)

    async def run(self) -> None:
        """Scrape until cancelled."""
        async with self._client:
            while True:
                # A connection cancelled while it is made would stay open: wait for it, briefly.
                with anyio.CancelScope(shield=True):
                    await self.scrape_all()
                await anyio.sleep(self._interval)

    async def scrape_all(self) -> None:
        """Scrape every endpoint once, concurrently."""
        async with anyio.create_task_group() as tasks:
            for endpoint in self._datastore:
                tasks.start_soon(self._scrape_engine, endpoint)
                tasks.start_soon(self._scrape_npus, endpoint)

    async def _scrape_engine(self, endpoint: Endpoint) -> None:
        samples = await self._fetch(endpoint, "/metrics")
        if samples is not None:
            endpoint.update_metrics(engine_metrics(samples, _now()))
            endpoint.models = served_models(samples)

    async def _scrape_npus(self, endpoint: Endpoint) -> None:
        samples = await self._fetch(endpoint, "/npu/metrics")
        now = _now()
        state = endpoint.npu
        if samples is not None:
            state = npu_state(samples, endpoint.metadata.host_port, now)
        age = 0.0 if state is None else (now - state.observation_time).total_seconds()
        if state is not None and age > STALE_AFTER_INTERVALS * self._interval:
            state = replace(state, data_status="stale")
        endpoint.npu = None if age > FORGET_AFTER_INTERVALS * self._interval else state

    async def _fetch(self, endpoint: Endpoint, path: str) -> list[Sample] | None:
        try:
            response = await self._client.get(f"http://{endpoint.metadata.host_port}{path}")
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        return list(parse_exposition(response.text)) if response.is_success else None


def _now() -> datetime:
    return datetime.now(timezone.utc)
