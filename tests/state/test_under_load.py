"""A router without any engine state, under load and without code changes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from otel_lifecycle import LifecycleRecord
from otel_lifecycle.model.timestamps import parse_timestamp
from tests.instrumentation.instrumented_process import instrumented
from tests.ports import free_port
from tests.state.servers import Answer, Site, engine_exposition, npu_exposition, send
from tests.waiting import eventually

pytestmark = pytest.mark.slow

ROUTER = """
import sys
import uvicorn
from tests.instrumentation.generic_routers import HttpxUpstream, make_router

uvicorn.run(make_router(HttpxUpstream([sys.argv[2]])), port=int(sys.argv[1]), log_level="warning")
"""
REQUESTS = 200
# Time from the answer to a scrape until its state can be read, on a busy machine.
HANDING_OVER_NS = 10_000_000_000


@dataclass
class Served:
    """The values that were served, each with its time: every scrape gets a new value."""

    at_ns: list[int] = field(default_factory=list[int])

    def next(self) -> int:
        """Return a value that was never served before."""
        self.at_ns.append(time.time_ns())
        return len(self.at_ns)

    def was_current(self, value: int | None, at_ns: int) -> bool:
        """Return whether a value was the last one served at a time, or shortly before."""
        if value is None or not 1 <= value <= len(self.at_ns):
            return False
        replaced = self.at_ns[value] if value < len(self.at_ns) else at_ns
        return self.at_ns[value - 1] <= at_ns and at_ns - replaced < HANDING_OVER_NS


def completion(handler: BaseHTTPRequestHandler) -> None:
    """Answer like an engine."""
    handler.rfile.read(int(handler.headers["Content-Length"]))
    time.sleep(0.02)
    usage = {"prompt_tokens": 8, "completion_tokens": 2}
    body = json.dumps({"choices": [{"text": "a b"}], "usage": usage}).encode()
    send(handler, body, content_type="application/json")


@pytest.fixture
def site() -> Iterator[Site]:
    """An engine and its exporter."""
    site = Site()
    yield site
    site.stop()


def test_records_agree_with_what_was_served(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record has the values that were served when its request was dispatched."""
    running, core = Served(), Served()

    def counting(served: Served, exposition: Callable[[int], bytes]) -> Answer:
        return lambda handler: send(handler, exposition(served.next()))

    site.answers = {
        "/v1/completions": completion,
        "/metrics": counting(running, engine_exposition),
        "/npu": counting(core, lambda value: npu_exposition(value % 100, pod="")),
    }
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "examples")]))
    monkeypatch.setenv("OTEL_LIFECYCLE_COLLECTION_ENABLED", "true")
    monkeypatch.setenv("OTEL_LIFECYCLE_COLLECTION_INTERVAL", "100ms")
    monkeypatch.setenv("OTEL_LIFECYCLE_STALE_AFTER", "30s")
    monkeypatch.setenv("OTEL_LIFECYCLE_COLLECTION_TARGETS", f"npu_exporter={site.url}/npu")
    script = tmp_path / "router.py"
    script.write_text(ROUTER)
    port = free_port()
    path = tmp_path / "records.jsonl"

    with instrumented([str(script), str(port), site.url], port, path) as router:
        sent = 0

        def is_collected() -> bool:
            """The endpoint is known from its first request on."""
            nonlocal sent
            router.post()
            sent += 1
            [features] = router.records(sent)[-1].prediction_inputs
            return None not in (features.num_request_running, features.ai_core_utilization)

        eventually(is_collected)
        body = {"model": "m", "prompt": "hello", "max_tokens": 2}
        url = f"http://127.0.0.1:{port}/v1/completions"
        with ThreadPoolExecutor(16) as threads, httpx.Client(timeout=60) as client:
            responses = threads.map(lambda _: client.post(url, json=body), range(REQUESTS))
            answers = [response.status_code for response in responses]
        found = router.records(sent + REQUESTS)

    records = found[sent:]
    assert answers == [200] * REQUESTS
    assert found[0].prediction_inputs[0].num_request_running is None
    assert [seen(record, running, core) for record in records] == [(True, True)] * REQUESTS


def seen(record: LifecycleRecord, running: Served, core: Served) -> tuple[bool, bool]:
    """Return whether engine and NPU values of a record were current."""
    at_ns = parse_timestamp(record.started_at)
    [features] = record.prediction_inputs
    utilization = features.ai_core_utilization
    candidates = [
        value
        for value in range(1, len(core.at_ns) + 1)
        if utilization is not None and value % 100 == utilization
    ]
    return (
        running.was_current(features.num_request_running, at_ns),
        any(core.was_current(value, at_ns) for value in candidates),
    )
