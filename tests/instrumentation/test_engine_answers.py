"""Answers of real engines, passed on by a router with generic instrumentation."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.instrumentation.exchanges import plain
from tests.instrumentation.generic_routers import (
    AiohttpUpstream,
    HttpxUpstream,
    Upstream,
    make_router,
)
from tests.instrumentation.test_generic import Observed, unobserved

CASES: list[dict[str, Any]] = json.loads(
    Path(__file__, "..", "http", "engine_answers.json").resolve().read_text("utf-8")
)


def make_engine(case: dict[str, Any]) -> ASGIApp:
    """An engine with the case's answer: text is sent, numbers are seconds to wait."""

    async def engine(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", case["contentType"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in case["parts"]:
            if isinstance(part, str):
                await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
                await asyncio.sleep(0.01)  # a chunk of its own
            else:
                await asyncio.sleep(part)
        await send({"type": "http.response.body"})

    return engine


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    """The client's request; the text of its first message may be repeated."""
    request = copy.deepcopy(case["request"])
    if case["repeatContent"] > 1:
        request["messages"][0]["content"] *= case["repeatContent"]
    return request


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    """A generic instrumentation."""
    observed = Observed(tmp_path / "records.jsonl")
    yield observed
    observed.stop()


@pytest.mark.filterwarnings("ignore:Sending a large body directly")  # aiohttp to the router
@pytest.mark.parametrize("upstream", [HttpxUpstream, AiohttpUpstream])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_record(observed: Observed, upstream: type[Upstream], case: dict[str, Any]) -> None:
    """The record has the engine's values, and the client gets the answer unchanged."""
    engine = observed.cluster.add_app("engine", unobserved(make_engine(case)))
    url = observed.serve(make_router(upstream([engine.url])))
    answer = httpx.post(url + case["path"], json=request_of(case), timeout=30, trust_env=False)

    record = plain(observed.record())
    expect = dict(case["expect"])
    least, _ = expect.pop("ttftMillis", (0, None))
    error = expect.pop("error", None)
    assert answer.text == "".join(part for part in case["parts"] if isinstance(part, str))
    assert {name: record[name] for name in expect} == expect
    assert (record["error"] is not None) is (expect["outcome"] == "error")
    if error is not None:
        assert record["error"] == {"type": error}
    # The first output, and not the first byte.
    assert (record["actual"]["ttftMillis"] or 0) >= least
