"""The example router as users run it: processes under `opentelemetry-instrument`, and traffic."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from demo.environment import router_environment
from demo.fleet import MODEL, ROUTER, Engine, Fleet
from demo.processes import Processes
from demo.replay import Answer, replay
from demo.workload import (
    CONVERSATION_BLOCK_SIZE,
    PlannedRequest,
    at_speed,
    generate,
)

from otel_lifecycle import LifecycleRecord, read_records
from tests.waiting import eventually

AGGREGATED = ("aggregated", "aggregated")
DISAGGREGATED = ("leader", "prefill", "decode")

SPEED = 4.0


class Router:
    """A router in front of its engines.

    Attributes:
        engines: The engines.
        path: The record file.
    """

    def __init__(
        self, folder: Path, processes: Processes, roles: Sequence[str], environment: dict[str, str]
    ) -> None:
        self._folder = folder
        self._processes = processes
        self.path = folder / "records.jsonl"
        self._fleet = Fleet(processes, roles, CONVERSATION_BLOCK_SIZE, SPEED)
        self.engines: Sequence[Engine] = self._fleet.engines
        environment = router_environment({**os.environ, **environment}, self.path, None)
        asyncio.run(self._fleet.start(folder, self.path, environment))

    @property
    def url(self) -> str:
        """Its URL."""
        return self._fleet.url

    def send(self, requests: Sequence[PlannedRequest]) -> Counter[Answer]:
        """Send requests, each at its time; return how they ended."""
        return asyncio.run(self.replay(requests))

    async def replay(self, requests: Sequence[PlannedRequest]) -> Counter[Answer]:
        """The same in the background."""
        return await replay(self.url, MODEL, requests, lambda _: None, lambda _: None)

    def crash(self, engine: Engine) -> None:
        """Kill an engine without telling the router."""
        self._fleet.crash(engine)

    def kill(self) -> None:
        """Kill the router."""
        self._processes.kill(ROUTER)

    def records(self, count: int) -> list[LifecycleRecord]:
        """Wait for this many records, and return all."""
        eventually(lambda: len(self._read()) >= count, what=f"{count} records")
        records = self._read()
        assert len(records) == count
        return records

    def stop(self) -> None:
        """End the router as an update would."""
        self._processes.stop(ROUTER)

    def log(self) -> str:
        """Return the router's output so far."""
        return (self._folder / "logs" / f"{ROUTER}.log").read_text()

    def _read(self) -> list[LifecycleRecord]:
        return list(read_records(self.path)) if self.path.exists() else []


class Routers:
    """Makes routers, and stops them at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[Processes] = []

    def start(self, roles: Sequence[str] = AGGREGATED, **environment: str) -> Router:
        """Start a router and its engines.

        Args:
            roles: Roles of the engines.
            environment: The router's variables in addition to the demo's.
        """
        folder = self._folder / f"router-{len(self._processes)}"
        (folder / "logs").mkdir(parents=True)
        processes = Processes(folder / "logs")
        self._processes.append(processes)
        return Router(folder, processes, roles, environment)

    def stop(self) -> None:
        """Ends all that runs."""
        for processes in self._processes:
            processes.stop()


def requests(count: int, seed: int = 0, prefix: str = "") -> list[PlannedRequest]:
    """Conversations in which some clients leave."""
    planned = at_speed(generate(count, seed), SPEED)
    return [replace(request, request_id=prefix + request.request_id) for request in planned]
