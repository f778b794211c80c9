"""The engines and the router of a demo: starting, killing and restarting them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import httpx

from demo.engines import MODEL, NAMESPACE, PREFILL_TOKENS_PER_SECOND, TPOT_MS, engine_names
from demo.processes import HOST, Processes
from otel_lifecycle.cli.errors import FAILED, CommandError

ROUTER = "router"

_CHUNK_SECONDS = 0.08  # between chunks, at any speed: each costs every process some work
_START_SECONDS = 60.0
_HEALTH_SECONDS = 5.0  # for one answer, before the server is asked again
_ADMIN_SECONDS = 30.0


@dataclass(frozen=True)
class Engine:
    """One engine process."""

    name: str
    role: str
    port: int

    def endpoint(self) -> dict[str, object]:
        """Its description for the router."""
        return {
            "name": self.name,
            "namespace": NAMESPACE,
            "pod": self.name,
            "address": HOST,
            "port": self.port,
            "role": self.role,
        }


class Fleet:
    """A router in front of engines, each a process.

    Args:
        processes: Runs them.
        roles: The role of each engine; see `engine_roles`.
        block_size: Tokens per KV-cache block.
        speed: Speed relative to real engines.
    """

    def __init__(
        self, processes: Processes, roles: Sequence[str], block_size: int, speed: float
    ) -> None:
        self._processes = processes
        self._block_size = block_size
        self._speed = speed
        self._router_port = processes.reserve_port()
        self.engines = [
            Engine(name, role, processes.reserve_port())
            for name, role in zip(engine_names(roles), roles, strict=True)
        ]

    @property
    def url(self) -> str:
        """The router's URL."""
        return f"http://{HOST}:{self._router_port}"

    @property
    def dispensable(self) -> Engine | None:
        """Return an engine that another one can replace, if there is any."""
        last = self.engines[-1]
        peers = [engine for engine in self.engines if engine.role == last.role]
        return last if len(peers) > 1 else None

    async def start(self, output: Path, records: Path, environment: Mapping[str, str]) -> None:
        """Start everything; return when everything answers.

        Args:
            output: The folder for the list of endpoints.
            records: The record file, from which the router's latency predictor learns.
            environment: The router's environment.
        """
        endpoints = output / "endpoints.json"
        endpoints.write_text(json.dumps([engine.endpoint() for engine in self.engines], indent=1))
        for engine in self.engines:
            self._start_engine(engine)
        await self._answering(*(f"http://{HOST}:{engine.port}" for engine in self.engines))
        router = [sys.executable, "-m", "hermes_router", "--mode", self._mode()]
        router += ["--port", str(self._router_port), "--endpoints", str(endpoints)]
        router += ["--training-records", str(records)]
        self._processes.start(ROUTER, [_instrument_script(), *router], _with_examples(environment))
        await self._answering(self.url)

    def crash(self, engine: Engine) -> None:
        """Kill an engine without telling the router."""
        self._processes.kill(engine.name)

    async def remove(self, engine: Engine) -> None:
        """Tell the router that an engine is gone."""
        async with _client(_ADMIN_SECONDS) as client:
            path = f"/admin/endpoints/{NAMESPACE}/{engine.name}"
            (await client.delete(self.url + path)).raise_for_status()

    async def bring_back(self, engine: Engine) -> None:
        """Start an engine again and tell the router."""
        self._start_engine(engine)
        await self._answering(f"http://{HOST}:{engine.port}")
        async with _client(_ADMIN_SECONDS) as client:
            response = await client.post(f"{self.url}/admin/endpoints", json=engine.endpoint())
            response.raise_for_status()

    def _mode(self) -> str:
        return "aggregated" if self.engines[0].role == "aggregated" else "pd"

    def _start_engine(self, engine: Engine) -> None:
        tokens_per_chunk = ceil(_CHUNK_SECONDS * self._speed * 1000 / TPOT_MS)
        options = {
            "--port": engine.port,
            "--name": engine.name,
            "--namespace": NAMESPACE,
            "--role": engine.role,
            "--model": MODEL,
            "--tpot-ms": TPOT_MS,
            "--prefill-tokens-per-second": PREFILL_TOKENS_PER_SECOND[self._block_size],
            "--block-size": self._block_size,
            "--time-scale": 1 / self._speed,
            "--tokens-per-chunk": tokens_per_chunk,
        }
        arguments = [str(part) for option in options.items() for part in option]
        self._processes.start(
            engine.name,
            [sys.executable, "-m", "engine_sim", *arguments],
            _with_examples(os.environ),
        )

    async def _answering(self, *urls: str) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        async with _client(_HEALTH_SECONDS) as client:
            for url in urls:
                while not await _is_healthy(client, url):
                    if asyncio.get_running_loop().time() > deadline:
                        raise CommandError(f"{url} did not answer in time", FAILED)
                    await asyncio.sleep(0.1)


def _client(timeout: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=timeout)


async def _is_healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health")).is_success
    except httpx.TransportError:
        return False


def _with_examples(environment: Mapping[str, str]) -> dict[str, str]:
    examples = Path(__file__).parents[1]
    path = [str(examples), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def _instrument_script() -> str:
    script = Path(sys.executable).with_name("opentelemetry-instrument")
    if not script.exists():
        raise CommandError(f"{script} is missing: pip install opentelemetry-instrumentation")
    return str(script)
