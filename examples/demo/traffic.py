"""The course of a demo: requests, and one engine that leaves and comes back."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demo.engines import MODEL
from demo.fleet import Engine, Fleet
from demo.replay import Answer, replay
from demo.workload import Workload
from otel_lifecycle.cli.errors import FAILED, CommandError
from otel_lifecycle.cli.terminal import open_console

# As fractions of the workload's duration.
_CRASH_AT, _BACK_AT = 0.35, 0.65
_UNNOTICED, _UNNOTICED_SECONDS = 0.1, 1.0
# If more than a tenth of the requests is later than this, latencies tell of the machine.
_LATE_SHARE, _LATE_SECONDS = 0.1, 0.25


class Traffic:
    """Sends a workload to a fleet and shows the progress."""

    def __init__(self, fleet: Fleet, workload: Workload) -> None:
        self._fleet = fleet
        self._workload = workload
        self._in_flight = 0
        self._late_seconds: list[float] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[in_flight]} in flight"),
            TimeElapsedColumn(),
            console=open_console(),
        )
        self._task = self._progress.add_task(
            "requests", total=len(workload.requests), in_flight=0, start=False
        )

    async def run(self) -> Counter[Answer]:
        """Send all requests; return their results."""
        with self._progress:
            engines = ", ".join(engine.name for engine in self._fleet.engines)
            self._say(f"router at {self._fleet.url} in front of {engines}")
            self._progress.start_task(self._task)
            requests = replay(
                self._fleet.url, MODEL, self._workload.requests, self._sent, self._answered
            )
            engine = self._fleet.dispensable
            if engine is None or not self._workload.with_outage:
                answers = await requests
            else:
                answers, _ = await asyncio.gather(requests, self._outage(engine))
            self._tell_lateness()
            return answers

    def _tell_lateness(self) -> None:
        late = sorted(self._late_seconds)[int((1 - _LATE_SHARE) * len(self._late_seconds))]
        if late > _LATE_SECONDS:
            self._say(
                f"this machine cannot keep up: {100 * _LATE_SHARE:.0f} % of the requests were sent "
                f"more than {late:.1f} s late, so latencies are those of the machine; lower --speed"
            )

    async def _outage(self, engine: Engine) -> None:
        duration = self._workload.duration
        unnoticed = min(_UNNOTICED_SECONDS, _UNNOTICED * duration)
        try:
            await asyncio.sleep(_CRASH_AT * duration)
            self._say(f"{engine.name} crashes; the router finds out by itself")
            self._fleet.crash(engine)
            await asyncio.sleep(unnoticed)
            self._say(f"{engine.name} is removed from the router")
            await self._fleet.remove(engine)
            await asyncio.sleep((_BACK_AT - _CRASH_AT) * duration - unnoticed)
            self._say(f"{engine.name} is started again")
            await self._fleet.bring_back(engine)
            self._say(f"{engine.name} is added to the router")
        except httpx.HTTPError as error:
            raise CommandError(f"the router refuses {engine.name}: {error}", FAILED) from error

    def _say(self, text: str) -> None:
        self._progress.console.print(text)

    def _sent(self, late_seconds: float) -> None:
        self._late_seconds.append(late_seconds)
        self._in_flight += 1
        self._progress.update(self._task, in_flight=self._in_flight)

    def _answered(self, _: Answer) -> None:
        self._in_flight -= 1
        self._progress.update(self._task, advance=1, in_flight=self._in_flight)
