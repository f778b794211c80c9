"""The routers that are measured, as users start them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from benchmarks.sink import Sink
from benchmarks.zero_code.client import KEY
from benchmarks.zero_code.engine import EVENTS, PAUSE_SECONDS
from benchmarks.zero_code.processes import ROOT, started
from tests.ports import free_port

UNINSTRUMENTED = "uninstrumented"
ZERO_CODE = "zero code"
APART = "zero code, a process of its own writes"
FLOOR = "one empty SDK span, by hand"
CONTRIB = "OpenTelemetry's instrumentations"
OWN = "its own tracing"
OURS = (ZERO_CODE, APART)

BY_EVENT = "streams, event by event"
AT_ONCE = "streams, all events at once"
WHOLE = "whole answers"
PAIR = "streams through prefill and decode"

_ATTEMPTS = 4
ENVIRONMENTS = ROOT / ".cache" / "routers"
_ASKED: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": EVENTS,
}


class Surroundings(NamedTuple):
    """What a router runs among.

    Attributes:
        engines: URLs of two engines.
        sink: Where telemetry is sent.
        folder: For its files; one for each variant.
    """

    engines: tuple[str, str]
    sink: Sink
    folder: Path

    @property
    def records(self) -> Path:
        """The record file."""
        return self.folder / "records.jsonl"


class Served(NamedTuple):
    """A running router: the first of its processes, and its port."""

    process: subprocess.Popen[bytes]
    port: int


class Program:
    """A router.

    Args:
        python: The interpreter of its environment; by default one that `make bench` installs.
        cwd: The folder whose modules it runs.
    """

    title: ClassVar[str]
    distribution: ClassVar[str]
    path: ClassVar[str] = "/v1/chat/completions"
    variants: ClassVar[Sequence[str]] = (UNINSTRUMENTED, ZERO_CODE)
    kinds: ClassVar[Sequence[str]] = (BY_EVENT, AT_ONCE, WHOLE)
    cost: ClassVar[float] = 1.0  # to the lean router's, about

    def __init__(self, python: Path | None = None, cwd: Path = ROOT) -> None:
        self.python = python or ENVIRONMENTS / self.environment / "bin" / "python"
        self.cwd = cwd

    @property
    def environment(self) -> str:
        """The name of its environment, and of the file with its requirements."""
        return self.distribution

    def missing(self) -> str:
        """Return why it cannot be run; empty if it can."""
        if self.python.exists():
            return ""
        target = f".cache/routers/{self.environment}/.ready"
        return f"its packages could not be installed (`make {target}`)"

    def version(self) -> str:
        """Return the version that is run."""
        code = f"import importlib.metadata as m; print(m.version({self.distribution!r}), end='')"
        return subprocess.run(
            [self.python, "-c", code], capture_output=True, text=True, check=True
        ).stdout

    def body(self, kind: str) -> dict[str, Any]:
        """Return one request."""
        if kind == WHOLE:
            return _ASKED
        asked = {**_ASKED, "stream": True, "stream_options": {"include_usage": True}}
        return asked if kind == AT_ONCE else {**asked, "user": "steady"}

    def command(self, port: int, variant: str, around: Surroundings) -> Sequence[str]:
        """Return its command line, without the launcher."""
        raise NotImplementedError

    @contextmanager
    def running(self, variant: str, around: Surroundings) -> Iterator[Served]:
        """Start it."""
        port = free_port()
        command = [*self.launcher(variant), *self.command(port, variant, around)]
        log = around.folder / "log"
        with started(command, self.settings(variant, around), log, cwd=self.cwd) as process:
            yield Served(process, port)

    def launcher(self, variant: str) -> list[str]:
        """Return what is put before its command."""
        if variant in (UNINSTRUMENTED, OWN):
            return []
        return [str(self.python.with_name("opentelemetry-instrument")), "--"]

    def settings(self, variant: str, around: Surroundings) -> dict[str, str]:
        """Return the variables that a user sets."""
        if variant in (UNINSTRUMENTED, OWN):
            return {}
        writer = {"OTEL_LIFECYCLE_WRITER": "process"} if variant == APART else {}
        return writer | {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRIC_EXPORT_INTERVAL": "5000",  # so that rounds have some
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{around.sink.url}/{around.folder.name}",
            "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(around.records),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(_disabled(variant)),
        }


def _disabled(variant: str) -> Iterator[str]:
    if variant != CONTRIB:
        yield from ("aiohttp-client", "asgi", "fastapi", "httpx", "starlette")
    if variant not in OURS:
        entries = importlib.metadata.distribution("otel-lifecycle").entry_points
        yield from (each.name for each in entries.select(group="opentelemetry_instrumentor"))


class Lean(Program):
    """Starlette and aiohttp, and nothing else to do: the share of tracing is at its largest."""

    title = "lean router (Starlette, aiohttp)"
    distribution = "starlette"
    variants = (UNINSTRUMENTED, ZERO_CODE, APART, FLOOR, CONTRIB)
    kinds = (BY_EVENT, AT_ONCE, WHOLE, PAIR)

    @property
    def environment(self) -> str:
        return "lean"

    def body(self, kind: str) -> dict[str, Any]:
        return super().body(kind) | ({"model": "pd"} if kind == PAIR else {})

    def command(self, port: int, variant: str, around: Surroundings) -> Sequence[str]:
        module = (
            "benchmarks.zero_code.floor" if variant == FLOOR else "tests.routers.generic_router"
        )
        return [
            *(str(self.python), "-m", module, str(port), *around.engines),
            *("--framework", "starlette", "--upstream", "aiohttp", "--patience", "60"),
        ]


class ProductionStack(Program):
    """vLLM's production stack, from the checkout that `PRODUCTION_STACK` names."""

    title = "vLLM production stack"
    distribution = "fastapi"
    variants = (UNINSTRUMENTED, ZERO_CODE, OWN)
    logic: ClassVar[Sequence[str]] = ("roundrobin",)
    cost = 3.0

    @property
    def environment(self) -> str:
        return "production_stack"

    @property
    def _source(self) -> Path:
        return Path(os.environ.get("PRODUCTION_STACK", ""), "src")

    def missing(self) -> str:
        if not (self._source / "vllm_router" / "app.py").exists():
            return (
                "its source is on no registry; give the path of a checkout of "
                "vllm-project/production-stack as `PRODUCTION_STACK`"
            )
        return super().missing()

    def version(self) -> str:
        checkout = self._source.parent
        if not (checkout / ".git").exists():
            return ""
        command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def command(self, port: int, variant: str, around: Surroundings) -> Sequence[str]:
        traced = ("--otel-endpoint", around.sink.address) if variant == OWN else ()
        return [
            *(str(self.python), "-W", "ignore", "-m", "vllm_router.app"),
            *("--host", "127.0.0.1", "--port", str(port), "--service-discovery", "static"),
            *("--static-backends", ",".join(around.engines), "--static-models", "m,m"),
            *("--static-model-labels", "prefill,decode", "--log-level", "warning"),
            *("--routing-logic", *self.logic, *traced),
        ]

    def settings(self, variant: str, around: Surroundings) -> dict[str, str]:
        return super().settings(variant, around) | {"PYTHONPATH": str(self._source)}


