"""Adapters that observe one method, on doubles with the routers' modules and signatures."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from otel_lifecycle import Outcome
from otel_lifecycle.instrumentation.enriching import EnrichingInstrumentor
from otel_lifecycle.instrumentation.lmdeploy import LMDeployInstrumentor
from otel_lifecycle.instrumentation.skypilot import SkyPilotInstrumentor
from tests.instrumentation.exchanges import pick, picks
from tests.instrumentation.test_generic import Observed, endpoint_id
from tests.waiting import PATIENCE_SECONDS

DOUBLE = Path(__file__).parent / "doubles" / "choice_points"


def imported(name: str) -> Iterator[Any]:
    """Import a module of the double under the real one's name."""
    sys.path.insert(0, str(DOUBLE))
    yield importlib.import_module(name)
    sys.path.remove(str(DOUBLE))
    for loaded in [loaded for loaded in sys.modules if f"{name}.".startswith(f"{loaded}.")]:
        del sys.modules[loaded]


@pytest.fixture(scope="module")
def lmdeploy() -> Iterator[Any]:
    """LMDeploy's proxy."""
    yield from imported("lmdeploy.serve.proxy.proxy")


@pytest.fixture(scope="module")
def skypilot() -> Iterator[Any]:
    """SkyServe's policies."""
    yield from imported("sky.serve.load_balancing_policies")


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    """A generic instrumentation."""
    observed = Observed(tmp_path / "records.jsonl")
    yield observed
    observed.stop()


def adapted(observed: Observed, adapter: EnrichingInstrumentor) -> Iterator[EnrichingInstrumentor]:
    """An adapter together with the generic instrumentation."""
    adapter.instrument(
        tracer_provider=observed.telemetry.tracer_provider,
        meter_provider=observed.telemetry.meter_provider,
        store_name=str(observed.path),
        persistence_output_path=str(observed.path),
    )
    yield adapter
    adapter.uninstrument()


@pytest.fixture
def lmdeploy_adapter(observed: Observed, lmdeploy: Any) -> Iterator[EnrichingInstrumentor]:
    """LMDeploy's adapter."""
    yield from adapted(observed, LMDeployInstrumentor())


@pytest.fixture
def skypilot_adapter(observed: Observed, skypilot: Any) -> Iterator[EnrichingInstrumentor]:
    """SkyPilot's adapter."""
    yield from adapted(observed, SkyPilotInstrumentor())


async def forward(url: str, request: Request, **changes: Any) -> Response:
    """Pass on a request."""
    body = {**await request.json(), **changes}
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
        answer = await client.post(url + request.url.path, json=body)
    return Response(answer.content, answer.status_code, media_type="application/json")


@pytest.mark.usefixtures("lmdeploy_adapter")
def test_lmdeploy_hybrid(observed: Observed, lmdeploy: Any) -> None:
    """Policy and the number of nodes that serve the model are known."""
    engine = observed.add_engine("engine")
    manager = lmdeploy.NodeManager()
    manager.nodes = {
        "http://127.0.0.1:1": lmdeploy.Status(
            models=["m"], unfinished=6, latency=[1.0, 2.0], speed=2
        ),
        "http://127.0.0.1:2": lmdeploy.Status(models=["other"]),
        "http://127.0.0.1:3": lmdeploy.Status(lmdeploy.EngineRole.Prefill, ["m"]),
        engine.url: lmdeploy.Status(models=["m"], unfinished=1),
    }
    app = FastAPI()

    @app.post("/v1/completions")
    async def route(request: Request) -> Response:
        return await forward(manager.get_node_url((await request.json())["model"]), request)

    observed.serve(app)
    observed.post()

    record = observed.record()
    assert (record.outcome, record.policy, record.candidates, record.selected_endpoint) == (
        Outcome.COMPLETED,
        "min_expected_latency",
        2,
        endpoint_id(engine),
    )
    scores = {"min_expected_latency": -3.0, "min_observed_latency": -1.5}
    assert picks(record) == [
        pick(
            "leader",
            (engine.url, {"score": -0.5, "scores": {"min_expected_latency": -0.5}}),
            ("http://127.0.0.1:1", {"score": -3.0, "scores": scores}),
            rank=1,
            margin=2.5,
        )
    ]


