"""The real routers, if installed, each as a process in front of engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.examples.cluster import Server
from tests.instrumentation.exchanges import endpoint, metrics, paired, plain, streamed
from tests.instrumentation.instrumented_process import (
    closed_port,
    instrumented,
    served_by_any_fastapi,
)
from tests.instrumentation.test_generic import make_engine
from tests.matchers import MEASURED, TIMESTAMP
from tests.ports import free_port
from tests.tracking.expected import latency

ASKED = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def add_engine() -> Iterator[Callable[[str], Server]]:
    """Start engines in another process than the router."""
    engines: list[Server] = []

    def add(name: str) -> Server:
        engines.append(Server(make_engine(name)))
        return engines[-1]

    yield add
    for engine in engines:
        engine.stop()


class ProductionStack:
    """The command line of the production stack's router."""

    def __init__(self, port: int, engines: dict[str, str], logic: str, *options: str) -> None:
        self.arguments = [
            *("-W", "ignore", "-m", "vllm_router.app"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--service-discovery", "static"),
            *("--static-backends", ",".join(engines)),
            *("--static-models", ",".join("m" for _ in engines)),
            *("--static-model-labels", ",".join(engines.values())),
            *("--engine-stats-interval", "1"),
            *("--routing-logic", logic),
            *options,
        ]


def has(module: str) -> bool:
    """Return whether a router is installed; imports its parent packages."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


needs_production_stack = pytest.mark.skipif(
    not has("vllm_router.routers.routing_logic"),
    reason="the production stack's router is on no registry",
)


@needs_production_stack
def test_production_stack_failover(add_engine: Callable[[str], Server], tmp_path: Path) -> None:
    """A stream by round robin, after an engine that is unreachable."""
    dead, engine, port = closed_port(), add_engine("engine"), free_port()
    # Round robin goes by the sorted URLs.
    first, second = sorted([dead, engine.url])
    router = ProductionStack(
        port,
        {first: "a", second: "b"},
        "roundrobin",
        "--max-instance-failover-reroute-attempts",
        "1",
    )
    with instrumented(router.arguments, port, tmp_path / "records.jsonl") as process:
        for _ in range(2):
            process.post(**ASKED)
        straight, failed_over = sorted(process.records(2), key=lambda record: record.attempt)

    known = {"policy": "RoundRobinRouter", "candidates": 2}
    reroute = {
        "at": TIMESTAMP,
        "from": dead.replace("http", "addr"),
        "to": engine.url.replace("http", "addr"),
        "reason": "aiohttp.client_exceptions.ClientConnectorError",
    }
    for record, changes in (
        (straight, {}),
        (failed_over, {"attempt": 2, "rerouted": [reroute]}),
    ):
        assert _without_metrics(plain(record)) == streamed(
            engine.url, **known, **served_by_any_fastapi(record), **changes
        )


@needs_production_stack
def test_production_stack_prefix_match(add_engine: Callable[[str], Server], tmp_path: Path) -> None:
    """A prompt sent a second time has a prefix-cache score."""
    engine, port = add_engine("engine"), free_port()
    router = ProductionStack(port, {engine.url: "a"}, "prefixaware")
    with instrumented(router.arguments, port, tmp_path / "records.jsonl") as process:
        for _ in range(2):
            process.post(**ASKED)
        records = process.records(2)

    assert [(record.policy, record.prefix_cache_score) for record in records] == [
        ("PrefixAwareRouter", 0.0),
        ("PrefixAwareRouter", 1.0),
    ]


@needs_production_stack
@pytest.mark.parametrize(
    ("logic", "policy", "candidates"),
    [
        ("disaggregated_prefill", "DisaggregatedPrefillRouter", None),
        ("disaggregated_prefill_orchestrated", "DisaggregatedPrefillOrchestratedRouter", 2),
    ],
)
def test_production_stack_prefill_decode(
    add_engine: Callable[[str], Server],
    tmp_path: Path,
    logic: str,
    policy: str,
    candidates: int | None,
) -> None:
    """Both PD modes give one route."""
    prefill, decode, port = add_engine("prefill"), add_engine("decode"), free_port()
    router = ProductionStack(
        port,
        {prefill.url: "prefill", decode.url: "decode"},
        logic,
        *("--prefill-model-labels", "prefill", "--decode-model-labels", "decode"),
    )
    with instrumented(router.arguments, port, tmp_path / "records.jsonl") as process:
        process.post(**ASKED)
        (record,) = process.records()

    assert plain(record) == paired(
        endpoint(prefill.url, metrics=metrics(0, 0, None)),
        endpoint(decode.url, metrics=metrics(0, 0, None)),
        policy=policy,
        candidates=candidates,
        **served_by_any_fastapi(record),
    )


@pytest.mark.parametrize(
    ("package", "mode"),
    [("sglang_router", "--pd-disaggregation"), ("vllm_router", "--vllm-pd-disaggregation")],
)
@pytest.mark.parametrize("fields", [ASKED, {}], ids=["stream", "whole"])
def test_mini_load_balancer(
    add_engine: Callable[[str], Server],
    tmp_path: Path,
    package: str,
    mode: str,
    fields: dict[str, Any],
) -> None:
    """Both engines get the same call concurrently, and their roles are known."""
    if not has(f"{package}.mini_lb"):
        pytest.skip(f"{package} is not installed")
    prefill, decode, port = add_engine("prefill"), add_engine("decode"), free_port()
    arguments = [
        *("-W", "ignore", "-m", f"{package}.launch_router", "--mini-lb", mode),
        *("--prefill", prefill.url, "--decode", decode.url),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with instrumented(arguments, port, tmp_path / "records.jsonl") as process:
        process.post(**fields)
        (record,) = process.records()

    changes: dict[str, Any] = {}
    if not fields:
        changes = {
            "streaming": False,
            "firstChunkAt": None,
            "actual": latency(MEASURED),
        }
    assert plain(record) == paired(
        prefill.url,
        decode.url,
        policy="MiniLoadBalancer",
        candidates=2,
        **served_by_any_fastapi(record),
        **changes,
    )


def _without_metrics(record: dict[str, Any]) -> dict[str, Any]:
    """Remove the metrics: an engine may not have been scraped in time."""
    record["selectedRoute"]["leader"].pop("metrics", None)
    return record