class ProductionStackPair(ProductionStack):
    """The same with its disaggregated prefill."""

    title = "vLLM production stack (P/D)"
    logic = (
        "disaggregated_prefill",
        *("--prefill-model-labels", "prefill", "--decode-model-labels", "decode"),
    )
    kinds = (PAIR,)
    cost = 5.0


class LiteLLM(Program):
    """LiteLLM's proxy."""

    title = "LiteLLM proxy"
    distribution = "litellm"
    variants = (UNINSTRUMENTED, ZERO_CODE, OWN)
    cost = 8.0

    def command(self, port: int, variant: str, around: Surroundings) -> Sequence[str]:
        config = {
            "model_list": [
                {
                    "model_name": "m",
                    "litellm_params": {
                        "model": "openai/m",
                        "api_base": f"{url}/v1",
                        "api_key": "none",
                    },
                }
                for url in around.engines
            ],
            "litellm_settings": {"callbacks": ["otel"] if variant == OWN else []},
        }
        path = around.folder / "config.yaml"
        path.write_text(json.dumps(config), "utf-8")
        litellm = self.python.with_name("litellm")
        return [*(str(litellm), "-c", str(path)), "--host", "127.0.0.1", "--port", str(port)]

    def settings(self, variant: str, around: Surroundings) -> dict[str, str]:
        # Otherwise it asks for prices over the network.
        settings = super().settings(variant, around) | {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MASTER_KEY": KEY,
        }
        if variant == OWN:
            settings |= {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "otlp_http",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"{around.sink.url}/{around.folder.name}",
                "LITELLM_OTEL_INTEGRATION_ENABLE_METRICS": "true",
            }
        return settings


