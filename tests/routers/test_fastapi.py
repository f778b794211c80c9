"""A generic router on FastAPI and Starlette, with other instrumentations and bad engines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastapi
import pytest

from tests.routers.scenarios import (
    CONTRIB,
    SCENARIOS,
    UPSTREAMS,
    Engines,
    Layers,
    check_traces,
    ending,
    expected_ending,
    expected_tree,
    start,
    stream,
    tree,
)
from tests.routers.traced_router import Reply, new_parent

pytestmark = pytest.mark.routers

TRACES_ITSELF = tuple(int(part) for part in fastapi.__version__.split(".")[:2]) >= (0, 142)
NO_CLIENTS = "httpx,aiohttp-client"
NATIVE = "fastapi" if TRACES_ITSELF else ""
LAYERS = {
    "nothing": Layers(("--framework", "starlette"), "", False, f"fastapi,starlette,{NO_CLIENTS}"),
    "plain ASGI": Layers(("--framework", "asgi"), "", False, f"fastapi,starlette,{NO_CLIENTS}"),
    "FastAPI itself": Layers((), NATIVE, False, f"fastapi,starlette,{NO_CLIENTS}"),
    "contrib fastapi": Layers((), f"{CONTRIB}.fastapi", False, f"starlette,{NO_CLIENTS}"),
    "contrib asgi": Layers(
        ("--asgi-middleware",), f"{CONTRIB}.asgi", False, f"fastapi,starlette,{NO_CLIENTS}"
    ),
    "contrib clients": Layers((), NATIVE, True, "fastapi,starlette"),
    "all of contrib, and ours twice": Layers(
        ("--instrument-again",), f"{CONTRIB}.fastapi", True, "starlette"
    ),
}


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("name", LAYERS)
def test_traces(engines: Engines, tmp_path: Path, name: str, upstream: str) -> None:
    """Each request gives one complete trace and one record, and nothing stays in flight."""
    check_traces(engines, tmp_path, upstream, LAYERS[name])


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_many_streams_at_once(engines: Engines, tmp_path: Path, upstream: str) -> None:
    """Two hundred concurrent streams have two hundred traces of their own."""
    layers = LAYERS["contrib clients"]
    parents = [new_parent() for _ in range(200)]
    body = SCENARIOS["slow stream"].body
    with start(engines, tmp_path, upstream, layers) as router:
        with ThreadPoolExecutor(200) as clients:
            replies = list(clients.map(lambda parent: router.post(body, parent.headers), parents))
        finished = router.stop()

    assert {reply.status for reply in replies} == {200}
    for parent in parents:
        seen = (tree(parent, finished, engines), ending(finished.records.pop(parent.trace_id)))
        assert seen == (
            expected_tree(stream(), layers, upstream),
            expected_ending(stream(), upstream),
        )
    assert (finished.records, finished.in_flight | {0}) == ({}, {0})


@pytest.mark.parametrize("framework", ["fastapi", "starlette", "asgi"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_same_answers(engines: Engines, tmp_path: Path, framework: str, upstream: str) -> None:
    """Status, headers and body are the same bytes with and without instrumentation."""
    found: list[dict[str, Reply]] = []
    for instrumented in (False, True):
        folder = tmp_path / str(instrumented)
        folder.mkdir()
        layers = Layers(("--framework", framework), "", False, "")
        with start(engines, folder, upstream, layers, instrumented=instrumented) as router:
            replies = {
                scenario: router.post(wanted.body, new_parent().headers)
                for scenario, wanted in SCENARIOS.items()
            }
            replies["not JSON"] = router.post(b"\xff{")
            replies["nothing"] = router.post(b"")
            router.stop()
        for scenario, reply in replies.items():
            headers = [header for header in reply.headers if header[0] != "date"]
            replies[scenario] = reply._replace(headers=headers)
        found.append(replies)

    assert found[0] == found[1]