@pytest.mark.usefixtures("lmdeploy_adapter")
def test_lmdeploy_dist_serve(observed: Observed, lmdeploy: Any) -> None:
    """The roles of the nodes identify the pair; its requests need no mark."""
    prefill, decode = observed.add_engine("prefill"), observed.add_engine("decode")
    roles, manager = lmdeploy.EngineRole, lmdeploy.NodeManager()
    manager.nodes = {
        prefill.url: lmdeploy.Status(roles.Prefill, ["m"]),
        decode.url: lmdeploy.Status(roles.Decode, ["m"]),
    }
    app = FastAPI()

    @app.post("/v1/completions")
    async def route(request: Request) -> Response:
        await forward(manager.get_node_url("m", roles.Prefill), request, max_tokens=1)
        return await forward(manager.get_node_url("m", roles.Decode), request)

    observed.serve(app)
    observed.post()

    record = observed.record()
    assert (record.outcome, record.attempt, record.rerouted) == (Outcome.COMPLETED, 1, [])
    assert (record.policy, record.candidates) == ("min_expected_latency", 2)
    assert [(one["role"], one["chosenRank"]) for one in picks(record)] == [
        ("prefill", 1),
        ("decode", 1),
    ]
    assert record.tracked_endpoints == [endpoint_id(prefill), endpoint_id(decode)]
    assert record.output_length == 8


@pytest.mark.usefixtures("skypilot_adapter")
def test_skypilot(observed: Observed, skypilot: Any) -> None:
    """Policy and the number of ready replicas are known; nothing without a replica."""
    engine = observed.add_engine("engine")
    policy = skypilot.LeastLoadPolicy()
    policy.load_map = {"http://127.0.0.1:1": 4, "http://127.0.0.1:2": 2}
    app = FastAPI()

    @app.post("/v1/completions")
    async def route(request: Request) -> Response:
        url = policy.select_replica(request)
        return JSONResponse({}, 503) if url is None else await forward(url, request)

    observed.serve(app)
    assert observed.post().status_code == 503
    policy.ready_replicas = [engine.url, "http://127.0.0.1:1", "http://127.0.0.1:2"]
    observed.post()

    rejected, completed = observed.records(2)
    assert (rejected.outcome, rejected.policy, rejected.candidates) == (Outcome.REJECTED, "", None)
    assert (completed.policy, completed.candidates) == ("LeastLoadPolicy", 3)
    assert completed.selected_endpoint == endpoint_id(engine)
    assert picks(completed) == [
        pick(
            "leader",
            (engine.url, {"score": 0.0, "scores": {"load": 0.0}}),
            ("http://127.0.0.1:2", {"score": -2.0, "scores": {"load": -2.0}}),
            ("http://127.0.0.1:1", {"score": -4.0, "scores": {"load": -4.0}}),
            rank=1,
            margin=2.0,
        )
    ]


@pytest.mark.usefixtures("skypilot_adapter")
def test_skypilot_weighs_instances(observed: Observed, skypilot: Any) -> None:
    """A policy that weighs instances logs whenever it computes a load: only loads are known."""
    engine = observed.add_engine("engine")
    policy = skypilot.InstanceAwareLeastLoadPolicy()
    policy.ready_replicas, policy.load_map = [engine.url], {engine.url: 3}
    app = FastAPI()

    @app.post("/v1/completions")
    async def route(request: Request) -> Response:
        return await forward(policy.select_replica(request), request)

    observed.serve(app)
    observed.post()

    assert picks(observed.record()) == [pick("leader", (engine.url, {"scores": {"load": -3.0}}))]
