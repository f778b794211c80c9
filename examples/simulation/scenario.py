"""One simulated run: requests, engines and a policy in, a record file out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.workload import PlannedRequest
from engine_sim.config import EngineConfig
from hermes_router.predictor import LatencyPredictor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from otel_lifecycle import (
    PersistenceConfig,
    RequestLifecycleTracker,
    TrackerConfig,
)
from otel_lifecycle.analysis.exports.whole_file import whole_file
from simulation.fleet import Fleet, Routing
from simulation.router import SimulatedRouter
from simulation.virtual_time import VirtualClock, VirtualTimeLoop, run

SERVICE_NAME = "hermes-router-simulation"

_MOST_CANDIDATES = 64
_FLUSHED_RECORDS = 1_000


@dataclass(frozen=True)
class Scenario:
    """What is simulated; equal scenarios give equal records, byte by byte.

    Attributes:
        requests: The requests, by time.
        engines: Settings of the engines.
        routing: How the router decides.
    """

    requests: Sequence[PlannedRequest]
    engines: Sequence[EngineConfig]
    routing: Routing

    def run(self, records: Path, on_answer: Callable[[], None] = lambda: None) -> None:
        """Simulate, and write the record of every request.

        Args:
            records: The file; it appears when the run has ended.
            on_answer: Called after each request has ended.

        Raises:
            OSError: The file cannot be written.
        """
        with whole_file(records) as unfinished:
            loop = VirtualTimeLoop()
            clock = VirtualClock(loop)
            own = LatencyPredictor(unfinished)
            fleet = Fleet(self.engines, self.routing, self.routing.predictor or own)
            tracker = self._tracker(unfinished, clock)
            try:
                router = SimulatedRouter(fleet, tracker, own, clock)
                run(loop, router.run(self.requests, on_answer))
                if not tracker.flush():
                    raise OSError(f"{records}: records could not be written")
            finally:
                tracker.close()

    def _tracker(self, records: Path, clock: VirtualClock) -> RequestLifecycleTracker:
        instance = f"{self.routing.name}-{self.routing.seed}"
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": SERVICE_NAME, "service.instance.id": instance}),
            shutdown_on_exit=False,
            id_generator=_Ids(self.routing.seed),
        )
        config = TrackerConfig(
            store_name=SERVICE_NAME,
            decision_candidates=min(len(self.engines), _MOST_CANDIDATES),
            persistence=PersistenceConfig(
                enabled=True, output_path=str(records), flush_threshold=_FLUSHED_RECORDS
            ),
        )
        return RequestLifecycleTracker(config, provider, NoOpMeterProvider(), clock)


class _Ids(IdGenerator):
    """Ids of traces and spans that a seed determines."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1
