"""Real servers on real sockets, and a log of the director's calls."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import uvicorn
from engine_sim.app import create_app as create_engine
from engine_sim.config import EngineConfig
from hermes_router.app import create_app as create_router
from hermes_router.config import RouterConfig, parse_endpoint
from hermes_router.model import SchedulingResult, Usage
from starlette.types import ASGIApp

from tests.waiting import PATIENCE_SECONDS, eventually

# One client, because each makes an SSL context; no connection outlives its request.
HTTP = httpx.Client(timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_keepalive_connections=0))


class Server:
    """An application served from a thread."""

    def __init__(self, app: ASGIApp) -> None:
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        listener = socket.create_server(("127.0.0.1", self.port))  # the server closes it
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        eventually(lambda: self._server.started)

    def begin_stop(self) -> None:
        """Tell the server to stop, without waiting."""
        self._server.should_exit = True
        self._reserved.close()

    def die(self) -> None:
        """Stop serving like `stop`; until that, nobody else gets the port, which refuses."""
        self._server.should_exit = True
        self._thread.join()

    def stop(self) -> None:
        """Stop serving; running requests are cancelled."""
        self.begin_stop()
        self._thread.join()


@dataclass(frozen=True)
class Attempt:
    """One `pre_request` call."""

    attempt: int
    retry_reason: str
    target: str


@dataclass(frozen=True)
class End:
    """One `response_body` call with `end_of_stream`."""

    cause: str | None
    error: BaseException | str | None
    served_by: str | None
    usage: Usage | None


@dataclass
class Calls:
    """The director's calls."""

    attempts: list[Attempt] = field(default_factory=list[Attempt])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    results: list[SchedulingResult] = field(default_factory=list[SchedulingResult])
    chunks: int = 0
    ends: list[End] = field(default_factory=list[End])
    rejections: list[str] = field(default_factory=list[str])
    dispatched: set[str] = field(default_factory=set[str])
    ended: Counter[str] = field(default_factory=Counter[str])

    def end(self) -> End:
        """Wait for the only end, and return it."""
        eventually(lambda: len(self.ends) == 1)
        return self.ends[0]


class Cluster:
    """A router and its engines."""

    def __init__(self) -> None:
        self.engines: dict[str, Server] = {}
        self.roles: dict[str, str] = {}
        self.router: Server | None = None

    def add_engine(self, name: str, role: str = "aggregated", **settings: Any) -> Server:
        """Start a simulated engine, fast by default."""
        config = replace(EngineConfig(name=name, role=role, time_scale=0.05), **settings)
        return self.add_app(name, create_engine(config), role)

    def add_app(self, name: str, app: ASGIApp, role: str = "aggregated") -> Server:
        """Start any application as an engine."""
        self.engines[name], self.roles[name] = Server(app), role
        return self.engines[name]

    def describe(self, name: str) -> dict[str, Any]:
        """Return the endpoint description of an engine."""
        engine = self.engines[name]
        return {
            "name": name,
            "namespace": "demo",
            "address": "127.0.0.1",
            "port": engine.port,
            "role": self.roles[name],
        }

    def start_router(self, **settings: Any) -> str:
        """Start the router with the current engines; return its URL."""
        endpoints = [parse_endpoint(self.describe(name)) for name in self.engines]
        config = replace(RouterConfig(scrape_interval=0.1), **settings)
        self.router = Server(create_router(config, endpoints))
        return self.router.url

    def break_engine(self, name: str, fault: str) -> None:
        """Switch on a fault."""
        url = f"{self.engines[name].url}/admin/fault"
        assert HTTP.post(url, json={"kind": fault}).status_code == 200

    def kill_engine(self, name: str) -> None:
        """Stop an engine, after its first scrape.

        Uvicorn forgets a connection that is made while it shuts down.
        """
        eventually(lambda: self.listing()[name]["metricsAgeSeconds"] is not None)
        self.engines[name].die()

    def loads(self) -> dict[str, tuple[int, int]]:
        """Return requests and tokens in flight by endpoint, as the router counts them."""
        items = self.listing().items()
        return {name: (item["inflightRequests"], item["inflightTokens"]) for name, item in items}

    def listing(self) -> dict[str, dict[str, Any]]:
        """Return the router's list of endpoints, by name."""
        assert self.router is not None
        listing = HTTP.get(f"{self.router.url}/admin/endpoints").json()["endpoints"]
        return {item["name"]: item for item in listing}

    def stop(self) -> None:
        """Stop the router, and then the engines, which end in their own time."""
        if self.router is not None:
            self.router.stop()
        for engine in self.engines.values():
            engine.begin_stop()
