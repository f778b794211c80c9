"""The router and its engines, without processes and sockets between them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from demo.engines import NAMESPACE, engine_names
from engine_sim.config import EngineConfig
from engine_sim.engine import Engine
from engine_sim.exposition import npu_values
from hermes_router.config import parse_endpoint
from hermes_router.datastore import Datastore
from hermes_router.director import Director
from hermes_router.endpoint import (
    EndpointEvent,
    EndpointEventType,
    EndpointMetadata,
    EndpointMetrics,
    NamespacedName,
    NPUState,
)
from hermes_router.observations import npu_state_of
from hermes_router.predictor import Predictor
from hermes_router.scheduler import Scheduler

_PORT = 8000


@dataclass(frozen=True)
class Routing:
    """How the router decides; see `Scheduler`.

    Attributes:
        predictor: Predicts in place of the router's own predictor.
    """

    policy: str
    explore: float
    seed: int
    predictor: Predictor | None = None

    @property
    def name(self) -> str:
        """The policy, and whether a trained model predicts."""
        return self.policy if self.predictor is None else f"{self.policy}-trained"


class Fleet:
    """A router's director and datastore, and the engines behind it.

    Args:
        configs: The engines; see `engine_configs`.
        routing: How the router decides.
        predictor: Predicts latencies for the router.
    """

    def __init__(
        self, configs: Sequence[EngineConfig], routing: Routing, predictor: Predictor
    ) -> None:
        self._datastore = Datastore()
        self._engines: dict[NamespacedName, Engine] = {}
        self._jitter = {config.name: random.Random(config.seed) for config in configs}
        for number, config in enumerate(configs, start=1):
            metadata = _metadata(config, number)
            event = EndpointEvent(EndpointEventType.ADD_OR_UPDATE, metadata)
            self._datastore.apply(event)
            self._engines[metadata.namespaced_name] = Engine(config)
        mode = "aggregated" if configs[0].role == "aggregated" else "pd"
        scheduler = Scheduler(
            self._datastore, mode, predictor, routing.policy, routing.explore, routing.seed
        )
        self.director = Director(self._datastore, scheduler)

    def engine(self, metadata: EndpointMetadata) -> Engine:
        """Return the engine of an endpoint."""
        return self._engines[metadata.namespaced_name]

    def scrape(self, now: datetime) -> None:
        """Tell the router the engines' current metrics, as its scraper would read them."""
        for endpoint in self._datastore:
            engine = self.engine(endpoint.metadata)
            endpoint.update_metrics(scraped_metrics(engine, now))
            endpoint.npu = scraped_npus(
                engine, self._jitter[engine.config.name], endpoint.metadata.host_port, now
            )


def engine_configs(roles: Sequence[str], block_size: int, **speed: float) -> list[EngineConfig]:
    """Return the settings of engines with these roles, all alike.

    Args:
        roles: The role of each engine.
        block_size: Tokens per KV-cache block.
        **speed: Other fields of `EngineConfig`.
    """
    shared: Mapping[str, object] = {"namespace": NAMESPACE, "block_size": block_size, **speed}
    return [
        EngineConfig(name=name, pod=name, role=role, seed=seed, **shared)  # pyright: ignore[reportArgumentType]
        for seed, (name, role) in enumerate(zip(engine_names(roles), roles, strict=True))
    ]


def scraped_metrics(engine: Engine, now: datetime) -> EndpointMetrics:
    """Return what a router reads in the `/metrics` of an engine, without writing and parsing it."""
    config, load = engine.config, engine.load
    return EndpointMetrics(
        update_time=now,
        max_active_models=0,
        running_requests_size=load.running,
        waiting_queue_size=load.waiting,
        kv_cache_usage_percent=load.kv_cache_usage,
        kv_cache_max_token_capacity=config.block_size * config.cache_blocks,
        cache_block_size=config.block_size,
        cache_num_blocks=config.cache_blocks,
    )


def scraped_npus(engine: Engine, jitter: random.Random, target: str, now: datetime) -> NPUState:
    """Return what a router reads in the metrics of an engine's chips."""
    chips = npu_values(engine.config, engine.load, jitter)
    return npu_state_of({str(chip): values for chip, values in enumerate(chips)}, target, now)


def _metadata(config: EngineConfig, number: int) -> EndpointMetadata:
    return parse_endpoint(
        {
            "name": config.name,
            "namespace": config.namespace,
            "pod": config.pod,
            "address": f"10.0.{number >> 8}.{number & 255}",
            "port": _PORT,
            "role": config.role,
        }
    )