class RayServe(Program):
    """Ray Serve: a cluster for each variant; its application is the engine too."""

    title = "Ray Serve"
    distribution = "ray"
    path = "/v1/completions"
    cost = 6.0

    def body(self, kind: str) -> dict[str, Any]:
        asked = {"model": "m", "prompt": "hello", "max_tokens": EVENTS}
        if kind == WHOLE:
            return asked
        pause = PAUSE_SECONDS if kind == BY_EVENT else 0
        return {**asked, "stream": True, "chunks": EVENTS, "pause": pause}

    def settings(self, variant: str, around: Surroundings) -> dict[str, str]:
        return super().settings(variant, around) | {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_register_timeout_seconds": "180",
        }

    @contextmanager
    def running(self, variant: str, around: Surroundings) -> Iterator[Served]:
        log = around.folder / "log"
        for _ in range(_ATTEMPTS):  # Ray gives up after half a minute, which a busy machine exceeds
            cluster = free_port()
            log.write_bytes(b"")
            with started(self._head(cluster), self.settings(UNINSTRUMENTED, around), log) as head:
                while head.poll() is None and "Ray runtime started" not in log.read_text("utf-8"):
                    time.sleep(0.2)
                if head.poll() is None:
                    with self._application(variant, around, cluster) as port:
                        yield Served(head, port)
                    return
        raise RuntimeError(f"no cluster\n{log.read_text('utf-8').strip()}")

    @contextmanager
    def _application(self, variant: str, around: Surroundings, cluster: int) -> Iterator[int]:
        port, log = free_port(), around.folder / "log"
        program = [str(self.python), "-m", "benchmarks.zero_code.ray_program"]
        command = [*self.launcher(variant), *program, f"127.0.0.1:{cluster}", str(port)]
        settings = self.settings(variant, around)
        with started(
            command, settings, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as driver:
            assert driver.stdout is not None
            if driver.stdout.readline() != b"ready\n":
                raise RuntimeError(f"no application\n{log.read_text('utf-8').strip()}")
            yield port

    def _head(self, port: int) -> list[str]:
        options: Mapping[str, object] = {
            "port": port,
            "num-cpus": 2,
            "include-dashboard": "false",
            "include-log-monitor": "false",
            "node-ip-address": "127.0.0.1",
            "object-store-memory": 200_000_000,
            "ray-client-server-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
            "runtime-env-agent-port": free_port(),
            "metrics-export-port": free_port(),
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        ray = str(self.python.with_name("ray"))
        return [ray, "start", "--head", "--block", "--no-monitor", *arguments]


PROGRAMS: Mapping[str, type[Program]] = {
    "lean": Lean,
    "production-stack": ProductionStack,
    "production-stack-pair": ProductionStackPair,
    "litellm": LiteLLM,
    "ray": RayServe,
}
